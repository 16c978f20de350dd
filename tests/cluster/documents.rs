//! PROTOCOL.md is what the nodes do: its examples run as they stand.
//!
//! Addresses in the examples are the defaults; they are replaced by those of the test's own
//! nodes and Redis, and nothing else is.

use std::process::Command;

use futures::StreamExt;
use pushnode::protocol::ids::UserId;
use pushnode::protocol::{Line, PushRequest};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Client, Redis, node_on, node_with};
use crate::publishers::tool;

/// The fenced blocks of PROTOCOL.md: what stands behind the fence, and what is inside.
pub(crate) fn blocks() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/PROTOCOL.md");
    let text = std::fs::read_to_string(path).expect("PROTOCOL.md");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let inside: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((kind.to_owned(), inside.join("\n")));
        }
    }
    assert!(blocks.len() > 10, "PROTOCOL.md has lost its examples");
    blocks
}

#[test]
fn json_examples_parse() {
    let mut parsed = 0;
    for (kind, text) in blocks() {
        let result = match kind.as_str() {
            "json request" => PushRequest::parse(text.as_bytes()).map(drop),
            "json line" => Line::parse(text.as_bytes()).map(drop),
            "json answer" => serde_json::from_str::<Value>(&text)
                .map(drop)
                .map_err(Into::into),
            _ => continue,
        };
        assert!(result.is_ok(), "{kind}: {result:?}\n{text}");
        parsed += 1;
    }
    assert!(parsed >= 6, "only {parsed} JSON examples");
}

#[test]
fn every_block_is_of_a_kind_that_a_test_looks_at() {
    let known = [
        "sh",
        "python",
        // Runs in a test of its own.
        "python worker",
        "javascript",
        "js",
        "json request",
        "json line",
        "json answer",
    ];
    for (kind, text) in blocks() {
        assert!(
            known.contains(&kind.as_str()),
            "unknown kind {kind:?}:\n{text}"
        );
    }
}

/// A client that answers whatever it is asked.
async fn answer_calls(mut client: Client) {
    loop {
        let Ok(Message::Text(text)) = client.socket.next().await.expect("open") else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        if frame["type"] == "call" {
            assert_eq!(frame["data"]["ask"], "battery");
            let answer = json!({"type": "answer", "ref": frame["ref"], "data": {"percent": 81}});
            client.send(&answer.to_string()).await;
        }
    }
}

#[tokio::test]
async fn examples_run_as_they_stand() {
    let redis = Redis::start();
    // The user is on one node, the examples talk to the other.
    // Who reads only the beginning of a stream is gone at the next comment.
    let beat = [("PUSH_SSE_BEAT_SECONDS", "1")];
    let (a, b) = (node_on(&redis, "a"), node_with(&redis, "b", &beat));
    // And some to one that wants tokens.
    let tokens = [
        ("PUSH_AUTH", "jwt,session"),
        ("PUSH_JWT_SECRETS", "a-secret-that-nobody-would-ever-guess"),
    ];
    let c = node_with(&redis, "c", &tokens);
    let user: UserId = "42".parse().unwrap();
    let mut client = Client::v1(&a.ws_url(user.as_str())).await;

    let robot = tokio::spawn(answer_calls(Client::v1(&a.ws_url("7")).await));

    let mut pushes = 0;
    for (kind, text) in blocks() {
        let text = text
            .replace("127.0.0.1:8080", &b.client_address().to_string())
            .replace("127.0.0.1:8070", &c.client_address().to_string())
            .replace("127.0.0.1:8081", &b.admin.to_string())
            .replace("127.0.0.1:8082", &b.lines[0].to_string())
            .replace("redis://127.0.0.1:6379", &redis.url())
            .replace("redis-cli ", &format!("redis-cli -p {} ", redis.port()));
        let mut command = match kind.as_str() {
            "sh" => Command::new("sh"),
            "python" => Command::new(tool("venv/bin/python")),
            "javascript" => Command::new("node"),
            _ => continue,
        };
        command
            .args([if kind == "javascript" { "-e" } else { "-c" }, &text])
            .env("NODE_PATH", tool("node/node_modules"));
        // In a thread of its own: some examples wait for a client of ours.
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("a thread");
        let output = output.expect("the example's program is installed");
        assert!(output.status.success(), "{kind}:\n{text}\n{output:?}");
        // Examples that ask something push nothing; the others push "hello", once or more.
        for _ in 0..text.matches("hello").count() {
            let mut message = client.json().await;
            while message["type"] == "subscribed" {
                message = client.json().await;
            }
            assert_eq!(message["data"]["text"], "hello", "after\n{text}");
            pushes += 1;
        }
    }
    assert!(pushes >= 6, "only {pushes} pushes");
    robot.abort();
}
