//! Puts messages into inboxes and logs before they are pushed.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use crate::backplane::answers::{Kept, ReplicaProof, Unavailable};
use crate::delivery::carrier::Carrier;
use crate::delivery::part::Part;
use crate::delivery::share::TOO_LATE;
use crate::protocol::ids::Subject;
use crate::protocol::{Message, Push, PushRequest};

/// Maximum number of inboxes and logs written at once.
const AT_ONCE: usize = 64;

/// The outcome of keeping one user's or topic's part of a push.
#[derive(Debug)]
pub(crate) struct Stored {
    /// What goes to the connections. `None`: it had been kept before.
    pub(crate) push: Option<Push>,
    /// Whether replicas have it.
    pub(crate) proof: ReplicaProof,
}

/// A message on its way into one inbox or log.
#[derive(Debug)]
struct ToKeep<'a> {
    /// Its index in the answer.
    place: usize,
    message: &'a Message,
    deadline: Instant,
}

impl Carrier {
    /// Keeps every message whose push or topic asks for it; messages of one inbox in the order in
    /// which they stand here. `parts` are those of each request. Returns an outcome for each part
    /// of each request that is kept, in order.
    pub(crate) async fn keep_all(
        &self,
        requests: &[PushRequest],
        parts: &[Vec<Part<'_>>],
        now: Instant,
    ) -> Vec<Result<Stored, Unavailable>> {
        if !parts.iter().flatten().any(|part| part.keep) {
            return Vec::new();
        }
        // In the order in which they stand: if the time ends, it ends for the last ones.
        let mut by_subject: Vec<(&Subject, Vec<ToKeep<'_>>)> = Vec::new();
        let mut indexes: HashMap<&Subject, usize> = HashMap::new();
        let mut count = 0;
        for (request, parts) in requests.iter().zip(parts) {
            for part in parts.iter().filter(|part| part.keep) {
                let index = *indexes.entry(&part.subject).or_insert_with(|| {
                    by_subject.push((&part.subject, Vec::new()));
                    by_subject.len() - 1
                });
                by_subject[index].1.push(ToKeep {
                    place: count,
                    message: &part.push.message,
                    deadline: now + request.timeout,
                });
                count += 1;
            }
        }
        let mut stored = Vec::with_capacity(count);
        for part in by_subject.chunks(AT_ONCE) {
            let keeping = part
                .iter()
                .map(|(subject, pending)| self.keep_in_order(subject, pending));
            stored.extend(join_all(keeping).await.into_iter().flatten());
        }
        stored.sort_unstable_by_key(|(place, _)| *place);
        stored.into_iter().map(|(_, stored)| stored).collect()
    }

    async fn keep_in_order(
        &self,
        subject: &Subject,
        pending: &[ToKeep<'_>],
    ) -> Vec<(usize, Result<Stored, Unavailable>)> {
        let mut stored = Vec::with_capacity(pending.len());
        for one in pending {
            let kept = self.keep(subject, one.message, one.deadline).await;
            stored.push((one.place, kept));
        }
        stored
    }

    async fn keep(
        &self,
        subject: &Subject,
        message: &Message,
        deadline: Instant,
    ) -> Result<Stored, Unavailable> {
        if Instant::now() >= deadline {
            return Err(Unavailable(TOO_LATE));
        }
        let (kept, proof) = self.backplane.keep(subject, message, deadline).await?;
        let push = match kept {
            Kept::Before => {
                self.metrics.kept_before.inc();
                None
            }
            Kept::At(position) => {
                self.metrics.kept.inc();
                Some(Push {
                    to: subject.clone().into(),
                    except: None,
                    message: Arc::new(message.kept_at(position)),
                })
            }
        };
        Ok(Stored { push, proof })
    }
}
