//! Letting a client in, whatever its transport: who it is, where it stands, its row.
//!
//! A client is told that it is connected only after its row is in the registry, so that whoever
//! it tells "I am connected" can push to it at once. If the registry does not answer within a
//! second the client is let in all the same, and told so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;
use warp::http::header::{AUTHORIZATION, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use warp::http::{HeaderMap, StatusCode};

use crate::api::{ApiError, App};
use crate::auth;
use crate::auth::{Denial, Grants, Identity, MAX_DEVICE_BYTES};
use crate::config::Secret;
use crate::edge::acceptor::Peer;
use crate::local::connection::Role;
use crate::local::hub::{Membership, Newcomer, ROW_PATIENCE};
use crate::local::replay::page::{Since, Start};
use crate::local::shard::{Attach, Command, Socket};
use crate::protocol::Dialect;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, Subject, Topic, UserId};

/// What a client says when it comes. Nothing of it is believed yet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Wish {
    pub(crate) user: Option<String>,
    /// Never to be shown.
    pub(crate) token: Option<Secret>,
    pub(crate) device: Option<String>,
    /// From where in its inbox it wants to go on.
    pub(crate) since: Option<String>,
    /// What it wants to be subscribed to from its beginning, comma-separated.
    #[serde(deserialize_with = "comma_separated")]
    pub(crate) topics: Option<String>,
    /// To hear who comes and goes in those topics: `true` or `false`, as text in a query.
    pub(crate) presence: Option<Value>,
}

/// A text as in a query, or a list as is natural in JSON. No topic has a comma.
fn comma_separated<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "topics must be a text or a list of texts")]
    enum Names {
        Text(Option<String>),
        List(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::Text(text) => text,
        Names::List(names) => Some(names.join(",")),
    })
}

impl Wish {
    /// Reads a request: its query, and the token, which may stand in its headers as well.
    pub(crate) fn from_request(query: &str, headers: &HeaderMap) -> Self {
        let mut wish = Self::from_query(query);
        let texts = |name| {
            let values = headers.get_all(name).into_iter();
            values.filter_map(|value| value.to_str().ok())
        };
        let authorization = texts(AUTHORIZATION).find_map(auth::bearer);
        let mut protocols = texts(SEC_WEBSOCKET_PROTOCOL).flat_map(|value| value.split(','));
        let protocol = protocols.find_map(|one| one.trim().strip_prefix("bearer."));
        if let Some(token) = authorization.or(protocol) {
            wish.token = Some(Secret::new(token.to_owned()));
        }
        wish
    }

    /// Reads the query of a request; parameters that are not ours are somebody else's.
    pub(crate) fn from_query(query: &str) -> Self {
        let mut wish = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = Some(value.into_owned());
            match &*name {
                "user" => wish.user = value,
                "token" => wish.token = value.map(Secret::new),
                "device" => wish.device = value,
                "since" => wish.since = value,
                "topics" => wish.topics = value,
                "presence" => wish.presence = value.map(Into::into),
                _ => {}
            }
        }
        wish
    }

    /// Reads the first line of a client that comes by TCP.
    pub(crate) fn from_line(line: &str) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Connect {
            r#type: String,
            #[serde(flatten)]
            wish: Wish,
        }
        let bad = |what: &str| {
            let words = r#"the first line must be {"type":"connect","user":...,"token":...}: "#;
            ApiError::bad_request(&format!("{words}{what}"))
        };
        match serde_json::from_str(line) {
            Ok(Connect { r#type, wish }) if r#type == "connect" => Ok(wish),
            Ok(_) => Err(bad("its type is another")),
            Err(error) => Err(bad(&error.to_string())),
        }
    }
}

/// A client that is in the hub, before its socket is in a shard.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) membership: Membership,
    /// Its row is not written.
    pub(crate) degraded: bool,
}

/// A client that is in the hub and waits for its socket. Dropping it leaves the hub.
pub(crate) struct Settled {
    pub(crate) app: Arc<App>,
    pub(crate) entered: Entered,
    pub(crate) peer: Peer,
    pub(crate) role: Role,
    /// The head of the answer to its request, where it made one by HTTP.
    pub(crate) head: Bytes,
    /// How long the other side may leave unacknowledged what was sent; as the kernel has it, if
    /// not named. For clients that do not answer pings.
    pub(crate) silence: Option<Duration>,
}

impl Settled {
    /// Hands the socket over to the client's shard, with what was read from it beyond the request.
    pub(crate) async fn attach(self, socket: Socket, leftover: Bytes) {
        let Entered {
            membership,
            degraded,
        } = self.entered;
        let fd = membership.fd();
        if let Some(limit) = self.silence
            && let Err(error) = socket.limit_silence(limit)
        {
            tracing::debug!(%fd, %error, "the kernel does not look after this socket");
        }
        let attach = Attach {
            socket,
            head: self.head,
            leftover,
            membership: membership.attach(),
            permit: self.peer.permit,
            role: self.role,
            degraded,
        };
        let attach = Command::Attach(Box::new(attach));
        self.app.hub.tell(fd, attach).await;
    }
}

/// Refuses whoever comes while the node is leaving, and pages of strangers.
pub(crate) fn check_request(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    if app.shutdown.has_begun() {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "this node is leaving",
        )
        .retry_after(1));
    }
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !auth::allows_origin(&app.config.origins, header(ORIGIN), header(HOST)) {
        let words = "pages of this origin may not connect (PUSH_ORIGINS)";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "origin", words));
    }
    Ok(())
}

/// Lets a client in.
///
/// # Errors
/// Why not, for the client to read.
pub(crate) async fn enter(
    app: &Arc<App>,
    wish: Wish,
    dialect: Dialect,
    peer: &Peer,
) -> Result<Entered, ApiError> {
    let identity = identify(app, wish.user.as_deref(), wish.token.as_ref()).await?;
    let Identity {
        user,
        grants,
        device,
        expires,
        session,
    } = identity;
    let device = device.or(wish.device.map(Into::into));
    if device
        .as_ref()
        .is_some_and(|device| device.len() > MAX_DEVICE_BYTES)
    {
        return Err(ApiError::bad_request("device has over 64 bytes"));
    }
    let since = wish.since.map(|text| text.parse()).transpose();
    let since = since.map_err(|error| ApiError::bad_request(&format!("since {error}")))?;

    let watches = match wish.presence {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(Value::String(text)) if text == "true" => true,
        Some(Value::String(text)) if text == "false" => false,
        Some(_) => return Err(ApiError::bad_request("presence must be true or false")),
    };
    let most = app.hub.topics().most();
    let granted = grants.as_ref().unwrap_or(app.hub.topics().grants());
    let topics = check_topics(wish.topics.as_deref(), &user, granted, most)?;

    let deadline = Instant::now() + ROW_PATIENCE;
    let (inbox, ban, ordinal) = futures::join!(
        start_inbox(app, &user, dialect, since, deadline),
        tokio::time::timeout_at(deadline, app.gate.check_ban(&user)),
        tokio::time::timeout_at(deadline, app.places.ordinal(&app.backplane, &user)),
    );
    // Whom nobody can look up in time is let in.
    ban.unwrap_or(Ok(())).map_err(ApiError::denied)?;
    let follows = inbox.is_some();
    let newcomer = Newcomer {
        user: user.clone(),
        dialect,
        device,
        address: peer.address.filter(|_| app.config.store_address),
        inbox,
        grants,
        topics: topics.clone(),
        // The end of a session is watched by `sessions`.
        expires: expires.filter(|_| session.is_none()),
        session,
        ordinal: ordinal.unwrap_or_default(),
        watches: watches && dialect.has_objects(),
    };
    let (membership, rows) = app.hub.join(newcomer).await;
    // Sent away while it was on its way: too late for the look-up, too early for the close.
    app.gate
        .check_again(app.hub.barred(&user, session), &user)
        .await
        .map_err(ApiError::denied)?;
    if let Some(session) = session {
        app.sessions.watch(session, expires);
    }
    let fd = membership.fd();
    let late = settle_late(app.clone(), user.clone(), fd);
    let mut in_time = app.hub.await_rows_or(fd, rows, deadline, late).await;
    if in_time && !app.places.settle(&app.router, &user, fd).await {
        let (code, words) = (
            "too_many_connections",
            "this user has as many connections as may be",
        );
        return Err(ApiError::new(StatusCode::CONFLICT, code, words));
    }
    if in_time && follows {
        // What was kept behind the look at the inbox and before the row was pushed past this node.
        // A row that is late has the inbox read by itself.
        app.hub.tell(fd, Command::Look { fd }).await;
    }
    if dialect.has_objects() && app.hub.topics().keeps() {
        let logs = topics.iter();
        let logs = logs.map(|topic| app.hub.follow_log(fd, topic, deadline));
        let followed = futures::future::join_all(logs).await;
        in_time &= followed.into_iter().all(|in_time| in_time);
    }
    Ok(Entered {
        membership,
        degraded: !in_time,
    })
}

/// Who this is: by the token, or under `PUSH_AUTH=none` by its own word.
async fn identify(
    app: &App,
    user: Option<&str>,
    token: Option<&Secret>,
) -> Result<Identity, ApiError> {
    if !app.gate.wants_tokens() {
        let user = auth::claimed_user(user).map_err(|words| ApiError::bad_request(&words))?;
        return Ok(Identity::claimed(user));
    }
    let identity = app.gate.identify(token.map(Secret::reveal)).await;
    let identity = identity.map_err(ApiError::denied)?;
    if user.is_some_and(|user| user != identity.user.as_str()) {
        return Err(ApiError::denied(Denial::WrongUser));
    }
    Ok(identity)
}

/// Whoever was let in before its row was written finds its place when that is.
async fn settle_late(app: Arc<App>, user: UserId, fd: Fd) {
    if !app.places.settle(&app.router, &user, fd).await {
        app.hub.close(fd, CloseReason::Replaced, None).await;
    }
}

/// The topics a client comes with, each of which it must be allowed.
fn check_topics(
    wanted: Option<&str>,
    user: &UserId,
    grants: &Grants,
    most: usize,
) -> Result<Vec<Topic>, ApiError> {
    let mut list = Vec::new();
    let wanted = wanted.into_iter().flat_map(|wanted| wanted.split(','));
    for text in wanted.filter(|text| !text.is_empty()) {
        let topic: Topic = text
            .parse()
            .map_err(|error| ApiError::bad_request(&format!("topics has {text:?}: {error}")))?;
        if !grants.allows(&topic, user) {
            let words = format!("you may not subscribe to the topic {topic}");
            return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", &words));
        }
        if !list.contains(&topic) {
            list.push(topic);
        }
        if list.len() > most {
            let words = format!("topics names more than {most}");
            let code = "too_many_topics";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, code, &words));
        }
    }
    Ok(list)
}

/// Where a connection stands in its user's inbox: what it missed since it was last here, and the
/// place from which it goes on. A plain client cannot come back to a place, so it only gets what
/// it asks for.
async fn start_inbox(
    app: &App,
    user: &UserId,
    dialect: Dialect,
    since: Option<Since>,
    deadline: Instant,
) -> Option<Box<Start>> {
    if app.config.keep_messages == 0 || (dialect == Dialect::Plain && since.is_none()) {
        return None;
    }
    let since = since.unwrap_or(Since::Now);
    let user = Subject::User(user.clone());
    let page = tokio::time::timeout_at(deadline, app.backplane.read_inbox(&user, since)).await;
    Some(Box::new(Start::new(since, page.ok().and_then(Result::ok))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_of_a_first_line_are_a_text_or_a_list() {
        let topics = |json: &str| {
            let line = format!(r#"{{"type":"connect","topics":{json}}}"#);
            Wish::from_line(&line).map(|wish| wish.topics)
        };
        for json in [r#""a,b""#, r#"["a","b"]"#] {
            assert_eq!(topics(json).unwrap().as_deref(), Some("a,b"), "{json}");
        }
        assert_eq!(topics("null").unwrap(), None);
        for json in ["7", r#"[7]"#, r#"{"a":1}"#] {
            let refused = topics(json).unwrap_err().object();
            assert!(refused.contains("topics must be"), "{json}: {refused}");
        }
    }
}
