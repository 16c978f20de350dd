//! Listening: the subscription to this node's channel and to the channel of all nodes.
//!
//! A subscription can be deaf while its TCP connection is healthy, so it is checked: twice a
//! second, a probe goes through the real publish path to the own channel. A probe that is not
//! received in time leads to a new subscription, opened before the old one is closed. Every new
//! subscription may have missed messages, which is a [`FeedEvent::Lost`] in its place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::prelude::{Client, ClientLike, EventInterface};
use fred::types::{Message, Value};
use tokio::sync::broadcast::Receiver;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::backplane::feed::{Channel, FeedEvent};
use crate::backplane::nodes::Health;
use crate::backplane::redis::bus::probes::{DEAF, Hearing, PRESSING, PROBE, Probing};
use crate::backplane::redis::bus::pump::{Heard, Pump};
use crate::backplane::redis::registry::belief::LEASE;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::link::{Link, WatchedLink};
use crate::backplane::redis::servers::{ServerPlace, Servers};
use crate::backplane::redis::{COMMAND_BUFFER, COMMAND_TIMEOUT, SUBSCRIPTION_BUFFER, build};
use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// After SUBSCRIBE was sent, the next probe comes this soon: Redis has read it by then.
const SETTLED: Duration = Duration::from_millis(50);
/// How long a retiring subscription may take to deliver what it still holds.
const RETIRE: Duration = Duration::from_secs(1);
/// Rows missing in Redis are written within this time; a new one may always be on its way.
const REBUILT: Duration = Duration::from_secs(1);
/// Clients are told that the node is cut off after this time.
const DEGRADED: Duration = Duration::from_secs(10);

/// The parts that a node's subscription works with.
pub(crate) struct Bus {
    pub(crate) servers: Servers,
    pub(crate) own: String,
    pub(crate) pump: Pump,
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

struct RedisSubscription {
    /// Its server.
    place: ServerPlace,
    client: Client,
    heard: mpsc::UnboundedReceiver<Heard>,
    pump: JoinHandle<()>,
    /// Tells the pump to end once the buffer is empty.
    last: Shutdown,
    reconnects: Receiver<fred::types::config::Server>,
    connecting: JoinHandle<Result<(), fred::error::Error>>,
    watch: WatchedLink,
    /// Whether its first connect was reported as a reconnect, as fred does.
    announced: bool,
    /// When it was opened, or connected again.
    since: Instant,
}

impl Drop for RedisSubscription {
    fn drop(&mut self) {
        self.pump.abort();
        // Without QUIT: a deaf connection would not receive it.
        self.connecting.abort();
        let client = self.client.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(COMMAND_TIMEOUT, client.quit()).await;
        });
    }
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
    /// The previous subscription, until its last messages are delivered.
    replaced: Option<RedisSubscription>,
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
                return event;
            }
            match live.phase {
                _ if live.replaced.is_some() => queued.push_back(live.next_of_replaced(bus)),
                Phase::Retiring { until, is_leaving } => {
                    let heard = live.subscription.heard.recv();
                    match tokio::time::timeout_at(until, heard).await {
                        Ok(Some(heard)) => queued.extend(bus.event(heard)),
                        _ if is_leaving => return FeedEvent::End,
                        _ => {
                            live.phase = Phase::Listening;
                            live.replace(bus).await;
                            live.probing.forget();
                        }
                    }
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
            replaced: None,
            phase: Phase::Listening,
            probing: Probing::default(),
            beat,
            turns: bus.servers.turns(),
            beats: bus.lease.beats(),
            awake: Instant::now(),
            down_since: Some(Instant::now()),
            told: false,
            forgotten: None,
        }
    }

    /// Waits for one input. Inputs: `stop` (from the drain), the beat of the probe, received
    /// probes and beats of the lease while the node is not ready, servers whose slots change, and
    /// messages and reconnects of the subscription (from fred).
    async fn listen(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        tokio::select! {
            biased;
            // Both before the messages: a flood of them would silence the probe, and busy
            // publishers could keep the node from leaving in time.
            () = bus.stop.begun() => self.retire(bus, true).await,
            _ = self.beat.tick() => self.tick(bus, events).await,
            // Ready as soon as the last of the two has come, and not only with the next probe.
            () = bus.pump.probes.news(), if !(bus.is_ready() && bus.offer.stands()) => {
                self.probing.note_heard(&bus.pump.probes);
                bus.judge(&self.probing);
            }
            Ok(()) = self.beats.changed(), if !bus.is_ready() => {
                bus.judge(&self.probing);
            }
            Ok(()) = self.turns.changed() => self.move_along(bus).await,
            heard = self.subscription.heard.recv() => match heard {
                Some(heard) => events.extend(bus.event(heard)),
                // The client has ended for good; it should not.
                None => self.replace(bus).await,
            },
            reconnected = self.subscription.reconnects.recv() => {
                let is_first = !std::mem::replace(&mut self.subscription.announced, true);
                if reconnected.is_ok() && !is_first {
                    bus.subscribe(&self.subscription.client).await;
                    self.subscription.since = Instant::now();
                    self.renew(bus);
                    self.beat.reset_after(SETTLED);
                    events.push_back(FeedEvent::Lost("reconnect"));
                }
            }
        }
    }

    async fn tick(&mut self, bus: &Bus, events: &mut VecDeque<FeedEvent>) {
        let gap = std::mem::replace(&mut self.awake, Instant::now()).elapsed();
        if gap > LEASE {
            return self.wake_up(bus, gap).await;
        }
        events.push_back(FeedEvent::Tick);
        if self.notices_forgetting(bus) {
            events.push_back(FeedEvent::Lost("forgotten"));
        }
        let probes = &bus.pump.probes;
        match self.probing.probe(&bus.servers, &bus.own, probes).await {
            Hearing::Deaf => {
                tracing::warn!("the subscription is deaf; opening another");
                self.replace(bus).await;
                self.probing.forget();
            }
            Hearing::Unsubscribed => {
                bus.subscribe(&self.subscription.client).await;
                self.renew(bus);
                self.move_along(bus).await;
            }
            Hearing::Hears => self.move_along(bus).await,
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
    /// node and cannot know. Announced once the rows are back, or nearly: if announced earlier,
    /// more would be lost after the announcement.
    fn notices_forgetting(&mut self, bus: &Bus) -> bool {
        let forgotten = bus.lease.forgotten();
        let is_rebuilt = |at: Instant| bus.hub.changes().is_settled() || at.elapsed() > REBUILT;
        let is_new = forgotten != self.forgotten && forgotten.is_some_and(is_rebuilt);
        if is_new {
            self.forgotten = forgotten;
        }
        is_new
    }

    /// Follows the own channel to the server that has it now. Messages from the old server would
    /// be outdated.
    async fn move_along(&mut self, bus: &Bus) {
        if bus.servers.place_of(&bus.own) != self.subscription.place {
            tracing::info!("the subscription moves to another server");
            self.replace(bus).await;
            self.probing.forget_answers();
        }
    }

    /// Opens a subscription and only then closes the old one. Messages may be missing. If opening
    /// fails, the old one stays, and the next probe checks again.
    async fn replace(&mut self, bus: &Bus) {
        if let Some(new) = bus.open().await {
            let old = std::mem::replace(&mut self.subscription, new);
            old.watch.end();
            // The old one may have failed since the new one connected.
            if self.subscription.client.is_connected() {
                bus.servers.note_resubscribed();
            }
            self.replaced = Some(old);
            self.renew(bus);
            self.beat.reset_after(SETTLED);
        }
    }

    /// Rows are offered again once a probe has come over the renewed subscription.
    fn renew(&mut self, bus: &Bus) {
        self.probing.renew();
        bus.offer.note_heard(None);
    }

    /// The last messages of the previous subscription; then the sign that some may be missing.
    fn next_of_replaced(&mut self, bus: &Bus) -> FeedEvent {
        while let Some(Ok(heard)) = self.replaced.as_mut().map(|old| old.heard.try_recv()) {
            // A loss is announced in any case.
            if let Heard::Message(..) = heard
                && let Some(event) = bus.event(heard)
            {
                return event;
            }
        }
        self.replaced = None;
        FeedEvent::Lost("resubscribed")
    }

    /// This process was stalled for longer than its lease, so other nodes took it for dead. Its
    /// knowledge of Redis is void.
    async fn wake_up(&mut self, bus: &Bus, gap: Duration) {
        tracing::warn!(
            ?gap,
            "this node stood still; subscribing again and rewriting its rows"
        );
        self.renew(bus);
        bus.hub.changes().mark(bus.hub.subjects());
        // First the messages that gathered meanwhile, or they would be lost. They name clients of
        // other nodes by the node, so none can reach the wrong client.
        self.retire(bus, false).await;
        self.beat.reset_immediately();
    }

    /// Unsubscribes. Messages published until then are delivered next.
    async fn retire(&mut self, bus: &Bus, is_leaving: bool) {
        let client = self.subscription.client.clone();
        let unsubscribed = async {
            bus.servers.unsubscribe(&client).await?;
            // The answer to UNSUBSCRIBE is not awaited; the answer to PING comes after it.
            client.ping::<()>(None).await
        };
        match tokio::time::timeout(RETIRE, unsubscribed).await {
            Ok(Ok(())) => {}
            // The connection is silent or closed. Messages already received are kept.
            other => tracing::debug!(?other, "a subscription did not end cleanly"),
        }
        self.subscription.last.begin();
        let until = Instant::now() + RETIRE;
        self.phase = Phase::Retiring { until, is_leaving };
    }
}

impl Bus {
    /// What was received, as an event; `None` if it is not text.
    fn event(&self, heard: Heard) -> Option<FeedEvent> {
        match heard {
            Heard::Message(message, permit) => self.payload(message, permit),
            Heard::Lagged(count) => {
                tracing::debug!(count, "the node could not keep up with Redis");
                Some(FeedEvent::Lost("lag"))
            }
        }
    }

    fn payload(&self, message: Message, permit: OwnedSemaphorePermit) -> Option<FeedEvent> {
        let channel = if *message.channel == *self.own {
            Channel::Own
        } else {
            Channel::Global
        };
        let bytes: Bytes = match message.value {
            Value::String(text) => text.into_inner(),
            Value::Bytes(bytes) => bytes,
            _ => {
                self.metrics.bad_envelopes.inc();
                return None;
            }
        };
        Some(FeedEvent::Payload(channel, bytes, Some(permit)))
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
            if let Some(subscription) = self.open().await {
                return subscription;
            }
            self.judge(&Probing::default());
            // With several servers, the first change of routes tells which one has the channel.
            let _ = tokio::time::timeout(PROBE, turns.changed()).await;
        }
    }

    /// Opens and subscribes a new connection; `None` if Redis does not answer in time.
    async fn open(&self) -> Option<RedisSubscription> {
        let place = self.servers.place_of(&self.own);
        let client = build(
            &self.servers.way_to(&self.own)?,
            SUBSCRIPTION_BUFFER,
            COMMAND_BUFFER,
        )
        .inspect_err(
            |error| tracing::error!(error = %redacted(error), "cannot open a subscription"),
        )
        .ok()?;
        // Before connecting, so that no message is missed.
        let (messages, reconnects) = (client.message_rx(), client.reconnect_rx());
        let (sender, heard) = mpsc::unbounded_channel();
        let last = Shutdown::default();
        let pump = tokio::spawn(self.pump.clone().run(messages, sender, last.clone()));
        let watch = self.servers.link_watch();
        let watch = watch.start(Link::Subscription, client.clone(), String::new());
        let connecting = client.connect();
        let mut subscription = RedisSubscription {
            place,
            client,
            heard,
            pump,
            last,
            reconnects,
            connecting,
            watch,
            announced: false,
            since: Instant::now(),
        };
        let connected = subscription.client.wait_for_connect();
        tokio::time::timeout(COMMAND_TIMEOUT, connected)
            .await
            .ok()?
            .ok()?;
        self.subscribe(&subscription.client).await;
        subscription.since = Instant::now();
        Some(subscription)
    }

    /// Sends SUBSCRIBE. Only a probe can show that it worked.
    pub(crate) async fn subscribe(&self, client: &Client) {
        self.metrics.subscriptions.inc();
        if let Err(error) = self.servers.subscribe(client).await {
            self.servers.note(&error);
            tracing::debug!(error = %redacted(&error), "SUBSCRIBE failed");
        }
    }
}
