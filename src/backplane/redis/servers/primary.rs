//! Whether a server is the primary, and finding it again where one name leads to it.
//!
//! After a fail-over in a managed service the old primary often lives on as a replica, and the name
//! leads to the new one. All connections to the old one stay up, so nothing but its role, or its
//! refusal to write (`READONLY`), tells. What must stay true: commands turn to a server only if it
//! does not say that it is a replica, and a replica is left within seconds of the name's change.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{ClientLike, FredResult};

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::exclusive::open_primary;
use crate::backplane::redis::servers::role::{ServerRole, role};
use crate::backplane::redis::servers::server::Server;
use crate::backplane::redis::servers::silence::Silence;

/// The time between two questions, if nothing asks for one sooner.
const ASK: Duration = Duration::from_secs(1);
/// Pauses between two look-ups of the name: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Follows the name of the only server until the node ends.
pub(crate) async fn follow(servers: Servers) {
    let mut breaks = servers.breaks();
    let mut silence = Silence::default();
    loop {
        tokio::select! {
            () = servers.doubted() => {}
            changed = breaks.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ASK) => {}
        }
        // At most so many questions, however many errors are reported.
        tokio::time::sleep(PAUSES.0).await;
        if is_replica(&servers, &mut silence).await {
            tracing::warn!("Redis is a replica here; looking up its name again");
            search(&servers, &mut silence).await;
        } else if !servers.is_connected() {
            leave_silent_address(&servers).await;
        }
    }
}

/// Looks up the name of the only server; answers whether another address than before is to be
/// dialled from now on.
async fn choose_address(servers: &Servers) -> bool {
    servers.addresses().choose(&servers.url().one()).await
}

/// Without a connection, perhaps because one address of the name is silent: turns to another one
/// that answers, if there is such.
async fn leave_silent_address(servers: &Servers) {
    if choose_address(servers).await
        && !servers.is_connected()
        && let Some(server) = servers.dial_by_name()
    {
        tracing::info!("an address of the name of Redis answers; turning to it");
        servers.lead_to(server);
    }
}

/// Whether a connection leads to a replica. Two that were made at different times may lead to two
/// servers.
async fn is_replica(servers: &Servers, silence: &mut Silence) -> bool {
    let client = servers.only();
    if client.is_connected() {
        let told = role(&client).await;
        let is_silent = matches!(&told, Err(error) if *error.kind() == ErrorKind::Timeout);
        silence.note(servers, None, &client, !is_silent);
        if told == Ok(ServerRole::Replica) {
            return true;
        }
    }
    servers.role_for_pushes().await == Ok(ServerRole::Replica)
}

/// Until the name leads to a primary, or the replica has become one.
async fn search(servers: &Servers, silence: &mut Silence) {
    let mut pause = PAUSES.0;
    while is_replica(servers, silence).await {
        match dial(servers).await {
            Ok(server) => {
                tracing::info!("the name leads to a primary of Redis again");
                return servers.lead_to(server);
            }
            Err(error) => {
                tracing::debug!(error = %redacted(&error), "the name leads to no primary yet");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// A connection by name, if that leads to a primary. Found out on a connection of its own, so that
/// the many to a replica are neither logged nor counted.
async fn dial(servers: &Servers) -> FredResult<Server> {
    choose_address(servers).await;
    drop(open_primary(&servers.only_url().into()).await?);
    let unusable = || Error::new(ErrorKind::Config, "the URL of Redis cannot be used");
    servers.dial_by_name().ok_or_else(unusable)
}
