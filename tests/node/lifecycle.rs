//! A lone node and its process: which signals do what, how it ends, and a log that nobody reads.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::common::tokens::Issuer;
use crate::common::{Client, eventually, http, node, node_command, post};
use crate::common::{start_node, start_with_log};

#[tokio::test]
async fn signals_that_ask_for_no_end_do_not_end_a_node() {
    let mut node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    for signal in ["USR1", "USR2", "HUP", "HUP"] {
        node.signal(signal);
    }
    node.until_logged("SIGHUP").await;
    let push = json!({"to": {"user": "42"}, "data": 1});
    assert_eq!(post(&node.push_url, &push).await.0, 200);
    assert_eq!(client.json().await, 1);
    assert!(node.ended().is_none());
}

#[tokio::test]
async fn quit_ends_a_node_as_well_as_term_does() {
    let mut node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    node.signal("QUIT");
    assert_eq!(client.close_frame().await, (1012, "drain".to_owned()));
    client.end().await;
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn the_second_signal_ends_a_node_at_once() {
    for (first, second, code) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("TERM", "INT", 130),
    ] {
        let mut node = start_node(&[("PUSH_PRESTOP_SECONDS", "3600")]);
        node.signal(first);
        node.until_logged("leaving").await;
        // Not taken for a second one.
        node.signal("HUP");
        node.until_logged("SIGHUP").await;
        assert!(node.ended().is_none());
        node.signal(second);
        assert_eq!(node.wait_exit().code(), Some(code), "{}", node.log());
        node.until_logged("told to end again").await;
    }
}

#[tokio::test]
async fn a_hangup_reads_the_file_of_keys_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, Issuer::p256().pem()).unwrap();
    let settings = [
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWT_KEYS_FILE", path.to_str().unwrap()),
    ];
    let node = node(&settings);
    // The file has not changed, so the node would not look by itself.
    node.signal("HUP");
    node.until_logged("keys of PUSH_JWT_KEYS_FILE read again")
        .await;
}

/// No other node can take them, so each moment only keeps them from the next process.
#[tokio::test]
async fn a_lone_node_sends_everybody_away_at_once() {
    let mut node = node(&[]);
    let urls: Vec<String> = (0..40).map(|n| node.ws_url(&format!("u{n}"))).collect();
    let clients = join_all(urls.iter().map(|url| Client::plain(url))).await;
    let start = Instant::now();
    node.signal("TERM");
    let ends = clients.into_iter().map(async |mut client| {
        assert_eq!(client.close_frame().await.0, 1012);
        client.end().await;
    });
    join_all(ends).await;
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
    let took = start.elapsed();
    println!("40 clients and the node were gone after {took:?}");
    // With the window of nodes that have others, it is over 10 s.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_node_whose_log_nobody_reads_goes_on() {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut node = start_with_log(&[], writer);
    node.wait_ready();
    let mut client = Client::plain(&node.ws_url("42")).await;
    // Each of these is told at `debug`, in more bytes than a pipe's 64 KiB hold of each.
    for _ in 0..40 {
        let urls: Vec<String> = (0..40).map(|n| node.ws_url(&format!("u{n}"))).collect();
        drop(join_all(urls.iter().map(|url| Client::plain(url))).await);
    }
    eventually(async || match node.metric("closes_total").await {
        closes if closes >= 1600.0 => Ok(()),
        closes => Err(closes),
    })
    .await;
    let push = json!({"to": {"user": "42"}, "data": 1});
    assert_eq!(post(&node.push_url, &push).await.0, 200);
    assert_eq!(client.json().await, 1);
    let health = http().get(node.admin_url("/healthz")).send().await;
    assert_eq!(health.expect("an answer").status(), 200);
    drop(client);
    node.signal("TERM");
    assert_eq!(node.wait_exit().code(), Some(0));
    // Until now there was no reader, and the pipe was full. How many bytes are in a full pipe
    // depends on how its writer cuts them.
    let mut logged = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut logged).expect("a log");
    let logged = String::from_utf8_lossy(&logged);
    assert!(logged.contains("closed fd="), "a log: {logged}");
    assert!(!logged.contains("leaving"), "the pipe had room: {logged}");
}

#[test]
fn the_last_words_of_a_failed_start_are_written() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = listener.local_addr().expect("an address").to_string();
    let output = node_command(&[("PUSH_LISTEN", &listen)])
        .stdin(Stdio::null())
        .output()
        .expect("pushnode runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{words}");
    assert!(words.contains("cannot listen on"), "{words}");
}
