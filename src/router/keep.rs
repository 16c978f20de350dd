//! Putting messages into inboxes before they are pushed.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::Router;
use crate::backplane::{Kept, Unavailable};
use crate::names::UserId;
use crate::protocol::{Push, PushRequest, Target};

/// Users whose inboxes are written at a time.
const AT_ONCE: usize = 64;

/// What became of one user's part of a push that is to be kept.
#[derive(Debug)]
pub(super) enum Stored {
    /// It is in the inbox; this goes to the connections.
    At(Push),
    /// It had been put there before.
    Before,
}

impl Router {
    /// Keeps whatever asks for it, one user's messages in the order in which they stand here.
    /// Answers for each user of each such request, in order.
    pub(super) async fn keep_all(
        &self,
        requests: &[PushRequest],
        now: Instant,
    ) -> Vec<Result<Stored, Unavailable>> {
        if !requests.iter().any(|request| request.keep) {
            return Vec::new();
        }
        let mut by_user: HashMap<&UserId, Vec<(usize, &PushRequest)>> = HashMap::new();
        let mut count = 0;
        for request in requests.iter().filter(|request| request.keep) {
            let users = match &request.push.to {
                Target::Users(users) => &users[..],
                Target::User(user) => std::slice::from_ref(user),
                _ => &[],
            };
            for user in users {
                by_user.entry(user).or_default().push((count, request));
                count += 1;
            }
        }
        let by_user: Vec<_> = by_user.into_iter().collect();
        let mut stored = Vec::with_capacity(count);
        for part in by_user.chunks(AT_ONCE) {
            let keeping = part
                .iter()
                .map(|(user, requests)| self.keep_in_order(user, requests, now));
            stored.extend(join_all(keeping).await.into_iter().flatten());
        }
        stored.sort_unstable_by_key(|(i, _)| *i);
        stored.into_iter().map(|(_, stored)| stored).collect()
    }

    async fn keep_in_order(
        &self,
        user: &UserId,
        requests: &[(usize, &PushRequest)],
        now: Instant,
    ) -> Vec<(usize, Result<Stored, Unavailable>)> {
        let mut stored = Vec::with_capacity(requests.len());
        for (i, request) in requests {
            stored.push((*i, self.keep(user, request, now + request.timeout).await));
        }
        stored
    }

    async fn keep(
        &self,
        user: &UserId,
        request: &PushRequest,
        deadline: Instant,
    ) -> Result<Stored, Unavailable> {
        let message = &request.push.message;
        match self.backplane.keep(user, message, deadline).await? {
            Kept::Before => {
                self.metrics.duplicates.inc();
                Ok(Stored::Before)
            }
            Kept::At(position) => {
                self.metrics.kept.inc();
                Ok(Stored::At(Push {
                    to: Target::User(user.clone()),
                    except: None,
                    message: Arc::new(message.kept_at(position)),
                }))
            }
        }
    }
}
