//! Messages for more sockets than one call of io_uring takes, with and without io_uring: the same
//! for clients, also for those whose socket takes a part only.

use serde_json::{Value, json};

use crate::common::{Client, Node, eventually, node};
use crate::raw::Raw;
use crate::sender::push;

/// More than one call takes, on the one shard.
const CLIENTS: usize = 300;
/// Larger than what a narrow socket holds after a few.
const LARGE: usize = 20_000;
const ROUNDS: u64 = 8;

async fn crowd(node: &Node) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let url = node.ws_url(&format!("u{n}"));
        // Each third with objects: two encodings in one batch.
        let client = match n % 3 {
            0 => Client::v1(&url).await,
            _ => Client::plain(&url).await,
        };
        clients.push(client);
    }
    clients
}

/// The data of the next message, whatever the dialect.
async fn data(client: &mut Client) -> Value {
    let object = client.json().await;
    match object.get("type") {
        Some(_) => object["data"].clone(),
        None => object,
    }
}

/// Nobody answers pings for the clients that are not read yet.
const NO_PINGS: (&str, &str) = ("PUSH_PING_SECONDS", "3600");

async fn all_get_everything_in_order(setting: &str) {
    let settings = [
        ("PUSH_URING", setting),
        ("PUSH_THREADS", "1"),
        ("PUSH_QUEUE_BYTES", "1000000"),
        ("PUSH_WRITE_SECONDS", "60"),
        NO_PINGS,
    ];
    let node = node(&settings);
    let mut clients = crowd(&node).await;
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", "").await;
    for n in 0..ROUNDS {
        let padding = "x".repeat(if n % 2 == 0 { 10 } else { LARGE });
        let body = json!({"to": {"all": true}, "data": {"n": n, "padding": padding}});
        push(&node, body).await;
    }
    for client in &mut clients {
        for n in 0..ROUNDS {
            assert_eq!(data(client).await["n"], n, "PUSH_URING={setting}");
        }
    }
    // It reads late, and nothing is missing, doubled or torn.
    for n in 0..ROUNDS {
        let object = slow.frame().await.json();
        assert_eq!(object["n"], n, "PUSH_URING={setting}");
    }
    let wanted = (ROUNDS * (CLIENTS as u64 + 1)) as f64;
    eventually(async || {
        let delivered = node.metric("deliveries_total").await;
        (delivered == wanted).then_some(()).ok_or(delivered)
    })
    .await;
}

#[tokio::test]
async fn a_message_for_many_is_written_by_one_call() {
    all_get_everything_in_order("auto").await;
}

#[tokio::test]
async fn and_without_io_uring_socket_by_socket() {
    all_get_everything_in_order("off").await;
}

#[tokio::test]
async fn who_leaves_in_the_middle_disturbs_no_other() {
    let node = node(&[("PUSH_THREADS", "1"), NO_PINGS]);
    let mut clients = crowd(&node).await;
    for n in 0..ROUNDS {
        // Their sockets end while messages are on their way to all.
        clients.truncate(CLIENTS - 20 * n as usize);
        push(&node, json!({"to": {"all": true}, "data": {"n": n}})).await;
    }
    for client in &mut clients {
        for n in 0..ROUNDS {
            assert_eq!(data(client).await["n"], n);
        }
    }
}
