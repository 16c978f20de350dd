//! docs/quickstarts.md and README.md: what a new user copies runs as it stands.
//!
//! A fence says language and role: "php push" sends `{"text":"hello"}` to user 42, "go receive"
//! prints what 42 gets. Addresses in the examples are the defaults; they are replaced by those
//! of the test's own nodes and Redis, and nothing else is.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;
use tokio::sync::mpsc;

use crate::common::{Client, Node, PATIENCE, Redis, eventually, node_on, post};
use crate::publishers::tool;

const DOCUMENTS: [&str; 2] = ["docs/quickstarts.md", "README.md"];

/// The languages that are run, each with the number of its blocks in both documents.
const LANGUAGES: [(&str, usize); 8] = [
    ("sh", 6),
    ("js", 2),
    ("javascript", 3),
    ("php", 2),
    ("python", 3),
    ("ruby", 2),
    ("go", 2),
    ("java", 2),
];

#[derive(Debug)]
struct Block {
    /// File and line of its fence.
    place: String,
    language: String,
    role: String,
    text: String,
}

/// The fenced blocks of both documents.
fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for document in DOCUMENTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let text = std::fs::read_to_string(path).expect(document);
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            let Some(label) = line.strip_prefix("```") else {
                continue;
            };
            let (language, role) = label.split_once(' ').unwrap_or((label, ""));
            let inside = lines.by_ref().map(|(line, _)| line);
            let inside: Vec<&str> = inside.take_while(|line| *line != "```").collect();
            blocks.push(Block {
                place: format!("{document}:{number}"),
                language: language.to_owned(),
                role: role.to_owned(),
                text: inside.join("\n"),
            });
        }
    }
    blocks
}

#[test]
fn every_block_is_run_or_only_starts_a_node() {
    for block in blocks() {
        let is_run = ["push", "receive"].contains(&block.role.as_str())
            && LANGUAGES.iter().any(|(name, _)| *name == block.language);
        // By clients/js/test/examples.test.ts, in a browser.
        let is_a_page = block.language == "html" && block.role == "page";
        let starts_a_node = block.role.is_empty()
            && block.language == "sh"
            && ["cargo ", "make "]
                .iter()
                .any(|word| block.text.contains(word));
        assert!(
            is_run || is_a_page || starts_a_node,
            "no test looks at {block:#?}"
        );
    }
}

/// A block with the addresses of these.
fn localized(text: &str, node: &Node, redis: &Redis) -> String {
    text.replace("127.0.0.1:8080", &node.client_address().to_string())
        .replace("6379", &redis.port().to_string())
        .replace("redis-cli ", &format!("redis-cli -p {} ", redis.port()))
}

/// Builds what has to be built, in this folder; answers what to run.
fn program(language: &str, text: &str, folder: &Path) -> Command {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let mut command = match language {
        "sh" => Command::new("sh"),
        "js" | "javascript" => Command::new("node"),
        "php" => Command::new("php"),
        "python" => Command::new(tool("venv/bin/python")),
        "ruby" => Command::new("ruby"),
        "go" => {
            let source = file("main.go");
            let program = folder.join("program");
            let mut build = Command::new("go");
            build.args(["build", "-o"]).arg(&program).arg(source);
            // Nothing is fetched, and no C compiler is run.
            build
                .current_dir(folder)
                .envs([("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
            run(build);
            Command::new(program)
        }
        "java" => {
            let (_, rest) = text.split_once("public class ").expect("a class");
            let class = rest.split_whitespace().next().expect("its name");
            let mut build = Command::new("javac");
            build
                .args(["-Xlint:all", "-Werror", "-d"])
                .arg(folder)
                .arg(file(&format!("{class}.java")));
            run(build);
            let mut command = Command::new("java");
            command.arg("-cp").arg(folder).arg(class);
            command
        }
        other => panic!("no program runs {other}"),
    };
    match language {
        "sh" | "python" => command.args(["-c", text]),
        "javascript" => command.args(["-e", text]),
        // Node 20 has no WebSocket as browsers have it; `ws` is made to their interface.
        "js" => command.args([
            "-e",
            &format!("globalThis.WebSocket ??= require('ws');{text}"),
        ]),
        "ruby" => command.args(["-e", text]),
        "php" => command.arg(file("program.php")),
        _ => &mut command,
    };
    command.env("NODE_PATH", tool("node/node_modules"));
    command
}

pub(crate) fn run(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; is it installed? `make setup` does that")
    });
    assert!(output.status.success(), "{command:?}\n{output:#?}");
    output
}

/// A receiver that prints lines. Killed with its children when dropped.
pub(crate) struct Receiver {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Receiver {
    pub(crate) fn start(mut command: Command) -> Self {
        command.process_group(0).stdout(Stdio::piped());
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; is it installed? `make setup` does that")
        });
        let printed = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Reads on until a line has this text.
    pub(crate) async fn prints(&mut self, text: &str) {
        let mut printed = Vec::new();
        let found = async {
            while let Some(line) = self.lines.recv().await {
                let is_found = line.contains(text);
                printed.push(line);
                if is_found {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        assert_eq!(found, Ok(true), "{text:?} is not in {printed:#?}");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// Runs the blocks of one language: those that receive get a push of ours, then those that push
/// reach a client of ours on another node.
async fn quickstart(language: &'static str) {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut blocks = blocks();
    blocks.retain(|block| block.language == language && !block.role.is_empty());
    let (_, expected) = LANGUAGES
        .iter()
        .find(|(name, _)| *name == language)
        .expect("a language of the list");
    assert_eq!(blocks.len(), *expected, "blocks of {language}: {blocks:#?}");

    // In a thread of its own: compilers take a while. One after the other: the second finds what
    // the first has compiled of the standard library.
    let texts: Vec<_> = blocks
        .iter()
        .map(|block| localized(&block.text, &b, &redis))
        .collect();
    let programs = tokio::task::spawn_blocking(move || {
        let programs = texts.iter().map(|text| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            (program(language, text, folder.path()), folder)
        });
        programs.collect::<Vec<_>>()
    });
    let programs = programs.await.expect("what is built");

    let (receivers, senders): (Vec<_>, Vec<_>) = blocks
        .iter()
        .zip(programs)
        .partition(|(block, _)| block.role == "receive");
    let push = json!({"to": {"user": "42"}, "data": {"text": "hello"}});
    let status_is = async |expected: &str| {
        eventually(async || match post(&a.push_url, &push).await {
            (200, answer) if answer["status"] == expected => Ok(()),
            answer => Err(format!("not {expected}: {answer:?}")),
        })
        .await;
    };
    for (block, (command, _folder)) in receivers {
        println!("{}", block.place);
        let mut receiver = Receiver::start(command);
        status_is("routed").await;
        receiver.prints("hello").await;
        drop(receiver);
        // Or the next push might be for the one that has just gone.
        status_is("offline").await;
    }

    let mut client = Client::plain(&a.ws_url("42")).await;
    for (block, (command, _folder)) in senders {
        let output = tokio::task::spawn_blocking(|| run(command)).await;
        let output = output.expect("a thread");
        if block.text.contains("/v1/push") {
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(printed.contains("routed"), "{}: {printed}", block.place);
        }
        assert_eq!(client.json().await, push["data"], "after {}", block.place);
    }
    let end = json!({"to": {"user": "42"}, "data": "that was all"});
    post(&a.push_url, &end).await;
    client.hears_next("that was all").await;
}

/// As [`quickstart`], where the toolchain is there; says so where it is not.
async fn quickstart_if_installed(language: &'static str, compiler: &str) {
    // Without arguments it tells how it is used.
    if Command::new(compiler).output().is_ok() {
        return quickstart(language).await;
    }
    left_out(&format!(
        "the blocks of {language} in docs/quickstarts.md, for there is no {compiler} in PATH"
    ));
}

/// Says what a test leaves out, and why.
pub(crate) fn left_out(what: &str) {
    // Past the capture of `eprintln!`, which would show it only if the test failed.
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}");
}

#[tokio::test]
async fn curl_and_redis_cli() {
    quickstart("sh").await;
}

#[tokio::test]
async fn javascript_of_a_page() {
    quickstart("js").await;
}

#[tokio::test]
async fn node_js() {
    quickstart("javascript").await;
}

#[tokio::test]
async fn php() {
    quickstart("php").await;
}

#[tokio::test]
async fn python() {
    quickstart("python").await;
}

#[tokio::test]
async fn ruby() {
    quickstart("ruby").await;
}

#[tokio::test]
async fn go() {
    quickstart_if_installed("go", "go").await;
}

#[tokio::test]
async fn java() {
    quickstart_if_installed("java", "javac").await;
}
