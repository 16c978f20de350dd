//! How far devices have read their users' inboxes: `pn:read:{<user>}`, a hash of devices. It lives
//! as long as the inbox's numbers, and has so many devices at most; those that read last stay.
//!
//! What must stay true: whatever order nodes save in, the position that has read most is there in
//! the end.

use std::collections::HashMap;

use fred::error::Error;
use fred::prelude::{Client, HashesInterface, KeysInterface};
use fred::types::Value;

use crate::backplane::answers::Unavailable;
use crate::backplane::bookmarks::{MAX_DEVICES, newer, surplus, time_of};
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::{Servers, exec, multi};
use crate::backplane::redis::{AWAY, Keys};
use crate::protocol::ids::UserId;
use crate::protocol::position::Position;

#[derive(Debug)]
pub(crate) struct BookmarkStore {
    servers: Servers,
    keys: Keys,
    /// How long a position is of use.
    lasts: i64,
}

impl BookmarkStore {
    pub(crate) fn new(servers: Servers, keys: Keys, lasts: i64) -> Self {
        Self {
            servers,
            keys,
            lasts,
        }
    }

    /// Where the device has read to; none if it was never here, or too long ago.
    pub(crate) async fn read(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<Position>, Unavailable> {
        let key = self.keys.bookmarks(user);
        let client = self.servers.at(&key);
        let stored = self.stored(&client, &key, device).await;
        stored.map_err(|error| self.away(&error))
    }

    async fn stored(
        &self,
        client: &Client,
        key: &str,
        device: &str,
    ) -> Result<Option<Position>, Error> {
        let text: Option<String> = client.hget(key, device).await?;
        // Another program's text is as good as none.
        Ok(text.and_then(|text| text.parse().ok()))
    }

    pub(crate) async fn save(
        &self,
        user: &UserId,
        device: &str,
        position: Position,
    ) -> Result<(), Unavailable> {
        let saved = self.save_once(user, device, position).await;
        saved.map_err(|error| self.away(&error))
    }

    async fn save_once(
        &self,
        user: &UserId,
        device: &str,
        position: Position,
    ) -> Result<(), Error> {
        let key = self.keys.bookmarks(user);
        let client = self.servers.at(&key);
        let stored = self.stored(&client, &key, device).await?;
        if stored.is_some_and(|stored| newer(Some(stored), position) == stored) {
            // A client that comes back says where it begins, and another node may be about to save
            // more: only the time is renewed.
            return client.expire(&key, self.lasts, None).await;
        }
        let mut position = position;
        let count = loop {
            let (replaced, count) = self.replace(&client, &key, device, position).await?;
            match replaced.filter(|replaced| replaced.entry > position.entry) {
                Some(further) => position = further,
                None => break count,
            }
        };
        if count > MAX_DEVICES as u64 {
            self.remove_surplus(&client, &key, device).await?;
        }
        Ok(())
    }

    /// Writes a position; answers the one that stood there, and how many devices there are now.
    /// Two tabs may share a device, on two nodes: who has read less and comes second learns here
    /// what it took back, and writes that again.
    async fn replace(
        &self,
        client: &Client,
        key: &str,
        device: &str,
        position: Position,
    ) -> Result<(Option<Position>, u64), Error> {
        let transaction = multi(client).await?;
        let _: () = transaction.hget(key, device).await?;
        let field = (device, position.to_string());
        let _: () = transaction.hset(key, field).await?;
        let _: () = transaction.expire(key, self.lasts, None).await?;
        let _: () = transaction.hlen(key).await?;
        let answers: Vec<Value> = exec(&transaction).await?;
        let replaced = answers.first().and_then(Value::as_str);
        let replaced = replaced.and_then(|text| text.parse().ok());
        let count = answers.last().and_then(Value::as_u64).unwrap_or(0);
        Ok((replaced, count))
    }

    async fn remove_surplus(&self, client: &Client, key: &str, device: &str) -> Result<(), Error> {
        let all: HashMap<String, String> = client.hgetall(key).await?;
        let all = all.iter().map(|(device, text)| {
            let position = text.parse::<Position>();
            let time = position.as_ref().map_or(0, time_of);
            (device.as_str(), time)
        });
        client.hdel(key, surplus(all, device)).await
    }

    fn away(&self, error: &Error) -> Unavailable {
        tracing::debug!(error = %redacted(error), "position not read or saved");
        self.servers.note(error);
        AWAY
    }
}
