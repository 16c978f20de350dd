//! What operators see: health, readiness, metrics.

use serde_json::{Value, json};

use crate::common::{Client, http, node};
use crate::sender::{call, push};

#[tokio::test]
async fn a_node_is_healthy_and_ready() {
    let node = node(&[]);
    let (status, _, body) = call("GET", &node.admin_url("/healthz")).await;
    assert_eq!((status, body), (200, json!({"status": "ok"})));
    let (status, _, body) = call("GET", &node.admin_url("/readyz")).await;
    assert_eq!((status, body), (200, json!({"status": "ready"})));
    for path in ["/healthz", "/readyz"] {
        let (status, _, body) = call("HEAD", &node.admin_url(path)).await;
        assert_eq!((status, body), (200, Value::Null), "{path}");
    }
    for path in ["/ws?user=1", "/v1/push", "/v1/nodes", "/"] {
        let (status, _, _) = call("GET", &node.admin_url(path)).await;
        assert_eq!(status, 404, "{path} is not for operators");
    }
}

#[tokio::test]
async fn metrics_tell_what_happened_and_name_no_user() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("secret-user")).await;
    push(
        &node,
        json!({"to": {"user": "secret-user"}, "data": 1, "wait": "written"}),
    )
    .await;
    push(&node, json!({"to": {"user": "nobody"}, "data": 1})).await;
    assert_eq!(client.json().await, 1);
    let answer = http().get(node.admin_url("/metrics")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let content_type = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "pushnode_connections 1",
        "pushnode_connects_total 1",
        "pushnode_pushes_total{status=\"written\"} 1",
        "pushnode_pushes_total{status=\"offline\"} 1",
        "pushnode_deliveries_total 1",
        "pushnode_written_total 1",
        "pushnode_redis_up 1",
        "pushnode_accept_errors_total 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing:\n{text}"
        );
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("pushnode_"), "{line}");
    }
    assert!(!text.contains("secret-user"), "{text}");
}

#[tokio::test]
async fn the_page_to_try_it_with_is_whole_and_asks_for_nothing_elsewhere() {
    let node = node(&[]);
    let answer = http().get(node.url("/")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let content_type = answer.headers()["content-type"].to_str().unwrap();
    assert_eq!(content_type, "text/html; charset=utf-8");
    let text = answer.text().await.unwrap();
    assert!(text.contains("</html>"), "{text}");
}

#[tokio::test]
async fn the_script_for_pages_has_its_version_and_is_not_sent_twice() {
    let node = node(&[]);
    let url = node.url("/pushnode.js");
    let answer = http().get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(headers["cache-control"], "public, max-age=300");
    let text = answer.text().await.unwrap();
    let package = include_str!("../../clients/js/package.json");
    let package: serde_json::Value = serde_json::from_str(package).unwrap();
    let version = package["version"].as_str().unwrap();
    let first = format!("/*! pushnode-js {version}, MIT */\n");
    assert!(text.starts_with(&first), "{}", &text[..80]);

    let tag = headers["etag"].to_str().unwrap();
    for (known, status) in [
        (tag.to_owned(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"other\", {tag}"), 304),
        ("\"other\"".to_owned(), 200),
    ] {
        let request = http().get(&url).header("if-none-match", &known);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{known}");
        assert_eq!(answer.headers()["etag"], tag);
        assert_eq!(answer.text().await.unwrap().is_empty(), status == 304);
    }
}
