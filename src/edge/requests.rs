//! What clients ask of their node beyond getting messages: subscribe, renew a token, send.
//!
//! A shard hands over one request of a connection at a time, so a client's requests are carried out
//! in its order, and a slow one delays only its own client. What must stay true: every request is
//! answered by exactly one [`Command::Answered`]. Without it the shard would never again read a
//! request of that connection.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::access::authenticator::Authenticator;
use crate::access::connect_hook::ConnectHook;
use crate::access::late_checks::LateChecks;
use crate::access::session_watch::Sessions;
use crate::access::subscribe_hook::SubscribeHook;
use crate::auth::Denial;
use crate::backplane::Backplane;
use crate::delivery::router::Router;
use crate::edge::client_error::{ClientError, no_presence};
use crate::edge::upstream::Upstream;
use crate::local::connection::subscriptions::{Asker, NotSubscribed};
use crate::local::hub::Hub;
use crate::local::hub::await_rows::ROW_PATIENCE;
use crate::local::replay::excerpt::Span;
use crate::local::replay::stumbles::Tryout;
use crate::local::shard::command::{Command, Subscribed};
use crate::local::shard::outlets::ClientRequest;
use crate::protocol;
use crate::protocol::ids::{Fd, Subject, Topic, UserId};
use crate::protocol::position::{EntryId, Since};
use crate::protocol::secret::Secret;
use crate::protocol::{Author, Message, Publish, PushRequest, Status};
use crate::protocol::{BadTopic, RequestKind, WantedTopic};

/// The code of one of several topics that is none.
const BAD_TOPIC: &str = "bad_message";

/// When a client whose message went nowhere may try again.
const RETRY: Duration = Duration::from_secs(1);

/// The outcome of a request that was carried out.
struct Done {
    /// Further fields of the reply.
    fields: String,
    /// What the connection gets after the reply.
    then: Vec<Command>,
    /// The topics whose join and leave events the connection wants after that.
    watches: Vec<Topic>,
}

impl From<String> for Done {
    fn from(fields: String) -> Self {
        Self {
            fields,
            then: Vec::new(),
            watches: Vec::new(),
        }
    }
}

/// Carries out the requests of this node's clients.
#[derive(Debug)]
pub(crate) struct ClientRequests {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) upstream: Upstream,
    pub(crate) router: Arc<Router>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) late_checks: Arc<LateChecks>,
    pub(crate) connect_hook: Option<Arc<ConnectHook>>,
    pub(crate) subscribe_hook: Option<Arc<SubscribeHook>>,
}

impl ClientRequests {
    /// Carries out what clients ask, until the last shard is gone.
    pub(crate) async fn serve(self, mut asked: mpsc::UnboundedReceiver<ClientRequest>) {
        let requests = Arc::new(self);
        while let Some(asked) = asked.recv().await {
            tokio::spawn(requests.clone().answer(asked));
        }
    }

    async fn answer(self: Arc<Self>, asked: ClientRequest) {
        let (fd, user) = (asked.fd, asked.user.clone());
        let reference = asked.request.reference.clone();
        let reference = reference.as_deref();
        // Cursors come thirty times a second: without a `ref` only a refusal is told.
        let is_published = matches!(asked.request.what, RequestKind::Publish(_));
        let (mut then, mut watches) = (Vec::new(), Vec::new());
        let object = match self.carry_out(asked).await {
            Ok(_) if is_published && reference.is_none() => None,
            Ok(done) => {
                (then, watches) = (done.then, done.watches);
                Some(protocol::reply_object(reference, &done.fields))
            }
            Err(refused) => {
                tracing::debug!(%fd, %user, code = refused.code, "request refused");
                Some(refused.object(reference))
            }
        };
        self.hub.tell(fd, Command::Answered { fd, object }).await;
        for then in then {
            self.hub.tell(fd, then).await;
        }
        for topic in watches {
            self.hub.topics().notices().ask(fd, topic);
        }
    }

    async fn carry_out(&self, asked: ClientRequest) -> Result<Done, ClientError> {
        let ClientRequest { fd, user, request } = asked;
        let reference = request.reference.as_deref();
        match request.what {
            RequestKind::Subscribe {
                topic,
                since,
                watches,
            } => {
                let wanted = WantedTopic {
                    topic,
                    since,
                    watches,
                };
                self.subscribe_one(fd, &user, wanted).await
            }
            RequestKind::Unsubscribe { topic } => {
                let fields = protocol::unsubscribed_fields(&topic);
                self.unsubscribe(fd, topic).await;
                Ok(fields.into())
            }
            RequestKind::SubscribeAll(wanted) => Ok(self.subscribe_all(fd, &user, wanted).await),
            RequestKind::UnsubscribeAll(wanted) => Ok(self.unsubscribe_all(fd, wanted).await),
            RequestKind::History {
                topic,
                before,
                limit,
            } => self.look_back(&topic, before, limit).await.map(Done::from),
            RequestKind::Auth(token) => self.renew(fd, &user, &token).await.map(Done::from),
            RequestKind::Send(send) => {
                let sent = self.upstream.send(fd, &user, reference, &send);
                sent.await.map(Done::from)
            }
            RequestKind::Publish(publish) => {
                let published = self.publish(fd, user, &publish).await;
                let outcome = match &published {
                    Ok(_) => "published",
                    Err(refused) => refused.code,
                };
                self.router.carrier.metrics.member_published(outcome);
                published.map(Done::from)
            }
        }
    }

    /// Pushes what a member publishes, as a sender's push. The shard has looked whether it may; the
    /// client's next request waits for this one, which keeps their order.
    async fn publish(
        &self,
        fd: Fd,
        user: UserId,
        publish: &Publish,
    ) -> Result<String, ClientError> {
        let author = Author {
            user,
            connection: self.hub.connection_id(fd),
            echo: publish.echo,
        };
        let message = Message::of_member(publish, author)
            .map_err(|fault| ClientError::new("bad_message", fault.to_string()))?;
        let request = PushRequest::to_topic(&publish.topic, message);
        let answer = self.router.push(&request).await;
        if answer.status == Status::Unrouted {
            let reason = answer.reason.unwrap_or("no way to the members");
            return Err(ClientError::new("unavailable", reason).retry_after(RETRY));
        }
        Ok(protocol::published_fields(
            &publish.topic,
            answer.seq_id,
            answer.reason,
        ))
    }

    /// The client hears that it is subscribed when the topic's row is written, so that senders it
    /// then tells reach it at once. The log is read only then, so that nothing can be kept between
    /// the page and the first push that finds the connection.
    async fn subscribe(
        &self,
        fd: Fd,
        user: &UserId,
        topic: Topic,
        since: Option<Since>,
    ) -> Result<Done, ClientError> {
        let subscribed = self.hub.subscribe(fd, topic.clone(), since, Asker::Client);
        let subscribed = match (subscribed.await, &self.subscribe_hook) {
            (Err(NotSubscribed::AskHook), Some(hook)) => {
                let approved = hook.ask(user, Some(fd), &topic).await?;
                let info = approved.info.clone();
                let subscribed = self.hub.subscribe_approved(fd, topic.clone(), since, info);
                let subscribed = subscribed.await;
                if subscribed.is_ok() {
                    hook.watch(fd, user, approved);
                }
                subscribed
            }
            (subscribed, _) => subscribed,
        };
        let deadline = Instant::now() + ROW_PATIENCE;
        let Subscribed { row, follows } = subscribed.map_err(|reason| refusal(&topic, reason))?;
        let mut degraded = !self.hub.await_rows(fd, row.into(), deadline).await;
        let Some(ask) = follows else {
            // Asked for a log that it may not read: it may have missed anything.
            let keeps = self.hub.topics().keeps();
            let recovered = since.filter(|_| keeps).map(|_| false);
            return Ok(protocol::subscribed_fields(&topic, None, recovered, degraded).into());
        };
        let mut page = self.hub.first_page(fd, &topic, ask, deadline).await;
        let tryout = match (&mut page, ask.since) {
            (Some(page), Since::After(_)) => self.hub.judge(fd, user, &topic, page),
            _ => Tryout::default(),
        };
        degraded |= page.is_none();
        let resume = page.as_ref().map(|page| page.start);
        let is_proven = page.as_ref().is_some_and(|page| page.is_continuous);
        let is_proven = is_proven && tryout.passed.is_empty();
        // What the topic's rule gives a new member, it did not ask for.
        let has_asked = since.is_some_and(|since| since != Since::Now);
        let recovered = has_asked.then_some(is_proven);
        let fields = protocol::subscribed_fields(&topic, resume, recovered, degraded);
        let then = page.map(|page| Command::Page {
            fd,
            subject: Subject::Topic(topic),
            ask,
            page,
            tryout: Some(Box::new(tryout)),
        });
        Ok(Done {
            then: then.into_iter().collect(),
            ..fields.into()
        })
    }

    /// The shard has looked whether the client is in the topic.
    async fn look_back(
        &self,
        topic: &Topic,
        before: Option<EntryId>,
        limit: u16,
    ) -> Result<String, ClientError> {
        if !self.hub.topics().is_followed(topic) {
            let words = format!("clients may not read what was kept of the topic {topic}");
            return Err(ClientError::new("forbidden", words));
        }
        let span = before.map_or(Span::Newest, Span::Before);
        let subject = Subject::Topic(topic.clone());
        let read = self.backplane.look_back(&subject, span, limit);
        let Ok(Ok(past)) = tokio::time::timeout(ROW_PATIENCE, read).await else {
            let words = "the log cannot be read now";
            return Err(ClientError::new("unavailable", words).retry_after(ROW_PATIENCE));
        };
        Ok(protocol::history_fields(topic, &past.messages, past.more))
    }

    /// All at the same time: a client that comes back with many topics waits for the slowest.
    async fn subscribe_all(
        &self,
        fd: Fd,
        user: &UserId,
        wanted: Vec<Result<WantedTopic, BadTopic>>,
    ) -> Done {
        let each = wanted.into_iter().map(async |wanted| match wanted {
            Err(bad) => protocol::refused_fields(&bad.topic, BAD_TOPIC, &bad.message).into(),
            Ok(one) => {
                let topic = one.topic.clone();
                let subscribed = self.subscribe_one(fd, user, one).await;
                subscribed.unwrap_or_else(|refused| refused.fields(topic.as_str()).into())
            }
        });
        let (mut entries, mut all) = (Vec::new(), Done::from(String::new()));
        for done in join_all(each).await {
            entries.push(done.fields);
            all.then.extend(done.then);
            all.watches.extend(done.watches);
        }
        all.fields = protocol::topics_fields(&entries);
        all
    }

    async fn unsubscribe(&self, fd: Fd, topic: Topic) {
        if let Some(hook) = &self.subscribe_hook {
            hook.forget(fd, &topic);
        }
        self.hub.unsubscribe(fd, topic, Asker::Client).await;
    }

    async fn subscribe_one(
        &self,
        fd: Fd,
        user: &UserId,
        WantedTopic {
            topic,
            since,
            watches,
        }: WantedTopic,
    ) -> Result<Done, ClientError> {
        if watches && !self.hub.topics().tells_members(&topic) {
            return Err(ClientError::new("forbidden", no_presence(&topic)));
        }
        let mut done = self.subscribe(fd, user, topic.clone(), since).await?;
        done.watches.extend(watches.then_some(topic));
        Ok(done)
    }

    async fn unsubscribe_all(&self, fd: Fd, topics: Vec<Result<WantedTopic, BadTopic>>) -> Done {
        let mut entries = Vec::with_capacity(topics.len());
        for one in topics {
            entries.push(match one {
                Err(bad) => protocol::refused_fields(&bad.topic, BAD_TOPIC, &bad.message),
                Ok(WantedTopic { topic, .. }) => {
                    let fields = protocol::unsubscribed_fields(&topic);
                    self.unsubscribe(fd, topic).await;
                    fields
                }
            });
        }
        protocol::topics_fields(&entries).into()
    }

    /// Replaces the token of a connection by a new one of the same user.
    async fn renew(&self, fd: Fd, user: &UserId, token: &Secret) -> Result<String, ClientError> {
        if !self.authenticator.takes_tokens() {
            return Err(ClientError::new("no_tokens", "this node asks for no token"));
        }
        let began = Instant::now();
        let identity = self.authenticator.identify(Some(token.reveal())).await?;
        if identity.user != *user {
            return Err(Denial::WrongUser.into());
        }
        if !self.authenticator.check_ban(user).await? {
            self.late_checks.owe(fd, user);
        }
        if let Some(hook) = &self.connect_hook {
            hook.forget(fd);
        }
        self.hub.renew(fd, user, &identity).await;
        // Revoked since it was looked up: the one who revoked it did not find this connection.
        if let Some(reason) = self.hub.barred(user, identity.session)
            && self
                .authenticator
                .check_again(Some(reason), user)
                .await
                .is_err()
        {
            self.hub.close(fd, reason, None).await;
        }
        if let Some(session) = identity.session {
            self.sessions.watch(session, identity.expires);
        }
        if !self.hub.remembers_since(began) {
            self.late_checks.owe(fd, user);
        }
        let left = (identity.expires).map(|at| at.saturating_duration_since(Instant::now()));
        Ok(left.map_or(String::new(), |left| {
            format!(r#""expires_in_ms":{}"#, left.as_millis())
        }))
    }
}

fn refusal(topic: &Topic, reason: NotSubscribed) -> ClientError {
    let (code, message) = match reason {
        NotSubscribed::Gone => ("gone", "the connection is ending".to_owned()),
        // Without a hook there is no client that it lets in.
        NotSubscribed::Forbidden | NotSubscribed::AskHook => (
            "forbidden",
            format!("you may not subscribe to the topic {topic}"),
        ),
        NotSubscribed::TooMany(most) => (
            "too_many_topics",
            format!("you are subscribed to {most} topics, and that is the limit"),
        ),
    };
    ClientError::new(code, message)
}
