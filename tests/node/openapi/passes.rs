//! Tokens, sessions and bans: what senders do with them, and what clients hear.

use serde_json::json;

use super::clients::WEBSOCKET;
use super::seen::Seen;
use crate::common::hooks::{Backend, Deed, by_cookie, by_hook};
use crate::common::tokens::{Issuer, now};
use crate::common::{Client, Node, node, start_node};

const SECRET: &str = "a-secret-of-at-least-32-bytes-it-is";
const PATTERN: &str = r#"{"user":"42","ttl_seconds":60,"topics":["a b"]}"#;

pub(super) async fn of_senders(seen: &mut Seen) {
    let node = node(&[("PUSH_AUTH", "session"), ("PUSH_BANS", "false")]);
    let (sessions, ban) = (node.url("/v1/sessions"), node.url("/v1/users/42/ban"));
    let wish = r#"{"user":"42","ttl_seconds":60}"#;
    for (name, method, url, body) in [
        ("openSession 201", "POST", &sessions, wish),
        ("openSession 400 bad_request", "POST", &sessions, PATTERN),
        ("endSession 200", "DELETE", &sessions, r#"{"token":"x"}"#),
        ("getBan 409 bans_off", "GET", &ban, ""),
        ("ban 409 bans_off", "PUT", &ban, r#"{"seconds":60}"#),
        ("liftBan 409 bans_off", "DELETE", &ban, ""),
    ] {
        seen.expect(name, method, url, &[], body).await;
    }
    let node = crate::common::node(&[]);
    let (sessions, ban) = (node.url("/v1/sessions"), node.url("/v1/users/42/ban"));
    let bad = node.url("/v1/users/%00/ban");
    for (name, method, url, body) in [
        ("openSession 409 sessions_off", "POST", &sessions, wish),
        ("endSession 409 sessions_off", "DELETE", &sessions, "{}"),
        ("getBan 200", "GET", &ban, ""),
        ("ban 200", "PUT", &ban, r#"{"seconds":60,"reason":"spam"}"#),
        ("getBan 200", "GET", &ban, ""),
        ("liftBan 200", "DELETE", &ban, ""),
        ("getBan 400 bad_request", "GET", &bad, ""),
        ("liftBan 400 bad_request", "DELETE", &bad, ""),
    ] {
        seen.expect(name, method, url, &[], body).await;
    }
}

/// Comes over both transports that are HTTP.
async fn comes(seen: &mut Seen, node: &Node, query: &str, answer: &str) {
    let (ws, events) = (
        node.url(&format!("/ws?{query}")),
        node.url(&format!("/sse?{query}")),
    );
    seen.expect(&format!("connect {answer}"), "GET", &ws, &WEBSOCKET, "")
        .await;
    seen.expect(&format!("connectEvents {answer}"), "GET", &events, &[], "")
        .await;
}

pub(super) async fn of_clients(seen: &mut Seen) {
    let wanting = node(&[("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)]);
    let token = |exp: u64| Issuer::secret(SECRET).token(&json!({"sub": "42", "exp": exp}));
    let (good, past) = (token(now() + 300), token(now() - 3600));
    for (query, answer) in [
        (String::new(), "401 token_missing"),
        ("token=x".to_owned(), "401 token_invalid"),
        (format!("token={past}"), "401 token_expired"),
        (format!("token={good}&user=43"), "400 wrong_user"),
    ] {
        comes(seen, &wanting, &query, answer).await;
    }
    let backend = Backend::start(by_cookie).await;
    let url = backend.url("/");
    let hooked = node(&by_hook(&url));
    comes(seen, &hooked, "", "401 unauthorized").await;
    backend.answer(|_| Deed::Json(403, json!({})));
    comes(seen, &hooked, "", "403 forbidden").await;
    backend.answer(|_| Deed::Json(500, json!({})));
    comes(seen, &hooked, "", "503 unavailable").await;
    let few = node(&[
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ]);
    let _oldest = Client::v1(&few.ws_url("42")).await;
    comes(seen, &few, "user=42", "409 too_many_connections").await;
    let ban = few.url("/v1/users/43/ban");
    seen.expect("ban 200", "PUT", &ban, &[], r#"{"seconds":60}"#)
        .await;
    comes(seen, &few, "user=43", "403 banned").await;
    let keyless = start_node(&[
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWKS_URL", "http://127.0.0.1:1/jwks.json"),
    ]);
    let query = format!("token={good}");
    comes(seen, &keyless, &query, "503 keys_unavailable").await;
}

pub(super) async fn without_redis(seen: &mut Seen) {
    let redis = ("PUSH_REDIS_URL", "redis://127.0.0.1:1");
    let node = start_node(&[redis, ("PUSH_AUTH", "session")]);
    let (sessions, ban) = (node.url("/v1/sessions"), node.url("/v1/users/42/ban"));
    let wish = r#"{"user":"42","ttl_seconds":60}"#;
    for (name, method, url, body) in [
        ("openSession 503 unavailable", "POST", &sessions, wish),
        (
            "endSession 503 unavailable",
            "DELETE",
            &sessions,
            r#"{"token":"x"}"#,
        ),
        ("getBan 503 unavailable", "GET", &ban, ""),
        ("ban 503 unavailable", "PUT", &ban, r#"{"seconds":60}"#),
        ("liftBan 503 unavailable", "DELETE", &ban, ""),
    ] {
        seen.expect(name, method, url, &[], body).await;
    }
    comes(seen, &node, "token=x", "503 unavailable").await;
}
