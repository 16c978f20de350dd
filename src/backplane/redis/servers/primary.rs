//! Whether a server is the primary, and finding it again where one name leads to it.
//!
//! After a fail-over in a managed service the old primary often lives on as a replica, and the name
//! leads to the new one. All connections to the old one stay up, so nothing but its role, or its
//! refusal to write (`READONLY`), tells. What must stay true: commands turn to a server only if it
//! does not say that it is a replica, and a replica is left within seconds of the name's change.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};

use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::{Server, Servers};

/// The time between two questions, if nothing asks for one sooner.
const ASK: Duration = Duration::from_secs(1);
/// Within this time a server must answer, and a new one accept the connection too.
const ANSWER: Duration = Duration::from_millis(700);
/// Pauses between two look-ups of the name: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerRole {
    Primary,
    Replica,
}

/// What a server says that it is (`ROLE`). One that cannot or may not say it counts as the primary:
/// then its refusals tell.
///
/// # Errors
/// No answer came.
pub(crate) async fn role(client: &Client) -> FredResult<ServerRole> {
    let command = CustomCommand::new_static("ROLE", None, false);
    let asked = client.custom::<Vec<Value>, &str>(command, Vec::new());
    let asked = tokio::time::timeout(ANSWER, asked).await;
    let silent = || Error::new(ErrorKind::Timeout, "no answer to ROLE");
    match asked.map_err(|_| silent())? {
        Ok(answer) => Ok(match answer.first().and_then(Value::as_str).as_deref() {
            Some("slave") => ServerRole::Replica,
            _ => ServerRole::Primary,
        }),
        Err(error) if *error.kind() == ErrorKind::Unknown => Ok(ServerRole::Primary),
        Err(error) => Err(error),
    }
}

/// Follows the name of the only server until the node ends.
pub(crate) async fn follow(servers: Servers) {
    let mut breaks = servers.breaks();
    loop {
        tokio::select! {
            () = servers.doubted() => {}
            changed = breaks.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ASK) => {}
        }
        // At most so many questions, however many errors are reported.
        tokio::time::sleep(PAUSES.0).await;
        if is_replica(&servers.only()).await {
            tracing::warn!("Redis is a replica here; looking up its name again");
            search(&servers).await;
        }
    }
}

async fn is_replica(client: &Client) -> bool {
    client.is_connected()
        && role(client)
            .await
            .is_ok_and(|role| role == ServerRole::Replica)
}

/// Until the name leads to a primary, or the replica has become one.
async fn search(servers: &Servers) {
    let mut pause = PAUSES.0;
    while is_replica(&servers.only()).await {
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

/// A connection by name, if that leads to a primary.
async fn dial(servers: &Servers) -> FredResult<Server> {
    let unusable = || Error::new(ErrorKind::Config, "the URL of Redis cannot be used");
    let server = servers.dial_by_name().ok_or_else(unusable)?;
    let connected = tokio::time::timeout(ANSWER, server.client.wait_for_connect()).await;
    connected.map_err(|_| Error::new(ErrorKind::Timeout, "no connection"))??;
    match role(&server.client).await? {
        ServerRole::Primary => Ok(server),
        ServerRole::Replica => Err(Error::new(ErrorKind::Unknown, "it is a replica")),
    }
}
