//! A clock that is not that of Redis: it is told, and what nodes say of each other is corrected.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Client, Redis, eventually, http, node};

/// How far ahead the clock of Redis seems to be, in seconds.
const AHEAD: u64 = 3600;

/// A way to Redis by which its clock is ahead: the answer to TIME is an array of two texts, of
/// which the first has ten digits.
async fn ahead_of(redis: &Redis) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let port = redis.port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let redis = TcpStream::connect(("127.0.0.1", port))
                    .await
                    .expect("Redis");
                let ((mut from_node, mut to_node), (mut from_redis, mut to_redis)) =
                    (socket.into_split(), redis.into_split());
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_node, &mut to_redis).await;
                });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from_redis.read(&mut buffer).await {
                    set_ahead(&mut buffer[..count]);
                    let _ = to_node.write_all(&buffer[..count]).await;
                }
            });
        }
    });
    format!("redis://{address}")
}

fn set_ahead(bytes: &mut [u8]) {
    const START: &[u8] = b"*2\r\n$10\r\n";
    let found = bytes.windows(START.len()).position(|part| part == START);
    let Some(digits) = found.and_then(|at| bytes.get_mut(at + START.len()..at + START.len() + 10))
    else {
        return;
    };
    let text = std::str::from_utf8(digits).expect("digits");
    if let Ok(seconds) = text.parse::<u64>() {
        digits.copy_from_slice((seconds + AHEAD).to_string().as_bytes());
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_behind_that_of_redis_says_so_and_tells_the_time_of_redis() {
    let redis = Redis::start();
    let node = node(&[("PUSH_REDIS_URL", &ahead_of(&redis).await)]);
    eventually(async || match node.metric("clock_offset_seconds").await {
        offset if (-3601.0..-3599.0).contains(&offset) => Ok(()),
        offset => Err(offset),
    })
    .await;
    let told = "s behind that of Redis";
    node.until_logged(told).await;
    let _client = Client::v1(&node.ws_url("42")).await;
    let get = async |path: &str| -> Value {
        let answer = http().get(node.url(path)).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    };
    let user = get("/v1/users/42").await;
    let trace = get("/v1/users/42/trace").await;
    let times = [&user["since"], &trace["events"][0]["at"]];
    for at in times {
        let at = at.as_u64().unwrap_or_else(|| panic!("{user} {trace}"));
        let off = at.abs_diff(now_ms() + AHEAD * 1000);
        // An hour is meant, and not what a slow machine takes.
        assert!(off < 600_000, "{at} is off by {off} ms");
    }
}
