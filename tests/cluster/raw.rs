//! Clients cheap enough for thousands: HTTP, Redis and WebSocket over bare TCP streams.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::PATIENCE;

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = in_time("connect", TcpStream::connect(address)).await;
    let stream = stream.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// A sender with one kept-alive connection.
pub(crate) struct Api {
    stream: BufReader<TcpStream>,
}

impl Api {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = BufReader::new(connect(address).await);
        Self { stream }
    }

    /// `POST /v1/push`; answers status and body.
    pub(crate) async fn push(&mut self, content_type: &str, body: &str) -> (u16, String) {
        let request = format!(
            "POST /v1/push HTTP/1.1\r\nhost: node\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = self.stream.get_mut().write_all(request.as_bytes()).await;
        sent.expect("the request is sent");
        in_time("an answer to a push", self.answer()).await
    }

    async fn answer(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.stream.read_line(&mut line).await.expect("a header");
            assert!(count > 0, "the node hung up on a sender");
            let words = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = words.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(value) = words.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            } else if words.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.expect("a body");
        (status, String::from_utf8(body).expect("UTF-8"))
    }
}

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Number(i64),
    List(Vec<Answer>),
    Nothing,
    Error(String),
}

impl Answer {
    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("Redis answered {other:?} instead of a number"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("Redis answered {other:?} instead of a text"),
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::List(list) => list.iter().map(|one| one.text().to_owned()).collect(),
            other => panic!("Redis answered {other:?} instead of a list"),
        }
    }
}

/// A Redis client of its own, pipelined (RESP2).
pub(crate) struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = BufReader::new(connect(SocketAddr::from(([127, 0, 0, 1], port))).await);
        Self { stream }
    }

    pub(crate) async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Answer {
        self.send([command]).await;
        self.next().await
    }

    /// Sends all, then reads all answers.
    pub(crate) async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Vec<Answer> {
        self.send(commands.iter().map(Vec::as_slice)).await;
        let mut answers = Vec::with_capacity(commands.len());
        for _ in commands {
            answers.push(self.next().await);
        }
        answers
    }

    async fn send<'a, A: AsRef<[u8]> + 'a>(&mut self, commands: impl IntoIterator<Item = &'a [A]>) {
        let mut out = Vec::new();
        for command in commands {
            out.extend(format!("*{}\r\n", command.len()).bytes());
            for argument in command {
                let argument = argument.as_ref();
                out.extend(format!("${}\r\n", argument.len()).bytes());
                out.extend(argument);
                out.extend(b"\r\n");
            }
        }
        let sent = self.stream.get_mut().write_all(&out).await;
        sent.expect("Redis takes the command");
    }

    /// The next answer, or the next thing heard on a subscription.
    pub(crate) async fn next(&mut self) -> Answer {
        in_time("an answer of Redis", self.read()).await
    }

    async fn read(&mut self) -> Answer {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).await.expect("an answer");
        assert!(count > 0, "Redis hung up");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(number()),
            "$" | "*" if number() < 0 => Answer::Nothing,
            "$" => {
                let mut text = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut text).await.expect("a text");
                text.truncate(text.len() - 2);
                Answer::Text(String::from_utf8_lossy(&text).into_owned())
            }
            "*" => {
                let mut list = Vec::new();
                for _ in 0..number() {
                    list.push(Box::pin(self.read()).await);
                }
                Answer::List(list)
            }
            _ => panic!("not RESP: {line:?}"),
        }
    }
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Text(String),
    /// The node's close frame.
    Close(u16),
    /// The stream has ended.
    End,
}

/// A WebSocket client: only what reading needs.
pub(crate) struct Socket {
    stream: BufReader<TcpStream>,
}

impl Socket {
    /// Connects as `query` says (`user=42&device=phone`); back once the node has said 101.
    pub(crate) async fn connect(address: SocketAddr, query: &str, v1: bool) -> Self {
        let mut stream = BufReader::with_capacity(512, connect(address).await);
        let protocol = if v1 {
            "sec-websocket-protocol: pushnode.v1\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET /ws?{query} HTTP/1.1\r\nhost: node\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        let sent = stream.get_mut().write_all(request.as_bytes()).await;
        sent.expect("the handshake is sent");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = in_time("a handshake", stream.read_line(&mut head)).await;
            assert!(read.expect("a header") > 0, "hung up after {head:?}");
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{query}: {head}");
        Self { stream }
    }

    /// The next text or end; pings are answered on the way.
    pub(crate) async fn event(&mut self) -> Event {
        self.frame().await.unwrap_or(Event::End)
    }

    async fn frame(&mut self) -> std::io::Result<Event> {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).await?;
            let length = match head[1] {
                126 => usize::from(self.stream.read_u16().await?),
                127 => self.stream.read_u64().await? as usize,
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await?;
            match head[0] {
                0x81 => return Ok(Event::Text(String::from_utf8(payload).expect("UTF-8"))),
                0x88 => {
                    let code = payload.get(..2).map_or(1005, |code| {
                        u16::from_be_bytes(code.try_into().expect("two bytes"))
                    });
                    return Ok(Event::Close(code));
                }
                // An empty pong, its mask zero.
                0x89 => {
                    let pong = [0x8A, 0x80, 0, 0, 0, 0];
                    self.stream.get_mut().write_all(&pong).await?;
                }
                other => panic!("unexpected frame {other:#x}"),
            }
        }
    }
}

/// Passes on all but what is to be lost.
async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    lost: &Mutex<Option<String>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let is_unlucky = {
            let mut words = lost.lock().expect("no poison");
            let text = String::from_utf8_lossy(&buffer[..count]);
            words.take_if(|words| text.contains(&**words)).is_some()
        };
        if !is_unlucky && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Carries what a client says, and notes it.
async fn relay(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    sent: &Mutex<String>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..count]);
        sent.lock().expect("no poison").push_str(&text);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Until a silence begins that is for the connection on which this was sent.
async fn fallen_silent(
    silences: &mut watch::Receiver<(u32, Option<String>)>,
    sent: &Mutex<String>,
) {
    while silences.changed().await.is_ok() {
        let word = silences.borrow_and_update().1.clone();
        let sent = sent.lock().expect("no poison");
        if word.is_none_or(|word| sent.contains(&word)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// A way to Redis that can fall silent without closing, as when a host dies or a firewall
/// forgets, and that can lose a message.
pub(crate) struct Wire {
    pub(crate) port: u16,
    /// Counts the silences; if there is a word, only of connections on which it was sent to Redis.
    silences: watch::Sender<(u32, Option<String>)>,
    unlucky: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own_port = listener.local_addr().expect("an address").port();
        let (silences, _) = watch::channel((0, None));
        let silenced = silences.clone();
        let unlucky = Arc::<Mutex<Option<String>>>::default();
        let lost = unlucky.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.expect("a connection");
                let (mut silence, lost) = (silenced.subscribe(), lost.clone());
                tokio::spawn(async move {
                    let mut redis = connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
                    let (mut from_client, mut to_client) = client.split();
                    let (mut from_redis, mut to_redis) = redis.split();
                    let sent = Mutex::default();
                    tokio::select! {
                        () = relay(&mut from_client, &mut to_redis, &sent) => {}
                        () = carry(&mut from_redis, &mut to_client, &lost) => {}
                        // Both stay open and nobody reads: gone only with the test.
                        () = fallen_silent(&mut silence, &sent) => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            port: own_port,
            silences,
            unlucky,
            task,
        }
    }

    /// From now on nothing passes over the connections that are open; new ones work.
    pub(crate) fn silence(&self) {
        self.silences
            .send_modify(|(count, word)| (*count, *word) = (*count + 1, None));
    }

    /// As [`Wire::silence`], for the connections on which this was sent to Redis.
    pub(crate) fn silence_those_with(&self, words: &str) {
        let words = words.to_owned();
        self.silences
            .send_modify(|(count, word)| (*count, *word) = (*count + 1, Some(words)));
    }

    /// The next thing from Redis that contains these words gets lost. Only where little is on
    /// its way: whatever was read together with it is lost too.
    pub(crate) fn lose(&self, words: &str) {
        *self.unlucky.lock().expect("no poison") = Some(words.to_owned());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}
