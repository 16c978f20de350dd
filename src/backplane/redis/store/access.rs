//! Access data in Redis: sessions, bans, and the order in which a user's connections were opened.
//! One key each: `pn:session:<digest>`, `pn:ban:{<user>}`, `pn:seat:{<user>}`.

use std::time::Duration;

use fred::error::Error;
use fred::prelude::{Expiration, FredResult, KeysInterface, StreamsInterface};
use fred::types::Value;

use crate::backplane::access::{Ban, Session, ordinal};
use crate::backplane::answers::Unavailable;
use crate::backplane::redis::servers::{Servers, exec, multi};
use crate::backplane::redis::{AWAY, Keys, ROW_TTL_SECONDS};
use crate::protocol::ids::UserId;
use crate::protocol::position::EntryId;
use crate::protocol::session_id::SessionId;

#[derive(Debug)]
pub(crate) struct AccessStore {
    servers: Servers,
    keys: Keys,
}

impl AccessStore {
    pub(crate) fn new(servers: Servers, keys: Keys) -> Self {
        Self { servers, keys }
    }

    fn away(&self, error: &Error) -> Unavailable {
        tracing::debug!(%error, "not read or written");
        self.servers.note(error);
        AWAY
    }

    pub(crate) fn session_lane(&self, id: SessionId) -> usize {
        self.servers.lane(|| self.keys.session(id))
    }

    pub(crate) fn ban_lane(&self, user: &UserId) -> usize {
        self.servers.lane(|| self.keys.ban(user))
    }

    /// Sessions that are read together: of many, a batch at a time.
    pub(crate) async fn sessions(
        &self,
        ids: &[SessionId],
    ) -> Vec<Result<Option<Session>, Unavailable>> {
        let keys: Vec<String> = ids.iter().map(|id| self.keys.session(*id)).collect();
        // Sent together: both are pipelined.
        let (claims, left) = futures::join!(
            self.servers.try_each("GET", &keys),
            self.servers.try_each("PTTL", &keys)
        );
        let each = claims.into_iter().zip(left);
        each.map(|(claims, left)| session(claims, left).map_err(|error| unread(&error)))
            .collect()
    }

    pub(crate) async fn open_session(
        &self,
        id: SessionId,
        claims: String,
        lasts: Duration,
    ) -> Result<(), Unavailable> {
        let expire = Expiration::PX(lasts.as_millis() as i64);
        self.set(self.keys.session(id), claims, expire).await
    }

    pub(crate) async fn close_session(&self, id: SessionId) -> Result<bool, Unavailable> {
        self.delete(self.keys.session(id)).await
    }

    pub(crate) async fn ban(&self, user: &UserId) -> Result<Option<Ban>, Unavailable> {
        let key = self.keys.ban(user);
        let reason = self.servers.call("GET", &key, &[]).await;
        let reason = reason.and_then(Value::convert::<Option<String>>);
        let Some(reason) = reason.map_err(|error| self.away(&error))? else {
            return Ok(None);
        };
        let left = self.servers.call("PTTL", &key, &[]).await;
        let left = left
            .and_then(time_left)
            .map_err(|error| self.away(&error))?;
        Ok(match left {
            Left::Gone => None,
            Left::Stays(left) => Some(Ban { reason, left }),
        })
    }

    pub(crate) async fn is_banned(&self, user: &UserId) -> Result<bool, Unavailable> {
        let key = self.keys.ban(user);
        // Each connect asks this, and nearly all users are not banned. No other command on that
        // connection gives the answer for a key that is not there.
        match self.servers.ask_time_left(&key).await {
            Ok(ABSENT) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(self.away(&error)),
        }
        // Asked twice at once, so that the answer is one that no other command gives: a connection
        // that is out of step must ban no user.
        let twice = std::slice::from_ref(&key);
        let twice = self.servers.call("EXISTS", &key, twice);
        match Box::pin(twice).await.and_then(Value::convert::<i64>) {
            Ok(0) => Ok(false),
            Ok(2) => Ok(true),
            Ok(_) => Err(AWAY),
            Err(error) => Err(self.away(&error)),
        }
    }

    pub(crate) async fn banned(&self, users: &[UserId]) -> Vec<Result<bool, Unavailable>> {
        let keys: Vec<String> = users.iter().map(|user| self.keys.ban(user)).collect();
        let counts = self.servers.try_each("EXISTS", &keys).await;
        let mut all = Vec::with_capacity(users.len());
        for (user, count) in users.iter().zip(counts) {
            all.push(match count.and_then(Value::convert::<i64>) {
                Ok(0) => Ok(false),
                Ok(_) => self.is_banned(user).await,
                Err(error) => Err(unread(&error)),
            });
        }
        all
    }

    pub(crate) async fn put_ban(
        &self,
        user: &UserId,
        reason: String,
        lasts: Duration,
    ) -> Result<(), Unavailable> {
        let expire = Expiration::PX(lasts.as_millis() as i64);
        self.set(self.keys.ban(user), reason, expire).await
    }

    pub(crate) async fn lift_ban(&self, user: &UserId) -> Result<bool, Unavailable> {
        self.delete(self.keys.ban(user)).await
    }

    /// The next place in the order of a user's connections.
    ///
    /// Taken from a stream's entry id, not from a counter: after Redis has lost the key, a counter
    /// would begin again at 1, below all existing connections. Entry ids begin with Redis's time.
    pub(crate) async fn next_ordinal(&self, user: &UserId) -> Result<u64, Unavailable> {
        let key = self.keys.seat(user);
        let next = async {
            let transaction = multi(&self.servers.at(&key)).await?;
            let _: () = transaction
                .xadd(&key, false, ("MAXLEN", "=", 1), "*", ("n", ""))
                .await?;
            let _: () = transaction.expire(&key, ROW_TTL_SECONDS, None).await?;
            let answers = exec(&transaction).await?;
            let id = answers.into_iter().next().unwrap_or(Value::Null);
            id.convert::<String>()
        };
        let id = next.await.map_err(|error| self.away(&error))?;
        let id: EntryId = id.parse().map_err(|_| AWAY)?;
        Ok(ordinal(id))
    }

    async fn set(&self, key: String, value: String, expire: Expiration) -> Result<(), Unavailable> {
        let (place, client) = (self.servers.place_of(&key), self.servers.at(&key));
        let set = async {
            let _: () = client.set(&key, value, Some(expire), None, false).await?;
            self.servers.confirm(&place).await
        };
        set.await.map_err(|error| self.away(&error))
    }

    async fn delete(&self, key: String) -> Result<bool, Unavailable> {
        let place = self.servers.place_of(&key);
        let deleted = async {
            let deleted = self.servers.call("DEL", &key, &[]).await?;
            self.servers.confirm(&place).await?;
            deleted.convert::<i64>()
        };
        Ok(deleted.await.map_err(|error| self.away(&error))? > 0)
    }
}

/// For an error that is counted and noted already.
fn unread(error: &Error) -> Unavailable {
    tracing::debug!(%error, "not read");
    AWAY
}

/// The session whose key gave these answers to GET and PTTL.
fn session(claims: FredResult<Value>, left: FredResult<Value>) -> Result<Option<Session>, Error> {
    let claims: Option<String> = claims?.convert()?;
    let left = time_left(left?)?;
    Ok(match (claims, left) {
        (Some(claims), Left::Stays(left)) => Some(Session { claims, left }),
        _ => None,
    })
}

/// The answer to PTTL for a key that does not exist.
const ABSENT: i64 = -2;

/// The result of PTTL for a key.
enum Left {
    /// The key does not exist, perhaps no longer.
    Gone,
    /// The key lasts this long; `None` means without an end.
    Stays(Option<Duration>),
}

fn time_left(answer: Value) -> Result<Left, Error> {
    Ok(match answer.convert::<i64>()? {
        ABSENT => Left::Gone,
        ms => Left::Stays(u64::try_from(ms).ok().map(Duration::from_millis)),
    })
}
