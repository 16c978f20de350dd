//! Redis that talks nonsense or trickles, and logs that nobody takes.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::{Client, Node, Redis, eventually, http, node, node_on, post, start_command};

/// What happens to what Redis says.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    None,
    /// This comes instead, and then all as before.
    Instead(&'static [u8]),
    /// Half of it comes, and then the end.
    CutInside,
    /// No more than so many bytes in a tenth of a second, both ways.
    Narrow(usize),
}

/// A way to Redis that does harm on demand.
struct Mangler {
    port: u16,
    harm: watch::Sender<(u32, Harm)>,
    task: tokio::task::JoinHandle<()>,
}

impl Mangler {
    async fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let redis = SocketAddr::from(([127, 0, 0, 1], redis.port()));
        let (harm, seen) = watch::channel((0, Harm::None));
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let seen = seen.clone();
                tokio::spawn(async move {
                    // Refused while Redis is not there: the client sees the end.
                    if let Ok(redis) = TcpStream::connect(redis).await {
                        let (from_client, to_client) = client.into_split();
                        let (from_redis, to_redis) = redis.into_split();
                        tokio::select! {
                            () = carry(from_client, to_redis, seen.clone(), false) => {}
                            () = carry(from_redis, to_client, seen, true) => {}
                        }
                    }
                });
            }
        });
        Self { port, harm, task }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Once on each connection that is open, or for as long as it is set.
    fn does(&self, harm: Harm) {
        self.harm
            .send_modify(|(turn, old)| (*turn, *old) = (*turn + 1, harm));
    }
}

impl Drop for Mangler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    harm: watch::Receiver<(u32, Harm)>,
    is_answer: bool,
) {
    // A connection that is opened later is spared.
    let mut done = harm.borrow().0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let room = match harm.borrow().1 {
            Harm::Narrow(bytes) => bytes,
            _ => buffer.len(),
        };
        let Ok(count @ 1..) = from.read(&mut buffer[..room]).await else {
            return;
        };
        let (turn, harm) = *harm.borrow();
        let is_due = is_answer && std::mem::replace(&mut done, turn) != turn;
        let sent = match harm {
            Harm::Instead(garbage) if is_due => to.write_all(garbage).await,
            Harm::CutInside if is_due => {
                let _ = to.write_all(&buffer[..count.div_ceil(2)]).await;
                return;
            }
            Harm::Narrow(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                to.write_all(&buffer[..count]).await
            }
            _ => to.write_all(&buffer[..count]).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Pushes until one arrives: what was said while harm was done may be lost.
async fn until_routed(sender: &Node, client: &mut Client, data: &str) {
    eventually(async || {
        let body = json!({"to": {"user": "42"}, "data": data});
        match post(&sender.push_url, &body).await {
            (200, answer) if answer["status"] == "routed" => {}
            other => return Err(format!("{other:?}")),
        }
        let arrives = async { while client.json().await["data"] != data {} };
        let arrived = tokio::time::timeout(Duration::from_secs(1), arrives).await;
        arrived.map_err(|_| "routed, and lost".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_never_says_is_survived() {
    let redis = Redis::start();
    let mangler = Mangler::to(&redis).await;
    let a = node(&[("PUSH_REDIS_URL", &mangler.url()), ("PUSH_NODE_NAME", "a")]);
    let b = node_on(&redis, "b");
    let mut client = Client::v1(&a.ws_url("42")).await;
    until_routed(&b, &mut client, "first").await;
    let garbage: [&[u8]; 5] = [
        b"$-99\r\n",
        b"*3\r\n:abc\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$5\r\nhello\r\n",
        b"\x00\xff\xfe\x80\r\n",
    ];
    for (turn, garbage) in garbage.into_iter().enumerate() {
        mangler.does(Harm::Instead(garbage));
        // The probe goes that way twice a second, whatever else does.
        until_routed(&b, &mut client, &format!("garbage {turn}")).await;
        until_routed(&a, &mut client, &format!("from here {turn}")).await;
    }
    mangler.does(Harm::CutInside);
    until_routed(&b, &mut client, "last").await;
    eventually(
        async || match http().get(a.admin_url("/readyz")).send().await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
}

/// 20 KiB a second between a node and Redis: whoever sends more is told so, and all is well
/// when the way is wide again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_way_to_redis_is_told_to_senders() {
    let redis = Redis::start();
    let mangler = Mangler::to(&redis).await;
    let a = node_on(&redis, "a");
    let b = node(&[("PUSH_REDIS_URL", &mangler.url()), ("PUSH_NODE_NAME", "b")]);
    let mut client = Client::v1(&a.ws_url("42")).await;
    until_routed(&b, &mut client, "before").await;
    mangler.does(Harm::Narrow(2048));
    let filler = "x".repeat(8 * 1024);
    let push = |number: usize| {
        let body = json!({"to": {"user": "42"}, "data": [number, filler], "timeout_ms": 1000});
        let url = b.push_url.clone();
        async move { (number, post(&url, &body).await) }
    };
    let answers = futures::future::join_all((0..200).map(push)).await;
    let refused = answers
        .iter()
        .filter(|(_, (status, _))| *status == 503)
        .count();
    assert!(refused > 100, "{refused} of 200 were refused");
    for (number, (status, answer)) in &answers {
        assert!([200, 503].contains(status), "{number}: {answer}");
    }
    mangler.does(Harm::None);
    until_routed(&b, &mut client, "after").await;
}

#[tokio::test]
async fn a_node_whose_log_nobody_takes_goes_on() {
    let redis = Redis::start();
    let b = node_on(&redis, "b");
    for log in ["/dev/full", "&-"] {
        let mut command = Command::new("sh");
        command
            .env_clear()
            .args([
                "-c",
                &format!("exec \"$0\" 2>{log}"),
                env!("CARGO_BIN_EXE_pushnode"),
            ])
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("PUSH_LISTEN", "127.0.0.1:0")
            .env("PUSH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("PUSH_REDIS_URL", redis.url())
            .env("PUSH_NODE_NAME", "a")
            .env("PUSH_LOG", "debug");
        let mut a = start_command(command);
        a.wait_ready();
        let mut client = Client::v1(&a.ws_url("42")).await;
        until_routed(&b, &mut client, "before").await;
        // Each of these has something to log.
        redis.cli(&["PUBLISH", "pn:g", "nonsense"]);
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        until_routed(&b, &mut client, "after").await;
        eventually(async || match a.metric("bad_envelopes_total").await {
            1.0 => Ok(()),
            other => Err(other),
        })
        .await;
        drop(client);
        a.signal("TERM");
        assert!(a.wait_exit().success(), "log to {log}");
    }
}
