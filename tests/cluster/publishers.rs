//! Publishers without our API: all they need is a Redis client and one line of JSON. And those
//! that send rubbish.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_on, post};
use crate::raw::{Answer, Resp};

pub(crate) fn tool(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-tools")
        .join(path);
    assert!(
        path.exists(),
        "{} is missing; `make setup` installs it",
        path.display()
    );
    path.into_os_string().into_string().expect("UTF-8")
}

fn script(name: &str) -> String {
    format!("{}/tests/cluster/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a publisher; answers the receipt that it prints.
async fn publish(mut command: Command) -> Value {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("a thread").expect("the publisher runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the publisher failed: {words}");
    serde_json::from_slice(&output.stdout).expect("a receipt")
}

/// What both scripts do, seen by its receivers: two devices of 42 and a bystander.
async fn a_script_publishes(program: String, arguments: &[&str]) {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut phone = Client::plain(&a.ws_url("42")).await;
    let mut desk = Client::plain(&a.ws_url("42")).await;
    let mut bystander = Client::plain(&b.ws_url("7")).await;
    let data = json!({"text": "Grüße \u{1F44B}\n\"quoted\"", "n": 1.5});
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args([&redis.port().to_string(), "42", &data.to_string()]);
    let receipt = publish(command).await;
    assert_eq!(
        receipt,
        json!({"cmd": "receipt", "ref": "r1", "node": a.id, "status": "written", "connections": 2})
    );
    for client in [&mut phone, &mut desk] {
        assert_eq!(client.json().await, data);
        assert_eq!(client.json().await, json!([data, "by pn:g"]));
        assert_eq!(client.json().await, json!([data, "to all"]));
    }
    assert_eq!(bystander.json().await, json!([data, "to all"]));
}

#[tokio::test]
async fn python_with_redis_py_publishes_and_gets_a_receipt() {
    a_script_publishes(tool("venv/bin/python"), &[&script("publisher.py")]).await;
}

#[tokio::test]
async fn node_js_with_ioredis_publishes_and_gets_a_receipt() {
    let ioredis = tool("node/node_modules/ioredis");
    a_script_publishes("node".to_owned(), &[&script("publisher.js"), &ioredis]).await;
}

#[tokio::test]
async fn redis_cli_publishes() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut alice = Client::v1(&a.ws_url("alice")).await;
    let mut bob = Client::plain(&b.ws_url("bob")).await;
    let field = redis.cli(&["HKEYS", "pn:user:{alice}"]);
    assert_eq!(field, alice.connection());
    let node = field.split('/').next().expect("a node");
    let channel = format!("pn:n:{{{node}}}");
    let by_name = r#"{"to":{"user":"alice"},"id":"m1","data":"by name"}"#;
    assert_eq!(redis.cli(&["PUBLISH", &channel, by_name]), "1");
    let by_fd = format!(r#"{{"to":{{"fd":"{field}"}},"data":"by fd"}}"#);
    assert_eq!(redis.cli(&["PUBLISH", &channel, &by_fd]), "1");
    // A repeat of an id is dropped.
    assert_eq!(redis.cli(&["PUBLISH", &channel, by_name]), "1");
    assert_eq!(
        redis.cli(&[
            "PUBLISH",
            "pn:g",
            r#"{"to":{"user":"bob"},"data":"by pn:g"}"#
        ]),
        "2"
    );
    let but_alice = r#"{"to":{"all":true},"except":{"users":["alice"]},"data":"all but alice"}"#;
    assert_eq!(redis.cli(&["PUBLISH", "pn:g", but_alice]), "2");
    assert_eq!(
        redis.cli(&["PUBLISH", "pn:g", r#"{"to":{"all":true},"data":"end"}"#]),
        "2"
    );

    assert_eq!(
        alice.json().await,
        json!({"type": "message", "id": "m1", "data": "by name"})
    );
    assert_eq!(alice.json().await["data"], "by fd");
    assert_eq!(alice.json().await["data"], "end");
    assert_eq!(bob.json().await, "by pn:g");
    assert_eq!(bob.json().await, "all but alice");
    assert_eq!(bob.json().await, "end");
}

/// Subscribes to the receipts of `me` and answers the client that will hear them.
pub(crate) async fn inbox(redis: &Redis, me: &str) -> Resp {
    let mut inbox = Resp::connect(redis.port()).await;
    inbox.call(&["SUBSCRIBE", &format!("pn:n:{{{me}}}")]).await;
    inbox
}

async fn receipt(inbox: &mut Resp) -> Value {
    let Answer::List(message) = inbox.next().await else {
        panic!("not a message");
    };
    let mut lines = message[2]
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let header = lines.next().expect("a header");
    assert_eq!(header["v"], 1, "{header}");
    lines.next().expect("a receipt")
}

#[tokio::test]
async fn a_receipt_says_what_became_of_the_message() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::v1(&node.ws_url("42")).await;
    let mut inbox = inbox(&redis, "mybox.1").await;
    let mut redis_client = Resp::connect(redis.port()).await;
    let channel = format!("pn:n:{{{}}}", node.id);
    let mut ask = async |reference: &str, id: &str, to: Value, wait: &str| {
        let reply = json!({"node": "mybox.1", "ref": reference, "wait": wait, "timeout_ms": 5000});
        let line = json!({"to": to, "id": id, "data": 1, "reply": reply}).to_string();
        redis_client.call(&["PUBLISH", &channel, &line]).await;
    };
    let report = |reference: &str, status: &str, connections: u32| json!({"cmd": "receipt", "ref": reference, "node": node.id, "status": status, "connections": connections});
    ask("1", "m1", json!({"user": "42"}), "written").await;
    assert_eq!(receipt(&mut inbox).await, report("1", "written", 1));
    ask("2", "m1", json!({"user": "42"}), "written").await;
    assert_eq!(receipt(&mut inbox).await, report("2", "duplicate", 0));
    ask("3", "m2", json!({"user": "nobody"}), "written").await;
    assert_eq!(receipt(&mut inbox).await, report("3", "stale", 0));
    // The right connection, but not of this user.
    ask(
        "4",
        "m3",
        json!({"fd": client.connection(), "user": "43"}),
        "written",
    )
    .await;
    assert_eq!(receipt(&mut inbox).await, report("4", "stale", 0));
    ask("5", "m4", json!({"user": "42"}), "acked").await;
    assert_eq!(client.json().await["id"], "m1");
    assert_eq!(
        client.json().await["id"],
        "m4",
        "a duplicate or somebody else's message came"
    );
    client.send(r#"{"type":"ack","id":"m4"}"#).await;
    assert_eq!(receipt(&mut inbox).await, report("5", "acked", 1));
}

/// Lines that are no envelopes; none is blank or has a line break.
fn bad_lines() -> Vec<Vec<u8>> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        text("hello"),
        text("{}"),
        text("[]"),
        text("null"),
        text(r#"{"to":{"user":"42"},"data":"#),
        text(r#"{"to":{"user":"42"}}"#),
        text(r#"{"data":1}"#),
        text(r#"{"to":{},"data":1}"#),
        text(r#"{"to":{"user":"42","all":true},"data":1}"#),
        text(r#"{"to":{"user":"4\u00002"},"data":1}"#),
        text(r#"{"to":{"user":4.2},"data":1}"#),
        text(r#"{"to":{"fd":"42/a"},"data":1}"#),
        text(r#"{"cmd":"format-disk"}"#),
        text(r#"{"cmd":"receipt"}"#),
        text(r#"{"cmd":"kick"}"#),
        text(r#"{"cmd":"probe"}"#),
        text(r#"{"v":255,"from":"x.1","seq":1}"#),
        text(r#"{"v":1}"#),
        text(r#"{"to":{"user":"42"},"data":1,"reply":{"node":"no boot","ref":"1"}}"#),
        text("\u{1b}[2J\u{1b}[31mred\u{7}\u{9b}1m"),
        text("2024-01-01T00:00:00Z ERROR forged\rERROR forged"),
        vec![0xff, 0xfe, 0x00, 0xc3, 0x28],
        vec![b'['; 100_000],
        format!(
            r#"{{"to":{{"user":"42"}},"id":"{}","data":1}}"#,
            "x".repeat(200_000)
        )
        .into_bytes(),
    ]
}

async fn bad_envelopes(node: &Node) -> usize {
    node.metric("bad_envelopes_total").await as usize
}

#[tokio::test]
async fn bad_lines_are_counted_and_disturb_nobody() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::plain(&node.ws_url("42")).await;
    let mut publisher = Resp::connect(redis.port()).await;
    let channel = format!("pn:n:{{{}}}", node.id);
    let bad = bad_lines();
    for (i, bad) in bad.iter().enumerate() {
        // Around each bad line in one payload, and behind it in the next.
        let good =
            |name: &str| format!(r#"{{"to":{{"user":"42"}},"data":"{i} {name}"}}"#).into_bytes();
        let around = [&good("before")[..], bad, &good("after")].join(&b'\n');
        let channel = if i % 2 == 0 { &channel } else { "pn:g" };
        for payload in [around, good("later")] {
            let command = [b"PUBLISH", channel.as_bytes(), &payload];
            assert_eq!(publisher.call(&command).await.number(), 1);
        }
        for name in ["before", "after", "later"] {
            let shown = String::from_utf8_lossy(&bad[..bad.len().min(80)]);
            assert_eq!(
                client.json().await,
                format!("{i} {name}"),
                "around {shown:?}"
            );
        }
        assert_eq!(bad_envelopes(&node).await, i + 1, "bad envelopes counted");
    }
    assert_eq!(node.losses().await, 0.0);
}

/// A line that others can write must not look like our own log, nor fill the disk.
#[tokio::test]
async fn bad_lines_are_logged_without_what_they_say() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut publisher = Resp::connect(redis.port()).await;
    let forged = r"\u001b[31mred\n2024-01-01T00:00:00Z ERROR forged\r\u0007";
    let long = "x".repeat(100_000);
    let mut bad = bad_lines();
    for text in [forged, &long] {
        // Wherever a text stands that the fault may quote.
        for line in [
            format!(r#"{{"v":"{text}"}}"#),
            format!(r#"{{"cmd":"receipt","ref":"1","node":"a.1","status":"{text}"}}"#),
            format!(r#"{{"cmd":"{text}"}}"#),
            format!(r#"{{"to":{{"{text}":1}},"data":1}}"#),
            format!(r#"{{"to":{{"user":"{text}"}},"data":1}}"#),
            format!(r#"{{"to":{{"user":"42"}},"data":1,"policy":"{text}"}}"#),
            format!(
                r#"{{"to":{{"user":"42"}},"data":1,"reply":{{"node":"a.1","ref":"1","wait":"{text}"}}}}"#
            ),
        ] {
            bad.push(line.into_bytes());
        }
    }
    for line in &bad {
        let channel = format!("pn:n:{{{}}}", node.id);
        publisher
            .call(&[b"PUBLISH", channel.as_bytes(), line])
            .await;
    }
    eventually(async || match bad_envelopes(&node).await {
        count if count == bad.len() => Ok(()),
        count => Err(count),
    })
    .await;
    let log = node.log();
    let logged = log
        .lines()
        .filter(|line| line.contains("bad envelope"))
        .count();
    assert!(logged > 0, "no bad envelope in the log");
    for said in ["forged", "xxxx"] {
        assert!(!log.contains(said), "{said} is in the log");
    }
    let strange = log.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(strange, None, "a control character in the log");
    for line in log.lines() {
        assert!(
            line.len() < 2_000,
            "a line of {} bytes in the log: {}",
            line.len(),
            &line[..200]
        );
        let stamped = line.starts_with(|c: char| c.is_ascii_digit()) && !line.starts_with("2024-");
        assert!(stamped, "a forged line in the log: {line}");
    }
}

#[tokio::test]
async fn ten_thousand_random_blobs_leave_the_node_alive() {
    const BLOBS: usize = 10_000;
    // Few enough that a slow node keeps up: what it cannot keep up with it may drop.
    const BATCH: usize = 1_000;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::plain(&node.ws_url("42")).await;
    let mut publisher = Resp::connect(redis.port()).await;
    let channels = [format!("pn:n:{{{}}}", node.id), "pn:g".to_owned()];
    let good = r#"{"v":1,"to":{"user":"42"},"cmd":"kick","data":[1,"x"],"reply":{"node":"a.1","ref":"1"}}"#;
    let mut expected = 0;
    for _ in 0..BLOBS / BATCH {
        let commands: Vec<Vec<Vec<u8>>> = (0..BATCH)
            .map(|_| {
                let mut blob: Vec<u8> = (0..random.usize(..300)).map(|_| random.u8(..)).collect();
                if random.bool() {
                    // Nearly an envelope: cut short somewhere.
                    blob = good.as_bytes()[..random.usize(..good.len())].to_vec();
                }
                let lines = blob.split(|byte| *byte == b'\n');
                expected += lines.filter(|line| !line.trim_ascii().is_empty()).count();
                let channel = &channels[random.usize(..2)];
                vec![b"PUBLISH".to_vec(), channel.clone().into_bytes(), blob]
            })
            .collect();
        for answer in publisher.pipeline(&commands).await {
            assert_eq!(
                answer.number(),
                1,
                "seed {seed}: the node does not listen any more"
            );
        }
        eventually(async || match bad_envelopes(&node).await {
            count if count == expected => Ok(()),
            count => Err(format!("seed {seed}: {count} counted of {expected}")),
        })
        .await;
    }
    let push = json!({"to": {"user": "42"}, "data": "still here"});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("routed")),
        "seed {seed}"
    );
    assert_eq!(client.json().await, "still here");
}
