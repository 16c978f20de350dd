//! One connection: a task that owns the stream, writes what callers add, and matches the answers in
//! their order.
//!
//! While answers are outstanding, the task lets others run once before it writes: what they add
//! meanwhile goes in the same write. A silent connection is left after [`COMMAND_TIMEOUT`], so no
//! command waits longer than that for an answer, nor for a connection. What must stay true: a
//! command is written at most once. Whether one that was written was carried out, only its caller
//! can find out, who sends it again in a way that does not count twice.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use fred::error::{Error, ErrorKind};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::backplane::redis::COMMAND_TIMEOUT;
use crate::backplane::redis::wire::queue::{
    Answers, Asked, Batch, LateSource, Tell, WriteQueue, ended,
};
use crate::backplane::redis::wire::resp::{self, Framer};
use crate::backplane::redis::wire::stream::{RedisStream, closed};

/// Commands that may wait to be written; further ones are refused at once.
pub(crate) const QUEUE: usize = 100_000;
/// Their bytes.
const BYTES: usize = 64 * 1024 * 1024;
/// Room for answers that is made at a time, and kept.
const ROOM: usize = 16 * 1024;
/// A buffer that grew above this is not kept.
const KEPT: usize = 1024 * 1024;
/// The pauses between two dials: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A connection that lasted for so long is dialled again at once, others after a pause.
const LASTED: Duration = Duration::from_secs(1);
/// How often it is checked, without a connection, what has waited too long.
const CHECK: Duration = Duration::from_millis(50);

/// Where the connection leads, and who is told of it.
pub(crate) trait Door: Send + Sync + 'static {
    /// Dials and greets, within its own time limit.
    ///
    /// # Errors
    /// Why there is no connection.
    fn open(&self) -> impl Future<Output = Result<RedisStream, Error>> + Send;

    fn opened(&self);

    fn failed(&self, error: &Error);
}

/// The pauses between dials that fail, and after connections that were lost soon.
#[derive(Debug)]
pub(crate) struct DialPauses {
    next: Duration,
    opened: Option<Instant>,
}

impl Default for DialPauses {
    fn default() -> Self {
        Self {
            next: PAUSES.0,
            opened: None,
        }
    }
}

impl DialPauses {
    /// A dial has led to a connection.
    pub(crate) fn opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// The pause before the next dial.
    pub(crate) fn next(&mut self) -> Duration {
        if self.opened.take().is_some_and(|at| at.elapsed() >= LASTED) {
            self.next = PAUSES.0;
            return Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSES.1);
        pause
    }
}

/// A handle by which commands are sent. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Shared>);

struct Shared {
    queue: Mutex<WriteQueue>,
    task: AtomicWaker,
    is_connected: AtomicBool,
    /// The same, for those who wait for it.
    connected: watch::Sender<bool>,
}

/// The connection itself. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct WireTask(JoinHandle<()>, Wire);

/// Answers on their way. Dropping it does not take the question back.
pub(crate) struct Awaited(oneshot::Receiver<Answers>);

impl Awaited {
    /// Answers, and who hands them in.
    pub(crate) fn new() -> (oneshot::Sender<Answers>, Self) {
        let (caller, answers) = oneshot::channel();
        (caller, Self(answers))
    }

    pub(crate) async fn answers(self) -> Answers {
        self.0.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("is_connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

impl Drop for WireTask {
    fn drop(&mut self) {
        self.end();
    }
}

impl WireTask {
    /// Closes the connection. What waits, and what is under way, is told so.
    pub(crate) fn end(&self) {
        self.0.abort();
        let (left, sources) = {
            let mut queue = self.1.0.queue.lock();
            queue.is_ended = true;
            self.1.0.note(false);
            (
                std::mem::take(&mut queue.asked),
                std::mem::take(&mut queue.sources),
            )
        };
        drop(left);
        sources.into_iter().for_each(LateSource::put_off);
    }
}

impl Wire {
    fn new(queue: WriteQueue) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(queue),
            task: AtomicWaker::new(),
            is_connected: AtomicBool::new(false),
            connected: watch::channel(false).0,
        }))
    }

    /// Starts connecting.
    pub(crate) fn open(door: impl Door) -> (Self, WireTask) {
        let wire = Self::new(WriteQueue::default());
        let task = tokio::spawn(serve(wire.0.clone(), door));
        (wire.clone(), WireTask(task, wire))
    }

    /// Leads nowhere: all that is asked is refused.
    pub(crate) fn nowhere() -> (Self, WireTask) {
        let queue = WriteQueue {
            is_ended: true,
            ..WriteQueue::default()
        };
        let wire = Self::new(queue);
        let task = tokio::spawn(std::future::ready(()));
        (wire.clone(), WireTask(task, wire))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::Acquire)
    }

    /// Waits until there is a connection.
    pub(crate) async fn connected(&self) {
        let mut connected = self.0.connected.subscribe();
        // Fails only if the connection is gone for good.
        let _ = connected.wait_for(|is_connected| *is_connected).await;
    }

    /// How many commands wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.0.queue.lock().asked.len()
    }

    /// Asks at once. `write` writes commands and returns how many.
    pub(crate) fn ask(&self, write: impl FnOnce(&mut Vec<u8>) -> usize) -> Awaited {
        let (caller, awaited) = Awaited::new();
        self.put(write, caller);
        awaited
    }

    fn put(&self, write: impl FnOnce(&mut Vec<u8>) -> usize, caller: oneshot::Sender<Answers>) {
        let mut queue = self.0.queue.lock();
        let refusal = match &*queue {
            queue if queue.is_ended => Some(ended()),
            queue if queue.asked.len() >= QUEUE || queue.out.len() >= BYTES => Some(Error::new(
                ErrorKind::Backpressure,
                "too many commands wait for Redis",
            )),
            _ => None,
        };
        if let Some(refusal) = refusal {
            drop(queue);
            let _ = caller.send(Err(refusal));
            return;
        }
        let before = queue.out.len();
        let count = write(&mut queue.out);
        let bytes = queue.out.len() - before;
        queue
            .asked
            .push_back(Asked::new(bytes, count, Tell::Task(caller)));
        self.wake(queue);
    }

    /// Has a source pulled at the next write. Without a connection it is not, and the answer is
    /// `false`.
    pub(crate) fn signal(&self, source: Arc<dyn LateSource>) -> bool {
        let mut queue = self.0.queue.lock();
        // Under the lock: when the connection breaks, what was signalled is put off.
        if queue.is_ended || !self.is_connected() {
            return false;
        }
        queue.sources.push(source);
        self.wake(queue);
        true
    }

    fn wake(&self, mut queue: parking_lot::MutexGuard<'_, WriteQueue>) {
        if !std::mem::replace(&mut queue.is_woken, true) {
            drop(queue);
            self.0.task.wake();
        }
    }
}

/// Connects again and again, until the task is ended.
async fn serve(shared: Arc<Shared>, door: impl Door) {
    let mut pauses = DialPauses::default();
    loop {
        let mut stream = match shared.meanwhile(door.open()).await {
            Ok(stream) => stream,
            Err(error) => {
                door.failed(&error);
                shared.meanwhile(sleep(pauses.next())).await;
                continue;
            }
        };
        pauses.opened();
        shared.note(true);
        door.opened();
        let mut running = Running::new(&shared, &mut stream);
        let error = std::future::poll_fn(|cx| running.poll(cx)).await;
        let mut flight = std::mem::take(&mut running.flight);
        let sources = {
            let mut queue = shared.queue.lock();
            shared.note(false);
            std::mem::take(&mut queue.sources)
        };
        flight.iter_mut().for_each(|asked| asked.fail(&error));
        sources.into_iter().for_each(LateSource::put_off);
        door.failed(&error);
        shared.meanwhile(sleep(pauses.next())).await;
    }
}

impl Shared {
    fn note(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Release);
        self.connected.send_replace(is_connected);
    }

    /// Does this while there is no connection.
    async fn meanwhile<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(CHECK, &mut work).await {
                return done;
            }
            let Some(time) = Instant::now().checked_sub(COMMAND_TIMEOUT) else {
                continue;
            };
            let old = self.queue.lock().take_older(time);
            let silent = Error::new(ErrorKind::IO, "no connection in time");
            old.into_iter().for_each(|mut asked| asked.fail(&silent));
        }
    }
}

/// A connection at work.
struct Running<'a> {
    shared: &'a Shared,
    stream: &'a mut RedisStream,
    framer: Framer,
    input: BytesMut,
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    /// What was written, or is about to be, in this order.
    flight: VecDeque<Asked>,
    /// Others had their turn before this write.
    has_yielded: bool,
    /// When the oldest in `flight` is looked at, if that is due at all.
    limit: Pin<Box<Sleep>>,
    is_limited: bool,
}

impl<'a> Running<'a> {
    fn new(shared: &'a Shared, stream: &'a mut RedisStream) -> Self {
        Self {
            shared,
            stream,
            framer: Framer::default(),
            input: BytesMut::with_capacity(ROOM),
            out: Vec::new(),
            written: 0,
            flight: VecDeque::new(),
            has_yielded: false,
            limit: Box::pin(sleep(COMMAND_TIMEOUT)),
            is_limited: false,
        }
    }

    /// Ready when the connection has ended, with the reason.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        // Before the queue is looked at: what is added after that wakes this again.
        self.shared.task.register(cx.waker());
        if let Poll::Ready(error) = self.read(cx) {
            return Poll::Ready(error);
        }
        if let Poll::Ready(error) = self.write(cx) {
            return Poll::Ready(error);
        }
        self.check_silence(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            self.input.reserve(ROOM);
            let read = pin!(self.stream.read_buf(&mut self.input));
            match std::task::ready!(read.poll(cx)) {
                Ok(0) => return Poll::Ready(closed()),
                Ok(_) => {}
                Err(error) => return Poll::Ready(error.into()),
            }
            if let Err(error) = self.hand_out() {
                return Poll::Ready(error);
            }
        }
    }

    fn hand_out(&mut self) -> Result<(), Error> {
        let mut at = 0;
        while let Some(length) = self.framer.whole(&self.input[at..])? {
            let whole = &self.input[at..at + length];
            at += length;
            if resp::is_pushed(whole) {
                continue;
            }
            let reply = resp::reply(whole)?;
            let Some(first) = self.flight.front_mut() else {
                return Err(Error::new(ErrorKind::Protocol, "an answer to no question"));
            };
            if first.answer(reply) {
                self.flight.pop_front();
            }
        }
        self.input.advance(at);
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = BytesMut::with_capacity(ROOM);
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            while self.written < self.out.len() {
                let rest = &self.out[self.written..];
                match std::task::ready!(Pin::new(&mut *self.stream).poll_write(cx, rest)) {
                    Ok(0) => return Poll::Ready(closed()),
                    Ok(count) => self.written += count,
                    Err(error) => return Poll::Ready(error.into()),
                }
            }
            if self.written > 0 {
                match std::task::ready!(Pin::new(&mut *self.stream).poll_flush(cx)) {
                    Ok(()) => {}
                    Err(error) => return Poll::Ready(error.into()),
                }
                self.written = 0;
                self.out.clear();
                if self.out.capacity() > KEPT {
                    self.out = Vec::new();
                }
            }
            if !self.take(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Takes what waits to be written; `false` if there is nothing, or not yet.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let sources = {
            let mut queue = self.shared.queue.lock();
            if !queue.is_woken {
                return false;
            }
            if !self.flight.is_empty() && !std::mem::replace(&mut self.has_yielded, true) {
                cx.waker().wake_by_ref();
                return false;
            }
            queue.is_woken = false;
            self.has_yielded = false;
            std::mem::swap(&mut self.out, &mut queue.out);
            self.flight.extend(queue.asked.drain(..).map(|mut asked| {
                // From now on it waits for its answer.
                asked.at = Instant::now();
                asked
            }));
            std::mem::take(&mut queue.sources)
        };
        let mut batch = Batch {
            out: &mut self.out,
            asked: &mut self.flight,
        };
        sources
            .into_iter()
            .for_each(|source| source.pull(&mut batch));
        true
    }

    /// Whether the oldest command has waited too long for its answer.
    fn check_silence(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        while let Some(oldest) = self.flight.front() {
            if !std::mem::replace(&mut self.is_limited, true) {
                self.limit.as_mut().reset(oldest.at + COMMAND_TIMEOUT);
            }
            std::task::ready!(self.limit.as_mut().poll(cx));
            self.is_limited = false;
            if oldest.at.elapsed() >= COMMAND_TIMEOUT {
                return Poll::Ready(Error::new(ErrorKind::Timeout, "no answer in time"));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
