//! Senders that are refused in the middle of a long body: each of them sees why.

use serde_json::json;

use crate::common::{Client, node};
use crate::raw::Raw;

const LONG: usize = 5_000_000;
/// Of each refusal: an answer that is lost is lost now and then only.
const TIMES: usize = 6;

#[tokio::test]
async fn every_sender_of_a_long_body_sees_why_it_is_refused() {
    let key = "0123456789abcdef";
    let node = node(&[("PUSH_API_KEYS", key)]);
    let body = vec![b' '; LONG];
    for (request, status) in [
        (
            format!("POST /v1/push HTTP/1.1\r\nAuthorization: Bearer {key}"),
            413,
        ),
        (
            "POST /v1/push HTTP/1.1\r\nAuthorization: Bearer wrong".to_owned(),
            401,
        ),
        ("POST /v1/nothing HTTP/1.1".to_owned(), 404),
        ("PUT /v1/push HTTP/1.1".to_owned(), 405),
    ] {
        let head = format!(
            "{request}\r\nHost: x\r\nContent-Type: application/json\r\n\
            Content-Length: {LONG}\r\n\r\n"
        );
        for _ in 0..TIMES {
            let mut raw = Raw::open(node.client_address()).await;
            raw.send(head.as_bytes()).await;
            // As most clients do: all of it, and only then the answer.
            raw.send(&body).await;
            let answer = raw.answer().await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            assert_eq!(answer.header("keep-alive"), None, "{answer:?}");
            raw.end().await;
        }
    }
}

#[tokio::test]
async fn a_sender_that_asks_first_hears_it_before_it_sends_anything() {
    let node = node(&[]);
    let head = |length: usize| {
        format!(
            "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
            Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut raw = Raw::open(node.client_address()).await;
    let answer = raw.ask(&head(LONG)).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    raw.end().await;

    let mut client = Client::plain(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": "asked first"}).to_string();
    let mut raw = Raw::open(node.client_address()).await;
    assert_eq!(raw.ask(&head(push.len())).await.status, 100);
    assert_eq!(raw.ask(&push).await.status, 200);
    client.hears_next("asked first").await;
}

#[tokio::test]
async fn a_short_body_that_is_refused_keeps_its_connection() {
    let node = node(&[("PUSH_API_KEYS", "0123456789abcdef")]);
    let mut raw = Raw::open(node.client_address()).await;
    for _ in 0..3 {
        let answer = raw
            .ask("POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            .await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("keep-alive").is_some(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_plain_json_is_refused_by_name_and_a_byte_order_mark_is_skipped() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": "marked"}).to_string();
    let post = async |headers: &str, body: &[u8]| {
        let mut raw = Raw::open(node.client_address()).await;
        let head = format!(
            "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
            Content-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        raw.send(&[head.as_bytes(), body].concat()).await;
        raw.answer().await
    };
    for encoding in ["gzip", "br"] {
        let header = format!("Content-Encoding: {encoding}\r\n");
        let answer = post(&header, b"\x1F\x8B\x08\0").await;
        assert_eq!(answer.status, 415, "{answer:?}");
        assert!(answer.body.contains("Content-Encoding"), "{answer:?}");
    }
    let marked = [b"\xEF\xBB\xBF", push.as_bytes()].concat();
    let answer = post("Content-Encoding: identity\r\n", &marked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    client.hears_next("marked").await;
}

#[tokio::test]
async fn a_client_of_http_2_is_told_that_this_is_http_1() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    raw.send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat())
        .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 505, "{answer:?}");
    assert_eq!(answer.code(), "http_version", "{answer:?}");
    raw.end().await;
}
