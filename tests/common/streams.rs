//! What holds of event streams that come back with topics, on every backplane. Each takes the node
//! that is pushed to and those that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::transports::{AnyClient, Transport, connect_back};
use super::{Node, keep, logs, topics};

const TOPICS: &str = "run.17,news";

async fn stream(node: &Node, topics: &str, id: Option<&str>) -> AnyClient {
    let who = [("user", "42"), ("topics", topics)];
    connect_back(Transport::Sse, node, &who, id).await
}

fn id_of(client: &AnyClient) -> String {
    client.last_id.clone().expect("an id")
}

/// The next messages; their data in the order of each source, whatever the order among them.
async fn collect(client: &mut AnyClient, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for _ in 0..count {
        let message = client.json().await;
        assert_eq!(message["type"], "message", "{message}");
        all.push(message["data"].clone());
    }
    all.sort_by_key(|data| data.to_string());
    all
}

fn sorted(mut all: Vec<Value>) -> Vec<Value> {
    all.sort_by_key(|data| data.to_string());
    all
}

async fn everyone_has_left(node: &Node) {
    topics::counts(node, "run.17", 0).await;
}

/// What is kept for it: each a different number.
async fn keep_some(node: &Node, numbers: std::ops::Range<i32>) {
    for n in numbers {
        match n % 3 {
            0 => _ = keep::keep(node, "42", n).await,
            1 => _ = logs::keep(node, "run.17", n).await,
            _ => _ = logs::keep(node, "news", n).await,
        }
    }
}

/// Cut off after any event, it gets all the rest, and nothing twice.
pub async fn goes_on_from_every_event(sender: &Node, first: &Node, second: &Node) {
    const COUNT: i32 = 12;
    let mut client = stream(first, TOPICS, None).await;
    assert_eq!(client.ready["recovered"], Value::Null, "{}", client.ready);
    let mut ids = vec![(id_of(&client), Vec::new())];
    keep_some(sender, 0..COUNT).await;
    let mut heard = Vec::new();
    for _ in 0..COUNT {
        heard.extend(collect(&mut client, 1).await);
        ids.push((id_of(&client), heard.clone()));
    }
    drop(client);
    everyone_has_left(sender).await;
    // More than one page of one of them.
    for n in COUNT..COUNT + 100 {
        logs::keep(sender, "news", n).await;
    }
    let total = (COUNT + 100) as usize;
    let all: Vec<Value> = (0..total).map(|n| json!(n)).collect();
    for (at, (id, heard)) in ids.iter().enumerate() {
        let node = [second, first][at % 2];
        let mut client = stream(node, TOPICS, Some(id)).await;
        assert_eq!(client.ready["recovered"], true, "{id}: {}", client.ready);
        let rest = collect(&mut client, total - heard.len()).await;
        let both = [&rest[..], &heard[..]].concat();
        assert_eq!(sorted(both), sorted(all.clone()), "{id}");
        // The end of that is a place to go on from, too, and nothing comes twice.
        let end = id_of(&client);
        drop(client);
        everyone_has_left(sender).await;
        let mut client = stream(node, TOPICS, Some(&end)).await;
        assert_eq!(client.ready["recovered"], true, "{end}: {}", client.ready);
        let marker = json!({"to": {"fd": client.connection()}, "data": "marker"});
        topics::push_as(sender, marker).await;
        client.hears("marker").await;
    }
}

/// `recovered` is true only where the id names each topic of the stream.
pub async fn claims_only_what_its_id_covers(node: &Node) {
    let recovered = async |topics: &str, id: &str| {
        let client = stream(node, topics, Some(id)).await;
        client.ready["recovered"].clone()
    };
    let bare = id_of(&connect_back(Transport::Sse, node, &[("user", "42")], None).await);
    let both = id_of(&stream(node, TOPICS, None).await);
    keep_some(node, 0..3).await;
    assert_eq!(recovered(TOPICS, &both).await, true);
    assert_eq!(
        recovered("run.17", &both).await,
        true,
        "one of them will do"
    );
    assert_eq!(recovered("run.17,news,other", &both).await, false);
    assert_eq!(
        recovered("run.17", &bare).await,
        false,
        "of a stream without topics"
    );
    assert_eq!(recovered("run.17", "0").await, false);
    let inbox = both.split(';').next().expect("a part");
    assert_eq!(recovered("run.17", inbox).await, false);
    let logs = both.split_once(';').expect("parts").1;
    assert_eq!(recovered(TOPICS, logs).await, false, "the inbox is missing");
    // The ninth is followed, and not resumed.
    let many: Vec<String> = (0..9).map(|n| format!("t{n}")).collect();
    let mut client = stream(node, &many.join(","), None).await;
    for topic in [&many[0], &many[8]] {
        logs::keep(node, topic, 1).await;
        client.hears(1).await;
    }
    let id = id_of(&client);
    assert_eq!(recovered(&many.join(","), &id).await, false);
    assert_eq!(recovered(&many[..8].join(","), &id).await, true);
}

/// Begins anew, with what it asks for in its URL, and is told so.
pub async fn begins_anew_with_a_foreign_id(node: &Node) {
    keep::keep(node, "42", "old").await;
    for id in [
        "42",
        "urn:uuid:36d883aa-4015-4241-aaae-bde887c2662e",
        "1665666647",
        "earliest",
        "i:1.2-3;",
        "t:a=7",
        "é",
        "1.2",
    ] {
        for (topics, since) in [("", ""), (TOPICS, ""), (TOPICS, "0")] {
            let who = [("user", "42"), ("topics", topics), ("since", since)];
            let who: Vec<_> = who
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect();
            let mut client = connect_back(Transport::Sse, node, &who, Some(id)).await;
            assert_eq!(client.ready["recovered"], false, "{id}: {}", client.ready);
            if since == "0" {
                client.hears("old").await;
            }
            let next = json!({"to": {"fd": client.connection()}, "data": "next"});
            topics::push_as(node, next).await;
            client.hears("next").await;
        }
    }
}
