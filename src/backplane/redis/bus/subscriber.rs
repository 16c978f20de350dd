//! Listening: the subscription to this node's channel and to the channel of all nodes.
//!
//! A subscription can be deaf while its TCP connection is healthy, so it is checked: twice a
//! second, a probe goes through the real publish path to the own channel. A probe that is not
//! received in time leads to another, once there is a connection for it. Every new subscription may
//! have missed messages, which is a [`FeedEvent::Lost`] in its place. What must stay true: no message
//! is taken from two subscriptions.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::backplane::feed::FeedEvent;
use crate::backplane::nodes::Health;
use crate::backplane::redis::bus::probes::{Hearing, PRESSING, PROBE, Probing};
use crate::backplane::redis::bus::subscription::{BACKLOG, Bus, RedisSubscription, charge};
use crate::backplane::redis::registry::belief::LEASE;
use crate::backplane::redis::wire::listener::News;
use crate::local::shard::command::Command;

/// How long a retiring subscription may take to deliver what it still holds.
const RETIRE: Duration = Duration::from_secs(1);
/// Rows that Redis forgot are mostly back within this time.
const REBUILT: Duration = Duration::from_secs(1);
/// The beat is looked at after this many events, while there are more.
const EVENTS: u32 = 1_024;
/// Clients are told that the node is cut off after this time.
const DEGRADED: Duration = Duration::from_secs(10);

/// What is taken from a subscription.
enum Phase {
    /// Messages as they arrive.
    Listening,
    /// The messages it still holds, until the given time: it is unsubscribed. Afterwards the node
    /// has left or, if it was only stalled, goes on with another subscription.
    Retiring { until: Instant, is_leaving: bool },
}

/// The subscription of a node, once it has one.
struct Live {
    subscription: RedisSubscription,
    phase: Phase,
    probing: Probing,
    beat: Interval,
    /// Events given out since the beat was looked at.
    events: u32,
    turns: watch::Receiver<u64>,
    beats: watch::Receiver<u64>,
    /// When the beat was last taken: a gap means that this process was stalled.
    awake: Instant,
    /// Since when the node is not ready, and whether its clients were told.
    down_since: Option<Instant>,
    told: bool,
    /// Which loss of the rows in Redis was announced.
    forgotten: Option<Instant>,
    /// Rows were not back then, and are waited for.
    is_early: bool,
}

/// Delivers what a node receives, event by event.
pub(crate) struct Subscriber {
    bus: Bus,
    live: Option<Live>,
    queued: VecDeque<FeedEvent>,
}

impl Subscriber {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            live: None,
            queued: VecDeque::new(),
        }
    }

    /// The next event. The first call waits until Redis accepts a subscription.
    pub(crate) async fn next(&mut self) -> FeedEvent {
        let Self { bus, live, queued } = self;
        let live = match live {
            Some(live) => live,
            None => live.insert(Live::new(bus).await),
        };
        loop {
            if !queued.is_empty() && live.is_due() {
                live.tick(bus, queued).await;
            }
            if let Some(event) = queued.pop_front() {
                if let FeedEvent::Payload(_, payload) = &event {
                    bus.backlog.fetch_sub(charge(payload), Ordering::Relaxed);
                }
                return event;
            }
            match live.phase {
                Phase::Retiring { until, is_leaving } => {
                    if live.hears_last(bus, queued, until).await {
                        continue;
                    }
                    if is_leaving {
                        return FeedEvent::End;
                    }
                    live.phase = Phase::Listening;
                    live.replace(bus, queued).await;
                    live.probing.forget();
                }
                Phase::Listening => live.listen(bus, queued).await,
            }
        }
    }

    /// Everything received before the end has been processed.
    pub(crate) fn finish(&self) {
        self.bus.stopped.begin();
    }
}

impl Live {
    async fn new(bus: &Bus) -> Self {
        let subscription = bus.subscribe_until_it_works().await;
        let mut beat = tokio::time::interval(PROBE);
        beat.reset();
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            subscription,
            phase: Phase::Listening,
            probing: Probing::default(),
            beat,
            events: 0,
            turns: bus.servers.turns(),
            beats: bus.lease.beats(),
            awake: Instant::now(),
            down_since: Some(Instant::now()),
            told: false,
            forgotten: None,
            is_early: false,
        }
    }

    /// Waits for one input. Inputs: `stop` (from the drain), the beat of the probe, received
    /// probes and beats of the lease while the node is not ready, servers whose slots change, and
    /// messages and reconnects of the subscription.
    async fn listen(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        tokio::select! {
            biased;
            // Both before the messages: a flood of them would silence the probe, and busy
            // publishers could keep the node from leaving in time.
            () = bus.stop.begun() => self.retire(bus, true).await,
            _ = self.beat.tick() => self.tick(bus, events).await,
            // Ready as soon as the last of the two has come, and not only with the next probe.
            () = bus.probes.news(), if !(bus.is_ready() && bus.offer.stands()) => {
                self.probing.note_heard(&bus.probes);
                bus.judge(&self.probing);
            }
            Ok(()) = self.beats.changed(), if !bus.is_ready() => {
                bus.judge(&self.probing);
            }
            Ok(()) = self.turns.changed() => self.move_along(bus, events).await,
            news = self.subscription.listener.wait() => self.hear(bus, events, news).await,
        }
    }

    async fn hear(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>, news: News) {
        match news {
            News::Bytes => {
                let signs = bus.take(&mut self.subscription.listener, events);
                let is_confirmed = &mut self.subscription.is_confirmed;
                if signs.is_subscribed && !std::mem::replace(is_confirmed, true) {
                    // Sooner, a probe would have no receiver. One that subscribes again and again
                    // keeps to the beat.
                    self.beat.reset_immediately();
                }
            }
            News::Connected => {
                self.subscription.is_confirmed = false;
                bus.subscribe(&mut self.subscription.listener).await;
                self.renew(bus);
                self.beat.reset();
                events.push_back(FeedEvent::Lost("reconnect"));
            }
        }
    }

    /// Takes what has arrived, without waiting for more: a probe may be among it, and how late this
    /// task is with all the rest says nothing of the subscription. Returns whether that was all.
    async fn take_arrived(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) -> bool {
        while bus.backlog.load(Ordering::Relaxed) < BACKLOG {
            match self.subscription.listener.poll_now() {
                Some(news) => self.hear(bus, events, news).await,
                None => return true,
            }
        }
        false
    }

    /// Whether the beat is due, asked with each event: much that waits to be processed must not hold
    /// up the probes.
    fn is_due(&mut self) -> bool {
        self.events += 1;
        if self.events < EVENTS {
            return false;
        }
        self.events = 0;
        matches!(self.phase, Phase::Listening) && self.beat.tick().now_or_never().is_some()
    }

    async fn tick(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        let gap = std::mem::replace(&mut self.awake, Instant::now()).elapsed();
        if gap > LEASE {
            return self.wake_up(bus, gap).await;
        }
        if !self.take_arrived(bus, events).await {
            bus.probes.note_behind();
        }
        events.push_back(FeedEvent::Tick);
        if self.notices_forgetting(bus) {
            events.push_back(FeedEvent::Lost("forgotten"));
        }
        let probes = &bus.probes;
        match self.probing.probe(&bus.servers, &bus.own, probes).await {
            Hearing::Deaf => {
                tracing::warn!("the subscription is deaf; opening another");
                self.replace(bus, events).await;
                self.probing.forget();
            }
            Hearing::Unsubscribed => {
                bus.subscribe(&mut self.subscription.listener).await;
                self.renew(bus);
                self.move_along(bus, events).await;
            }
            Hearing::Hears => self.move_along(bus, events).await,
        }
        if self.probing.is_pressing() {
            self.beat.reset_after(PRESSING);
        }
        if bus.judge(&self.probing) == Health::Ready {
            self.down_since = None;
            self.told = false;
            return;
        }
        let since = *self.down_since.get_or_insert_with(Instant::now);
        if !self.told && since.elapsed() > DEGRADED {
            self.told = true;
            bus.hub.tell_all(|| Command::Degraded).await;
        }
    }

    /// While Redis has no row of a user here, or only those of other nodes, publishers skip this
    /// node and cannot know. Announced once the rows are back, because more is lost until then. If
    /// that takes long, announced at once and again then.
    fn notices_forgetting(&mut self, bus: &Bus) -> bool {
        let forgotten = bus.lease.forgotten();
        let stand_again = bus.hub.changes().are_back();
        let is_due = |at: Instant| stand_again || at.elapsed() > REBUILT;
        let is_new = forgotten != self.forgotten && forgotten.is_some_and(is_due);
        let are_back = self.is_early && stand_again;
        if is_new {
            self.forgotten = forgotten;
        }
        self.is_early = !stand_again && (is_new || self.is_early);
        is_new || are_back
    }

    /// Follows the own channel to the server that has it now. Messages from the old server would
    /// be outdated.
    async fn move_along(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        if bus.servers.place_of(&bus.own) != self.subscription.place {
            tracing::info!("the subscription moves to another server");
            self.replace(bus, events).await;
            self.probing.forget_answers();
        }
    }

    /// Opens a connection, closes the old one and then subscribes: two subscriptions would both
    /// give what is published meanwhile, and only payloads of nodes have numbers. Messages may be
    /// missing, which is told. If opening fails, the old one stays, and the next probe checks again.
    async fn replace(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        if let Some(new) = bus.open().await {
            let old = std::mem::replace(&mut self.subscription, new);
            old.is_over.store(true, Ordering::Release);
            take_last(old, bus, events);
            events.push_back(FeedEvent::Lost("resubscribed"));
            bus.subscribe(&mut self.subscription.listener).await;
            // The old one may have failed since the new one connected.
            if self.subscription.listener.is_connected() {
                bus.servers.note_resubscribed();
            }
            self.renew(bus);
            self.beat.reset();
        }
    }

    /// Rows are offered again once a probe has come over the renewed subscription.
    fn renew(&mut self, bus: &Bus) {
        self.probing.renew();
        bus.offer.note_heard(None);
    }

    /// This process was stalled for longer than its lease, so other nodes took it for dead. Its
    /// knowledge of Redis is void.
    async fn wake_up(&mut self, bus: &Bus, gap: Duration) {
        tracing::warn!(
            ?gap,
            "this node stood still; subscribing again and rewriting its rows"
        );
        self.renew(bus);
        // If Redis lost them, the lease finds that and has it told, or it is told row by row.
        bus.hub.changes().mark(bus.hub.subjects());
        // First the messages that gathered meanwhile, or they would be lost. They name clients of
        // other nodes by the node, so none can reach the wrong client.
        self.retire(bus, false).await;
        self.beat.reset_immediately();
    }

    /// Unsubscribes. Messages published until then are delivered next.
    async fn retire(&mut self, bus: &Bus, is_leaving: bool) {
        let listener = &mut self.subscription.listener;
        // The answer to PING comes after all of them.
        let write = |out: &mut Vec<u8>| bus.servers.write_unsubscribe(out);
        listener.send(RETIRE, write).await;
        let until = Instant::now() + RETIRE;
        self.phase = Phase::Retiring { until, is_leaving };
    }

    /// Whether the subscription that retires has told more. If the connection is silent or closed,
    /// what was received is kept.
    async fn hears_last(
        &mut self,
        bus: &Bus,
        events: &mut VecDeque<FeedEvent>,
        until: Instant,
    ) -> bool {
        let listener = &mut self.subscription.listener;
        match tokio::time::timeout_at(until, listener.wait()).await {
            Ok(News::Bytes) if bus.take(listener, events).is_last => {
                if let Phase::Retiring { until, .. } = &mut self.phase {
                    *until = Instant::now();
                }
                true
            }
            Ok(News::Bytes) => true,
            Ok(News::Connected) | Err(_) => false,
        }
    }
}

/// The last messages of a subscription that is replaced, which ends with this.
fn take_last(mut old: RedisSubscription, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
    loop {
        bus.take(&mut old.listener, events);
        let is_full = bus.backlog.load(Ordering::Relaxed) >= BACKLOG;
        if is_full || old.listener.poll_now() != Some(News::Bytes) {
            return;
        }
    }
}
