//! What is asked of clients and of nodes, and what services reply.

use futures::future::join_all;
use serde_json::json;

use super::seen::Seen;
use crate::common::{Client, node, post};

/// Calls that one client may leave unanswered.
const WAITING: usize = 32;

/// Calls, and replies of services.
pub(super) async fn of_senders(seen: &mut Seen) {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let _plain = Client::plain(&node.ws_url("plain")).await;
    let url = node.url("/v1/call");
    let body = |user: &str, timeout: u32| {
        let to = json!({"to": {"user": user}, "id": "a", "data": null, "timeout_ms": timeout});
        to.to_string()
    };

    for answer in [json!({"data": null}), json!({"error": "no battery"})] {
        let said = async {
            let mut answer = answer;
            answer["type"] = json!("answer");
            answer["ref"] = client.json().await["ref"].clone();
            client.send(&answer.to_string()).await;
        };
        let body = body("42", 30_000);
        tokio::join!(seen.expect("call 200", "POST", &url, &[], &body), said);
    }
    for (name, user) in [
        ("call 404 offline", "nobody"),
        ("call 409 plain", "plain"),
        ("call 504 timeout", "42"),
    ] {
        seen.expect(name, "POST", &url, &[], &body(user, 100)).await;
    }
    let reply = json!({"to": {"fd": client.connection()}, "ref": 1, "data": null});
    let reply = reply.to_string();
    seen.expect("reply 200", "POST", &node.url("/v1/reply"), &[], &reply)
        .await;

    let mut silent = Client::v1(&node.ws_url("silent")).await;
    let many = json!({"to": {"user": "silent"}, "data": 1, "timeout_ms": 30_000});
    let others = (1..WAITING).map(async |_| post(&url, &many).await.0);
    let others = join_all(others);
    let mut busy = Seen::default();
    let one_more = async {
        for _ in 0..WAITING {
            assert_eq!(silent.json().await["type"], "call");
        }
        busy.expect("call 503 busy", "POST", &url, &[], &many.to_string())
            .await;
        drop(silent);
    };
    let body = many.to_string();
    let last = seen.expect("call 502 gone", "POST", &url, &[], &body);
    let (_, others, ()) = tokio::join!(last, others, one_more);
    assert_eq!(others, [502; WAITING - 1]);
    seen.0.extend(busy.0);
}

pub(super) async fn to_nodes(seen: &mut Seen) {
    let node = node(&[]);
    let _client = Client::v1(&node.ws_url("42")).await;
    let stats = node.url("/v1/stats");
    for query in ["", "?node=nobody&node=x"] {
        let url = format!("{stats}{query}");
        seen.expect("getStats 200", "GET", &url, &[], "").await;
    }
    let drain = json!({"cmd": "drain", "nodes": [*node.id]});
    for body in [
        json!({"cmd": "stats", "nodes": null, "user": null, "timeout_ms": 1000.0}),
        json!({"cmd": "kick", "user": "42"}),
        drain,
    ] {
        let url = node.url("/v1/commands");
        seen.expect("command 200", "POST", &url, &[], &body.to_string())
            .await;
    }
}
