//! The way to one channel: what waits for it, what is under way, and what failed.
//!
//! A lane has no task on the hot path: senders add lines under its lock, and the task of the
//! connection packs them when it writes and hands in the answers. Its keeper has the rest: payloads
//! that failed, the tail, and its end. What must stay true: lines keep their order, so nothing new
//! is packed while something failed; no number is used twice; and a lane that has closed takes no
//! line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::backplane::redis::bus::numbers::ChannelNumbers;
use crate::backplane::redis::bus::post::{Bundle, LookUp, OutboxLine, Payload, Post, RETRY, TAIL};
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::wire::queue::{Answers, Batch, LateSource};
use crate::protocol::ids::NodeId;

/// Maximum number of bundles queued in one lane; further publishers wait.
pub(crate) const QUEUE: usize = 4_096;
/// Maximum number of publishes under way at once.
const IN_FLIGHT: usize = 8;
/// A lane without work ends after this time; the next line opens another.
const IDLE: Duration = Duration::from_secs(60);
/// As [`IDLE`], for a name that is not in the table of nodes; and if no subscriber was there.
const IDLE_STRANGER: Duration = Duration::from_secs(2);
const IDLE_UNHEARD: Duration = Duration::from_millis(10);

pub(super) struct Lane {
    post: Arc<Post>,
    channel: String,
    /// Whose channel it is.
    listener: Option<NodeId>,
    is_stranger: bool,
    /// A permit for each further bundle that may wait.
    pub(super) room: Semaphore,
    state: Mutex<State>,
    /// Wakes the keeper.
    news: Notify,
}

struct State {
    /// The last number, and whether it may have been received.
    number: u64,
    is_used: bool,
    waiting: VecDeque<Bundle>,
    /// How many payloads are under way.
    under_way: usize,
    failed: Vec<Payload>,
    /// Nothing is packed until the keeper has mended what failed.
    is_troubled: bool,
    /// The connection will pull.
    is_signalled: bool,
    is_closed: bool,
    /// When a tail is due; `None` if no loss is possible since the last tail.
    tail: Option<Instant>,
    /// When there was work last.
    worked: Instant,
}

impl State {
    fn is_at_rest(&self) -> bool {
        self.under_way == 0 && self.waiting.is_empty() && !self.is_troubled && !self.is_signalled
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// Adds a bundle for which there is room. Gives it back if the lane has closed, or if a line is
    /// to be sent ahead and would have to wait.
    pub(super) fn add(self: &Arc<Self>, bundle: Bundle) -> Result<(), Bundle> {
        let mut state = self.state.lock();
        if state.is_closed || state.is_troubled && is_ahead(&bundle) {
            return Err(bundle);
        }
        state.worked = Instant::now();
        state.waiting.push_back(bundle);
        self.go_on(state);
        Ok(())
    }

    /// Has the connection pull, if there is something and nothing is in the way.
    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let is_due = !state.waiting.is_empty() && state.under_way < IN_FLIGHT;
        if !is_due || state.is_troubled || state.is_signalled {
            return;
        }
        state.is_signalled = true;
        drop(state);
        let wire = self.post.servers.publisher(&self.channel);
        if !wire.signal(self.clone()) {
            self.clone().put_off();
        }
    }

    fn told(self: &Arc<Self>, payload: Payload, answers: Answers) {
        let result = self.post.servers.receivers(&self.channel, answers);
        self.post.note_count(self.listener.as_ref(), &result);
        // If the channel had no subscriber, the sender knows.
        let is_heard = result.as_ref().is_ok_and(|receivers| *receivers > 0);
        let failed = self.post.finish(payload, result).err();
        let mut state = self.state.lock();
        state.under_way -= 1;
        state.worked = Instant::now();
        let is_heard = is_heard || failed.is_some();
        state.is_used |= is_heard;
        if is_heard || state.tail.is_some() {
            let tail = state.worked + TAIL;
            if state.tail.replace(tail).is_none() {
                self.news.notify_one();
            }
        }
        if let Some(payload) = failed {
            state.failed.push(payload);
            self.trouble(&mut state);
        }
        if state.under_way == 0 && (state.is_troubled || self.is_stranger) {
            // The lane of a name that is not in the table must end soon.
            self.news.notify_one();
        }
        self.go_on(state);
    }

    /// Packs nothing until the keeper has mended what failed. Rows do not wait for that.
    fn trouble(&self, state: &mut State) {
        state.is_troubled = true;
        let waiting = std::mem::take(&mut state.waiting).into_iter();
        let (ahead, waiting): (VecDeque<Bundle>, _) = waiting.partition(is_ahead);
        state.waiting = waiting;
        self.room.add_permits(ahead.len());
        self.post.take_back(ahead.into_iter());
    }

    /// When the keeper looks next, if nothing wakes it.
    fn next_look(&self) -> Instant {
        let state = self.state.lock();
        match state.tail {
            _ if !state.is_at_rest() => Instant::now() + TAIL,
            Some(tail) => tail,
            None => state.worked + self.idle_time(&state),
        }
    }

    /// How long it stays open without work.
    fn idle_time(&self, state: &State) -> Duration {
        match (self.is_stranger, state.is_used) {
            (false, _) => IDLE,
            (true, true) => IDLE_STRANGER,
            (true, false) => IDLE_UNHEARD,
        }
    }

    /// Sends what failed again. Nothing else is under way then, and nothing is packed.
    async fn mend(self: &Arc<Self>) {
        let mut failed = {
            let mut state = self.state.lock();
            if !state.is_troubled || state.under_way > 0 {
                return;
            }
            std::mem::take(&mut state.failed)
        };
        failed.sort_by_key(|payload| payload.number);
        if failed.is_empty() {
            // There was no connection.
            tokio::time::sleep(RETRY).await;
        }
        self.post.repeat(&self.channel, failed).await;
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_late = |bundle: &Bundle| bundle.iter().all(|line| line.deadline <= now);
        let waiting = std::mem::take(&mut state.waiting).into_iter();
        let (late, waiting): (VecDeque<Bundle>, _) = waiting.partition(is_late);
        self.room.add_permits(late.len());
        self.post.give_up(late.into_iter());
        state.waiting = waiting;
        state.worked = now;
        if state.is_used {
            state.tail = Some(now + TAIL);
        }
        state.is_troubled = false;
        self.go_on(state);
    }

    /// The number to repeat, if that is due. Not while a payload is under way: receivers would take
    /// it for lost.
    fn due_tail(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let is_due = state.tail.is_some_and(|tail| tail <= Instant::now());
        if !is_due || !state.is_at_rest() {
            return None;
        }
        state.tail = None;
        Some(state.number)
    }
}

/// Whether a row is read before it is published.
fn is_ahead(bundle: &Bundle) -> bool {
    bundle.iter().any(OutboxLine::is_ahead)
}

impl LateSource for Lane {
    fn pull(self: Arc<Self>, batch: &mut Batch<'_>) {
        let mut state = self.state.lock();
        state.is_signalled = false;
        if state.is_troubled {
            return;
        }
        while state.under_way < IN_FLIGHT && !state.waiting.is_empty() {
            state.number += 1;
            state.under_way += 1;
            let (before, number) = (state.waiting.len(), state.number);
            let (channel, mut look_ups) = (&self.channel, SmallVec::new());
            let payload = self
                .post
                .pack(channel, number, &mut state.waiting, &mut look_ups);
            self.room.add_permits(before - state.waiting.len());
            for LookUp { key, caller } in look_ups {
                batch.ask(|out| Servers::write_look_up(&key, out), caller);
            }
            let (text, lane) = (payload.text.clone(), self.clone());
            batch.add(
                |out| self.post.servers.write_publish(&self.channel, &text, out),
                move |answers| lane.told(payload, answers),
            );
        }
    }

    fn put_off(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.is_signalled = false;
        self.trouble(&mut state);
        drop(state);
        self.news.notify_one();
    }
}

/// The open lanes, and the numbers of those that have closed.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) post: Arc<Post>,
    open: DashMap<String, Arc<Lane>, ahash::RandomState>,
    numbers: Mutex<ChannelNumbers>,
}

impl Lanes {
    pub(super) fn new(post: Post) -> Self {
        Self {
            post: Arc::new(post),
            open: DashMap::default(),
            numbers: Mutex::default(),
        }
    }

    /// The lane of this channel, if it is open.
    pub(super) fn find(&self, channel: &str) -> Option<Arc<Lane>> {
        self.open.get(channel).map(|lane| lane.clone())
    }

    /// The lane of a channel. `stranger`: a place for one whose name is not in the table.
    pub(super) fn open(
        self: &Arc<Self>,
        channel: String,
        node: Option<&NodeId>,
        stranger: Option<OwnedSemaphorePermit>,
    ) -> Arc<Lane> {
        let entry = self.open.entry(channel.clone());
        let lane = entry.or_insert_with(|| {
            let is_stranger = stranger.is_some();
            let (number, is_used) = self.numbers.lock().get(&channel, is_stranger);
            let lane = Arc::new(Lane {
                post: self.post.clone(),
                channel,
                listener: node.cloned(),
                is_stranger,
                room: Semaphore::new(QUEUE),
                state: Mutex::new(State {
                    number,
                    is_used,
                    waiting: VecDeque::new(),
                    under_way: 0,
                    failed: Vec::new(),
                    is_troubled: false,
                    is_signalled: false,
                    is_closed: false,
                    tail: None,
                    worked: Instant::now(),
                }),
                news: Notify::new(),
            });
            tokio::spawn(self.clone().keep(lane.clone(), stranger));
            lane
        });
        lane.clone()
    }

    /// How many bundles wait in the fullest lane.
    pub(super) fn fullest(&self) -> usize {
        let waiting = |lane: &Lane| QUEUE - lane.room.available_permits();
        let all = self.open.iter().map(|entry| waiting(entry.value()));
        all.max().unwrap_or(0)
    }

    /// Keeps one lane until it has had no work for a while.
    async fn keep(self: Arc<Self>, lane: Arc<Lane>, _stranger: Option<OwnedSemaphorePermit>) {
        loop {
            let look = lane.next_look();
            let _ = tokio::time::timeout_at(look, lane.news.notified()).await;
            lane.mend().await;
            if let Some(number) = lane.due_tail() {
                let (post, channel) = (self.post.clone(), lane.channel.clone());
                tokio::spawn(post.publish_tail(channel, number));
            }
            if self.close(&lane) {
                return;
            }
        }
    }

    /// Closes a lane that has had no work for a while.
    fn close(&self, lane: &Lane) -> bool {
        let closed = self.open.remove_if(&lane.channel, |channel, lane| {
            let mut state = lane.state.lock();
            let is_quiet = state.worked.elapsed() >= lane.idle_time(&state);
            let is_idle = state.is_at_rest() && state.tail.is_none() && is_quiet;
            if is_idle {
                state.is_closed = true;
                if state.is_used {
                    let mut numbers = self.numbers.lock();
                    numbers.prune(|| self.post.live_channels());
                    numbers.set(channel.clone(), state.number, lane.is_stranger);
                }
            }
            is_idle
        });
        closed.is_some()
    }
}
