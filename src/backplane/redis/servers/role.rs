//! What a server says that it is (`ROLE`). What must stay true: one that cannot or may not say it
//! counts as the primary, because its refusals tell.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};

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
        Ok(answer) => Ok(match answer.first().and_then(Value::as_str).as_deref() {
            Some("slave") => ServerRole::Replica,
            _ => ServerRole::Primary,
        }),
        Err(error) if *error.kind() == ErrorKind::Unknown => Ok(ServerRole::Primary),
        Err(error) => Err(error),
    }
}
