//! What the environment may and may not say.

use super::*;

fn faults<const N: usize>(pairs: [(&str, &str); N]) -> Vec<String> {
    Config::from_pairs(pairs).expect_err("has faults").0
}

#[test]
fn nothing_set_is_a_whole_configuration() {
    let config = Config::from_pairs([]).unwrap();
    assert_eq!(
        config.listen,
        [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]
    );
    assert_eq!(config.ping_seconds, Duration::from_secs(25));
    assert_eq!(config.redis_url, None);
}

#[test]
fn all_faults_are_named_at_once() {
    let faults = faults([
        ("PUSH_PING_SECONDS", "soon"),
        ("PUSH_LISTNE", "127.0.0.1:1"),
        ("PUSH_LISTEN", "example.org:80"),
        ("PUSH_QUEUE_BYTES", "-1"),
        ("PUSH_NOT_A_THING_AT_ALL", "1"),
    ]);
    assert_eq!(faults.len(), 5, "{faults:#?}");
    assert!(
        faults
            .iter()
            .any(|f| f.starts_with("PUSH_PING_SECONDS has \"soon\""))
    );
    assert!(
        faults
            .iter()
            .any(|f| f == "PUSH_LISTNE is not known; did you mean PUSH_LISTEN?")
    );
}

#[test]
fn every_variable_reaches_its_check() {
    // A key is too short, a number no number, a name no name: nothing takes this text.
    let bad = "\u{1}";
    for variable in VARIABLES {
        let faults = Config::from_pairs([(variable.name, bad)])
            .expect_err(variable.name)
            .0;
        assert!(faults[0].starts_with(variable.name), "{faults:?}");
    }
}

#[test]
fn another_programs_variables_do_not_matter() {
    assert!(Config::from_pairs([("PUSHER_KEY", "x"), ("PATH", "/"), ("push_listen", "x")]).is_ok());
}

#[test]
fn redis_url_is_a_fallback() {
    let config = Config::from_pairs([("REDIS_URL", "redis://a")]).unwrap();
    assert_eq!(config.redis_url.unwrap().reveal(), "redis://a");
    let both = [("REDIS_URL", "redis://a"), ("PUSH_REDIS_URL", "redis://b")];
    assert_eq!(
        Config::from_pairs(both)
            .unwrap()
            .redis_url
            .unwrap()
            .reveal(),
        "redis://b"
    );
    let off = [("REDIS_URL", "redis://a"), ("PUSH_REDIS_URL", "")];
    assert_eq!(Config::from_pairs(off).unwrap().redis_url, None);
}

#[test]
fn malformed_redis_urls_are_faults_that_do_not_echo_the_password() {
    for bad in [
        "6379",
        "http://user:hunter2@x",
        "redis://",
        "redis://:hunter2@x/no",
        "redis+unix://",
    ] {
        let faults = faults([("PUSH_REDIS_URL", bad)]);
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn secrets_are_masked() {
    let config = Config::from_pairs([
        ("PUSH_API_KEYS", "0123456789abcdef, fedcba9876543210"),
        ("PUSH_REDIS_URL", "redis://u:hunter2@h:6379/1"),
    ])
    .unwrap();
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("0123456789abcdef"),
        "{shown}"
    );
    assert!(shown.contains("redis://u:***@h:6379/1"), "{shown}");
    assert_eq!(config.api_keys.len(), 2);
    let short = faults([("PUSH_API_KEYS", "0123456789abcdef,hunter2")]);
    assert_eq!(
        short,
        ["PUSH_API_KEYS key number 2 is shorter than 16 bytes"]
    );
}

#[test]
fn strangers_are_not_let_in_unnoticed() {
    let faults = faults([("PUSH_LISTEN", "0.0.0.0:8080")]);
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[0].starts_with("PUSH_AUTH =none") || faults[0].starts_with("PUSH_AUTH"));
    assert!(faults[1].starts_with("PUSH_API_KEYS is empty"));
    let meant = [
        ("PUSH_LISTEN", "0.0.0.0:8080"),
        ("PUSH_ALLOW_INSECURE", "true"),
    ];
    assert!(Config::from_pairs(meant).is_ok());
    assert!(Config::from_pairs([("PUSH_LISTEN", "unix:/tmp/a.sock,[::1]:0")]).is_ok());
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    assert!(Config::from_pairs([("PUSH_ORIGINS", "https://a.org, http://b:81")]).is_ok());
    for bad in ["a.org", "https://a.org/", "https://a.org/x", "null"] {
        assert!(
            Config::from_pairs([("PUSH_ORIGINS", bad)]).is_err(),
            "{bad}"
        );
    }
}
