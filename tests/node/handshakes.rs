//! Parameters and headers of which one counts, and the subprotocol: what is there twice is not
//! guessed at.

use crate::common::{Client, Node, node};
use crate::raw::{Answer, HANDSHAKE, Raw};

async fn ask(node: &Node, request: &str) -> Answer {
    let mut raw = Raw::open(node.client_address()).await;
    raw.ask(request).await
}

#[tokio::test]
async fn repeated_topics_add_up() {
    let node = node(&[]);
    let client = Client::v1(&format!("{}&topics=a&topics=b,c", node.ws_url("42"))).await;
    let ready = client.ready.expect("ready");
    let mut topics: Vec<_> = ready["topics"].as_array().expect("a list").iter().collect();
    topics.sort_by_key(|topic| topic.as_str());
    assert_eq!(topics, ["a", "b", "c"]);
    // Empty is not there.
    Client::v1(&format!("{}&since=&topics=", node.ws_url("42"))).await;
}

#[tokio::test]
async fn a_repeated_parameter_that_counts_once_is_refused() {
    let node = node(&[("PUSH_PUBLIC_URL", "ws://127.0.0.1:1")]);
    for path in [
        "/ws?user=alice&user=mallory",
        "/ws?user=alice&user=alice",
        "/ws?user=42&device=a&device=b",
        "/ws?user=42&since=0&since=0",
        "/ws?user=42&token=a&token=b",
        "/ws?user=42&presence=true&presence=true",
        "/sse?user=alice&user=mallory",
        "/sse?user=42&lastEventId=1.1-1&lastEventId=1.1-2",
        "/v1/route?strategy=hash&strategy=hash",
        "/v1/topics?limit=1&limit=2",
        "/v1/topics/a?members=true&members=false",
        "/v1/users/42/trace?id=a&id=b",
    ] {
        let headers = if path.starts_with("/ws") {
            HANDSHAKE
        } else {
            ""
        };
        let answer = ask(
            &node,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
        )
        .await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(
            answer.body.contains("must be there once"),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_request_has_one_host_and_one_of_each_header_that_counts_once() {
    let node = node(&[]);
    for (version, headers, status) in [
        ("1.1", "Host: x\r\n", 200),
        ("1.0", "", 200),
        ("1.1", "Host:\r\n", 200),
        ("1.1", "", 400),
        ("1.1", "Host: x\r\nHost: x\r\n", 400),
        ("1.0", "Host: x\r\nHost: x\r\n", 400),
        ("1.1", "Host: x y\r\n", 400),
        ("1.1", "Host: u@x\r\n", 400),
        ("1.1", "Host: x:80:80\r\n", 400),
        (
            "1.1",
            "Host: x\r\nOrigin: http://x\r\nOrigin: https://evil.example\r\n",
            400,
        ),
        (
            "1.1",
            "Host: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n",
            400,
        ),
        (
            "1.1",
            "Host: x\r\nLast-Event-ID: a\r\nLast-Event-ID: b\r\n",
            400,
        ),
        ("1.1", "Host: x\r\nCookie: a\r\nCookie: b\r\n", 200),
    ] {
        let answer = ask(&node, &format!("GET / HTTP/{version}\r\n{headers}\r\n")).await;
        assert_eq!(answer.status, status, "{version} {headers}: {answer:?}");
        if status == 400 {
            assert_eq!(answer.code(), "bad_request", "{headers}");
        }
    }
    // The host of an absolute target counts, and not the other (RFC 9112, 3.2.2).
    let request = |target: &str, host: &str| {
        format!("GET http://{target}/v1/nodes HTTP/1.1\r\nHost: {host}\r\n\r\n")
    };
    assert_eq!(
        ask(&node, &request("localhost", "evil.example"))
            .await
            .status,
        200
    );
    assert_eq!(
        ask(&node, &request("evil.example", "localhost"))
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn a_subprotocol_is_chosen_as_it_was_offered() {
    let node = node(&[]);
    for (offer, chosen) in [
        ("pushnode.v1", Some("pushnode.v1")),
        ("PUSHNODE.V1", None),
        ("other, Pushnode.v1", None),
        ("PushNode.V1, pushnode.v1", Some("pushnode.v1")),
    ] {
        let request = format!(
            "GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}Sec-WebSocket-Protocol: {offer}\r\n\r\n"
        );
        let answer = ask(&node, &request).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-protocol"), chosen, "{offer}");
    }
}
