//! The commands that end by themselves: `check`, `token` and `env`. What `check` says of a Redis
//! stands in `tests/cluster/checkup.rs`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use crate::common::ended::{Ended, run};
use crate::common::tokens::now;
use crate::common::{Client, node, node_command};

const SECRET: &str = "correct horse battery staple: 32 bytes";

fn pushnode(arguments: &[&str], settings: &[(&str, &str)]) -> Ended {
    let mut command = node_command(settings);
    command.args(arguments);
    run(command)
}

fn checked(settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    let ended = pushnode(&["check", "--json"], settings);
    let said = serde_json::from_str(&ended.stdout);
    (ended.code, said.unwrap_or_else(|_| panic!("{ended:#?}")))
}

#[test]
fn env_prints_the_file_of_all_settings() {
    let ended = pushnode(&["env"], &[("PUSH_LISTEN", "wrong")]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.stdout, include_str!("../../.env.example"));
}

#[test]
fn check_accepts_settings_with_which_a_node_starts_and_names_all_faults_of_others() {
    let (code, said) = checked(&[]);
    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said}");
    let status = |said: &Value| {
        let checks = said["checks"].as_array().expect("checks").clone();
        let of = |check: &Value| (check["check"].clone(), check["status"].clone());
        checks.iter().map(of).collect::<Vec<_>>()
    };
    let fine = |check: &str| (json!(check), json!("ok"));
    assert_eq!(
        status(&said),
        [fine("configuration"), fine("redis")],
        "{said}"
    );

    let faults = [("PUSH_LISTNE", "x"), ("PUSH_QUEUE_BYTES", "1")];
    let (code, said) = checked(&faults);
    assert_eq!((code, &said["ok"]), (Some(64), &json!(false)), "{said}");
    let fault = || (json!("configuration"), json!("fault"));
    assert_eq!(status(&said), [fault(), fault()], "{said}");
    for word in ["PUSH_LISTNE is unknown", "PUSH_QUEUE_BYTES has"] {
        assert!(said.to_string().contains(word), "{said}");
    }
    let ended = pushnode(&["check"], &faults);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:#?}");
    assert!(
        ended.stdout.starts_with("fault    configuration"),
        "{ended:#?}"
    );
}

#[test]
fn rules_shows_which_rule_is_for_a_topic_and_what_it_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.json");
    let path = file.to_str().expect("UTF-8");
    let rules = r#"[
        {"match": "chat.**", "keep": {"messages": 50, "every": true}, "send": "members"},
        {"match": "ai.{user}.**", "subscribe": "anyone", "keep": {"seconds": 60}}
    ]"#;
    std::fs::write(&file, rules).expect("written");
    let say = |arguments: &[&str], settings: &[(&str, &str)]| {
        let mut all = vec!["rules", path];
        all.extend(arguments);
        pushnode(&all, settings)
    };
    let ended = say(&["--topic", "chat.1", "--user", "42"], &[]);
    let expected = "\
topic      chat.1
rule       rule 1 (chat.**)
subscribe  user 42 may by PUSH_TOPICS, unless a token grants others
publish    members: 20 a second each, 65536 bytes at most; senders
keep       every push; 50 messages, 1048576 bytes, 86400 s at most
entry      a new member gets nothing
history    members and senders read it
presence   members see each other
policy     close: a slow client is closed
";
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(0), expected),
        "{ended:#?}"
    );
    for (topic, user, settings, parts) in [
        (
            "ai.42.run",
            "42",
            &[][..],
            &[
                "rule 2 (ai.{user}.**)",
                "user 42 may, by the rule",
                "60 s at most",
            ][..],
        ),
        (
            "ai.42.run",
            "43",
            &[("PUSH_TOPICS", "")],
            &["user 43 may only with a token"],
        ),
        (
            "news",
            "42",
            &[("PUSH_KEEP_MESSAGES", "10")],
            &[
                "none; the settings decide",
                "only senders",
                "pushes that say so; 10 messages",
            ],
        ),
    ] {
        let ended = say(&["--topic", topic, "--user", user], settings);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        for part in parts {
            assert!(ended.stdout.contains(part), "{part}: {ended:#?}");
        }
    }
    let ended = say(&[], &[]);
    assert!(ended.stdout.starts_with("2 rules, digest "), "{ended:#?}");
    // As a node with these settings would say.
    let ended = say(&[], &[("PUSH_KEEP_MESSAGES", "0")]);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert!(
        ended
            .stderr
            .contains("rule 1 (chat.**): keep and entry need"),
        "{ended:#?}"
    );
    std::fs::write(&file, r#"[{"match": "a", "sent": 1}]"#).expect("written");
    let ended = say(&["--topic", "a"], &[]);
    assert_eq!((ended.code, &*ended.stdout), (Some(64), ""), "{ended:#?}");
    assert!(
        ended.stderr.contains("rule 1 (a): unknown field `sent`"),
        "{ended:#?}"
    );
    for bad in [
        &["rules"][..],
        &["rules", path, "--user", "42"],
        &["rules", path, "--topic", "a b"],
        &["rules", path, path],
    ] {
        let ended = pushnode(bad, &[]);
        assert_eq!(ended.code, Some(64), "{bad:?} {ended:#?}");
    }
    let set = [("PUSH_TOPIC_RULES", r#"[{"match": "a"}]"#)];
    let (code, said) = checked(&set);
    assert_eq!(
        (code, &said["checks"][1]["check"]),
        (Some(0), &json!("topic rules")),
        "{said}"
    );
    let (code, said) = checked(&[("PUSH_TOPIC_RULES", "[1]")]);
    assert_eq!(code, Some(64), "{said}");
}

#[test]
fn check_reads_the_keys_of_tokens_as_a_start_would() {
    let settings = [
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWT_KEYS_FILE", "/nonexistent/keys"),
    ];
    let (code, said) = checked(&settings);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.to_string()
            .contains("PUSH_JWT_KEYS_FILE (/nonexistent/keys)"),
        "{said}"
    );
    let started = run(node_command(&settings));
    assert_eq!(started.code, Some(64), "{started:#?}");
}

#[tokio::test]
async fn a_token_lets_its_user_in_and_grants_its_topics() {
    for further in [
        &[][..],
        &[
            ("PUSH_JWT_USER_CLAIM", "user.id"),
            ("PUSH_JWT_AUDIENCE", "push,other"),
            ("PUSH_JWT_ISSUER", "shop"),
        ],
    ] {
        let mut settings = vec![("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
        settings.extend(further);
        let node = node(&settings);
        let arguments = [
            "token",
            "--user",
            "42",
            "--topic",
            "chat.*",
            "--topic=bell",
            "--ttl",
            "5m",
        ];
        let ended = pushnode(&arguments, &settings);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(ended.stderr.contains("development and tests"), "{ended:#?}");
        assert!(!ended.stderr.contains(SECRET), "{ended:#?}");

        let token = ended.stdout.trim();
        let url = format!("ws://{}/ws?token={token}", node.client_address());
        let mut client = Client::v1(&url).await;
        let ready = client.ready.clone().expect("ready");
        assert_eq!(ready["user"], "42", "{ready}");
        let subscribe =
            |topic: &str| json!({"type": "subscribe", "topic": topic, "ref": 1}).to_string();
        for (topic, key, expected) in [
            ("chat.1", "status", "subscribed"),
            ("bell", "status", "subscribed"),
            ("news", "code", "forbidden"),
        ] {
            client.send(&subscribe(topic)).await;
            let reply = client.json().await;
            assert_eq!(reply[key], expected, "{topic}: {reply}");
        }
    }
}

#[test]
fn a_token_lasts_as_long_as_told() {
    let settings = [("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
    let before = now();
    for (ttl, seconds) in [(&["--ttl", "2h"][..], 7200), (&[], 3600)] {
        let ended = pushnode(&[&["token", "--user", "42"], ttl].concat(), &settings);
        let claims = ended.stdout.split('.').nth(1).expect("a JWT");
        let claims = BASE64.decode(claims).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("claims");
        let end = claims["exp"].as_u64().expect("exp");
        assert!(
            (before + seconds..=now() + seconds).contains(&end),
            "{claims}"
        );
        assert!(
            claims.get("topics").is_none(),
            "PUSH_TOPICS decides: {claims}"
        );
    }
}

#[test]
fn a_token_that_no_node_would_take_is_not_signed() {
    let jwt = [("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
    let keys_only = [
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWKS_URL", "http://127.0.0.1:1/"),
    ];
    let long = "x".repeat(257);
    for (arguments, settings, word) in [
        (&["token"][..], &jwt[..], "a token needs --user"),
        (&["token", "--user", "42", "--ttl", "soon"], &jwt, "15m"),
        (&["token", "--user", "42", "--ttl", "0s"], &jwt, "15m"),
        (&["token", "--user", &long], &jwt, "1 to 256 bytes"),
        (
            &["token", "--user", "42", "--topic", "a b"],
            &jwt,
            "no pattern of topics",
        ),
        (
            &["token", "--user", "42", "--colour", "red"],
            &jwt,
            "--colour",
        ),
        (&["token", "--user", "42", "now"], &jwt, "now"),
        (
            &["token", "--user", "42"],
            &keys_only,
            "PUSH_JWT_SECRETS is empty",
        ),
        (
            &["token", "--user", "42"],
            &[("PUSH_AUTH", "jwt")],
            "needs keys",
        ),
        (&["check", "--yaml"], &[], "--yaml"),
        (&["env", "PUSH_LISTEN"], &[], "PUSH_LISTEN"),
    ] {
        let ended = pushnode(arguments, settings);
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:#?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(ended.stderr.contains(word), "{arguments:?}: {ended:#?}");
        assert!(!ended.stderr.contains(SECRET), "{ended:#?}");
    }
}
