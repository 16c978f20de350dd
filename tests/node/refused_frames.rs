//! What a page sees of a refused handshake: frames after the upgrade, for `refuse=frame`.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::common::passes::ask;
use crate::common::tokens::{Issuer, KeyServer, claims};
use crate::common::{Client, Node, node, refused_handshake};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Asks for frames, as `pushnode.v1`, with this query and origin.
async fn open(node: &Node, query: &str, origin: Option<&str>) -> Client {
    let url = format!("ws://{}/ws?refuse=frame&{query}", node.client_address());
    let mut request = url.into_client_request().expect("a URL");
    let headers = request.headers_mut();
    headers.insert(
        "sec-websocket-protocol",
        "pushnode.v1".parse().expect("a header"),
    );
    if let Some(origin) = origin {
        headers.insert("origin", origin.parse().expect("a header"));
    }
    let (socket, answer) = tokio_tungstenite::connect_async(request)
        .await
        .expect("the upgrade");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "pushnode.v1");
    Client {
        socket,
        ready: None,
    }
}

/// Is told `bye` with this error, closed with this code, and counted as any refusal.
async fn is_refused(node: &Node, query: &str, origin: Option<&str>, code: u16, error: &str) {
    let counted = format!("reason=\"{error}\"");
    let before = node.labelled("handshakes_refused_total", &counted).await;
    let mut client = open(node, query, origin).await;
    let bye = client.json().await;
    let told = (&bye["type"], &bye["code"], &bye["error"]);
    assert_eq!(told, (&json!("bye"), &json!(code), &json!(error)), "{bye}");
    assert!(bye["message"].is_string(), "{bye}");
    assert_eq!(bye["retry_ms"].is_u64(), code == 4503, "{bye}");
    let (closed, reason) = client.close_frame().await;
    assert_eq!((closed, &json!(reason)), (code, &bye["reason"]));
    client.end().await;
    let after = node.labelled("handshakes_refused_total", &counted).await;
    assert_eq!(after - before, 1.0, "{error}");
}

#[tokio::test]
async fn a_page_sees_why_it_is_refused() {
    let signer = Issuer::secret(SECRET);
    let settings = [
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWT_SECRETS", SECRET),
        ("PUSH_TOPICS", "news"),
        ("PUSH_ORIGINS", "https://app.example"),
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ];
    let node = node(&settings);
    let token = |user: &str| format!("token={}", signer.token(&claims(user)));
    let mut old = claims("1");
    old["exp"] = json!(1_000_000_000);
    let expired = format!("token={}", signer.token(&old));
    for (query, code, error) in [
        (String::new(), 4401, "token_missing"),
        ("token=x".to_owned(), 4401, "token_invalid"),
        (expired, 4401, "token_expired"),
        (format!("{}&topics=chat", token("1")), 4403, "forbidden"),
        (format!("{}&since=x", token("1")), 4400, "bad_request"),
        (format!("{}&user=2", token("1")), 4400, "wrong_user"),
    ] {
        is_refused(&node, &query, None, code, error).await;
    }
    let foreign = Some("https://evil.example");
    is_refused(&node, &token("1"), foreign, 4403, "origin").await;
    let mut first = open(&node, &token("1"), Some("https://app.example")).await;
    assert_eq!(
        first.json().await["type"],
        "ready",
        "who is let in notices nothing"
    );
    is_refused(&node, &token("1"), None, 4409, "too_many_connections").await;
    let ban = json!({"seconds": 300});
    ask("PUT", &node.url("/v1/users/2/ban"), &ban).await;
    is_refused(&node, &token("2"), None, 4403, "banned").await;
    first.send(r#"{"type":"ping"}"#).await;
    assert_eq!(first.json().await["type"], "pong");
}

#[tokio::test]
async fn a_page_is_told_when_to_come_back() {
    let keys = KeyServer::start(&[]);
    keys.fail();
    let settings = [("PUSH_AUTH", "jwt"), ("PUSH_JWKS_URL", &keys.url())];
    let node = node(&settings);
    let token = Issuer::p256().token(&claims("1"));
    let query = format!("token={token}");
    is_refused(&node, &query, None, 4503, "keys_unavailable").await;
}

/// Nobody is upgraded who did not ask for it, or could not read it.
#[tokio::test]
async fn others_are_refused_as_ever() {
    let settings = [("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
    let node = node(&settings);
    let url = format!("ws://{}/ws", node.client_address());
    let (status, _) = refused_handshake(&format!("{url}?refuse=frame")).await;
    assert_eq!(status, 401, "a plain client");
    for query in ["", "refuse=no", "refuse="] {
        let mut request = format!("{url}?{query}").into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("sec-websocket-protocol", "pushnode.v1".parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 401),
            other => panic!("{query}: {other:?}"),
        }
    }
    let answer = reqwest::get(node.url("/ws?refuse=frame")).await.unwrap();
    assert_eq!(answer.status(), 426, "no handshake");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "upgrade_required");
}

/// A binary frame is taken as the text that its sender meant.
#[tokio::test]
async fn an_object_may_come_in_a_binary_frame() {
    use futures::SinkExt as _;
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("1")).await;
    for (bytes, expected) in [
        (&br#"{"type":"ping"}"#[..], "pong"),
        (br#"{"type":"subscribe","topic":"news","ref":1}"#, "reply"),
        (b"\x01\x02", "error"),
        (b"\xff\xfe", "error"),
    ] {
        let frame = Message::binary(bytes.to_vec());
        client.socket.send(frame).await.expect("sent");
        let object = client.json().await;
        assert_eq!(object["type"], expected, "{object}");
        if expected == "error" {
            assert_eq!(object["code"], "bad_message", "{object}");
        }
    }
}
