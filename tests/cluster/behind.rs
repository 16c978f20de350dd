//! A node that is behind with what it reads is not deaf: its subscription stays, and so do the
//! messages that are still on their way.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Client, Redis, node};
use crate::raw::Resp;

/// Bytes that are passed on at once, and the pause after them: 800 KB a second.
const PART: usize = 16_000;
const PAUSE: Duration = Duration::from_millis(20);
/// The lines before the last one: 4 MB, which are on their way for five seconds, three times as long
/// as a probe may take.
const LINES: usize = 4_000;
const LENGTH: usize = 1_000;

/// A way to Redis on which a subscription is slow. Returns its address.
async fn slow_way_to(port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(pass(socket, port));
        }
    });
    address
}

async fn pass(socket: TcpStream, port: u16) {
    let redis = TcpStream::connect(("127.0.0.1", port)).await;
    let redis = redis.expect("Redis");
    let ((mut from_node, to_node), (from_redis, mut to_redis)) =
        (socket.into_split(), redis.into_split());
    let (is_slow, watched) = tokio::sync::watch::channel(false);
    tokio::spawn(pass_answers(from_redis, to_node, watched));
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_node.read(&mut buffer).await {
        let said = &buffer[..count];
        if said.windows(9).any(|word| word == b"SUBSCRIBE") {
            is_slow.send_replace(true);
        }
        if to_redis.write_all(said).await.is_err() {
            return;
        }
    }
}

async fn pass_answers(
    mut from_redis: OwnedReadHalf,
    mut to_node: OwnedWriteHalf,
    is_slow: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PART];
    while let Ok(count @ 1..) = from_redis.read(&mut buffer).await {
        if to_node.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if *is_slow.borrow() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_behind_lines_to_all_nodes_is_waited_for() {
    let redis = Redis::start();
    let way = slow_way_to(redis.port()).await;
    let url = format!("redis://{way}");
    let node = node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let subscribed = node.metric("subscriptions_total").await;
    let mut publisher = Resp::connect(redis.port()).await;
    let publish = |line: String| vec!["PUBLISH".to_owned(), "pn:g".to_owned(), line];
    let long = "x".repeat(LENGTH);
    let mut lines: Vec<Vec<String>> = (0..LINES)
        .map(|number| {
            publish(format!(
                r#"{{"to":{{"user":"no{number}"}},"data":"{long}"}}"#
            ))
        })
        .collect();
    lines.push(publish(r#"{"to":{"user":"42"},"data":"last"}"#.to_owned()));
    publisher.pipeline(&lines).await;
    assert_eq!(client.json().await, "last");
    assert_eq!(node.metric("subscriptions_total").await, subscribed);
}
