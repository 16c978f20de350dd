//! Pushes to the connections of this node, each counted once by what became of it on arrival.

use smallvec::SmallVec;

use crate::local::hub::Hub;
use crate::local::receipt::Receipt;
use crate::local::shard::command::Command;
use crate::protocol::ids::{Fd, UserId};
use crate::protocol::{Push, Target};
use crate::telemetry::trace::TraceOutcome;

/// What became of a push on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Handed to this many connections; 0 where none matches (any more).
    To(u32),
    /// Dropped: its id was seen for this target within a minute.
    Duplicate,
}

/// As [`Delivered`], as the ledger counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// To so many connections; for all connections or a topic, 0 is possible.
    Handed(u32),
    /// None that it is for is here.
    Unmatched,
    /// `except` names all of them.
    LeftOut,
    /// Its id was seen.
    Repeat,
}

impl From<Arrived> for Delivered {
    fn from(arrived: Arrived) -> Self {
        match arrived {
            Arrived::Handed(count) => Self::To(count),
            Arrived::Unmatched | Arrived::LeftOut => Self::To(0),
            Arrived::Repeat => Self::Duplicate,
        }
    }
}

impl Hub {
    /// Hands a push to the local connections it is for.
    pub(crate) async fn deliver(&self, push: &Push, receipt: Option<&Receipt>) -> Delivered {
        self.deliver_to(&push.to, push, receipt).await
    }

    /// As [`Hub::deliver`], for a part of the push's targets.
    pub(crate) async fn deliver_to(
        &self,
        to: &Target,
        push: &Push,
        receipt: Option<&Receipt>,
    ) -> Delivered {
        let arrived = self.hand_on(to, push, receipt).await;
        // One outcome for what came, however many topics it names.
        let (metrics, id) = (&self.metrics, push.message.id());
        match arrived {
            Arrived::Handed(_) => metrics.arrivals_matched.inc(),
            Arrived::Unmatched => metrics.arrivals_unmatched.inc(),
            Arrived::LeftOut => {
                self.trace.arrived(to, id, TraceOutcome::LeftOut);
                metrics.arrivals_left_out.inc()
            }
            Arrived::Repeat => {
                self.trace.arrived(to, id, TraceOutcome::Duplicate);
                metrics.duplicates.inc()
            }
        };
        arrived.into()
    }

    async fn hand_on(&self, to: &Target, push: &Push, receipt: Option<&Receipt>) -> Arrived {
        match to {
            Target::All => self.broadcast(push, receipt).await,
            Target::Topic(topic) => self.publish(topic, push, receipt).await,
            Target::Topics(topics) => self.publish_to_each(topics, push, receipt).await,
            Target::Users(users) if push.message.id().is_some() => {
                self.hand_to_each(users, push, receipt).await
            }
            to => self.hand_to(to, push, receipt).await,
        }
    }

    /// To connections one by one.
    async fn hand_to(&self, to: &Target, push: &Push, receipt: Option<&Receipt>) -> Arrived {
        let fds = self.matching(to);
        let is_wanted = |(fd, user): &(Fd, UserId)| {
            push.except
                .as_ref()
                .is_none_or(|except| !except.has(&self.directory.node, *fd, user))
        };
        let matched = fds.len();
        let wanted: SmallVec<[(Fd, UserId); 2]> = fds.into_iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            // Left out on purpose is not the same as not here.
            return match matched {
                0 => Arrived::Unmatched,
                _ => Arrived::LeftOut,
            };
        }
        if self.is_repeat(to, push) {
            if push.message.position().is_some() {
                // Stored twice: a connection that follows the inbox must not wait for the
                // second one.
                for (fd, _) in wanted {
                    let message = push.message.clone();
                    self.tell(fd, Command::SkipKept { fd, message }).await;
                }
            }
            return Arrived::Repeat;
        }
        let count = wanted.len() as u32;
        for (fd, _) in wanted {
            let (message, receipt) = (push.message.clone(), receipt.cloned());
            self.shard(fd)
                .send(Command::Deliver {
                    fd,
                    message,
                    receipt,
                })
                .await;
            // Counted here and not in the shard, so that a loss in between unbalances the ledger.
            self.metrics.offered.inc();
        }
        Arrived::Handed(count)
    }

    /// As [`Hub::hand_to`], one user after the other: an id is remembered for each, because the next
    /// attempt of a push may find others of them here. It is a repeat if it is one for all who are.
    async fn hand_to_each(
        &self,
        users: &[UserId],
        push: &Push,
        receipt: Option<&Receipt>,
    ) -> Arrived {
        let (mut count, mut other) = (0, Arrived::Unmatched);
        for user in users {
            match self
                .hand_to(&Target::User(user.clone()), push, receipt)
                .await
            {
                Arrived::Handed(more) => count += more,
                Arrived::Unmatched => {}
                Arrived::LeftOut if other == Arrived::Repeat => {}
                arrived => other = arrived,
            }
        }
        match count {
            0 => other,
            count => Arrived::Handed(count),
        }
    }

    async fn broadcast(&self, push: &Push, receipt: Option<&Receipt>) -> Arrived {
        if self.is_repeat(&push.to, push) {
            return Arrived::Repeat;
        }
        self.tell_all(|| Command::Broadcast {
            message: push.message.clone(),
            except: push.except.clone(),
            receipt: receipt.cloned(),
        })
        .await;
        Arrived::Handed(self.len() as u32)
    }

    pub(crate) fn is_repeat(&self, to: &Target, push: &Push) -> bool {
        let entry = push.message.position().map(|position| position.entry);
        let id = push.message.id();
        id.is_some_and(|id| self.recent.is_repeat(id, to, entry))
    }
}
