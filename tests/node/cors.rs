//! What a page of another origin may read of the routes of clients.

use crate::common::{Node, node};
use crate::raw::{Answer, HANDSHAKE, Raw};

const PAGE: &str = "https://app.example.org";
const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

async fn ask(node: &Node, method: &str, path: &str, headers: &str) -> Answer {
    let mut raw = Raw::open(node.client_address()).await;
    raw.ask(&format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"
    ))
    .await
}

#[tokio::test]
async fn a_listed_page_reads_every_answer_to_a_client() {
    let listed = [("PUSH_ORIGINS", PAGE)];
    let open = node(&[&listed[..], &[("PUSH_PUBLIC_URL", "ws://127.0.0.1:1")]].concat());
    let strict = node(
        &[
            &listed[..],
            &[("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)],
        ]
        .concat(),
    );
    for (node, path, more, status) in [
        (&open, "/v1/route", "", 200),
        (&open, "/v1/route?strategy=best", "", 400),
        (&strict, "/v1/route", "", 503),
        (&open, "/sse?user=42", "", 200),
        (&open, "/sse?user=42&lastEventId=bye", "", 204),
        (&open, "/sse?user=%01", "", 400),
        (&strict, "/sse", "", 401),
        (&strict, "/sse?token=a.b.c", "", 401),
        (&open, "/ws?user=42", "", 426),
        (&strict, "/ws", HANDSHAKE, 401),
    ] {
        let headers = format!("Origin: {PAGE}\r\n{more}");
        let answer = ask(node, "GET", path, &headers).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        for (name, value) in [
            ("access-control-allow-origin", PAGE),
            ("access-control-allow-credentials", "true"),
            ("vary", "origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}: {answer:?}");
        }
        let answer = ask(node, "GET", path, more).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(answer.header("vary"), Some("origin"), "{path}: {answer:?}");
        let evil = format!("Origin: https://evil.example\r\n{more}");
        let answer = ask(node, "GET", path, &evil).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
        if status != 426 {
            assert_eq!(
                (answer.status, answer.code()),
                (403, "origin".to_owned()),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_same_list() {
    let node = node(&[("PUSH_ORIGINS", PAGE)]);
    for path in ["/sse?user=42", "/v1/route"] {
        let wish = "Access-Control-Request-Method: GET\r\n\
                    Access-Control-Request-Headers: authorization, last-event-id\r\n";
        let headers = format!("Origin: {PAGE}\r\nSec-Fetch-Site: cross-site\r\n{wish}");
        let answer = ask(&node, "OPTIONS", path, &headers).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
        assert_eq!(answer.header("vary"), Some("origin"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET"));
        let allowed = answer.header("access-control-allow-headers").expect("some");
        for name in ["authorization", "last-event-id"] {
            assert!(allowed.split(", ").any(|one| one == name), "{allowed}");
        }
        let evil = headers.replace("app.example.org", "evil.example");
        let answer = ask(&node, "OPTIONS", path, &evil).await;
        assert_eq!((answer.status, answer.code()), (403, "origin".to_owned()));
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // Senders' routes are not for pages.
    let headers = format!("Origin: {PAGE}\r\nAccess-Control-Request-Method: POST\r\n");
    let answer = ask(&node, "OPTIONS", "/v1/push", &headers).await;
    assert_eq!(answer.status, 405, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn any_page_reads_without_cookies_where_all_may_connect() {
    let any = node(&[("PUSH_ORIGINS", "*")]);
    let sandboxed = node(&[("PUSH_ORIGINS", "null")]);
    for (node, origin, told) in [
        (&any, "https://any.example", "*"),
        (&any, "null", "*"),
        (&sandboxed, "null", "null"),
    ] {
        let answer = ask(
            node,
            "GET",
            "/sse?user=42",
            &format!("Origin: {origin}\r\n"),
        )
        .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(told));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}
