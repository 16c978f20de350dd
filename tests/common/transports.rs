//! A client of any transport: what it hears is told in the objects of `pushnode.v1`, so that one
//! scenario serves them all. SSE and lines are read byte by byte, without a library.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{Node, PATIENCE, http, refused_handshake};

/// A way to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Ws,
    Sse,
    Tcp,
}

/// The names of events that are objects of the node; any other is the name of a push.
const OBJECTS: [&str; 9] = [
    "ready",
    "resync",
    "degraded",
    "expiring",
    "subscribed",
    "unsubscribed",
    "presence",
    "bye",
    "error",
];

/// All of them.
pub const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Sse, Transport::Tcp];

impl Transport {
    /// As rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Tcp => "tcp",
        }
    }
}

/// A client that is in.
pub struct AnyClient {
    kind: Kind,
    /// Its first object.
    pub ready: Value,
    /// The last `retry:` of an SSE stream.
    pub retry: Option<u64>,
    /// The last `id:` of an SSE stream.
    pub last_id: Option<String>,
    /// Comments that came over SSE.
    pub beats: usize,
    /// Whether it answers the pings of lines.
    pub answers_pings: bool,
    /// The lines of an SSE event whose end has not come.
    event: String,
}

enum Kind {
    Ws(Box<WebSocketStream<TcpStream>>),
    Sse(Bytes),
    Tcp(Bytes),
}

/// A socket and what was read from it beyond what was asked for.
pub struct Bytes {
    pub socket: TcpStream,
    unread: Vec<u8>,
}

impl Bytes {
    pub fn over(socket: TcpStream) -> Self {
        let unread = Vec::new();
        Self { socket, unread }
    }

    /// Reads up to `end`, which is left out; `None` at the end of the stream.
    pub async fn until(&mut self, end: &str) -> Option<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            let found = self.unread[from..]
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.unread.split_off(from + at + end.len());
                let mut text = std::mem::replace(&mut self.unread, rest);
                text.truncate(from + at);
                return Some(String::from_utf8(text).expect("UTF-8"));
            }
            from = self.unread.len().saturating_sub(end.len());
            let mut chunk = vec![0; 64 * 1024];
            let read = tokio::time::timeout_at(deadline, self.socket.read(&mut chunk)).await;
            match read.expect("something in time") {
                Ok(0) | Err(_) => {
                    assert!(
                        self.unread.is_empty(),
                        "cut off: {}",
                        self.unread.escape_ascii()
                    );
                    return None;
                }
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

impl Bytes {
    /// All that still comes, to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.unread);
        let read = tokio::time::timeout(PATIENCE, self.socket.read_to_end(&mut rest));
        // An end by a reset is one, too.
        let _ = read.await.expect("the end in time");
        rest
    }
}

/// The address for a transport.
pub fn address(node: &Node, transport: Transport) -> SocketAddr {
    match transport {
        Transport::Ws | Transport::Sse => node.client_address(),
        Transport::Tcp => node.lines[0],
    }
}

/// Connects and waits for `ready`.
pub async fn connect(
    transport: Transport,
    node: &Node,
    user: &str,
    since: Option<&str>,
) -> AnyClient {
    connect_to(address(node, transport), transport, user, since).await
}

/// As [`connect`], by an address that may be a proxy's.
pub async fn connect_to(
    address: SocketAddr,
    transport: Transport,
    user: &str,
    since: Option<&str>,
) -> AnyClient {
    let socket = TcpStream::connect(address).await;
    let who = [("user", user)];
    connect_over(socket.expect("a connection"), transport, &who, since).await
}

/// As [`connect`], by a token or with other fields of the query or the first line.
pub async fn connect_as(transport: Transport, node: &Node, who: &[(&str, &str)]) -> AnyClient {
    let socket = TcpStream::connect(address(node, transport)).await;
    connect_over(socket.expect("a connection"), transport, who, None).await
}

/// As [`connect_as`], with the token or the id of the last event that it was given.
pub async fn connect_back(
    transport: Transport,
    node: &Node,
    who: &[(&str, &str)],
    since: Option<&str>,
) -> AnyClient {
    let socket = TcpStream::connect(address(node, transport)).await;
    connect_over(socket.expect("a connection"), transport, who, since).await
}

/// The code of the error with which a client is refused.
pub async fn refused_as(transport: Transport, node: &Node, who: &[(&str, &str)]) -> String {
    let query = query(who);
    let error = match transport {
        Transport::Ws => {
            let url = format!("ws://{}/ws?{query}", node.client_address());
            let (_, body) = refused_handshake(&url).await;
            serde_json::from_str::<Value>(&body).expect("JSON")["error"].take()
        }
        Transport::Sse => {
            let asked = http().get(node.url(&format!("/sse?{query}"))).send().await;
            let answer = asked.expect("an answer");
            answer.json::<Value>().await.expect("JSON")["error"].take()
        }
        Transport::Tcp => {
            let mut socket = TcpStream::connect(address(node, transport))
                .await
                .expect("a connection");
            let first = first_line(who, None);
            socket.write_all(first.as_bytes()).await.expect("sent");
            let mut stream = Bytes::over(socket);
            let line = stream.until("\n").await.expect("a line");
            assert_eq!(stream.until("\n").await, None, "the end behind {line}");
            serde_json::from_str(&line).expect("JSON")
        }
    };
    error["code"].as_str().expect("a code").to_owned()
}

fn query(who: &[(&str, &str)]) -> String {
    let pairs = who.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join("&")
}

fn first_line(who: &[(&str, &str)], since: Option<&str>) -> String {
    let mut first = json!({"type": "connect"});
    for (name, value) in who
        .iter()
        .copied()
        .chain(since.map(|since| ("since", since)))
    {
        first[name] = value.into();
    }
    format!("{first}\n")
}

/// As [`connect`], with a kernel that takes little for a client that does not read.
pub async fn connect_narrow(transport: Transport, node: &Node, user: &str) -> AnyClient {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let socket = socket.connect(address(node, transport)).await;
    let who = [("user", user)];
    connect_over(socket.expect("a connection"), transport, &who, None).await
}

async fn connect_over(
    mut socket: TcpStream,
    transport: Transport,
    who: &[(&str, &str)],
    since: Option<&str>,
) -> AnyClient {
    let query = query(who);
    let kind = match transport {
        Transport::Ws => {
            let since = since.map_or(String::new(), |since| format!("&since={since}"));
            let url = format!("ws://localhost/ws?{query}{since}");
            let mut request = url.into_client_request().expect("a URL");
            let protocol = "pushnode.v1".parse().expect("a header");
            request
                .headers_mut()
                .insert("sec-websocket-protocol", protocol);
            let (socket, _) = tokio_tungstenite::client_async(request, socket)
                .await
                .expect("a handshake");
            Kind::Ws(Box::new(socket))
        }
        Transport::Sse => {
            let since = since.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
            // By HTTP/1.0, because proxies cut the stream into chunks for who speaks 1.1.
            let request = format!("GET /sse?{query} HTTP/1.0\r\nHost: localhost\r\n{since}\r\n");
            socket.write_all(request.as_bytes()).await.expect("sent");
            let mut stream = Bytes::over(socket);
            let head = stream.until("\r\n\r\n").await.expect("a head");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            let is_stream = head
                .to_ascii_lowercase()
                .contains("\r\ncontent-type: text/event-stream\r\n");
            assert!(is_stream, "{head}");
            Kind::Sse(stream)
        }
        Transport::Tcp => {
            let first = first_line(who, since);
            socket.write_all(first.as_bytes()).await.expect("sent");
            Kind::Tcp(Bytes::over(socket))
        }
    };
    let mut client = AnyClient {
        kind,
        ready: Value::Null,
        retry: None,
        last_id: None,
        beats: 0,
        answers_pings: true,
        event: String::new(),
    };
    let ready = client.json().await;
    assert_eq!(ready["type"], "ready", "{ready}");
    client.ready = ready;
    client
}

impl AnyClient {
    /// The next object; `None` at the end of the connection. Pings and beats are left out.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match &mut self.kind {
                Kind::Ws(socket) => {
                    let next = tokio::time::timeout(PATIENCE, socket.next()).await;
                    match next.expect("a frame in time") {
                        Some(Ok(Message::Text(text))) => {
                            return Some(serde_json::from_str(&text).expect("JSON"));
                        }
                        None | Some(Ok(Message::Close(_)) | Err(_)) => return None,
                        Some(Ok(_)) => {}
                    }
                }
                Kind::Tcp(stream) => {
                    let line = stream.until("\n").await?;
                    let object: Value = serde_json::from_str(&line).expect("JSON");
                    if object["type"] != "ping" {
                        return Some(object);
                    }
                    if self.answers_pings {
                        self.send(&json!({"type": "pong"})).await;
                    }
                }
                Kind::Sse(stream) => {
                    let Some(line) = stream.until("\n").await else {
                        assert_eq!(self.event, "", "an event is cut off");
                        return None;
                    };
                    if line == ":" {
                        self.beats += 1;
                    } else if !line.is_empty() {
                        self.event.extend([&line, "\n"]);
                    } else {
                        // An empty line only ends an event: lenient readers take any for one.
                        assert_ne!(self.event, "", "an event without fields");
                        let event = std::mem::take(&mut self.event);
                        return Some(self.event(&event));
                    }
                }
            }
        }
    }

    /// An event as the object that it would be elsewhere.
    fn event(&mut self, event: &str) -> Value {
        let (mut name, mut data, mut id) = (None, None, None);
        for line in event.lines() {
            let (field, value) = line.split_once(": ").expect("a field");
            match field {
                "event" => name = Some(value),
                "data" => assert!(data.replace(value).is_none(), "twice data: {event}"),
                "id" => id = Some(value.to_owned()),
                "retry" => self.retry = Some(value.parse().expect("milliseconds")),
                other => panic!("field {other} in {event}"),
            }
        }
        self.last_id = id.clone().or(self.last_id.take());
        let data: Value = serde_json::from_str(data.expect("data")).expect("JSON");
        if let Some(name) = name.filter(|name| OBJECTS.contains(name)) {
            assert_eq!(data["type"], name, "{event}");
            return data;
        }
        let mut message = json!({"type": "message", "data": data});
        let parts = [("event", name.map(str::to_owned)), ("resume", id)];
        for (field, text) in parts {
            if let Some(text) = text {
                message[field] = text.into();
            }
        }
        message
    }

    /// The next object, which must come.
    pub async fn json(&mut self) -> Value {
        self.next().await.expect("an object, not the end")
    }

    /// The next object, which must be a message with this data.
    pub async fn hears(&mut self, data: impl Into<Value>) {
        let next = self.json().await;
        let data = data.into();
        assert_eq!((&next["type"], &next["data"]), (&json!("message"), &data));
    }

    /// Sends an object; not over SSE.
    pub async fn send(&mut self, object: &Value) {
        let text = object.to_string();
        match &mut self.kind {
            Kind::Ws(socket) => socket.send(Message::text(text)).await.expect("sent"),
            Kind::Tcp(_) => self.send_bytes(format!("{text}\n").as_bytes()).await,
            Kind::Sse(_) => panic!("an SSE client cannot send"),
        }
    }

    /// Sends bytes as they stand.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let socket = match &mut self.kind {
            Kind::Ws(socket) => socket.get_mut(),
            Kind::Sse(stream) | Kind::Tcp(stream) => &mut stream.socket,
        };
        socket.write_all(bytes).await.expect("sent");
    }

    /// The next object, which must be a goodbye with this code and reason, and then the end.
    pub async fn bye(&mut self, code: u16, reason: &str) -> Value {
        let bye = self.json().await;
        assert_eq!(
            (&bye["type"], &bye["code"], &bye["reason"]),
            (&json!("bye"), &json!(code), &json!(reason)),
            "{bye}"
        );
        self.end().await;
        bye
    }

    /// Reads to the end of the connection; nothing may come before it.
    pub async fn end(&mut self) {
        let next = self.next().await;
        assert_eq!(next, None, "the end");
        if let Kind::Ws(socket) = &mut self.kind {
            // Answers the close frame.
            while let Some(Ok(_)) = socket.next().await {}
        }
    }

    /// `<node>/<fd>`.
    pub fn connection(&self) -> String {
        format!(
            "{}/{}",
            self.ready["node"].as_str().unwrap(),
            self.ready["fd"]
        )
    }
}
