//! Which pages may connect: `PUSH_ORIGINS`, apps in web views, and the node's own page.

use crate::common::{Node, node, refused_node};
use crate::raw::{HANDSHAKE, Raw};

async fn connect(node: &Node, host: &str, origin: &str) -> u16 {
    let mut raw = Raw::open(node.client_address()).await;
    let request =
        format!("GET /ws?user=42 HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n{HANDSHAKE}\r\n");
    raw.ask(&request).await.status
}

#[tokio::test]
async fn apps_wildcards_and_pages_without_an_origin_may_be_listed() {
    let list = "https://*.example.org, capacitor://localhost, tauri://localhost, file://, null, \
                chrome-extension://abcdefghijklmnopabcdefghijklmnop";
    let listed = node(&[("PUSH_ORIGINS", list)]);
    let other = node(&[("PUSH_ORIGINS", "https://app.example.net")]);
    for (origin, status) in [
        ("https://a.example.org", 101),
        ("https://A.Example.org:443", 101),
        ("https://a.b.example.org", 403),
        ("https://example.org", 403),
        ("capacitor://localhost", 101),
        ("tauri://localhost", 101),
        ("file://", 101),
        ("null", 101),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", 101),
        ("chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba", 403),
        ("ionic://localhost", 403),
    ] {
        assert_eq!(connect(&listed, "x", origin).await, status, "{origin}");
        assert_eq!(connect(&other, "x", origin).await, 403, "{origin}");
    }
}

#[tokio::test]
async fn the_nodes_own_page_may_connect_whatever_is_listed() {
    let nodes = [
        node(&[]),
        node(&[("PUSH_ORIGINS", "https://app.example.net")]),
    ];
    for node in &nodes {
        let own = node.client_address().to_string();
        for (host, origin, status) in [
            (own.as_str(), format!("http://{own}"), 101),
            (
                "push.example.org",
                "https://push.example.org".to_owned(),
                101,
            ),
            (
                "push.example.org:443",
                "https://push.example.org".to_owned(),
                101,
            ),
            (
                "push.example.org:80",
                "http://push.example.org".to_owned(),
                101,
            ),
            (
                "push.example.org",
                "https://push.example.org:443".to_owned(),
                101,
            ),
            (
                "Push.Example.org",
                "https://push.example.org".to_owned(),
                101,
            ),
            (
                "push.example.org",
                "https://push.example.org/".to_owned(),
                101,
            ),
            (
                "push.example.org:8443",
                "https://push.example.org:8443".to_owned(),
                101,
            ),
            (
                "push.example.org:8443",
                "https://push.example.org".to_owned(),
                403,
            ),
            (
                "push.example.org",
                "https://evil.example.net".to_owned(),
                403,
            ),
            (
                "push.example.org",
                "capacitor://push.example.org".to_owned(),
                403,
            ),
        ] {
            assert_eq!(
                connect(node, host, &origin).await,
                status,
                "{host} {origin}"
            );
        }
    }
}

#[test]
fn an_origin_that_could_never_match_stops_the_start() {
    for bad in [
        "https://*",
        "https://a*.example.org",
        "wss://a.org",
        "app.example.org",
    ] {
        let (code, words) = refused_node(&[("PUSH_ORIGINS", bad)]);
        assert_eq!(code, 64, "{bad}: {words}");
        assert!(
            words.contains("PUSH_ORIGINS has") && words.contains(bad),
            "{words}"
        );
    }
}
