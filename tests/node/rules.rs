//! Topic rules on a node by itself; how they are read, and read again.

use serde_json::{Value, json};

use crate::common::rules::{
    RULES, SETTINGS, a_log_that_members_may_not_read, a_new_member_gets_what_the_rule_says,
    a_rule_bounds_what_is_kept, a_rule_says_what_members_hear_of_each_other,
    a_rule_says_which_clients_may_subscribe, every_push_is_kept, members_publish_to_each_other,
    what_members_may_not_publish, what_members_publish_is_kept,
};
use crate::common::topics::{ask, push, subscribe};
use crate::common::{Client, Node, eventually, node, refused_node};
use crate::raw::Raw;

#[tokio::test]
async fn a_rule_says_which_clients_may_subscribe_here() {
    let node = node(&SETTINGS);
    a_rule_says_which_clients_may_subscribe(&node, &node).await;
}

#[tokio::test]
async fn every_push_is_kept_here() {
    let node = node(&SETTINGS);
    every_push_is_kept(&node, &node, &node).await;
}

#[tokio::test]
async fn a_rule_bounds_what_is_kept_here() {
    let node = node(&SETTINGS);
    a_rule_bounds_what_is_kept(&node, &node).await;
}

#[tokio::test]
async fn members_publish_to_each_other_here() {
    let node = node(&SETTINGS);
    members_publish_to_each_other(&node, &node, &node).await;
}

#[tokio::test]
async fn what_members_may_not_publish_is_refused_here() {
    what_members_may_not_publish(&node(&SETTINGS)).await;
}

#[tokio::test]
async fn what_members_publish_is_kept_here() {
    let node = node(&SETTINGS);
    what_members_publish_is_kept(&node, &node, &node).await;
}

#[tokio::test]
async fn a_rule_says_what_members_hear_of_each_other_here() {
    let mut settings = SETTINGS.to_vec();
    settings.push(("PUSH_PRESENCE_GRACE_SECONDS", "0"));
    let node = node(&settings);
    a_rule_says_what_members_hear_of_each_other(&node, &node).await;
}

#[tokio::test]
async fn a_new_member_gets_what_the_rule_says_here() {
    let node = node(&SETTINGS);
    a_new_member_gets_what_the_rule_says(&node, &node).await;
}

#[tokio::test]
async fn a_log_that_members_may_not_read_here() {
    let node = node(&SETTINGS);
    a_log_that_members_may_not_read(&node, &node).await;
}

/// Pushes large messages to a topic with a client that does not read, until one is dropped for
/// this reason.
async fn fill(node: &Node, body: &Value, reason: &str) {
    for _ in 0..400 {
        let (status, answer) = crate::common::post(&node.push_url, body).await;
        assert_eq!(status, 200, "{answer}");
        let label = format!("reason=\"{reason}\"");
        if node.labelled("drops_total", &label).await > 0.0 {
            return;
        }
    }
    panic!("nothing was dropped as {reason}");
}

#[tokio::test]
async fn a_rule_says_what_a_slow_member_loses() {
    let rules =
        r#"[{"match": "drop.*", "policy": "drop"}, {"match": "latest.*", "policy": "latest"}]"#;
    for (topic, policy, reason, closes) in [
        ("drop.1", Value::Null, "slow", 0.0),
        ("latest.1", Value::Null, "replaced", 0.0),
        // What a sender says counts before that.
        ("latest.2", json!("close"), "slow", 1.0),
        ("none.1", Value::Null, "slow", 1.0),
    ] {
        let node = node(&[
            ("PUSH_TOPIC_RULES", rules),
            ("PUSH_QUEUE_BYTES", "150000"),
            ("PUSH_WRITE_SECONDS", "60"),
        ]);
        let mut slow = Raw::open_narrow(node.client_address()).await;
        slow.upgrade(&format!("slow&topics={topic}"), "").await;
        let data = json!({"padding": "x".repeat(60_000)});
        let mut body = json!({"to": {"topic": topic}, "data": data});
        if policy != Value::Null {
            body["policy"] = policy;
        }
        fill(&node, &body, reason).await;
        let label = "reason=\"slow\"";
        assert_eq!(
            node.labelled("closes_total", label).await,
            closes,
            "{topic}"
        );
    }
}

#[test]
fn rules_with_faults_stop_the_start_and_each_is_named() {
    let rules = r#"[{"match": "a.**", "sent": 1}, {"match": "b.**"}, {"match": "b.1"},
        {"match": "c", "send": "members", "rate": 500, "max_bytes": 100000}]"#;
    let (code, words) = refused_node(&[("PUSH_TOPIC_RULES", rules)]);
    assert_eq!(code, 64, "{words}");
    for part in [
        "PUSH_TOPIC_RULES",
        "rule 1 (a.**): unknown field `sent`",
        "rule 3 (b.1): can never match",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let rules = r#"[{"match": "c", "send": "members", "rate": 500, "max_bytes": 100000},
        {"match": "d", "keep": {"every": true}}, {"match": "e", "subscribe": "hook"}]"#;
    let (code, words) = refused_node(&[("PUSH_TOPIC_RULES", rules), ("PUSH_KEEP_MESSAGES", "0")]);
    assert_eq!(code, 64, "{words}");
    for part in [
        "rule 1 (c): rate is 500, over PUSH_CLIENT_RATE (100)",
        "rule 1 (c): max_bytes is 100000, over PUSH_MAX_MESSAGE_BYTES (65536)",
        "rule 2 (d): keep and entry need PUSH_KEEP_MESSAGES",
        "rule 3 (e): \"subscribe\": \"hook\" needs PUSH_SUBSCRIBE_HOOK",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let file = ("PUSH_TOPIC_RULES_FILE", "/nowhere/rules.json");
    let (code, words) = refused_node(&[file]);
    assert_eq!(code, 64, "{words}");
    assert!(
        words.contains("PUSH_TOPIC_RULES_FILE (/nowhere/rules.json) cannot be read"),
        "{words}"
    );
    let (code, words) = refused_node(&[file, ("PUSH_TOPIC_RULES", "[]")]);
    assert_eq!(code, 64, "{words}");
    assert!(
        words.contains("is set, and so is PUSH_TOPIC_RULES"),
        "{words}"
    );
}

#[tokio::test]
async fn rules_in_a_file_change_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.json");
    std::fs::write(&file, RULES).expect("written");
    let node = node(&[
        ("PUSH_TOPIC_RULES_FILE", file.to_str().expect("UTF-8")),
        ("PUSH_TOPICS", ""),
    ]);
    let mut client = Client::v1(&format!("{}&topics=open.42.a", node.ws_url("42"))).await;
    let (_, answer) =
        crate::common::topics::call(&node, "PUT", "/v1/topics/open.1.b/users/42").await;
    assert_eq!(answer["status"], "written", "{answer}");
    assert_eq!(client.json().await["type"], "subscribed");
    let read = async |status: &str, times: f64| {
        let label = format!("status=\"{status}\"");
        eventually(
            async || match node.labelled("topic_rules_read_total", &label).await {
                seen if seen == times => Ok(()),
                seen => Err(seen),
            },
        )
        .await;
    };
    // A bad one changes nothing.
    for (n, (bad, says)) in [
        (
            "[{\"match\":\"a\",\"b\":1}]",
            "rule 1 (a): unknown field `b`",
        ),
        (
            "[{\"match\":\"a\",\"subscribe\":\"hook\"}]",
            "needs PUSH_SUBSCRIBE_HOOK",
        ),
        ("", "is empty"),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&file, bad).expect("written");
        read("refused", (n + 1) as f64).await;
        // The log is written a moment later.
        eventually(async || match node.log() {
            log if log.contains(says) && log.contains("the rules read before stay") => Ok(()),
            log => Err(log),
        })
        .await;
        push(&node, "open.42.a", n).await;
        crate::common::topics::hears(&mut client, "open.42.a", n).await;
    }
    // A good one counts at once, for who is here as well.
    let other = r#"[{"match": "open.**", "subscribe": "nobody"}, {"match": "new.*", "subscribe": "anyone"}]"#;
    std::fs::write(&file, other).expect("written");
    let left = client.json().await;
    assert_eq!(left, json!({"type": "unsubscribed", "topic": "open.42.a"}));
    read("taken", 1.0).await;
    let request = json!({"type": "subscribe", "topic": "open.42.a", "ref": 1});
    assert_eq!(ask(&mut client, request).await["code"], "forbidden");
    subscribe(&mut client, "new.1").await;
    // What a sender gave, stays.
    push(&node, "open.1.b", 1).await;
    crate::common::topics::hears(&mut client, "open.1.b", 1).await;
    // The same again is no change, also when it is asked for.
    node.signal("HUP");
    std::fs::write(&file, "[]").expect("written");
    assert_eq!(
        client.json().await,
        json!({"type": "unsubscribed", "topic": "new.1"})
    );
    read("taken", 2.0).await;
}

/// The blocks of docs/topics.md of this kind, in order.
fn blocks(kind: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/topics.md");
    let fence = format!("\n```{kind}\n");
    let blocks = page.split(&*fence).skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().expect("an end"))
        .collect()
}

#[tokio::test]
async fn the_examples_of_the_page_are_true() {
    let [rules] = blocks("json rules")[..] else {
        panic!("one table of rules");
    };
    let settings = [
        ("PUSH_TOPIC_RULES", rules),
        ("PUSH_TOPICS", "chat.*,cursor.*"),
    ];
    let node = node(&settings);
    let url = |user: &str, topics: &str| format!("{}&topics={topics}", node.ws_url(user));
    // A bell.
    for n in 1..=2 {
        crate::common::logs::keep(&node, "bell.42", n).await;
    }
    let mut bell = Client::v1(&url("42", "bell.42")).await;
    crate::common::logs::hears(&mut bell, "bell.42", 1..=2).await;
    let (status, _) = crate::common::refused_handshake(&url("43", "bell.42")).await;
    assert_eq!(status, 403);
    // A chat and cursors, as clients write.
    let mut one = Client::v1(&url("42", "chat.1,cursor.board-7")).await;
    let mut other = Client::v1(&url("43", "chat.1,cursor.board-7")).await;
    let written = blocks("json client");
    assert_eq!(written.len(), 2);
    for text in written {
        one.send(text).await;
        let sent: Value = serde_json::from_str(text).expect("JSON");
        let heard = other.json().await;
        assert_eq!(
            (&heard["data"], &heard["event"]),
            (&sent["data"], &sent["event"])
        );
        assert_eq!(heard["from"]["user"], "42", "{heard}");
        if sent["ref"] != Value::Null {
            assert_eq!(one.json().await["status"], "published");
        }
    }
    // What a client gets has the fields that are shown.
    let [shown] = blocks("json answer")[..] else {
        panic!("one answer");
    };
    let shown: Value = serde_json::from_str(shown).expect("JSON");
    one.send(blocks("json client")[0]).await;
    let heard = other.json().await;
    for (field, value) in shown.as_object().expect("an object") {
        assert_eq!(
            heard[field].is_object(),
            value.is_object(),
            "{field}: {heard}"
        );
        assert!(!heard[field].is_null(), "{field}: {heard}");
    }
    // Every push to a chat is kept.
    let [curl] = blocks("sh")[..] else {
        panic!("one command");
    };
    let curl = curl.replace("127.0.0.1:8080", &node.client_address().to_string());
    let output = std::process::Command::new("sh")
        .args(["-ec", &curl])
        .output();
    let answer: Value = serde_json::from_slice(&output.expect("sh runs").stdout).expect("JSON");
    assert!(answer["seq_id"].is_string(), "{answer}");
    // A ticker and a stream of tokens.
    push(&node, "price.EUR", 7).await;
    let mut ticker = Client::v1(&url("9", "price.EUR,ai.9.run-1")).await;
    crate::common::logs::hears(&mut ticker, "price.EUR", 7..=7).await;
    push(&node, "ai.9.run-1", 8).await;
    crate::common::logs::hears(&mut ticker, "ai.9.run-1", 8..=8).await;
    let (status, _) = crate::common::refused_handshake(&url("8", "ai.9.run-1")).await;
    assert_eq!(status, 403);
    // What the command shows.
    let [session] = blocks("text")[..] else {
        panic!("one session");
    };
    let (command, expected) = session.split_once('\n').expect("lines");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rules.json"), rules).expect("written");
    let words: Vec<&str> = command.split(' ').skip(2).collect();
    let mut pushnode = crate::common::node_command(&[]);
    let output = pushnode.args(words).current_dir(folder.path()).output();
    let said = String::from_utf8(output.expect("pushnode runs").stdout).expect("UTF-8");
    assert_eq!(said.trim_end(), expected);
}
