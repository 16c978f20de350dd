//! Clients: users' devices that connect to any node by any way, listen, leave topics and come back
//! to them, renew their tokens, and come back when cut off.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::{
    Cause, EVERYBODY, Event, Inbox, Micros, News, Part, Push, Recorder, SECOND, topic,
};
use crate::passes::{Pass, Token};
use crate::stage::{KEPT_BY_RULE, OPEN_TO_MEMBERS};
use crate::views::{View, Views};
use crate::wires::{Heard, Socket, Wire, Wish};

/// Longest wait for a token, a handshake, and for `ready`.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a client that says goodbye waits for the answer.
const GOODBYE: Duration = Duration::from_secs(2);
/// After the end of all churn no token ends any more.
const LONG: u64 = 3_600;
/// Before a client asks again for what it was refused.
const AGAIN: Duration = Duration::from_secs(1);

/// One device of one user.
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) user: String,
    pub(crate) wire: Wire,
    /// Whether it acknowledges.
    pub(crate) acks: bool,
    /// Whether it leaves and comes back of its own accord.
    pub(crate) churns: bool,
    /// Whether it does that all the time.
    pub(crate) moves: bool,
    /// Whether it leaves topics and comes back to them.
    pub(crate) toggles: bool,
    /// Whether it wants to know who else is in its topics.
    pub(crate) watches: bool,
    /// What it is let in by, where nodes ask for it.
    pub(crate) pass: Option<Pass>,
    /// Whether it presents a new token before the old one ends.
    pub(crate) renews: bool,
    /// Whether it publishes to its topics, where their rules let it.
    pub(crate) publishes: bool,
    /// Whether it comes back with its last position.
    pub(crate) resumes: bool,
    /// Whether it believes that what it hears of its inbox, as it comes back, goes for its topics too:
    /// server-sent events have one position for all.
    pub(crate) resumes_all: bool,
    /// Whether it begins anew, as a page that is reloaded, if its position is refused: 0.1.0 does
    /// not know the ids of event streams with topics.
    pub(crate) reloads: bool,
    /// The last one it saw.
    pub(crate) position: Option<String>,
    /// As [`Event::Open`] has them. It names them when it connects or, if it resumes or watches, asks
    /// for each then.
    pub(crate) topics: Vec<String>,
    /// The last one it saw of each.
    pub(crate) positions: HashMap<String, String>,
    pub(crate) rng: Rng,
}

/// What a message carries, so that plain clients can be checked too.
#[derive(Deserialize)]
struct Data {
    id: String,
    to: Vec<String>,
}

/// An object of `pushnode.v1`.
#[derive(Deserialize)]
struct Object {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    reason: Option<String>,
    status: Option<String>,
    node: Option<String>,
    fd: Option<u64>,
    id: Option<String>,
    topic: Option<String>,
    degraded: Option<bool>,
    data: Option<Value>,
    from: Option<Author>,
    code: Option<Value>,
    resume: Option<String>,
    recovered: Option<bool>,
    members: Option<Vec<String>>,
    join: Option<Vec<String>>,
    leave: Option<Vec<String>>,
    in_ms: Option<u64>,
    expires_in_ms: Option<u64>,
}

/// Who published a message.
#[derive(Deserialize)]
struct Author {
    user: String,
    connection: String,
}

/// So many of the last messages of a topic a device asks for that comes to it for the first time.
const LAST: u16 = 20;

/// The `ref` of a request for a new token to be taken.
const AUTH: &str = "auth";

/// How listening ended, and the node's close code.
type Ending = (Cause, Option<u16>);

/// A connection of a device.
struct Link<'a> {
    name: String,
    socket: Socket,
    view: View,
    views: &'a Views,
    recorder: &'a Recorder,
    /// The node, as it names itself.
    node: String,
    /// When it was about to connect: what it names then, it asks for before it is let in.
    began: Micros,
    /// Topics whose reply is still to come.
    asked: HashSet<String>,
    /// Topics whose last messages it has asked for.
    entered: HashSet<String>,
    /// Topics that it has left.
    out: HashSet<String>,
    /// What it has published and is to be answered next.
    published: Option<Push>,
    /// How much it has published.
    seq: u64,
    /// The code of the node's last word.
    bye: Option<u16>,
    token: Option<Token>,
    /// Whether that token ends within the run.
    expires_soon: bool,
    renew_at: Option<Instant>,
    renewal: Option<JoinHandle<Option<Token>>>,
}

impl Link<'_> {
    fn write(&self, event: impl FnOnce(String, u64) -> Event) {
        let at = self.recorder.now();
        self.recorder.write(event(self.name.clone(), at));
    }

    /// Notes the token by which it may stay.
    fn holds(&mut self, session: bool, ends: u64) {
        self.write(|conn, at| Event::Token {
            conn,
            session,
            ends,
            at,
        });
        let soon = ends < self.recorder.now() + LONG / 2 * SECOND;
        self.set_expires_soon(soon);
    }

    fn set_expires_soon(&mut self, soon: bool) {
        if self.expires_soon != soon {
            self.expires_soon = soon;
            self.views.expires_soon(soon);
        }
    }

    /// Asks for the last messages of the topic, too.
    async fn enter(&mut self, topic: &str, presence: bool) {
        self.entered.insert(topic.to_owned());
        self.subscribe(topic, None, presence).await;
    }

    async fn subscribe(&mut self, topic: &str, position: Option<&String>, presence: bool) {
        let name = self::topic(topic).unwrap_or(topic);
        let mut ask = json!({"type": "subscribe", "topic": name, "ref": name});
        if let Some(position) = position {
            ask["since"] = json!(position);
        } else if self.entered.contains(topic) {
            ask["last"] = json!(LAST);
        }
        if presence {
            ask["presence"] = json!(true);
        }
        self.write(|conn, at| Event::Subscribing {
            conn,
            topic: topic.to_owned(),
            presence,
            at,
        });
        self.asked.insert(topic.to_owned());
        self.out.remove(topic);
        self.socket.send(&ask).await;
    }

    /// Publishes to a topic, and notes it when it is answered.
    async fn publish(&mut self, topic: &str, node: &str) {
        self.seq += 1;
        let id = format!("{}-{}", self.name, self.seq);
        let to = vec![topic.to_owned()];
        let ask = json!({
            "type": "publish", "topic": self::topic(topic).unwrap_or(topic), "ref": id,
            "data": {"id": id, "to": to, "seq": self.seq},
        });
        let now = self.recorder.now();
        self.published = Some(Push {
            id,
            by: self.name.clone(),
            via: node.to_owned(),
            seq: self.seq,
            to,
            attempt: 1,
            sent: now,
            answered: now,
            status: String::new(),
            reason: None,
            kept: KEPT_BY_RULE.contains(&topic),
            author: Some(self.name.clone()),
            everywhere: false,
            nodes: Vec::new(),
            parts: Vec::new(),
        });
        self.socket.send(&ask).await;
    }

    /// Notes what it was told of what it has published last.
    fn answered(&mut self, status: &str, reason: Option<String>) {
        let Some(mut push) = self.published.take() else {
            return;
        };
        push.answered = self.recorder.now();
        status.clone_into(&mut push.status);
        push.reason = reason;
        push.parts = vec![Part {
            user: push.to[0].clone(),
            status: status.to_owned(),
            connections: 1,
        }];
        self.recorder.write(Event::Push(push));
    }

    async fn unsubscribe(&mut self, topic: &str) {
        let name = self::topic(topic).unwrap_or(topic);
        let ask = json!({"type": "unsubscribe", "topic": name, "ref": name});
        self.write(|conn, at| Event::Unsubscribing {
            conn,
            topic: topic.to_owned(),
            at,
        });
        self.asked.insert(topic.to_owned());
        self.out.insert(topic.to_owned());
        self.socket.send(&ask).await;
    }
}

impl Device {
    /// Connects again and again, for ever.
    pub(crate) async fn live(mut self, views: Arc<Views>, recorder: Recorder) {
        for round in 0.. {
            let name = format!("d{}r{round}", self.number);
            if self.rng.u8(..3) == 0 {
                // As a page that is opened anew.
                self.positions.clear();
            }
            let connect = self.connect(name, &views, &recorder);
            if let Ok(Some((mut link, ready))) = tokio::time::timeout(CONNECT, connect).await {
                self.enter(&mut link, ready).await;
                views.client_came();
                let (cause, code) = self.listen(&mut link).await;
                link.answered("unknown", None);
                views.client_went();
                link.set_expires_soon(false);
                link.write(|conn, at| Event::Close {
                    conn,
                    cause,
                    code,
                    at,
                });
            }
            let pause = Duration::from_millis(self.rng.u64(20..600));
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether it asks for its topics, instead of naming them when it connects.
    fn asks(&self) -> bool {
        self.wire.can_ask() && (self.resumes || self.watches)
    }

    /// How long its next token is to live.
    fn token_seconds(&mut self, views: &Views) -> u64 {
        if views.is_churning() && self.rng.u8(..3) > 0 {
            self.rng.u64(3..12)
        } else {
            LONG
        }
    }

    async fn connect<'a>(
        &mut self,
        name: String,
        views: &'a Views,
        recorder: &'a Recorder,
    ) -> Option<(Link<'a>, Option<Object>)> {
        let view = views.any(&mut self.rng)?;
        let seconds = self.token_seconds(views);
        let token = match self.pass {
            Some(pass) => Some(pass.issue(&view, &self.user, seconds, recorder).await?),
            None => None,
        };
        let topics = self.topics.iter().filter(|_| !self.asks());
        let wish = Wish {
            user: &self.user,
            device: &name,
            token: token.as_ref().map(|token| &*token.text),
            topics: topics.filter_map(|named| topic(named)).collect(),
            presence: self.watches && self.wire == Wire::Sse,
            since: self.position.as_deref(),
        };
        let mut refused = false;
        let began = recorder.now();
        let socket = Socket::connect(self.wire, &view, &wish, &mut refused).await;
        if refused && self.reloads {
            self.position = None;
        }
        let mut socket = socket?;
        let ready = if self.wire.hears_objects() {
            let Heard::Text(text) = socket.next().await else {
                return None;
            };
            let object: Object = serde_json::from_str(&text).ok()?;
            (object.kind == "ready").then_some(())?;
            Some(object)
        } else {
            None
        };
        let node = ready.as_ref().and_then(|ready| ready.node.clone());
        let link = Link {
            name,
            socket,
            node: node.unwrap_or_else(|| view.id.clone()),
            began,
            view,
            views,
            recorder,
            asked: HashSet::new(),
            entered: HashSet::new(),
            out: HashSet::new(),
            published: None,
            seq: 0,
            bye: None,
            token,
            expires_soon: false,
            renew_at: None,
            renewal: None,
        };
        Some((link, ready))
    }

    /// Notes that it is in, and asks for what it did not name.
    async fn enter(&mut self, link: &mut Link<'_>, ready: Option<Object>) {
        let inbox = self.inbox(ready.as_ref());
        let of_topics = if self.resumes_all {
            inbox.clone()
        } else {
            Inbox::Unknown
        };
        let node = link.node.clone();
        link.write(|conn, at| Event::Open {
            conn,
            user: self.user.clone(),
            v1: self.wire.hears_objects(),
            wire: self.wire,
            node,
            fd: ready.and_then(|ready| ready.fd),
            inbox,
            topics: self.topics.clone(),
            at,
        });
        if let Some(token) = &link.token {
            link.holds(self.pass == Some(Pass::Session), token.ends);
        }
        for named in &self.topics {
            if self.asks() {
                match self.positions.get(named).filter(|_| self.resumes) {
                    None if self.resumes => link.enter(named, self.watches).await,
                    position => link.subscribe(named, position, self.watches).await,
                }
                continue;
            }
            let began = link.began;
            link.write(|conn, _| Event::Subscribing {
                conn,
                topic: named.clone(),
                presence: self.watches,
                at: began,
            });
            link.write(|conn, at| Event::Subscribed {
                conn,
                topic: named.clone(),
                inbox: of_topics.clone(),
                last: None,
                at,
            });
        }
    }

    /// What `ready` says of the user's inbox.
    fn inbox(&mut self, ready: Option<&Object>) -> Inbox {
        let Some(position) = ready.and_then(|ready| ready.resume.clone()) else {
            return Inbox::Unknown;
        };
        if !self.resumes {
            return Inbox::Unknown;
        }
        self.position = Some(position);
        let device = format!("d{}", self.number);
        match ready.and_then(|ready| ready.recovered) {
            Some(true) => Inbox::Continues(device),
            _ => Inbox::Begins(device),
        }
    }

    async fn listen(&mut self, link: &mut Link<'_>) -> Ending {
        let leave = tokio::time::sleep(self.stay());
        let toggle = tokio::time::sleep(self.toggle_pause());
        let publish = tokio::time::sleep(self.publish_pause());
        let views = link.views;
        let end_of_churn = views.churn_ended();
        tokio::pin!(leave, toggle, publish, end_of_churn);
        let (mut left, mut calm) = (false, false);
        loop {
            let renew_at = link.renew_at;
            tokio::select! {
                heard = link.socket.next() => match heard {
                    Heard::Text(text) => self.hear(link, &text).await,
                    Heard::Close(code) => {
                        let end = async { while !matches!(link.socket.next().await, Heard::End) {} };
                        let _ = tokio::time::timeout(GOODBYE, end).await;
                        return (Cause::Node, code);
                    }
                    Heard::End => return self.lost(link),
                },
                () = &mut leave, if !left => {
                    let waits = self.moves && !views.is_moving() && views.is_churning();
                    if waits {
                        leave.as_mut().reset(Instant::now() + self.stay());
                    } else if views.is_churning() {
                        return self.go(link).await;
                    }
                    left = !waits;
                }
                () = &mut toggle, if self.toggles => {
                    toggle.as_mut().reset(Instant::now() + self.toggle_pause());
                    if views.is_churning() {
                        self.toggle(link).await;
                    }
                }
                () = &mut publish, if self.publishes => {
                    publish.as_mut().reset(Instant::now() + self.publish_pause());
                    if views.is_publishing() && link.published.is_none() {
                        self.publish(link).await;
                    }
                }
                () = &mut end_of_churn, if !calm => {
                    calm = true;
                    if link.expires_soon && self.renews {
                        link.renew_at = Some(Instant::now());
                    } else if link.expires_soon {
                        return self.go(link).await;
                    }
                }
                () = until(renew_at), if link.renewal.is_none() => {
                    link.renew_at = None;
                    self.begin_renewal(link);
                }
                token = renewed(&mut link.renewal) => {
                    link.renewal = None;
                    self.present(link, token).await;
                }
            }
        }
    }

    fn stay(&mut self) -> Duration {
        let stay = if self.moves {
            self.rng.u64(100..1_500)
        } else if self.churns {
            self.rng.u64(2_000..20_000)
        } else {
            3_600_000
        };
        Duration::from_millis(stay)
    }

    fn toggle_pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(500..4_000))
    }

    fn publish_pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(200..1_500))
    }

    /// Publishes to one of the topics that it is in, if a rule lets it.
    async fn publish(&mut self, link: &mut Link<'_>) {
        let is_in = |topic: &&String| !link.asked.contains(*topic) && !link.out.contains(*topic);
        let open = |topic: &&String| OPEN_TO_MEMBERS.contains(&&***topic);
        let topics = self.topics.iter().filter(open).filter(is_in);
        let topic = self.rng.choice(topics.collect::<Vec<_>>()).cloned();
        if let Some(topic) = topic {
            let node = link.node.clone();
            link.publish(&topic, &node).await;
        }
    }

    /// Leaves one of its topics, or comes back to it.
    async fn toggle(&mut self, link: &mut Link<'_>) {
        let topic = self.rng.choice(&self.topics);
        let Some(topic) = topic.filter(|topic| !link.asked.contains(*topic)) else {
            return;
        };
        if link.out.contains(topic) {
            let position = self.positions.get(topic).filter(|_| self.resumes);
            link.subscribe(topic, position, self.watches).await;
        } else {
            link.unsubscribe(topic).await;
        }
    }

    /// Has a new token made while it goes on listening.
    fn begin_renewal(&mut self, link: &mut Link<'_>) {
        let Some(pass) = self.pass else { return };
        let seconds = self.token_seconds(link.views);
        let (view, user) = (link.view.clone(), self.user.clone());
        let recorder = link.recorder.clone();
        link.renewal = Some(tokio::spawn(async move {
            pass.issue(&view, &user, seconds, &recorder).await
        }));
    }

    async fn present(&mut self, link: &mut Link<'_>, token: Option<Token>) {
        let Some(token) = token else {
            link.renew_at = Some(Instant::now() + AGAIN);
            return;
        };
        let ask = json!({"type": "auth", "token": token.text, "ref": AUTH});
        link.token = Some(token);
        link.socket.send(&ask).await;
    }

    /// The stream ended. Without close frames, the last word is what tells why.
    fn lost(&self, link: &Link<'_>) -> Ending {
        match link.bye {
            Some(code) if matches!(self.wire, Wire::Sse | Wire::Tcp) => (Cause::Node, Some(code)),
            _ => (Cause::Lost, None),
        }
    }

    /// Leaves: politely, or not.
    async fn go(&mut self, link: &mut Link<'_>) -> Ending {
        if self.rng.bool() || self.wire == Wire::Sse {
            return (Cause::Dropped, None);
        }
        let goodbye = async {
            if !link.socket.close().await {
                return;
            }
            loop {
                match link.socket.next().await {
                    Heard::Text(text) => self.hear(link, &text).await,
                    Heard::Close(_) => {}
                    Heard::End => return,
                }
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        (Cause::Client, None)
    }

    async fn hear(&mut self, link: &mut Link<'_>, text: &str) {
        if self.wire == Wire::Plain {
            let data = serde_json::from_str::<Data>(text).ok();
            return link.write(|conn, at| received(conn, None, data, (false, None), at));
        }
        let Ok(object) = serde_json::from_str::<Object>(text) else {
            return link.write(|conn, at| received(conn, None, None, (false, None), at));
        };
        let topic = object.topic.as_ref().map(|topic| format!("#{topic}"));
        match &*object.kind {
            "message" => self.take(link, object).await,
            "reply" => self.replied(link, object),
            "resync" => link.write(|conn, at| Event::Resync { conn, topic, at }),
            "degraded" => link.write(|conn, at| Event::Degraded { conn, at }),
            "bye" => {
                let code = object.code.and_then(|code| code.as_u64());
                let code = code.unwrap_or_default() as u16;
                link.bye = Some(code);
                link.write(|conn, at| Event::Bye { conn, code, at });
            }
            "ping" => link.socket.send(&json!({"type": "pong"})).await,
            "expiring" if self.renews => {
                // Half of what is left, as docs/clients.md says.
                let left = Duration::from_millis(object.in_ms.unwrap_or_default() / 2);
                link.renew_at = Some(Instant::now() + left);
            }
            "presence" => {
                let news = match (object.members, object.join, object.leave) {
                    (Some(members), ..) => News::Members(members),
                    (_, Some(join), _) => News::Join(join),
                    (.., Some(leave)) => News::Leave(leave),
                    _ => News::Lost,
                };
                let topic = topic.unwrap_or_default();
                link.write(|conn, at| Event::Presence {
                    conn,
                    topic,
                    news,
                    at,
                });
            }
            "error" => {
                // The `ref` is what was asked for.
                let reference = object.reference.unwrap_or_default();
                if link
                    .published
                    .as_ref()
                    .is_some_and(|push| push.id == reference)
                {
                    // Some of its nodes may have it.
                    link.answered("unrouted", None);
                }
                link.asked.remove(&format!("#{reference}"));
                if reference == AUTH {
                    link.renew_at = Some(Instant::now() + AGAIN);
                }
            }
            _ => {}
        }
    }

    async fn take(&mut self, link: &mut Link<'_>, object: Object) {
        let kept = object.resume.is_some();
        if let Some(position) = object.resume.filter(|_| self.resumes) {
            match object.topic {
                Some(topic) => drop(self.positions.insert(format!("#{topic}"), position)),
                None => self.position = Some(position),
            }
        }
        let data = object
            .data
            .and_then(|data| serde_json::from_value::<Data>(data).ok());
        let from = (object.from).map(|from| format!("{} {}", from.user, from.connection));
        link.write(|conn, at| received(conn, object.id.as_deref(), data, (kept, from), at));
        if let Some(id) = object.id.filter(|_| self.acks && self.wire.can_ask()) {
            link.socket.send(&json!({"type": "ack", "id": id})).await;
        }
    }

    /// What the node says of what it was asked for.
    fn replied(&mut self, link: &mut Link<'_>, object: Object) {
        if object.reference.as_deref() == Some(AUTH) {
            let now = link.recorder.now();
            let ends = object.expires_in_ms.map(|left| now + left * 1_000);
            // A session's end may be unknown to its node.
            let ends = ends.or(link.token.as_ref().map(|token| token.ends));
            return link.holds(self.pass == Some(Pass::Session), ends.unwrap_or(u64::MAX));
        }
        if object.status.as_deref() == Some("published") {
            return link.answered("routed", object.reason);
        }
        let Some(topic) = object.topic else {
            return;
        };
        let (topic, device) = (format!("#{topic}"), format!("d{}", self.number));
        link.asked.remove(&topic);
        if object.status.as_deref() == Some("unsubscribed") {
            return link.write(|conn, at| Event::Unsubscribed { conn, topic, at });
        }
        if object.degraded == Some(true) {
            link.write(|conn, at| Event::Degraded { conn, at });
        }
        let (is_proven, enters) = (object.recovered == Some(true), link.entered.remove(&topic));
        let inbox = match object.resume.filter(|_| self.resumes) {
            None => Inbox::Unknown,
            Some(position) => {
                self.positions.insert(topic.clone(), position);
                match is_proven && !enters {
                    true => Inbox::Continues(device),
                    false => Inbox::Begins(device),
                }
            }
        };
        link.write(|conn, at| Event::Subscribed {
            conn,
            topic,
            inbox,
            last: (is_proven && enters).then_some(LAST),
            at,
        });
    }
}

/// Waits for this time, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for a new token, if one is being made, or for ever.
async fn renewed(renewal: &mut Option<JoinHandle<Option<Token>>>) -> Option<Token> {
    match renewal {
        Some(renewal) => renewal.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// What cannot be read, or bears two ids, is a message that nobody published.
fn received(
    conn: String,
    outer: Option<&str>,
    data: Option<Data>,
    (kept, from): (bool, Option<String>),
    at: u64,
) -> Event {
    let (id, to) = match data {
        Some(data) if outer.as_ref().is_none_or(|outer| *outer == data.id) => (data.id, data.to),
        Some(data) => (format!("{outer:?} around {}", data.id), data.to),
        None => ("unreadable".to_owned(), vec![EVERYBODY.to_owned()]),
    };
    Event::Recv {
        conn,
        id,
        to,
        kept,
        from,
        at,
    }
}
