//! What senders are refused is counted, whatever route they use.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::passes::ask;
use crate::common::{Node, books, node};

/// By reason: how often senders were refused.
async fn refusals(node: &Node) -> BTreeMap<String, f64> {
    let values = books::parse(&node.metrics().await);
    let reason = |(key, count): (String, f64)| {
        let key = key.strip_prefix(r#"requests_refused_total{reason=""#)?;
        Some((key.strip_suffix(r#""}"#)?.to_owned(), count))
    };
    let counted = values.into_iter().filter_map(reason);
    counted.filter(|(_, count)| *count > 0.0).collect()
}

#[tokio::test]
async fn each_refusal_of_a_sender_is_counted_by_the_code_that_it_was_told() {
    let node = node(&[("PUSH_BANS", "false")]);
    let gone = format!("/v1/connections/{}/999999", node.id);
    let mut expected: BTreeMap<String, f64> = BTreeMap::new();
    for (method, path, status, code) in [
        ("POST", "/v1/push", 400, "bad_request"),
        ("POST", "/v1/call", 400, "bad_request"),
        ("POST", "/v1/reply", 400, "bad_request"),
        ("POST", "/v1/commands", 400, "bad_request"),
        ("GET", "/v1/users/a%00b", 400, "bad_request"),
        ("GET", "/v1/users/a%00b/trace", 400, "bad_request"),
        ("GET", "/v1/topics?limit=0", 400, "bad_request"),
        ("PUT", "/v1/topics/a%20b/users/42", 400, "bad_request"),
        ("DELETE", "/v1/connections/a/b", 400, "bad_request"),
        ("DELETE", &gone, 404, "not_found"),
        ("POST", "/v1/nodes/nobody/drain", 404, "not_found"),
        ("PUT", "/v1/push", 405, "method_not_allowed"),
        ("DELETE", "/v1/call", 405, "method_not_allowed"),
        ("PUT", "/v1/users/42/ban", 409, "bans_off"),
        ("POST", "/v1/sessions", 409, "sessions_off"),
    ] {
        let (told, answer) = ask(method, &node.url(path), &json!({})).await;
        let seen = (told, &answer["error"]["code"]);
        assert_eq!(seen, (status, &json!(code)), "{method} {path}: {answer}");
        *expected.entry(code.to_owned()).or_default() += 1.0;
        assert_eq!(refusals(&node).await, expected, "{method} {path}");
    }
    let (status, _) = ask("POST", &node.push_url, &json!([{}, {}])).await;
    assert_eq!(status, 200);
    expected.insert("bad_item".to_owned(), 2.0);
    assert_eq!(refusals(&node).await, expected);
}

/// What a request that was carried out came to is told elsewhere; clients are no senders.
#[tokio::test]
async fn an_outcome_is_no_refusal_of_a_sender_and_neither_is_a_clients() {
    let node = node(&[]);
    let body = json!({"to": {"user": "42"}, "data": 1});
    for (method, path, status) in [
        ("POST", "/v1/push", 200),
        ("POST", "/v1/call", 404),
        ("GET", "/ws", 426),
        ("GET", "/sse", 400),
        ("PUT", "/sse", 405),
        ("GET", "/nowhere", 404),
    ] {
        let (told, answer) = ask(method, &node.url(path), &body).await;
        assert_eq!(told, status, "{method} {path}: {answer}");
    }
    assert_eq!(refusals(&node).await, BTreeMap::new());
    assert_eq!(
        node.labelled("calls_total", r#"status="offline""#).await,
        1.0
    );
}

#[tokio::test]
async fn a_sender_without_a_key_is_counted_once() {
    let node = node(&[("PUSH_API_KEYS", "0123456789abcdef0123456789abcdef")]);
    for path in ["/v1/push", "/v1/call"] {
        let (status, answer): (u16, Value) = ask("POST", &node.url(path), &json!({})).await;
        assert_eq!(status, 401, "{answer}");
    }
    let expected = BTreeMap::from([("unauthorized".to_owned(), 2.0)]);
    assert_eq!(refusals(&node).await, expected);
}
