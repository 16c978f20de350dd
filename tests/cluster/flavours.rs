//! Other ways to the same Redis: a Unix socket, a password and a database, TLS, Valkey.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Client, Node, Redis, free_port, node, post, start_node};
use crate::crowd::Crowd;

/// Two nodes with these settings find each other.
async fn a_push_crosses(settings: &[(&str, &str)]) -> (Node, Node) {
    let named = |name| node(&[&[("PUSH_NODE_NAME", name)], settings].concat());
    let (a, b) = (named("a"), named("b"));
    let mut client = Client::plain(&a.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": "hello", "wait": "written"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("written")),
        "{answer}"
    );
    assert_eq!(client.text().await, "\"hello\"");
    (a, b)
}

#[tokio::test]
async fn over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("redis.sock");
    let path = path.to_str().expect("UTF-8");
    let redis = Redis::start_with(&["--unixsocket", path, "--unixsocketperm", "700"]);
    let _nodes = a_push_crosses(&[("PUSH_REDIS_URL", &format!("redis+unix://{path}"))]).await;
    let clients = redis.cli(&["CLIENT", "LIST"]);
    assert!(
        clients.contains(path),
        "nobody came over the socket:\n{clients}"
    );
}

#[tokio::test]
async fn with_user_password_and_database_in_the_url() {
    let redis = Redis::start_with(&[
        "--requirepass",
        "s3cret",
        "--user",
        "push",
        "on",
        ">p4ss",
        "allkeys",
        "allchannels",
        "allcommands",
    ]);
    for who in [":s3cret", "push:p4ss"] {
        let url = format!("redis://{who}@127.0.0.1:{}/5", redis.port());
        let (a, _b) = a_push_crosses(&[("PUSH_REDIS_URL", &url)]).await;
        let _crowd = Crowd::of(&a, "u", 3).await;
        let count =
            |database: &str| redis.cli(&["-a", "s3cret", "-n", database, "EXISTS", "pn:user:{u0}"]);
        assert_eq!(
            (&*count("5"), &*count("0")),
            ("1", "0"),
            "rows belong into database 5"
        );
    }
}

/// A certificate authority and a server certificate by openssl.
pub(crate) fn certificates(folder: &Path) {
    let openssl = |words: &str| {
        let output = Command::new("openssl")
            .args(words.split(' '))
            .current_dir(folder)
            .output()
            .expect("openssl is installed");
        assert!(
            output.status.success(),
            "openssl {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    std::fs::write(
        folder.join("san"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:redis.test\n",
    )
    .expect("written");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca"
    ));
    openssl(&format!(
        "req {key} -keyout redis.key -out redis.csr -subj /CN=localhost"
    ));
    openssl(
        "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out redis.crt -days 2 -extfile san",
    );
}

#[tokio::test]
async fn over_tls_with_a_private_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let tls_port = free_port().to_string();
    let _redis = Redis::start_with_tls(&tls_port, path);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("rediss://{host}:{tls_port}");
        a_push_crosses(&[("PUSH_REDIS_URL", &url), ("SSL_CERT_FILE", &path("ca.crt"))]).await;
    }
    // Who does not trust the authority does not connect.
    let url = format!("rediss://localhost:{tls_port}");
    let stranger = start_node(&[("PUSH_REDIS_URL", &url)]);
    crate::common::eventually(async || {
        let log = stranger.log();
        if log.to_lowercase().contains("certificate") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    let ready = crate::common::http()
        .get(stranger.admin_url("/readyz"))
        .send()
        .await;
    assert_eq!(ready.expect("an answer").status().as_u16(), 503);
}

/// A server process other than redis-server; killed when dropped.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn over_valkey() {
    let port = free_port();
    let arguments = [
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ];
    let started = Command::new("valkey-server")
        .args(arguments)
        .stdout(Stdio::null())
        .spawn();
    let _server = match started {
        Ok(child) => Server(child),
        Err(error) => return println!("skipped: no valkey-server here ({error})"),
    };
    a_push_crosses(&[("PUSH_REDIS_URL", &format!("redis://127.0.0.1:{port}"))]).await;
}
