//! Calls whose answers are held to the document, and noted.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};

use crate::common::openapi::{Answer, judge, operations};
use crate::common::{Node, http};
use crate::raw::Raw;
use crate::sender::JSON;

/// What has been answered so far.
#[derive(Default)]
pub(super) struct Seen(pub(super) BTreeSet<String>);

impl Seen {
    /// Notes an answer; fails if it is not as the document says.
    fn note(&mut self, method: &Method, url: &str, answer: &Answer) {
        let what = judge(method, url, answer).unwrap_or_else(|words| panic!("{words}"));
        self.0.extend(what);
    }

    pub(super) async fn call(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let method: Method = method.parse().expect("a method");
        let body = body.into();
        let has_body = body.as_bytes().is_none_or(|bytes| !bytes.is_empty());
        let mut request = http().request(method.clone(), url).body(body);
        if has_body && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", JSON);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{method} {url}: {error}"));
        let answer = Answer::read(response).await;
        self.note(&method, url, &answer);
        answer
    }

    /// Sends a request; the answer must be the one of this name.
    pub(super) async fn expect(
        &mut self,
        name: &str,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) {
        let before = self.0.clone();
        self.0.clear();
        let answer = self.call(method, url, headers, body.to_owned()).await;
        assert!(
            self.0.contains(name),
            "expected {name}: {:?}, {answer:?}",
            self.0
        );
        self.0.extend(before);
    }

    /// Calls each operation of these in bytes, and without reading what may come before.
    pub(super) async fn call_each(
        &mut self,
        node: &Node,
        header: &str,
        with_operators: bool,
    ) -> Vec<u16> {
        let mut statuses = Vec::new();
        for operation in operations() {
            let address = match operation.has_tag("operations") {
                true if !with_operators => continue,
                true => node.admin,
                false => node.client_address(),
            };
            let (method, path) = (operation.method.as_str(), operation.example_path());
            let mut raw = Raw::open(address).await;
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n");
            raw.try_send(head.as_bytes()).await;
            statuses.push(self.hear(method, &path, &mut raw).await);
        }
        statuses.dedup();
        statuses
    }

    /// Reads the answer to what was sent already.
    pub(super) async fn hear(&mut self, method: &str, path: &str, raw: &mut Raw) -> u16 {
        let heard = raw.answer().await;
        let lines = heard.head.lines().skip(1);
        let header = |(name, value): (&str, &str)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, value.parse().expect("a value"))
        };
        let headers = lines.filter_map(|line| line.split_once(": ")).map(header);
        let method: Method = method.parse().expect("a method");
        let body = match method {
            // The refusal at the door comes before the method is read; clients ignore its body.
            Method::HEAD => Vec::new(),
            _ => heard.body.into_bytes(),
        };
        let answer = Answer {
            status: heard.status,
            headers: headers.collect::<HeaderMap>(),
            body,
        };
        self.note(&method, path, &answer);
        heard.status
    }
}
