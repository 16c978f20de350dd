//! Probes: lines that a node publishes to its own channel to see whether it is heard.
//!
//! [`Probes`] is shared with the pump, which hears them; [`Probing`] is what the subscriber
//! concludes. What must stay true: a subscription is called deaf only after Redis has said that it
//! passed a probe on, however slow the publish path is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::error::ErrorKind;
use fred::prelude::{Client, ClientLike};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backplane::redis::bus::subscriber::Bus;
use crate::protocol;

/// Between two probes.
pub(crate) const PROBE: Duration = Duration::from_millis(500);
/// A probe that Redis has taken must be heard within this time.
pub(crate) const DEAF: Duration = Duration::from_millis(1_500);
/// The same for the first one after a connection for commands that had gone silent: mostly the
/// subscription has, at the same moment, and this has taken its time already.
const DEAF_TOO: Duration = Duration::from_millis(400);

/// The last probe heard: whether the subscription works.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    heard: AtomicU64,
    overruns: AtomicU64,
    /// The last one sent, and when.
    sent: Mutex<Option<(u64, Instant)>>,
    /// Woken by each one heard.
    news: Notify,
}

impl Probes {
    /// Notes that this one is sent now.
    fn note_sent(&self, n: u64) {
        *self.sent.lock() = Some((n, Instant::now()));
    }

    /// Notes that this one was heard. Answers how long it was on its way, if it is the last sent.
    pub(crate) fn note(&self, n: u64) -> Option<Duration> {
        self.heard.fetch_max(n, Ordering::Relaxed);
        self.news.notify_one();
        let (_, at) = self.sent.lock().filter(|(last, _)| *last == n)?;
        Some(at.elapsed())
    }

    /// Until one has been heard since the last call.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Notes that messages came faster than they were taken: a probe may be among the lost.
    pub(crate) fn note_overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    /// The highest number heard so far.
    fn last(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How often messages were lost because too many came.
    fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

/// The probes on their way.
#[derive(Debug, Default)]
pub(crate) struct Probing {
    /// Number of the last one sent.
    sent: u64,
    /// When the subscription last proved to work.
    heard: Option<Instant>,
    /// The highest number heard.
    heard_number: u64,
    /// How many overruns there had been by then.
    overruns: u64,
    /// The oldest one that Redis has taken and that has not been heard: its number, and when.
    owed: Option<(u64, Instant)>,
    /// Whether the connection for commands went silent, and none has been heard since.
    doubtful: bool,
    /// How many probes in a row Redis handed to nobody.
    unheard: u32,
    /// The PUBLISH under way.
    task: Option<JoinHandle<Result<u32, fred::error::Error>>>,
}

impl Probing {
    /// When the subscription last proved to work.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// There is another subscription: nothing is held against it.
    pub(crate) fn forget(&mut self) {
        self.owed = None;
        self.doubtful = false;
        self.unheard = 0;
    }

    /// The channel is at another server: what has not been answered yet was asked of the old one.
    pub(crate) fn forget_answers(&mut self) {
        self.owed = None;
        self.unheard = 0;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    /// Looks which probes have been heard; answers the number of the last one.
    pub(crate) fn note_heard(&mut self, probes: &Probes) -> u64 {
        let last = probes.last();
        if last > self.heard_number {
            self.heard_number = last;
            self.heard = Some(Instant::now());
            self.doubtful = false;
        }
        last
    }

    /// Sends the next probe and looks for those before; answers whether the subscription is deaf.
    pub(crate) async fn probe(&mut self, bus: &Bus, client: &Client) -> bool {
        let probes = &bus.pump.probes;
        let overruns = probes.overruns();
        if overruns > std::mem::replace(&mut self.overruns, overruns) {
            // Flooded, which is the opposite of deaf; the probe may have been overwritten.
            self.heard = Some(Instant::now());
            self.owed = None;
            self.doubtful = false;
        }
        let last = self.note_heard(probes);
        if self.owed.is_some_and(|(number, _)| number <= last) {
            self.owed = None;
            self.unheard = 0;
        }
        // However the publish path does since: Redis said that it passed that one on.
        let patience = if self.doubtful { DEAF_TOO } else { DEAF };
        if self
            .owed
            .is_some_and(|(_, since)| since.elapsed() > patience)
        {
            return true;
        }
        if let Some(task) = self.task.take() {
            if !task.is_finished() {
                // The publish path itself hangs; the subscription is not to blame.
                self.task = Some(task);
                return false;
            }
            match task.await {
                // No receiver: Redis has forgotten us, or our subscription is at another server
                // than our commands.
                Ok(Ok(0)) => {
                    self.unheard += 1;
                    if self.unheard > 2 {
                        return true;
                    }
                    bus.subscribe(client).await;
                }
                Ok(Ok(_)) if self.sent > last => {
                    self.owed.get_or_insert((self.sent, Instant::now()));
                }
                // No answer, although the connection is up for all fred knows: it counts from the
                // last write, so one that is in use would never count as dead.
                Ok(Err(error))
                    if *error.kind() == ErrorKind::Timeout
                        && bus.servers.at(&bus.own).is_connected() =>
                {
                    tracing::warn!("the connection to Redis is silent; opening another");
                    bus.servers.replace(bus.servers.host_of(&bus.own).as_ref());
                    self.doubtful = true;
                }
                _ => {}
            }
        }
        self.sent += 1;
        probes.note_sent(self.sent);
        let (servers, channel) = (bus.servers.clone(), bus.own.clone());
        let line = protocol::probe_line(self.sent);
        self.task = Some(tokio::spawn(async move {
            servers.publish(&channel, line.into()).await
        }));
        false
    }
}
