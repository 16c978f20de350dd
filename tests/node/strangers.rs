//! A node without API keys, and requests that web pages from elsewhere have a browser send to it.

use reqwest::Method;
use serde_json::json;

use crate::common::openapi::operations;
use crate::common::{Client, Node, http, node};
use crate::raw::{Answer, HANDSHAKE, Raw};
use crate::sender::push;

const EVIL: &str = "https://evil.example";

async fn ask(node: &Node, head: &str, body: &str) -> Answer {
    let mut raw = Raw::open(node.client_address()).await;
    let length = body.len();
    raw.send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
        .await;
    raw.answer().await
}

#[tokio::test]
async fn a_foreign_page_neither_pushes_nor_kicks_nor_drains() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let name = node.id.split('.').next().expect("a name");
    let to_client = r#"{"to":{"user":"42"},"data":"evil"}"#;
    // As `no-cors` requests, forms and blobs come.
    for (path, body) in [
        ("/v1/push", to_client),
        ("/v1/call", to_client),
        ("/v1/commands", r#"{"cmd":"drain"}"#),
        (&format!("/v1/nodes/{name}/drain"), ""),
        ("/v1/sessions", r#"{"user":"42"}"#),
    ] {
        for kind in [
            "Content-Type: text/plain;charset=UTF-8\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "Content-Type: application/json\r\n",
            "",
        ] {
            for page in [
                format!("Origin: {EVIL}\r\n"),
                "Origin: null\r\n".to_owned(),
                "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n".to_owned(),
                "Sec-Fetch-Site: cross-site\r\n".to_owned(),
            ] {
                let host = node.client_address();
                let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{kind}{page}");
                let answer = ask(&node, &head, body).await;
                assert_eq!(answer.status, 403, "{head}{answer:?}");
                assert_eq!(answer.code(), "origin", "{head}");
                assert_eq!(answer.header("access-control-allow-origin"), None);
            }
        }
    }
    push(&node, json!({"to": {"user": "42"}, "data": "marker"})).await;
    client.hears_next("marker").await;
}

#[tokio::test]
async fn a_body_without_a_key_is_json_by_its_type() {
    let open = node(&[]);
    let keyed = node(&[("PUSH_API_KEYS", "a-key-of-some-length")]);
    let key = "Authorization: Bearer a-key-of-some-length\r\n";
    let body = r#"{"to":{"user":"42"},"data":1}"#;
    for (node, key, kind, status) in [
        (&open, "", "Content-Type: application/json\r\n", 200),
        (&open, "", "Content-Type: application/x-ndjson\r\n", 200),
        (&open, "", "", 415),
        (
            &open,
            "",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            415,
        ),
        (&keyed, key, "", 200),
        (
            &keyed,
            key,
            "Content-Type: application/x-www-form-urlencoded\r\n",
            415,
        ),
    ] {
        let head = format!("POST /v1/push HTTP/1.1\r\nHost: x\r\n{key}{kind}");
        let answer = ask(node, &head, body).await;
        assert_eq!(answer.status, status, "{head}{answer:?}");
    }
    let head = "POST /v1/call HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n";
    assert_eq!(
        ask(&open, head, body).await.status,
        415,
        "lines are for pushes"
    );
}

/// The page's own name resolves to the node: to the browser the two are one origin.
#[tokio::test]
async fn a_page_that_took_the_nodes_address_for_its_name_is_refused() {
    let node = node(&[]);
    let port = node.client_address().port();
    let get = async |path: &str, headers: &str| {
        let head = format!("GET {path} HTTP/1.1\r\n{headers}");
        ask(&node, &head, "").await
    };
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1.evil.example",
    ] {
        for path in ["/v1/users/42", "/v1/nodes", "/v1/stats", "/v1/topics"] {
            let answer = get(path, &format!("Host: {host}\r\n")).await;
            assert_eq!(
                (answer.status, answer.code()),
                (403, "host".to_owned()),
                "{path}"
            );
        }
        let mut raw = Raw::open(node.admin).await;
        let metrics = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = raw.ask(&metrics).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "host".to_owned()),
            "{host}"
        );
    }
    let rebound = format!("Host: evil.example:{port}\r\n");
    let page = format!("{rebound}Origin: http://evil.example:{port}\r\n");
    for (path, headers) in [
        ("/ws?user=42", format!("{page}{HANDSHAKE}")),
        ("/sse?user=42", page.clone()),
        ("/sse?user=42", rebound.clone()),
        ("/v1/route", rebound),
    ] {
        let answer = get(path, &headers).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "host".to_owned()),
            "{path} {headers}"
        );
    }
    // The names of this machine, its addresses, and those without a dot.
    for host in [
        "localhost",
        "127.0.0.1:1",
        "[::1]",
        "app.localhost:80",
        "192.0.2.1",
        "node-a",
    ] {
        let answer = get("/v1/nodes", &format!("Host: {host}\r\n")).await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
    }
    assert_eq!(node.metric("connects_total").await, 0.0);
}

#[tokio::test]
async fn an_operator_gives_a_node_further_names() {
    let settings = [("PUSH_ALLOWED_HOSTS", "push.example.org, *.internal.example")];
    let node = node(&settings);
    let port = node.client_address().port();
    for (host, status) in [
        ("push.example.org", 200),
        ("a.internal.example", 200),
        ("evil.example", 403),
    ] {
        let head = format!("GET /v1/nodes HTTP/1.1\r\nHost: {host}\r\n");
        assert_eq!(ask(&node, &head, "").await.status, status, "{host}");
    }
    let head = format!(
        "GET /ws?user=42 HTTP/1.1\r\nHost: push.example.org:{port}\r\n\
         Origin: http://push.example.org:{port}\r\n{HANDSHAKE}"
    );
    assert_eq!(ask(&node, &head, "").await.status, 101);
    // With a key, senders may call from anywhere and by any name.
    let key = "a-key-of-some-length";
    let keyed = crate::common::node(&[("PUSH_API_KEYS", key)]);
    let head = format!(
        "GET /v1/nodes HTTP/1.1\r\nHost: evil.example\r\nOrigin: {EVIL}\r\n\
         Authorization: Bearer {key}\r\n"
    );
    assert_eq!(ask(&keyed, &head, "").await.status, 200);
}

#[tokio::test]
async fn a_stream_that_a_foreign_page_embeds_is_refused() {
    let node = node(&[]);
    let host = node.client_address();
    for (site, status) in [
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 200),
        ("none", 200),
    ] {
        let mut raw = Raw::open(node.client_address()).await;
        let request =
            format!("GET /sse?user=42 HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: {site}\r\n\r\n");
        let answer = raw.ask(&request).await;
        assert_eq!(answer.status, status, "{site}: {answer:?}");
    }
}

#[tokio::test]
async fn health_is_told_under_any_name_but_not_to_pages() {
    let node = node(&[]);
    for path in ["/healthz", "/readyz"] {
        let get = async |name: &str, value: &str| {
            let request = http().get(node.admin_url(path)).header(name, value);
            request.send().await.expect("an answer").status()
        };
        assert_eq!(get("host", "push.example.org").await, 200, "{path}");
        assert_eq!(get("origin", EVIL).await, 403, "{path}");
        assert_eq!(get("sec-fetch-site", "cross-site").await, 403, "{path}");
    }
}

#[tokio::test]
async fn a_refused_origin_and_a_refused_name_are_logged_once_with_the_setting() {
    let node = node(&[("PUSH_LOG", "info")]);
    for n in 0..3 {
        let head =
            format!("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\nOrigin: {EVIL}{n}\r\n{HANDSHAKE}");
        assert_eq!(ask(&node, &head, "").await.status, 403);
        let head = format!("GET /v1/nodes HTTP/1.1\r\nHost: evil{n}.example\r\n");
        assert_eq!(ask(&node, &head, "").await.status, 403);
    }
    for (setting, first) in [
        ("PUSH_ORIGINS", "https://evil.example0"),
        ("PUSH_ALLOWED_HOSTS", "evil0.example"),
    ] {
        node.until_logged(first).await;
        let log = node.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(setting)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(
            lines[0].contains(first) && lines[0].contains("INFO"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let node = node(&[("PUSH_PUBLIC_URL", "ws://127.0.0.1:1")]);
    for operation in operations() {
        if operation.method != Method::GET || ["/ws", "/sse"].contains(&operation.path) {
            continue;
        }
        let path = operation.example_path();
        let url = match operation.has_tag("operations") {
            true => node.admin_url(&path),
            false => node.url(&path),
        };
        let ask = async |method| {
            http()
                .request(method, &url)
                .send()
                .await
                .expect("an answer")
        };
        let (get, head) = (ask(Method::GET).await, ask(Method::HEAD).await);
        assert_eq!(head.status(), get.status(), "{path}");
        assert_eq!(
            head.headers()["content-type"],
            get.headers()["content-type"],
            "{path}"
        );
        assert_eq!(head.text().await.expect("text"), "", "{path}");
    }
}
