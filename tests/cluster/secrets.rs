//! What stands in the log, and what must never: messages, keys, tokens, passwords.

use std::io::{Read, Write};
use std::net::TcpListener;

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::{
    Client, Node, Redis, eventually, http, node_with, refused_handshake, start_node,
};

/// In all that is said to the nodes and must not be said on.
const SECRET: &str = "s3cr3t";
const KEY: &str = "key-s3cr3t-0123456789";
const PASSWORD: &str = "password-s3cr3t";

async fn post(node: &Node, key: &str, content_type: &str, body: &str) {
    let request = http().post(&node.push_url).bearer_auth(key);
    let request = request.header("content-type", content_type);
    request
        .body(body.to_owned())
        .send()
        .await
        .expect("an answer");
}

/// All that senders can say, well or badly.
async fn send(node: &Node) {
    let push = json!({"to": {"user": "42"}, "id": "m1", "data": {"text": SECRET}});
    let kept = json!({"to": {"user": "42"}, "keep": true, "data": SECRET});
    let pushes = format!("{push}\n{kept}\n{{\"{SECRET}\n");
    post(node, KEY, "application/x-ndjson", &pushes).await;
    post(node, KEY, "application/json", &push.to_string()).await;
    post(node, KEY, "application/json", &format!("\"{SECRET}\"")).await;
    post(node, KEY, SECRET, "{}").await;
    post(
        node,
        &format!("{KEY}-bad"),
        "application/json",
        &push.to_string(),
    )
    .await;
}

/// All that clients can say.
async fn connect(node: &Node) {
    let url = format!("{}&token={SECRET}", node.ws_url("42"));
    let mut request = url.into_client_request().expect("a URL");
    let headers = request.headers_mut();
    for (name, value) in [
        ("authorization", format!("Bearer {SECRET}")),
        ("cookie", format!("session={SECRET}")),
        (
            "sec-websocket-protocol",
            format!("bearer.{SECRET}, pushnode.v1"),
        ),
    ] {
        headers.insert(name, value.parse().expect("a header"));
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(request)
        .await
        .expect("a handshake");
    for text in [SECRET.to_owned(), format!(r#"{{"type":"{SECRET}"}}"#)] {
        socket.send(Message::text(text)).await.expect("sent");
    }
    socket
        .send(Message::Ping(SECRET.into()))
        .await
        .expect("sent");
    send(node).await;
    socket.close(None).await.expect("closed");
    for query in [
        format!("user={SECRET}%00"),
        format!("user=1&since={SECRET}"),
    ] {
        let url = format!("ws://{}/ws?{query}", node.client_address());
        assert_eq!(refused_handshake(&url).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn no_message_key_token_or_password_is_logged_and_each_line_is_an_object() {
    let mut redis = Redis::start_with(&["--requirepass", PASSWORD]);
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", redis.port());
    let settings = [
        ("PUSH_REDIS_URL", &*url),
        ("PUSH_API_KEYS", KEY),
        ("PUSH_LOG", "trace"),
        ("PUSH_LOG_FORMAT", "json"),
    ];
    let (a, b) = (
        node_with(&redis, "a", &settings),
        node_with(&redis, "b", &settings),
    );
    let mut listener = Client::v1(&b.ws_url("42")).await;
    connect(&a).await;
    let cli = |words: &[&str]| redis.cli(&[&["-a", PASSWORD, "--no-auth-warning"], words].concat());
    let channel = format!("pn:n:{{{}}}", b.id);
    let bad = [
        format!("\"{SECRET}\""),
        SECRET.to_owned(),
        format!(r#"{{"to":{{"user":"42"}},"policy":"{SECRET}","data":1}}"#),
        format!(r#"{{"to":{{"{SECRET}":"42"}},"data":1}}"#),
        format!(r#"{{"cmd":"{SECRET}"}}"#),
    ];
    for line in &bad {
        assert_eq!(cli(&["PUBLISH", &channel, line]), "1");
    }
    // An entry that is no message.
    cli(&[
        "XADD",
        "pn:inbox:{42}",
        "*",
        "data",
        &format!("{SECRET} {{"),
    ]);
    cli(&["INCR", "pn:pos:{42}"]);
    let _late = Client::v1(&format!("{}&since=0", b.ws_url("42"))).await;
    eventually(async || match b.metric("bad_envelopes_total").await {
        count if count == bad.len() as f64 => Ok(()),
        count => Err(count),
    })
    .await;
    while listener.json().await["type"] != "message" {}
    // Errors of Redis too: away, then with another password.
    redis.kill();
    send(&a).await;
    redis.restart();
    b.wait_ready();
    redis.cli(&[
        "-a",
        PASSWORD,
        "--no-auth-warning",
        "CONFIG",
        "SET",
        "requirepass",
        "another",
    ]);
    redis.cli(&[
        "-a",
        "another",
        "--no-auth-warning",
        "CLIENT",
        "KILL",
        "TYPE",
        "normal",
    ]);
    send(&a).await;

    for node in [&a, &b] {
        let log = node.log();
        assert!(log.lines().count() > 10, "little is logged: {log}");
        for line in log.lines() {
            let object: Value = serde_json::from_str(line).expect(line);
            assert!(
                object["level"].is_string() && object["message"].is_string(),
                "{line}"
            );
            assert!(!line.contains(SECRET), "{line}");
        }
    }
    b.until_logged("bad envelope ignored").await;
    b.until_logged("bad message in an inbox").await;
    assert!(!a.greeting.contains(SECRET), "{}", a.greeting);
}

/// A server that knows nothing and quotes all of it, as Redis before version 6 does to HELLO.
fn quoting_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            std::thread::spawn(move || {
                let mut said = [0; 4096];
                while let Ok(length @ 1..) = socket.read(&mut said) {
                    let said = String::from_utf8_lossy(&said[..length]);
                    let words: Vec<&str> = said.split("\r\n").collect();
                    let words = words.join("' '");
                    let error = format!(
                        "-ERR unknown command 'HELLO', with args beginning with: '{words}'\r\n"
                    );
                    if socket.write_all(error.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_quotes_the_password_is_not_quoted() {
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}", quoting_server());
    let node = start_node(&[("PUSH_REDIS_URL", &url), ("PUSH_LOG", "trace")]);
    let log = eventually(async || match node.log() {
        log if log.contains("unknown command") => Ok(log),
        log => Err(log),
    })
    .await;
    assert!(!log.contains(PASSWORD), "{log}");
}
