//! Sessions, bans and limits, as they hold for the nodes of a cluster and for one node by itself:
//! `a` and `b` may be the same.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Client, Node, eventually, http, refused_handshake};

/// What is promised: a word to all nodes, and closes, within this time. Measured from the answer
/// to whoever asked for it; tests are more generous, for machines are slow.
const PROMISED: Duration = Duration::from_secs(1);

/// Asks; answers status and body.
pub async fn ask(method: &str, url: &str, body: &Value) -> (u16, Value) {
    let method = method.parse().expect("a method");
    let request = http().request(method, url).json(body);
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

pub fn url(node: &Node, token: &str) -> String {
    format!("ws://{}/ws?token={token}", node.client_address())
}

/// Status and code of a refused handshake.
pub async fn refused(url: &str) -> (u16, String) {
    let (status, body) = refused_handshake(url).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let code = body["error"]["code"].as_str().expect("a code");
    (status, code.to_owned())
}

/// Says how long something took beside what is promised.
pub fn report(what: &str, began: Instant) {
    let took = began.elapsed();
    let late = if took > PROMISED { ", LATE" } else { "" };
    println!("{what}: {took:?}{late}");
}

/// A session opened by one node lets its bearer in at the other, until it is ended.
pub async fn sessions(a: &Node, b: &Node) {
    let wish = json!({"user": "42", "device": "phone", "topics": ["news"], "ttl_seconds": 300});
    let (status, opened) = ask("POST", &a.url("/v1/sessions"), &wish).await;
    assert_eq!(status, 201, "{opened}");
    assert_eq!(
        (&opened["user"], &opened["expires_in"]),
        (&json!("42"), &json!(300))
    );
    let token = opened["token"].as_str().expect("a token");
    assert!(token.len() >= 43, "{opened}");
    let mut clients = Vec::new();
    for node in [a, b] {
        let client = Client::v1(&url(node, token)).await;
        assert_eq!(client.ready.as_ref().expect("ready")["user"], "42");
        clients.push(client);
    }
    let (_, shown) = ask("GET", &a.url("/v1/users/42"), &json!(null)).await;
    // An earlier node of the same test may not be swept yet.
    let rows = shown["connections"].as_array().expect("rows").iter();
    let here = rows.filter(|row| [&a.id, &b.id].iter().any(|id| row["node"] == id.as_str()));
    let devices: Vec<_> = here.map(|row| &row["device"]).collect();
    assert_eq!(devices, ["phone", "phone"], "{shown}");
    let bystander = json!({"user": "42", "ttl_seconds": 300});
    let (_, other) = ask("POST", &b.url("/v1/sessions"), &bystander).await;
    let mut other = Client::v1(&url(b, other["token"].as_str().expect("a token"))).await;

    let began = Instant::now();
    let (status, ended) = ask("DELETE", &a.url("/v1/sessions"), &json!({ "token": token })).await;
    assert_eq!((status, &ended["ended"]), (200, &json!(true)), "{ended}");
    for client in &mut clients {
        assert_eq!(
            client.close_frame().await,
            (4004, "token expired".to_owned())
        );
    }
    report("revoked", began);
    assert_eq!(
        refused(&url(b, token)).await,
        (401, "token_invalid".to_owned())
    );
    other.send(r#"{"type":"ping"}"#).await;
    other.hears_next("pong").await;
    let by_name = json!({"session": opened["session"]});
    let (status, ended) = ask("DELETE", &b.url("/v1/sessions"), &by_name).await;
    assert_eq!((status, &ended["ended"]), (200, &json!(false)), "{ended}");
}

/// Requests that make no sense are refused by name.
pub async fn bad_requests(node: &Node) {
    for (method, path, body, word) in [
        ("POST", "/v1/sessions", json!({"user": "a"}), "ttl_seconds"),
        (
            "POST",
            "/v1/sessions",
            json!({"user": "a\u{1}b", "ttl_seconds": 1}),
            "user",
        ),
        (
            "POST",
            "/v1/sessions",
            json!({"user": "a", "ttl_seconds": 0}),
            "ttl_seconds",
        ),
        (
            "POST",
            "/v1/sessions",
            json!({"user": "a", "ttl_seconds": 1, "x": 1}),
            "x",
        ),
        (
            "POST",
            "/v1/sessions",
            json!({"user": "a", "ttl_seconds": 1, "device": "x".repeat(65)}),
            "device",
        ),
        ("DELETE", "/v1/sessions", json!({}), "token"),
        (
            "DELETE",
            "/v1/sessions",
            json!({"session": "abc"}),
            "session",
        ),
        ("PUT", "/v1/users/a/ban", json!({}), "seconds"),
        ("PUT", "/v1/users/a/ban", json!({"seconds": 0}), "seconds"),
        (
            "PUT",
            "/v1/users/a/ban",
            json!({"seconds": 1, "reason": "x".repeat(257)}),
            "reason",
        ),
        ("PUT", "/v1/users/a%00b/ban", json!({"seconds": 1}), "user"),
    ] {
        let (status, answer) = ask(method, &node.url(path), &body).await;
        assert_eq!(status, 400, "{method} {path} {body}: {answer}");
        let words = answer["error"]["message"].as_str().expect("words");
        assert!(words.contains(word), "{method} {path} {body}: {words}");
    }
}

/// A session's end is the end of its key: renewed, it goes on; removed, it is over.
pub async fn session_ends(a: &Node, renew: impl AsyncFnOnce(&Value)) {
    let wish = |seconds: u64| json!({"user": "42", "ttl_seconds": seconds});
    let (_, short) = ask("POST", &a.url("/v1/sessions"), &wish(8)).await;
    let (_, long) = ask("POST", &a.url("/v1/sessions"), &wish(15)).await;
    let opened_at = Instant::now();
    let token = |opened: &Value| opened["token"].as_str().expect("a token").to_owned();
    let mut renewed = Client::v1(&url(a, &token(&long))).await;
    let mut ends = Client::v1(&url(a, &token(&short))).await;
    for client in [&mut renewed, &mut ends] {
        assert_eq!(client.json().await["type"], "expiring");
    }
    renew(&long).await;
    assert_eq!(ends.json().await["code"], 4004);
    assert_eq!(ends.close_frame().await, (4004, "token expired".to_owned()));
    // Beyond its first end.
    while opened_at.elapsed() < Duration::from_secs(17) {
        renewed.send(r#"{"type":"ping"}"#).await;
        renewed.hears_next("pong").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // In band from one session to another, with the first one's end.
    let (_, other) = ask("POST", &a.url("/v1/sessions"), &wish(300)).await;
    let auth = json!({"type": "auth", "ref": "r", "token": token(&other)});
    renewed.send(&auth.to_string()).await;
    let reply = renewed.json().await;
    assert_eq!(
        (&reply["type"], &reply["ref"]),
        (&json!("reply"), &json!("r")),
        "{reply}"
    );
    assert!(
        reply["expires_in_ms"].as_u64().expect("a number") > 200_000,
        "{reply}"
    );
    ask(
        "DELETE",
        &a.url("/v1/sessions"),
        &json!({"token": token(&long)}),
    )
    .await;
    renewed.send(r#"{"type":"ping"}"#).await;
    renewed.hears_next("pong").await;
    // From one session to another whose end comes by itself: nobody says a word of it.
    let mut moved = Client::v1(&url(a, &token(&other))).await;
    let (_, last) = ask("POST", &a.url("/v1/sessions"), &wish(8)).await;
    let auth = json!({"type": "auth", "token": token(&last)});
    moved.send(&auth.to_string()).await;
    let mut heard = [moved.json().await, moved.json().await];
    heard.sort_by_key(|object| object["type"].to_string());
    assert_eq!(heard[0]["type"], "expiring", "{heard:?}");
    assert_eq!(heard[1]["type"], "reply", "{heard:?}");
    ask(
        "DELETE",
        &a.url("/v1/sessions"),
        &json!({"token": token(&other)}),
    )
    .await;
    assert_eq!(renewed.close_frame().await.0, 4004);
    assert_eq!(moved.json().await["code"], 4004);
    assert_eq!(moved.close_frame().await.0, 4004);
}

/// A ban closes everywhere and holds at every door until it is lifted.
pub async fn bans(a: &Node, b: &Node) {
    let path = "/v1/users/42/ban";
    let (_, shown) = ask("GET", &a.url(path), &json!(null)).await;
    assert_eq!(shown, json!({"user": "42", "banned": false}));
    let mut clients = [
        Client::v1(&a.ws_url("42")).await,
        Client::v1(&b.ws_url("42")).await,
    ];
    let mut other = Client::v1(&b.ws_url("43")).await;
    let began = Instant::now();
    let ban = json!({"seconds": 300, "reason": "spam"});
    let (status, answer) = ask("PUT", &a.url(path), &ban).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(2)),
        "{answer}"
    );
    for client in &mut clients {
        let bye = client.json().await;
        let expected = json!({"type": "bye", "code": 4006, "reason": "banned"});
        assert_eq!(bye, expected, "and no retry_ms");
        assert_eq!(client.close_frame().await, (4006, "banned".to_owned()));
    }
    report("banned", began);
    for node in [a, b] {
        assert_eq!(
            refused(&node.ws_url("42")).await,
            (403, "banned".to_owned())
        );
    }
    let (_, shown) = ask("GET", &b.url(path), &json!(null)).await;
    assert_eq!(
        (&shown["banned"], &shown["reason"]),
        (&json!(true), &json!("spam"))
    );
    assert!(
        (200..=300).contains(&shown["seconds"].as_u64().expect("a number")),
        "{shown}"
    );
    other.send(r#"{"type":"ping"}"#).await;
    other.hears_next("pong").await;

    let (_, lifted) = ask("DELETE", &b.url(path), &json!(null)).await;
    assert_eq!(
        lifted,
        json!({"user": "42", "banned": false, "lifted": true})
    );
    for node in [a, b] {
        Client::v1(&node.ws_url("42")).await;
    }
}

/// Who a user's connections are, by the time they are known everywhere.
pub async fn eventually_online(node: &Node, user: &str, count: usize) -> Vec<String> {
    eventually(async || {
        let url = node.url(&format!("/v1/users/{user}"));
        let (_, shown) = ask("GET", &url, &json!(null)).await;
        let rows = shown["connections"].as_array().expect("rows");
        let name = |row: &Value| format!("{}/{}", row["node"].as_str().expect("a node"), row["fd"]);
        let names: Vec<String> = rows.iter().map(name).collect();
        if names.len() == count {
            Ok(names)
        } else {
            Err(shown)
        }
    })
    .await
}

/// The newest connection takes the place of the oldest.
pub async fn newest_wins(a: &Node, b: &Node) {
    let mut first = Client::v1(&a.ws_url("42&device=phone")).await;
    let second = Client::v1(&b.ws_url("42&device=desk")).await;
    let third = Client::v1(&b.ws_url("42")).await;
    let bye = first.json().await;
    let expected = json!({"type": "bye", "code": 4005, "reason": "replaced"});
    assert_eq!(bye, expected, "and no retry_ms");
    assert_eq!(first.close_frame().await, (4005, "replaced".to_owned()));
    let mut expected = vec![second.connection(), third.connection()];
    let mut online = eventually_online(a, "42", 2).await;
    expected.sort();
    online.sort();
    assert_eq!(online, expected);
    Client::v1(&a.ws_url("another")).await;
}

/// The oldest connection keeps its place, and newcomers are refused until it goes.
pub async fn oldest_wins(a: &Node, b: &Node) {
    let mut first = Client::v1(&a.ws_url("42")).await;
    let full = (409, "too_many_connections".to_owned());
    for node in [a, b] {
        assert_eq!(refused(&node.ws_url("42")).await, full);
    }
    eventually_online(b, "42", 1).await;
    first.send(r#"{"type":"ping"}"#).await;
    first.hears_next("pong").await;
    drop(first);
    eventually_online(b, "42", 0).await;
    Client::v1(&b.ws_url("42")).await;
}

/// Many that come at the same moment at two nodes: as many as may be stay, the right ones, and
/// all others hear why they do not.
pub async fn at_the_same_moment(a: &Node, b: &Node, rounds: usize, places: usize, newest: bool) {
    for round in 0..rounds {
        let user = format!("user-{round}");
        let connects = (0..6).map(async |n| {
            let node = if n % 2 == 0 { a } else { b };
            let asked = tokio_tungstenite::connect_async(node.ws_url(&user)).await;
            asked.ok().map(|(socket, _)| socket)
        });
        let sockets: Vec<_> = futures::future::join_all(connects).await;
        let mut sockets: Vec<_> = sockets.into_iter().flatten().collect();
        let online = eventually_online(a, &user, places).await;
        // Nobody else is open, and nobody of these goes.
        while sockets.len() > places {
            let frames = sockets.iter_mut().map(|socket| Box::pin(socket.next()));
            let (frame, i, _) = futures::future::select_all(frames).await;
            let frame = frame.expect("an open connection").expect("a frame");
            if let Message::Close(frame) = frame {
                assert_eq!(u16::from(frame.expect("a code").code), 4005);
                drop(sockets.remove(i));
            }
        }
        let still = eventually_online(b, &user, places).await;
        assert_eq!(online, still, "round {round}, newest {newest}");
    }
}
