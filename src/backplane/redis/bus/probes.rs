//! Probes: lines that a node publishes to its own channel to check that it receives them.
//!
//! `Probes` is what was sent and received; `Probing` holds the subscriber's
//! conclusions. What must stay true: a subscription is declared deaf only after Redis has
//! confirmed that it passed a probe on, however slow the publish path is; and never while the probe
//! may be queued behind other lines, for as long as Redis keeps a subscriber that is behind.
//!
//! A probe's number is random, and each counts once, so a publisher can forge none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fred::error::ErrorKind;
use fred::prelude::ClientLike;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::protocol;

/// The time between two probes.
pub(crate) const PROBE: Duration = Duration::from_millis(500);
/// A probe that Redis has accepted must be received within this time.
pub(crate) const DEAF: Duration = Duration::from_millis(1_500);
/// As [`DEAF`], for the first probe after a connection for commands went silent: usually the
/// subscription went silent at the same moment, and detecting that has taken its time already.
const DEAF_TOO: Duration = Duration::from_millis(400);

/// A probe is not queued behind other lines for longer: Redis cuts a subscriber off whose buffer is
/// over the soft limit for this time (`client-output-buffer-limit pubsub 32mb 8mb 60`).
const QUEUED: Duration = Duration::from_secs(60);

/// The time between two looks while that is going on.
pub(crate) const PRESSING: Duration = Duration::from_millis(100);

/// Maximum number of probes remembered: half a minute of them.
const SENT: usize = 64;

#[derive(Debug)]
struct SentProbe {
    /// What it carries.
    secret: u64,
    /// Its place among the probes.
    number: u64,
    at: Instant,
}

/// The last probe received: whether the subscription works.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    heard: AtomicU64,
    /// Whether a probe may be queued behind other lines, since this was last asked.
    is_behind: AtomicBool,
    /// The last probes sent, until they are received.
    sent: Mutex<VecDeque<SentProbe>>,
    /// Woken by each probe received.
    news: Notify,
}

impl Probes {
    /// Notes that this probe is sent now; returns what it carries.
    fn note_sent(&self, number: u64) -> u64 {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let secret = u64::from_ne_bytes(random);
        let mut sent = self.sent.lock();
        if sent.len() == SENT {
            sent.pop_front();
        }
        let at = Instant::now();
        sent.push_back(SentProbe { secret, number, at });
        secret
    }

    /// Notes that a probe was received. Returns its travel time; `None` if this node did not send
    /// it, or has received it before.
    pub(crate) fn note(&self, secret: u64) -> Option<Duration> {
        let mut sent = self.sent.lock();
        let at = sent.iter().position(|probe| probe.secret == secret)?;
        let probe = sent.remove(at)?;
        drop(sent);
        self.heard.fetch_max(probe.number, Ordering::Relaxed);
        self.news.notify_one();
        Some(probe.at.elapsed())
    }

    /// Notes that a line came, or that there is more to read: a probe may be queued behind it.
    pub(crate) fn note_behind(&self) {
        self.is_behind.store(true, Ordering::Relaxed);
    }

    /// Waits until a probe has been received since the last call.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The highest number received so far.
    fn last(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    fn was_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::Relaxed)
    }
}

/// What the probes say of the subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// Nothing speaks against it.
    Hears,
    /// Redis has no subscriber on the channel: subscribe again.
    Unsubscribed,
    /// It does not hear what Redis passed on: open another.
    Deaf,
}

/// A probe that Redis passed on.
#[derive(Debug)]
struct OwedProbe {
    number: u64,
    /// When Redis said so.
    accepted: Instant,
    /// Since when nothing could be before it.
    due: Instant,
}

impl OwedProbe {
    fn now(number: u64) -> Self {
        let now = Instant::now();
        Self {
            number,
            accepted: now,
            due: now,
        }
    }
}

/// The probes on their way.
#[derive(Debug, Default)]
pub(crate) struct Probing {
    /// The number of the last probe sent.
    sent: u64,
    /// When the subscription last proved to work.
    heard: Option<Instant>,
    /// The highest number received.
    heard_number: u64,
    /// When the channel was last subscribed to again.
    renewed: Option<Instant>,
    /// The oldest probe that Redis accepted and that was not received.
    owed: Option<OwedProbe>,
    /// Whether the connection for commands went silent and no probe was received since.
    doubtful: bool,
    /// How many probes in a row Redis handed to no subscriber.
    unheard: u32,
    /// When the last probe was sent.
    asked: Option<Instant>,
    /// The PUBLISH under way.
    task: Option<JoinHandle<Result<u32, fred::error::Error>>>,
}

impl Probing {
    /// When the subscription last proved to work.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// When the present subscription proved to work; `None` if it has not yet.
    pub(crate) fn proven(&self) -> Option<Instant> {
        self.heard.filter(|heard| self.renewed < Some(*heard))
    }

    /// Whether a connection went silent, or is about to be found so: then each step that is taken
    /// sooner is one in which less is lost.
    pub(crate) fn is_pressing(&self) -> bool {
        let is_late = self.task.is_some() && self.asked.is_some_and(|at| at.elapsed() > DEAF);
        self.doubtful || is_late
    }

    /// The channel is subscribed to again: only what is heard from now on proves that this worked.
    pub(crate) fn renew(&mut self) {
        self.renewed = Some(Instant::now());
    }

    /// Forgets the findings about the old subscription: there is a new one.
    pub(crate) fn forget(&mut self) {
        self.owed = None;
        self.doubtful = false;
        self.unheard = 0;
    }

    /// The channel moved to another server: unanswered probes were sent to the old one.
    pub(crate) fn forget_answers(&mut self) {
        self.owed = None;
        self.unheard = 0;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Notes which probes have been received; returns the number of the last one.
    pub(crate) fn note_heard(&mut self, probes: &Probes) -> u64 {
        let last = probes.last();
        if last > self.heard_number {
            self.heard_number = last;
            self.heard = Some(Instant::now());
            self.doubtful = false;
        }
        last
    }

    /// Whether a probe that Redis passed on should have been received by now. `last` is the number
    /// of the last one that was; `is_behind` if others may be queued.
    fn is_overdue(&mut self, last: u64, is_behind: bool) -> bool {
        if self.owed.as_ref().is_some_and(|owed| owed.number <= last) {
            self.owed = None;
            self.unheard = 0;
        }
        let Some(owed) = &mut self.owed else {
            return false;
        };
        if is_behind && owed.accepted.elapsed() < QUEUED {
            owed.due = Instant::now();
        }
        // However slow the publish path is now: Redis confirmed that it passed that probe on.
        let patience = if self.doubtful { DEAF_TOO } else { DEAF };
        owed.due.elapsed() > patience
    }

    /// Sends the next probe and checks the earlier ones; returns what they say.
    pub(crate) async fn probe(&mut self, servers: &Servers, own: &str, probes: &Probes) -> Hearing {
        let mut verdict = Hearing::Hears;
        let last = self.note_heard(probes);
        if self.is_overdue(last, probes.was_behind()) {
            return Hearing::Deaf;
        }
        if let Some(task) = self.task.take() {
            if !task.is_finished() {
                // The publish path itself hangs; that does not prove the subscription deaf.
                self.task = Some(task);
                return Hearing::Hears;
            }
            match task.await {
                // No receiver: Redis has forgotten this node, or subscription and commands are at
                // different servers.
                Ok(Ok(0)) => {
                    self.unheard += 1;
                    if self.unheard > 2 {
                        return Hearing::Deaf;
                    }
                    verdict = Hearing::Unsubscribed;
                }
                Ok(Ok(_)) if self.sent > last => {
                    self.owed.get_or_insert_with(|| OwedProbe::now(self.sent));
                }
                // No answer, although fred reports its connection as up. A lean connection that is
                // silent is given up by itself, but fred's is probably silent, too, and it measures
                // from the last write, so one in use never counts as dead. Compare
                // https://github.com/aembke/fred.rs/issues/307 (disconnect not always detected).
                Ok(Err(error))
                    if *error.kind() == ErrorKind::Timeout && servers.at(own).is_connected() =>
                {
                    tracing::warn!("the connection to Redis is silent; opening another");
                    servers.replace(servers.place_of(own).host.as_ref());
                    self.doubtful = true;
                }
                _ => {}
            }
        }
        self.sent += 1;
        self.asked = Some(Instant::now());
        let line = protocol::probe_line(probes.note_sent(self.sent));
        let (servers, channel) = (servers.clone(), own.to_owned());
        self.task = Some(tokio::spawn(async move {
            servers.publish(&channel, line.into()).await
        }));
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks each half second; answers after how long a probe that does not come is overdue, if
    /// other lines come for so long.
    async fn overdue_after(lines_for: Duration) -> Duration {
        let mut probing = Probing {
            owed: Some(OwedProbe::now(1)),
            ..Probing::default()
        };
        let since = Instant::now();
        while !probing.is_overdue(0, since.elapsed() < lines_for) {
            tokio::time::advance(PROBE).await;
        }
        assert!(!probing.is_overdue(1, false), "it came");
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_behind_other_lines_is_waited_for_but_not_for_ever() {
        assert_eq!(overdue_after(Duration::ZERO).await, DEAF + PROBE);
        let some = Duration::from_secs(20);
        assert_eq!(overdue_after(some).await, some + DEAF);
        assert_eq!(overdue_after(Duration::MAX).await, QUEUED + DEAF);
    }

    #[test]
    fn only_a_probe_that_was_sent_counts_and_once() {
        let probes = Probes::default();
        let secret = probes.note_sent(1);
        for forged in [0, 1, u64::MAX, secret.wrapping_add(1)] {
            assert_eq!(probes.note(forged), None);
        }
        assert_eq!(probes.last(), 0);
        assert!(probes.note(secret).is_some());
        assert_eq!((probes.note(secret), probes.last()), (None, 1));
        for number in 2..1_000 {
            probes.note_sent(number);
        }
        assert_eq!(probes.sent.lock().len(), SENT);
    }
}
