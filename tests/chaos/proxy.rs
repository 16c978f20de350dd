//! A way from one node to Redis that can be made bad: a black hole, a reset, a delay.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Every piece takes so long, in either direction.
    Slow(Duration),
    /// Nothing passes; nobody is told. What waits comes when the way opens again.
    Closed,
}

/// The way of one node. Ends when dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: watch::Sender<Way>,
    resets: watch::Sender<u32>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let (way, _) = watch::channel(Way::Open);
        let (resets, _) = watch::channel(0);
        let (ways, cuts) = (way.clone(), resets.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, port, ways.subscribe(), cuts.subscribe()));
            }
        });
        Ok(Self {
            port: own,
            way,
            resets,
            task,
        })
    }

    pub(crate) fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub(crate) fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    pub(crate) fn slow(&self, delay: Duration) {
        self.way.send_replace(Way::Slow(delay));
    }

    /// Ends all connections with a reset.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.resets.send_modify(|count| *count += 1);
    }
}

async fn serve(
    client: TcpStream,
    port: u16,
    way: watch::Receiver<Way>,
    mut resets: watch::Receiver<u32>,
) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(redis) = TcpStream::connect(address).await else {
        return;
    };
    for socket in [&client, &redis] {
        let _ = socket.set_nodelay(true);
        // A close becomes a reset: what is on its way is gone.
        let _ = socket.set_zero_linger();
    }
    let ((from_client, to_client), (from_redis, to_redis)) =
        (client.into_split(), redis.into_split());
    tokio::select! {
        () = copy(from_client, to_redis, way.clone()) => {}
        () = copy(from_redis, to_client, way) => {}
        _ = resets.changed() => {}
    }
}

/// Moves pieces until one side ends. The delay of a piece holds up those behind it.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut piece).await else {
            // An end does not pass a closed way either.
            let _ = way.wait_for(|way| *way != Way::Closed).await;
            return;
        };
        let now = *way.borrow();
        if let Way::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if way.wait_for(|way| *way != Way::Closed).await.is_err() {
            return;
        }
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
