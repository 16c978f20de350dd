//! `openapi.json` is true: every answer that it promises can be had, none comes that it does not
//! promise, and each is as it says.

mod calls;
mod clients;
mod passes;
mod seen;

use std::net::SocketAddr;
use std::path::Path;

use futures::future::join_all;
use serde_json::json;

use self::seen::Seen;
use crate::common::openapi::{DOCUMENT, OF_CLUSTERS, bad_examples, operations, promised};
use crate::common::{Client, node, start_node};
use crate::raw::Raw;
use crate::sender::{JSON, NDJSON};

const KEY: &str = "a-key-of-some-length";

#[tokio::test]
async fn every_answer_of_the_document_is_seen_and_no_other() {
    let (mut seen, mut slow) = (Seen::default(), Seen::default());
    let others = async {
        clients::come(&mut seen).await;
        any_sender(&mut seen).await;
        strangers(&mut seen).await;
        pushes(&mut seen).await;
        calls::of_senders(&mut seen).await;
        calls::to_nodes(&mut seen).await;
        users_and_nodes(&mut seen).await;
        topics(&mut seen).await;
        messages(&mut seen).await;
        passes::of_senders(&mut seen).await;
        passes::of_clients(&mut seen).await;
        passes::without_redis(&mut seen).await;
        operators(&mut seen).await;
        without_redis(&mut seen).await;
        full(&mut seen).await;
        large_headers(&mut seen).await;
        clients::come_too_late(&mut seen).await;
    };
    tokio::join!(others, slow_bodies(&mut slow));
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

/// What every sender may hear, whatever it asks for.
async fn any_sender(seen: &mut Seen) {
    let node = node(&[("PUSH_API_KEYS", KEY), ("PUSH_AUTH", "session")]);
    let authorization = format!("Bearer {KEY}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", JSON),
    ];
    let large = format!(r#"{{"data":"{}"}}"#, "x".repeat(1 << 20));
    for operation in operations() {
        let (id, method) = (operation.id(), operation.method.as_str());
        let url = node.url(&operation.example_path());
        let name = |what: &str| format!("{id} {what}");
        if operation.needs_key() {
            let name = name("401 unauthorized");
            seen.expect(&name, method, &url, &[], "").await;
        }
        let examples = operation.example_bodies();
        for example in &examples {
            let answer = seen.call(method, &url, &headers, example.to_string()).await;
            assert_ne!(answer.status, 400, "{id}: {example}");
        }
        if !examples.is_empty() {
            let (bad, too_large) = (name("400 bad_request"), name("413 too_large"));
            seen.expect(&bad, method, &url, &headers, "{}").await;
            seen.expect(&too_large, method, &url, &headers, &large)
                .await;
        }
    }
}

/// What web pages from elsewhere hear of a node without keys, whatever they ask for.
async fn strangers(seen: &mut Seen) {
    let node = node(&[]);
    let page = [("origin", "https://evil.example"), ("content-type", JSON)];
    let name = [("host", "evil.example"), ("content-type", JSON)];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for operation in operations() {
        let (id, method) = (operation.id(), operation.method.as_str());
        let path = operation.example_path();
        let url = match operation.has_tag("operations") {
            true => node.admin_url(&path),
            false if operation.needs_key() => node.url(&path),
            false => continue,
        };
        let word = |code: &str| match method {
            "HEAD" => format!("{id} 403"),
            _ => format!("{id} 403 {code}"),
        };
        seen.expect(&word("origin"), method, &url, &page, "").await;
        // Health is told under any name.
        if operation.needs_key() || path == "/metrics" {
            seen.expect(&word("host"), method, &url, &name, "").await;
        }
        if !operation.example_bodies().is_empty() {
            let word = format!("{id} 415 content_type");
            seen.expect(&word, method, &url, &form, "a=b").await;
        }
    }
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

    let many = vec![one; 10_001].join("\n");
    seen.expect("push 413 too_many", "POST", url, &lines, &many)
        .await;
    let text = [key, ("content-type", "text/plain")];
    seen.expect("push 415 content_type", "POST", url, &text, one)
        .await;
}

/// Ten seconds of waiting, for all bodies at once.
async fn slow_bodies(seen: &mut Seen) {
    let node = node(&[]);
    let mut taking = operations();
    taking.retain(|operation| !operation.example_bodies().is_empty());
    let heard = taking.iter().map(async |operation| {
        let (method, path) = (operation.method.as_str(), operation.example_path());
        let mut seen = Seen::default();
        let mut raw = Raw::open(node.client_address()).await;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{");
        raw.send(head.as_bytes()).await;
        assert_eq!(seen.hear(method, &path, &mut raw).await, 408);
        seen.0
    });
    seen.0.extend(join_all(heard).await.into_iter().flatten());
}

async fn users_and_nodes(seen: &mut Seen) {
    let node = node(&[("PUSH_API_KEYS", KEY), ("PUSH_STORE_ADDRESS", "true")]);
    let client = Client::v1(&format!("{}&device=phone", node.ws_url("42"))).await;
    let authorization = format!("Bearer {KEY}");
    let key = [("authorization", authorization.as_str())];
    let (user, bad_user) = (node.url("/v1/users/42"), node.url("/v1/users/%00"));
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
        ("traceUser 200", "GET", &format!("{user}/trace?id=m1")),
        (
            "traceUser 400 bad_request",
            "GET",
            &format!("{user}/trace?id="),
        ),
        ("kickUser 200", "DELETE", &user),
        ("listNodes 200", "GET", &nodes),
        ("drainNode 404 not_found", "POST", &nobody),
    ] {
        seen.expect(name, method, url, &key, "").await;
    }
    let blind = start_node(&[("PUSH_TRACE", "0")]);
    let name = "traceUser 404 not_found";
    let url = blind.url("/v1/users/42/trace");
    seen.expect(name, "GET", &url, &[], "").await;
}

async fn topics(seen: &mut Seen) {
    let node = node(&[]);
    let client = Client::v1(&format!("{}&topics=a,b", node.ws_url("42"))).await;
    for body in [
        r#"{"users":["42","nobody"],"topics":null}"#,
        r#"{"topics":["a","none"]}"#,
    ] {
        let url = node.url("/v1/presence");
        seen.expect("presence 200", "POST", &url, &[], body).await;
    }
    let connection = client.connection();
    let of_connection = format!("/v1/topics/news/connections/{connection}");
    for (name, method, path) in [
        ("listTopics 200", "GET", "/v1/topics"),
        ("listTopics 200", "GET", "/v1/topics?limit=1&after=a"),
        ("listTopics 400 bad_request", "GET", "/v1/topics?limit=0"),
        ("getTopic 200", "GET", "/v1/topics/a"),
        ("getTopic 200", "GET", "/v1/topics/a?members=true"),
        ("getTopic 400 bad_request", "GET", "/v1/topics/a?members=1"),
        ("subscribeUser 200", "PUT", "/v1/topics/news/users/42"),
        ("subscribeUser 200", "PUT", "/v1/topics/news/users/nobody"),
        (
            "subscribeUser 400 bad_request",
            "PUT",
            "/v1/topics/%20/users/42",
        ),
        ("unsubscribeUser 200", "DELETE", "/v1/topics/news/users/42"),
        (
            "unsubscribeUser 400 bad_request",
            "DELETE",
            "/v1/topics/news/users/%00",
        ),
        ("subscribeConnection 200", "PUT", &of_connection),
        (
            "subscribeConnection 400 bad_request",
            "PUT",
            "/v1/topics/news/connections/x/1",
        ),
        (
            "subscribeConnection 404 not_found",
            "PUT",
            "/v1/topics/news/connections/x.1/1",
        ),
        ("unsubscribeConnection 200", "DELETE", &of_connection),
        (
            "unsubscribeConnection 400 bad_request",
            "DELETE",
            "/v1/topics/news/connections/x/1",
        ),
        (
            "unsubscribeConnection 404 not_found",
            "DELETE",
            "/v1/topics/news/connections/x.1/1",
        ),
    ] {
        seen.expect(name, method, &node.url(path), &[], "").await;
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
    let reply = r#"{"to":{"fd":"x.1/1"},"data":1,"timeout_ms":100}"#;
    let (user, connection) = ("/v1/users/42", "/v1/connections/x.1/1");
    let presence = r#"{"users":["42"]}"#;
    let (topic, of_user) = ("/v1/topics/news", "/v1/topics/news/users/42");
    let of_connection = "/v1/topics/news/connections/x.1/1";
    let (of_topic, inbox) = ("/v1/topics/news/messages", "/v1/users/42/messages");
    let (topic_one, inbox_one) = (&*format!("{of_topic}/1-1"), &*format!("{inbox}/1-1"));
    for (name, method, path, body) in [
        ("push 503 unrouted", "POST", "/v1/push", push),
        ("call 503 unrouted", "POST", "/v1/call", push),
        ("reply 503 unrouted", "POST", "/v1/reply", reply),
        ("getUser 503 unavailable", "GET", user, ""),
        ("kickUser 503 unrouted", "DELETE", user, ""),
        ("kickConnection 503 unrouted", "DELETE", connection, ""),
        ("presence 503 unavailable", "POST", "/v1/presence", presence),
        ("getTopic 503 unavailable", "GET", topic, ""),
        ("subscribeUser 503 unavailable", "PUT", of_user, ""),
        ("unsubscribeUser 503 unavailable", "DELETE", of_user, ""),
        ("getTopicMessages 503 unavailable", "GET", of_topic, ""),
        ("eraseTopicMessages 503 unavailable", "DELETE", of_topic, ""),
        ("eraseTopicMessage 503 unavailable", "DELETE", topic_one, ""),
        ("getUserMessages 503 unavailable", "GET", inbox, ""),
        ("eraseUserMessages 503 unavailable", "DELETE", inbox, ""),
        ("eraseUserMessage 503 unavailable", "DELETE", inbox_one, ""),
        (
            "subscribeConnection 503 unavailable",
            "PUT",
            of_connection,
            "",
        ),
        (
            "unsubscribeConnection 503 unavailable",
            "DELETE",
            of_connection,
            "",
        ),
    ] {
        seen.expect(name, method, &node.url(path), &[], body).await;
    }
    for (name, method) in [("getReadiness 503", "GET"), ("headReadiness 503", "HEAD")] {
        seen.expect(name, method, &node.admin_url("/readyz"), &[], "")
            .await;
    }
}

async fn messages(seen: &mut Seen) {
    let node = node(&[]);
    for (kind, word, path) in [
        ("topic", "Topic", "/v1/topics/a/messages"),
        ("user", "User", "/v1/users/a/messages"),
    ] {
        let mut bodies = Vec::new();
        for n in 1..=3 {
            bodies.push(json!({"to": {kind: "a"}, "keep": true, "id": n.to_string(), "event": "e", "data": n}));
        }
        let pushes = json!(bodies).to_string();
        seen.expect(
            "push 200 application/json",
            "POST",
            &node.push_url,
            &[],
            &pushes,
        )
        .await;
        let (read, erase, erase_one) = (
            format!("get{word}Messages"),
            format!("erase{word}Messages"),
            format!("erase{word}Message"),
        );
        for (query, expected) in [
            ("", 200),
            ("?last=2", 200),
            ("?limit=2", 200),
            ("?before=1-1", 200),
            ("?after=7.1-1&limit=1", 200),
            ("?last=0", 400),
            ("?last=1&limit=1", 400),
            ("?before=1-1&after=1-1", 400),
            ("?before=1", 400),
            ("?limit=101", 400),
        ] {
            let url = node.url(&format!("{path}{query}"));
            let name = match expected {
                200 => format!("{read} 200"),
                _ => format!("{read} 400 bad_request"),
            };
            seen.expect(&name, "GET", &url, &[], "").await;
        }
        for (name, path) in [
            (format!("{erase_one} 200"), format!("{path}/1-1")),
            (format!("{erase_one} 400 bad_request"), format!("{path}/1")),
            (format!("{erase} 200"), path.to_owned()),
            (
                format!("{erase} 400 bad_request"),
                path.replace("/a/", "/%00/"),
            ),
        ] {
            seen.expect(&name, "DELETE", &node.url(&path), &[], "")
                .await;
        }
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

/// So that a new route cannot be forgotten, wherever it is served: the source is what is read.
#[test]
fn every_route_of_the_source_is_in_the_document() {
    // `/v1/users/{}`
    let shape = |path: &str| -> String {
        let parts = path.trim_start_matches('/').split('/').map(str::trim);
        let parts = parts.map(|part| match part.strip_prefix('"') {
            Some(literal) => literal.trim_end_matches('"'),
            None if part.starts_with(['{', 'S']) => "{}",
            None => part,
        });
        parts.map(|part| format!("/{part}")).collect()
    };
    let documented: Vec<String> = operations().iter().map(|one| shape(one.path)).collect();
    let mut found = 0;
    let mut bad = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    for file in std::fs::read_dir(folder).expect("the folder of routes") {
        let file = file.expect("a file").path();
        let source = std::fs::read_to_string(&file).expect("text");
        for route in source.split("warp::path!(").skip(1) {
            found += 1;
            let (path, rest) = route.split_once(')').expect("a bracket");
            let said = rest.trim_start().strip_prefix(".and(documented(\"");
            let said = said.and_then(|rest| rest.split('"').next()).map(shape);
            let path = shape(path);
            if !documented.contains(&path) || said.as_ref() != Some(&path) {
                bad.push(format!("{path} of {}", file.display()));
            }
        }
    }
    assert!(found > 10, "only {found} routes: where are they?");
    assert!(
        bad.is_empty(),
        "these routes are not in src/api/openapi.json, or do not begin with \
         .and(documented(\"<path>\")); ARCHITECTURE.md, \"A new route\", tells how: {bad:#?}"
    );
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
