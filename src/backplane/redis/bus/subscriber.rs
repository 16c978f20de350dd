//! Listening: the subscription to this node's channel and to the channel of all nodes.
//!
//! A subscription can be deaf while its TCP connection is healthy, so it is checked: twice a
//! second, a probe goes through the real publish path to the own channel. A probe that is not
//! received in time leads to another, once there is a connection for it. Every new subscription may
//! have missed messages, which is a [`FeedEvent::Lost`] in its place. What must stay true: no message
//! is taken from two subscriptions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::backplane::feed::{Channel, FeedEvent};
use crate::backplane::nodes::Health;
use crate::backplane::redis::COMMAND_TIMEOUT;
use crate::backplane::redis::bus::probes::{DEAF, Hearing, PRESSING, PROBE, Probes, Probing};
use crate::backplane::redis::registry::belief::LEASE;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::servers::dial::ServerDoor;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::link::Link;
use crate::backplane::redis::servers::{ServerPlace, Servers};
use crate::backplane::redis::wire::listener::{Heard, MessageReader, News};
use crate::backplane::redis::wire::resp::Reply;
use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::protocol;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Bytes of messages that are read ahead to find a probe among them. What is not read waits in the
/// connection, and then in Redis, which cuts a subscriber off that is too far behind.
pub(crate) const BACKLOG: usize = 16 * 1024 * 1024;
/// Bytes charged for each message in addition to its own.
const OVERHEAD: usize = 256;
/// After SUBSCRIBE was sent, the next probe comes this soon: Redis has read it by then.
const SETTLED: Duration = Duration::from_millis(50);
/// How long a retiring subscription may take to deliver what it still holds.
const RETIRE: Duration = Duration::from_secs(1);
/// Rows that Redis forgot are mostly back within this time.
const REBUILT: Duration = Duration::from_secs(1);
/// Clients are told that the node is cut off after this time.
const DEGRADED: Duration = Duration::from_secs(10);

/// The parts that a node's subscription works with.
pub(crate) struct Bus {
    pub(crate) servers: Servers,
    pub(crate) own: String,
    pub(crate) probes: Arc<Probes>,
    /// How many bytes were received and not yet processed.
    pub(crate) backlog: Arc<AtomicUsize>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) offer: RowOffer,
    pub(crate) health: watch::Sender<Health>,
    /// Raised when the node stops listening for good.
    pub(crate) stop: Shutdown,
    /// Raised by the bus when everything received has been processed.
    pub(crate) stopped: Shutdown,
    pub(crate) metrics: Arc<Metrics>,
}

/// Dropping it closes the connection.
struct RedisSubscription {
    /// Its server.
    place: ServerPlace,
    listener: MessageReader<ServerDoor>,
    /// Tells nothing of its connection any more.
    is_over: Arc<AtomicBool>,
}

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
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            subscription,
            phase: Phase::Listening,
            probing: Probing::default(),
            beat,
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
            News::Bytes => _ = bus.take(&mut self.subscription.listener, events),
            News::Connected => {
                bus.subscribe(&mut self.subscription.listener).await;
                self.renew(bus);
                self.beat.reset_after(SETTLED);
                events.push_back(FeedEvent::Lost("reconnect"));
            }
        }
    }

    /// Takes what has arrived, without waiting for more: a probe may be among it, and how late this
    /// task is with all the rest says nothing of the subscription.
    async fn take_arrived(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        while bus.backlog.load(Ordering::Relaxed) < BACKLOG {
            match self.subscription.listener.poll_now() {
                Some(news) => self.hear(bus, events, news).await,
                None => return,
            }
        }
    }

    async fn tick(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        let gap = std::mem::replace(&mut self.awake, Instant::now()).elapsed();
        if gap > LEASE {
            return self.wake_up(bus, gap).await;
        }
        self.take_arrived(bus, events).await;
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
            self.beat.reset_after(SETTLED);
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
            Ok(News::Bytes) if bus.take(listener, events) => {
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

/// What a payload counts in the backlog.
fn charge(payload: &Bytes) -> usize {
    payload.len() + OVERHEAD
}

impl Bus {
    /// Takes what was heard; returns whether the answer to PING was among it.
    fn take(
        &self,
        listener: &mut MessageReader<ServerDoor>,
        events: &mut VecDeque<FeedEvent>,
    ) -> bool {
        let mut is_last = false;
        while let Some(heard) = listener.take() {
            match heard {
                Heard::Message { channel, payload } => events.extend(self.event(&channel, payload)),
                Heard::Answer(Ok(reply)) => is_last |= reply == Reply::Text(b"PONG".into()),
                Heard::Answer(Err(error)) => {
                    self.servers.note(&error);
                    tracing::debug!(error = %redacted(&error), "SUBSCRIBE failed");
                }
            }
        }
        is_last
    }

    /// A payload as an event. Probes are none: they measure whether the subscription works, and not
    /// how late this task is.
    fn event(&self, channel: &[u8], payload: Bytes) -> Option<FeedEvent> {
        if let Some(number) = protocol::as_probe(&payload) {
            match self.probes.note(number) {
                Some(lag) => self.metrics.bus_lag.observe(lag.as_secs_f64()),
                // By which another node finds out whether this one listens.
                None if number == 0 => {}
                None => self.metrics.line_refused("probe"),
            }
            return None;
        }
        let channel = if channel == self.own.as_bytes() {
            self.probes.note_line();
            Channel::Own
        } else {
            Channel::Global
        };
        self.backlog.fetch_add(charge(&payload), Ordering::Relaxed);
        Some(FeedEvent::Payload(channel, payload))
    }

    /// Decides whether the node can serve, and announces it.
    fn judge(&self, probing: &Probing) -> Health {
        self.offer.note_heard(probing.proven());
        let reason = self.servers.link_fault().or_else(|| self.lease.refusal());
        let health = match (reason, probing.heard()) {
            (Some(reason), _) => Health::Down(reason),
            (None, None) => Health::Down("not subscribed yet"),
            (None, Some(heard)) if heard.elapsed() > DEAF + PROBE => {
                Health::Down("the subscription does not answer")
            }
            _ if !self.lease.is_held() || *self.lease.beats().borrow() == 0 => {
                Health::Down("the lease is not held")
            }
            _ => Health::Ready,
        };
        self.lease.isolation.note(health == Health::Ready);
        self.health
            .send_if_modified(|old| std::mem::replace(old, health) != health);
        self.metrics
            .redis_up
            .set(i64::from(health == Health::Ready));
        health
    }

    fn is_ready(&self) -> bool {
        *self.health.borrow() == Health::Ready
    }

    async fn subscribe_until_it_works(&self) -> RedisSubscription {
        let mut turns = self.servers.turns();
        loop {
            if let Some(mut subscription) = self.open().await {
                self.subscribe(&mut subscription.listener).await;
                return subscription;
            }
            self.judge(&Probing::default());
            // With several servers, the first change of routes tells which one has the channel.
            let _ = tokio::time::timeout(PROBE, turns.changed()).await;
        }
    }

    /// Opens a new connection; `None` if Redis does not answer in time.
    async fn open(&self) -> Option<RedisSubscription> {
        let place = self.servers.place_of(&self.own);
        let is_over = Arc::<AtomicBool>::default();
        let door = ServerDoor::new(
            &self.servers.way_to(&self.own)?,
            Link::Subscription,
            self.servers.link_watch(),
            String::new(),
            is_over.clone(),
        )
        .inspect_err(
            |error| tracing::error!(error = %redacted(error), "cannot open a subscription"),
        )
        .ok()?;
        let opened = tokio::time::timeout(COMMAND_TIMEOUT, MessageReader::open(door)).await;
        Some(RedisSubscription {
            place,
            listener: opened.ok()?,
            is_over,
        })
    }

    /// Sends SUBSCRIBE. Only a probe can show that it worked.
    async fn subscribe(&self, listener: &mut MessageReader<ServerDoor>) {
        self.metrics.subscriptions.inc();
        let write = |out: &mut Vec<u8>| self.servers.write_subscribe(out);
        listener.send(COMMAND_TIMEOUT, write).await;
    }
}
