//! Which settings are accepted, which are refused, and with which words.

use super::*;
use crate::config::redis_url::{Login, Topology};
use crate::config::upstream_routes::RouteTarget;

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
            .any(|f| f == "PUSH_LISTNE is unknown; did you mean PUSH_LISTEN?")
    );
}

#[test]
fn the_prefix_is_taken_once() {
    let pairs = [
        ("PUSH_LISTEN", "127.0.0.1:1"),
        ("PUSH_PUSH_LISTEN", "127.0.0.1:2"),
    ];
    let faults = faults(pairs);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("PUSH_PUSH_LISTEN is unknown"));
}

#[test]
fn every_variable_reaches_its_check() {
    // Too short for a key, and neither a number nor a name: no check accepts this text.
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
    assert_eq!(config.redis_url.unwrap().one().url, "redis://a");
    let both = [("REDIS_URL", "redis://a"), ("PUSH_REDIS_URL", "redis://b")];
    assert_eq!(
        Config::from_pairs(both)
            .unwrap()
            .redis_url
            .unwrap()
            .one()
            .url,
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
    let faults = self::faults([("PUSH_TCP_LISTEN", "127.0.0.1:1,0.0.0.0:2")]);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].starts_with("PUSH_AUTH") && faults[0].contains("0.0.0.0:2"));
}

#[test]
fn listeners_for_proxies_need_proxies_and_clients() {
    let listen = ("PUSH_LISTEN", "127.0.0.1:1, proxy:[::1]:2");
    let trusted = ("PUSH_TRUSTED_PROXIES", "::1");
    let config = Config::from_pairs([listen, trusted]).unwrap();
    assert_eq!(
        config.listen[1],
        Listen::Proxied("[::1]:2".parse().unwrap())
    );
    assert_eq!(config.listen[1].to_string(), "proxy:[::1]:2");
    for proxies in ["", "unix"] {
        let faults = faults([listen, ("PUSH_TRUSTED_PROXIES", proxies)]);
        let expected = "PUSH_TRUSTED_PROXIES must list the proxies that connect to proxy:[::1]:2";
        assert_eq!(faults, [expected]);
    }
    let faults = faults([("PUSH_ADMIN_LISTEN", "proxy:127.0.0.1:1"), trusted]);
    assert!(faults[0].contains("only PUSH_LISTEN"), "{faults:?}");
}

#[test]
fn routes_that_would_lead_nowhere_are_faults() {
    let redis = ("PUSH_REDIS_URL", "redis://127.0.0.1");
    let set = |routes| Config::from_pairs([redis, ("PUSH_UPSTREAM_ROUTES", routes)]);
    let config = set(" chat.*=chat , *=rest ").expect("spaces do no harm");
    let rest = RouteTarget::Service("rest".into());
    assert_eq!(config.upstream_routes.target("x"), Some(&rest));
    for bad in ["chat", "=chat", "chat=", "a b=chat", "chat=a:b", "a=b=c"] {
        let faults = set(bad).expect_err(bad).0;
        assert!(faults[0].contains(bad), "{faults:?}");
    }
    let alone = faults([("PUSH_UPSTREAM_ROUTES", "*=rest")]);
    assert_eq!(alone, ["PUSH_UPSTREAM_ROUTES needs PUSH_REDIS_URL"]);
    let alone = faults([("PUSH_EVENTS", "connect")]);
    assert_eq!(alone, ["PUSH_EVENTS needs PUSH_REDIS_URL"]);
    let odd = faults([redis, ("PUSH_EVENTS", "connect, sneeze")]);
    assert!(odd[0].contains("sneeze"), "{odd:?}");
    let long = faults([redis, ("PUSH_UPSTREAM_BACKLOG", "50001")]);
    assert!(long[0].starts_with("PUSH_UPSTREAM_BACKLOG is"), "{long:?}");
}

#[test]
fn origins_and_hosts_that_could_not_match_stop_the_start() {
    let good = "https://a.org, http://b:81, https://*.c.org, capacitor://localhost, null";
    assert!(Config::from_pairs([("PUSH_ORIGINS", good)]).is_ok());
    for bad in ["a.org", "https://a.org/x", "https://*", "wss://a.org"] {
        let faults = faults([("PUSH_ORIGINS", bad)]);
        assert!(faults[0].starts_with("PUSH_ORIGINS has"), "{faults:?}");
    }
    assert!(Config::from_pairs([("PUSH_ALLOWED_HOSTS", "a.org, *.b.org")]).is_ok());
    for bad in ["a.org:80", "https://a.org", "a.*.org", "a..org"] {
        let faults = faults([("PUSH_ALLOWED_HOSTS", bad)]);
        assert!(
            faults[0].starts_with("PUSH_ALLOWED_HOSTS has"),
            "{faults:?}"
        );
    }
}

/// User and password.
fn words(login: Option<&Login>) -> (&str, &str) {
    login.map_or(("", ""), |login| {
        let user = login.user.as_deref().unwrap_or_default();
        (user, login.password.reveal())
    })
}

#[test]
fn credentials_and_databases_of_every_kind_of_url() {
    let url = |text: &str| {
        let config = Config::from_pairs([("PUSH_REDIS_URL", text)]).unwrap();
        config.redis_url.unwrap()
    };
    let odd = "redis://us%22er:%20a+b%25c%27%23%3F%C3%A4@h:1";
    let one = url(odd).one();
    assert_eq!(
        (&*one.url, words(one.login.as_ref())),
        ("redis://h:1", ("us\"er", " a+b%c'#?ä"))
    );
    for (text, database) in [
        ("redis://h", 0),
        ("redis://h/3", 3),
        ("redis://h?db=3", 3),
        ("redis://h/3?db=3", 3),
        ("redis+unix:///run/redis.sock?db=4", 4),
        ("redis-sentinel://h/?master=m&db=5", 5),
        ("redis-cluster://h?db=0", 0),
    ] {
        assert_eq!(url(text).database(), database, "{text}");
    }
    assert_eq!(url("redis://h?db=3").to_string(), "redis://h/3");
    let socket = url("redis+unix://u:p%20q@localhost/run/a%20b.sock").one();
    assert_eq!(
        (&*socket.url, words(socket.login.as_ref())),
        ("redis+unix://localhost/run/a%20b.sock", ("u", "p q"))
    );
    let plus = url("redis-sentinel://h?master=m&sentinel_password=a+b%2Bc%26d");
    let login = plus.sentinel(&("h".to_owned(), 1)).unwrap().login;
    assert_eq!(words(login.as_ref()), ("", "a+b+c&d"));
}

#[test]
fn several_redis_hosts_stand_in_one_url() {
    let url = |text: &str| {
        let config = Config::from_pairs([("PUSH_REDIS_URL", text)]);
        config.map(|config| config.redis_url.expect("a URL"))
    };
    let host = |name: &str, port| (name.to_owned(), port);
    let sentinel = url(
        "rediss-sentinel://u:p%40ss@a:1,b,[::1]:3/2?master=m&sentinel_user=s&sentinel_password=hunter2",
    )
    .unwrap();
    let sentinels = vec![host("a", 1), host("b", 26379), host("[::1]", 3)];
    let master = "m".to_owned();
    assert_eq!(
        *sentinel.topology(),
        Topology::Sentinel { sentinels, master }
    );
    assert_eq!(
        sentinel.to_string(),
        "rediss-sentinel://u:***@a:1,b:26379,[::1]:3/2?master=m"
    );
    assert!(!format!("{sentinel:?}").contains("hunter2"));
    let server = sentinel.server(&host("10.0.0.1", 7)).unwrap();
    assert_eq!(
        (&*server.url, server.database, words(server.login.as_ref())),
        ("rediss://10.0.0.1:7", 2, ("u", "p@ss"))
    );
    let server = sentinel.sentinel(&host("fd00::1", 7)).unwrap();
    assert_eq!(
        (&*server.url, server.database, words(server.login.as_ref())),
        ("rediss://[fd00::1]:7", 0, ("s", "hunter2"))
    );
    let bare = url("redis-sentinel://:p@a/?master=m").unwrap();
    let told = bare.sentinel(&host("a", 26379)).unwrap();
    assert_eq!(
        (&*told.url, told.login),
        ("redis://a:26379", None),
        "a Sentinel is not told the servers' password"
    );

    let cluster = url("redis-cluster://:hunter2@a,b:7000").unwrap();
    let seeds = vec![host("a", 6379), host("b", 7000)];
    assert_eq!(*cluster.topology(), Topology::Cluster { seeds });
    assert_eq!(cluster.to_string(), "redis-cluster://:***@a:6379,b:7000");
    let server = cluster.server(&host("c", 1)).unwrap();
    assert_eq!(
        (&*server.url, words(server.login.as_ref())),
        ("redis://c:1", ("", "hunter2"))
    );

    for (bad, fault) in [
        ("redis-sentinel://:hunter2@a", "does not name the master"),
        ("redis-sentinel://:hunter2@a/x?master=m", "database number"),
        ("redis-sentinel://:hunter2@a,,b?master=m", "an invalid host"),
        ("redis-sentinel://:hunter2@?master=m", "an invalid host"),
        (
            "redis-sentinel://a?master=m&hunter2=1",
            "a parameter other than",
        ),
        (
            "redis-sentinel://a?master=m&sentinel_user=hunter2",
            "without a sentinel_password",
        ),
        ("redis-cluster://:hunter2@a/1", "only database 0"),
        ("redis-cluster://:hunter2@a?master=m", "has a parameter"),
        ("redis-cluster://:hunter2@a:99999", "an invalid host"),
        ("redis-cluster://:hunter2@a?db=1", "only database 0"),
        ("redis-swarm://:hunter2@a", "has scheme"),
        ("redis://a?hunter2=1", "a parameter other than db"),
        ("redis://a?db=hunter2", "not a database number"),
        ("redis://a/1?db=2", "two databases: 1 and 2"),
        ("redis://a?db=2&db=2", "the parameter db twice"),
        ("redis://hunter2@a", "a user without a password"),
        ("redis://a#hunter2", "has a `#`"),
        ("redis://u:%ff@a", "a password that is not UTF-8"),
    ] {
        let faults = url(bad).expect_err(bad);
        assert!(faults.list()[0].contains(fault), "{bad}: {faults}");
        assert!(!faults.to_string().contains("hunter2"), "{faults}");
    }
}
