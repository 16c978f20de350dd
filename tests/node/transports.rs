//! SSE and plain TCP beside WebSocket: the same addressing, limits, deadlines and goodbyes.

use serde_json::{Value, json};

use crate::common::transports::{
    AnyClient, Bytes, TRANSPORTS, Transport, address, connect, connect_narrow,
};
use crate::common::{Node, eventually, http, node, post};
use crate::raw::{Answer, Raw};
use crate::sender::{call, push, summary};

async fn one_of_each(node: &Node, user: &str) -> Vec<AnyClient> {
    let mut clients = Vec::new();
    for by in TRANSPORTS {
        clients.push(connect(by, node, user, None).await);
    }
    clients
}

/// The count of one reason in a metric.
async fn count(node: &Node, metric: &str, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    node.labelled(metric, &label).await as u64
}

/// A TCP client that has sent these bytes and nothing else.
async fn lines(node: &Node, bytes: &[u8]) -> Bytes {
    let mut raw = Raw::open(address(node, Transport::Tcp)).await;
    raw.send(bytes).await;
    Bytes::over(raw.socket)
}

async fn object(stream: &mut Bytes) -> Value {
    let line = stream.until("\n").await.expect("a line");
    serde_json::from_str(&line).expect("JSON")
}

#[tokio::test]
async fn each_transport_is_addressed_in_the_same_ways() {
    let node = node(&[]);
    let mut clients = one_of_each(&node, "42").await;
    let mut other = one_of_each(&node, "43").await;
    for (client, by) in clients.iter_mut().zip(TRANSPORTS) {
        let fd = json!({"to": {"fd": client.connection(), "user": "42"}, "data": by.name()});
        assert_eq!(summary(&push(&node, fd).await), ("routed", 1, 1));
        client.hears(by.name()).await;
    }
    let user = json!({"to": {"user": "42"}, "data": {"n": 1}, "wait": "written"});
    assert_eq!(summary(&push(&node, user).await), ("written", 3, 1));
    let users = json!({"to": {"users": ["42", "43"]}, "data": 2});
    push(&node, users).await;
    let all = json!({"to": {"all": true}, "data": 3, "wait": "written",
        "except": {"fds": [other[0].connection()]}});
    assert_eq!(push(&node, all).await["connections"], 5);
    for client in &mut clients {
        client.hears(json!({"n": 1})).await;
        client.hears(2).await;
        client.hears(3).await;
    }
    for (client, hears_all) in other.iter_mut().zip([false, true, true]) {
        client.hears(2).await;
        if hears_all {
            client.hears(3).await;
        }
    }
    push(&node, json!({"to": {"user": "43"}, "data": "marker"})).await;
    for client in &mut other {
        client.hears("marker").await;
    }

    // Rows tell them apart. Only who can send can acknowledge.
    let (_, _, shown) = call("GET", &node.url("/v1/users/42")).await;
    let rows = shown["connections"].as_array().expect("rows");
    let transports: Vec<_> = rows.iter().map(|row| &row["transport"]).collect();
    assert_eq!(transports, ["ws", "sse", "tcp"]);
    for (client, by) in clients.iter_mut().zip(TRANSPORTS) {
        let body = json!({"to": {"fd": client.connection()}, "id": by.name(), "data": 1,
            "wait": "acked", "timeout_ms": 30_000});
        let answer = tokio::spawn({
            let url = node.push_url.clone();
            async move { post(&url, &body).await.1 }
        });
        client.hears(1).await;
        let status = match by {
            Transport::Sse => "written",
            _ => {
                client.send(&json!({"type": "ack", "id": by.name()})).await;
                "acked"
            }
        };
        assert_eq!(answer.await.expect("an answer")["status"], status, "{by:?}");
    }
}

#[tokio::test]
async fn a_kick_is_told_over_each_transport_and_an_event_source_stops_coming_back() {
    let node = node(&[]);
    let mut clients = one_of_each(&node, "42").await;
    let (status, _, answer) = call("DELETE", &node.url("/v1/users/42")).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(3)));
    for client in &mut clients {
        let bye = client.bye(4001, "kicked").await;
        assert_eq!(bye.get("retry_ms"), None, "{bye}");
    }
    assert_eq!(count(&node, "closes_total", "kicked").await, 3);

    // What a browser does next: it tries again, with the last id that it was given.
    let last = clients[1].last_id.take().expect("an id");
    let again = http()
        .get(node.url("/sse?user=42"))
        .header("last-event-id", last);
    assert_eq!(again.send().await.expect("an answer").status(), 204);
    // Whoever comes of its own accord is let in.
    connect(Transport::Sse, &node, "42", None).await;
}

#[tokio::test]
async fn a_leaving_node_says_goodbye_and_when_to_come_back_over_each_transport() {
    let mut node = node(&[("PUSH_DRAIN_SECONDS", "1")]);
    let mut clients = one_of_each(&node, "42").await;
    // Has not yet said who it is.
    let mut late = lines(&node, b"").await;
    eventually(async || {
        match post(&node.push_url, &json!({"to": {"user": "42"}, "data": 1})).await {
            (200, answer) if answer["connections"] == 3 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    node.signal("TERM");
    for client in &mut clients {
        client.hears(1).await;
        let bye = client.bye(1012, "drain").await;
        assert!(bye["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{bye}");
        if let Some(retry) = client.retry {
            assert_eq!(bye["retry_ms"], retry, "for an EventSource");
        }
    }
    let refusal = object(&mut late).await;
    assert_eq!(
        (&refusal["type"], &refusal["code"]),
        (&json!("error"), &json!("draining"))
    );
    assert_eq!(late.until("\n").await, None);
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_client_of_lines_shows_life_or_is_closed_and_sse_gets_comments() {
    let node = node(&[
        ("PUSH_PING_SECONDS", "1"),
        ("PUSH_PONG_SECONDS", "4"),
        ("PUSH_SSE_BEAT_SECONDS", "1"),
    ]);
    let mut dead = connect(Transport::Tcp, &node, "dead", None).await;
    dead.answers_pings = false;
    let mut alive = connect(Transport::Tcp, &node, "alive", None).await;
    let mut events = connect(Transport::Sse, &node, "events", None).await;
    let watching = async {
        let bye = dead.bye(4003, "heartbeat timeout").await;
        assert!(bye["retry_ms"].is_u64(), "may come back: {bye}");
        // Both have lived longer than a silent client may.
        let to = json!({"users": ["alive", "events"]});
        push(&node, json!({"to": to, "data": "still here"})).await;
    };
    let answering = alive.hears("still here");
    tokio::join!(watching, answering);
    events.hears("still here").await;
    assert!(events.beats > 0, "a comment in more than two seconds");
    assert_eq!(count(&node, "closes_total", "heartbeat").await, 1);
}

/// Pushes larger than this are few in the kernel's buffers for one socket.
const SIZE: usize = 60_000;

#[tokio::test]
async fn who_does_not_read_is_closed_and_told_over_each_transport_or_misses_some_on_wish() {
    for by in TRANSPORTS {
        let node = node(&[("PUSH_QUEUE_BYTES", "150000"), ("PUSH_WRITE_SECONDS", "60")]);
        let mut slow = connect_narrow(by, &node, "slow").await;
        let mut patient = connect_narrow(by, &node, "patient").await;
        let numbered = |user: &str, n: usize, policy: &str| {
            let data = json!({"n": n, "padding": "x".repeat(SIZE)});
            json!({"to": {"user": user}, "data": data, "policy": policy})
        };
        let mut pushed = 0;
        while count(&node, "closes_total", "slow").await == 0 {
            push(&node, numbered("slow", pushed, "close")).await;
            push(&node, numbered("patient", pushed, "drop")).await;
            pushed += 1;
            assert!(pushed < 400, "{by:?}: nothing is ever full");
        }
        // What is in the kernel arrives unbroken and in order, then the reason.
        let mut next = 0;
        let bye = loop {
            let object = slow.json().await;
            if object["type"] != "message" {
                break object;
            }
            assert_eq!(object["data"]["n"], next, "{by:?}");
            next += 1;
        };
        assert_eq!(
            (&bye["code"], &bye["reason"]),
            (&json!(4002), &json!("slow consumer"))
        );
        assert!(bye["retry_ms"].is_u64(), "{bye}");
        slow.end().await;
        assert!(next < pushed, "{by:?}");

        // The other one is still here, and gets what there was room for.
        let mut last = None;
        loop {
            let marker = json!({"to": {"user": "patient"}, "data": "marker", "policy": "drop"});
            push(&node, marker).await;
            let object = patient.json().await;
            match object["data"]["n"].as_u64() {
                Some(n) => assert!(last.replace(n).is_none_or(|last| last < n), "{by:?}"),
                None => break assert_eq!(object["data"], "marker"),
            }
        }
        assert!(last.is_some(), "{by:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_too_long_is_closed_over_each_transport() {
    let node = node(&[
        ("PUSH_QUEUE_BYTES", "100000000"),
        ("PUSH_WRITE_SECONDS", "1"),
    ]);
    let mut slow = Vec::new();
    for by in TRANSPORTS {
        slow.push(connect_narrow(by, &node, "slow").await);
    }
    for _ in 0..150 {
        let data = "x".repeat(SIZE);
        push(&node, json!({"to": {"user": "slow"}, "data": data})).await;
    }
    eventually(async || match count(&node, "closes_total", "slow").await {
        3 => Ok(()),
        n => Err(n),
    })
    .await;
}

#[tokio::test]
async fn the_cap_counts_all_transports_and_each_gives_its_place_back() {
    let node = node(&[
        ("PUSH_MAX_CONNECTIONS", "3"),
        ("PUSH_API_LISTEN", "127.0.0.1:0"),
    ]);
    let clients = one_of_each(&node, "42").await;
    let mut line = lines(&node, b"{\"type\":\"connect\",\"user\":\"42\"}\n").await;
    let refusal = object(&mut line).await;
    assert_eq!(
        (&refusal["type"], &refusal["code"]),
        (&json!("error"), &json!("full"))
    );
    assert_eq!(line.until("\n").await, None);
    // By a client that does not mind an answer that is there before its request.
    let (_, refused) = ask(&node, "GET /sse?user=42 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(count(&node, "accepts_refused_total", "node_full").await, 2);
    drop(clients);
    eventually(async || match node.metric("connections").await {
        0.0 => Ok(()),
        n => Err(n),
    })
    .await;
    for by in TRANSPORTS {
        connect(by, &node, "42", None).await;
    }
}

// --- What only SSE has.

/// Asks for a stream; the head of the answer, and the client that goes on with it.
async fn ask(node: &Node, request: &str) -> (Raw, Answer) {
    let mut raw = Raw::open(node.client_address()).await;
    let answer = raw.ask(request).await;
    (raw, answer)
}

#[tokio::test]
async fn a_stream_begins_with_a_head_that_proxies_and_pages_understand() {
    let node = node(&[("PUSH_ORIGINS", "https://app.example.org")]);
    let request = "GET /sse?user=42 HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example.org\r\n\r\n";
    let (_raw, answer) = ask(&node, request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
        ("access-control-allow-origin", "https://app.example.org"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("connection"), None, "it would excuse a cut");

    let evil = request.replace("app.example.org", "evil.net");
    let (_raw, answer) = ask(&node, &evil).await;
    assert_eq!((answer.status, answer.code()), (403, "origin".to_owned()));
}

#[tokio::test]
async fn a_stream_follows_other_requests_on_its_connection_and_old_http_gets_one_too() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    for _ in 0..2 {
        let answer = raw.ask("GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // What comes behind the request, at once or later, is not a request any more.
    let pipelined = "GET /sse?user=42 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(raw.ask(pipelined).await.status, 200);
    raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;

    let (_old, answer) = ask(&node, "GET /sse?user=42 HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (_, _, shown) = call("GET", &node.url("/v1/users/42")).await;
    assert_eq!(shown["connections"].as_array().expect("rows").len(), 2);
    call("DELETE", &node.url("/v1/users/42")).await;
    let rest = String::from_utf8(raw.rest().await).expect("UTF-8");
    let names: Vec<&str> = rest
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(names, ["ready", "bye"], "{rest}");
}

#[tokio::test]
async fn who_sends_on_and_on_over_sse_is_closed() {
    let node = node(&[("PUSH_CLIENT_RATE", "10")]);
    let mut client = connect(Transport::Sse, &node, "42", None).await;
    let mut sent = 0;
    while count(&node, "closes_total", "too_fast").await == 0 {
        client.send_bytes(b"x").await;
        sent += 1;
        assert!(sent < 100_000);
        if sent % 100 != 0 {
            // Each a read of its own, or they are one message.
            tokio::task::yield_now().await;
        }
    }
    client.bye(1008, "too many messages").await;
}

#[tokio::test]
async fn a_bad_request_for_a_stream_is_told_what_is_wrong() {
    let node = node(&[]);
    for (request, status, words) in [
        (
            "GET /sse HTTP/1.1\r\nHost: x\r\n\r\n",
            400,
            "user is missing",
        ),
        ("GET /sse?user=%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "user"),
        (
            "GET /sse?user=42&since=7 HTTP/1.1\r\nHost: x\r\n\r\n",
            400,
            "since must be 0 or",
        ),
        (
            "POST /sse?user=42 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
            "only GET",
        ),
    ] {
        let (mut raw, answer) = ask(&node, request).await;
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(answer.body.contains(words), "{request}: {answer:?}");
        // The connection is as good as before.
        let next = raw
            .ask("GET /sse?user=42 HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        assert_eq!(next.status, 200, "{next:?}");
    }
    let mut since = connect(Transport::Sse, &node, "42", Some("0")).await;
    assert_eq!(since.ready["recovered"], false);
    since.send_bytes(b"\r\n").await;
    push(&node, json!({"to": {"fd": since.connection()}, "data": 1})).await;
    since.hears(1).await;
}

// --- What only lines have.

#[tokio::test]
async fn lines_are_read_however_they_come() {
    let node = node(&[]);
    let bytes = "{\"type\":\"connect\",\"user\":\"42\",\"device\":\"till\",\"more\":1}\r\n\
        {\"type\":\"ping\"}\r\n\n{\"type\":\"fly\",\"ref\":7}\nhello\n{\"type\":\"ping\"";
    let mut client = lines(&node, bytes.as_bytes()).await;
    assert_eq!(object(&mut client).await["type"], "ready");
    assert_eq!(object(&mut client).await["type"], "pong");
    // The empty line is none.
    for (code, reference) in [("unknown_type", json!(7)), ("bad_message", Value::Null)] {
        let error = object(&mut client).await;
        assert_eq!(
            (&error["type"], &error["code"], &error["ref"]),
            (&json!("error"), &json!(code), &reference),
            "{error}"
        );
    }
    Raw::over(&mut client.socket).send(b"}\n").await;
    assert_eq!(object(&mut client).await["type"], "pong");
    let (_, _, shown) = call("GET", &node.url("/v1/users/42")).await;
    assert_eq!(shown["connections"][0]["device"], "till", "{shown}");
}

#[tokio::test]
async fn a_line_that_breaks_a_rule_ends_its_connection_and_no_other() {
    let node = node(&[
        ("PUSH_MAX_MESSAGE_BYTES", "1000"),
        ("PUSH_CLIENT_RATE", "10"),
    ]);
    let mut good = connect(Transport::Tcp, &node, "good", None).await;
    let long = [&[b'x'; 1001][..], b"\n"].concat();
    let endless = vec![b'x'; 3000];
    let many = b"{\"type\":\"pong\"}\n".repeat(30);
    for (bytes, code, reason) in [
        (&long, 1009, "message too big"),
        (&endless, 1009, "message too big"),
        (&b"\"\xFF\"\n".to_vec(), 1007, "text is not UTF-8"),
        (&many, 1008, "too many messages"),
    ] {
        let mut bad = connect(Transport::Tcp, &node, "bad", None).await;
        bad.send_bytes(bytes).await;
        let bye = bad.bye(code, reason).await;
        assert_eq!(bye.get("retry_ms"), None, "{bye}");
    }
    good.send(&json!({"type": "ping"})).await;
    assert_eq!(good.json().await["type"], "pong");
}

#[tokio::test]
async fn a_first_line_that_lets_nobody_in_is_answered() {
    let node = node(&[("PUSH_MAX_MESSAGE_BYTES", "1000")]);
    let long = [&[b'x'; 2000][..], b"\n"].concat();
    for (bytes, code, words) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "bad_request",
            "the first line must be",
        ),
        (b"\n\r\n{}\n", "bad_request", "the first line must be"),
        (
            b"{\"type\":\"ping\"}\n",
            "bad_request",
            "its type is another",
        ),
        (
            b"{\"type\":\"connect\"}\n",
            "bad_request",
            "user is missing",
        ),
        (
            b"{\"type\":\"connect\",\"user\":\"a\\u0000b\"}\n",
            "bad_request",
            "user",
        ),
        (
            b"{\"type\":\"connect\",\"user\":42}\n",
            "bad_request",
            "string",
        ),
        (
            b"{\"type\":\"connect\",\"user\":\"42\",\"since\":\"7\"}\n",
            "bad_request",
            "since must be 0 or",
        ),
        (b"\"\xFF\"\n", "bad_request", "not UTF-8"),
        (&long, "too_big", "over 1000 bytes"),
    ] {
        let mut client = lines(&node, bytes).await;
        let error = object(&mut client).await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{error}"
        );
        let message = error["message"].as_str().expect("words");
        assert!(message.contains(words), "{error}");
        assert_eq!(client.until("\n").await, None, "the end");
    }
    let refused = node.metric("handshakes_refused_total").await;
    assert_eq!(refused, 9.0);
    assert_eq!(node.metric("connects_total").await, 0.0);

    // Whoever says nothing has ten seconds.
    let mut silent = lines(&node, b"{\"type\":").await;
    let error = object(&mut silent).await;
    assert_eq!(error["code"], "timeout", "{error}");
    assert_eq!(silent.until("\n").await, None, "the end");
}

#[tokio::test]
async fn a_unix_socket_serves_lines() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lines.sock");
    let listen = format!("unix:{}", path.display());
    let node = node(&[("PUSH_TCP_LISTEN", &listen)]);
    assert!(node.greeting.contains(&format!("  lines      {listen} ")));
    let socket = tokio::net::UnixStream::connect(&path)
        .await
        .expect("a connection");
    let mut client = BufReader::new(socket);
    let first = b"{\"type\":\"connect\",\"user\":\"42\"}\n";
    client.write_all(first).await.expect("sent");
    let mut text = String::new();
    client.read_line(&mut text).await.expect("ready");
    push(
        &node,
        json!({"to": {"user": "42"}, "data": "through a file"}),
    )
    .await;
    client.read_line(&mut text).await.expect("a message");
    assert!(text.contains(r#""data":"through a file"}"#), "{text}");
}
