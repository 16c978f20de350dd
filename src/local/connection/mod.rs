//! One connection: its queue, its parser, its deadlines, its end. No I/O.
//!
//! Bytes and ticks go in; frames go into the queue and a wish to end comes out. The shard moves
//! bytes between this and the socket. What must stay true: a connection ends once, with one
//! reason; from that moment on it is no longer in the directory.

pub(crate) mod timer_wheel;

pub(crate) mod bookmark;

pub(crate) mod expiry;

mod extras;

mod hearing;

pub(crate) mod heartbeat;

pub(crate) mod send_queue;

pub(crate) mod subscriptions;

pub(crate) mod rate;

pub(crate) mod requests;

pub(crate) mod replay;

pub(crate) mod trials;

use std::sync::Arc;

use crate::local::budget::Budget;
use crate::local::connection::expiry::Expiry;
use crate::local::connection::extras::Extras;
use crate::local::connection::heartbeat::{Heartbeat, Wrote};
use crate::local::connection::requests::Exchanges;
use crate::local::connection::send_queue::Queue;
use crate::local::connection::timer_wheel::{NEVER, Tick};
use crate::local::membership::Membership;
use crate::local::replay::follower::Start;
use crate::local::replay::stumbles::Tryout;
use crate::local::retry::{retry_after, retry_within};
use crate::protocol;
use crate::protocol::client::decoder::Input;
use crate::protocol::client::websocket::Limits;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, Topic, UserId};
use crate::protocol::{Dialect, Policy, StreamPosition};
use crate::telemetry::metrics::Metrics;

/// How long the other side has to answer a close frame, or to read the last bytes.
const CLOSE_TICKS: Tick = 5;
/// The same if this node is leaving and the other side has read all of them.
const DRAINED_TICKS: Tick = 1;
/// How long a socket may take to come after its handshake was granted.
const ATTACH_TICKS: Tick = 15;

/// The longest pause, in milliseconds, of clients that a leaving node sends away.
const RETRY_DRAINED: u64 = 1_000;

/// What the shard needs to know to run connections; from the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Bytes that may wait for one client.
    pub queue_bytes: usize,
    /// Bytes that may wait for all clients together, and all else that counts.
    pub memory: Arc<Budget>,
    /// Bounds on what a client sends.
    pub limits: Limits,
    /// Messages for many may be written by io_uring.
    pub uring: bool,
    /// Most messages from a client in a second; 0: no limit.
    pub client_rate: u32,
    /// Most things a client sends to services in a second; 0: no limit.
    pub send_rate: u32,
    /// Seconds between pings.
    pub ping: Tick,
    /// Seconds between comments to SSE clients.
    pub beat: Tick,
    /// Seconds for the pong.
    pub pong: Tick,
    /// Seconds for which a client may take nothing.
    pub write: Tick,
}

impl Settings {
    /// Seconds between two signs of life for clients of this dialect.
    fn pause(&self, dialect: Dialect) -> Tick {
        match dialect.is_event_stream() {
            true => self.beat,
            false => self.ping,
        }
    }
}

/// What a connection is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A client: gets pushes.
    Client,
    /// Gets back what it sends. Only for conformance suites.
    #[cfg(feature = "echo")]
    Echo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the directory, its socket still in the handshake.
    Reserved {
        until: Tick,
    },
    Open,
    /// The close frame is in the queue; gone at the tick `until` at the latest, and at `told` if
    /// the client has it by then. `finished` if nothing that the client may still say matters,
    /// `parted` if it has said goodbye and says no more.
    Closing {
        told: Tick,
        until: Tick,
        finished: bool,
        parted: bool,
    },
}

/// What is left to do with the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing special.
    Stay,
    /// Close with this reason.
    End(CloseReason),
    /// Both sides have said goodbye: let the socket go once the queue is empty.
    Hangup,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) fd: Fd,
    pub(crate) user: UserId,
    pub(crate) queue: Queue,
    /// The tick at which the wheel will look at it next.
    pub(crate) scheduled: Tick,
    dialect: Dialect,
    /// Its heartbeats are objects, where it has the choice.
    beats: bool,
    role: Role,
    state: State,
    /// Dropped when the end begins: that takes the connection out of the directory.
    membership: Option<Membership>,
    /// Where it is in what its client is sending, if that is in the middle of something.
    input: Option<Box<Input>>,
    /// What most do not have: an inbox, topics and the like.
    extras: Extras,
    /// What it asks of the node and is asked by senders, while there is something.
    dialogue: Option<Box<Exchanges>>,
    heartbeat: Heartbeat,
    write_due: Tick,
    expiry: Expiry,
    /// Frames received within the tick `rate_tick` that answered nothing.
    rate: u32,
    rate_tick: Tick,
    /// And of those, what it sent to services.
    sends: u32,
    /// Messages, calls and pings sent to it and not answered yet: each allows one frame beyond
    /// the rate. Saturates, which bounds what a client may send at once after it was silent.
    credits: u16,
    /// What its close frame said.
    close_code: Option<u16>,
}

impl Connection {
    pub(crate) fn reserve(fd: Fd, user: UserId, dialect: Dialect, now: Tick) -> Self {
        Self {
            fd,
            user,
            queue: Queue::default(),
            scheduled: NEVER,
            dialect,
            beats: false,
            role: Role::Client,
            state: State::Reserved {
                until: now + ATTACH_TICKS,
            },
            membership: None,
            input: None,
            extras: Extras::default(),
            dialogue: None,
            heartbeat: Heartbeat::none(),
            write_due: NEVER,
            expiry: Expiry::new(None, now),
            rate: 0,
            rate_tick: 0,
            sends: 0,
            credits: 0,
            close_code: None,
        }
    }

    /// Its token holds until then, or without end.
    pub(crate) fn hold_until(&mut self, expires: Option<Tick>, now: Tick) {
        self.expiry = Expiry::new(expires, now);
    }

    /// It wants heartbeats that its program sees.
    pub(crate) fn show_beats(&mut self) {
        self.beats = true;
    }

    /// Puts what a client gets first into the queue: who and where it is, and what its inbox
    /// holds for it. Answers how many messages that are. `logs` are those it resumes; what they
    /// hold comes after it has subscribed.
    pub(crate) fn welcome(
        &mut self,
        id: &ConnectionId,
        topics: &[Topic],
        start: Option<Start>,
        logs: &[(Topic, Start)],
        settings: &Settings,
        metrics: &Metrics,
    ) -> u64 {
        let at = start.as_ref().and_then(Start::position);
        if self.dialect.is_event_stream() && !logs.is_empty() {
            let logs = logs.iter();
            let logs = logs.map(|(topic, start)| (topic.clone(), start.position()));
            let stream = StreamPosition::new(at, logs.collect());
            self.extras.set_stream(Some(stream));
        }
        let (follower, page, recovered, tryout) = match start {
            Some(start) => {
                let Start {
                    page,
                    recovered,
                    tryout,
                    ..
                } = start;
                (Some(start.follower), page, recovered, tryout)
            }
            None => (None, None, None, Tryout::default()),
        };
        if self.dialect.has_objects() {
            let resume = page.as_ref().map(|page| page.start);
            let pause = u64::from(settings.pause(self.dialect)) * 1_000;
            let beat = self.dialect.shows_beats(self.beats).then_some(pause);
            let ready = protocol::ready_object(id, &self.user, topics, resume, recovered, beat);
            let ready = match self.extras.stream() {
                Some(stream) => self.dialect.ready(&ready, Some(stream), retry_after()),
                None => self.dialect.ready(&ready, resume, retry_after()),
            };
            self.queue.push(ready);
        }
        tryout.passed.iter().for_each(|one| self.tell_passed(one));
        self.extras.set_inbox(follower);
        self.open_bookmark(at);
        page.map_or(0, |page| {
            self.queue_page(None, &page, tryout.trial, metrics)
        })
    }

    /// The socket is here.
    pub(crate) fn attach(
        &mut self,
        mut membership: Membership,
        role: Role,
        now: Tick,
        settings: &Settings,
    ) {
        membership.connected();
        self.state = State::Open;
        self.role = role;
        self.membership = Some(membership);
        self.tell_of_topics();
        // Spread: clients that came together should not be pinged together for ever.
        let pause = settings.pause(self.dialect);
        let first = now + 1 + fastrand::u32(pause / 2..=pause);
        self.heartbeat.begin(first);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    /// Whether the socket can be closed for writing once the queue is empty.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.state, State::Closing { finished: true, .. })
    }

    /// Whether both sides have said goodbye once the queue is empty. A client that has not may
    /// still send: a socket closed before that was read is reset, and loses what it was told.
    pub(crate) fn has_parted(&self) -> bool {
        matches!(self.state, State::Closing { parted: true, .. })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the client's close frame said.
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.close_code
    }

    /// What a full queue (`Offer::Full`) means for a message of this policy.
    pub(crate) fn overflow(policy: &Policy) -> Next {
        match policy {
            Policy::Close => Next::End(CloseReason::Slow),
            Policy::Drop | Policy::Latest(_) => Next::Stay,
        }
    }

    /// Takes bytes from the client; `count` hears of each frame in them.
    pub(crate) fn hear(
        &mut self,
        bytes: &mut [u8],
        settings: &Settings,
        now: Tick,
        mut count: impl FnMut(),
    ) -> Next {
        if self.is_finished() {
            return Next::Stay;
        }
        self.heartbeat.heard();
        let begun = self.input.take();
        let mut input = begun.map_or_else(|| Input::of(self.dialect), |input| *input);
        let mut next = Next::Stay;
        let parsed = input.feed(bytes, &self.limits(settings), &mut |event| {
            count();
            next = self.hear_event(&event, settings, now);
            next == Next::Stay
        });
        self.input = (!input.is_idle()).then(|| Box::new(input));
        match parsed {
            // Told to go, it babbles instead of answering.
            Err(_) if self.is_closing() => Next::Hangup,
            Err(violation) => {
                tracing::debug!(fd = %self.fd, rule = violation.rule, "input refused");
                Next::End(violation.close)
            }
            Ok(()) => next,
        }
    }

    fn limits(&self, settings: &Settings) -> Limits {
        match self.role {
            Role::Client => settings.limits,
            // Conformance suites send thousands of fragments.
            #[cfg(feature = "echo")]
            Role::Echo => Limits {
                fragments: u32::MAX,
                ..settings.limits
            },
        }
    }

    /// Puts an object of ours into the queue, if the client speaks in objects.
    pub(crate) fn say(&mut self, object: &str) {
        if self.dialect.has_objects() {
            self.queue.push(self.dialect.encode(object));
        }
    }

    /// The socket took `bytes` and then no more (`is_blocked`), or all there were. Answers whether
    /// the time for a pong has begun.
    pub(crate) fn wrote(
        &mut self,
        bytes: usize,
        is_blocked: bool,
        now: Tick,
        settings: &Settings,
    ) -> bool {
        let wrote = Wrote {
            bytes,
            was_blocked: self.write_due != NEVER,
            is_blocked,
        };
        if !is_blocked {
            self.write_due = NEVER;
        } else if bytes > 0 || self.write_due == NEVER {
            self.write_due = now + 1 + settings.write;
        }
        self.heartbeat.wrote(wrote, now, settings.pong)
    }

    /// Since when its client has taken nothing, if its socket is full.
    pub(crate) fn blocked_since(&self, settings: &Settings) -> Option<Tick> {
        (self.write_due != NEVER).then(|| self.write_due.saturating_sub(1 + settings.write))
    }

    /// The socket took these pushes while the queue was empty, which changes no deadline.
    pub(crate) fn wrote_at_once(&mut self, pushes: u64, bytes: u32) {
        self.credit(pushes);
        self.heartbeat.wrote_at_once(bytes);
    }

    /// Whether its pong may take longer, because of what is on its way before the ping.
    pub(crate) fn is_awaited_longer(&self) -> bool {
        self.heartbeat.on_its_way() > 0
    }

    /// Begins the end: out of the directory, goodbye into the queue. Answers how many pushes are
    /// thrown away. The caller lets the socket go: at once where no client is left to hear it.
    pub(crate) fn end(&mut self, reason: CloseReason, now: Tick) -> u64 {
        self.end_trials(reason);
        if let Some(membership) = self.membership.take() {
            membership.leave(reason, self.close_code);
        }
        self.extras.set_inbox(None);
        self.dialogue = None;
        self.input = None;
        // A client that takes nothing will not take what waits. All others still get it.
        let takes_nothing = matches!(reason, CloseReason::Slow | CloseReason::Heartbeat);
        // A client that we ask to go may answer with a close frame of its own (RFC 6455, 7.1.1).
        // One that does not must not keep a node from leaving.
        let patience = match reason {
            CloseReason::Drain => DRAINED_TICKS,
            _ => CLOSE_TICKS,
        };
        self.state = State::Closing {
            told: now + 1 + patience,
            until: now + 1 + CLOSE_TICKS,
            finished: !(reason.asks_to_go() && self.dialect.answers_goodbye()),
            parted: reason == CloseReason::ByClient,
        };
        let dropped = match takes_nothing {
            true => self.queue.clear_unstarted(),
            false => 0,
        };
        if reason.code().is_some() && reason != CloseReason::ByClient {
            let pause = match reason {
                CloseReason::Drain => retry_within(RETRY_DRAINED),
                _ => retry_after(),
            };
            let retry = reason.retry().then_some(pause);
            for frame in self.dialect.goodbye(reason, retry) {
                self.queue.push(frame);
            }
        }
        dropped
    }

    /// Looks at the deadlines; answers what they ask for.
    pub(crate) fn look(&mut self, now: Tick, settings: &Settings) -> Next {
        let is_told = self.queue.is_empty() && self.heartbeat.on_its_way() == 0;
        match &mut self.state {
            State::Reserved { until } if *until <= now => Next::End(CloseReason::NeverAttached),
            State::Closing { until, .. } if *until <= now => Next::Hangup,
            State::Closing { told, until, .. } if *told <= now => {
                *told = *until;
                match is_told {
                    true => Next::Hangup,
                    false => Next::Stay,
                }
            }
            State::Reserved { .. } | State::Closing { .. } => Next::Stay,
            State::Open if self.heartbeat.is_lost(now) => Next::End(CloseReason::Heartbeat),
            State::Open if self.write_due <= now => Next::End(CloseReason::Slow),
            State::Open if self.expiry.has_come(now) => Next::End(CloseReason::TokenExpired),
            State::Open => {
                if let Some(left) = self.expiry.warn(now) {
                    self.say(&protocol::expiring_object(left));
                }
                if self.heartbeat.is_ping_due(now) {
                    self.settle_bookmark();
                    self.queue.push(self.dialect.ping(self.beats));
                    self.credit(1);
                    let next = now + settings.pause(self.dialect);
                    self.heartbeat.pinged(next, self.dialect.answers_pings());
                }
                Next::Stay
            }
        }
    }

    /// The next tick at which [`Connection::look`] may have something to say.
    pub(crate) fn due(&self) -> Tick {
        match self.state {
            State::Reserved { until } | State::Closing { told: until, .. } => until,
            State::Open => self
                .heartbeat
                .due()
                .min(self.write_due)
                .min(self.expiry.due()),
        }
    }
}

#[cfg(test)]
mod tests;
