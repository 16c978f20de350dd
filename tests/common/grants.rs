//! What a token grants beyond a user's name: the topics that its bearer may subscribe to.

use serde_json::{Value, json};

use super::passes::ask as call;
use super::tokens::{Issuer, claims};
use super::topics::{ask, counts, hears, push, subscribe};
use super::transports::{TRANSPORTS, connect_as, refused_as};
use super::{Client, Node};

/// Nodes of these scenarios take tokens by this secret.
pub const SECRET: &str = "a-secret-of-32-bytes-for-grants-";

/// And let everybody else have what is public.
pub const SETTINGS: [(&str, &str); 3] = [
    ("PUSH_AUTH", "jwt,session"),
    ("PUSH_JWT_SECRETS", SECRET),
    ("PUSH_TOPICS", "public.*"),
];

/// A token of this user that grants these patterns, or says nothing of topics.
pub fn token(user: &str, patterns: Option<&[&str]>) -> String {
    let mut claims = claims(user);
    if let Some(patterns) = patterns {
        claims["topics"] = json!(patterns);
    }
    Issuer::secret(SECRET).token(&claims)
}

fn url(node: &Node, token: &str, topics: &str) -> String {
    let address = node.client_address();
    format!("ws://{address}/ws?token={token}&topics={topics}")
}

async fn is_forbidden(client: &mut Client, topic: &str) {
    let request = json!({"type": "subscribe", "topic": topic, "ref": 1});
    let reply = ask(client, request).await;
    assert_eq!(reply["code"], "forbidden", "{topic}: {reply}");
}

/// A token's patterns hold at the door of each transport and later, instead of the setting.
pub async fn a_token_says_what_may_be_subscribed(node: &Node) {
    let granted = token("42", Some(&["chat.*", "user.{user}"]));
    for (granted, topics) in [
        (&granted, "chat.1,user.42"),
        (&token("42", None), "public.1"),
    ] {
        for by in TRANSPORTS {
            let who = [("token", &**granted), ("topics", topics)];
            let mut client = connect_as(by, node, &who).await;
            let topic = topics.split(',').next().expect("a topic");
            push(node, topic, by.name()).await;
            client.hears(by.name()).await;
        }
    }
    let none: &[&str] = &[];
    for (granted, topic) in [
        (&granted, "chat"),
        (&granted, "chat.1,user.43"),
        (&granted, "public.1"),
        (&token("42", Some(none)), "public.1"),
        (&token("42", None), "chat.1"),
    ] {
        for by in TRANSPORTS {
            let who = [("token", &**granted), ("topics", topic)];
            assert_eq!(refused_as(by, node, &who).await, "forbidden", "{topic}");
        }
    }
    let mut client = Client::v1(&url(node, &granted, "")).await;
    subscribe(&mut client, "chat.2").await;
    subscribe(&mut client, "user.42").await;
    is_forbidden(&mut client, "user.43").await;
    is_forbidden(&mut client, "public.1").await;
    // What is no pattern makes the token none.
    for bad in [&["a b"][..], &["chat.*", ""]] {
        let who = [("token", &*token("42", Some(bad)))];
        for by in TRANSPORTS {
            assert_eq!(refused_as(by, node, &who).await, "token_invalid");
        }
    }
}

/// As [`a_token_says_what_may_be_subscribed`], for sessions, which say so as they are opened.
pub async fn a_session_says_what_may_be_subscribed(a: &Node, b: &Node) {
    let wish = json!({"user": "42", "topics": ["chat.*"], "ttl_seconds": 300});
    let (status, opened) = call("POST", &a.url("/v1/sessions"), &wish).await;
    assert_eq!(status, 201, "{opened}");
    let token = opened["token"].as_str().expect("a token");
    let mut client = Client::v1(&url(b, token, "chat.1")).await;
    subscribe(&mut client, "chat.2").await;
    is_forbidden(&mut client, "public.1").await;
    let bad = json!({"user": "42", "topics": ["a b"], "ttl_seconds": 300});
    let (status, answer) = call("POST", &a.url("/v1/sessions"), &bad).await;
    assert_eq!(status, 400, "{answer}");
    let words = answer["error"]["message"].as_str().expect("words");
    assert!(words.contains("topics"), "{words}");
}

/// With a new token the client loses what that does not grant, and nothing else.
pub async fn a_new_token_takes_topics_away(sender: &Node, node: &Node) {
    let first = token("42", Some(&["chat.*"]));
    let mut client = Client::v1(&url(node, &first, "chat.1,chat.2")).await;
    subscribe(&mut client, "chat.3").await;
    for topic in ["vip", "chat.4"] {
        let path = format!("/v1/topics/{topic}/users/42");
        let (_, answer) = call("PUT", &sender.url(&path), &json!(null)).await;
        assert_eq!(answer["status"], "written", "{answer}");
        assert_eq!(client.json().await["type"], "subscribed");
    }
    // Its own wish as well does not make it the client's to lose.
    subscribe(&mut client, "chat.4").await;

    renew(&mut client, &token("42", Some(&["chat.2", "other"]))).await;
    left(&mut client, &["chat.1", "chat.3"]).await;
    counts(sender, "chat.1", 0).await;
    counts(sender, "chat.3", 0).await;
    for (topic, heard) in [
        ("chat.1", false),
        ("chat.3", false),
        ("chat.2", true),
        ("chat.4", true),
        ("vip", true),
    ] {
        push(sender, topic, topic).await;
        if heard {
            hears(&mut client, topic, topic).await;
        }
    }
    is_forbidden(&mut client, "chat.3").await;
    subscribe(&mut client, "other").await;

    // One that says nothing of topics leaves what the setting allows.
    renew(&mut client, &token("42", None)).await;
    left(&mut client, &["chat.2", "other"]).await;
    subscribe(&mut client, "public.1").await;
    is_forbidden(&mut client, "chat.2").await;
    // A refused one changes nothing.
    let wrong = json!({"type": "auth", "ref": 9, "token": token("43", Some(&["x"]))});
    let reply = ask(&mut client, wrong).await;
    assert_eq!(reply["code"], "wrong_user", "{reply}");
    push(sender, "public.1", 1).await;
    hears(&mut client, "public.1", 1).await;
}

async fn renew(client: &mut Client, token: &str) {
    let auth = json!({"type": "auth", "ref": "new", "token": token});
    client.send(&auth.to_string()).await;
}

/// The client hears that it has left these, in whatever order, and then the reply.
async fn left(client: &mut Client, topics: &[&str]) {
    let mut heard: Vec<Value> = Vec::new();
    let reply = loop {
        let mut next = client.json().await;
        if next["type"] != "unsubscribed" {
            break next;
        }
        heard.push(next["topic"].take());
    };
    assert_eq!(
        (&reply["type"], &reply["ref"]),
        (&json!("reply"), &json!("new"))
    );
    heard.sort_by_key(|topic| topic.to_string());
    assert_eq!(json!(heard), json!(topics));
}
