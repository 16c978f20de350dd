//! Which server is the master, as the Sentinels report it.
//!
//! fred 10.1: asks the Sentinels only after a connection has failed, and the connection to a
//! frozen master does not fail. So here they are asked at intervals.
//!
//! Each answers with the epoch of its knowledge, and the highest counts, so that an outdated
//! Sentinel cannot lead back to an old master. The master is asked for signs of life, too: another
//! is promoted only after it was silent, or while a Sentinel says so. What must stay true: commands
//! are routed to a server only if it reports itself as a master, and `vouch` hears of each answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backplane::redis::COMMAND_TIMEOUT;
use crate::backplane::redis::servers::asked::{self, AskedServer};
use crate::backplane::redis::servers::errors::{is_broken_off, redacted};
use crate::backplane::redis::servers::role::{ServerRole, role_within};
use crate::backplane::redis::servers::server::Server;
use crate::backplane::redis::servers::silence::Silence;
use crate::backplane::redis::servers::vouch::{Destination, LEFT, Named, Vouchers};
use crate::backplane::redis::servers::{ServerPlace, Servers};
use crate::config::redis_url::Host;

/// The time between two questions.
const ASK: Duration = Duration::from_millis(250);
/// Within this time Sentinels must answer.
const ANSWER: Duration = Duration::from_millis(700);
/// A master that has not answered for so long may have been silent for longer. Well below the
/// least time after which Sentinels hold it for down.
const SILENCE: Duration = Duration::from_millis(300);
/// After this long without a connection to a new master, the addresses of its name are raced.
const SEARCH: Duration = Duration::from_millis(500);
/// A new master that has not said so within this time is dialled again.
const REDIAL: Duration = Duration::from_secs(5);
/// For so long a master that the Sentinels are about to replace gets no new connection, and what
/// it answers does not count: a promotion takes no longer.
const LEAVING: Duration = Duration::from_secs(30);
/// After this long without any Sentinel, the node goes on without them. Less could be no more than
/// a busy machine.
const AWAY: Duration = Duration::from_secs(5);
/// How long all Sentinels may be silent before that is logged: at the start, connecting takes a
/// moment.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a write waits to be confirmed: most fail-overs are over by then.
const CONFIRM: Duration = Duration::from_secs(5);
/// Follows the master until the node ends.
pub(crate) async fn follow(servers: Servers, sentinels: Vec<Host>, master: String) {
    let Some(vouchers) = servers.vouchers() else {
        return;
    };
    let is_there = AtomicBool::new(false);
    tokio::select! {
        () = feel(&servers, vouchers, &is_there) => {}
        () = ask_around(&servers, vouchers, &is_there, &sentinels, &master) => {}
        () = asked::follow(&servers) => {}
    }
}

/// Asks the master for signs of life, for ever; `is_there` says whether the last one came.
async fn feel(servers: &Servers, vouchers: &Vouchers, is_there: &AtomicBool) {
    let mut silence = Silence::default();
    loop {
        let server = servers.first();
        let answers = answers(&server.client).await;
        silence.note(servers, server.host.as_ref(), &server.client, answers);
        is_there.store(answers, Ordering::Release);
        if !answers {
            vouchers.note_doubt();
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Asks the Sentinels, for ever.
async fn ask_around(
    servers: &Servers,
    vouchers: &Vouchers,
    is_there: &AtomicBool,
    sentinels: &[Host],
    master: &str,
) {
    let mut asked = connect(servers, sentinels);
    let mut current: Option<Host> = None;
    let mut candidate: Option<Candidate> = None;
    let mut leaving_since: Option<Instant> = None;
    let (mut answered, mut complained) = (Instant::now(), false);
    loop {
        asked
            .iter_mut()
            .for_each(|sentinel| sentinel.check(servers));
        let now = Instant::now();
        let was_there = is_there.load(Ordering::Acquire);
        let questions = asked
            .iter()
            .map(|sentinel| tokio::time::timeout(ANSWER, ask(sentinel.client(), master)));
        let answers = join_all(questions).await.into_iter();
        let answers: Vec<SentinelAnswer> = answers.filter_map(|told| told.ok()?.ok()).collect();
        // As the master was before the question, and is.
        let is_steady = was_there && is_there.load(Ordering::Acquire);
        if let Some(told) = answers.iter().max_by_key(|told| told.epoch) {
            answered = Instant::now();
            if std::mem::take(&mut complained) {
                tracing::info!(master, "a Sentinel says again who the master is");
            }
            let is_leaving = answers
                .iter()
                .any(|one| one.host == told.host && one.is_leaving);
            leaving_since = leaving_since.or(Some(now)).filter(|_| is_leaving);
            let is_current = current.as_ref() == Some(&told.host);
            // Where nothing can take over, the master may be well, and only they not reach it.
            if leaving_since.is_none_or(|since| since.elapsed() > LEAVING) {
                let named = Named::Master(told.host.clone());
                vouchers.note(named, now, is_current && is_steady);
            } else {
                vouchers.note_doubt();
            }
            if is_current {
                candidate = None;
            } else if let Some(server) = turn_to(servers, &told.host, &mut candidate) {
                servers.lead_to(server);
                let (host, port) = &told.host;
                tracing::info!("the master is {host}:{port}");
                current = Some(told.host.clone());
                // It has just answered.
                is_there.store(true, Ordering::Release);
            }
        } else {
            if answered.elapsed() > PATIENCE && !std::mem::replace(&mut complained, true) {
                tracing::warn!(master, "no Sentinel says who the master is; retrying");
            }
            if answered.elapsed() > AWAY {
                vouchers.note(Named::Away, now, is_steady);
            }
        }
        tokio::select! {
            () = proven(candidate.as_mut()) => {}
            _ = tokio::time::timeout(ASK, servers.doubted()) => {}
        }
        // However many errors are reported: at most twenty questions a second.
        tokio::time::sleep(ASK / 5).await;
    }
}

impl Servers {
    pub(super) fn destination(&self, host: Host) -> Option<Destination> {
        let url = self.0.addresses.pin(self.0.url.server(&host)?);
        let vouchers = self.0.vouchers.clone();
        Some(Destination::one_of_several(url, host, vouchers))
    }

    /// Who vouches for a server; `None` without Sentinels.
    pub(crate) fn vouchers(&self) -> Option<&Vouchers> {
        self.0.vouchers.as_ref()
    }

    /// Whether what was written at this place a moment ago counts, as far as that can be known.
    ///
    /// # Errors
    /// Another server has taken over: it may or may not have what was written.
    pub(crate) async fn confirm(&self, place: &ServerPlace) -> Result<(), Error> {
        match (&self.0.vouchers, &place.host) {
            (Some(vouchers), Some(host)) => {
                let confirmed = tokio::time::timeout(CONFIRM, vouchers.confirm(host)).await;
                // To those who wrote it is as if no answer had come.
                match confirmed {
                    Ok(confirmed) => confirmed.map_err(|_| Error::new(ErrorKind::Canceled, LEFT)),
                    Err(_) => Err(Error::new(ErrorKind::Timeout, "no Sentinel confirms it")),
                }
            }
            _ => Ok(()),
        }
    }
}

/// A connection to each Sentinel.
fn connect(servers: &Servers, sentinels: &[Host]) -> Vec<AskedServer> {
    let mut asked = Vec::new();
    for sentinel in sentinels {
        let url = servers.url().sentinel(sentinel);
        match url.and_then(|url| AskedServer::dial(servers, url)) {
            Some(sentinel) => asked.push(sentinel),
            None => tracing::error!(host = sentinel.0, "invalid address of a Sentinel"),
        }
    }
    asked
}

/// Whether a server answers at once; a refusal is an answer.
async fn answers(client: &Client) -> bool {
    if !client.is_connected() {
        return false;
    }
    let answer = tokio::time::timeout(SILENCE, client.ping::<Value>(None)).await;
    match answer {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => !is_broken_off(&error),
        Err(_) => false,
    }
}

/// The task that waits until a server says that it is a master, or until another address of its
/// name is to be dialled. Dropping it ends the task.
struct RoleProof {
    task: JoinHandle<()>,
    is_primary: Arc<AtomicBool>,
}

impl Drop for RoleProof {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RoleProof {
    fn of(servers: &Servers, host: &Host, client: Client) -> Self {
        let is_proven = Arc::<AtomicBool>::default();
        let (servers, url) = (servers.clone(), servers.url().server(host));
        let proven = is_proven.clone();
        let prove = async move {
            let other_address = async {
                loop {
                    tokio::time::sleep(SEARCH).await;
                    if let Some(url) = &url
                        && !client.is_connected()
                        && servers.addresses().choose(url).await
                    {
                        return;
                    }
                }
            };
            let proof = async {
                while !is_primary(&client).await {
                    tokio::time::sleep(ASK).await;
                }
                proven.store(true, Ordering::Release);
            };
            tokio::select! {
                () = proof => {}
                () = other_address => {}
            }
        };
        Self {
            task: tokio::spawn(prove),
            is_primary: is_proven,
        }
    }

    fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// A server that the Sentinels name, while it has not said itself that it is a master. On a busy
/// machine that takes as long as it takes: the connection is kept for [`REDIAL`].
struct Candidate {
    server: Server,
    dialled: Instant,
    proof: RoleProof,
}

impl Candidate {
    fn dial(servers: &Servers, host: &Host) -> Option<Self> {
        let server = servers.dial(host.clone())?;
        Some(Self {
            proof: RoleProof::of(servers, host, server.client.clone()),
            server,
            dialled: Instant::now(),
        })
    }
}

async fn is_primary(client: &Client) -> bool {
    let asked = async {
        client.wait_for_connect().await?;
        role_within(client, COMMAND_TIMEOUT).await
    };
    match asked.await {
        Ok(ServerRole::Primary) => return true,
        Ok(ServerRole::Replica) => tracing::debug!("the server is not a master yet"),
        Err(error) => tracing::debug!(error = %redacted(&error), "no answer to ROLE"),
    }
    false
}

/// The connection to this host, once it has said that it is a master; dials it if that is due.
fn turn_to(servers: &Servers, host: &Host, candidate: &mut Option<Candidate>) -> Option<Server> {
    let known = candidate.take().filter(|one| {
        let is_proven = one.proof.is_primary.load(Ordering::Acquire);
        let is_patient = !one.proof.is_finished() && one.dialled.elapsed() < REDIAL;
        (is_proven || is_patient) && one.server.host.as_ref() == Some(host)
    });
    match known {
        Some(one) if one.proof.is_primary.load(Ordering::Acquire) => return Some(one.server),
        Some(one) => *candidate = Some(one),
        None => *candidate = Candidate::dial(servers, host),
    }
    None
}

/// Waits for the proof of the candidate, or for ever.
async fn proven(candidate: Option<&mut Candidate>) {
    match candidate {
        Some(one) if !one.proof.is_finished() => {
            let _ = (&mut one.proof.task).await;
        }
        _ => std::future::pending().await,
    }
}

/// What a Sentinel says of the master.
struct SentinelAnswer {
    /// Of its knowledge.
    epoch: u64,
    host: Host,
    /// Whether enough Sentinels hold it for down, or this one is replacing it: what it answers may
    /// be on no other server.
    is_leaving: bool,
}

async fn ask(sentinel: &Client, master: &str) -> FredResult<SentinelAnswer> {
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
    let (host, port): Host = address.convert()?;
    let fields: HashMap<String, String> = fields.convert()?;
    let epoch = fields.get("config-epoch").ok_or_else(odd)?;
    let field = |name: &str| fields.get(name).map_or("", |value| value);
    let mut flags = field("flags").split(',');
    // Once another is promoted, these are still of the old one.
    let is_of_it = field("ip") == host && field("port") == port.to_string();
    Ok(SentinelAnswer {
        epoch: epoch.parse()?,
        is_leaving: is_of_it && flags.any(|flag| matches!(flag, "o_down" | "failover_in_progress")),
        host: (host, port),
    })
}

fn odd() -> Error {
    Error::new(ErrorKind::Protocol, "a Sentinel's answer lacks a part")
}
