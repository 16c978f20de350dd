//! Clients that show a JSON Web Token: who is let in, for how long, and what the rest hear.

use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::tokens::{Issuer, KeyServer, claims, now};
use crate::common::{Client, Node, eventually, node, refused_handshake, refused_node, start_node};

const SECRET: &str = "correct horse battery staple: 32 bytes";

fn jwt_node(settings: &[(&str, &str)]) -> Node {
    let mut all = vec![("PUSH_AUTH", "jwt"), ("PUSH_LOG", "trace")];
    all.extend(settings);
    node(&all)
}

fn url(node: &Node, token: &str) -> String {
    format!("ws://{}/ws?token={token}", node.client_address())
}

/// Status and code of a refused handshake.
async fn refused(node: &Node, token: &str) -> (u16, String) {
    let (status, body) = refused_handshake(&url(node, token)).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert!(!body.to_string().contains(token), "{body}");
    let code = body["error"]["code"].as_str().expect("a code");
    (status, code.to_owned())
}

fn invalid() -> (u16, String) {
    (401, "token_invalid".to_owned())
}

async fn user_of(node: &Node, token: &str) -> Value {
    let client = Client::v1(&url(node, token)).await;
    client.ready.expect("ready")["user"].clone()
}

#[tokio::test]
async fn each_kind_of_key_lets_its_bearer_in() {
    let issuers = [Issuer::rsa(), Issuer::p256(), Issuer::ed25519()];
    let pems: Vec<String> = issuers.iter().map(Issuer::pem).collect();
    // As one writes it into a line of an environment file.
    let keys = pems.concat().replace('\n', "\\n");
    let node = jwt_node(&[("PUSH_JWT_KEYS", &keys), ("PUSH_JWT_SECRETS", SECRET)]);
    let secret = Issuer::secret(SECRET);
    for issuer in issuers.iter().chain([&secret]) {
        let user = format!("user-of-{}", issuer.algorithm);
        let token = issuer.token(&claims(&user));
        assert_eq!(user_of(&node, &token).await, user.as_str());

        let forged = issuer.token(&claims("admin"));
        let forged = forged.rsplit_once('.').unwrap().0;
        let signature = token.rsplit_once('.').unwrap().1;
        assert_eq!(
            refused(&node, &format!("{forged}.{signature}")).await,
            invalid()
        );
        assert_eq!(refused(&node, &format!("{forged}.")).await, invalid());
    }
    let log = node.log();
    assert!(log.contains("token refused"), "{log}");
    assert!(!log.contains("eyJ"), "a token stands in the log");
}

#[tokio::test]
async fn the_algorithm_is_the_keys_and_not_the_tokens() {
    let (rsa, p256) = (Issuer::rsa(), Issuer::p256());
    let pem = rsa.pem();
    let node = jwt_node(&[("PUSH_JWT_KEYS", &pem)]);
    let good = claims("a");
    assert_eq!(user_of(&node, &rsa.token(&good)).await, "a");

    // The public key, which everybody has, taken for a secret.
    for secret in [pem.as_str(), pem.trim()] {
        let confused = Issuer::secret(secret).token(&good);
        assert_eq!(refused(&node, &confused).await, invalid());
    }
    for alg in [
        "none", "None", "NONE", "", "HS384", "RS512", "ES256", "PS256",
    ] {
        let token = rsa.token_with(&json!({ "alg": alg }), &good);
        assert_eq!(refused(&node, &token).await, invalid(), "{alg}");
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        assert_eq!(
            refused(&node, &format!("{unsigned}.")).await,
            invalid(),
            "{alg}"
        );
    }
    assert_eq!(refused(&node, &p256.token(&good)).await, invalid());
    let critical = json!({"alg": "RS256", "crit": ["b64"], "b64": false});
    assert_eq!(
        refused(&node, &rsa.token_with(&critical, &good)).await,
        invalid()
    );
    for nonsense in [
        "x",
        "a.b",
        "a.b.c",
        "..",
        "a.b.c.d",
        "eyJhbGciOiJSUzI1NiJ9..",
        "%2e%2e",
    ] {
        assert_eq!(refused(&node, nonsense).await, invalid(), "{nonsense}");
    }
}

#[tokio::test]
async fn claims_are_checked() {
    let node = jwt_node(&[
        (
            "PUSH_JWT_SECRETS",
            "0123456789abcdef0123456789abcdef,0123456789abcdef0123456789ABCDEF",
        ),
        ("PUSH_JWT_AUDIENCE", "push,push-2"),
        ("PUSH_JWT_ISSUER", "https://id.example"),
        ("PUSH_JWT_LEEWAY_SECONDS", "30"),
    ]);
    let issuer = Issuer::secret("0123456789abcdef0123456789ABCDEF");
    let good = json!({
        "sub": "a", "exp": now() + 300, "nbf": now() + 10, "aud": ["web", "push-2"],
        "iss": "https://id.example", "device": "phone", "topics": ["news"],
    });
    assert_eq!(user_of(&node, &issuer.token(&good)).await, "a");
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issuer.token(&claims)
    };
    let expired = (401, "token_expired".to_owned());
    assert_eq!(
        refused(&node, &with("exp", json!(now() - 60))).await,
        expired
    );
    for (name, value) in [
        ("exp", Value::Null),
        ("exp", json!("soon")),
        ("nbf", json!(now() + 120)),
        ("aud", json!("web")),
        ("aud", Value::Null),
        ("iss", json!("https://id.example.evil")),
        ("iss", Value::Null),
        ("sub", json!("a\u{1}b")),
        ("sub", Value::Null),
        ("topics", json!("news")),
        ("device", json!("x".repeat(65))),
    ] {
        let shown = format!("{name}: {value}");
        assert_eq!(
            refused(&node, &with(name, value)).await,
            invalid(),
            "{shown}"
        );
    }
    let within = with("exp", json!(now() - 5));
    assert_eq!(user_of(&node, &within).await, "a", "within the leeway");
}

#[tokio::test]
async fn a_token_comes_by_query_header_or_subprotocol() {
    let node = jwt_node(&[("PUSH_JWT_SECRETS", SECRET)]);
    let token = Issuer::secret(SECRET).token(&claims("a"));
    let plain = format!("ws://{}/ws", node.client_address());

    let mut request = (&*plain).into_client_request().unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (_, answer) = tokio_tungstenite::connect_async(request)
        .await
        .expect("by header");
    assert_eq!(answer.headers().get("sec-websocket-protocol"), None);

    let mut request = (&*plain).into_client_request().unwrap();
    let offered = format!("pushnode.v1, bearer.{token}").parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", offered);
    let (mut socket, answer) = tokio_tungstenite::connect_async(request)
        .await
        .expect("let in");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "pushnode.v1");
    let ready = socket.next().await.unwrap().unwrap();
    assert!(
        ready.to_text().unwrap().contains(r#""user":"a""#),
        "{ready:?}"
    );

    let (status, body) = refused_handshake(&plain).await;
    assert_eq!(status, 401);
    assert!(body.contains("token_missing"), "{body}");
    let as_other = format!("{plain}?token={token}&user=b");
    let (status, body) = refused_handshake(&as_other).await;
    assert_eq!(status, 400);
    assert!(body.contains("wrong_user"), "{body}");
    Client::plain(&format!("{plain}?token={token}&user=a")).await;

    let url = node.url("/ws");
    let answer = crate::common::http()
        .get(url)
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert!(
        !node.log().contains(&token[..40]),
        "a token stands in the log"
    );
    let metrics = node.metrics().await;
    assert!(!metrics.contains("eyJ"), "a token stands in the metrics");
}

#[tokio::test]
async fn a_token_that_ends_ends_its_connection() {
    let node = jwt_node(&[("PUSH_JWT_SECRETS", SECRET)]);
    let issuer = Issuer::secret(SECRET);
    let end = now() + 8;
    let token = issuer.token(&json!({"sub": "a", "exp": end}));
    let mut v1 = Client::v1(&url(&node, &token)).await;
    let mut plain = Client::plain(&url(&node, &token)).await;
    let warning = v1.json().await;
    assert_eq!(warning["type"], "expiring");
    let left = warning["in_ms"].as_u64().expect("a number");
    assert!((0..=15_000).contains(&left), "{warning}");
    let bye = v1.json().await;
    let expected = json!({"type": "bye", "code": 4004, "reason": "token expired"});
    assert_eq!(bye, expected, "and no retry_ms");
    assert_eq!(v1.close_frame().await, (4004, "token expired".to_owned()));
    assert_eq!(
        plain.close_frame().await,
        (4004, "token expired".to_owned())
    );
    assert!(now() >= end, "not before its time");
}

#[tokio::test]
async fn a_new_token_lets_a_connection_stay() {
    let node = jwt_node(&[("PUSH_JWT_SECRETS", SECRET)]);
    let issuer = Issuer::secret(SECRET);
    let end = now() + 15;
    let token = |user: &str, exp: u64| issuer.token(&json!({"sub": user, "exp": exp}));
    let mut client = Client::v1(&url(&node, &token("a", end))).await;
    assert_eq!(client.json().await["type"], "expiring");
    let auth = |token: &str| json!({"type": "auth", "ref": 1, "token": token}).to_string();
    for (bad, code) in [
        (token("b", now() + 300), "wrong_user"),
        (token("a", now() - 300), "token_expired"),
        ("x".to_owned(), "token_invalid"),
        (String::new(), "token_missing"),
    ] {
        client.send(&auth(&bad)).await;
        let error = client.json().await;
        let seen = (&error["type"], &error["ref"], &error["code"]);
        assert_eq!(seen, (&json!("error"), &json!(1), &json!(code)), "{error}");
    }
    client.send(&auth(&token("a", now() + 300))).await;
    let reply = client.json().await;
    assert_eq!(reply["type"], "reply", "{reply}");
    assert_eq!(reply["ref"], 1);
    let left = reply["expires_in_ms"].as_u64().expect("a number");
    assert!((290_000..=300_000).contains(&left), "{reply}");
    // Another one with the old token goes; this one stays beyond its first token's end.
    let mut other = Client::plain(&url(&node, &token("a", end + 2))).await;
    assert_eq!(other.close_frame().await.0, 4004);
    assert!(now() > end);
    client.send(r#"{"type":"ping"}"#).await;
    client.hears_next("pong").await;
}

#[tokio::test]
async fn keys_of_a_file_are_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let (old, new) = (Issuer::p256(), Issuer::ed25519());
    std::fs::write(&path, old.pem()).unwrap();
    let node = jwt_node(&[("PUSH_JWT_KEYS_FILE", path.to_str().unwrap())]);
    assert_eq!(user_of(&node, &old.token(&claims("a"))).await, "a");
    let token = new.token_by("new", &claims("a"));
    assert_eq!(refused(&node, &token).await, invalid());

    std::fs::write(&path, json!({"keys": [new.jwk("new")]}).to_string()).unwrap();
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &token)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(refused(&node, &old.token(&claims("a"))).await, invalid());

    std::fs::write(&path, "nonsense, longer than before or not").unwrap();
    eventually(async || match node.log() {
        log if log.contains("the keys read before stay") => Ok(()),
        _ => Err("not read yet"),
    })
    .await;
    assert_eq!(user_of(&node, &token).await, "a");
}

#[tokio::test]
async fn a_jwks_is_fetched_and_followed_when_keys_rotate() {
    let (first, second) = (Issuer::rsa(), Issuer::p256());
    let server = KeyServer::start(&[first.jwk("1"), json!({"kty": "oct", "k": "c2VjcmV0"})]);
    server.fail();
    let node = start_node(&[
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWKS_URL", &server.url()),
        ("PUSH_JWKS_SECONDS", "1"),
    ]);
    node.wait_ready();
    let token = first.token_by("1", &claims("a"));
    let unavailable = (503, "keys_unavailable".to_owned());
    assert_eq!(
        refused(&node, &token).await,
        unavailable,
        "keys were never had"
    );

    server.serve(&[first.jwk("1")]);
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &token)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    // A signature by another key under a known name is no reason to look for more.
    let forged = second.token_with(&json!({"alg": "RS256", "kid": "1"}), &claims("a"));
    assert_eq!(refused(&node, &forged).await, invalid());

    server.fail();
    let before = server.asked();
    eventually(async || match server.asked() {
        asked if asked > before => Ok(()),
        asked => Err(asked),
    })
    .await;
    assert_eq!(user_of(&node, &token).await, "a", "the last good keys stay");

    server.serve(&[second.jwk("2")]);
    let rotated = second.token_by("2", &claims("b"));
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &rotated)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(
        refused(&node, &token).await,
        invalid(),
        "its key is withdrawn"
    );
}

#[tokio::test]
async fn an_unknown_key_is_fetched_at_once_but_not_for_each_token() {
    let (first, second) = (Issuer::p256(), Issuer::ed25519());
    let server = KeyServer::start(&[first.jwk("1")]);
    let node = jwt_node(&[
        ("PUSH_JWKS_URL", &server.url()),
        ("PUSH_JWKS_SECONDS", "3600"),
    ]);
    let token = first.token_by("1", &claims("a"));
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &token)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    server.serve(&[first.jwk("1"), second.jwk("2")]);
    let rotated = second.token_by("2", &claims("b"));
    // Within the hour, although at most each 5 s.
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(url(&node, &rotated)).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let before = server.asked();
    for n in 0..50 {
        let token = second.token_by(&format!("invented-{n}"), &claims("b"));
        assert_eq!(refused(&node, &token).await, invalid());
    }
    let fetches = server.asked() - before;
    assert!(fetches <= 10, "{fetches} fetches for 50 invented names");
    assert!(server.asked() < 20);
}

#[test]
fn bad_keys_stop_the_start_and_are_not_shown() {
    let faults = |settings: &[(&str, &str)]| {
        let mut all = vec![("PUSH_AUTH", "jwt")];
        all.extend(settings);
        let (code, words) = refused_node(&all);
        assert_eq!(code, 64, "{words}");
        words
    };
    let words = faults(&[]);
    assert!(words.contains("PUSH_AUTH =jwt needs keys"), "{words}");
    let words = faults(&[("PUSH_JWT_SECRETS", "hunter2hunter2")]);
    assert!(
        words.contains("PUSH_JWT_SECRETS secret number 1 is shorter"),
        "{words}"
    );
    assert!(!words.contains("hunter2"), "{words}");
    let private = Issuer::p256().private_pem();
    let words = faults(&[("PUSH_JWT_KEYS", &private)]);
    assert!(words.contains("PUSH_JWT_KEYS has a private key"), "{words}");
    assert!(!words.contains(private.lines().nth(1).unwrap()), "{words}");
    let words = faults(&[(
        "PUSH_JWT_KEYS",
        "-----BEGIN PUBLIC KEY-----\\nAAAA\\n-----END PUBLIC KEY-----",
    )]);
    assert!(
        words.contains("PUSH_JWT_KEYS key number 1 is not a public RSA"),
        "{words}"
    );
    let words = faults(&[("PUSH_JWT_KEYS_FILE", "/nowhere/keys.pem")]);
    assert!(
        words.contains("PUSH_JWT_KEYS_FILE (/nowhere/keys.pem) cannot be read"),
        "{words}"
    );
    let words = faults(&[("PUSH_JWKS_URL", "ftp://x/")]);
    assert!(words.contains("PUSH_JWKS_URL must be a URL"), "{words}");
    let (code, words) = refused_node(&[("PUSH_JWT_SECRETS", SECRET)]);
    assert_eq!(code, 64);
    assert!(words.contains("PUSH_AUTH does not include jwt"), "{words}");
}
