//! A sender: what it asks for and how it is answered.

use reqwest::Method;
use serde_json::Value;

use crate::common::{Node, http, openapi, post};
use crate::raw::{Answer, Raw};

pub(crate) const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";

pub(crate) async fn push(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

/// An answer without id and targets: status, connections, nodes.
pub(crate) fn summary(answer: &Value) -> (&str, u64, u64) {
    let count = |name: &str| answer[name].as_u64().expect("a count");
    let status = answer["status"].as_str().expect("a status");
    (status, count("connections"), count("nodes"))
}

/// Sends a request of this method; answers status, `Allow` and body, which must be as
/// `openapi.json` says.
pub(crate) async fn call(method: &str, url: &str) -> (u16, String, Value) {
    let method: Method = method.parse().expect("a method");
    let response = http().request(method.clone(), url).send().await;
    let answer = openapi::read(method, url, response.expect("an answer")).await;
    let allow = answer.header("allow").unwrap_or_default().to_owned();
    (answer.status, allow, answer.json())
}

/// A push as raw HTTP.
pub(crate) async fn post_raw(node: &Node, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::open(node.client_address()).await;
    let json = match headers.to_ascii_lowercase().contains("content-type") {
        true => "",
        false => "Content-Type: application/json\r\n",
    };
    let head = format!("POST /v1/push HTTP/1.1\r\nHost: x\r\n{json}{headers}\r\n");
    raw.try_send(&[head.as_bytes(), body].concat()).await;
    raw.answer().await
}
