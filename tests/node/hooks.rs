//! Clients that a backend knows, and services that are hooks: what they cost when the backend is
//! well, and when it is slow, dead, or answers rubbish.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::common::hooks::{
    Backend, Deed, PAGE, Question, SECRET, by_cookie, by_hook, hooked, ok, open,
};
use crate::common::tokens::{Issuer, claims};
use crate::common::topics::ask;
use crate::common::transports::{TRANSPORTS, Transport, connect_as, refused_as};
use crate::common::{Client, Node, eventually, node, refused_node};

const SECRET_COOKIE: &str = "user=ada; sid=only-the-backend-knows-this";

/// How long a question waits for its turn (docs/hooks.md).
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection to a backend is kept (docs/hooks.md).
const KEPT: Duration = Duration::from_secs(4);

async fn refused(node: &Node, query: &str) -> (u16, String, String) {
    let Err((status, body)) = open(node, query, &[]).await else {
        panic!("let in");
    };
    let text = |name: &str| body["error"][name].as_str().expect("a text").to_owned();
    (status, text("code"), text("message"))
}

fn unavailable() -> (u16, String, String) {
    let message = "the application cannot say now who this client is";
    (503, "unavailable".to_owned(), message.to_owned())
}

async fn send(client: &mut Client, route: &str, data: Value) -> Value {
    ask(
        client,
        json!({"type": "send", "route": route, "ref": "r", "data": data}),
    )
    .await
}

#[tokio::test]
async fn the_backend_hears_the_client_and_says_who_it_is() {
    let backend = Backend::start(by_cookie).await;
    let url = backend.url("/push/connect?key=k");
    let node = hooked(&by_hook(&url), &[]);
    let headers = [
        ("cookie", SECRET_COOKIE),
        ("origin", PAGE),
        ("accept-language", "de"),
        ("x-other", "not passed on"),
    ];
    let client = open(&node, "room=7&device=phone&token=a-secret-token", &headers);
    let mut client = client.await.expect("let in");
    let ready = client.ready.clone().expect("ready");
    assert_eq!(
        (&ready["type"], &ready["user"]),
        (&json!("ready"), &json!("ada"))
    );

    let asked = backend.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path, "/push/connect?key=k");
    assert_eq!(
        asked[0].json,
        json!({
            "hook": "connect", "renew": false, "query": {"room": "7", "device": "phone"},
            "headers": {"cookie": SECRET_COOKIE, "accept-language": "de"},
            "token": "a-secret-token", "address": "127.0.0.1", "transport": "ws",
            "device": "phone",
        })
    );
    assert!(asked[0].is_signed_by(SECRET));
    assert!(!asked[0].is_signed_by("another-secret-of-at-least-32-bytes"));
    let id = asked[0].header("pushnode-id").expect("an id");
    assert!(id.starts_with(&node.id), "{id}");
    // Its answer grants no topic: PUSH_TOPICS is closed.
    let reply = ask(
        &mut client,
        json!({"type": "subscribe", "topic": "news", "ref": 1}),
    )
    .await;
    assert_eq!(reply["code"], "forbidden", "{reply}");

    let words = (401, "unauthorized".to_owned(), "log in first".to_owned());
    assert_eq!(refused(&node, "").await, words);
    backend.answer(|_| Deed::Json(403, json!({"reason": "not\nyou"})));
    let words = (403, "forbidden".to_owned(), "notyou".to_owned());
    assert_eq!(refused(&node, "").await, words);
    // A page that is not listed does not even get its cookies to the backend.
    let count = backend.asked().len();
    let foreign = [
        ("cookie", SECRET_COOKIE),
        ("origin", "https://evil.example"),
    ];
    let (status, body) = open(&node, "", &foreign).await.err().expect("refused");
    assert_eq!((status, &body["error"]["code"]), (403, &json!("origin")));
    assert_eq!(backend.asked().len(), count);
    assert_eq!(
        node.labelled("hook_connect_total", r#"status="answered""#)
            .await,
        1.0
    );
    assert_eq!(
        node.labelled("hook_connect_total", r#"status="refused""#)
            .await,
        2.0
    );
    let text = node.metrics().await;
    assert!(
        text.contains(r#"pushnode_hook_seconds_count{hook="connect"} 3"#),
        "{text}"
    );
    let log = node.log();
    for secret in ["only-the-backend", "a-secret-token", SECRET, "key=k"] {
        assert!(!log.contains(secret), "{secret} stands in the log");
    }
}

#[tokio::test]
async fn topics_over_the_limit_are_left_out_and_the_trace_says_so() {
    let backend = Backend::start(|_| ok(json!({"user": "42", "subscribe": ["a", "b", "c"]}))).await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[("PUSH_MAX_TOPICS", "2")]);
    let mut client = connect_as(TRANSPORTS[0], &node, &[]).await;
    for _ in 0..2 {
        assert_eq!(client.json().await["type"], "subscribed");
    }
    let trace = crate::sender::call("GET", &node.url("/v1/users/42/trace")).await;
    let failed = trace.2["events"]
        .as_array()
        .expect("events")
        .last()
        .cloned();
    let failed = failed.expect("an event");
    assert_eq!(failed["what"], "hook_failed", "{failed}");
    assert_eq!(failed["reason"], "too_many_topics", "{failed}");
}

#[tokio::test]
async fn every_transport_is_let_in_and_refused_with_the_reason() {
    let backend = Backend::start(|question| match question.json["query"]["room"].as_str() {
        Some(room) => ok(json!({
            "user": room, "topics": ["chat.*"], "subscribe": [format!("bell.{room}")],
        })),
        None => Deed::Json(401, json!({"reason": "no room"})),
    })
    .await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[]);
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        assert_eq!(refused_as(transport, &node, &[]).await, "unauthorized");
        let room = number.to_string();
        let who = [("room", &*room), ("topics", "chat.1")];
        let mut client = connect_as(transport, &node, &who).await;
        let told = client.json().await;
        let bell = format!("bell.{room}");
        assert_eq!(
            told,
            json!({"type": "subscribed", "topic": bell}),
            "{transport:?}"
        );
        for topic in ["chat.1", &bell] {
            crate::common::topics::push(&node, topic, topic).await;
            client.hears(topic).await;
        }
        let asked = backend.asked();
        let last = &asked.last().expect("asked").json;
        assert_eq!(last["transport"], transport.name(), "{last}");
        assert_eq!(last["token"], Value::Null);
        assert_eq!(last["query"]["topics"], "chat.1");
        if transport != Transport::Tcp {
            assert_eq!(
                refused_as(transport, &node, &[("room", "8"), ("topics", "news")]).await,
                "forbidden"
            );
            let twice = [("room", "8"), ("room", "9")];
            assert_eq!(refused_as(transport, &node, &twice).await, "bad_request");
        }
        // It says that it is one user, and the backend that it is another.
        let who = [("room", "8"), ("user", "9")];
        assert_eq!(refused_as(transport, &node, &who).await, "wrong_user");
    }
    let mut told = open(&node, "refuse=frame", &[]).await.expect("frames");
    let bye = told.ready.take().expect("an object");
    assert_eq!(
        (&bye["type"], &bye["code"]),
        (&json!("bye"), &json!(4401)),
        "{bye}"
    );
    assert!(bye.to_string().contains("no room"), "{bye}");
}

#[tokio::test]
async fn a_token_counts_before_the_hook() {
    let backend = Backend::start(by_cookie).await;
    let (url, secret) = (backend.url("/"), "jwt-secret-of-32-bytes-and-a-little");
    let more = [("PUSH_AUTH", "jwt,hook"), ("PUSH_JWT_SECRETS", secret)];
    let node = hooked(&by_hook(&url), &more);
    let token = Issuer::secret(secret).token(&claims("bob"));
    let cookie = [("cookie", SECRET_COOKIE)];
    let user = |client: &Client| client.ready.as_ref().expect("ready")["user"].clone();
    let bob = open(&node, &format!("token={token}"), &cookie)
        .await
        .expect("let in");
    assert_eq!(user(&bob), "bob");
    assert_eq!(backend.asked().len(), 0);
    let ada = open(&node, "", &cookie).await.expect("let in");
    assert_eq!(user(&ada), "ada");
    // A bad token is not made good by a cookie.
    let (status, body) = open(&node, "token=x", &cookie)
        .await
        .err()
        .expect("refused");
    assert_eq!(
        (status, &body["error"]["code"]),
        (401, &json!("token_invalid"))
    );
    assert_eq!(backend.asked().len(), 1);

    let more = [("PUSH_AUTH", "session,hook")];
    let node = hooked(&by_hook(&url), &more);
    let ada = open(&node, "", &cookie).await.expect("let in");
    assert_eq!(user(&ada), "ada");
    let (status, _) = open(&node, "token=x", &cookie)
        .await
        .err()
        .expect("refused");
    assert_eq!(status, 401);
}

/// Answers that are none, each with what is counted.
fn rubbish() -> Vec<(&'static str, Deed)> {
    let raw = |text: &str| Deed::Raw(text.as_bytes().to_vec());
    // Each would be an answer if it were not so long.
    let blanks = " ".repeat(10 << 20);
    let length = blanks.len() + 12;
    let head = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n");
    let long = format!("{head}{blanks}{{\"user\":\"a\"}}");
    let piece = format!("10000\r\n{}\r\n", " ".repeat(65_536));
    let endless = format!(
        "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n{}c\r\n{{\"user\":\"a\"}}\r\n0\r\n\r\n",
        piece.repeat(160)
    );
    vec![
        ("invalid", Deed::Json(200, json!({}))),
        ("invalid", Deed::Json(200, json!([1]))),
        (
            "invalid",
            raw("HTTP/1.1 200 X\r\ncontent-length: 6\r\n\r\n<html>"),
        ),
        (
            "invalid",
            raw("HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n\u{ff}\u{fe}"),
        ),
        ("invalid", Deed::Raw(long.into_bytes())),
        ("invalid", Deed::Raw(endless.into_bytes())),
        ("invalid", raw("HTTP/1.1 204 X\r\n\r\n")),
        (
            "failed",
            raw("HTTP/1.1 302 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"),
        ),
        ("failed", Deed::Json(404, json!({"user": "a"}))),
        ("failed", Deed::Json(500, json!({"user": "a"}))),
        // It promises more than it gives, and gives more than it promises.
        (
            "broken",
            raw("HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{\"user\":\"a\"}"),
        ),
        (
            "invalid",
            raw("HTTP/1.1 200 X\r\ncontent-length: 3\r\n\r\n{\"user\":\"a\"}"),
        ),
        ("broken", raw("")),
        ("broken", raw("SSH-2.0-x\r\n")),
        ("broken", Deed::Raw(vec![b'a'; 1_000_000])),
        ("timeout", Deed::Held(Vec::new())),
        (
            "timeout",
            Deed::Held(b"HTTP/1.1 200 X\r\ncontent-le".to_vec()),
        ),
        (
            "timeout",
            Deed::Held(b"HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{".to_vec()),
        ),
    ]
}

#[tokio::test]
async fn a_backend_that_answers_rubbish_costs_only_those_who_need_it() {
    let backend = Backend::start(by_cookie).await;
    let url = backend.url("/");
    // Ada reads nothing, so answers no ping, while the others are waited for.
    let settings = [
        ("PUSH_HOOK_TIMEOUT_MS", "2000"),
        ("PUSH_PONG_SECONDS", "120"),
    ];
    let node = hooked(&by_hook(&url), &settings);
    let mut ada = open(&node, "", &[("cookie", SECRET_COOKIE)])
        .await
        .expect("let in");
    for (outcome, deed) in rubbish() {
        let label = format!("status={outcome:?}");
        let before = node.labelled("hook_connect_total", &label).await;
        let shown = format!("{deed:.80?}");
        backend.answer(move |_| deed.clone());
        assert_eq!(
            refused(&node, "").await,
            unavailable(),
            "{outcome} {shown:.80}"
        );
        let after = node.labelled("hook_connect_total", &label).await;
        assert_eq!(after - before, 1.0, "{outcome} {shown:.80}");
        // Others are served, and so that the breaker stays closed.
        crate::sender::push(&node, json!({"to": {"user": "ada"}, "data": 1})).await;
        assert_eq!(ada.json().await["data"], 1);
        backend.answer(by_cookie);
        open(&node, "", &[("cookie", "user=bob")])
            .await
            .expect("let in");
    }
    // No redirect was followed.
    let paths: Vec<_> = backend.asked().into_iter().map(|one| one.path).collect();
    assert!(paths.iter().all(|path| path == "/"), "{paths:?}");
    let log = node.log();
    assert!(log.contains("hook gave no answer"), "{log}");
    assert!(!log.contains("only-the-backend"));
}

/// As one that restarts: whatever comes over a connection of before ends without an answer.
#[tokio::test]
async fn a_backend_that_breaks_all_its_connections_is_asked_over_a_new_one() {
    let late = |_: &_| Deed::Late(Duration::from_millis(500), json!({"user": "ada"}));
    let backend = Backend::start(late).await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[]);
    for opened in join_all((0..4).map(|_| open(&node, "", &[]))).await {
        opened.expect("let in");
    }
    let before = backend.opened();
    backend.answer(move |question| match question.connection < before {
        true => Deed::Raw(Vec::new()),
        false => ok(json!({"user": "ada"})),
    });
    open(&node, "", &[]).await.expect("let in");
}

#[tokio::test]
async fn a_dead_backend_is_asked_once_a_second_until_it_answers() {
    let backend = Backend::start(|_| Deed::Json(500, json!({}))).await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[]);
    for _ in 0..10 {
        assert_eq!(refused(&node, "").await, unavailable());
    }
    let began = Instant::now();
    assert_eq!(backend.asked().len(), 10);
    for _ in 0..50 {
        assert_eq!(refused(&node, "").await, unavailable());
    }
    let most = 10 + began.elapsed().as_secs() as usize + 1;
    assert!(
        backend.asked().len() <= most,
        "{} of {most}",
        backend.asked().len()
    );
    backend.answer(|_| ok(json!({"user": "ada"})));
    eventually(async || open(&node, "", &[]).await.map_err(|(_, body)| body)).await;
    node.until_logged("hook answers again").await;
    assert!(
        node.labelled("hook_connect_total", r#"status="open""#)
            .await
            > 0.0
    );

    // Nothing listens there any more.
    let nowhere = format!("http://127.0.0.1:{}/", crate::common::free_port());
    let node = hooked(&by_hook(&nowhere), &[]);
    assert_eq!(refused(&node, "").await, unavailable());
    assert_eq!(
        node.labelled("hook_connect_total", r#"status="unreachable""#)
            .await,
        1.0
    );
}

#[tokio::test]
async fn two_thousand_come_at_once_through_a_slow_hook() {
    let backend = Backend::start(|question| {
        let user = question.json["query"]["n"].clone();
        Deed::Late(Duration::from_millis(50), json!({"user": user}))
    })
    .await;
    let url = backend.url("/");
    let more = [
        ("PUSH_LOG", "info"),
        ("PUSH_CLIENT_RATE", "0"),
        // This backend shares the processors with 2,000 clients.
        ("PUSH_HOOK_TIMEOUT_MS", "60000"),
    ];
    let node = hooked(&by_hook(&url), &more);
    // In 32 rounds of 64 that are 1.6 s. Only where they take longer than a question waits may a
    // client be refused, once it has waited as long; it comes again.
    let began = Instant::now();
    let clients = (0..2000).map(async |n| {
        loop {
            let asked = Instant::now();
            match open(&node, &format!("n={n}"), &[]).await {
                Ok(client) => break client,
                Err((_, body)) => assert!(asked.elapsed() >= QUEUE_PATIENCE, "{body}"),
            }
        }
    });
    let clients: Vec<Client> = join_all(clients).await;
    let took = began.elapsed();
    assert_eq!(clients.len(), 2000);
    assert!(backend.most() <= 64, "{} at once", backend.most());
    // No slot has two, and each lives for KEPT at least: in a shorter time there are no more than
    // slots, and on a slow machine as many again each time that it passes.
    let most = 64 * (1 + took.as_secs() / KEPT.as_secs());
    let opened = backend.opened();
    assert!(opened as u64 <= most, "{opened} connections in {took:?}");
    println!("2,000 connects through a hook of 50 ms: {took:?}");
}

#[tokio::test]
async fn beyond_the_queue_clients_are_refused_at_once() {
    let backend = Backend::start(|_| Deed::Held(Vec::new())).await;
    let url = backend.url("/");
    let more = [
        ("PUSH_HOOK_CONCURRENCY", "1"),
        ("PUSH_HOOK_TIMEOUT_MS", "3000"),
    ];
    let node = hooked(&by_hook(&url), &more);
    let clients = (0..100).map(async |_| {
        let began = Instant::now();
        (refused(&node, "").await, began.elapsed())
    });
    let refused = join_all(clients).await;
    assert!(refused.iter().all(|(words, _)| *words == unavailable()));
    let at_once = refused
        .iter()
        .filter(|(_, took)| took.as_secs() < 2)
        .count();
    // One is asked, 64 wait.
    assert_eq!(at_once, 35);
    assert!(backend.asked().len() <= 3, "{}", backend.asked().len());
    assert!(
        node.labelled("hook_connect_total", r#"status="full""#)
            .await
            >= 35.0
    );
}

#[tokio::test]
async fn an_answer_that_expires_is_asked_for_again() {
    let backend =
        Backend::start(|_| ok(json!({"user": "ada", "topics": ["chat.*"], "expires_in": 1}))).await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[]);
    let headers = [("cookie", SECRET_COOKIE)];
    let mut client = open(&node, "room=7&topics=chat.1", &headers)
        .await
        .expect("let in");
    let asked = backend.was_asked(3).await;
    let mut expected = asked[0].json.clone();
    expected["renew"] = json!(true);
    expected["user"] = json!("ada");
    expected["connection"] = json!(client.connection());
    assert_eq!((&asked[1].json, &asked[2].json), (&expected, &expected));
    assert_ne!(
        asked[1].header("pushnode-id"),
        asked[2].header("pushnode-id")
    );
    // What it may is what the last answer says.
    backend.answer(|_| ok(json!({"user": "ada", "topics": ["news"], "expires_in": 1})));
    let told = client.json().await;
    assert_eq!(told, json!({"type": "unsubscribed", "topic": "chat.1"}));
    // A backend that fails sends no client away.
    backend.answer(|_| Deed::Json(500, json!({})));
    let count = backend.asked().len();
    backend.was_asked(count + 1).await;
    let reply = ask(
        &mut client,
        json!({"type": "subscribe", "topic": "news", "ref": 1}),
    )
    .await;
    assert_eq!(reply["status"], "subscribed", "{reply}");
    let trace = crate::sender::call("GET", &node.url("/v1/users/ada/trace"))
        .await
        .2;
    let failed = trace["events"].as_array().expect("events").last().cloned();
    let failed = failed.expect("an event");
    assert_eq!(
        (&failed["what"], &failed["hook"], &failed["reason"]),
        (&json!("hook_failed"), &json!("connect"), &json!("failed")),
        "{trace}"
    );
    backend.answer(|_| Deed::Json(401, json!({"reason": "logged out"})));
    assert_eq!(
        client.close_frame().await,
        (4004, "token expired".to_owned())
    );
    assert!(!node.log().contains("only-the-backend"));
}

#[tokio::test]
async fn another_user_at_the_renewal_ends_the_connection() {
    let backend = Backend::start(|question| {
        let user = if question.json["renew"] == true {
            "eve"
        } else {
            "ada"
        };
        ok(json!({"user": user, "expires_in": 1}))
    })
    .await;
    let url = backend.url("/");
    let node = hooked(&by_hook(&url), &[]);
    let mut client = open(&node, "", &[]).await.expect("let in");
    assert_eq!(
        client.close_frame().await,
        (4004, "token expired".to_owned())
    );
}

#[tokio::test]
async fn a_send_is_answered_by_the_backend() {
    let backend = Backend::start(|question| match &question.json["data"] {
        Value::String(text) if text == "no" => Deed::Json(422, json!({"error": "not allowed"})),
        Value::String(text) if text == "gone" => Deed::Json(410, json!({})),
        Value::String(text) if text == "fail" => Deed::Json(500, json!({"error": "secret"})),
        Value::String(text) if text == "empty" => Deed::Raw(b"HTTP/1.1 204 X\r\n\r\n".to_vec()),
        Value::String(text) if text == "page" => {
            Deed::Raw(b"HTTP/1.1 200 X\r\ncontent-length: 6\r\n\r\n<html>".to_vec())
        }
        Value::String(text) if text == "hang" => Deed::Held(Vec::new()),
        Value::String(text) if text == "break" => Deed::Raw(Vec::new()),
        data => ok(json!({"echo": data})),
    })
    .await;
    let routes = format!("chat.*={}", backend.url("/push/chat"));
    let node = node(&[
        ("PUSH_UPSTREAM_ROUTES", &routes),
        ("PUSH_HOOK_SECRET", SECRET),
        ("PUSH_HOOK_TIMEOUT_MS", "300"),
    ]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let data = json!({"text": "a\n\"b\"", "n": 1.5});
    let reply = send(&mut client, "chat.say", data.clone()).await;
    let expected = json!({
        "type": "reply", "ref": "r", "status": "answered", "data": {"echo": data},
    });
    assert_eq!(reply, expected);
    let asked = &backend.asked()[0];
    let expected = json!({
        "hook": "send", "user": "42", "connection": client.connection(), "route": "chat.say",
        "ref": "r", "data": data,
    });
    assert_eq!((&asked.json, &*asked.path), (&expected, "/push/chat"));
    assert!(asked.is_signed_by(SECRET));
    let reply = send(&mut client, "chat.say", json!("empty")).await;
    assert_eq!(
        reply,
        json!({"type": "reply", "ref": "r", "status": "answered"})
    );
    client
        .send(r#"{"type":"send","route":"chat.x","data":7}"#)
        .await;
    let reply = client.json().await;
    assert_eq!(
        reply,
        json!({"type": "reply", "status": "answered", "data": {"echo": 7}})
    );
    assert_eq!(backend.asked()[2].json.get("ref"), None);
    for (data, message, retries) in [
        ("no", "not allowed", false),
        ("gone", "the service answers 410", false),
        ("fail", "it may or may not have acted", true),
        ("page", "it may or may not have acted", true),
        ("break", "it may or may not have acted", true),
        ("hang", "it may or may not have acted", true),
    ] {
        let count = backend.asked().len();
        let reply = send(&mut client, "chat.say", json!(data)).await;
        let told = (&reply["type"], &reply["status"]);
        assert_eq!(told, (&json!("reply"), &json!("failed")), "{reply}");
        let words = reply["error"].as_str().expect("words");
        assert!(words.ends_with(message), "{data}: {reply}");
        assert_eq!(reply["retry_ms"].is_number(), retries, "{reply}");
        assert_eq!(backend.asked().len(), count + 1, "{data} was sent once");
    }
    let reply = send(&mut client, "other", json!(1)).await;
    assert_eq!(reply["code"], "no_route");
    assert_eq!(
        node.labelled("upstream_total", r#"status="answered""#)
            .await,
        3.0
    );
    assert_eq!(
        node.labelled("upstream_total", r#"status="failed""#).await,
        6.0
    );
    assert_eq!(
        node.labelled("hook_send_total", r#"status="refused""#)
            .await,
        2.0
    );
    let trace = crate::sender::call("GET", &node.url("/v1/users/42/trace"))
        .await
        .2;
    let events = trace["events"].as_array().expect("events").iter();
    let failed = events.filter(|event| event["what"] == "hook_failed");
    let reasons: Vec<&str> = failed
        .map(|event| event["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["failed", "invalid", "broken", "timeout"],
        "{trace}"
    );
}

#[tokio::test]
async fn sends_of_a_connection_keep_their_order_and_delay_no_other() {
    let backend = Backend::start(|question| match question.json["user"].as_str() {
        Some("slow") => Deed::Late(Duration::from_millis(100), question.json["data"].clone()),
        _ => ok(question.json["data"].clone()),
    })
    .await;
    let routes = format!("*={}", backend.url("/"));
    let node = node(&[
        ("PUSH_UPSTREAM_ROUTES", &routes),
        ("PUSH_HOOK_SECRET", SECRET),
    ]);
    let mut slow = Client::v1(&node.ws_url("slow")).await;
    for n in 0..5 {
        slow.send(&json!({"type": "send", "route": "a", "ref": n, "data": n}).to_string())
            .await;
    }
    let mut fast = Client::v1(&node.ws_url("fast")).await;
    for n in 0..5 {
        let reply = send(&mut fast, "a", json!(n)).await;
        assert_eq!(reply["data"], n);
    }
    for n in 0..5 {
        let reply = slow.json().await;
        assert_eq!((&reply["ref"], &reply["data"]), (&json!(n), &json!(n)));
    }
    let asked = backend.asked().into_iter();
    let asked = asked.filter(|one| one.json["user"] == "slow");
    let order: Vec<i64> = asked
        .map(|one| one.json["data"].as_i64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn both_secrets_sign_and_a_file_of_them_is_read_again() {
    let backend = Backend::start(|_| ok(json!({"user": "ada"}))).await;
    let url = backend.url("/");
    let new = "a-new-secret-of-at-least-32-bytes-here";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n{new}\n")).expect("written");
    let mut settings = by_hook(&url);
    settings[2] = ("PUSH_HOOK_SECRET_FILE", file.to_str().expect("UTF-8"));
    let node = hooked(&settings, &[]);
    let mut client = open(&node, "", &[]).await.expect("let in");
    let asked = backend.asked().pop().expect("asked");
    assert!(asked.is_signed_by(SECRET) && asked.is_signed_by(new));
    std::fs::write(&file, new).expect("written");
    eventually(async || {
        client = open(&node, "", &[]).await.expect("let in");
        let asked = backend.asked().pop().expect("asked");
        match asked.is_signed_by(SECRET) {
            false if asked.is_signed_by(new) => Ok(()),
            _ => Err("not only by the new secret"),
        }
    })
    .await;
}

#[test]
fn hooks_that_strangers_could_use_are_refused_at_the_start() {
    let url = "http://127.0.0.1:9/";
    let good = by_hook(url);
    let with = |name: &str, value: &'static str| -> Vec<(&str, &str)> {
        let others = good.iter().copied().filter(|(known, _)| *known != name);
        let changed = good.iter().find(|(known, _)| *known == name);
        let name = changed.map_or("", |(known, _)| known);
        others
            .chain((!value.is_empty()).then_some((name, value)))
            .collect()
    };
    for (settings, words) in [
        (with("PUSH_ORIGINS", ""), "PUSH_ORIGINS must list"),
        (with("PUSH_ORIGINS", "*"), "PUSH_ORIGINS must not have *"),
        (
            with("PUSH_ORIGINS", "https://a.example,null"),
            "PUSH_ORIGINS must not have *",
        ),
        (with("PUSH_HOOK_SECRET", ""), "needs PUSH_HOOK_SECRET"),
        (with("PUSH_HOOK_SECRET", "short"), "shorter than 32 bytes"),
        (with("PUSH_CONNECT_HOOK", ""), "needs PUSH_CONNECT_HOOK"),
        (
            with("PUSH_CONNECT_HOOK", "ftp://x/"),
            "PUSH_CONNECT_HOOK must be a URL",
        ),
        (
            with("PUSH_CONNECT_HOOK", "http://u:p@x/"),
            "must not contain a user",
        ),
        (with("PUSH_AUTH", "jwt,hook"), "=jwt needs keys"),
        (with("PUSH_AUTH", "none"), "PUSH_AUTH does not include hook"),
        (with("PUSH_AUTH", "hook,hook"), "PUSH_AUTH has"),
        (with("PUSH_AUTH", "none,hook"), "PUSH_AUTH has"),
        (
            vec![("PUSH_UPSTREAM_ROUTES", "*=http://a/")],
            "PUSH_UPSTREAM_ROUTES has a hook, which needs PUSH_HOOK_SECRET",
        ),
        (
            vec![("PUSH_HOOK_SECRET", SECRET)],
            "PUSH_HOOK_SECRET is set, but",
        ),
        (
            [&good[..], &[("PUSH_HOOK_HEADERS", "a b")]].concat(),
            "PUSH_HOOK_HEADERS has \"a b\"",
        ),
        (
            [&good[..], &[("PUSH_HOOK_TIMEOUT_MS", "1")]].concat(),
            "PUSH_HOOK_TIMEOUT_MS has",
        ),
    ] {
        let (code, said) = refused_node(&settings);
        assert_eq!(code, 64, "{settings:?} {said}");
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("u:p"), "{said}");
    }
    // Without cookies a page that connects is nothing without what it knows itself.
    let settings = [("PUSH_ORIGINS", "*"), ("PUSH_HOOK_HEADERS", "User-Agent")];
    drop(hooked(&good, &settings));
}

const RULES: (&str, &str) = (
    "PUSH_TOPIC_RULES",
    r#"[{"match":"order.**","subscribe":"hook"}]"#,
);

/// Members of orders by user; answers hold for a second where a topic says so.
fn by_member(question: &Question) -> Deed {
    let (user, topic) = (&question.json["user"], question.json["topic"].as_str());
    match (user.as_str(), topic.expect("a topic")) {
        (_, "order.broken") => Deed::Json(500, json!({})),
        (Some("42"), "order.brief") => ok(json!({"allow": true, "expires_in": 1})),
        (Some("42"), _) => ok(json!({"allow": true})),
        (Some("43"), _) => ok(json!({"allow": false, "reason": "not your order"})),
        _ => Deed::Json(403, json!({})),
    }
}

/// A node whose orders are asked for at a backend.
async fn with_subscribe_hook() -> (Backend, Node) {
    let backend = Backend::start(by_member).await;
    let url = backend.url("/push/subscribe");
    let node = node(&[
        RULES,
        ("PUSH_SUBSCRIBE_HOOK", &url),
        ("PUSH_HOOK_SECRET", SECRET),
    ]);
    (backend, node)
}

#[tokio::test]
async fn a_hook_decides_who_gets_a_topic() {
    let (backend, node) = with_subscribe_hook().await;
    let mut client = Client::v1(&node.ws_url("42")).await;
    let subscribe = |topic: &str| json!({"type": "subscribe", "topic": topic, "ref": 1});
    let reply = ask(&mut client, subscribe("order.7")).await;
    assert_eq!(reply["status"], "subscribed", "{reply}");
    let expected = json!({
        "hook": "subscribe", "renew": false, "user": "42", "connection": client.connection(),
        "topic": "order.7",
    });
    assert_eq!(backend.asked()[0].json, expected);
    assert!(backend.asked()[0].is_signed_by(SECRET));
    crate::common::topics::push(&node, "order.7", "shipped").await;
    crate::common::topics::hears(&mut client, "order.7", "shipped").await;
    // Asked once, as long as it stays; other topics are not asked about.
    let reply = ask(&mut client, subscribe("order.7")).await;
    assert_eq!(reply["status"], "subscribed");
    assert_eq!(
        ask(&mut client, subscribe("news")).await["status"],
        "subscribed"
    );
    assert_eq!(backend.asked().len(), 1);
    let leave = json!({"type": "unsubscribe", "topic": "order.7", "ref": 1});
    assert_eq!(ask(&mut client, leave).await["status"], "unsubscribed");
    let several = json!({"type": "subscribe", "topics": ["order.7", "order.broken"], "ref": 1});
    let reply = ask(&mut client, several).await;
    assert_eq!(reply["topics"][0]["status"], "subscribed", "{reply}");
    assert_eq!(
        reply["topics"][1]["error"]["code"], "unavailable",
        "{reply}"
    );
    assert_eq!(backend.asked().len(), 3);

    let mut other = Client::v1(&node.ws_url("43")).await;
    let reply = ask(&mut other, subscribe("order.7")).await;
    let told = (&reply["code"], &reply["message"]);
    assert_eq!(told, (&json!("forbidden"), &json!("not your order")));
    let mut third = Client::v1(&node.ws_url("44")).await;
    let reply = ask(&mut third, subscribe("order.7")).await;
    assert_eq!(
        reply["message"],
        "you may not subscribe to the topic order.7"
    );
    let label = r#"status="refused""#;
    assert_eq!(node.labelled("hook_subscribe_total", label).await, 1.0);
}

#[tokio::test]
async fn topics_of_a_connect_are_asked_about_too_over_every_transport() {
    let (backend, node) = with_subscribe_hook().await;
    for transport in TRANSPORTS {
        let who = [("user", "42"), ("topics", "order.7,news")];
        let mut client = connect_as(transport, &node, &who).await;
        let asked = backend.asked().pop().expect("asked").json;
        assert_eq!(
            (&asked["topic"], &asked["connection"]),
            (&json!("order.7"), &Value::Null)
        );
        crate::common::topics::push(&node, "order.7", 1).await;
        client.hears(1).await;
        let who = [("user", "43"), ("topics", "order.7")];
        assert_eq!(refused_as(transport, &node, &who).await, "forbidden");
        let who = [("user", "42"), ("topics", "order.broken")];
        assert_eq!(refused_as(transport, &node, &who).await, "unavailable");
    }
}

#[tokio::test]
async fn a_topic_is_lost_when_the_hook_says_no_later() {
    let (backend, node) = with_subscribe_hook().await;
    let mut client = Client::v1(&node.ws_url("42")).await;
    let wish = json!({"type": "subscribe", "topic": "order.brief", "ref": 1});
    assert_eq!(ask(&mut client, wish.clone()).await["status"], "subscribed");
    let asked = backend.was_asked(2).await;
    assert_eq!(asked[1].json["renew"], true);
    assert_eq!(asked[1].json["connection"], client.connection());
    backend.answer(|_| Deed::Json(503, json!({})));
    let count = backend.asked().len();
    backend.was_asked(count + 1).await;
    // It stays while the backend fails.
    crate::common::topics::push(&node, "order.brief", 1).await;
    crate::common::topics::hears(&mut client, "order.brief", 1).await;
    backend.answer(|_| ok(json!({"allow": false})));
    let told = client.json().await;
    assert_eq!(
        told,
        json!({"type": "unsubscribed", "topic": "order.brief"})
    );
    assert_eq!(ask(&mut client, wish).await["code"], "forbidden");
}
