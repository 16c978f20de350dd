//! A socket as hyper sees it, with the time limits that hyper lacks.
//!
//! hyper has one limit for the wait for a request and for its headers, and none for writing. And
//! it drops the work on a request when an answer to an earlier one cannot be written. So a socket
//! whose other end is gone, or takes no bytes in time, goes on as one that swallows what is
//! written and has nothing more to read: requests that were read are carried out, then hyper
//! closes it. If a part of a body was not read, the close waits: see [`Linger`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use warp::http::HeaderValue;

use crate::edge::peer::HEADER_TIMEOUT;
use crate::shutdown::{Shutdown, WorkGuard};

/// All of an answer must be taken within this time. Long enough for 1 MiB at 20 KB/s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, the rest of a refused body is read and dropped.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);
const LINGER_BYTES: usize = 32 * 1024 * 1024;
/// A sender that is silent for so long has sent all that it will.
const LINGER_SILENCE: Duration = Duration::from_secs(2);

/// A connection on which no request has come is given so long when the node closes its doors: its
/// sender has just connected, and the request is on its way.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// How long the other end may take.
#[derive(Debug, Clone)]
pub(crate) struct HttpPatience {
    /// For another request after an answer.
    keep_alive: Duration,
    /// For taking any byte of an answer.
    write: Duration,
    /// Tells `keep_alive`, so that proxies close idle connections before the node does.
    pub(crate) header: HeaderValue,
}

impl HttpPatience {
    pub(crate) fn new(keep_alive: Duration, write: Duration) -> Self {
        let header = format!("timeout={}", keep_alive.as_secs());
        let header = HeaderValue::try_from(header).expect("digits");
        Self {
            keep_alive,
            write,
            header,
        }
    }
}

/// Whether a request is being carried out, which has limits of its own. Shared by the socket and
/// the service of one connection. A count and not a flag: hyper may read a request and its answer
/// may be there before the socket is asked again. Odd while a request is carried out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    count: AtomicU32,
    /// A part of the last request's body was not read.
    is_unread: AtomicBool,
    /// When the head of the next request was whole, if hyper gets it later.
    head_read: Mutex<Option<Instant>>,
}

impl Turn {
    /// The headers of a request have been read.
    pub(crate) fn begin(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is there.
    pub(crate) fn end(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// The head of a request is whole, which hyper has not seen yet.
    pub(crate) fn note_head(&self, time: Instant) {
        *self.0.head_read.lock() = Some(time);
    }

    /// When the head of the request that hyper has just read was whole, if that was earlier.
    pub(crate) fn take_head(&self) -> Option<Instant> {
        self.0.head_read.lock().take()
    }

    fn count(&self) -> u32 {
        self.0.count.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unread(&self, is_unread: bool) {
        self.0.is_unread.store(is_unread, Ordering::Relaxed);
    }

    /// Whether a part of the last request's body was not read.
    pub(crate) fn is_unread(&self) -> bool {
        self.0.is_unread.load(Ordering::Relaxed)
    }
}

/// How a connection ends with its node.
#[derive(Debug)]
pub(crate) struct HttpEnding {
    /// When the node closes its doors, an idle connection ends. Looked at only after reading, so
    /// that a request which has come is carried out.
    closing: Shutdown,
    /// When that was seen.
    closed: Option<Instant>,
    /// The node's end waits for the first request.
    first: Option<WorkGuard>,
}

impl HttpEnding {
    pub(crate) fn new(closing: Shutdown, first: WorkGuard) -> Self {
        Self {
            closing,
            closed: None,
            first: Some(first),
        }
    }

    /// When to stop waiting for what is read next.
    fn limit(&mut self, reading: Reading) -> Instant {
        let (Reading::Headers(deadline) | Reading::Idle(deadline)) = reading;
        if !self.closing.has_begun() {
            return deadline;
        }
        let closed = *self.closed.get_or_insert_with(Instant::now);
        match reading {
            Reading::Idle(_) => closed,
            Reading::Headers(_) => deadline.min(closed + LAST_REQUEST),
        }
    }
}

/// What is read next.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// The rest of a request's headers, by this time.
    Headers(Instant),
    /// The first byte of another request, by this time.
    Idle(Instant),
}

/// A write that found no room.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Instant,
    /// When the other end last took a byte.
    moved: Instant,
}

/// The end of a connection whose sender is still sending: our side is shut down, and what comes is
/// read and dropped. A close with unread bytes would send a reset, which can overtake the answer.
#[derive(Debug, Clone, Copy)]
struct Linger {
    until: Instant,
    /// When the sender counts as silent.
    silent: Instant,
    /// Bytes that may still be dropped.
    left: usize,
}

/// A socket under hyper.
#[derive(Debug)]
pub(crate) struct HttpStream<S> {
    stream: S,
    /// What was read from it and is to be read again, first.
    replayed: Bytes,
    patience: HttpPatience,
    turn: Turn,
    /// The count of the turn that `reading` belongs to.
    last_turn: u32,
    reading: Reading,
    ending: HttpEnding,
    blocked: Option<Blocked>,
    /// Whether the other end is given up.
    is_lost: bool,
    linger: Option<Linger>,
    read_alarm: Alarm,
    write_alarm: Alarm,
}

impl<S> HttpStream<S> {
    pub(crate) fn new(stream: S, patience: HttpPatience, turn: Turn, ending: HttpEnding) -> Self {
        Self {
            stream,
            replayed: Bytes::new(),
            patience,
            ending,
            last_turn: turn.count(),
            turn,
            reading: Reading::Headers(Instant::now() + HEADER_TIMEOUT),
            blocked: None,
            is_lost: false,
            linger: None,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
        }
    }

    /// The socket itself, when a shard takes it over from hyper, and what hyper did not read again.
    pub(crate) fn into_inner(self) -> (S, Bytes) {
        (self.stream, self.replayed)
    }

    /// Has these bytes read again, before what comes next.
    pub(crate) fn replay(&mut self, bytes: Bytes) {
        self.replayed = bytes;
    }

    /// The node's end waits until the request that is being read is carried out, or given up.
    pub(crate) fn hold(&mut self, work: WorkGuard) {
        self.ending.first = Some(work);
    }

    fn give_up(&mut self, reason: &dyn std::fmt::Display) {
        tracing::debug!(%reason, "HTTP connection lost while an answer was written");
        self.is_lost = true;
    }

    /// Notes what became of a write of `length` bytes.
    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) if count == length => {
                self.blocked = None;
                return Poll::Ready(Ok(count));
            }
            Poll::Ready(Ok(count)) => {
                let now = Instant::now();
                let since = self.blocked.map_or(now, |blocked| blocked.since);
                self.blocked = Some(Blocked { since, moved: now });
                return Poll::Ready(Ok(count));
            }
            Poll::Ready(Err(error)) => self.give_up(&error),
            Poll::Pending => {
                let now = Instant::now();
                let blocked = self.blocked.get_or_insert(Blocked {
                    since: now,
                    moved: now,
                });
                let deadline =
                    (blocked.moved + self.patience.write).min(blocked.since + ANSWER_TIMEOUT);
                ready!(self.write_alarm.poll(context, deadline));
                self.give_up(&"it took too long");
            }
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HttpStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.replayed.is_empty() {
            let count = this.replayed.len().min(buffer.remaining());
            buffer.put_slice(&this.replayed.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if this.is_lost {
            return Poll::Ready(Ok(()));
        }
        let turn = this.turn.count();
        if turn % 2 == 1 {
            this.ending.first = None;
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        if turn != this.last_turn {
            this.last_turn = turn;
            this.ending.first = None;
            this.reading = Reading::Idle(Instant::now() + this.patience.keep_alive);
        }
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        match this.reading {
            reading if read.is_pending() => {
                let deadline = this.ending.limit(reading);
                ready!(this.read_alarm.poll(context, deadline));
                // As if the other end had closed it.
                Poll::Ready(Ok(()))
            }
            Reading::Idle(_) => {
                this.reading = Reading::Headers(Instant::now() + HEADER_TIMEOUT);
                read
            }
            Reading::Headers(_) => read,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HttpStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_lost {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        if self.is_lost {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(context, written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_lost {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_lost {
            return Poll::Ready(Ok(()));
        }
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if !this.turn.is_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let now = Instant::now();
        let mut linger = this.linger.unwrap_or(Linger {
            until: now + LINGER_TIMEOUT,
            silent: now + LINGER_SILENCE,
            left: LINGER_BYTES,
        });
        loop {
            let mut dropped = [0; 16 * 1024];
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = Pin::new(&mut this.stream).poll_read(context, &mut buffer);
            let count = buffer.filled().len();
            match read {
                Poll::Ready(Ok(())) if count > 0 && count <= linger.left => {
                    linger.left -= count;
                    linger.silent = Instant::now() + LINGER_SILENCE;
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        this.linger = Some(linger);
        let deadline = linger.until.min(linger.silent);
        this.read_alarm.poll(context, deadline).map(Ok)
    }
}

/// A timer for a deadline that usually moves on before it is reached: it is set again when it
/// fires, and not at each request.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once the deadline has passed.
    fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = match &mut self.0 {
            Some(sleep) => {
                if sleep.deadline() > deadline {
                    sleep.as_mut().reset(deadline);
                }
                sleep
            }
            empty => empty.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests;
