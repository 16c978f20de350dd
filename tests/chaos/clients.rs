//! Clients: users' devices that connect to any node, listen, and come back when cut off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::history::{Cause, EVERYBODY, Event, Inbox, Recorder, topic};
use crate::views::{View, Views};

/// Longest wait for a handshake, and for `ready`.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a client that says goodbye waits for the answer.
const GOODBYE: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One device of one user.
pub(crate) struct Device {
    pub(crate) number: usize,
    pub(crate) user: String,
    pub(crate) v1: bool,
    /// Whether it acknowledges.
    pub(crate) acks: bool,
    /// Whether it leaves and comes back of its own accord.
    pub(crate) churns: bool,
    /// Whether it comes back with its last token.
    pub(crate) resumes: bool,
    /// The last one it saw.
    pub(crate) token: Option<String>,
    /// As [`Event::Open`] has them. It names them when it connects or, if it resumes, asks for each then.
    pub(crate) topics: Vec<String>,
    /// The last one it saw of each.
    pub(crate) tokens: HashMap<String, String>,
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
    node: Option<String>,
    fd: Option<u64>,
    id: Option<String>,
    topic: Option<String>,
    degraded: Option<bool>,
    data: Option<serde_json::Value>,
    code: Option<u16>,
    resume: Option<String>,
    recovered: Option<bool>,
}

/// How listening ended, and the node's close code.
type Ending = (Cause, Option<u16>);

impl Device {
    /// Connects again and again, for ever.
    pub(crate) async fn live(mut self, views: Arc<Views>, recorder: Recorder) {
        for round in 0.. {
            let name = format!("d{}r{round}", self.number);
            if let Some(view) = views.any(&mut self.rng)
                && let Some((mut socket, ready)) = self.connect(&name, &view).await
            {
                let inbox = self.inbox(ready.as_ref());
                recorder.write(Event::Open {
                    conn: name.clone(),
                    user: self.user.clone(),
                    v1: self.v1,
                    node: ready
                        .as_ref()
                        .and_then(|ready| ready.node.clone())
                        .unwrap_or(view.id),
                    fd: ready.and_then(|ready| ready.fd),
                    inbox,
                    topics: self.topics.clone(),
                    at: recorder.now(),
                });
                self.subscribe(&name, &mut socket, &recorder).await;
                views.client_came();
                let (cause, code) = self.listen(&name, socket, &views, &recorder).await;
                views.client_went();
                recorder.write(Event::Close {
                    conn: name,
                    cause,
                    code,
                    at: recorder.now(),
                });
            }
            let pause = Duration::from_millis(self.rng.u64(20..600));
            tokio::time::sleep(pause).await;
        }
    }

    /// What `ready` says of the user's inbox.
    fn inbox(&mut self, ready: Option<&Object>) -> Inbox {
        let Some(token) = ready.and_then(|ready| ready.resume.clone()) else {
            return Inbox::Unknown;
        };
        if !self.resumes {
            return Inbox::Unknown;
        }
        self.token = Some(token);
        let device = format!("d{}", self.number);
        match ready.and_then(|ready| ready.recovered) {
            Some(true) => Inbox::Continues(device),
            _ => Inbox::Begins(device),
        }
    }

    /// Notes the topics that it came with, or asks for them.
    async fn subscribe(&self, conn: &str, socket: &mut Socket, recorder: &Recorder) {
        for named in &self.topics {
            if self.resumes {
                let topic = topic(named);
                let mut ask = json!({"type": "subscribe", "topic": topic, "ref": topic});
                if let Some(token) = self.tokens.get(named) {
                    ask["since"] = json!(token);
                }
                // A connection that just ended says so to the next read.
                let _ = socket.send(Message::text(ask.to_string())).await;
            } else {
                recorder.write(Event::Subscribed {
                    conn: conn.to_owned(),
                    topic: named.clone(),
                    inbox: Inbox::Unknown,
                    at: recorder.now(),
                });
            }
        }
    }

    /// What the node says of a topic that it was asked for.
    fn subscribed(&mut self, conn: String, object: Object, recorder: &Recorder) {
        let (Some(topic), at) = (object.topic, recorder.now()) else {
            return;
        };
        let (topic, device) = (format!("#{topic}"), format!("d{}", self.number));
        if object.degraded == Some(true) {
            let conn = conn.clone();
            recorder.write(Event::Degraded { conn, at });
        }
        let inbox = match object.resume {
            None => Inbox::Unknown,
            Some(token) => {
                self.tokens.insert(topic.clone(), token);
                match object.recovered {
                    Some(true) => Inbox::Continues(device),
                    _ => Inbox::Begins(device),
                }
            }
        };
        recorder.write(Event::Subscribed {
            conn,
            topic,
            inbox,
            at,
        });
    }

    async fn connect(&self, name: &str, view: &View) -> Option<(Socket, Option<Object>)> {
        let mut url = format!("ws://{}/ws?user={}&device={name}", view.clients, self.user);
        if let Some(token) = &self.token {
            let escaped: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
            url += &format!("&since={escaped}");
        }
        if !self.resumes && !self.topics.is_empty() {
            let topics: Vec<&str> = self
                .topics
                .iter()
                .filter_map(|named| topic(named))
                .collect();
            url += &format!("&topics={}", topics.join(","));
        }
        let mut request = url.into_client_request().ok()?;
        if self.v1 {
            let v1 = "pushnode.v1".parse().ok()?;
            request.headers_mut().insert("sec-websocket-protocol", v1);
        }
        let handshake = async {
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.ok()?;
            if !self.v1 {
                return Some((socket, None));
            }
            match socket.next().await? {
                Ok(Message::Text(text)) => {
                    let object: Object = serde_json::from_str(&text).ok()?;
                    (object.kind == "ready").then_some((socket, Some(object)))
                }
                _ => None,
            }
        };
        tokio::time::timeout(CONNECT, handshake).await.ok()?
    }

    async fn listen(
        &mut self,
        name: &str,
        mut socket: Socket,
        views: &Views,
        recorder: &Recorder,
    ) -> Ending {
        let stay = if self.churns {
            self.rng.u64(2_000..20_000)
        } else {
            3_600_000
        };
        let leave = tokio::time::sleep(Duration::from_millis(stay));
        tokio::pin!(leave);
        let mut left = false;
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                () = &mut leave, if !left => {
                    left = true;
                    if views.is_churning() {
                        return self.go(name, socket, recorder).await;
                    }
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.hear(name, &text, &mut socket, recorder).await;
                }
                Some(Ok(Message::Close(frame))) => {
                    let end = async { while let Some(Ok(_)) = socket.next().await {} };
                    let _ = tokio::time::timeout(GOODBYE, end).await;
                    return (Cause::Node, frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (Cause::Lost, None),
            }
        }
    }

    /// Leaves: politely, or not.
    async fn go(&mut self, name: &str, mut socket: Socket, recorder: &Recorder) -> Ending {
        if self.rng.bool() {
            return (Cause::Dropped, None);
        }
        let goodbye = async {
            socket.close(None).await.ok()?;
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        self.hear(name, &text, &mut socket, recorder).await;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Some(()),
                }
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        (Cause::Client, None)
    }

    async fn hear(&mut self, name: &str, text: &str, socket: &mut Socket, recorder: &Recorder) {
        let (conn, at) = (name.to_owned(), recorder.now());
        if !self.v1 {
            let data = serde_json::from_str::<Data>(text).ok();
            return recorder.write(received(conn, None, data, false, at));
        }
        let Ok(object) = serde_json::from_str::<Object>(text) else {
            return recorder.write(received(conn, None, None, false, at));
        };
        match &*object.kind {
            "message" => {
                let kept = object.resume.is_some();
                if let Some(token) = object.resume.filter(|_| self.resumes) {
                    match object.topic {
                        Some(topic) => drop(self.tokens.insert(format!("#{topic}"), token)),
                        None => self.token = Some(token),
                    }
                }
                let data = object
                    .data
                    .and_then(|data| serde_json::from_value::<Data>(data).ok());
                recorder.write(received(conn, object.id.as_deref(), data, kept, at));
                if let Some(id) = object.id.filter(|_| self.acks) {
                    let ack = json!({"type": "ack", "id": id});
                    // A connection that just ended says so to the next read.
                    let _ = socket.send(Message::text(ack.to_string())).await;
                }
            }
            "reply" => self.subscribed(conn, object, recorder),
            "resync" => {
                let topic = object.topic.map(|topic| format!("#{topic}"));
                recorder.write(Event::Resync { conn, topic, at });
            }
            "degraded" => recorder.write(Event::Degraded { conn, at }),
            "bye" => recorder.write(Event::Bye {
                conn,
                code: object.code.unwrap_or_default(),
                at,
            }),
            _ => {}
        }
    }
}

/// What cannot be read, or bears two ids, is a message that nobody published.
fn received(conn: String, outer: Option<&str>, data: Option<Data>, kept: bool, at: u64) -> Event {
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
        at,
    }
}
