//! Letting a client in, whatever its transport: its identity, its connection in the hub, its row.
//!
//! A client is told that it is connected only after its row is in the registry, so that senders it
//! then tells "I am connected" reach it at once. If the registry does not answer within a second,
//! the client is let in all the same, and told so (`degraded`).

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;
use warp::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use warp::http::{HeaderMap, HeaderName, StatusCode};

use crate::access::connect_hook::Introduced;
use crate::app::App;
use crate::auth::claims::MAX_DEVICE_BYTES;
use crate::auth::identity::Identity;
use crate::auth::{self, Denial};
use crate::edge::client_error::no_presence;
use crate::edge::error::HttpError;
use crate::edge::introduction::{ClientWords, introduce};
use crate::edge::peer::Peer;
use crate::local::connection::subscriptions::Asker;
use crate::local::hub::await_rows::ROW_PATIENCE;
use crate::local::hub::{NewConnection, Reservation};
use crate::local::replay::follower::{PageAsk, Start};
use crate::local::replay::stumbles::KeptReader;
use crate::local::shard::command::Command;
use crate::protocol::client::connect::ConnectRequest;
use crate::protocol::ids::{Fd, Subject, Topic, UserId, listed};
use crate::protocol::position::Since;
use crate::protocol::secret::Secret;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::{Dialect, EventId, InvalidInput, MAX_RESUMED_TOPICS};

/// A client that is in the hub, before its socket is in a shard.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) membership: Reservation,
    /// Its row is not written.
    pub(crate) degraded: bool,
}

/// Reads what a client says in its request.
pub(crate) fn read_request(
    query: &str,
    headers: &HeaderMap,
) -> Result<ConnectRequest, InvalidInput> {
    let texts = |name: HeaderName| {
        let values = headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok())
    };
    let authorization = texts(AUTHORIZATION).find_map(auth::bearer);
    ConnectRequest::from_http(query, authorization, texts(SEC_WEBSOCKET_PROTOCOL))
}

/// Refuses every client once a leaving node has closed its doors.
pub(crate) fn check_leaving(app: &App) -> Result<(), HttpError> {
    if app.closing.has_begun() {
        let words = "this node is leaving";
        let error = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", words);
        return Err(error.retry_after(1));
    }
    Ok(())
}

/// Lets a client in, or says why not.
pub(crate) async fn enter(
    app: &Arc<App>,
    request: ConnectRequest,
    said: ClientWords<'_>,
    dialect: Dialect,
    peer: &Peer,
) -> Result<Admitted, HttpError> {
    let began = Instant::now();
    let introduced = identify(app, &request, said, dialect, peer).await?;
    let Identity {
        user,
        grants,
        device,
        info,
        expires,
        session,
    } = introduced.identity;
    let mut terms = check_terms(app, request, &user, device, grants.as_deref())?;
    terms.check_dialect(dialect)?;
    let approved = match &app.subscribe_hook {
        Some(hook) => hook.ask_all(&user, &terms.topics).await?,
        None => Vec::new(),
    };

    let deadline = Instant::now() + ROW_PATIENCE;
    let bookmark = open_bookmark(app, &user, &mut terms, deadline).await;
    let limits = app.connection_limits;
    let ordinal = limits.ordinal_by(deadline, &app.backplane, &user);
    let (mut inbox, logs, is_cleared, ordinal) = futures::join!(
        start_inbox(app, &user, dialect, &terms, deadline),
        start_logs(app, &user, dialect, &terms, deadline),
        tokio::time::timeout_at(deadline, app.authenticator.check_ban(&user)),
        ordinal,
    );
    // A user who cannot be looked up in time is let in, and looked up later.
    let is_cleared = is_cleared.unwrap_or(Ok(false))?;
    let is_checked = is_cleared && (ordinal.is_some() || !app.connection_limits.is_limited());
    if let Some(inbox) = &mut inbox {
        match dialect.is_event_stream() || terms.last.is_some() {
            true => terms.prove(inbox, &logs),
            false if terms.is_lost => inbox.recovered = Some(false),
            false => {}
        }
    }
    let newcomer = NewConnection {
        user: user.clone(),
        dialect,
        device: terms.device,
        address: peer.address.filter(|_| app.config.store_address),
        inbox,
        grants,
        info,
        topics: terms.topics,
        infos: approved.iter().filter_map(|one| one.shown()).collect(),
        logs,
        // The end of a session is watched by `Sessions`.
        expires: expires.filter(|_| session.is_none()),
        session,
        ordinal,
        watches: terms.watches && dialect.has_objects(),
        beats: terms.beats,
        bookmark,
    };
    let mut admitted = join(app, newcomer, expires, deadline).await?;
    let fd = admitted.membership.fd();
    // Its session may have ended longer ago, while a hook was asked, than the node remembers.
    if !(is_checked && app.hub.remembers_since(began)) {
        app.late_checks.owe(fd, &user);
    }
    if let (Some(hook), Some(renewal)) = (&app.connect_hook, introduced.renewal) {
        hook.watch(fd, &user, renewal);
    }
    if let Some(hook) = &app.subscribe_hook {
        hook.watch_all(fd, &user, approved);
    }
    admitted.degraded |= !enroll(app, (fd, &user), introduced.subscribe, deadline).await;
    Ok(admitted)
}

/// Puts the client into the hub, and waits for its row and its logs until `deadline`. `expires` is
/// the end of its token or session.
async fn join(
    app: &Arc<App>,
    newcomer: NewConnection,
    expires: Option<Instant>,
    deadline: Instant,
) -> Result<Admitted, HttpError> {
    let (user, mut topics) = (newcomer.user.clone(), newcomer.topics.clone());
    topics.retain(|topic| !newcomer.logs.iter().any(|(one, _)| one == topic));
    let resumes_logs = !newcomer.logs.is_empty();
    let (dialect, session) = (newcomer.dialect, newcomer.session);
    let follows_inbox = newcomer.inbox.is_some();
    let (membership, rows) = app.hub.join(newcomer).await;
    // Sent away while it was on its way: too late for the look-up, too early for the close.
    app.authenticator
        .check_again(app.hub.barred(&user, session), &user)
        .await?;
    if let Some(session) = session {
        app.sessions.watch(session, expires);
    }
    let fd = membership.fd();
    let late = check_late(app.clone(), user.clone(), fd);
    let mut in_time = app.hub.await_rows_or(fd, rows, deadline, late).await;
    if in_time {
        match app.connection_limits.settle(&app.router, &user, fd).await {
            Some(true) => {}
            Some(false) => {
                let words = "this user has as many connections as may be";
                let code = "too_many_connections";
                return Err(HttpError::new(StatusCode::CONFLICT, code, words));
            }
            None => app.late_checks.owe(fd, &user),
        }
    }
    // What was kept after the look at inbox and logs and before the row was pushed past this node.
    // A row that is late has them read by itself.
    if in_time && resumes_logs {
        app.hub.tell(fd, Command::CheckAll { fd }).await;
    } else if in_time && follows_inbox {
        app.hub.tell(fd, Command::CheckInbox { fd }).await;
    }
    if dialect.has_objects() && app.hub.topics().keeps() {
        let entry = PageAsk::first(Since::Now);
        let logs = (topics.iter()).filter(|topic| app.hub.topics().is_followed(topic));
        let logs = logs.map(|topic| app.hub.follow_log(fd, topic, entry, deadline));
        let followed = join_all(logs).await;
        in_time &= followed.into_iter().all(|in_time| in_time);
    }
    Ok(Admitted {
        membership,
        degraded: !in_time,
    })
}

/// Puts a new connection into the topics that the connect hook names; answers whether all rows and
/// logs were there in time.
async fn enroll(
    app: &App,
    (fd, user): (Fd, &UserId),
    topics: Vec<Topic>,
    deadline: Instant,
) -> bool {
    let each = topics.into_iter().map(async |topic| {
        let subscribed = app.hub.subscribe(fd, topic.clone(), None, Asker::Server);
        let Ok(subscribed) = subscribed.await else {
            tracing::debug!(%fd, %topic, "the connect hook's topic is over PUSH_MAX_TOPICS");
            let trace = app.hub.trace();
            trace.hook_failed(user, fd, "connect", "too_many_topics");
            return true;
        };
        app.hub.complete(fd, &topic, subscribed, deadline).await
    });
    join_all(each).await.into_iter().all(|in_time| in_time)
}

/// The client's identity: by its token, by the connect hook, or under `PUSH_AUTH=none` the user
/// that it names.
async fn identify(
    app: &App,
    request: &ConnectRequest,
    said: ClientWords<'_>,
    dialect: Dialect,
    peer: &Peer,
) -> Result<Introduced, HttpError> {
    let known = |identity| Introduced {
        identity,
        subscribe: Vec::new(),
        renewal: None,
    };
    let user = request.user.as_deref();
    if app.authenticator.is_open() {
        let user = auth::claimed_user(user).map_err(HttpError::bad_request)?;
        return Ok(known(Identity::claimed(user)));
    }
    let token = request.token.as_ref().map(Secret::reveal);
    let token = token.filter(|token| !token.is_empty());
    let introduced = match &app.connect_hook {
        Some(hook) if token.is_none() || !app.authenticator.takes_tokens() => {
            let wanted = &app.config.hook_headers;
            let introduction = introduce(said, wanted, request, dialect, peer)?;
            hook.ask(introduction).await?
        }
        _ => known(app.authenticator.identify(token).await?),
    };
    if user.is_some_and(|user| user != introduced.identity.user.as_str()) {
        return Err(Denial::WrongUser.into());
    }
    Ok(introduced)
}

/// What a client asked for and may have.
struct Terms {
    device: Option<Arc<str>>,
    since: Option<Since>,
    /// How far it has read the logs of topics.
    read: EventId,
    /// From where it wants to read those of which that is not known.
    last: Option<Since>,
    /// It comes back with an event's id that says where it was.
    has_event_id: bool,
    /// It comes back with an id that does not say where it was, or that cannot be looked up.
    is_lost: bool,
    /// It comes back with an id that says where it was in its inbox.
    is_found: bool,
    /// It wants to go on where its device has read to.
    is_remembered: bool,
    topics: Vec<Topic>,
    /// It wants join and leave events of its topics.
    watches: bool,
    /// It wants heartbeats that its program sees.
    beats: bool,
}

impl Terms {
    fn check_dialect(&self, dialect: Dialect) -> Result<(), HttpError> {
        match (self.is_remembered, &self.device) {
            (true, None) => Err(HttpError::bad_request("resume=server needs a device")),
            // It can neither acknowledge nor be told where it is.
            (true, _) if dialect == Dialect::Plain => {
                Err(HttpError::bad_request("resume=server needs pushnode.v1"))
            }
            _ => Ok(()),
        }
    }

    /// Who reads an inbox or the log of a topic.
    fn reader(&self, user: &UserId, topic: Option<&Topic>) -> KeptReader {
        KeptReader {
            user: user.clone(),
            device: self.device.clone(),
            topic: topic.cloned(),
        }
    }

    /// From where a client reads the log of a topic before it joins. Other clients than those of
    /// event streams subscribe to each topic from where they were, or are given it from now on.
    /// `entry` is what the topic's rule gives a new member.
    fn log_start(&self, topic: &Topic, entry: Since, dialect: Dialect) -> Option<Since> {
        let read = self.read.log(topic).map(Since::After);
        let is_read = dialect.is_event_stream() || entry != Since::Now;
        read.or(self.last).or(is_read.then_some(entry))
    }

    /// `recovered` covers the logs that are read before: their client cannot ask for each.
    fn prove(&self, inbox: &mut Start, logs: &[(Topic, Start)]) {
        let is_first = inbox.recovered.is_none() && self.read.logs.is_empty();
        if is_first && !self.is_lost && self.last.is_none() {
            return;
        }
        let is_covered = logs.len() == self.topics.len();
        // One that comes back must have said where it was.
        let is_known = |topic: &Topic| !self.has_event_id || self.read.log(topic).is_some();
        let is_whole = |(topic, log): &(Topic, Start)| log.is_recovered() && is_known(topic);
        let inbox_is_whole = inbox.recovered.unwrap_or(!self.has_event_id);
        let is_proven = inbox_is_whole && is_covered && logs.iter().all(is_whole) && !self.is_lost;
        inbox.recovered = Some(is_proven);
    }
}

/// `device` is the one in the token, which counts before the one in the request.
fn check_terms(
    app: &App,
    request: ConnectRequest,
    user: &UserId,
    device: Option<Arc<str>>,
    grants: Option<&TopicPatterns>,
) -> Result<Terms, HttpError> {
    let (watches, beats) = (request.wants_presence(), request.wants_beats());
    let last = request.wanted_last()?;
    let is_remembered = request.wants_bookmark()? && app.config.keep_messages > 0;
    let device = device.or(request.device.map(Into::into));
    if device
        .as_ref()
        .is_some_and(|device| device.len() > MAX_DEVICE_BYTES)
    {
        return Err(HttpError::bad_request("device has over 64 bytes"));
    }
    // Empty is not there, as with topics: templates of URLs leave such parameters.
    let since = request.since.filter(|text| !text.is_empty());
    let since = since.map(|text| text.parse()).transpose();
    let since = since.map_err(|error| HttpError::bad_request(format!("since {error}")))?;
    let has_event_id = matches!(request.event_id, Some(Ok(_)));
    let (since, read, is_lost) = match request.event_id {
        None => (since, EventId::default(), false),
        Some(Ok(id)) => (id.inbox, id, false),
        // Of another server: it begins as if it came for the first time.
        Some(Err(_)) => (since, EventId::default(), true),
    };
    let (watches, beats) = (watches?, beats?);
    let is_found = read.inbox.is_some();
    let known = app.hub.topics();
    // The hook is asked after this.
    let is_asked = |topic: &Topic| app.subscribe_hook.is_some() && known.asks_hook(topic);
    let may_have = |topic: &Topic| is_asked(topic) || known.allows(topic, user, grants);
    let topics = check_topics(request.topics.as_deref(), may_have, known.most())?;
    if watches
        && let Some(topic) = (topics.iter()).find(|topic| !app.hub.topics().tells_members(topic))
    {
        let words = no_presence(topic);
        return Err(HttpError::new(StatusCode::FORBIDDEN, "forbidden", words));
    }
    Ok(Terms {
        device,
        since,
        read,
        last,
        has_event_id,
        is_lost,
        is_found,
        is_remembered,
        topics,
        watches,
        beats,
    })
}

/// The topics a client comes with, each of which it must be allowed.
fn check_topics(
    wanted: Option<&str>,
    may_have: impl Fn(&Topic) -> bool,
    most: usize,
) -> Result<Vec<Topic>, HttpError> {
    let mut list = Vec::new();
    for text in wanted.into_iter().flat_map(listed) {
        let topic: Topic = text
            .parse()
            .map_err(|error| HttpError::bad_request(format!("topics has {text:?}: {error}")))?;
        if !may_have(&topic) {
            let words = format!("you may not subscribe to the topic {topic}");
            return Err(HttpError::new(StatusCode::FORBIDDEN, "forbidden", words));
        }
        if !list.contains(&topic) {
            list.push(topic);
        }
        if list.len() > most {
            let words = format!("topics names more than {most}");
            let code = "too_many_topics";
            return Err(HttpError::new(StatusCode::BAD_REQUEST, code, words));
        }
    }
    Ok(list)
}

/// Lets a client that wants it go on where its device has read to; answers the device if its
/// reading is remembered from here on. The id of an event is newer than what the node remembers,
/// and a `since` is for the first time.
async fn open_bookmark(
    app: &App,
    user: &UserId,
    terms: &mut Terms,
    deadline: Instant,
) -> Option<Arc<str>> {
    let device = terms.device.clone().filter(|_| terms.is_remembered)?;
    let read = app.backplane.read_bookmark(user, &device);
    match tokio::time::timeout_at(deadline, read).await {
        Ok(Ok(position)) => {
            if let (Some(position), false) = (position, terms.is_found) {
                terms.since = Some(Since::After(position));
            }
            Some(device)
        }
        // What is remembered must not be replaced by where it begins now.
        Ok(Err(_)) | Err(_) => {
            terms.is_lost |= !terms.is_found;
            None
        }
    }
}

/// The position of a connection in its user's inbox: what it missed since it was last here, and
/// where it goes on. A plain client cannot resume, so it only gets what it asks for.
async fn start_inbox(
    app: &App,
    user: &UserId,
    dialect: Dialect,
    terms: &Terms,
    deadline: Instant,
) -> Option<Box<Start>> {
    let since = terms.since.unwrap_or(Since::Now);
    if app.config.keep_messages == 0 || (dialect == Dialect::Plain && since == Since::Now) {
        return None;
    }
    let inbox = Subject::User(user.clone());
    let page = tokio::time::timeout_at(deadline, app.backplane.read_inbox(&inbox, since)).await;
    let mut start = Start::new(since, page.ok().and_then(Result::ok));
    // `since` of an event stream stays in its URL, wherever its client has got to.
    let came_back = terms.has_event_id || !dialect.is_event_stream();
    if came_back && dialect.has_objects() && matches!(since, Since::After(_)) {
        start.judge(app.hub.stumbles(), terms.reader(user, None));
        if terms.is_remembered {
            start.tryout.ask_for_complaint();
        }
    }
    Some(Box::new(start))
}

/// The positions of a client in those logs of its topics that it reads before it joins, as
/// [`start_inbox`].
async fn start_logs(
    app: &App,
    user: &UserId,
    dialect: Dialect,
    terms: &Terms,
    deadline: Instant,
) -> Vec<(Topic, Start)> {
    if !app.hub.topics().keeps() {
        return Vec::new();
    }
    let most = match dialect.is_event_stream() {
        true => MAX_RESUMED_TOPICS,
        false => usize::MAX,
    };
    let topics = terms.topics.iter().take(most);
    let topics = topics.filter(|topic| app.hub.topics().is_followed(topic));
    let start = |topic| terms.log_start(topic, app.hub.topics().entry(topic), dialect);
    let starts = topics.filter_map(|topic| Some((topic, start(topic)?)));
    let starts = starts.map(async |(topic, since)| {
        let log = Subject::Topic(topic.clone());
        let page = tokio::time::timeout_at(deadline, app.backplane.read_inbox(&log, since)).await;
        let mut start = Start::new(since, page.ok().and_then(Result::ok));
        if matches!(since, Since::After(_)) {
            start.judge(app.hub.stumbles(), terms.reader(user, Some(topic)));
        }
        (topic.clone(), start)
    });
    join_all(starts).await
}

/// A client that was let in before its row was written is checked afterwards: other nodes counted
/// it, and told it of bans, only from then on.
async fn check_late(app: Arc<App>, user: UserId, fd: Fd) {
    app.late_checks.owe(fd, &user);
}
