//! Who a client is, by whatever name its identity provider gives it, and what that name opens.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::passes::ask as call_with;
use crate::common::tokens::{Issuer, KeyServer, claims, now};
use crate::common::topics::{ask, call, hears, push, subscribe};
use crate::common::transports::Bytes;
use crate::common::{
    Client, Node, eventually, node, post, refused_handshake, refused_node, start_node,
};

const SECRET: &str = "a-secret-of-32-bytes-for-identity";

/// As identity providers call their users, and some that could break out of something.
const SUBJECTS: [&str; 12] = [
    "auth0|abc",
    "google-oauth2|1",
    "a+b@c.d",
    "repo:o/r:ref:refs/heads/main",
    "Jörg Ödön",
    "用户",
    "{42}",
    "}{",
    "a\"b\\c",
    "50%",
    "<script>",
    "*",
];

fn jwt_node(settings: &[(&str, &str)]) -> Node {
    let mut all = vec![("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
    all.extend(settings);
    node(&all)
}

fn token(claims: &Value) -> String {
    Issuer::secret(SECRET).token(claims)
}

fn url(node: &Node, token: &str) -> String {
    format!("ws://{}/ws?token={token}", node.client_address())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

async fn code_of(client: &mut Client, topic: &str) -> Value {
    let reply = ask(
        client,
        json!({"type": "subscribe", "topic": topic, "ref": 1}),
    )
    .await;
    match reply["type"] == "reply" {
        true => reply["status"].clone(),
        false => reply["code"].clone(),
    }
}

#[tokio::test]
async fn a_grant_by_the_users_id_opens_nothing_of_others() {
    let node = jwt_node(&[("PUSH_TOPICS", "user.{user}.*,{user}:**,exact.{user}")]);
    for (user, own, foreign) in [
        ("john", "user.john.inbox", "user.john.doe.inbox"),
        ("john.doe", "user.john=2Edoe.inbox", "user.john.doe.inbox"),
        ("john.doe", "exact.john=2Edoe", "exact.john.doe"),
        ("a:b", "a=3Ab:c:d", "a:b:c"),
        ("*", "user.=2A.inbox", "user.42.inbox"),
        ("auth0|abc", "exact.auth0=7Cabc", "exact.auth0"),
    ] {
        let mut client = Client::v1(&url(&node, &token(&claims(user)))).await;
        assert_eq!(code_of(&mut client, own).await, "subscribed", "{user}");
        assert_eq!(code_of(&mut client, foreign).await, "forbidden", "{user}");
    }
}

#[tokio::test]
async fn a_star_is_one_segment_and_two_are_the_rest() {
    let node = jwt_node(&[]);
    let mut granted = claims("42");
    granted["topics"] = json!(["chat.*", "news.**"]);
    let mut client = Client::v1(&url(&node, &token(&granted))).await;
    for (topic, outcome) in [
        ("chat.1", "subscribed"),
        ("chat.1.2", "forbidden"),
        ("chat.1:2", "forbidden"),
        ("news.1", "subscribed"),
        ("news.1.2:3", "subscribed"),
        ("news", "forbidden"),
    ] {
        assert_eq!(code_of(&mut client, topic).await, outcome, "{topic}");
    }
    granted["topics"] = json!(["*"]);
    let mut client = Client::v1(&url(&node, &token(&granted))).await;
    assert_eq!(code_of(&mut client, "any.topic:1").await, "subscribed");
}

#[tokio::test]
async fn topics_are_closed_where_there_are_identities() {
    let closed = jwt_node(&[]);
    let mut client = Client::v1(&url(&closed, &token(&claims("mallory")))).await;
    assert_eq!(
        code_of(&mut client, "private.victim.bank").await,
        "forbidden"
    );
    let said = closed.log().matches("PUSH_TOPICS is empty").count();
    assert_eq!(said, 1, "one line says what has changed");

    let sessions = node(&[("PUSH_AUTH", "session")]);
    let wish = json!({"user": "mallory", "ttl_seconds": 60});
    let (_, opened) = call_with("POST", &sessions.url("/v1/sessions"), &wish).await;
    let session = opened["token"].as_str().expect("a token");
    let mut client = Client::v1(&url(&sessions, session)).await;
    assert_eq!(code_of(&mut client, "a").await, "forbidden");

    let opened = jwt_node(&[("PUSH_TOPICS", "*")]);
    let mut client = Client::v1(&url(&opened, &token(&claims("42")))).await;
    assert_eq!(code_of(&mut client, "a.b").await, "subscribed");
    assert!(!opened.log().contains("PUSH_TOPICS"), "nothing has changed");

    let open = node(&[]);
    let mut client = Client::v1(&open.ws_url("42")).await;
    assert_eq!(code_of(&mut client, "a.b:c").await, "subscribed");
    assert!(!open.log().contains("PUSH_TOPICS"), "nothing has changed");

    let starred = node(&[("PUSH_TOPICS", "chat.*")]);
    let line = "in PUSH_TOPICS a * stands for text between";
    // The log is written a moment later than the node is ready.
    let said = eventually(async || match starred.log().matches(line).count() {
        0 => Err(starred.log()),
        count => Ok(count),
    });
    assert_eq!(said.await, 1);
}

#[tokio::test]
async fn subjects_of_identity_providers_are_users_everywhere() {
    let node = jwt_node(&[]);
    for user in SUBJECTS {
        let mut client = Client::v1(&url(&node, &token(&claims(user)))).await;
        let ready = client.ready.as_ref().expect("a v1 client");
        assert_eq!(ready["user"], user);
        let query = format!(
            "{}&user={}",
            url(&node, &token(&claims(user))),
            encoded(user)
        );
        let mut named = Client::plain(&query).await;

        let body = json!({"to": {"user": user}, "id": "m", "data": "hello"});
        let (status, answer) = post(&node.push_url, &body).await;
        assert_eq!((status, &answer["connections"]), (200, &json!(2)), "{user}");
        assert_eq!(client.json().await["data"], "hello", "{user}");
        assert_eq!(named.json().await, "hello", "{user}");

        let path = format!("/v1/users/{}", encoded(user));
        let (_, shown) = call(&node, "GET", &path).await;
        assert_eq!(
            (&shown["user"], &shown["online"]),
            (&json!(user), &json!(true))
        );
        let (_, trace) = call(&node, "GET", &format!("{path}/trace")).await;
        assert_eq!(trace["user"], user);
        let topic = format!("/v1/topics/vip/users/{}", encoded(user));
        let (status, answer) = call(&node, "PUT", &topic).await;
        assert_eq!((status, &answer["connections"]), (200, &json!(2)), "{user}");
        let ban = json!({"seconds": 60});
        let (status, banned) = call_with("PUT", &node.url(&format!("{path}/ban")), &ban).await;
        assert_eq!((status, &banned["connections"]), (200, &json!(2)), "{user}");
        assert_eq!(client.close_frame().await.0, 4006, "{user}");
    }
    let longest = "é".repeat(128);
    Client::v1(&url(&node, &token(&claims(&longest)))).await;
    for bad in ["", "a\nb", "a\u{85}", &"é".repeat(129)] {
        let (status, body) = refused_handshake(&url(&node, &token(&claims(bad)))).await;
        assert_eq!(status, 401, "{bad:?} {body}");
        assert!(body.contains("sub names no user"), "{bad:?} {body}");
    }
}

#[tokio::test]
async fn a_session_of_any_user_is_that_users() {
    let node = node(&[("PUSH_AUTH", "session")]);
    for user in SUBJECTS
        .into_iter()
        .chain(["{\"sub\":\"admin\"}", "[]", "\"42\"", " a "])
    {
        let wish = json!({"user": user, "ttl_seconds": 60});
        let (status, opened) = call_with("POST", &node.url("/v1/sessions"), &wish).await;
        assert_eq!(status, 201, "{opened}");
        let session = opened["token"].as_str().expect("a token");
        let client = Client::v1(&url(&node, session)).await;
        assert_eq!(client.ready.expect("ready")["user"], user);
    }
}

#[tokio::test]
async fn another_claim_may_name_the_user() {
    let email = jwt_node(&[("PUSH_JWT_USER_CLAIM", "email")]);
    let inside = jwt_node(&[("PUSH_JWT_USER_CLAIM", "user.id")]);
    let subject = jwt_node(&[]);
    let mut all = claims("subject");
    all["email"] = json!("a+b@c.d");
    all["user"] = json!({"id": 7});
    for (node, user) in [(&email, "a+b@c.d"), (&inside, "7"), (&subject, "subject")] {
        let client = Client::v1(&url(node, &token(&all))).await;
        assert_eq!(client.ready.expect("ready")["user"], user);
    }
    let (status, body) = refused_handshake(&url(&email, &token(&claims("x")))).await;
    assert_eq!(status, 401);
    assert!(body.contains("PUSH_JWT_USER_CLAIM"), "{body}");
    let mut by_number = claims("x");
    by_number["sub"] = json!(42);
    let client = Client::v1(&url(&subject, &token(&by_number))).await;
    assert_eq!(client.ready.expect("ready")["user"], "42");
    let (code, words) = refused_node(&[("PUSH_JWT_USER_CLAIM", "email")]);
    assert_eq!(code, 64, "{words}");
    assert!(words.contains("PUSH_AUTH does not include jwt"), "{words}");
}

#[tokio::test]
async fn a_401_says_which_claim_is_wrong_and_the_log_counts() {
    let node = jwt_node(&[("PUSH_JWT_AUDIENCE", "push"), ("PUSH_LOG", "info")]);
    let good = json!({"sub": "a", "aud": "push", "exp": now() + 300});
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        token(&claims)
    };
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(&claims)
    };
    let forged = Issuer::secret("another-secret-of-32-bytes-or-more").token(&good);
    for (token, words) in [
        (without("exp"), "the token has no exp"),
        (without("sub"), "the token has no sub"),
        (with("exp", json!(now() - 300)), "the token has expired"),
        (with("nbf", json!(now() + 300)), "not valid yet (nbf)"),
        (with("aud", json!("web")), "for another audience (aud)"),
        // What is not signed by us learns nothing.
        (forged, "\"the token is not valid\""),
        ("a.b.c".to_owned(), "\"the token is not valid\""),
    ] {
        let (status, body) = refused_handshake(&url(&node, &token)).await;
        assert_eq!(status, 401, "{body}");
        assert!(body.contains(words), "{words}: {body}");
    }
    for reason in ["the token has no exp", "signed by none of our keys"] {
        node.until_logged(reason).await;
        let log = node.log();
        let line = log.lines().find(|line| line.contains(reason));
        let line = line.expect("just seen");
        assert!(line.contains("INFO") && line.contains("count=1"), "{line}");
    }
    // A flood of one reason is one line a minute.
    for _ in 0..5 {
        refused_handshake(&url(&node, &without("exp"))).await;
    }
    assert_eq!(node.log().matches("the token has no exp").count(), 1);
}

#[tokio::test]
async fn a_header_that_has_crit_is_refused_whatever_it_holds() {
    let node = jwt_node(&[]);
    for crit in [json!(null), json!([]), json!(["b64"])] {
        let header = json!({"alg": "HS256", "crit": crit});
        let token = Issuer::secret(SECRET).token_with(&header, &claims("a"));
        assert_eq!(refused_handshake(&url(&node, &token)).await.0, 401);
    }
}

#[tokio::test]
async fn a_jwks_without_keys_withdraws_those_of_before() {
    let issuer = Issuer::p256();
    let server = KeyServer::start(&[issuer.jwk("1")]);
    let node = node(&[
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWKS_URL", &server.url()),
        ("PUSH_JWKS_SECONDS", "1"),
    ]);
    let token = issuer.token_by("1", &claims("a"));
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &token)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    server.serve(&[]);
    eventually(
        async || match tokio_tungstenite::connect_async(url(&node, &token)).await {
            Ok(_) => Err("still let in"),
            Err(_) => Ok(()),
        },
    )
    .await;
    node.until_logged("the JWKS has no usable key").await;
    server.serve(&[issuer.jwk("1")]);
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &token)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

/// Redirects every request to this URL.
fn redirector(to: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let _ = socket.read(&mut [0; 4096]);
            let head = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close";
            let _ = write!(socket, "{head}\r\nlocation: {to}\r\n\r\n");
        }
    });
    address
}

#[tokio::test]
async fn a_jwks_elsewhere_is_not_fetched() {
    let issuer = Issuer::p256();
    let elsewhere = KeyServer::start(&[issuer.jwk("1")]);
    let url = format!("http://{}/", redirector(elsewhere.url()));
    let node = start_node(&[("PUSH_AUTH", "jwt"), ("PUSH_JWKS_URL", &url)]);
    node.wait_ready();
    eventually(async || match node.log() {
        log if log.contains("redirects to another scheme, host or port") => Ok(()),
        log => Err(log),
    })
    .await;
    assert_eq!(elsewhere.asked(), 0);
}

#[tokio::test]
async fn a_name_cut_off_suggests_what_it_begins() {
    let url = ("PUSH_REDIS", "redis://127.0.0.1:1");
    let (code, words) = refused_node(&[url]);
    assert_eq!(code, 64);
    assert!(words.contains("did you mean PUSH_REDIS_URL?"), "{words}");
}

#[tokio::test]
async fn empty_lines_before_the_first_are_ignored() {
    let node = node(&[]);
    let mut socket = TcpStream::connect(node.lines[0]).await.expect("a socket");
    let lines = "\n\r\n\n{\"type\":\"connect\",\"user\":\"42\"}\n\r\n{\"type\":\"ping\"}\n";
    socket.write_all(lines.as_bytes()).await.expect("sent");
    let mut stream = Bytes::over(socket);
    let ready = stream.until("\n").await.expect("a line");
    assert!(ready.starts_with(r#"{"type":"ready""#), "{ready}");
    let pong = stream.until("\n").await.expect("a line");
    assert_eq!(pong, r#"{"type":"pong"}"#);
}

#[tokio::test]
async fn a_user_by_number_is_the_text_of_it_over_http() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let body = json!({"to": {"user": 42}, "except": null, "keep": null, "data": 1});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(1)));
    assert_eq!(client.json().await, 1);
    let (_, answer) = post(&node.url("/v1/presence"), &json!({"users": [42]})).await;
    assert_eq!(answer["users"][0]["online"], true, "{answer}");
}

#[tokio::test]
async fn a_topic_may_have_the_letters_of_other_services() {
    let node = node(&[]);
    let topic = "private-a=1,b;c";
    let listed = "x,private-a%3D1%252Cb%3Bc";
    let mut client = Client::v1(&format!("{}&topics={listed}", node.ws_url("1"))).await;
    let ready = client.ready.as_ref().expect("a v1 client");
    assert_eq!(ready["topics"], json!(["x", topic]));
    push(&node, topic, 1).await;
    hears(&mut client, topic, 1).await;
    let mut other = Client::v1(&node.ws_url("2")).await;
    subscribe(&mut other, topic).await;
    let longest = "t".repeat(200);
    subscribe(&mut other, &longest).await;
    let (status, answer) = call(&node, "GET", &format!("/v1/topics/{}", encoded(topic))).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(2)));
}
