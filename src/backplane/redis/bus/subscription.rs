//! One subscription: how it is opened, what is taken from it, and whether a node that has it can
//! serve.
//!
//! What must stay true: bytes received count in the backlog until they are processed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::watch;

use crate::backplane::feed::{Channel, FeedEvent};
use crate::backplane::nodes::Health;
use crate::backplane::redis::COMMAND_TIMEOUT;
use crate::backplane::redis::bus::probes::{DEAF, PROBE, Probes, Probing};
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::servers::dial::ServerDoor;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::link::Link;
use crate::backplane::redis::servers::{ServerPlace, Servers};
use crate::backplane::redis::wire::listener::{Heard, MessageReader};
use crate::backplane::redis::wire::resp::Reply;
use crate::local::hub::Hub;
use crate::protocol;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Bytes of messages that are read ahead to find a probe among them. What is not read waits in the
/// connection, and then in Redis, which cuts a subscriber off that is too far behind.
pub(crate) const BACKLOG: usize = 16 * 1024 * 1024;
/// Bytes charged for each message in addition to its own.
const OVERHEAD: usize = 256;

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
pub(crate) struct RedisSubscription {
    /// Its server.
    pub(crate) place: ServerPlace,
    pub(crate) listener: MessageReader<ServerDoor>,
    /// Whether Redis has confirmed it, since it last connected.
    pub(crate) is_confirmed: bool,
    /// Tells nothing of its connection any more.
    pub(crate) is_over: Arc<AtomicBool>,
}

/// What was among that which was heard.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Signs {
    /// A channel was subscribed to.
    pub(crate) is_subscribed: bool,
    /// The answer to PING.
    pub(crate) is_last: bool,
}

/// What a payload counts in the backlog.
pub(crate) fn charge(payload: &Bytes) -> usize {
    payload.len() + OVERHEAD
}

impl Bus {
    /// Takes what was heard.
    pub(crate) fn take(
        &self,
        listener: &mut MessageReader<ServerDoor>,
        events: &mut VecDeque<FeedEvent>,
    ) -> Signs {
        let mut signs = Signs::default();
        while let Some(heard) = listener.take() {
            match heard {
                Heard::Message { channel, payload } => events.extend(self.event(&channel, payload)),
                Heard::Subscribed => signs.is_subscribed = true,
                Heard::Answer(Ok(reply)) => {
                    signs.is_last |= reply == Reply::Text(b"PONG".into());
                }
                Heard::Answer(Err(error)) => {
                    self.servers.note(&error);
                    tracing::debug!(error = %redacted(&error), "SUBSCRIBE failed");
                }
            }
        }
        signs
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
            Channel::Own
        } else {
            Channel::Global
        };
        // Of a cluster's server, the two channels are subscribed to apart.
        if channel == Channel::Own || !self.servers.is_clustered() {
            self.probes.note_behind();
        }
        self.backlog.fetch_add(charge(&payload), Ordering::Relaxed);
        Some(FeedEvent::Payload(channel, payload))
    }

    /// Decides whether the node can serve, and announces it.
    pub(crate) fn judge(&self, probing: &Probing) -> Health {
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

    pub(crate) fn is_ready(&self) -> bool {
        *self.health.borrow() == Health::Ready
    }

    pub(crate) async fn subscribe_until_it_works(&self) -> RedisSubscription {
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
    pub(crate) async fn open(&self) -> Option<RedisSubscription> {
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
            is_confirmed: false,
            is_over,
        })
    }

    /// Sends SUBSCRIBE. Only a probe can show that it worked.
    pub(crate) async fn subscribe(&self, listener: &mut MessageReader<ServerDoor>) {
        self.metrics.subscriptions.inc();
        let write = |out: &mut Vec<u8>| self.servers.write_subscribe(out);
        listener.send(COMMAND_TIMEOUT, write).await;
    }
}
