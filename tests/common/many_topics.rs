//! What holds of many topics in one request, on every backplane. Takes the node that is pushed to
//! and the one that clients connect to; with one node by itself they are the same.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Node;
use super::logs::keep;
use super::topics::{counts, push};
use super::transports::{AnyClient, Transport, connect};

/// The settings of the nodes: more topics than requests may wait.
pub const SETTINGS: [(&str, &str); 2] = [("PUSH_TOPICS", "t.*"), ("PUSH_MAX_TOPICS", "95")];
const MANY: usize = 90;

async fn ask(client: &mut AnyClient, kind: &str, topics: Value) -> Vec<Value> {
    let request = json!({"type": kind, "ref": kind, "topics": topics});
    client.send(&request).await;
    let reply = client.json().await;
    let told = (&reply["type"], &reply["ref"]);
    assert_eq!(told, (&json!("reply"), &json!(kind)), "{reply}");
    reply["topics"]
        .as_array()
        .expect("an entry for each")
        .clone()
}

fn names() -> Vec<String> {
    (0..MANY).map(|number| format!("t.{number}")).collect()
}

/// Subscribes to all of them and to some that it cannot have, and goes on in a log.
async fn subscribes(client: &mut AnyClient, since: &str) {
    let mut wanted: Vec<Value> = names().into_iter().map(Value::from).collect();
    wanted[0] = json!({"topic": "t.0", "since": since});
    wanted.extend([
        json!("chat"),
        json!("x y"),
        json!({"topic": "t.1", "since": "z"}),
    ]);
    let entries = ask(client, "subscribe", wanted.into()).await;
    assert_eq!(entries.len(), MANY + 3);
    for (entry, name) in entries.iter().zip(names()) {
        let told = (&entry["topic"], &entry["status"]);
        assert_eq!(told, (&json!(name), &json!("subscribed")), "{entry}");
        assert!(entry["resume"].is_string(), "{entry}");
    }
    assert_eq!(entries[0]["recovered"], true, "{}", entries[0]);
    assert_eq!(entries[1]["recovered"], Value::Null, "{}", entries[1]);
    let refused = [
        ("chat", "forbidden"),
        ("x y", "bad_message"),
        ("t.1", "bad_message"),
    ];
    for (entry, (name, code)) in entries[MANY..].iter().zip(refused) {
        let told = (&entry["topic"], &entry["status"], &entry["error"]["code"]);
        assert_eq!(
            told,
            (&json!(name), &json!("refused"), &json!(code)),
            "{entry}"
        );
    }
}

pub async fn a_client_names_many_topics_at_once(sender: &Node, node: &Node) {
    for by in [Transport::Ws, Transport::Tcp] {
        let since = keep(sender, "t.0", 1).await["seq_id"]
            .as_str()
            .expect("a position")
            .to_owned();
        keep(sender, "t.0", 2).await;
        let mut client = connect(by, node, "1", None).await;
        subscribes(&mut client, &since).await;
        client.hears(2).await;
        for name in names() {
            push(sender, &name, 3).await;
        }
        let mut heard = BTreeSet::new();
        for _ in 0..MANY {
            let message = client.json().await;
            assert_eq!(message["data"], 3, "{message}");
            heard.insert(message["topic"].as_str().expect("a topic").to_owned());
        }
        assert_eq!(heard, BTreeSet::from_iter(names()));
        // The limit on topics is each one's, in order.
        let more: Vec<String> = (100..106).map(|number| format!("t.{number}")).collect();
        let entries = ask(&mut client, "subscribe", json!(more)).await;
        let refused: Vec<&Value> = entries
            .iter()
            .map(|entry| &entry["error"]["code"])
            .collect();
        assert_eq!(refused[..5], [&Value::Null; 5]);
        assert_eq!(refused[5], "too_many_topics");
        // Each counts as one request, whatever stands in it.
        for _ in 0..30 {
            client
                .send(&json!({"type": "subscribe", "topics": names()}))
                .await;
        }
        for _ in 0..30 {
            assert_eq!(client.json().await["type"], "reply");
        }
        let entries = ask(&mut client, "unsubscribe", json!(names())).await;
        let left = entries
            .iter()
            .all(|entry| entry["status"] == "unsubscribed");
        assert!(left && entries.len() == MANY, "{entries:?}");
        counts(sender, "t.7", 0).await;
        let answer = push(sender, "t.7", 4).await;
        assert_eq!(answer["status"], "offline", "{answer}");
        push(sender, "t.100", 5).await;
        client.hears(5).await;
    }
}

/// Whoever wants to hear who comes and goes hears it of each.
pub async fn many_topics_are_watched_at_once(node: &Node, other: &Node) {
    let mut client = connect(Transport::Ws, node, "1", None).await;
    let request = json!({"type": "subscribe", "presence": true, "topics": ["t.200",
        {"topic": "t.201"}, {"topic": "t.202", "presence": false}]});
    client.send(&request).await;
    assert_eq!(client.json().await["type"], "reply");
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let presence = client.json().await;
        assert_eq!(presence["members"], json!(["1"]), "{presence}");
        seen.insert(presence["topic"].as_str().expect("a topic").to_owned());
    }
    assert_eq!(
        seen,
        BTreeSet::from(["t.200".to_owned(), "t.201".to_owned()])
    );
    let mut second = connect(Transport::Tcp, other, "2", None).await;
    let entries = ask(&mut second, "subscribe", json!(["t.202", "t.201"])).await;
    assert_eq!(entries.len(), 2);
    let joined = client.json().await;
    assert_eq!(
        (&joined["topic"], &joined["join"]),
        (&json!("t.201"), &json!(["2"]))
    );
}
