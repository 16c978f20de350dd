//! The switches that Sentinels make by themselves, of a master to which nothing was done.
//!
//! A Sentinel that gets no answer for a second, as on a busy machine, holds a healthy master for
//! down. If enough of them do, they promote its replica, which may be the last master, back and
//! empty: then all that was kept is gone. No node can save that, so the history has to tell it.
//! What must stay true: a switch away from a master that this harness has made to fail is not one
//! of these.

use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::history::{Event, Recorder};
use crate::resp::{Answer, Resp};

const CHANNEL: &str = "+switch-master";

/// The port of the master that was made to fail, until it is replaced; 0 for none.
///
/// One that stood still for too short a time explains the next switch from it, however late: a
/// false alarm is better than an excuse too many.
#[derive(Debug, Clone, Default)]
pub(crate) struct MadeToFail(Arc<AtomicU16>);

impl MadeToFail {
    /// To be said before the deed.
    pub(crate) fn set(&self, port: u16) {
        self.0.store(port, Ordering::SeqCst);
    }

    /// Whether it explains a switch from this port. It explains no second one.
    fn explains(&self, from: u16) -> bool {
        let taken = self
            .0
            .compare_exchange(from, 0, Ordering::SeqCst, Ordering::SeqCst);
        taken.is_ok()
    }
}

/// A subscription to one Sentinel.
pub(crate) struct Switches(Resp);

impl Switches {
    /// Hears of all switches from now on.
    pub(crate) async fn of(sentinel: u16) -> Result<Self> {
        let mut redis = Resp::connect(sentinel).await?;
        redis.call(&["SUBSCRIBE", CHANNEL]).await?;
        Ok(Self(redis))
    }

    /// Writes down those that nothing explains, until the connection breaks.
    pub(crate) async fn note(mut self, made_to_fail: MadeToFail, recorder: Recorder) -> Error {
        loop {
            let (from, to) = match self.0.read().await {
                Ok(message) => match ports(&message) {
                    Some(ports) => ports,
                    None => return Error::other(format!("no switch: {message:?}")),
                },
                Err(error) => return error,
            };
            if !made_to_fail.explains(from) {
                let at = recorder.now();
                recorder.write(Event::Switched { from, to, at });
            }
        }
    }
}

/// From which port to which, as `<name> <ip> <port> <ip> <port>` says.
fn ports(message: &Answer) -> Option<(u16, u16)> {
    let words = message.list().last()?.text();
    let mut words = words.split(' ');
    let from = words.nth(2)?.parse().ok()?;
    Some((from, words.nth(1)?.parse().ok()?))
}
