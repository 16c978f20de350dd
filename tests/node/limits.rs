//! Places for clients and what happens when they run out.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::{Client, Node, eventually, http, node, node_command, post, start_command};
use crate::raw::{Answer, HANDSHAKE, Raw};

async fn handshake(node: &Node) -> (Raw, Answer) {
    let mut raw = Raw::open(node.client_address()).await;
    let request = format!("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}\r\n");
    let answer = raw.ask(&request).await;
    (raw, answer)
}

async fn a_cap_is_kept_and_places_are_given_back(cap: &str, reason: &str) {
    let node = node(&[(cap, "3"), ("PUSH_API_LISTEN", "127.0.0.1:0")]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (raw, answer) = handshake(&node).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        clients.push(raw);
    }
    for _ in 0..3 {
        let (mut raw, answer) = handshake(&node).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.code(), "full", "{answer:?}");
        let retry = answer.header("retry-after").and_then(|s| s.parse().ok());
        assert!(retry.is_some_and(|s: u32| s > 0), "{answer:?}");
        raw.end().await;
    }
    let label = format!("reason=\"{reason}\"");
    assert_eq!(node.labelled("accepts_refused_total", &label).await, 3.0);

    // Senders are not kept out, and those who are in get theirs.
    let push = json!({"to": {"user": "42"}, "data": 1});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(3)));
    for client in &mut clients {
        assert_eq!(client.frame().await.text(), "1");
    }

    // A place is given back however its connection ends: a WebSocket that vanishes, a request
    // that is refused.
    clients.pop();
    let _: Raw = eventually(async || match handshake(&node).await {
        (raw, answer) if answer.status == 101 => Ok(raw),
        (_, answer) => Err(answer),
    })
    .await;
    eventually(async || {
        let mut raw = Raw::open(node.client_address()).await;
        let answer = raw
            .ask("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        match answer.status {
            426 => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
    eventually(async || match handshake(&node).await {
        (_, answer) if answer.status == 101 => Ok(()),
        (_, answer) => Err(answer),
    })
    .await;
}

#[tokio::test]
async fn the_cap_of_the_node_is_kept_and_places_are_given_back() {
    a_cap_is_kept_and_places_are_given_back("PUSH_MAX_CONNECTIONS", "node_full").await;
}

#[tokio::test]
async fn the_cap_of_an_address_is_kept_and_places_are_given_back() {
    a_cap_is_kept_and_places_are_given_back("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "address_full")
        .await;
}

/// A node that may open this many files.
fn node_with_files(files: u32, settings: &[(&str, &str)]) -> Node {
    let inner = node_command(settings);
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {files}; exec \"$0\""))
        .arg(inner.get_program())
        .env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.expect("set"));
    }
    let node = start_command(command);
    node.wait_ready();
    node
}

/// Processor time of a process, in clock ticks (hundredths of a second on Linux).
fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its stat");
    // Behind the name, which may hold blanks: state is field 3, utime 14, stime 15.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

#[tokio::test]
async fn a_full_table_of_file_descriptors_is_survived_without_a_busy_loop() {
    let node = node_with_files(64, &[("PUSH_MAX_CONNECTIONS", "100000")]);
    let mut first = Client::plain(&node.ws_url("first")).await;
    // On a connection that is open already: a new one would not be accepted.
    let sender = crate::common::http();
    let push = async |n: u32| {
        let push = json!({"to": {"user": "first"}, "data": n});
        let answer = sender.post(&node.push_url).json(&push).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(push(0).await, 200);
    // As is the operators' one.
    let metrics = async || {
        let text = sender.get(node.admin_url("/metrics")).send().await.unwrap();
        let text = text.text().await.unwrap();
        let errors = text
            .lines()
            .find_map(|line| line.strip_prefix("pushnode_accept_errors_total "));
        errors
            .expect("the metric")
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(metrics().await, 0);

    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(
            tokio::net::TcpStream::connect(node.client_address())
                .await
                .unwrap(),
        );
    }
    eventually(async || match metrics().await {
        0 => Err("accept has not failed"),
        _ => Ok(()),
    })
    .await;
    // The time in which a busy loop would show; those who are in are served meanwhile.
    let (errors, ticks) = (metrics().await, processor_ticks(node.pid()));
    let begun = std::time::Instant::now();
    let mut n = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        n += 1;
        assert_eq!(push(n).await, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let failed = metrics().await - errors;
    let used = processor_ticks(node.pid()) - ticks;
    // Rates, so that a slow machine may take longer.
    let seconds = begun.elapsed().as_secs_f64();
    assert!(
        failed as f64 <= 20.0 * seconds,
        "{failed} failed accepts in {seconds:.1} s"
    );
    assert!(
        used as f64 <= 30.0 * seconds,
        "{used} hundredths of a second of processor time in {seconds:.1} s"
    );
    for n in 0..=n {
        assert_eq!(first.json().await, n);
    }
    node.until_logged("accept failed").await;

    drop(crowd);
    let mut late = Client::plain(&node.ws_url("late")).await;
    let (status, _) = post(&node.push_url, &json!({"to": {"user": "late"}, "data": 1})).await;
    assert_eq!(status, 200);
    assert_eq!(late.json().await, 1);
}

#[tokio::test]
async fn without_a_cap_nine_tenths_of_the_files_are_for_clients() {
    // A tenth of 400 is over twice what a node without clients has open.
    let node = node_with_files(400, &[]);
    let mut clients = Vec::new();
    let refused = loop {
        let (raw, answer) = handshake(&node).await;
        if answer.status != 101 {
            break answer;
        }
        clients.push(raw);
        assert!(clients.len() < 400, "no end");
    };
    assert_eq!((refused.status, refused.code()), (503, "full".to_owned()));
    assert_eq!(clients.len(), 360);
    assert_eq!(node.metric("accept_errors_total").await, 0.0);
}

/// Connects with this `X-Forwarded-For`; the socket, or status and body of the refusal.
async fn forwarded(node: &Node, user: &str, hops: &str) -> Result<Client, (u16, String)> {
    let mut request = node.ws_url(user).into_client_request().expect("a URL");
    let hops = hops.parse().expect("a header value");
    request.headers_mut().insert("x-forwarded-for", hops);
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(Client {
            socket,
            ready: None,
        }),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body).into_owned();
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn address_of(node: &Node, user: &str) -> Value {
    let shown = http()
        .get(node.url(&format!("/v1/users/{user}")))
        .send()
        .await;
    let shown: Value = shown.expect("an answer").json().await.expect("JSON");
    shown["connections"][0]["addr"].clone()
}

#[tokio::test]
async fn a_trusted_proxys_clients_are_counted_by_their_own_address() {
    let node = node(&[
        ("PUSH_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.1"),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "2"),
        ("PUSH_STORE_ADDRESS", "true"),
    ]);
    let _a = forwarded(&node, "a", "6.6.6.6, 1.1.1.1")
        .await
        .expect("let in");
    let b = forwarded(&node, "b", "1.1.1.1, 10.0.0.1")
        .await
        .expect("let in");
    assert_eq!(address_of(&node, "a").await, "1.1.1.1");
    assert_eq!(address_of(&node, "b").await, "1.1.1.1");
    let refused = forwarded(&node, "c", "1.1.1.1")
        .await
        .err()
        .expect("no place");
    assert_eq!(refused.0, 503, "{}", refused.1);
    assert!(refused.1.contains(r#""code":"full""#), "{}", refused.1);
    assert_eq!(
        node.labelled("accepts_refused_total", r#"reason="address_full""#)
            .await,
        1.0
    );
    let _d = forwarded(&node, "d", "1.1.1.2")
        .await
        .expect("another address");
    drop(b);
    eventually(async || forwarded(&node, "c", "1.1.1.1").await.map(drop)).await;
}

#[tokio::test]
async fn a_strangers_word_for_an_address_does_not_count() {
    let node = node(&[
        ("PUSH_TRUSTED_PROXIES", "10.0.0.1"),
        ("PUSH_STORE_ADDRESS", "true"),
    ]);
    let _a = forwarded(&node, "a", "1.1.1.1").await.expect("let in");
    assert_eq!(address_of(&node, "a").await, "127.0.0.1");
}
