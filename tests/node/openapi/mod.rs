//! `openapi.json` is true: every answer that it promises can be had, none comes that it does not
//! promise, and each is as it says.

mod seen;

use std::net::SocketAddr;

use serde_json::{Value, json};

use self::seen::Seen;
use crate::common::openapi::{DOCUMENT, OF_CLUSTERS, bad_examples, operations, promised};
use crate::common::{Client, http, node, start_node};
use crate::raw::{HANDSHAKE, Raw};
use crate::sender::{JSON, NDJSON};

const KEY: &str = "a-key-of-some-length";
const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[tokio::test]
async fn every_answer_of_the_document_is_seen_and_no_other() {
    let (mut seen, mut slow) = (Seen::default(), Seen::default());
    let others = async {
        clients(&mut seen).await;
        pushes(&mut seen).await;
        users_and_nodes(&mut seen).await;
        operators(&mut seen).await;
        without_redis(&mut seen).await;
        full(&mut seen).await;
        large_headers(&mut seen).await;
        leaving(&mut seen).await;
    };
    tokio::join!(others, slow_body(&mut slow));
    seen.0.extend(slow.0);

    let mut promised = promised();
    for name in OF_CLUSTERS {
        assert!(promised.contains(name), "{name} is not in the document");
        promised.remove(name);
    }
    let unseen: Vec<_> = promised.difference(&seen.0).collect();
    assert!(
        unseen.is_empty(),
        "the document promises what this test never saw: {unseen:#?}"
    );
}

async fn clients(seen: &mut Seen) {
    let named = node(&[("PUSH_PUBLIC_URL", "https://push-1.example.com")]);
    let ws = named.url("/ws?user=42");
    seen.expect("connect 101", "GET", &ws, &WEBSOCKET, "").await;
    let v1 = [&WEBSOCKET[..], &[("sec-websocket-protocol", "pushnode.v1")]].concat();
    seen.expect("connect 101", "GET", &ws, &v1, "").await;
    seen.expect(
        "connect 400 bad_request",
        "GET",
        &named.url("/ws"),
        &WEBSOCKET,
        "",
    )
    .await;
    seen.expect("connect 426 upgrade_required", "GET", &ws, &[], "")
        .await;
    let stranger = [&WEBSOCKET[..], &[("origin", "https://evil.example")]].concat();
    seen.expect("connect 403 origin", "GET", &ws, &stranger, "")
        .await;
    seen.expect("getPage 200", "GET", &named.url("/"), &[], "")
        .await;
    seen.expect("headPage 200", "HEAD", &named.url("/"), &[], "")
        .await;
    seen.expect(
        "getOpenapi 200",
        "GET",
        &named.url("/openapi.json"),
        &[],
        "",
    )
    .await;
    let route = named.url("/v1/route");
    seen.expect("route 200", "GET", &route, &[], "").await;
    seen.expect(
        "route 400 bad_request",
        "GET",
        &format!("{route}?strategy=best"),
        &[],
        "",
    )
    .await;
    let unnamed = node(&[]);
    seen.expect(
        "route 503 unavailable",
        "GET",
        &unnamed.url("/v1/route"),
        &[],
        "",
    )
    .await;
}

async fn pushes(seen: &mut Seen) {
    let node = node(&[("PUSH_API_KEYS", KEY)]);
    let _client = Client::v1(&node.ws_url("42")).await;
    let authorization = format!("Bearer {KEY}");
    let key = ("authorization", authorization.as_str());
    let (json, lines) = (
        [key, ("content-type", JSON)],
        [key, ("content-type", NDJSON)],
    );
    let url = node.push_url.as_str();
    let one = r#"{"to":{"user":"42"},"data":1}"#;

    seen.expect("push 200 application/json", "POST", url, &json, one)
        .await;
    seen.expect(
        "push 200 application/x-ndjson",
        "POST",
        url,
        &lines,
        &format!("{one}\n{{}}\n"),
    )
    .await;
    for example in examples_of_push() {
        seen.expect(
            "push 200 application/json",
            "POST",
            url,
            &json,
            &example.to_string(),
        )
        .await;
    }
    for body in [
        r#"{"to":{"users":["42","43"]},"keep":true,"data":1}"#,
        r#"{"to":{"user":"42","users":null},"id":null,"except":null,"policy":null,"timeout_ms":1000.0,"data":1}"#,
        r#"{"to":{"user":"42"},"id":"twice","data":1}"#,
        r#"{"to":{"user":"42"},"id":"twice","data":1}"#,
        r#"{"to":{"user":"42"},"wait":"acked","id":"unheard","timeout_ms":1,"data":1}"#,
        r#"[{"to":{"user":"42"},"keep":true,"data":1},{"to":{"users":["nobody"]},"data":1},7]"#,
        "[]",
    ] {
        seen.expect("push 200 application/json", "POST", url, &json, body)
            .await;
    }

    seen.expect("push 400 bad_request", "POST", url, &json, "{}")
        .await;
    seen.expect("push 401 unauthorized", "POST", url, &[], one)
        .await;
    let many = vec![one; 10_001].join("\n");
    seen.expect("push 413 too_many", "POST", url, &lines, &many)
        .await;
    let large = format!(
        r#"{{"to":{{"user":"42"}},"data":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    seen.expect("push 413 too_large", "POST", url, &json, &large)
        .await;
    let text = [key, ("content-type", "text/plain")];
    seen.expect("push 415 content_type", "POST", url, &text, one)
        .await;
}

/// Ten seconds of waiting.
async fn slow_body(seen: &mut Seen) {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    raw.send(b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        .await;
    assert_eq!(seen.hear("POST", "/v1/push", &mut raw).await, 408);
}

/// The bodies that the document shows.
fn examples_of_push() -> Vec<Value> {
    let body = &DOCUMENT["paths"]["/v1/push"]["post"]["requestBody"]["content"][JSON];
    let examples = body["examples"].as_object().expect("examples");
    examples
        .values()
        .map(|example| example["value"].clone())
        .collect()
}

async fn users_and_nodes(seen: &mut Seen) {
    let node = node(&[("PUSH_API_KEYS", KEY), ("PUSH_STORE_ADDRESS", "true")]);
    let client = Client::v1(&format!("{}&device=phone", node.ws_url("42"))).await;
    let authorization = format!("Bearer {KEY}");
    let key = [("authorization", authorization.as_str())];
    let (user, bad_user) = (node.url("/v1/users/42"), node.url("/v1/users/%20"));
    let connection = node.url(&format!("/v1/connections/{}", client.connection()));
    let nodes = node.url("/v1/nodes");
    let nobody = node.url("/v1/nodes/nobody/drain");
    for (name, method, url) in [
        ("getUser 200", "GET", user.as_str()),
        ("getUser 400 bad_request", "GET", &bad_user),
        ("kickUser 400 bad_request", "DELETE", &bad_user),
        (
            "kickConnection 400 bad_request",
            "DELETE",
            &node.url("/v1/connections/x/1"),
        ),
        ("kickConnection 200", "DELETE", &connection),
        (
            "kickConnection 404 not_found",
            "DELETE",
            &node.url("/v1/connections/x.1/1"),
        ),
        ("kickUser 200", "DELETE", &user),
        ("listNodes 200", "GET", &nodes),
        ("drainNode 404 not_found", "POST", &nobody),
    ] {
        seen.expect(name, method, url, &key, "").await;
    }
    for (name, method, url) in [
        ("getUser 401 unauthorized", "GET", &user),
        ("kickUser 401 unauthorized", "DELETE", &user),
        ("kickConnection 401 unauthorized", "DELETE", &connection),
        ("listNodes 401 unauthorized", "GET", &nodes),
        ("drainNode 401 unauthorized", "POST", &nobody),
    ] {
        seen.expect(name, method, url, &[], "").await;
    }
}

async fn operators(seen: &mut Seen) {
    let node = node(&[]);
    for (name, method, path) in [
        ("getHealth 200", "GET", "/healthz"),
        ("headHealth 200", "HEAD", "/healthz"),
        ("getReadiness 200", "GET", "/readyz"),
        ("headReadiness 200", "HEAD", "/readyz"),
        ("getMetrics 200", "GET", "/metrics"),
    ] {
        seen.expect(name, method, &node.admin_url(path), &[], "")
            .await;
    }
}

/// A node that has never found its Redis.
async fn without_redis(seen: &mut Seen) {
    let node = start_node(&[("PUSH_REDIS_URL", "redis://127.0.0.1:1")]);
    let push = r#"{"to":{"user":"42"},"data":1,"timeout_ms":100}"#;
    for (name, method, url, body) in [
        ("push 503 unrouted", "POST", node.push_url.clone(), push),
        (
            "getUser 503 unavailable",
            "GET",
            node.url("/v1/users/42"),
            "",
        ),
        (
            "kickUser 503 unrouted",
            "DELETE",
            node.url("/v1/users/42"),
            "",
        ),
        (
            "kickConnection 503 unrouted",
            "DELETE",
            node.url("/v1/connections/x.1/1"),
            "",
        ),
        ("getReadiness 503", "GET", node.admin_url("/readyz"), ""),
        ("headReadiness 503", "HEAD", node.admin_url("/readyz"), ""),
    ] {
        seen.expect(name, method, &url, &[], body).await;
    }
}

/// Whatever comes to a node that is full. Operators have a door of their own.
async fn full(seen: &mut Seen) {
    let node = node(&[("PUSH_MAX_CONNECTIONS", "1")]);
    let _one = Raw::plain(&node, "42").await;
    assert_eq!(seen.call_each(&node, "", false).await, [503]);
}

async fn large_headers(seen: &mut Seen) {
    let cookie = format!("Cookie: {}\r\n", "x".repeat(17 * 1024));
    assert_eq!(seen.call_each(&node(&[]), &cookie, true).await, [431]);
}

/// A handshake that was under way when the node began to leave. Whether the node has read its
/// beginning by then cannot be seen from here, so it is tried until it has.
async fn leaving(seen: &mut Seen) {
    for _ in 0..20 {
        let node = node(&[]);
        // It does not answer the close frame, and so keeps the node for a while.
        let _silent = Raw::plain(&node, "silent").await;
        let mut raw = Raw::open(node.client_address()).await;
        raw.send(b"GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n").await;
        seen.call("GET", &node.url("/"), &[], "").await;
        node.signal("TERM");
        // It may have ended already, on a slow machine.
        let url = node.admin_url("/readyz");
        let is_ready = |answer: reqwest::Response| answer.status() == 200;
        while http().get(&url).send().await.is_ok_and(is_ready) {}
        raw.try_send(format!("{HANDSHAKE}\r\n").as_bytes()).await;
        let mut start = [0];
        if raw.socket.peek(&mut start).await.is_ok_and(|read| read > 0) {
            assert_eq!(seen.hear("GET", "/ws?user=42", &mut raw).await, 503);
            return;
        }
    }
    panic!("no node answered a handshake while it was leaving");
}

#[tokio::test]
async fn no_route_is_left_out_and_methods_are_the_documents() {
    let node = node(&[("PUSH_API_LISTEN", "127.0.0.1:0")]);
    let senders: SocketAddr = node
        .push_url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("an address")
        .parse()
        .expect("an address");
    let mut seen = Seen::default();
    for (tag, address) in [
        ("clients", node.client_address()),
        ("senders", senders),
        ("operations", node.admin),
    ] {
        for operation in operations() {
            let url = format!("http://{address}{}", operation.example_path());
            let is_here = operation.has_tag(tag);
            for method in ["OPTIONS", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                if method == operation.method.as_str() && is_here {
                    continue;
                }
                let answer = seen.call(method, &url, &[], "").await;
                if !is_here {
                    assert_eq!(answer.status, 404, "{method} {url}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_document_is_served_where_clients_and_senders_call() {
    let both = node(&[]);
    let apart = node(&[("PUSH_API_LISTEN", "127.0.0.1:0"), ("PUSH_API_KEYS", KEY)]);
    let senders = apart.push_url.replace("/v1/push", "/openapi.json");
    for url in [
        both.url("/openapi.json"),
        apart.url("/openapi.json"),
        senders,
    ] {
        let answer = Seen::default().call("GET", &url, &[], "").await;
        assert_eq!(answer.json(), *DOCUMENT, "{url}");
    }
}

#[test]
fn the_document_has_this_version_and_its_examples_fit() {
    assert_eq!(DOCUMENT["info"]["version"], json!(pushnode::VERSION));
    assert_eq!(bad_examples(), [] as [&str; 0]);
}
