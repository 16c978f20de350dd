//! A connection that listens: what Redis sends by itself, read by the task that acts on it.
//!
//! It is dialled again by itself when it breaks; its owner is told, and subscribes again. What must
//! stay true: a wait may be given up at any time, and no byte is lost.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fred::error::{Error, ErrorKind};
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::backplane::redis::wire::connection::{DialPauses, Door};
use crate::backplane::redis::wire::resp::{self, Framer, Reply};
use crate::backplane::redis::wire::stream::{RedisStream, accepted, closed};

/// Room that is made for what arrives, when less than a part of it is left.
const ROOM: usize = 64 * 1024;
const LEAST: usize = ROOM / 8;

/// What was heard.
#[derive(Debug)]
pub(crate) enum Heard {
    /// On this channel.
    Message { channel: Bytes, payload: Bytes },
    /// A channel is subscribed to: what is published from now on comes.
    Subscribed,
    /// To a command.
    Answer(Result<Reply, Error>),
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Something was heard, perhaps not yet whole.
    Bytes,
    /// The connection broke, and there is another, which is not subscribed to anything.
    Connected,
}

enum ReaderState {
    Up(RedisStream),
    Dialling(Pin<Box<dyn Future<Output = (RedisStream, DialPauses)> + Send>>),
}

pub(crate) struct MessageReader<D> {
    door: Arc<D>,
    state: ReaderState,
    pauses: DialPauses,
    input: BytesMut,
    framer: Framer,
}

impl<D: Door> MessageReader<D> {
    /// Dials until there is a connection.
    pub(crate) async fn open(door: D) -> Self {
        let door = Arc::new(door);
        let (stream, pauses) = dial(door.clone(), DialPauses::default()).await;
        Self {
            door,
            pauses,
            state: ReaderState::Up(stream),
            input: BytesMut::new(),
            framer: Framer::default(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.state, ReaderState::Up(_))
    }

    /// Waits until there is news.
    pub(crate) async fn wait(&mut self) -> News {
        loop {
            match &mut self.state {
                ReaderState::Up(stream) => {
                    if self.input.capacity() - self.input.len() < LEAST {
                        self.input.reserve(ROOM);
                    }
                    match stream.read_buf(&mut self.input).await {
                        Ok(0) => self.break_off(&closed()),
                        Ok(_) => return News::Bytes,
                        Err(error) => self.break_off(&error.into()),
                    }
                }
                ReaderState::Dialling(dialled) => {
                    let (stream, pauses) = dialled.await;
                    (self.state, self.pauses) = (ReaderState::Up(stream), pauses);
                    return News::Connected;
                }
            }
        }
    }

    /// The news that is there already.
    pub(crate) fn poll_now(&mut self) -> Option<News> {
        tokio::task::unconstrained(pin!(self.wait())).now_or_never()
    }

    /// The next that was heard; `None` if no more of it is whole.
    pub(crate) fn take(&mut self) -> Option<Heard> {
        loop {
            match self.framer.whole(&self.input) {
                Ok(Some(length)) => match heard(&self.input.split_to(length).freeze()) {
                    Ok(Some(heard)) => return Some(heard),
                    // Nothing that is waited for.
                    Ok(None) => {}
                    Err(error) => self.break_off(&error),
                },
                Ok(None) => return None,
                Err(error) => self.break_off(&error.into()),
            }
        }
    }

    /// Sends commands, within this time; if that fails, the connection is given up.
    pub(crate) async fn send(&mut self, time: Duration, write: impl FnOnce(&mut Vec<u8>)) {
        let ReaderState::Up(stream) = &mut self.state else {
            return;
        };
        let mut out = Vec::new();
        write(&mut out);
        let sent = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        let silent = |_| Error::new(ErrorKind::Timeout, "nothing can be sent");
        let sent = timeout(time, sent).await.map_err(silent);
        if let Err(error) = sent.and_then(|sent| sent.map_err(Error::from)) {
            self.break_off(&error);
        }
    }

    /// Gives the connection up, and begins to dial.
    fn break_off(&mut self, error: &Error) {
        self.door.failed(error);
        self.input = BytesMut::new();
        self.framer = Framer::default();
        let mut pauses = std::mem::take(&mut self.pauses);
        let (door, pause) = (self.door.clone(), pauses.next());
        self.state = ReaderState::Dialling(Box::pin(async move {
            sleep(pause).await;
            dial(door, pauses).await
        }));
    }
}

/// What a whole answer tells, if that is waited for.
fn heard(whole: &Bytes) -> Result<Option<Heard>, Error> {
    if !resp::is_pushed(whole) {
        let reply = resp::reply(whole)?;
        return Ok(Some(Heard::Answer(accepted(reply))));
    }
    if resp::confirms(whole) {
        return Ok(Some(Heard::Subscribed));
    }
    let places = resp::message(whole)?;
    Ok(places.map(|places| Heard::Message {
        channel: whole.slice(places.channel),
        payload: whole.slice(places.payload),
    }))
}

/// Dials until there is a connection.
async fn dial(door: Arc<impl Door>, mut pauses: DialPauses) -> (RedisStream, DialPauses) {
    loop {
        match door.open().await {
            Ok(stream) => {
                door.opened();
                pauses.opened();
                return (stream, pauses);
            }
            Err(error) => door.failed(&error),
        }
        sleep(pauses.next()).await;
    }
}
