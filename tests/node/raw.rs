//! Sockets without a library between test and node: requests and frames byte by byte, broken
//! ones included.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::{Node, PATIENCE};

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
/// The bit of a message's last frame.
pub(crate) const FIN: u8 = 0x80;

/// The headers of a good opening handshake, without `Host`.
pub(crate) const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// `code` of an error's body.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A frame from the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0F
    }

    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.first, FIN | TEXT, "a text, not {self:?}");
        std::str::from_utf8(&self.payload).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.text()).expect("JSON")
    }
}

/// A masked frame, as a client sends it. `first` is FIN, reserved bits and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    let mask = bytes[bytes.len() - 4..].to_owned();
    let masked = payload
        .iter()
        .enumerate()
        .map(|(i, byte)| byte ^ mask[i % 4]);
    bytes.extend(masked);
    bytes
}

/// The header of a masked frame that claims this length.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend([0x37, 0xFA, 0x21, 0x3D]);
    bytes
}

/// The payload of a close frame.
pub(crate) fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A socket to the node.
pub(crate) struct Raw<S = TcpStream> {
    pub(crate) socket: S,
    unread: Vec<u8>,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("a connection"))
    }

    /// A connection whose kernel takes little for a client that does not read.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        Self::over(socket.connect(address).await.expect("a connection"))
    }

    /// A WebSocket without subprotocol.
    pub(crate) async fn plain(node: &Node, user: &str) -> Self {
        let mut raw = Self::open(node.client_address()).await;
        raw.upgrade(user, "").await;
        raw
    }

    /// A WebSocket of `pushnode.v1`, its `ready` read.
    pub(crate) async fn v1(node: &Node, user: &str) -> Self {
        let mut raw = Self::open(node.client_address()).await;
        raw.upgrade(user, "Sec-WebSocket-Protocol: pushnode.v1\r\n")
            .await;
        assert_eq!(raw.frame().await.json()["type"], "ready");
        raw
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn over(socket: S) -> Self {
        Self {
            socket,
            unread: Vec::new(),
        }
    }

    /// The opening handshake with these further headers.
    pub(crate) async fn upgrade(&mut self, user: &str, headers: &str) {
        let answer = self
            .ask(&format!(
                "GET /ws?user={user} HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}{headers}\r\n"
            ))
            .await;
        assert_eq!(answer.status, 101, "{answer:?}");
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("sent");
    }

    /// Sends what the node may already refuse to hear.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request.as_bytes()).await;
        self.answer().await
    }

    /// Reads an answer with its body, if that has a `Content-Length`.
    pub(crate) async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more("the head of an answer").await;
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("UTF-8");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer {
            status: status.unwrap_or_else(|| panic!("no HTTP: {head:?}")),
            head,
            body: String::new(),
        };
        let length = answer.header("content-length").map(str::parse);
        if let Some(Ok(length)) = length {
            let body = self.take(length, "the body of an answer").await;
            answer.body = String::from_utf8(body).expect("UTF-8");
        }
        answer
    }

    /// Reads a line.
    pub(crate) async fn line(&mut self) -> String {
        let end = loop {
            if let Some(at) = self.unread.iter().position(|byte| *byte == b'\n') {
                break at + 1;
            }
            self.more("a line").await;
        };
        String::from_utf8(self.unread.drain(..end).collect()).expect("UTF-8")
    }

    /// Reads a frame, whatever it is.
    pub(crate) async fn any_frame(&mut self) -> Frame {
        let head = self.take(2, "a frame").await;
        assert_eq!(head[1] & 0x80, 0, "the node must not mask: {head:?}");
        let length = match head[1] {
            126 => {
                let bytes = self.take(2, "a length").await;
                usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
            }
            127 => {
                let bytes = self.take(8, "a length").await;
                u64::from_be_bytes(bytes.try_into().expect("eight")) as usize
            }
            short => usize::from(short),
        };
        let payload = self.take(length, "a payload").await;
        Frame {
            first: head[0],
            payload,
        }
    }

    /// Reads the next frame that is no ping.
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            let frame = self.any_frame().await;
            if frame.opcode() != PING {
                return frame;
            }
        }
    }

    /// Reads a close frame as the next one; answers its code and reason.
    pub(crate) async fn close_frame(&mut self) -> (u16, String) {
        let frame = self.frame().await;
        assert_eq!(frame.first, FIN | CLOSE, "a close frame, not {frame:?}");
        assert!(frame.payload.len() >= 2, "a code: {frame:?}");
        let (code, reason) = frame.payload.split_at(2);
        (
            u16::from_be_bytes([code[0], code[1]]),
            String::from_utf8_lossy(reason).into_owned(),
        )
    }

    /// Reads until the node closes the socket; fails if anything but that comes.
    pub(crate) async fn end(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "the end, not {:?}", rest.escape_ascii());
    }

    /// Reads until the node closes the socket, in whichever way.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.unread);
        // A reset is an end too.
        let _ = tokio::time::timeout(PATIENCE, self.socket.read_to_end(&mut rest))
            .await
            .expect("the end of the connection in time");
        rest
    }

    /// Whether anything is to be read within this time.
    pub(crate) async fn is_silent_for(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(time, self.socket.read(&mut byte)).await;
        if let Ok(Ok(1)) = read {
            self.unread.push(byte[0]);
        }
        read.is_err() && self.unread.is_empty()
    }

    async fn take(&mut self, count: usize, what: &str) -> Vec<u8> {
        while self.unread.len() < count {
            self.more(what).await;
        }
        self.unread.drain(..count).collect()
    }

    async fn more(&mut self, what: &str) {
        let mut chunk = vec![0; 64 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut chunk))
            .await
            .unwrap_or_else(|_| panic!("expected {what}; nothing came, unread: {:?}", self.shown()))
            .unwrap_or_else(|error| panic!("expected {what}, got {error}"));
        assert!(
            read > 0,
            "expected {what}; the node closed the socket, unread: {:?}",
            self.shown()
        );
        self.unread.extend_from_slice(&chunk[..read]);
    }

    fn shown(&self) -> String {
        self.unread.escape_ascii().to_string()
    }
}
