//! Many senders at once, whose answers and messages share system calls.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::common::{Client, node};

const USERS: usize = 8;
const SENDERS: usize = 48;
const PUSHES: u64 = 100;

/// The n-th push of a sender to its user.
fn request(sender: usize, n: u64) -> String {
    let user = format!("u{}", sender % USERS);
    let body = json!({"to": {"user": user}, "data": [sender, n]}).to_string();
    let length = body.len();
    format!(
        "POST /v1/push HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads an answer; its body.
async fn answer(stream: &mut BufReader<TcpStream>) -> Value {
    let mut length = 0;
    loop {
        let mut line = String::new();
        assert_ne!(
            stream
                .read_line(&mut line)
                .await
                .expect("a socket that works"),
            0,
            "no answer"
        );
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream
        .read_exact(&mut body)
        .await
        .expect("a socket that works");
    serde_json::from_slice(&body).expect("JSON")
}

/// Sends pushes one after the other, then some at once and no more.
async fn send(address: std::net::SocketAddr, sender: usize) {
    let mut stream = BufReader::new(
        TcpStream::connect(address)
            .await
            .expect("a socket that works"),
    );
    for n in 0..PUSHES {
        let request = request(sender, n);
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a socket that works");
        assert_eq!(answer(&mut stream).await["status"], "routed");
    }
    let last: String = (PUSHES..PUSHES + 5).map(|n| request(sender, n)).collect();
    stream
        .write_all(last.as_bytes())
        .await
        .expect("a socket that works");
    stream.shutdown().await.expect("a socket that works");
    for _ in 0..5 {
        assert_eq!(answer(&mut stream).await["status"], "routed");
    }
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .await
        .expect("a socket that works");
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}

#[tokio::test]
async fn pushes_of_many_senders_at_once_come_once_and_in_order() {
    for settings in [&[][..], &[("PUSH_URING", "off")]] {
        let node = node(settings);
        let mut clients = Vec::new();
        for user in 0..USERS {
            clients.push(Client::plain(&node.ws_url(&format!("u{user}"))).await);
        }
        let address = node.client_address();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| tokio::spawn(send(address, sender)))
            .collect();
        let expected = (SENDERS / USERS) as u64 * (PUSHES + 5);
        for (user, client) in clients.iter_mut().enumerate() {
            let mut next: HashMap<u64, u64> = HashMap::new();
            for _ in 0..expected {
                let data = client.json().await;
                let (sender, n) = (data[0].as_u64().unwrap(), data[1].as_u64().unwrap());
                assert_eq!(sender as usize % USERS, user);
                let next = next.entry(sender).or_default();
                assert_eq!(n, *next, "from {sender}");
                *next += 1;
            }
        }
        for sender in senders {
            sender.await.unwrap();
        }
        assert_eq!(
            node.metric("pushes_fast_total").await,
            f64::from(SENDERS as u32) * 105.0
        );
    }
}
