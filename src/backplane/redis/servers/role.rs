//! What a server says that it is (`ROLE`). What must stay true: one that cannot or may not say it
//! counts as the primary, because its refusals tell.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};

use crate::backplane::redis::wire::connection::Wire;
use crate::backplane::redis::wire::queue::only;
use crate::backplane::redis::wire::resp::{self, Reply};

/// Within this time a server must answer.
const ANSWER: Duration = Duration::from_millis(700);

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
    role_within(client, ANSWER).await
}

/// As [`role`], with a limit of the caller's.
///
/// # Errors
/// No answer came.
pub(crate) async fn role_within(client: &Client, time: Duration) -> FredResult<ServerRole> {
    let command = CustomCommand::new_static("ROLE", None, false);
    let asked = client.custom::<Vec<Value>, &str>(command, Vec::new());
    let asked = tokio::time::timeout(time, asked).await;
    let silent = || Error::new(ErrorKind::Timeout, "no answer to ROLE");
    match asked.map_err(|_| silent())? {
        Ok(answer) => Ok(named(answer.first().and_then(Value::as_str).as_deref())),
        Err(error) if *error.kind() == ErrorKind::Unknown => Ok(ServerRole::Primary),
        Err(error) => Err(error),
    }
}

fn named(role: Option<&str>) -> ServerRole {
    match role {
        Some("slave") => ServerRole::Replica,
        _ => ServerRole::Primary,
    }
}

/// As [`role`], of the server that a lean connection leads to.
///
/// # Errors
/// No answer came.
pub(crate) async fn role_over(wire: &Wire) -> FredResult<ServerRole> {
    let asked = wire.ask(|out| {
        resp::command(out, &[b"ROLE"]);
        1
    });
    let silent = |_| Error::new(ErrorKind::Timeout, "no answer to ROLE");
    let asked = tokio::time::timeout(ANSWER, asked.answers()).await;
    match only(asked.map_err(silent)?) {
        Ok(Reply::List(answer)) => Ok(named(match answer.first() {
            Some(Reply::Text(role)) => std::str::from_utf8(role).ok(),
            _ => None,
        })),
        Ok(_) => Ok(ServerRole::Primary),
        Err(error) if *error.kind() == ErrorKind::Unknown => Ok(ServerRole::Primary),
        Err(error) => Err(error),
    }
}
