//! What holds of topic rules on every backplane. Each takes the node that is pushed to and those
//! that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::logs::{follow, hears};
use super::topics::{ask, call, counts, push, push_as, subscribe};
use super::transports::{AnyClient, TRANSPORTS, Transport, connect_as, refused_as};
use super::{Client, Node, post};

/// The rules of these scenarios.
pub const RULES: &str = r#"[
    {"match": "open.{user}.**", "subscribe": "anyone"},
    {"match": "closed.**", "subscribe": "nobody"},
    {"match": "chat.**", "keep": {"messages": 50, "every": true}, "send": "members"},
    {"match": "short.**", "keep": {"messages": 5, "every": true}},
    {"match": "talk.**", "send": "members", "rate": 60, "max_bytes": 20},
    {"match": "slow.**", "send": "members", "rate": 1},
    {"match": "seen.**", "presence": "count"},
    {"match": "hidden.**", "presence": "nobody"},
    {"match": "price.**", "keep": {"messages": 1, "every": true}, "entry": "last"},
    {"match": "doc.**", "keep": {"every": true}, "entry": "all"},
    {"match": "secret.**", "keep": {"every": true}, "history": "nobody"}
]"#;

pub const SETTINGS: [(&str, &str); 2] = [
    ("PUSH_TOPIC_RULES", RULES),
    (
        "PUSH_TOPICS",
        "granted.*,closed.**,chat.**,short.**,talk.**,slow.**,seen.**,hidden.**,secret.**,plain.*,price.*,doc.*",
    ),
];

async fn with_topic(by: Transport, node: &Node, user: &str, topic: &str) -> AnyClient {
    connect_as(by, node, &[("user", user), ("topics", topic)]).await
}

async fn v1(node: &Node, user: &str, topic: &str) -> Client {
    Client::v1(&format!("{}&topics={topic}", node.ws_url(user))).await
}

fn publish(topic: &str, data: impl Into<Value>) -> Value {
    json!({"type": "publish", "topic": topic, "data": data.into(), "ref": "p"})
}

/// What is refused, by its code.
async fn refuses(client: &mut Client, request: Value) -> String {
    let error = ask(client, request).await;
    assert_eq!(error["type"], "error", "{error}");
    error["code"].as_str().expect("a code").to_owned()
}

/// Anyone has its own topics, no client has closed ones, and all else needs a grant.
pub async fn a_rule_says_which_clients_may_subscribe(sender: &Node, node: &Node) {
    for by in TRANSPORTS {
        for topic in ["open.42.a", "granted.1"] {
            let mut client = with_topic(by, node, "42", topic).await;
            push(sender, topic, by.name()).await;
            client.hears(by.name()).await;
        }
        for topic in ["open.43.a", "closed.1", "other"] {
            let who = [("user", "42"), ("topics", topic)];
            assert_eq!(refused_as(by, node, &who).await, "forbidden", "{topic}");
        }
    }
    let mut client = Client::v1(&node.ws_url("42")).await;
    for topic in ["open.43.a", "closed.1", "other"] {
        let request = json!({"type": "subscribe", "topic": topic, "ref": 1});
        assert_eq!(refuses(&mut client, request).await, "forbidden", "{topic}");
    }
    subscribe(&mut client, "open.42.b").await;
    // A sender may.
    let (_, answer) = call(sender, "PUT", "/v1/topics/closed.1/users/42").await;
    assert_eq!(answer["status"], "written", "{answer}");
    assert_eq!(client.json().await["type"], "subscribed");
    push(sender, "closed.1", 1).await;
    super::topics::hears(&mut client, "closed.1", 1).await;
}

/// Each push to a topic whose rule says so is kept, and only to such.
pub async fn every_push_is_kept(sender: &Node, first: &Node, second: &Node) {
    let answer = push(sender, "chat.1", 1).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    assert!(answer["seq_id"].is_string(), "{answer}");
    let mut client = Client::v1(&first.ws_url("1")).await;
    follow(&mut client, "chat.1", Some("0")).await;
    hears(&mut client, "chat.1", 1..=1).await;
    // One of several, and in a batch.
    subscribe(&mut client, "plain.1").await;
    let body = json!({"to": {"topics": ["chat.1", "plain.1"]}, "data": 2});
    let answer = push_as(sender, body).await;
    let kept = |target: &Value| target["seq_id"].is_string();
    let kept: Vec<bool> = answer["targets"]
        .as_array()
        .expect("two")
        .iter()
        .map(kept)
        .collect();
    assert_eq!(kept, [true, false], "{answer}");
    let mut heard = [client.json().await, client.json().await];
    heard.sort_by_key(|frame| frame["topic"].to_string());
    let resumed = heard.clone().map(|frame| frame["resume"].is_string());
    assert_eq!(resumed, [true, false], "{heard:?}");
    let one = |data: i32| json!({"to": {"topic": "chat.1"}, "data": data});
    let (_, answers) = post(&sender.push_url, &json!([one(3), one(4)])).await;
    assert!(answers[1]["seq_id"].is_string(), "{answers}");
    let token = hears(&mut client, "chat.1", 3..=4).await;
    drop(client);
    counts(sender, "chat.1", 0).await;
    push(sender, "chat.1", 5).await;
    let mut back = Client::v1(&second.ws_url("1")).await;
    let reply = follow(&mut back, "chat.1", Some(&token)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    hears(&mut back, "chat.1", 5..=5).await;
    // What a log cannot hold for some alone.
    for (field, value) in [
        ("except", json!({"users": ["1"]})),
        ("policy", json!("drop")),
    ] {
        let mut body = one(6);
        body[field] = value;
        let (status, answer) = post(&sender.push_url, &body).await;
        assert_eq!(status, 400, "{answer}");
        let words = answer["error"]["message"].as_str().expect("words");
        assert!(words.contains("chat.1") && words.contains(field), "{words}");
    }
}

/// The bounds of a rule hold, and those of the settings elsewhere.
pub async fn a_rule_bounds_what_is_kept(sender: &Node, node: &Node) {
    for n in 1..=12 {
        push(sender, "short.1", n).await;
        super::logs::keep(sender, "plain.1", n).await;
    }
    let mut client = Client::v1(&node.ws_url("1")).await;
    let reply = follow(&mut client, "short.1", Some("0")).await;
    assert_eq!(reply["recovered"], false, "some were thrown out: {reply}");
    hears(&mut client, "short.1", 8..=12).await;
    follow(&mut client, "plain.1", Some("0")).await;
    hears(&mut client, "plain.1", 1..=12).await;
}

/// Members publish to each other, in order and with their names; none hears itself.
pub async fn members_publish_to_each_other(sender: &Node, first: &Node, second: &Node) {
    let mut ws = with_topic(Transport::Ws, first, "42", "talk.1").await;
    let mut tcp = with_topic(Transport::Tcp, second, "43", "talk.1").await;
    let mut sse = with_topic(Transport::Sse, second, "44", "talk.1").await;
    counts(sender, "talk.1", 3).await;
    for n in 1..=20 {
        // Without a `ref` nothing is answered.
        let data = json!({"x": n});
        ws.send(&json!({"type": "publish", "topic": "talk.1", "data": data}))
            .await;
    }
    let from = json!({"user": "42", "connection": ws.connection()});
    for n in 1..=20 {
        let frame = tcp.json().await;
        let seen = (&frame["topic"], &frame["from"], &frame["data"]["x"]);
        assert_eq!(seen, (&json!("talk.1"), &from, &json!(n)), "{frame}");
        sse.hears(json!({"x": n})).await;
    }
    let named =
        json!({"type": "publish", "topic": "talk.1", "event": "click", "data": 1, "ref": 7});
    tcp.send(&named).await;
    let reply = json!({"type": "reply", "ref": 7, "topic": "talk.1", "status": "published"});
    assert_eq!(tcp.json().await, reply);
    // The first that the other hears, so it has not heard itself.
    let frame = ws.json().await;
    assert_eq!(
        (&frame["event"], &frame["data"]),
        (&json!("click"), &json!(1)),
        "{frame}"
    );
    assert_eq!(frame["from"]["user"], "43", "{frame}");
    sse.hears(1).await;
    let echo = json!({"type": "publish", "topic": "talk.1", "data": 2, "echo": true});
    tcp.send(&echo).await;
    for client in [&mut tcp, &mut ws] {
        let frame = client.json().await;
        assert_eq!(
            (&frame["from"]["user"], &frame["data"]),
            (&json!("43"), &json!(2))
        );
        assert_eq!(frame["from"].as_object().expect("two").len(), 2, "{frame}");
    }
    // What a client says of itself counts for nothing.
    let forged = json!({"type": "publish", "topic": "talk.1", "data": 3, "ref": 1,
        "from": {"user": "1"}, "member": {"user": "1"}});
    ws.send(&forged).await;
    assert_eq!(ws.json().await["status"], "published");
    assert_eq!(tcp.json().await["from"], from);
    let published = async |node: &Node| {
        let label = "status=\"published\"";
        node.labelled("member_publishes_total", label).await
    };
    let elsewhere = match first.id == second.id {
        true => 0.0,
        false => published(second).await,
    };
    assert_eq!(published(first).await + elsewhere, 23.0);
}

/// What a member may not publish is refused by name, and changes nothing.
pub async fn what_members_may_not_publish(node: &Node) {
    let mut client = v1(node, "42", "talk.1,granted.1,slow.1").await;
    for (request, code) in [
        (publish("talk.2", 1), "forbidden"),
        (publish("granted.1", 1), "forbidden"),
        (publish("talk.1", "x".repeat(19)), "too_large"),
        (publish("a b", 1), "bad_message"),
        (
            json!({"type": "publish", "topic": "talk.1", "ref": 1}),
            "bad_message",
        ),
        (
            json!({"type": "publish", "data": 1, "ref": 1}),
            "bad_message",
        ),
        (
            json!({"type": "publish", "topic": "talk.1", "data": 1, "event": "", "ref": 1}),
            "bad_message",
        ),
        (
            json!({"type": "publish", "topic": "talk.1", "data": 1, "echo": 1, "ref": 1}),
            "bad_message",
        ),
    ] {
        assert_eq!(
            refuses(&mut client, request.clone()).await,
            code,
            "{request}"
        );
    }
    // One in a second; the second may end between two of them.
    let mut limited = None;
    for _ in 0..5 {
        let answer = ask(&mut client, publish("slow.1", 1)).await;
        if answer["type"] == "error" {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("five in a second");
    assert_eq!(limited["code"], "rate_limited", "{limited}");
    assert_eq!(limited["retry_ms"], 1000, "{limited}");
    // The limit of one topic is not that of another.
    assert_eq!(
        ask(&mut client, publish("talk.1", 1)).await["status"],
        "published"
    );
    let request = json!({"type": "unsubscribe", "topic": "talk.1", "ref": 1});
    ask(&mut client, request).await;
    assert_eq!(
        refuses(&mut client, publish("talk.1", 1)).await,
        "forbidden"
    );
    // What it asked before counts: no answer need be awaited.
    client
        .send(&json!({"type": "subscribe", "topic": "talk.3", "ref": 1}).to_string())
        .await;
    client.send(&publish("talk.3", 1).to_string()).await;
    assert_eq!(client.json().await["status"], "subscribed");
    assert_eq!(client.json().await["status"], "published");
}

/// A chat: what members publish is kept, with their names, and read by those who come back.
pub async fn what_members_publish_is_kept(sender: &Node, first: &Node, second: &Node) {
    let mut one = v1(first, "42", "chat.9").await;
    let mut other = v1(second, "43", "chat.9").await;
    counts(sender, "chat.9", 2).await;
    for n in 1..=3 {
        let reply = ask(&mut one, publish("chat.9", n)).await;
        assert_eq!(reply["status"], "published", "{reply}");
        assert!(reply["resume"].is_string(), "{reply}");
    }
    hears(&mut other, "chat.9", 1..=3).await;
    let reply = ask(&mut other, publish("chat.9", 4)).await;
    let token = reply["resume"].as_str().expect("a position").to_owned();
    // Its log has no gap for the one that sent.
    hears(&mut one, "chat.9", 4..=4).await;
    push(sender, "chat.9", 5).await;
    hears(&mut one, "chat.9", 5..=5).await;
    hears(&mut other, "chat.9", 5..=5).await;
    drop(other);
    counts(sender, "chat.9", 1).await;
    let mut back = Client::v1(&first.ws_url("43")).await;
    let reply = follow(&mut back, "chat.9", Some(&token)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    hears(&mut back, "chat.9", 5..=5).await;
    follow(&mut back, "chat.9", Some("0")).await;
    for n in 1..=5 {
        let frame = back.json().await;
        assert_eq!(frame["data"], n, "{frame}");
        let user = match n {
            1..=3 => json!("42"),
            4 => json!("43"),
            _ => Value::Null,
        };
        assert_eq!(frame["from"]["user"], user, "{frame}");
    }
    // What is asked for is given, one's own too.
    follow(&mut one, "chat.9", Some("0")).await;
    hears(&mut one, "chat.9", 1..=5).await;
}

/// Of some topics members hear how many there are, of others nothing.
pub async fn a_rule_says_what_members_hear_of_each_other(first: &Node, second: &Node) {
    let mut watcher = Client::v1(&first.ws_url("1")).await;
    let watch =
        |topic: &str| json!({"type": "subscribe", "topic": topic, "presence": true, "ref": 1});
    let reply = ask(&mut watcher, watch("seen.1")).await;
    assert_eq!(reply["status"], "subscribed", "{reply}");
    let count = |count: u32| json!({"type": "presence", "topic": "seen.1", "count": count});
    // Its own list may come before its own name is in it.
    let mut seen = watcher.json().await;
    if seen == count(0) {
        seen = watcher.json().await;
    }
    assert_eq!(seen, count(1));
    let guest = v1(second, "2", "seen.1").await;
    assert_eq!(watcher.json().await, count(2));
    drop(guest);
    assert_eq!(watcher.json().await, count(1));
    assert_eq!(refuses(&mut watcher, watch("hidden.1")).await, "forbidden");
    subscribe(&mut watcher, "hidden.1").await;
    for by in TRANSPORTS {
        let who = [("user", "3"), ("topics", "hidden.1"), ("presence", "true")];
        assert_eq!(refused_as(by, second, &who).await, "forbidden");
    }
    // Of several, only that one is refused.
    let both =
        json!({"type": "subscribe", "topics": ["seen.2", "hidden.2"], "presence": true, "ref": 2});
    let reply = ask(&mut watcher, both).await;
    assert_eq!(reply["topics"][0]["status"], "subscribed", "{reply}");
    assert_eq!(reply["topics"][1]["error"]["code"], "forbidden", "{reply}");
}

/// A new member gets the current value, or all there is, and then what comes.
pub async fn a_new_member_gets_what_the_rule_says(sender: &Node, node: &Node) {
    for n in 1..=3 {
        push(sender, "price.EUR", n).await;
    }
    for n in 1..=40 {
        push(sender, "doc.1", n).await;
    }
    let mut next = 3;
    for by in TRANSPORTS {
        let mut client = with_topic(by, node, "42", "price.EUR").await;
        client.hears(next).await;
        next += 1;
        push(sender, "price.EUR", next).await;
        client.hears(next).await;
        let mut client = with_topic(by, node, "42", "doc.1").await;
        for n in 1..=40 {
            client.hears(n).await;
        }
    }
    let mut plain = Client::plain(&format!("{}&topics=price.EUR", node.ws_url("42"))).await;
    assert_eq!(plain.json().await, next);
    let mut client = Client::v1(&node.ws_url("43")).await;
    let request = json!({"type": "subscribe", "topic": "price.EUR", "ref": 1});
    let reply = ask(&mut client, request).await;
    assert_eq!(reply["recovered"], Value::Null, "it did not ask: {reply}");
    hears(&mut client, "price.EUR", next..=next).await;
    // Once more is no new member, and one that asks gets what it asks for.
    subscribe(&mut client, "price.EUR").await;
    let since = json!({"type": "subscribe", "topic": "doc.1", "since": "new", "ref": 1});
    assert_eq!(ask(&mut client, since).await["status"], "subscribed");
    push(sender, "doc.1", 41).await;
    hears(&mut client, "doc.1", 41..=41).await;
    // One whom a sender subscribes is a new member, too.
    let mut guest = Client::v1(&node.ws_url("44")).await;
    let (_, answer) = call(sender, "PUT", "/v1/topics/price.EUR/users/44").await;
    assert_eq!(answer["status"], "written", "{answer}");
    assert_eq!(guest.json().await["type"], "subscribed");
    hears(&mut guest, "price.EUR", next..=next).await;
}

/// A log that members may not read: they get what comes, and no place in it.
pub async fn a_log_that_members_may_not_read(sender: &Node, node: &Node) {
    push(sender, "secret.1", 1).await;
    let mut client = Client::v1(&node.ws_url("1")).await;
    let request = json!({"type": "subscribe", "topic": "secret.1", "since": "0", "ref": 1});
    let reply = ask(&mut client, request).await;
    let expected = json!({"type": "reply", "ref": 1, "topic": "secret.1", "status": "subscribed",
        "recovered": false});
    assert_eq!(reply, expected);
    let answer = push(sender, "secret.1", 2).await;
    assert!(answer["seq_id"].is_string(), "it is kept: {answer}");
    let message = json!({"type": "message", "topic": "secret.1", "data": 2});
    assert_eq!(client.json().await, message);
    let mut sse = with_topic(Transport::Sse, node, "2", "secret.1").await;
    push(sender, "secret.1", 3).await;
    sse.hears(3).await;
    // Nor look back in it, nor begin with the last; senders read it.
    assert_eq!(client.json().await["data"], 3);
    let request = json!({"type": "history", "topic": "secret.1", "ref": 2});
    let refused = ask(&mut client, request).await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    for transport in TRANSPORTS {
        let who = [("user", "3"), ("topics", "secret.1"), ("last", "2")];
        let mut entrant = connect_as(transport, node, &who).await;
        assert_ne!(entrant.ready["recovered"], true, "{}", entrant.ready);
        push(sender, "secret.1", 4).await;
        entrant.hears(4).await;
    }
    let (_, answer) = call(sender, "GET", "/v1/topics/secret.1/messages").await;
    assert_eq!(answer["messages"].as_array().map(Vec::len), Some(6), "{answer}");
}
