//! PROTOCOL.md and the guides are what the nodes do: their examples run as they stand.
//!
//! Addresses in the examples are the defaults; they are replaced by those of the test's own
//! nodes and Redis, and nothing else is.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use futures::StreamExt;
use pushnode::protocol::close::CloseReason;
use pushnode::protocol::ids::UserId;
use pushnode::protocol::{Line, PushRequest};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::common::openapi::{operations, promised};
use crate::common::passes::ask;
use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node_on, node_with, post};
use crate::publishers::tool;

/// A page whose examples are looked at, and how many it has: so that none is lost unnoticed.
struct Page {
    path: &'static str,
    /// Blocks that run.
    programs: usize,
    /// Blocks that are parsed.
    json: usize,
}

const fn page(path: &'static str, programs: usize, json: usize) -> Page {
    Page {
        path,
        programs,
        json,
    }
}

const REFERENCE: &str = "PROTOCOL.md";
const PAGES: [Page; 6] = [
    page(REFERENCE, 2, 8),
    page("docs/clients.md", 6, 21),
    page("docs/http-api.md", 14, 9),
    page("docs/history.md", 4, 6),
    page("docs/redis.md", 8, 7),
    page("docs/services.md", 5, 6),
];

/// A fenced block.
pub(crate) struct Block {
    page: &'static str,
    /// The line of its fence, from 1 on.
    line: usize,
    /// The words after the fence.
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl Block {
    /// Whether a test runs it.
    fn is_program(&self) -> bool {
        let kinds = ["sh", "python", "python worker", "javascript", "js client"];
        kinds.contains(&self.kind.as_str())
    }

    fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

fn read(page: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of one page.
fn blocks_of(page: &'static str) -> Vec<Block> {
    let text = read(page);
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, line)| line);
            let inside: Vec<&str> = inside.take_while(|line| *line != "```").collect();
            blocks.push(Block {
                page,
                line: at + 1,
                kind: kind.to_owned(),
                text: inside.join("\n"),
            });
        }
    }
    blocks
}

/// The fenced blocks of all pages.
fn blocks() -> Vec<Block> {
    PAGES.iter().flat_map(|page| blocks_of(page.path)).collect()
}

/// The only block of this kind.
pub(crate) fn block(kind: &str) -> Block {
    let mut fitting: Vec<Block> = blocks();
    fitting.retain(|block| block.kind == kind);
    assert_eq!(fitting.len(), 1, "blocks of the kind {kind:?}");
    fitting.remove(0)
}

#[test]
fn no_page_has_lost_its_examples() {
    for page in &PAGES {
        let blocks = blocks_of(page.path);
        let count =
            |counts: fn(&Block) -> bool| blocks.iter().filter(|block| counts(block)).count();
        let found = (
            count(Block::is_program),
            count(|block| block.kind.starts_with("json ")),
        );
        assert_eq!(
            found,
            (page.programs, page.json),
            "programs and JSON in {}",
            page.path
        );
    }
}

/// What a reader sees without scrolling is something to copy that works.
#[test]
fn each_guide_begins_with_an_example_that_runs() {
    for page in PAGES.iter().filter(|page| page.path != REFERENCE) {
        let text = read(page.path);
        let section = text.lines().position(|line| line.starts_with("## "));
        let section = section.expect("sections");
        let blocks = blocks_of(page.path);
        let first = blocks.iter().find(|block| block.is_program());
        let first = first.expect("a program");
        assert!(first.line < section.min(30), "{}", first.place());
    }
}

#[test]
fn json_examples_parse() {
    for block in blocks() {
        let text = block.text.as_bytes();
        let result = match block.kind.as_str() {
            "json request" => PushRequest::parse(text).map(drop),
            "json line" => Line::parse(text).map(drop),
            "json answer" => serde_json::from_slice::<Value>(text)
                .map(drop)
                .map_err(Into::into),
            _ => continue,
        };
        let place = block.place();
        assert!(result.is_ok(), "{place}: {result:?}\n{}", block.text);
        // On a channel a line is a line.
        let is_line = block.kind == "json line";
        assert!(!is_line || !block.text.contains('\n'), "{place}");
    }
}

#[test]
fn every_block_is_of_a_kind_that_a_test_looks_at() {
    for block in blocks() {
        let json = ["json request", "json line", "json answer"];
        let is_known = block.is_program() || block.kind == "js" || json.contains(&&*block.kind);
        let place = block.place();
        assert!(is_known, "{place}: unknown kind {:?}", block.kind);
    }
}

/// Those that need a browser: at least they are JavaScript.
#[test]
fn browsers_understand_their_examples() {
    let parse = "new (async () => {}).constructor(process.argv[1])";
    for block in blocks().iter().filter(|block| block.kind == "js") {
        let mut command = Command::new("node");
        let output = command.args(["-e", parse, &block.text]).output();
        let output = output.expect("node is installed");
        assert!(output.status.success(), "{}: {output:?}", block.place());
    }
}

/// The rows of the reference's tables.
fn rows() -> Vec<String> {
    let text = read(REFERENCE);
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.map(str::to_owned).collect()
}

#[test]
fn the_reference_has_all_close_codes() {
    let rows = rows();
    for reason in CloseReason::ALL {
        let Some(code) = reason.code() else {
            continue;
        };
        let start = format!("| {code} | `{}` | ", reason.text());
        let row = rows.iter().find_map(|row| row.strip_prefix(&start));
        let row = row.unwrap_or_else(|| panic!("no row {start}"));
        assert_eq!(
            row.starts_with("after `retry_ms` |"),
            reason.retry(),
            "{row}"
        );
    }
}

#[test]
fn the_reference_has_all_routes_and_their_errors() {
    let rows = rows();
    for operation in operations() {
        let route = format!("`{} {}`", operation.method, operation.path);
        assert!(rows.iter().any(|row| row.contains(&route)), "{route}");
    }
    for answer in promised() {
        let words: Vec<&str> = answer.split(' ').collect();
        // Successes have no code.
        if let [_, status, code] = words[..]
            && status.starts_with(['4', '5'])
        {
            let start = format!("| {status} | ");
            let code = format!("`{code}`");
            let fits = |row: &&String| row.starts_with(&start) && row.contains(&code);
            assert!(rows.iter().any(|row| fits(&row)), "{answer}");
        }
    }
}

/// A client that answers whatever it is asked.
async fn answer_calls(mut client: Client) {
    loop {
        let Ok(Message::Text(text)) = client.socket.next().await.expect("open") else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        if frame["type"] == "call" {
            assert_eq!(frame["data"]["ask"], "battery");
            let answer = json!({"type": "answer", "ref": frame["ref"], "data": {"percent": 81}});
            client.send(&answer.to_string()).await;
        }
    }
}

/// The node of the examples that wants tokens.
const TOKENS: [(&str, &str); 3] = [
    ("PUSH_AUTH", "jwt,session"),
    ("PUSH_TOPICS", "news"),
    (
        "PUSH_JWT_SECRETS",
        "replace-this-by-32-random-bytes-or-more",
    ),
];

#[tokio::test]
async fn examples_run_as_they_stand() {
    let redis = Redis::start();
    // The user is on one node, the examples talk to the other.
    // Who reads only the beginning of a stream is gone at the next comment.
    let settings = [
        ("PUSH_SSE_BEAT_SECONDS", "1"),
        ("PUSH_UPSTREAM_ROUTES", "chat.*=chat"),
        ("PUSH_PUBLIC_URL", "https://push-1.example.com"),
    ];
    let (a, b) = (node_on(&redis, "a"), node_with(&redis, "b", &settings));
    // And some to one that wants tokens.
    let c = node_with(&redis, "c", &TOKENS);
    let user: UserId = "42".parse().unwrap();
    let mut client = Client::v1(&a.ws_url(user.as_str())).await;

    let robot = tokio::spawn(answer_calls(Client::v1(&a.ws_url("7")).await));

    let mut pushes = 0;
    for block in blocks() {
        let (place, kind) = (block.place(), block.kind);
        let text = block
            .text
            .replace("127.0.0.1:8080", &b.client_address().to_string())
            .replace("127.0.0.1:8070", &c.client_address().to_string())
            .replace("127.0.0.1:8081", &b.admin.to_string())
            .replace("127.0.0.1:8082", &b.lines[0].to_string())
            .replace("redis://127.0.0.1:6379", &redis.url())
            .replace("redis-cli ", &format!("redis-cli -p {} ", redis.port()));
        let mut command = match kind.as_str() {
            "sh" => Command::new("sh"),
            "python" => Command::new(tool("venv/bin/python")),
            "javascript" => Command::new("node"),
            _ => continue,
        };
        // In a shell the first line that fails is the end.
        let flag = match kind.as_str() {
            "javascript" => "-e",
            "sh" => "-ec",
            _ => "-c",
        };
        command
            .args([flag, &text])
            .env("NODE_PATH", tool("node/node_modules"));
        // In a thread of its own: some examples wait for a client of ours.
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("a thread");
        let output = output.expect("the example's program is installed");
        assert!(output.status.success(), "{place}:\n{text}\n{output:?}");
        // `curl` takes a refusal for a success.
        let shown = String::from_utf8_lossy(&output.stdout);
        let refused = shown.starts_with(r#"{"error":"#) || shown.contains(r#"}{"error":"#);
        assert!(!refused, "{place}:\n{text}\n{shown}");
        // Examples that ask something push nothing; the others push "hello", once or more.
        for _ in 0..text.matches("hello").count() {
            let mut message = client.json().await;
            while message["type"] == "subscribed" {
                message = client.json().await;
            }
            assert_eq!(message["data"]["text"], "hello", "{place}: after\n{text}");
            pushes += 1;
        }
    }
    assert!(pushes >= 12, "only {pushes} pushes");
    robot.abort();
}

/// What the complete client finds around it: a WebSocket, which Node.js has from version 22 on, and
/// a backend that opens a session for it. Each token is shown, and that it was renewed. Only the
/// second ends soon.
const STAGE: &str = r#"
globalThis.WebSocket = class extends require("ws") {
  constructor(...all) {
    super(...all);
    this.addEventListener("message", (event) => {
      const frame = JSON.parse(event.data);
      if (frame.ref === "auth") console.log("renewed", frame.type);
    });
  }
};
const request = globalThis.fetch;
let tokens = 0;
globalThis.fetch = async () => {
  const answer = await request("http://127.0.0.1:8070/v1/sessions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ user: "42", ttl_seconds: ++tokens === 2 ? 12 : 600 }),
  });
  const { token } = await answer.json();
  console.log("token", token);
  return { text: async () => token };
};
"#;

/// The complete client of docs/clients.md. Killed when dropped.
struct CompleteClient {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl CompleteClient {
    fn start(node: &Node) -> Self {
        let text = STAGE.to_owned() + &block("js client").text;
        let text = text.replace("127.0.0.1:8070", &node.client_address().to_string());
        let mut child = Command::new("node")
            .args(["-e", &text])
            .env("NODE_PATH", tool("node/node_modules"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("the client says something in time")
            .expect("the client runs")
    }

    /// The next token that it fetches.
    async fn token(&mut self) -> String {
        let line = self.line().await;
        let token = line.strip_prefix("token ");
        token.unwrap_or_else(|| panic!("{line}")).to_owned()
    }
}

impl Drop for CompleteClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_complete_client_does_all_that_its_page_says() {
    let redis = Redis::start();
    let node = node_with(&redis, "c", &TOKENS);
    let mut client = CompleteClient::start(&node);
    let first = client.token().await;
    let push = async |to: Value, n: i32, keep: bool| {
        let push = json!({"to": to, "data": {"n": n}, "keep": keep});
        let (status, answer) = post(&node.push_url, &push).await;
        assert_eq!(status, 200, "{answer}");
    };
    let (user, topic) = (json!({"user": "42"}), json!({"topic": "news"}));

    // It authenticates and subscribes.
    let topic_url = node.url("/v1/topics/news");
    eventually(async || {
        let answer = http().get(&topic_url).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        match &answer["connections"] {
            one if *one == 1 => Ok(()),
            other => Err(other.clone()),
        }
    })
    .await;
    push(user.clone(), 1, true).await;
    assert_eq!(client.line().await, r#"inbox {"n":1}"#);
    push(topic.clone(), 2, true).await;
    assert_eq!(client.line().await, r#"news {"n":2}"#);

    // It comes back with a new token, and resumes its inbox and its topic.
    let sessions = node.url("/v1/sessions");
    let (_, ended) = ask("DELETE", &sessions, &json!({"token": first})).await;
    assert_eq!(ended["ended"], true, "{ended}");
    push(user.clone(), 3, true).await;
    push(topic.clone(), 4, true).await;
    let second = client.token().await;
    let mut missed = [client.line().await, client.line().await];
    missed.sort();
    assert_eq!(missed, [r#"inbox {"n":3}"#, r#"news {"n":4}"#]);

    // It renews its token on the same connection, at half of what is left.
    let third = client.token().await;
    assert_eq!(client.line().await, "renewed reply");
    let (_, ended) = ask("DELETE", &sessions, &json!({"token": second})).await;
    assert_eq!(ended["ended"], true, "{ended}");
    push(user.clone(), 5, false).await;
    assert_eq!(client.line().await, r#"inbox {"n":5}"#);
    assert_eq!(node.metric("connects_total").await, 2.0);
    let (_, ended) = ask("DELETE", &sessions, &json!({"token": third})).await;
    assert_eq!(ended["ended"], true, "{ended}");
    client.token().await;
    push(user, 6, true).await;
    assert_eq!(client.line().await, r#"inbox {"n":6}"#);

    // It stops where coming back does not help.
    let ban = json!({"seconds": 60});
    let (status, banned) = ask("PUT", &node.url("/v1/users/42/ban"), &ban).await;
    assert_eq!(status, 200, "{banned}");
    assert_eq!(client.line().await, "stopped: 4006");
    let ended = eventually(async || match client.child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(other),
    });
    assert!(ended.await.success());
}
