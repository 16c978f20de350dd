//! A node's beginning and end: arguments, configuration, listeners, the greeting, the drain.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::common::ended::{Ended, run};
use crate::common::{
    Client, PATIENCE, Redis, eventually, free_port, node, node_command, post, start_node,
};
use crate::raw::Raw;

fn refused(settings: &[(&str, &str)]) -> Ended {
    run(node_command(settings))
}

fn with_argument(argument: &str, settings: &[(&str, &str)]) -> Ended {
    let mut command = node_command(settings);
    command.arg(argument);
    run(command)
}

#[test]
fn all_faults_are_named_at_once_and_before_a_port_is_bound() {
    // Had it come to binding, this would be exit 69.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = busy.local_addr().unwrap().to_string();
    let ended = refused(&[
        ("PUSH_LISTEN", &busy),
        ("PUSH_LISTNE", "127.0.0.1:0"),
        ("PUSH_PING_SECONDS", "soon"),
        ("PUSH_QUEUE_BYTES", "1"),
        ("PUSH_REDIS_URL", "http://127.0.0.1"),
    ]);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    for part in [
        "4 faults",
        "PUSH_LISTNE is unknown; did you mean PUSH_LISTEN?",
        "PUSH_PING_SECONDS has \"soon\"",
        "PUSH_QUEUE_BYTES has \"1\": must be a whole number from 4096",
        "PUSH_REDIS_URL has scheme \"http\"",
    ] {
        assert!(ended.stderr.contains(part), "{part} is missing: {ended:#?}");
    }
    assert_eq!(ended.stdout, "", "no greeting");
}

#[test]
fn a_malformed_redis_url_is_a_fault_that_does_not_echo_its_password() {
    for bad in [
        "redis://:hunter2@127.0.0.1:99999",
        "redis://:hunter2@127.0.0.1/zero",
        "redis://user:hunter2@",
        "rediss://:hunter2@[::1",
        "http://:hunter2@127.0.0.1",
        "127.0.0.1:6379 hunter2",
    ] {
        for variable in ["PUSH_REDIS_URL", "REDIS_URL"] {
            let ended = refused(&[(variable, bad)]);
            assert_eq!(ended.code, Some(64), "{bad}: {ended:#?}");
            assert!(ended.stderr.contains("PUSH_REDIS_URL"), "{bad}: {ended:#?}");
            assert!(!ended.stderr.contains("hunter2"), "{bad}: {ended:#?}");
        }
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_a_fault_only_if_it_is_ours() {
    let bytes = OsStr::from_bytes(b"\xFF");
    let mut command = node_command(&[]);
    command.env("PUSH_NODE_NAME", bytes);
    let ended = run(command);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert!(ended.stderr.contains("PUSH_NODE_NAME"), "{ended:#?}");

    let mut command = node_command(&[]);
    command.env("OTHER", bytes);
    crate::common::start_command(command).wait_ready();
}

#[test]
fn a_taken_port_ends_it_with_69_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for variable in ["PUSH_LISTEN", "PUSH_API_LISTEN", "PUSH_ADMIN_LISTEN"] {
        let ended = refused(&[(variable, &taken)]);
        assert_eq!(ended.code, Some(69), "{ended:#?}");
        let words = format!("cannot listen on {taken} ({variable}): Address already in use");
        assert!(ended.stderr.contains(&words), "{ended:#?}");
        assert_eq!(ended.stdout, "", "no greeting");
    }
}

#[test]
fn strangers_are_not_let_in_without_being_asked_for() {
    for listen in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0, 0.0.0.0:0"] {
        let ended = refused(&[("PUSH_LISTEN", listen)]);
        assert_eq!(ended.code, Some(64), "{ended:#?}");
        assert!(ended.stderr.contains("PUSH_AUTH =none"), "{ended:#?}");
        assert!(ended.stderr.contains("PUSH_API_KEYS"), "{ended:#?}");
        assert!(
            ended.stderr.contains("PUSH_ALLOW_INSECURE=true"),
            "tells the way out: {ended:#?}"
        );
    }
    let key_only = [
        ("PUSH_LISTEN", "0.0.0.0:0"),
        ("PUSH_API_KEYS", "0123456789abcdef"),
    ];
    let ended = refused(&key_only);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert!(ended.stderr.contains("1 fault"), "{ended:#?}");
}

#[test]
fn an_unknown_argument_is_refused_and_the_known_ones_answer() {
    let ended = with_argument("--port=80", &[]);
    assert_eq!(ended.code, Some(64), "{ended:#?}");
    assert!(ended.stderr.contains("\"--port=80\""), "{ended:#?}");
    assert!(ended.stderr.contains("--healthcheck"), "{ended:#?}");

    let ended = with_argument("--version", &[]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.stdout, format!("pushnode {}\n", pushnode::VERSION));

    let ended = with_argument("--help", &[]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    for argument in ["--help", "--version", "--healthcheck"] {
        assert!(ended.stdout.contains(argument), "{ended:#?}");
    }
}

#[test]
fn the_healthcheck_tells_a_living_node_from_none_and_from_a_stuck_one() {
    let node = node(&[]);
    let check = |address: &str| with_argument("--healthcheck", &[("PUSH_ADMIN_LISTEN", address)]);
    let admin = node.admin.to_string();
    let ended = check(&admin);
    assert_eq!(ended.code, Some(0), "a living node: {ended:#?}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let ended = check(&nobody);
    assert_eq!(ended.code, Some(1), "no node: {ended:#?}");
    let both = check(&format!("{nobody},{admin}"));
    assert_eq!(both.code, Some(0), "one of two listeners: {both:#?}");

    // The kernel still accepts for a process that is stopped, but nothing answers.
    node.signal("STOP");
    let ended = check(&admin);
    node.signal("CONT");
    assert_eq!(ended.code, Some(1), "a stuck node: {ended:#?}");
}

#[test]
fn the_greeting_tells_where_to_go_and_how_to_send_a_first_message() {
    let node = node(&[
        ("PUSH_LISTEN", "127.0.0.1:0,127.0.0.1:0"),
        ("PUSH_NODE_NAME", "greeter"),
    ]);
    let [one, two] = node.clients[..] else {
        panic!("two listeners: {}", node.greeting)
    };
    assert!(node.id.starts_with("greeter."), "{}", node.id);
    let expected = format!(
        "pushnode {} node {}\n\
        \x20 clients    http://{one}/ (WebSocket /ws?user=42, SSE /sse?user=42)\n\
        \x20 clients    http://{two}/ (WebSocket /ws?user=42, SSE /sse?user=42)\n\
        \x20 lines      {} (TCP, one JSON object a line)\n\
        \x20 senders    http://{one}/v1/push\n\
        \x20 senders    http://{two}/v1/push\n\
        \x20 operations http://{}/ (/healthz /readyz /metrics)\n\
        \x20 backplane  embedded: this node by itself; set PUSH_REDIS_URL to run several\n\
        \x20 try it     curl -s http://{one}/v1/push -H 'content-type: application/json' \
        -d '{{\"to\":{{\"user\":\"42\"}},\"data\":\"hello\"}}'\n",
        pushnode::VERSION,
        node.id,
        node.lines[0],
        node.admin,
    );
    assert_eq!(node.greeting, expected);
}

#[tokio::test]
async fn every_listener_of_a_list_serves_the_same_node() {
    let node = node(&[("PUSH_LISTEN", "127.0.0.1:0, [::1]:0")]);
    let [one, two] = node.clients[..] else {
        panic!("two listeners: {}", node.greeting)
    };
    let mut client = Client::plain(&format!("ws://{two}/ws?user=42")).await;
    let push = json!({"to": {"user": "42"}, "data": "by the other door"});
    let (status, answer) = post(&format!("http://{one}/v1/push"), &push).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(1)));
    assert_eq!(client.json().await, "by the other door");
}

#[tokio::test]
async fn senders_can_have_a_listener_of_their_own() {
    let node = node(&[("PUSH_API_LISTEN", "127.0.0.1:0")]);
    assert!(
        !node.push_url.starts_with(&node.url("/")),
        "{}",
        node.greeting
    );
    let mut client = Client::plain(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": 1});

    let (status, answer) = post(&node.url("/v1/push"), &push).await;
    assert_eq!(status, 404, "on the clients' listener: {answer}");
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(1)));
    assert_eq!(client.json().await, 1);

    let senders = node.push_url.trim_end_matches("/v1/push");
    for path in ["/ws?user=42", "/", "/metrics"] {
        let answer = crate::common::http().get(format!("{senders}{path}"));
        let status = answer.send().await.unwrap().status();
        assert_eq!(status, 404, "{path} on the senders' listener");
    }
    for path in ["/v1/users/42", "/v1/nodes"] {
        let answer = crate::common::http().get(node.url(path));
        let status = answer.send().await.unwrap().status();
        assert_eq!(status, 404, "{path} on the clients' listener");
    }
}

#[tokio::test]
async fn a_unix_socket_serves_clients_and_senders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let listen = format!("unix:{}", path.display());
    let mut node = node(&[("PUSH_LISTEN", &listen)]);
    for line in [
        format!("  clients    {listen} "),
        format!("--unix-socket {} ", path.display()),
    ] {
        assert!(node.greeting.contains(&line), "{}", node.greeting);
    }

    let socket = UnixStream::connect(&path).await.unwrap();
    let (mut client, _) = tokio_tungstenite::client_async("ws://localhost/ws?user=42", socket)
        .await
        .expect("a handshake over a Unix socket");
    let mut sender = Raw::over(UnixStream::connect(&path).await.unwrap());
    let body = r#"{"to":{"user":"42"},"data":"through a file"}"#;
    let length = body.len();
    let request = format!(
        "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = sender.ask(&request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\"connections\":1"), "{answer:?}");
    let message = tokio::time::timeout(PATIENCE, client.next()).await.unwrap();
    assert_eq!(
        message.unwrap().unwrap().into_text().unwrap(),
        "\"through a file\""
    );

    client.close(None).await.expect("closed");
    node.signal("TERM");
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
    assert!(!path.exists(), "a node that leaves takes its file with it");
}

#[test]
fn a_killed_nodes_socket_file_is_taken_over_and_a_living_ones_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.sock");
    let listen = format!("unix:{}", path.display());
    let settings = [("PUSH_LISTEN", listen.as_str())];
    node(&settings).kill();
    assert!(path.exists(), "a killed node leaves its file");

    let alive = node(&settings);
    let ended = refused(&settings);
    assert_eq!(ended.code, Some(69), "{ended:#?}");
    assert!(ended.stderr.contains(&listen), "{ended:#?}");
    std::os::unix::net::UnixStream::connect(&path).expect("the living node still listens");
    drop(alive);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "not a socket").unwrap();
    let ended = refused(&settings);
    assert_eq!(ended.code, Some(69), "{ended:#?}");
    let left = std::fs::read_to_string(&path).unwrap();
    assert_eq!(left, "not a socket", "somebody's file is not touched");
}

#[tokio::test]
async fn secrets_are_in_no_output() {
    let redis = Redis::start_with(&["--requirepass", "hunter2hunter2"]);
    let url = format!("redis://default:hunter2hunter2@127.0.0.1:{}", redis.port());
    let node = node(&[
        ("PUSH_REDIS_URL", &url),
        ("PUSH_NODE_NAME", "secretive"),
        (
            "PUSH_API_KEYS",
            "first-key-0123456789,second-key-0123456789",
        ),
        ("PUSH_LOG", "trace"),
    ]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": "confidential-payload"});
    for (key, status) in [
        ("second-key-0123456789", 200),
        ("wrong-key-0123456789", 401),
    ] {
        let request = crate::common::http().post(&node.push_url).bearer_auth(key);
        let answer = request.json(&push).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    assert_eq!(client.json().await, "confidential-payload");

    assert!(
        node.greeting.contains("redis://default:***@127.0.0.1"),
        "{}",
        node.greeting
    );
    assert!(
        node.greeting.contains("Bearer <key>"),
        "the example wants a key: {}",
        node.greeting
    );
    let output = format!("{}{}", node.greeting, node.log());
    assert!(output.lines().count() > 8, "it does log: {output}");
    for secret in [
        "hunter2",
        "first-key-",
        "second-key-",
        "wrong-key-",
        "confidential-payload",
    ] {
        let shown: Vec<&str> = output
            .lines()
            .filter(|line| line.contains(secret))
            .collect();
        assert!(shown.is_empty(), "{secret} is shown: {shown:#?}");
    }
}

#[test]
fn a_json_log_is_one_object_a_line() {
    let mut node = node(&[("PUSH_LOG_FORMAT", "json")]);
    node.signal("TERM");
    assert_eq!(node.wait_exit().code(), Some(0));
    let log = node.log();
    assert!(!log.is_empty(), "it says that it leaves");
    for line in log.lines() {
        let parsed: Result<Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{line}");
    }
}

#[test]
fn a_node_ends_well_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let mut node = node(&[]);
        node.signal(signal);
        assert_eq!(node.wait_exit().code(), Some(0), "{signal}: {}", node.log());
    }
    // Also when the signal comes before anything else.
    let mut node = start_node(&[]);
    node.signal("TERM");
    assert_eq!(node.wait_exit().code(), Some(0), "at once: {}", node.log());
}

#[tokio::test]
async fn a_leaving_node_delivers_says_bye_closes_and_ends_well() {
    const MESSAGES: usize = 100;
    let mut node = node(&[
        ("PUSH_DRAIN_SECONDS", "10"),
        ("PUSH_QUEUE_BYTES", "16777216"),
    ]);
    // Reads nothing for now: what is pushed to it fills the kernel and then the node's queue.
    let mut reader = Raw::open_narrow(node.client_address()).await;
    reader
        .upgrade("reader", "Sec-WebSocket-Protocol: pushnode.v1\r\n")
        .await;
    let mut plain = Client::plain(&node.ws_url("plain")).await;
    // Will not answer the close: so the node is still there to be looked at.
    let deaf = Raw::plain(&node, "deaf").await;
    let padding = "x".repeat(80_000);
    for n in 0..MESSAGES {
        let push = json!({"to": {"user": "reader"}, "data": {"n": n, "padding": padding}});
        let (_, answer) = post(&node.push_url, &push).await;
        assert_eq!(answer["status"], "routed", "{answer}");
    }
    let written = node.metric("written_total").await;
    assert!(
        written < MESSAGES as f64,
        "some wait in the node: {written}"
    );

    let begun = Instant::now();
    node.signal("TERM");
    let (code, reason) = plain.close_frame().await;
    assert_eq!((code, reason.as_str()), (1012, "drain"));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "closed after {took:?}");
    plain.end().await;

    // The reader has not read a byte yet: the node waits for it.
    let ready = crate::common::http().get(node.admin_url("/readyz"));
    let ready = ready.send().await.expect("an answer while leaving");
    assert_eq!(ready.status(), 503);
    let body: Value = ready.json().await.unwrap();
    assert_eq!(body["reason"], "the node is leaving", "{body}");

    assert_eq!(reader.frame().await.json()["type"], "ready");
    for n in 0..MESSAGES {
        let message = reader.frame().await.json();
        assert_eq!(message["data"]["n"], n, "in order, none missing");
    }
    let bye = reader.frame().await.json();
    assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(1012)));
    assert_eq!(bye["reason"], "drain");
    assert!(bye["retry_ms"].as_u64().is_some_and(|ms| ms > 0), "{bye}");
    assert_eq!(reader.close_frame().await, (1012, "drain".to_owned()));
    drop(reader);

    eventually(
        async || match tokio::net::TcpStream::connect(node.client_address()).await {
            Err(_) => Ok(()),
            Ok(_) => Err("a leaving node still accepts clients"),
        },
    )
    .await;
    drop(deaf);
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
}
