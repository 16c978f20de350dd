//! Credentials for Redis in files: replaced while a node runs, and certificates.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::hooks::{Backend, by_cookie, by_hook, hooked, open};
use crate::common::{
    Client, Node, Redis, eventually, free_port, node_with, post, refused_node, start_node,
};
use crate::gateway::Nginx;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A push through Redis: by `a`, to a client of `b`.
async fn is_pushed(a: &Node, client: &mut Client, data: u32) {
    let push = json!({"to": {"user": "42"}, "data": data, "wait": "written"});
    eventually(async || match post(&a.push_url, &push).await {
        (200, answer) if answer["status"] == "written" => Ok(()),
        other => Err(other),
    })
    .await;
    // A try that was answered by an error may have arrived as well, and pushes before it twice.
    while client.text().await != data.to_string() {}
}

#[tokio::test]
async fn a_password_in_a_file_is_replaced_without_a_restart() {
    let redis = Redis::start();
    redis.cli(&[
        "ACL",
        "SETUSER",
        "node",
        "on",
        ">old one",
        "allcommands",
        "allkeys",
        "allchannels",
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "old one\n").expect("written");
    let login = [
        ("PUSH_REDIS_USERNAME", "node"),
        ("PUSH_REDIS_PASSWORD_FILE", text(&file)),
    ];
    let [a, b] = ["a", "b"].map(|name| node_with(&redis, name, &login));
    let mut client = Client::plain(&b.ws_url("42")).await;
    is_pushed(&a, &mut client, 1).await;

    std::fs::write(&file, "new one\n").expect("written");
    redis.cli(&["ACL", "SETUSER", "node", ">new one", "<old one"]);
    redis.cli(&["CLIENT", "KILL", "USER", "node"]);
    is_pushed(&a, &mut client, 2).await;
    let push = json!({"to": {"user": "42"}, "id": "kept", "keep": true, "data": 3});
    let (status, answer) = post(&a.push_url, &push).await;
    assert_eq!(status, 200, "by a connection of its own: {answer}");
    while client.text().await != "3" {}

    // Without the file, the last password that was in it.
    std::fs::remove_file(&file).expect("removed");
    redis.cli(&["CLIENT", "KILL", "USER", "node"]);
    is_pushed(&a, &mut client, 4).await;
    a.wait_ready();
    a.until_logged("cannot be read").await;
    for secret in ["old one", "new one"] {
        assert!(!a.log().contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_url_in_a_file_is_read_again_for_its_password() {
    let redis = Redis::start_with(&["--requirepass", "old"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    let write = |password: &str| {
        let url = redis.url().replace("://", &format!("://:{password}@"));
        std::fs::write(&file, url).expect("written");
    };
    write("old");
    // REDIS_URL is for others too: the file goes before it.
    let settings = [
        ("PUSH_REDIS_URL_FILE", text(&file)),
        ("REDIS_URL", "redis://127.0.0.1:1"),
    ];
    let [a, b] = ["a", "b"].map(|name| {
        let node = start_node(&[&settings[..], &[("PUSH_NODE_NAME", name)]].concat());
        node.wait_ready();
        node
    });
    let mut client = Client::plain(&b.ws_url("42")).await;
    is_pushed(&a, &mut client, 1).await;
    write("new");
    redis.cli(&["-a", "old", "CONFIG", "SET", "requirepass", "new"]);
    redis.cli(&["-a", "new", "CLIENT", "KILL", "TYPE", "normal"]);
    redis.cli(&["-a", "new", "CLIENT", "KILL", "TYPE", "pubsub"]);
    is_pushed(&a, &mut client, 2).await;
}

/// An authority, and what it has signed for 127.0.0.1.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().expect("a folder"));
        made.openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2",
        );
        std::fs::write(made.path("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
        for name in ["redis", "node"] {
            made.openssl(&format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
                -out {name}.crt -days 2 -extfile names"
            ));
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let made = Command::new("openssl")
            .current_dir(self.0.path())
            .args(arguments.split(' ').filter(|word| !word.is_empty()))
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl runs").success(), "openssl {arguments}");
    }
}

#[tokio::test]
async fn a_node_and_redis_know_each_other_by_certificates() {
    let made = Certificates::new();
    let (ca, crt, key) = (
        made.path("ca.crt"),
        made.path("node.crt"),
        made.path("node.key"),
    );
    let port = free_port().to_string();
    let (redis_crt, redis_key) = (made.path("redis.crt"), made.path("redis.key"));
    let redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        text(&ca),
        "--tls-cert-file",
        text(&redis_crt),
        "--tls-key-file",
        text(&redis_key),
    ]);
    let url = format!("rediss://127.0.0.1:{port}");
    let all = [
        ("PUSH_REDIS_URL", &*url),
        ("PUSH_REDIS_TLS_CA", text(&ca)),
        ("PUSH_REDIS_TLS_CERT", text(&crt)),
        ("PUSH_REDIS_TLS_KEY", text(&key)),
    ];
    let [a, b] = ["a", "b"].map(|name| {
        let node = start_node(&[&all[..], &[("PUSH_NODE_NAME", name)]].concat());
        node.wait_ready();
        node
    });
    let mut client = Client::plain(&b.ws_url("42")).await;
    is_pushed(&a, &mut client, 1).await;

    // Without a certificate Redis ends the handshake, and without the authority the node does.
    for (settings, says) in [
        // The refusal may come as an alert, or only as the end of the connection.
        (
            &all[..2],
            &["a client certificate", "connection to Redis broke"][..],
        ),
        (&[all[0], all[2], all[3]], &["nknownIssuer"]),
    ] {
        let node = start_node(&[settings, &[("PUSH_NODE_NAME", "c")]].concat());
        eventually(async || match node.log() {
            log if says.iter().any(|words| log.contains(words)) => Ok(()),
            log => Err(log),
        })
        .await;
    }
    // Another certificate is shown at the next dial; one that cannot be read is not.
    for name in ["crt", "key"] {
        std::fs::copy(
            made.path(&format!("redis.{name}")),
            made.path(&format!("node.{name}")),
        )
        .expect("copied");
    }
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    is_pushed(&a, &mut client, 2).await;
    std::fs::write(&crt, "no certificate").expect("written");
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    is_pushed(&a, &mut client, 3).await;
    let told = "the certificate read before is shown";
    eventually(async || match a.log() {
        log if log.contains(told) => Ok(()),
        log => Err(log),
    })
    .await;
    let (code, words) = refused_node(&all);
    assert_eq!(code, 64, "{words}");
    assert!(words.contains("PUSH_REDIS_TLS_CERT"), "{words}");
}

#[tokio::test]
async fn the_secret_of_the_cluster_is_replaced_without_a_restart() {
    const OLD: &str = "old-secret-0123456789-0123456789";
    const NEW: &str = "new-secret-0123456789-0123456789";
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["a", "b"].map(|name| folder.path().join(name));
    files
        .iter()
        .for_each(|file| std::fs::write(file, OLD).expect("written"));
    let start =
        |name, file: &Path| node_with(&redis, name, &[("PUSH_CLUSTER_SECRET_FILE", text(file))]);
    let [a, b] = [start("a", &files[0]), start("b", &files[1])];
    let mut client = Client::plain(&b.ws_url("42")).await;
    is_pushed(&a, &mut client, 1).await;
    // One node after the other: both secrets are valid until all have read the new one.
    for (step, secrets) in [
        format!("{OLD}\n{NEW}"),
        format!("{NEW},{OLD}"),
        NEW.to_owned(),
    ]
    .iter()
    .enumerate()
    {
        for (node, file) in [&a, &b].into_iter().zip(&files) {
            std::fs::write(file, secrets).expect("written");
            eventually(
                async || match node.log().matches("PUSH_CLUSTER_SECRET_FILE read again") {
                    reads if reads.clone().count() == step + 1 => Ok(()),
                    reads => Err(reads.count()),
                },
            )
            .await;
            is_pushed(&a, &mut client, 2).await;
        }
    }
    for node in [&a, &b] {
        assert_eq!(
            node.metric("lines_refused_total").await,
            0.0,
            "{}",
            node.log()
        );
    }
    // It is the new one: a node with the old one is not believed.
    let old = node_with(&redis, "c", &[("PUSH_CLUSTER_SECRET", OLD)]);
    post(&old.push_url, &json!({"to": {"user": "42"}, "data": 3})).await;
    eventually(async || match b.metric("lines_refused_total").await {
        0.0 => Err("not refused"),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn a_backend_is_asked_over_tls_if_its_certificate_is_trusted() {
    let made = Certificates::new();
    let backend = Backend::start(by_cookie).await;
    let port = free_port();
    let (crt, key) = (made.path("redis.crt"), made.path("redis.key"));
    let http = format!(
        "server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {};
            ssl_certificate_key {};
            proxy_http_version 1.1;
            location / {{ proxy_pass http://{}; }}
        }}",
        text(&crt),
        text(&key),
        backend.address
    );
    let _nginx = Nginx::serve(made.0.path(), &http);
    eventually(async || std::net::TcpStream::connect(("127.0.0.1", port))).await;

    let url = format!("https://127.0.0.1:{port}/push/connect");
    let cookie = [("cookie", "user=ada")];
    let ca = made.path("ca.crt");
    let node = hooked(&by_hook(&url), &[("SSL_CERT_FILE", text(&ca))]);
    for _ in 0..2 {
        let client = open(&node, "", &cookie).await.expect("let in");
        assert_eq!(client.ready.expect("ready")["user"], "ada");
    }
    assert_eq!(backend.asked()[0].path, "/push/connect");

    // The system's authorities have not signed it.
    let node = hooked(&by_hook(&url), &[]);
    let Err((status, body)) = open(&node, "", &cookie).await else {
        panic!("let in")
    };
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("unavailable"))
    );
    assert_eq!(backend.asked().len(), 2);
}
