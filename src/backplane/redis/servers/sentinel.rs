//! Which server is the master, as the Sentinels report it.
//!
//! fred 10.1: asks the Sentinels only after a connection has failed, and the connection to a
//! frozen master does not fail. So here they are asked at intervals.
//!
//! Each answers with the epoch of its knowledge, and the highest counts, so that an outdated
//! Sentinel cannot lead back to an old master. What must stay true: commands are routed to a
//! server only if it reports itself as a master.

use std::collections::HashMap;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};
use futures::future::join_all;
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::role::{ServerRole, role};
use crate::backplane::redis::{COMMAND_BUFFER, build};
use crate::config::redis_url::Host;

/// The time between two questions.
const ASK: Duration = Duration::from_millis(250);
/// Within this time Sentinels must answer and a new master must accept the connection.
const ANSWER: Duration = Duration::from_millis(700);
/// How long all Sentinels may be silent before that is logged: at the start, connecting takes a
/// moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// Follows the master until the node ends.
pub(crate) async fn follow(servers: Servers, sentinels: Vec<Host>, master: String) {
    let mut asked = Vec::new();
    for sentinel in &sentinels {
        let url = servers.url().sentinel(sentinel);
        let client = url.and_then(|url| build(&url, 16, COMMAND_BUFFER).ok());
        let Some(client) = client else {
            tracing::error!(host = sentinel.0, "invalid address of a Sentinel");
            continue;
        };
        let connection = client.connect();
        asked.push((client, connection));
    }
    let mut current: Option<Host> = None;
    let (mut answered, mut complained) = (Instant::now(), false);
    loop {
        let questions = asked
            .iter()
            .map(|(client, _)| tokio::time::timeout(ANSWER, ask(client, &master)));
        let answers = join_all(questions).await;
        let told = answers
            .into_iter()
            .filter_map(|answer| answer.ok()?.ok())
            .max_by_key(|(epoch, _)| *epoch);
        match told {
            None if !complained && answered.elapsed() > PATIENCE => {
                complained = true;
                tracing::warn!(master, "no Sentinel says who the master is; retrying");
            }
            Some((_, host)) => {
                answered = Instant::now();
                if std::mem::take(&mut complained) {
                    tracing::info!(master, "a Sentinel says again who the master is");
                }
                if current.as_ref() != Some(&host) {
                    match turn_to(&servers, host.clone()).await {
                        Ok(()) => {
                            let (host, port) = &host;
                            tracing::info!("the master is {host}:{port}");
                        }
                        Err(error) => {
                            tracing::debug!(error = %redacted(&error), "the server is not a master yet");
                            tokio::time::sleep(ASK).await;
                            continue;
                        }
                    }
                    current = Some(host);
                }
            }
            None => {}
        }
        let _ = tokio::time::timeout(ASK, servers.doubted()).await;
        // However many errors are reported: at most twenty questions a second.
        tokio::time::sleep(ASK / 5).await;
    }
}

/// The master's address, and the epoch of that knowledge.
async fn ask(sentinel: &Client, master: &str) -> FredResult<(u64, Host)> {
    if !sentinel.is_connected() {
        // Otherwise the question would wait for a connection, and later ones after it.
        return Err(Error::new(ErrorKind::IO, "not connected"));
    }
    let command = CustomCommand::new_static("SENTINEL", None, false);
    let pipeline = sentinel.pipeline();
    // During a fail-over, which takes a while with many replicas, only the first question
    // returns the new address, and only the second the epoch.
    for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER"] {
        let _: () = pipeline
            .custom(command.clone(), vec![question, master])
            .await?;
    }
    let answers: Vec<Value> = pipeline.all().await?;
    let [address, fields] = answers.try_into().map_err(|_| odd())?;
    let (host, port) = address.convert()?;
    let fields: HashMap<String, String> = fields.convert()?;
    let epoch = fields.get("config-epoch").ok_or_else(odd)?;
    Ok((epoch.parse()?, (host, port)))
}

fn odd() -> Error {
    Error::new(ErrorKind::Protocol, "a Sentinel's answer lacks a part")
}

async fn turn_to(servers: &Servers, host: Host) -> FredResult<()> {
    let words = "invalid address of a master";
    let server = servers
        .dial(host)
        .ok_or_else(|| Error::new(ErrorKind::Config, words))?;
    let asked = async {
        server.client.wait_for_connect().await?;
        role(&server.client).await
    };
    let role = tokio::time::timeout(ANSWER, asked)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, "no answer to ROLE"))??;
    if role == ServerRole::Replica {
        return Err(Error::new(ErrorKind::Sentinel, "not a master yet"));
    }
    servers.lead_to(server);
    Ok(())
}
