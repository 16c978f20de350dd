//! Listening: the subscription to this node's channel and to the channel of all nodes.
//!
//! A subscription can be deaf while its TCP connection is healthy, so it is not believed: twice
//! a second a probe goes through the real publish path to the own channel. One that is not
//! heard in time means a new subscription, opened before the old one is closed. Every new one
//! means that something may have been missed, which is counted and told to the clients.

use std::sync::Arc;
use std::time::Duration;

use fred::error::ErrorKind;
use fred::prelude::{Client, ClientLike, EventInterface};
use fred::types::{Message, Value};
use tokio::sync::broadcast::Receiver;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::lease::{LEASE, Lease};
use super::link::Link;
use super::pump::{Heard, Pump};
use super::refusal::shown;
use super::{COMMAND_BUFFER, COMMAND_TIMEOUT, SUBSCRIPTION_BUFFER, build};
use crate::backplane::Health;
use crate::config::Host;
use crate::hub::Hub;
use crate::inbound::{Channel, Inbound};
use crate::metrics::Metrics;
use crate::protocol;
use crate::shard::Command;
use crate::shutdown::Shutdown;

/// Between two probes.
const PROBE: Duration = Duration::from_millis(500);
/// A probe that Redis has taken must be heard within this time.
const DEAF: Duration = Duration::from_millis(1_500);
/// The same for the first one behind a connection for commands that had gone silent: mostly the
/// subscription has, at the same moment, and this has taken its time already.
const DEAF_TOO: Duration = Duration::from_millis(400);
/// A connect that is told within this time of opening is the one that was awaited.
const SETTLED: Duration = Duration::from_millis(200);
/// How long a subscription may take to give out what it holds before it is left.
const RETIRE: Duration = Duration::from_secs(1);
/// Receipts for what was heard last may take this long.
const REPORTS: Duration = Duration::from_secs(1);
/// Rows of which Redis had none are written within this time; a new one may always be on its way.
const REBUILT: Duration = Duration::from_secs(1);
/// Clients hear that the node is cut off after it has been for this long.
const DEGRADED: Duration = Duration::from_secs(10);

pub(super) struct Bus {
    pub(super) link: Link,
    pub(super) own: String,
    pub(super) inbound: Inbound,
    pub(super) pump: Pump,
    pub(super) hub: Arc<Hub>,
    pub(super) lease: Arc<Lease>,
    pub(super) health: watch::Sender<Health>,
    /// Raised when the node stops listening for good.
    pub(super) stop: Shutdown,
    /// Raised by us when all that was heard is dealt with.
    pub(super) stopped: Shutdown,
    pub(super) metrics: Arc<Metrics>,
}

/// One connection that is subscribed.
struct Subscription {
    /// Where it is, if there are several servers.
    host: Option<Host>,
    client: Client,
    heard: mpsc::UnboundedReceiver<Heard>,
    pump: JoinHandle<()>,
    /// Tells the pump to end once nothing is left to take.
    last: Shutdown,
    reconnects: Receiver<fred::types::config::Server>,
    connecting: JoinHandle<Result<(), fred::error::Error>>,
    /// When it was opened, or connected again.
    since: Instant,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.pump.abort();
        // Without a goodbye: a deaf connection would not hear it.
        self.connecting.abort();
        let client = self.client.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(COMMAND_TIMEOUT, client.quit()).await;
        });
    }
}

/// The probes on their way.
struct Probing {
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

impl Bus {
    /// Listens until the node ends or `stop` is raised. Inputs: messages and reconnects of the
    /// subscription (from fred), the beat of the probe, and `stop` (from the drain).
    pub(super) async fn listen(mut self) {
        let mut subscription = self.subscribe_until_it_works().await;
        let mut probing = Probing {
            sent: 0,
            heard: None,
            heard_number: 0,
            overruns: 0,
            owed: None,
            doubtful: false,
            unheard: 0,
            task: None,
        };
        let mut beat = tokio::time::interval(PROBE);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut down_since: Option<Instant> = Some(Instant::now());
        let mut told = false;
        let (mut turns, mut beats) = (self.link.turns(), self.lease.beats());
        let mut awake = Instant::now();
        let stop = self.stop.clone();
        let mut forgotten = None;
        loop {
            tokio::select! {
                biased;
                // Both before the messages, or a flood of them would silence the probe, and whoever
                // goes on publishing could keep the node from leaving in time.
                () = stop.begun() => {
                    self.retire(&mut subscription).await;
                    self.inbound.reported(REPORTS).await;
                    return self.stopped.begin();
                }
                _ = beat.tick() => {
                    let gap = std::mem::replace(&mut awake, Instant::now()).elapsed();
                    if gap > LEASE {
                        self.wake_up(gap, &mut subscription).await;
                        probing.owed = None;
                    }
                    self.inbound.tell_of_losses().await;
                    self.notice_forgetting(&mut forgotten).await;
                    let deaf = self.probe(&mut probing, &subscription).await;
                    if deaf {
                        tracing::warn!("the subscription is deaf; opening another");
                        self.replace(&mut subscription).await;
                        probing.owed = None;
                        probing.doubtful = false;
                        probing.unheard = 0;
                    } else {
                        self.move_along(&mut subscription, &mut probing).await;
                    }
                    if self.judge(&probing) == Health::Ready {
                        down_since = None;
                        told = false;
                    } else {
                        let since = *down_since.get_or_insert_with(Instant::now);
                        if !told && since.elapsed() > DEGRADED {
                            told = true;
                            self.hub.tell_all(|| Command::Degraded).await;
                        }
                    }
                }
                // Ready as soon as the last of the two has come, and not only with the next probe.
                () = self.pump.probes.news(), if !self.is_ready() => {
                    self.note_heard(&mut probing);
                    self.judge(&probing);
                }
                Ok(()) = beats.changed(), if !self.is_ready() => {
                    self.judge(&probing);
                }
                Ok(()) = turns.changed() => {
                    self.move_along(&mut subscription, &mut probing).await;
                }
                heard = subscription.heard.recv() => match heard {
                    Some(Heard::Message(message, _permit)) => self.hear(&message).await,
                    Some(Heard::Lagged(count)) => {
                        tracing::debug!(count, "the node could not keep up with Redis");
                        self.inbound.lost("lag").await;
                    }
                    // The client is gone for good; it should not be.
                    None => self.replace(&mut subscription).await,
                },
                reconnected = subscription.reconnects.recv() => {
                    // The first connect may be told here too, a moment after it was awaited.
                    if reconnected.is_ok() && subscription.since.elapsed() > SETTLED {
                        self.subscribe(&subscription.client).await;
                        subscription.since = Instant::now();
                        self.inbound.lost("reconnect").await;
                    }
                }
            }
        }
    }

    /// While Redis has no row of a user here, or only those of other nodes, publishers pass this
    /// node by and cannot know. Told once the rows are back, or nearly: earlier, more would be
    /// lost behind the telling.
    async fn notice_forgetting(&mut self, told: &mut Option<Instant>) {
        let forgotten = self.lease.forgotten();
        let is_rebuilt = |at: Instant| self.hub.changes().is_settled() || at.elapsed() > REBUILT;
        if forgotten != *told && forgotten.is_some_and(is_rebuilt) {
            *told = forgotten;
            self.inbound.lost("forgotten").await;
        }
    }

    async fn hear(&mut self, message: &Message) {
        let channel = if *message.channel == *self.own {
            Channel::Own
        } else {
            Channel::Global
        };
        match &message.value {
            Value::String(text) => self.inbound.hear(channel, text.as_bytes()).await,
            Value::Bytes(bytes) => self.inbound.hear(channel, bytes).await,
            _ => {
                self.metrics.bad_envelopes.inc();
            }
        }
    }

    /// Sends the next probe and looks for those before; answers whether the subscription is deaf.
    async fn probe(&self, probing: &mut Probing, subscription: &Subscription) -> bool {
        let overruns = self.pump.probes.overruns();
        if overruns > std::mem::replace(&mut probing.overruns, overruns) {
            // Flooded, which is the opposite of deaf; the probe may have been overwritten.
            probing.heard = Some(Instant::now());
            probing.owed = None;
            probing.doubtful = false;
        }
        let last = self.note_heard(probing);
        if probing.owed.is_some_and(|(number, _)| number <= last) {
            probing.owed = None;
            probing.unheard = 0;
        }
        // Whatever the publish path does since: Redis said that it passed that one on.
        let patience = if probing.doubtful { DEAF_TOO } else { DEAF };
        if probing
            .owed
            .is_some_and(|(_, since)| since.elapsed() > patience)
        {
            return true;
        }
        if let Some(task) = probing.task.take() {
            if !task.is_finished() {
                // The publish path itself hangs; the subscription is not to blame.
                probing.task = Some(task);
                return false;
            }
            match task.await {
                // Nobody listens there: Redis has forgotten us, or our subscription is at another
                // server than our commands.
                Ok(Ok(0)) => {
                    probing.unheard += 1;
                    if probing.unheard > 2 {
                        return true;
                    }
                    self.subscribe(&subscription.client).await;
                }
                Ok(Ok(_)) if probing.sent > last => {
                    probing.owed.get_or_insert((probing.sent, Instant::now()));
                }
                // No answer, although the connection is up for all fred knows: it counts from the
                // last write, so one that is in use would never count as dead.
                Ok(Err(error))
                    if *error.kind() == ErrorKind::Timeout
                        && self.link.at(&self.own).is_connected() =>
                {
                    tracing::warn!("the connection to Redis is silent; opening another");
                    self.link.replace(self.link.host_of(&self.own).as_ref());
                    probing.doubtful = true;
                }
                _ => {}
            }
        }
        probing.sent += 1;
        self.pump.probes.note_sent(probing.sent);
        let (link, channel, line) = (
            self.link.clone(),
            self.own.clone(),
            protocol::probe_line(probing.sent),
        );
        probing.task = Some(tokio::spawn(async move {
            link.publish(&channel, line.into()).await
        }));
        false
    }

    /// Looks which probes have been heard; answers the number of the last one.
    fn note_heard(&self, probing: &mut Probing) -> u64 {
        let last = self.pump.probes.last();
        if last > probing.heard_number {
            probing.heard_number = last;
            probing.heard = Some(Instant::now());
            probing.doubtful = false;
        }
        last
    }

    /// Decides whether the node can serve, and tells.
    fn judge(&self, probing: &Probing) -> Health {
        let health = match (self.lease.refusal(), probing.heard) {
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

    /// Follows the own channel to the server that has it now. What is heard from the old one
    /// would be the past.
    async fn move_along(&mut self, subscription: &mut Subscription, probing: &mut Probing) {
        if self.link.host_of(&self.own) != subscription.host {
            tracing::info!("the subscription moves to another server");
            self.replace(subscription).await;
            probing.owed = None;
            probing.unheard = 0;
            // What has not been answered yet was asked of the old server.
            if let Some(task) = probing.task.take() {
                task.abort();
            }
        }
    }

    /// Opens a subscription and only then lets the old one go. Something may be missing. If none
    /// can be had, the old one stays, and the next probe will ask again.
    async fn replace(&mut self, subscription: &mut Subscription) {
        if let Some(new) = self.open().await {
            let mut old = std::mem::replace(subscription, new);
            // What it has brought before it ends.
            while let Ok(heard) = old.heard.try_recv() {
                if let Heard::Message(message, _permit) = heard {
                    self.hear(&message).await;
                }
            }
            drop(old);
            self.inbound.lost("resubscribed").await;
        }
    }

    /// This process stood still for longer than its lease: meanwhile it was taken for dead.
    /// Whatever it knew of Redis is void.
    async fn wake_up(&mut self, gap: Duration, subscription: &mut Subscription) {
        tracing::warn!(
            ?gap,
            "this node stood still; subscribing anew and putting its rows again"
        );
        self.hub.changes().mark(self.hub.subjects());
        // First what gathered meanwhile, or it would be lost. Clients of other nodes are named
        // by them, so none of it can reach the wrong ones.
        self.retire(subscription).await;
        self.replace(subscription).await;
    }

    /// Unsubscribes, and takes what had been published until then.
    async fn retire(&mut self, subscription: &mut Subscription) {
        let client = subscription.client.clone();
        let unsubscribed = async {
            self.link.unsubscribe(&client).await?;
            // The answer to UNSUBSCRIBE is not waited for, and that to PING comes behind it.
            client.ping::<()>(None).await
        };
        match tokio::time::timeout(RETIRE, unsubscribed).await {
            Ok(Ok(())) => {}
            // It is silent or gone. What has come is there all the same.
            other => tracing::debug!(?other, "no goodbye from a subscription"),
        }
        subscription.last.begin();
        let deadline = Instant::now() + RETIRE;
        while let Ok(Some(heard)) =
            tokio::time::timeout_at(deadline, subscription.heard.recv()).await
        {
            match heard {
                Heard::Message(message, _permit) => self.hear(&message).await,
                Heard::Lagged(_) => self.inbound.lost("lag").await,
            }
        }
    }

    async fn subscribe_until_it_works(&self) -> Subscription {
        let mut turns = self.link.turns();
        loop {
            if let Some(subscription) = self.open().await {
                return subscription;
            }
            // Where there are several servers, the first turn tells which has the channel.
            let _ = tokio::time::timeout(PROBE, turns.changed()).await;
        }
    }

    /// A new connection, subscribed; `None` if Redis does not answer in time.
    async fn open(&self) -> Option<Subscription> {
        let host = self.link.host_of(&self.own);
        let client = build(
            &self.link.url_of(&self.own)?,
            SUBSCRIPTION_BUFFER,
            COMMAND_BUFFER,
        )
        .inspect_err(|error| tracing::error!(error = %shown(error), "cannot open a subscription"))
        .ok()?;
        // Before connecting, so that nothing is missed.
        let (messages, reconnects) = (client.message_rx(), client.reconnect_rx());
        let (sender, heard) = mpsc::unbounded_channel();
        let last = Shutdown::default();
        let pump = tokio::spawn(self.pump.clone().run(messages, sender, last.clone()));
        let connecting = client.connect();
        let mut subscription = Subscription {
            host,
            client,
            heard,
            pump,
            last,
            reconnects,
            connecting,
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

    /// Sends SUBSCRIBE. That it works is for the probe to tell.
    async fn subscribe(&self, client: &Client) {
        self.metrics.subscriptions.inc();
        if let Err(error) = self.link.subscribe(client).await {
            self.link.note(&error);
            tracing::debug!(error = %shown(&error), "SUBSCRIBE failed");
        }
    }
}
