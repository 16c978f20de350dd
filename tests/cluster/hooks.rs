//! Hooks on several nodes over a Redis: who comes where, what is sent up, and what is sent down.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::common::hooks::{Backend, Deed, Question, SECRET, by_hook, hooked, ok, open};
use crate::common::topics::{ask, hears, push};
use crate::common::{Node, Redis, http, node_with, post};
use crate::publishers::tool;

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
    crate::common::eventually(async || match connects(backend.asked(), true) {
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
fn block(document: &str, kind: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).expect(document);
    let parts: Vec<&str> = text.split(&format!("```{kind}\n")).collect();
    assert_eq!(parts.len(), 2, "blocks of the kind {kind:?}");
    parts[1].split("```").next().expect("an end").to_owned()
}

/// A backend of the document. Killed when dropped.
struct Program {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(kind: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = crate::common::free_port().to_string();
        let address = format!("127.0.0.1:{port}");
        let (name, words): (&str, Vec<&str>) = match kind {
            "python hooks" => ("hooks.py", vec!["hooks.py"]),
            "javascript hooks" => ("hooks.js", vec!["hooks.js"]),
            _ => ("hooks.php", vec!["-S", &address, "hooks.php"]),
        };
        let file = folder.path().join(name);
        std::fs::write(file, block("docs/hooks.md", kind)).expect("written");
        let program = match kind {
            "python hooks" => tool("venv/bin/python"),
            "javascript hooks" => "node".to_owned(),
            _ => "php".to_owned(),
        };
        let mut command = Command::new(program);
        let child = command
            .args(words)
            .current_dir(folder.path())
            .env("PUSH_HOOK_SECRET", SECRET)
            .env("PORT", &port)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(kind);
        Self {
            child,
            address,
            _folder: folder,
        }
    }
}

#[tokio::test]
async fn the_backends_of_the_document_run_as_they_stand() {
    for kind in ["python hooks", "javascript hooks", "php hooks"] {
        let program = Program::start(kind);
        let url = |path: &str| format!("http://{}/push/{path}", program.address);
        // What is not signed is refused; this also waits until the program listens.
        let body = json!({"hook": "connect", "headers": {"cookie": "user=42"}});
        let status = crate::common::eventually(async || {
            let asked = http().post(url("connect")).json(&body).send().await;
            asked.map(|answer| answer.status().as_u16())
        });
        assert_eq!(status.await, 400, "{kind}");
        let (connect, routes) = (url("connect"), format!("chat.*={}", url("send")));
        let subscribe = url("subscribe");
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
        let (status, refused) = open(&node, "", &[]).await.err().expect("refused");
        assert_eq!(
            (status, &refused["error"]["message"]),
            (401, &json!("log in first"))
        );
        let cookie = [("cookie", "theme=dark; user=42")];
        let mut client = open(&node, "", &cookie).await.expect(kind);
        for (topic, outcome) in [("chat.1", "subscribed"), ("order.42", "subscribed")] {
            let wish = json!({"type": "subscribe", "topic": topic, "ref": 1});
            assert_eq!(ask(&mut client, wish).await["status"], outcome, "{kind}");
        }
        let wish = json!({"type": "subscribe", "topic": "order.43", "ref": 1});
        assert_eq!(ask(&mut client, wish).await["code"], "forbidden", "{kind}");
        let data = json!({"text": "\u{f6} \"b\"", "n": 1});
        let sent = json!({"type": "send", "route": "chat.say", "ref": 2, "data": data});
        let reply = ask(&mut client, sent).await;
        assert_eq!(
            reply["data"],
            json!({"echo": data, "user": "42"}),
            "{kind}: {reply}"
        );
    }
}

#[test]
fn the_check_of_the_security_page_knows_what_is_signed() {
    let check = block("SECURITY.md", "python").replace("\n  ", "\n");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, b"1000.{}");
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
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
