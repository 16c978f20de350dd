//! `pn:epoch`: a random number that Redis loses when it loses all that it has.
//!
//! Where Redis evicts keys, it may lose an inbox and keep the epoch. So each node that sees keys
//! evicted begins another one, and doubts what it took for the first message of an inbox.
//!
//! Reading an inbox writes nothing, so a reader who finds none has no number to come back with.
//! Instead its position names the epoch: as long as that is the same, what was kept since then is
//! still counted. What must stay true: a node may hand out an epoch that is over, which proves
//! nothing later, but compares with the one that Redis has at that moment. After an eviction the
//! new epoch stands before followers doubt, or the page that they ask for could prove something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::error::Error;
use fred::prelude::{Expiration, KeysInterface, SetOptions};
use fred::types::Value;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backplane::redis::Keys;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::commands::queue;
use crate::backplane::redis::servers::errors::is_denied;
use crate::backplane::redis::wire::queue::Answers;
use crate::backplane::redis::wire::resp;
use crate::backplane::redis::wire::script::{as_value, odd};
use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::protocol::position::{Unwritten, new_epoch};

/// Between two looks at the epoch.
const LOOK: Duration = Duration::from_secs(3);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Epoch {
    servers: Servers,
    key: String,
    /// How long it outlives all nodes, in seconds.
    lasts: i64,
    /// The last answer, and when it came.
    known: Arc<Mutex<Option<(Unwritten, Instant)>>>,
}

impl Epoch {
    pub(crate) fn new(servers: Servers, keys: &Keys, lasts: i64) -> Self {
        Self {
            servers,
            key: keys.epoch(),
            lasts,
            known: Arc::default(),
        }
    }

    /// Begins an epoch where there is none, and another one when keys were `evicted`, and keeps it
    /// alive, for ever.
    pub(crate) async fn keep(self, mut evicted: watch::Receiver<u64>, hub: Arc<Hub>) {
        let mut is_over = false;
        loop {
            let done = match is_over {
                true => self.begin_another().await,
                false => self.renew().await,
            };
            // Without the right to it every position names epoch 0, which proves nothing anyway.
            let is_settled = done.as_ref().map_or_else(is_denied, |()| true);
            if is_settled && std::mem::take(&mut is_over) {
                hub.tell_all(|| Command::DoubtKept).await;
            }
            let pause = match done {
                Ok(()) => LOOK,
                Err(error) => {
                    self.servers.note(&error);
                    RETRY
                }
            };
            tokio::select! {
                Ok(()) = evicted.changed() => is_over = true,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Begins another epoch, whichever stands.
    async fn begin_another(&self) -> Result<(), Error> {
        let client = self.servers.at(&self.key);
        let expire = Some(Expiration::EX(self.lasts));
        let _: Value = client
            .set(&self.key, new_epoch(), expire, None, false)
            .await?;
        self.read().await?;
        Ok(())
    }

    async fn renew(&self) -> Result<(), Error> {
        self.begin().await?;
        self.read().await?;
        Ok(())
    }

    /// Begins an epoch where there is none, and keeps it alive.
    async fn begin(&self) -> Result<(), Error> {
        let client = self.servers.at(&self.key);
        let (expire, options) = (Expiration::EX(self.lasts), SetOptions::NX);
        let _: Value = client
            .set(&self.key, new_epoch(), Some(expire), Some(options), false)
            .await?;
        client.expire(&self.key, self.lasts, None).await
    }

    /// The epoch, and Redis's time.
    async fn read(&self) -> Result<Unwritten, Error> {
        let asked = self.servers.wire_at(&self.key).ask(|out| {
            resp::command(out, &[b"GET", self.key.as_bytes()]);
            resp::command(out, &[b"TIME"]);
            2
        });
        let told = told(asked.answers().await);
        let (epoch, seconds) = match self.servers.unless_moved(told)? {
            Some(told) => told,
            None => self.read_elsewhere().await?,
        };
        let read = Unwritten {
            epoch: epoch.unwrap_or(0),
            seconds: seconds as u32,
        };
        *self.known.lock() = Some((read, Instant::now()));
        Ok(read)
    }

    /// The same, while the epoch moves to another server.
    async fn read_elsewhere(&self) -> Result<(Option<u32>, u64), Error> {
        let pipeline = self.servers.at(&self.key).pipeline();
        let _: () = pipeline.get(&self.key).await?;
        queue(&pipeline, "TIME").await?;
        let (epoch, (seconds, _)): (Option<u32>, (u64, u64)) = pipeline.all().await?;
        Ok((epoch, seconds))
    }

    /// Where a reader of nothing stands now, asked of Redis.
    pub(crate) async fn now(&self) -> Result<Unwritten, Error> {
        let read = match self.read().await {
            // The node has just started, or Redis has come back empty. A reader that is told of no
            // epoch would soon be told of a loss that never was.
            Ok(Unwritten { epoch: 0, .. }) => match self.begin().await {
                Ok(()) => self.read().await,
                Err(error) => Err(error),
            },
            read => read,
        };
        unless_denied(read)
    }

    /// As [`Epoch::now`], as of the last look.
    pub(crate) async fn recent(&self) -> Result<Unwritten, Error> {
        let known = *self.known.lock();
        let Some((known, at)) = known.filter(|(known, _)| known.epoch != 0) else {
            return self.now().await;
        };
        Ok(Unwritten {
            seconds: known.seconds.wrapping_add(at.elapsed().as_secs() as u32),
            ..known
        })
    }
}

/// The epoch and the seconds, by the answers to GET and TIME.
fn told(answers: Answers) -> Result<(Option<u32>, u64), Error> {
    let mut answers = answers?.into_iter();
    let mut next = || as_value(answers.next().unwrap_or_else(|| Err(odd()))?);
    let epoch = next()?.convert()?;
    let (seconds, _): (u64, u64) = next()?.convert()?;
    Ok((epoch, seconds))
}

/// Access rules without `TIME` or `pn:epoch` are lived with: nothing is proven then. After any
/// other error the reader asks again; it would else tell its client of a loss that never was.
fn unless_denied(read: Result<Unwritten, Error>) -> Result<Unwritten, Error> {
    match read {
        Err(error) if is_denied(&error) => Ok(Unwritten::UNKNOWN),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fred::error::ErrorKind;

    #[test]
    fn only_a_denial_proves_nothing() {
        let denied = Error::new(ErrorKind::Auth, "NOPERM No permissions to access a key");
        assert_eq!(unless_denied(Err(denied)), Ok(Unwritten::UNKNOWN));
        for error in [
            Error::new(ErrorKind::Timeout, "Request timed out."),
            Error::new(ErrorKind::Unknown, "LOADING Redis is loading"),
        ] {
            assert_eq!(unless_denied(Err(error.clone())), Err(error));
        }
    }
}
