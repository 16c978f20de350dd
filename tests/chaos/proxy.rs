//! A way from one node to Redis that can be made bad: a black hole, a reset, a delay, silence
//! for ever or for a while, single messages lost. It can lead to another server, as a name does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Where new connections lead.
    target: Arc<AtomicU16>,
    way: watch::Sender<Way>,
    resets: watch::Sender<u32>,
    /// The last one hit all connections, or only those that subscribe.
    silences: watch::Sender<bool>,
    /// Whether the address is silent now.
    mute: watch::Sender<bool>,
    /// How many messages are still to be lost.
    losses: Arc<AtomicU32>,
    stall: Arc<Stall>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let (way, _) = watch::channel(Way::Open);
        let (resets, _) = watch::channel(0);
        let (silences, _) = watch::channel(false);
        let (mute, _) = watch::channel(false);
        let target = Arc::new(AtomicU16::new(port));
        let losses = Arc::new(AtomicU32::new(0));
        let stall = Arc::new(Stall::default());
        let (stalled, leads, muted) = (stall.clone(), target.clone(), mute.clone());
        let (ways, cuts, mutes, lost) = (
            way.clone(),
            resets.clone(),
            silences.clone(),
            losses.clone(),
        );
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let link = Link {
                    way: ways.subscribe(),
                    resets: cuts.subscribe(),
                    silences: mutes.subscribe(),
                    mute: muted.subscribe(),
                    losses: lost.clone(),
                    stall: stalled.clone(),
                };
                tokio::spawn(link.serve(client, leads.load(Ordering::SeqCst)));
            }
        });
        Ok(Self {
            port: own,
            target,
            way,
            resets,
            silences,
            mute,
            losses,
            stall,
            task,
        })
    }

    pub(crate) fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    pub(crate) fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    /// New connections lead to this port; those that are open stay where they are.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }

    /// The address says nothing more, to connections that are open and to those that come.
    pub(crate) fn mute(&self) {
        self.mute.send_replace(true);
    }

    /// New connections are answered again. Those before stay as they are.
    pub(crate) fn unmute(&self) {
        self.mute.send_replace(false);
    }

    pub(crate) fn slow(&self, delay: Duration) {
        self.way.send_replace(Way::Slow(delay));
    }

    /// The connections that are open now, or only those that subscribe, carry nothing any more,
    /// without an end. New ones work.
    pub(crate) fn silence(&self, all: bool) {
        self.silences.send_replace(all);
    }

    /// The next messages of nodes to this node's channel are lost, and the connection lives.
    pub(crate) fn lose(&self, messages: u32) {
        self.losses.store(messages, Ordering::Relaxed);
    }

    /// The next commands that hold all of these words stand still for so long on their connection,
    /// and reach Redis then, whatever has become of the node's end of it.
    pub(crate) fn stall(&self, words: &[&str], time: Duration) {
        let words = words.iter().map(|word| word.as_bytes().to_vec());
        *self.stall.lock() = Some((words.collect(), time));
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

/// Commands that are to stand still: the words in them, and how long.
#[derive(Default)]
struct Stall(Mutex<Option<(Vec<Vec<u8>>, Duration)>>);

impl Stall {
    fn lock(&self) -> MutexGuard<'_, Option<(Vec<Vec<u8>>, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long these commands are to stand still, once.
    fn of(&self, piece: &[u8]) -> Option<Duration> {
        let holds = |word: &Vec<u8>| piece.windows(word.len()).any(|one| one == word);
        let mut armed = self.lock();
        let (_, time) = armed.take_if(|(words, _)| words.iter().all(holds))?;
        Some(time)
    }
}

/// What one connection listens to.
struct Link {
    way: watch::Receiver<Way>,
    resets: watch::Receiver<u32>,
    silences: watch::Receiver<bool>,
    mute: watch::Receiver<bool>,
    losses: Arc<AtomicU32>,
    stall: Arc<Stall>,
}

impl Link {
    async fn serve(mut self, client: TcpStream, port: u16) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if *self.mute.borrow_and_update() {
            return swallow(client.into_split().0).await;
        }
        let Ok(redis) = TcpStream::connect(address).await else {
            return;
        };
        for socket in [&client, &redis] {
            let _ = socket.set_nodelay(true);
            // A close becomes a reset: what is on its way is gone.
            let _ = socket.set_zero_linger();
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_redis, mut to_redis) = redis.into_split();
        let subscribes = AtomicBool::new(false);
        let Self {
            way,
            resets,
            silences,
            mute,
            losses,
            stall,
        } = &mut self;
        {
            let up = copy(&mut from_client, &mut to_redis, way.clone(), |piece| {
                if piece.windows(9).any(|word| word == b"SUBSCRIBE") {
                    subscribes.store(true, Ordering::Relaxed);
                }
                stall.of(piece).map_or(Passage::Free, Passage::Late)
            });
            let down = copy(&mut from_redis, &mut to_client, way.clone(), |piece| {
                let left = losses.load(Ordering::Relaxed);
                let lost = left > 0 && is_one_message(piece);
                losses.store(left - u32::from(lost), Ordering::Relaxed);
                if lost { Passage::None } else { Passage::Free }
            });
            tokio::pin!(up, down);
            loop {
                tokio::select! {
                    () = &mut up => return,
                    () = &mut down => return,
                    _ = resets.changed() => return,
                    changed = silences.changed() => {
                        let all = *silences.borrow_and_update();
                        if changed.is_err() || all || subscribes.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    changed = mute.changed() => {
                        if changed.is_err() || *mute.borrow_and_update() {
                            break;
                        }
                    }
                }
            }
        }
        // Only its end lets Redis know.
        swallow(from_client).await;
    }
}

/// Takes whatever the node says, to its end.
async fn swallow(mut from_client: OwnedReadHalf) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(1..) = from_client.read(&mut piece).await {}
}

/// What becomes of a piece.
enum Passage {
    Free,
    None,
    Late(Duration),
}

/// Moves the pieces that pass until one side ends. The delay of a piece holds up those behind it.
async fn copy(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    passage: impl Fn(&[u8]) -> Passage,
) {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut piece).await else {
            // An end does not pass a closed way either.
            let _ = way.wait_for(|way| *way != Way::Closed).await;
            return;
        };
        let passage = passage(&piece[..count]);
        match passage {
            Passage::None => continue,
            Passage::Late(time) => tokio::time::sleep(time).await,
            Passage::Free => {}
        }
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
        if let Passage::Late(_) = passage {
            // The client has given up, and the reset that its end becomes must not overtake this.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Whether this is exactly one message of a node on a node's channel (RESP3), so that it can be
/// left out without breaking the stream.
fn is_one_message(piece: &[u8]) -> bool {
    let parse = || {
        let rest = piece.strip_prefix(b">3\r\n$7\r\nmessage\r\n")?;
        let (channel, rest) = bulk(rest)?;
        let (payload, rest) = bulk(rest)?;
        let is_ours = channel.starts_with(b"pn:n:") && payload.starts_with(br#"{"v":1,"#);
        Some(is_ours && rest.is_empty())
    };
    parse().unwrap_or(false)
}

/// One bulk string, and what is behind it.
fn bulk(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"$")?;
    let end = text.iter().position(|byte| *byte == b'\r')?;
    let length: usize = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    let (bulk, rest) = text.get(end + 2..)?.split_at_checked(length)?;
    Some((bulk, rest.strip_prefix(b"\r\n")?))
}
