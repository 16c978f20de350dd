//! The ways for a client to connect: WebSocket with and without `pushnode.v1`, server-sent events,
//! and plain TCP. What comes is told as the texts of a WebSocket, whatever carried it.

use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::views::View;

/// How a device connects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wire {
    /// A WebSocket without subprotocol: hears data and nothing else.
    Plain,
    /// A WebSocket with `pushnode.v1`.
    #[default]
    V1,
    Sse,
    Tcp,
}

impl Wire {
    /// Whether it hears of losses, its node and the end.
    pub(crate) fn hears_objects(self) -> bool {
        self != Self::Plain
    }

    /// Whether it can subscribe and unsubscribe, acknowledge, and renew its token.
    pub(crate) fn can_ask(self) -> bool {
        matches!(self, Self::V1 | Self::Tcp)
    }
}

/// What a device says when it connects.
#[derive(Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) user: &'a str,
    pub(crate) device: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) topics: Vec<&'a str>,
    /// Of these topics.
    pub(crate) presence: bool,
    pub(crate) since: Option<&'a str>,
}

impl Wish<'_> {
    /// Without `since`, which server-sent events have in a header.
    fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("user", self.user);
        query.append_pair("device", self.device);
        if !self.topics.is_empty() {
            query.append_pair("topics", &self.topics.join(","));
        }
        if self.presence {
            query.append_pair("presence", "true");
        }
        query.finish()
    }

    fn line(&self) -> String {
        let mut line = json!({"type": "connect", "user": self.user, "device": self.device});
        if let Some(token) = self.token {
            line["token"] = json!(token);
        }
        if !self.topics.is_empty() {
            line["topics"] = json!(self.topics);
        }
        if self.presence {
            line["presence"] = json!(true);
        }
        if let Some(since) = self.since {
            line["since"] = json!(since);
        }
        format!("{line}\n")
    }
}

/// What comes of a connection.
#[derive(Debug)]
pub(crate) enum Heard {
    Text(String),
    /// A close frame, with its code.
    Close(Option<u16>),
    /// The stream ended.
    End,
}

/// A connection. What it reads is kept if the reader is dropped in between.
pub(crate) enum Socket {
    Ws(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Sse(Pieces),
    Tcp(Pieces),
}

impl Socket {
    /// Connects; for server-sent events the answer is a stream, the rest is still to come.
    /// `refused` is set if the node calls the request bad.
    pub(crate) async fn connect(
        wire: Wire,
        view: &View,
        wish: &Wish<'_>,
        refused: &mut bool,
    ) -> Option<Self> {
        match wire {
            Wire::Plain | Wire::V1 => {
                let mut url = format!("ws://{}/ws?{}", view.clients, wish.query());
                if let Some(since) = wish.since {
                    let since = url::form_urlencoded::byte_serialize(since.as_bytes());
                    url = since.fold(url + "&since=", |url, piece| url + piece);
                }
                let mut request = url.into_client_request().ok()?;
                if wire == Wire::V1 {
                    let v1 = "pushnode.v1".parse().ok()?;
                    request.headers_mut().insert("sec-websocket-protocol", v1);
                }
                if let Some(token) = wish.token {
                    let bearer = format!("Bearer {token}").parse().ok()?;
                    request.headers_mut().insert("authorization", bearer);
                }
                let (socket, _) = tokio_tungstenite::connect_async(request).await.ok()?;
                Some(Self::Ws(Box::new(socket)))
            }
            Wire::Sse => {
                // By HTTP/1.0: a stream of events as they are, not in chunks.
                let mut head = format!("GET /sse?{} HTTP/1.0\r\n", wish.query());
                head += &format!("Host: {}\r\n", view.clients);
                if let Some(token) = wish.token {
                    head += &format!("Authorization: Bearer {token}\r\n");
                }
                if let Some(since) = wish.since {
                    head += &format!("Last-Event-ID: {since}\r\n");
                }
                head += "\r\n";
                let mut pieces = Pieces::connect(view.clients, &head).await?;
                let answer = pieces.until("\r\n\r\n").await?;
                *refused = answer.split(' ').nth(1) == Some("400");
                answer
                    .starts_with("HTTP/1.1 200 ")
                    .then_some(Self::Sse(pieces))
            }
            Wire::Tcp => {
                let pieces = Pieces::connect(view.lines?, &wish.line()).await?;
                Some(Self::Tcp(pieces))
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            match self {
                Self::Ws(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Heard::Text(text.to_string()),
                    Some(Ok(Message::Close(frame))) => {
                        return Heard::Close(frame.map(|frame| frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Heard::End,
                },
                Self::Tcp(pieces) => match pieces.until("\n").await {
                    Some(line) if line.is_empty() => {}
                    Some(line) => return Heard::Text(line),
                    None => return Heard::End,
                },
                Self::Sse(pieces) => match pieces.until("\n\n").await {
                    Some(text) => {
                        if let Some(object) = event(&text) {
                            return Heard::Text(object.to_string());
                        }
                    }
                    None => return Heard::End,
                },
            }
        }
    }

    /// Sends an object. A connection that just ended says so to the next read.
    pub(crate) async fn send(&mut self, object: &Value) {
        let text = object.to_string();
        match self {
            Self::Ws(socket) => drop(socket.send(Message::text(text)).await),
            Self::Tcp(pieces) => {
                let line = format!("{text}\n");
                let _ = pieces.socket.write_all(line.as_bytes()).await;
            }
            Self::Sse(_) => {}
        }
    }

    /// Ends the connection at a message that it cannot take: with a word, where there is one for
    /// that, or by vanishing.
    pub(crate) async fn refuse(mut self, politely: bool) {
        if let Self::Ws(socket) = &mut self
            && politely
        {
            let frame = CloseFrame {
                code: CloseCode::Size,
                reason: "".into(),
            };
            let _ = (**socket).close(Some(frame)).await;
        }
    }

    /// Says goodbye; what still comes can be read. Answers whether this way has a goodbye.
    pub(crate) async fn close(&mut self) -> bool {
        match self {
            Self::Ws(socket) => (**socket).close(None).await.is_ok(),
            Self::Tcp(pieces) | Self::Sse(pieces) => pieces.socket.shutdown().await.is_ok(),
        }
    }
}

/// An event as the object that it would be elsewhere; none for a comment.
fn event(text: &str) -> Option<Value> {
    let (mut name, mut data, mut id) = (None, None, None);
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => name = Some(value),
            Some(("data", value)) => data = Some(value),
            Some(("id", value)) => id = Some(value),
            _ => {}
        }
    }
    let data = data?;
    let Ok(data) = serde_json::from_str::<Value>(data) else {
        // Shows up as a message that nobody published.
        return Some(json!({"type": "message", "data": text}));
    };
    let mut object = if name.is_some() {
        data
    } else {
        json!({"type": "message", "data": data})
    };
    if let Some(id) = id.filter(|_| matches!(name, None | Some("ready"))) {
        object["resume"] = json!(id);
    }
    Some(object)
}

/// A socket whose stream is read in pieces that end alike.
pub(crate) struct Pieces {
    socket: TcpStream,
    unread: Vec<u8>,
}

impl Pieces {
    async fn connect(address: std::net::SocketAddr, first: &str) -> Option<Self> {
        let mut socket = TcpStream::connect(address).await.ok()?;
        socket.set_nodelay(true).ok()?;
        socket.write_all(first.as_bytes()).await.ok()?;
        Some(Self {
            socket,
            unread: Vec::new(),
        })
    }

    /// Up to `end`, which is left out; none at the end of the stream.
    async fn until(&mut self, end: &str) -> Option<String> {
        let mut from = 0;
        loop {
            let ours = &self.unread[from..];
            let found = ours
                .windows(end.len())
                .position(|one| one == end.as_bytes());
            if let Some(at) = found {
                let rest = self.unread.split_off(from + at + end.len());
                let mut piece = std::mem::replace(&mut self.unread, rest);
                piece.truncate(from + at);
                return Some(String::from_utf8_lossy(&piece).into_owned());
            }
            from = self.unread.len().saturating_sub(end.len() - 1);
            match self.socket.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
