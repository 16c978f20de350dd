//! Secrets in files: API keys and secrets of tokens change while the node runs, and what contradicts
//! itself stops the start.

use std::path::Path;

use serde_json::json;

use crate::common::tokens::{Issuer, claims};
use crate::common::{Client, eventually, http, node, refused_handshake, refused_node};
use crate::raw::Raw;

const KEYS: [&str; 2] = ["first-key-0123456789", "second-key-0123456789"];
const SECRETS: [&str; 2] = [
    "first-secret-0123456789-0123456789",
    "second-secret-0123456789-0123456789",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Settings, and what is said of them.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn api_keys_in_a_file_change_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("{}\n", KEYS[0])).expect("written");
    let node = node(&[("PUSH_API_KEYS_FILE", text(&file))]);
    let status = async |key: &str| {
        let push = json!({"to": {"user": "42"}, "data": 1});
        let sent = http().post(&node.push_url).bearer_auth(key).json(&push);
        sent.send().await.expect("an answer").status().as_u16()
    };
    let until = async |expected: [u16; 2]| {
        eventually(
            async || match [status(KEYS[0]).await, status(KEYS[1]).await] {
                seen if seen == expected => Ok(()),
                seen => Err(seen),
            },
        )
        .await;
    };
    until([200, 401]).await;
    // The second one is not read like the first: its head is known.
    let body = r#"{"to":{"user":"42"},"data":1}"#;
    let request = format!(
        "POST /v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
        Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        KEYS[0],
        body.len()
    );
    let mut kept = Raw::open(node.client_address()).await;
    for _ in 0..2 {
        assert_eq!(kept.ask(&request).await.status, 200);
    }
    // One on each line, as `kubectl create secret --from-file` leaves it.
    std::fs::write(&file, KEYS.join("\n")).expect("written");
    until([200, 200]).await;
    std::fs::write(&file, KEYS[1]).expect("written");
    until([401, 200]).await;
    assert_eq!(kept.ask(&request).await.status, 401);
    for (faulty, says) in [("\n", "is empty"), ("short", "is shorter than 16 bytes")] {
        std::fs::write(&file, faulty).expect("written");
        eventually(async || match node.log() {
            log if log.contains(says) => Ok(()),
            log => Err(log),
        })
        .await;
        until([401, 200]).await;
        let open = http().post(&node.push_url).body("{}").send().await;
        assert_eq!(open.expect("an answer").status(), 401, "without a key");
    }
    std::fs::write(&file, KEYS[0]).expect("written");
    until([200, 401]).await;
    for key in KEYS {
        assert!(!node.log().contains(key), "{key} is in the log");
    }
}

#[tokio::test]
async fn secrets_of_tokens_in_a_file_change_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secrets");
    std::fs::write(&file, SECRETS[0]).expect("written");
    let node = node(&[("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS_FILE", text(&file))]);
    let url = |secret: &str| {
        let token = Issuer::secret(secret).token(&claims("42"));
        format!("ws://{}/ws?token={token}", node.client_address())
    };
    Client::v1(&url(SECRETS[0])).await;
    assert_eq!(refused_handshake(&url(SECRETS[1])).await.0, 401);
    std::fs::write(&file, SECRETS[1]).expect("written");
    eventually(async || match node.log() {
        log if log.contains("PUSH_JWT_SECRETS_FILE read again") => Ok(()),
        log => Err(log),
    })
    .await;
    Client::v1(&url(SECRETS[1])).await;
    assert_eq!(refused_handshake(&url(SECRETS[0])).await.0, 401);
}

#[test]
fn a_start_with_contradicting_secrets_names_both_variables() {
    let folder = tempfile::tempdir().expect("a folder");
    let [full, empty, lines] = ["full", "empty", "lines"].map(|name| folder.path().join(name));
    std::fs::write(&full, SECRETS[0]).expect("written");
    std::fs::write(&empty, " \n").expect("written");
    std::fs::write(&lines, "one\ntwo").expect("written");
    let (full, empty, lines) = (text(&full), text(&empty), text(&lines));
    let redis = ("PUSH_REDIS_URL", "redis://127.0.0.1:1");
    let with_password = ("PUSH_REDIS_URL", "redis://:pass@127.0.0.1:1");
    let cases: &[Case<'_>] = &[
        (
            &[("PUSH_API_KEYS", KEYS[0]), ("PUSH_API_KEYS_FILE", full)],
            &["PUSH_API_KEYS_FILE is set, and so is PUSH_API_KEYS;"],
        ),
        (
            &[redis, ("PUSH_REDIS_URL_FILE", full)],
            &["PUSH_REDIS_URL_FILE is set, and so is PUSH_REDIS_URL;"],
        ),
        (
            &[
                redis,
                ("PUSH_REDIS_PASSWORD", "one"),
                ("PUSH_REDIS_PASSWORD_FILE", full),
            ],
            &["PUSH_REDIS_PASSWORD_FILE is set, and so is PUSH_REDIS_PASSWORD;"],
        ),
        (
            &[
                redis,
                ("PUSH_CLUSTER_SECRET", SECRETS[0]),
                ("PUSH_CLUSTER_SECRET_FILE", full),
            ],
            &["PUSH_CLUSTER_SECRET_FILE is set, and so is PUSH_CLUSTER_SECRET;"],
        ),
        (
            &[
                ("PUSH_AUTH", "jwt"),
                ("PUSH_JWT_SECRETS", SECRETS[0]),
                ("PUSH_JWT_SECRETS_FILE", full),
            ],
            &["PUSH_JWT_SECRETS_FILE is set, and so is PUSH_JWT_SECRETS;"],
        ),
        (
            &[("PUSH_API_KEYS_FILE", empty)],
            &["PUSH_API_KEYS_FILE (", "is empty"],
        ),
        (
            &[("PUSH_API_KEYS_FILE", "/nowhere")],
            &["PUSH_API_KEYS_FILE (/nowhere) cannot be read"],
        ),
        (
            &[redis, ("PUSH_REDIS_PASSWORD_FILE", lines)],
            &["has more than one line"],
        ),
        (
            &[with_password, ("PUSH_REDIS_PASSWORD", "other")],
            &["PUSH_REDIS_PASSWORD is set, and PUSH_REDIS_URL has a password too"],
        ),
        (
            &[redis, ("PUSH_REDIS_USERNAME", "node")],
            &["PUSH_REDIS_USERNAME needs PUSH_REDIS_PASSWORD"],
        ),
        (
            &[("PUSH_REDIS_PASSWORD", "one")],
            &["PUSH_REDIS_PASSWORD needs PUSH_REDIS_URL"],
        ),
        (
            &[redis, ("PUSH_REDIS_TLS_CA", full)],
            &["PUSH_REDIS_TLS_CA needs a PUSH_REDIS_URL with TLS"],
        ),
        (
            &[
                ("PUSH_REDIS_URL", "rediss://127.0.0.1:1"),
                ("PUSH_REDIS_TLS_KEY", full),
            ],
            &["PUSH_REDIS_TLS_CERT and PUSH_REDIS_TLS_KEY need each other"],
        ),
    ];
    for (settings, says) in cases {
        let (code, words) = refused_node(settings);
        assert_eq!(code, 64, "{words}");
        for part in *says {
            assert!(words.contains(part), "{settings:?} is answered\n{words}");
        }
        for secret in KEYS.iter().chain(&SECRETS) {
            assert!(!words.contains(secret), "{words}");
        }
    }
}
