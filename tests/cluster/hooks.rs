//! Hooks on several nodes over a Redis: who comes where, what is sent up, and what is sent down.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use serde_json::json;
use tempfile::TempDir;

use crate::common::hooks::{Backend, Deed, Question, SECRET, by_hook, hooked, ok, open};
use crate::common::topics::{ask, hears, push};
use crate::common::{Node, Redis, eventually, http, node_command, node_with, post, start_command};
use crate::publishers::tool;
use crate::quickstarts::Receiver;

fn answer(question: &Question) -> Deed {
    match question.json["hook"].as_str() {
        Some("connect") => ok(json!({
            "user": question.json["query"]["u"], "topics": ["room.*"], "subscribe": ["all"],
            "expires_in": 1,
        })),
        Some("subscribe") => ok(json!({"allow": question.json["user"] == "ada"})),
        _ => ok(json!({"by": question.json["user"], "at": question.json["connection"]})),
    }
}

#[tokio::test]
async fn two_nodes_ask_one_backend() {
    let redis = Redis::start();
    let backend = Backend::start(answer).await;
    let (url, routes) = (
        backend.url("/"),
        format!("chat.*={},*=rest", backend.url("/chat")),
    );
    let node = |name: &str| -> Node {
        let mut settings = by_hook(&url).to_vec();
        settings.extend([
            ("PUSH_SUBSCRIBE_HOOK", &*url),
            ("PUSH_UPSTREAM_ROUTES", &routes),
            (
                "PUSH_TOPIC_RULES",
                r#"[{"match":"order.**","subscribe":"hook"}]"#,
            ),
        ]);
        node_with(&redis, name, &settings)
    };
    let (a, b) = (node("a"), node("b"));
    let mut ada = open(&a, "u=ada&topics=room.1", &[]).await.expect("let in");
    let mut bob = open(&b, "u=bob&topics=room.1", &[]).await.expect("let in");
    for client in [&mut ada, &mut bob] {
        assert_eq!(
            client.json().await,
            json!({"type": "subscribed", "topic": "all"})
        );
    }
    // From the other node, as soon as `ready` was heard.
    for topic in ["all", "room.1"] {
        push(&b, topic, topic).await;
        hears(&mut ada, topic, topic).await;
        hears(&mut bob, topic, topic).await;
    }
    let wish = json!({"type": "subscribe", "topic": "order.7", "ref": 1});
    assert_eq!(ask(&mut ada, wish.clone()).await["status"], "subscribed");
    assert_eq!(ask(&mut bob, wish).await["code"], "forbidden");
    push(&b, "order.7", "shipped").await;
    hears(&mut ada, "order.7", "shipped").await;

    for (client, user) in [(&mut ada, "ada"), (&mut bob, "bob")] {
        let sent = json!({"type": "send", "route": "chat.say", "ref": 2, "data": "hello"});
        let reply = ask(client, sent).await;
        let data = json!({"by": user, "at": client.connection()});
        assert_eq!(reply["data"], data, "{reply}");
        let sent = json!({"type": "send", "route": "x", "ref": 3, "data": "hello"});
        assert_eq!(ask(client, sent).await["status"], "accepted");
    }
    let connects = |asked: Vec<Question>, renew: bool| {
        let asked = asked.into_iter().map(|one| one.json);
        let asked = asked.filter(|one| one["hook"] == "connect" && one["renew"] == renew);
        asked.count()
    };
    assert_eq!(connects(backend.asked(), false), 2);
    eventually(async || match connects(backend.asked(), true) {
        0..4 => Err(backend.asked().len()),
        _ => Ok(()),
    })
    .await;
    // Refused on one node, ada stays on the other.
    backend.answer(|question| match question.json["user"].as_str() {
        Some("bob") => Deed::Json(403, json!({})),
        _ => answer(question),
    });
    assert_eq!(bob.close_frame().await, (4004, "token expired".to_owned()));
    let body = json!({"to": {"user": "ada"}, "data": 7, "wait": "written"});
    let (_, answer) = post(&b.push_url, &body).await;
    assert_eq!(answer["status"], "written", "{answer}");
    assert_eq!(ada.json().await["data"], 7);
    for node in [&a, &b] {
        assert!(!node.log().contains(SECRET));
    }
}

/// The only block of this kind in a document.
pub(crate) fn block(document: &str, kind: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect(document);
    let parts: Vec<&str> = text.split(&format!("```{kind}\n")).collect();
    assert_eq!(parts.len(), 2, "blocks of the kind {kind:?}");
    parts[1].split("```").next().expect("an end").to_owned()
}

/// The backends that need no framework.
const KINDS: [&str; 3] = ["python hooks", "javascript hooks", "php hooks"];

/// The header of a node that asks this with this secret, so many seconds ago.
fn signature(secret: &str, age: u64, body: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let at = now.expect("after 1970").as_secs() - age;
    format!("t={at},v1={}", tag(secret, at, body))
}

fn tag(secret: &str, at: u64, body: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, format!("{at}.{body}").as_bytes());
    tag.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A backend of the document. Killed with its children when dropped.
pub(crate) struct Program {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Runs this command, which listens at the address, on the files of the folder.
    pub(crate) fn start(mut command: Command, address: String, folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).expect("a log");
        command
            .process_group(0)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?}: {error}; is it installed? `make setup` does that")
        });
        Self {
            child,
            address,
            folder,
        }
    }

    /// A backend that needs no framework, with this secret.
    fn plain(kind: &str, secret: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = crate::common::free_port().to_string();
        let address = format!("127.0.0.1:{port}");
        let (program, name, words): (String, &str, &[&str]) = match kind {
            "python hooks" => (tool("venv/bin/python"), "hooks.py", &[]),
            "javascript hooks" => ("node".to_owned(), "hooks.js", &[]),
            _ => ("php".to_owned(), "hooks.php", &["-S", &address]),
        };
        std::fs::write(folder.path().join(name), block("docs/hooks.md", kind)).expect("written");
        let mut command = Command::new(program);
        command
            .args(words)
            .arg(name)
            .current_dir(folder.path())
            .envs([("PUSH_HOOK_SECRET", secret), ("PORT", &port)]);
        Self::start(command, address, folder)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder.path().join(name)).expect(name);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it answers; what is not signed it must refuse.
    pub(crate) async fn listens(&self) {
        let status = eventually(async || {
            let asked = http().post(self.url("push/connect")).body("{}").send();
            match asked.await {
                Ok(answer) => Ok(answer.status().as_u16()),
                Err(error) => Err(format!("{error}: {}", self.file("log"))),
            }
        });
        assert_eq!(status.await, 400, "{}", self.file("log"));
    }

    /// The status of its answer to a question with this signature.
    async fn status(&self, body: &str, signature: &str) -> u16 {
        let asked = http()
            .post(self.url("push/connect"))
            .header("content-type", "application/json")
            .header("pushnode-signature", signature)
            .body(body.to_owned())
            .send();
        asked.await.expect("an answer").status().as_u16()
    }

    /// It believes what is signed by the secret, and nothing else.
    async fn knows_signatures(&self, cookie: &str) {
        let question = json!({"hook": "connect", "headers": {"cookie": cookie}});
        let body = question.to_string();
        let right = signature(SECRET, 0, &body);
        let two = right.replace(",v1=", &format!(",v1={},v1=", "0".repeat(64)));
        for signature in [right.clone(), two, signature(SECRET, 200, &body)] {
            let status = self.status(&body, &signature).await;
            assert_eq!(status, 200, "{signature}: {}", self.file("log"));
        }
        let wrong = [
            signature(&"x".repeat(SECRET.len()), 0, &body),
            signature("", 0, &body),
            signature(SECRET, 400, &body),
            right.replace("v1=", "v0="),
            right.replace("t=", "t=1"),
        ];
        for signature in wrong {
            let status = self.status(&body, &signature).await;
            assert_eq!(status, 400, "{signature}: {}", self.file("log"));
        }
        let other = body.replace("connect", "Connect");
        assert_eq!(self.status(&other, &right).await, 400);
        // Some routers take more paths to a route than a filter by path knows.
        let question = json!({"hook": "send", "user": "42", "data": 1});
        for path in ["push/send", "/push/send", "push/send/", "push//send"] {
            let asked = http().post(self.url(path)).json(&question).send().await;
            let status = asked.expect("an answer").status();
            assert!(!status.is_success(), "{path}: {status}");
        }
    }

    /// Answers for a node: lets this user in by this cookie, and no client without it.
    pub(crate) async fn serves(&self, cookie: &str, user: &str) {
        self.knows_signatures(cookie).await;
        let (connect, subscribe) = (self.url("push/connect"), self.url("push/subscribe"));
        let routes = format!("chat.*={}", self.url("push/send"));
        let more = [
            ("PUSH_SUBSCRIBE_HOOK", &*subscribe),
            ("PUSH_UPSTREAM_ROUTES", &routes),
            (
                "PUSH_TOPIC_RULES",
                r#"[{"match":"order.**","subscribe":"hook"}]"#,
            ),
            // Programs take their time on a busy machine.
            ("PUSH_HOOK_TIMEOUT_MS", "30000"),
        ];
        let node = hooked(&by_hook(&connect), &more);
        let refused = open(&node, "", &[]).await.err().expect("refused");
        let by_sse = sse(&node, "theme=dark").await;
        let by_sse = (by_sse.status().as_u16(), by_sse.json().await.expect("JSON"));
        for (status, refused) in [refused, by_sse] {
            let message = &refused["error"]["message"];
            assert_eq!((status, message), (401, &json!("log in first")));
        }

        let cookie = format!("theme=dark; {cookie}");
        let headers = [("cookie", &*cookie)];
        let client = open(&node, "", &headers).await;
        let mut client = client.unwrap_or_else(|error| panic!("{error:?}: {}", self.file("log")));
        let own = format!("order.{user}");
        for topic in ["chat.1", &own] {
            let wish = json!({"type": "subscribe", "topic": topic, "ref": 1});
            assert_eq!(ask(&mut client, wish).await["status"], "subscribed");
        }
        let wish = json!({"type": "subscribe", "topic": "order.another", "ref": 1});
        assert_eq!(ask(&mut client, wish).await["code"], "forbidden");
        let data = json!({"text": "\u{f6} \"b\"", "n": 1});
        let sent = json!({"type": "send", "route": "chat.say", "ref": 2, "data": data});
        let reply = ask(&mut client, sent).await;
        assert_eq!(
            reply["data"],
            json!({"echo": data, "user": user}),
            "{reply}"
        );

        let mut stream = sse(&node, &cookie).await;
        assert_eq!(stream.status(), 200);
        reads(&mut stream, "event: ready").await;
        let body = json!({"to": {"user": user}, "data": "to both"});
        assert_eq!(post(&node.push_url, &body).await.0, 200);
        assert_eq!(client.json().await["data"], "to both");
        reads(&mut stream, "to both").await;
    }
}

async fn sse(node: &Node, cookie: &str) -> reqwest::Response {
    let asked = http().get(node.url("/sse")).header("cookie", cookie).send();
    asked.await.expect("an answer")
}

/// Reads on until this text has come.
async fn reads(stream: &mut reqwest::Response, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let piece = stream.chunk().await.expect("in time").expect("not the end");
        read.push_str(&String::from_utf8_lossy(&piece));
    }
}

#[tokio::test]
async fn the_backends_of_the_document_run_as_they_stand() {
    for kind in KINDS {
        println!("{kind}");
        let program = Program::plain(kind, SECRET);
        program.listens().await;
        program.serves("user=42", "42").await;
    }
}

/// Any program can sign with an empty secret. PHP takes a variable that is not set for one.
#[tokio::test]
async fn the_backends_of_the_document_believe_nothing_without_a_secret() {
    for kind in KINDS {
        let program = Program::plain(kind, "");
        program.listens().await;
        let body = json!({"hook": "connect", "headers": {"cookie": "user=42"}}).to_string();
        let status = program.status(&body, &signature("", 0, &body)).await;
        assert_eq!(status, 400, "{kind}");
    }
}

/// The commands at the top of the document, with free ports instead of the usual ones.
#[tokio::test]
async fn the_commands_of_the_first_screen_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let backend = block("docs/hooks.md", "python hooks");
    std::fs::write(folder.path().join("hooks.py"), backend).expect("written");
    let port = crate::common::free_port().to_string();
    let mut command = shell("hooks-backend", &[]);
    command.env("PORT", &port).current_dir(folder.path());
    let address = format!("127.0.0.1:{port}");
    let program = Program::start(command, address, folder);
    program.listens().await;

    let binary = concat!(" exec ", env!("CARGO_BIN_EXE_pushnode"), "\n");
    let here = [
        ("127.0.0.1:3000", &*program.address),
        (" pushnode\n", binary),
    ];
    let mut command = shell("hooks-node", &here);
    // Free ports; what the block sets comes later and wins.
    let settings = node_command(&[]);
    let settings = settings
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    command.env_clear().envs(settings);
    let node = start_command(command);
    node.wait_ready();

    let client = node.client_address().to_string();
    let known = [("127.0.0.1:8080", &*client)];
    let unknown = [known[0], ("--cookie user=42 ", "")];
    for (replacements, text) in [(&known[..], "event: ready"), (&unknown[..], "log in first")] {
        let mut command = shell("hooks-client", replacements);
        // curl shows its progress there.
        command.stderr(Stdio::null());
        Receiver::start(command).prints(text).await;
    }
}

/// Runs a block of commands with these replacements, each of which must find its text.
fn shell(kind: &str, replacements: &[(&str, &str)]) -> Command {
    let mut text = block("docs/hooks.md", &format!("sh {kind}"));
    for (old, new) in replacements {
        assert!(text.contains(old), "{old:?} is not in {text}");
        text = text.replace(old, new);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &text]);
    command
}

#[test]
fn the_check_of_the_security_page_knows_what_is_signed() {
    let check = block("SECURITY.md", "python").replace("\n  ", "\n");
    let hex = tag(SECRET, 1000, "{}");
    let program = format!(
        "import hashlib, hmac\n{}\n\
         good = 't=1000,v1={hex}'\n\
         both = 't=1000,v1={},v1={hex}'\n\
         key = b'{SECRET}'\n\
         assert is_signed(good, b'{{}}', key, 1300) and is_signed(both, b'{{}}', key, 1000)\n\
         assert not is_signed(good, b'{{}}', key, 1301)\n\
         assert not is_signed(good, b'[]', key, 1000) and not is_signed('', b'{{}}', key, 0)\n\
         assert not is_signed(good, b'{{}}', b'x' * 32, 1000)\n\
         assert not is_signed('t=1001,v1={hex}', b'{{}}', key, 1000)\n",
        check.trim_start(),
        "0".repeat(64),
    );
    let output = Command::new(tool("venv/bin/python"))
        .args(["-c", &program])
        .output()
        .expect("python3");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}\n{errors}");
}

#[test]
fn the_objects_of_the_document_are_json() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/hooks.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let objects: Vec<&str> = text.split("```json hook\n").skip(1).collect();
    assert_eq!(objects.len(), 9);
    for object in objects {
        let object = object.split("```").next().expect("an end");
        let _: serde_json::Value = serde_json::from_str(object).expect(object);
    }
}
