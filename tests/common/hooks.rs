//! A backend that answers hooks, well or badly, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Node, eventually, node_command, start_command};

/// The secret that nodes of these tests sign with.
pub const SECRET: &str = "a-secret-of-32-bytes-for-the-hook";
/// The page whose clients connect.
pub const PAGE: &str = "https://app.example.org";

/// A question of a node.
#[derive(Debug, Clone)]
pub struct Question {
    /// The number of the connection that it came over.
    pub connection: usize,
    pub path: String,
    headers: Vec<(String, String)>,
    pub text: String,
    pub json: Value,
}

impl Question {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it is signed by this secret, now.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let header = self.header("pushnode-signature").expect("a signature");
        let fields = header
            .split(',')
            .map(|field| field.split_once('=').unwrap());
        let time = fields.clone().find(|(name, _)| *name == "t").unwrap().1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        assert!(
            now.abs_diff(time.parse().expect("seconds")) < 300,
            "{header}"
        );
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let tag = ring::hmac::sign(&key, format!("{time}.{}", self.text).as_bytes());
        let hex: String = tag
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        fields.clone().any(|field| field == ("v1", &*hex))
    }
}

/// What the backend does.
#[derive(Debug, Clone)]
pub enum Deed {
    Json(u16, Value),
    /// As [`Deed::Json`], after so long.
    Late(Duration, Value),
    /// These bytes as they stand, and then the end of the connection.
    Raw(Vec<u8>),
    /// As [`Deed::Raw`], without an end.
    Held(Vec<u8>),
}

pub fn ok(json: Value) -> Deed {
    Deed::Json(200, json)
}

/// Lets each client in as the user of its cookie `user=`.
pub fn by_cookie(question: &Question) -> Deed {
    let cookie = question.json["headers"]["cookie"]
        .as_str()
        .unwrap_or_default();
    match cookie.split("; ").find_map(|one| one.strip_prefix("user=")) {
        Some(user) => ok(json!({"user": user})),
        None => Deed::Json(401, json!({"reason": "log in first"})),
    }
}

type Answer = Arc<Mutex<Arc<dyn Fn(&Question) -> Deed + Send + Sync>>>;

pub struct Backend {
    pub address: SocketAddr,
    answer: Answer,
    asked: Arc<Mutex<Vec<Question>>>,
    /// Connections that were opened.
    opened: Arc<AtomicUsize>,
    /// The most questions that were under way at once.
    most: Arc<AtomicUsize>,
}

impl Backend {
    pub async fn start(answer: impl Fn(&Question) -> Deed + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    pub async fn start_at(
        address: SocketAddr,
        answer: impl Fn(&Question) -> Deed + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let backend = Self {
            address: listener.local_addr().expect("an address"),
            answer: Arc::new(Mutex::new(Arc::new(answer))),
            asked: Arc::default(),
            opened: Arc::default(),
            most: Arc::default(),
        };
        let (answer, asked) = (backend.answer.clone(), backend.asked.clone());
        let (opened, most) = (backend.opened.clone(), backend.most.clone());
        let under_way = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = opened.fetch_add(1, Ordering::SeqCst);
                let (answer, asked) = (answer.clone(), asked.clone());
                let (under_way, most) = (under_way.clone(), most.clone());
                tokio::spawn(async move {
                    let mut socket = BufReader::new(socket);
                    while let Some(question) = read(&mut socket, connection).await {
                        asked.lock().unwrap().push(question.clone());
                        let count = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(count, Ordering::SeqCst);
                        let answer = answer.lock().unwrap().clone();
                        let goes_on = act(&mut socket, answer(&question)).await;
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        if !goes_on {
                            return;
                        }
                    }
                });
            }
        });
        backend
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl Fn(&Question) -> Deed + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked so many questions; answers them.
    pub async fn was_asked(&self, count: usize) -> Vec<Question> {
        eventually(async || match self.asked() {
            asked if asked.len() >= count => Ok(asked),
            asked => Err(asked.len()),
        })
        .await
    }

    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

async fn read(socket: &mut BufReader<TcpStream>, connection: usize) -> Option<Question> {
    let (mut path, mut headers, mut length) = (String::new(), Vec::new(), 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        match line.split_once(": ") {
            _ if path.is_empty() => line.split(' ').nth(1)?.clone_into(&mut path),
            Some((name, value)) => {
                let name = name.to_ascii_lowercase();
                if name == "content-length" {
                    length = value.parse().expect("a length");
                }
                headers.push((name, value.to_owned()));
            }
            None => break,
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    let text = String::from_utf8(body).expect("UTF-8");
    Some(Question {
        connection,
        path,
        headers,
        json: serde_json::from_str(&text).expect("JSON"),
        text,
    })
}

/// Answers whether the connection goes on.
async fn act(socket: &mut BufReader<TcpStream>, deed: Deed) -> bool {
    let (status, json) = match deed {
        Deed::Json(status, json) => (status, json),
        Deed::Late(time, json) => {
            tokio::time::sleep(time).await;
            (200, json)
        }
        Deed::Raw(bytes) => {
            let _ = socket.write_all(&bytes).await;
            return false;
        }
        Deed::Held(bytes) => {
            let _ = socket.write_all(&bytes).await;
            // Until the node closes it.
            let _ = socket.read_u8().await;
            return false;
        }
    };
    let body = json.to_string();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n");
    let answer = format!("{head}content-length: {length}\r\n\r\n{body}");
    socket.write_all(answer.as_bytes()).await.is_ok()
}

/// The settings of a node whose clients this hook knows.
pub fn by_hook(url: &str) -> [(&str, &str); 5] {
    [
        ("PUSH_AUTH", "hook"),
        ("PUSH_CONNECT_HOOK", url),
        ("PUSH_HOOK_SECRET", SECRET),
        ("PUSH_ORIGINS", PAGE),
        ("PUSH_LOG", "trace"),
    ]
}

/// A node with these settings, up and ready.
pub fn hooked(settings: &[(&str, &str)], more: &[(&str, &str)]) -> Node {
    let node = start_command(node_command(&[settings, more].concat()));
    node.wait_ready();
    node
}

/// The request of a WebSocket with these headers.
pub fn request(
    node: &Node,
    query: &str,
    headers: &[(&'static str, &str)],
) -> tokio_tungstenite::tungstenite::handshake::client::Request {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let url = format!("ws://{}/ws?{query}", node.client_address());
    let mut request = url.into_client_request().expect("a URL");
    for (name, value) in headers {
        let value = value.parse().expect("a value");
        request.headers_mut().append(*name, value);
    }
    request
}

/// Opens a WebSocket with these headers: the `ready` object and the client, or status and body.
pub async fn open(
    node: &Node,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<super::Client, (u16, Value)> {
    use tokio_tungstenite::tungstenite::Error;
    let headers = [&[("sec-websocket-protocol", "pushnode.v1")], headers].concat();
    let request = request(node, query, &headers);
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => {
            let ready = None;
            let mut client = super::Client { socket, ready };
            client.ready = Some(client.json().await);
            Ok(client)
        }
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = serde_json::from_slice(body).expect("JSON");
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}
