//! Finding a node: by asking one (`GET /v1/route`), and through a real nginx in front.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::transports::{Transport, connect_to};
use crate::common::{Client, Node, Redis, eventually, free_port, http, node_with, post};

async fn route(node: &Node, query: &str) -> (u16, Value) {
    let url = format!("http://{}/v1/route{query}", node.client_address());
    let answer = http().get(url).send().await.expect("an answer");
    let status = answer.status().as_u16();
    if status == 503 {
        assert!(answer.headers().contains_key("retry-after"));
    }
    (status, answer.json().await.expect("JSON"))
}

/// How often each node is answered.
async fn routes(node: &Node, strategy: &str, times: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..times {
        let (status, answer) = route(node, &format!("?strategy={strategy}")).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["strategy"], strategy);
        let url = answer["url"].as_str().expect("a URL").to_owned();
        *counts.entry(url).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_client_is_led_to_a_live_node() {
    let redis = Redis::start();
    let at = |url| [("PUSH_PUBLIC_URL", url), ("PUSH_DRAIN_SECONDS", "1")];
    let a = node_with(&redis, "a", &at("https://a.example"));
    let _b = node_with(&redis, "b", &at("https://b.example"));
    let hidden = node_with(&redis, "hidden", &[]);

    // Each sees the others at its next beat.
    eventually(async || match routes(&hidden, "round-robin", 10).await {
        counts if counts.values().eq([&5, &5]) => Ok(()),
        counts => Err(counts),
    })
    .await;
    let _clients = [
        Client::plain(&a.ws_url("1")).await,
        Client::plain(&a.ws_url("2")).await,
        Client::plain(&a.ws_url("3")).await,
    ];
    eventually(
        async || match routes(&hidden, "least-connections", 2).await {
            counts if counts.get("https://b.example") == Some(&2) => Ok(()),
            counts => Err(counts),
        },
    )
    .await;
    let (_, answer) = route(&hidden, "").await;
    assert_eq!(answer["strategy"], "least-connections");
    assert!(answer["backoff"]["min_ms"].is_u64(), "{answer}");

    let (status, answer) = route(&a, "?strategy=best").await;
    assert_eq!(status, 400);
    let words = answer["error"]["message"].as_str().expect("words");
    assert!(words.contains("round-robin"), "{words}");

    // A node that leaves is out as soon as the others look; a dead one with its lease.
    let (status, _) = post(&a.url("/v1/nodes/b/drain"), &json!({})).await;
    assert_eq!(status, 202);
    eventually(async || match routes(&a, "random", 8).await {
        counts if !counts.contains_key("https://b.example") => Ok(()),
        counts => Err(counts),
    })
    .await;
    a.kill();
    eventually(async || match route(&hidden, "").await {
        (503, answer) => {
            assert_eq!(answer["error"]["code"], "unavailable");
            Ok(())
        }
        other => Err(other),
    })
    .await;
}

pub(crate) struct Nginx(Child);

impl Nginx {
    /// In front of these Unix sockets, one client after the other.
    fn start(folder: &std::path::Path, port: u16, sockets: &[String]) -> Self {
        let servers: String = sockets
            .iter()
            .map(|socket| format!("server unix:{socket} max_fails=0;"))
            .collect();
        let http = format!(
            "upstream nodes {{ {servers} }}
            server {{
                listen 127.0.0.1:{port};
                proxy_http_version 1.1;
                proxy_set_header Host $http_host;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection upgrade;
                proxy_next_upstream error timeout http_503;
                location / {{ proxy_pass http://nodes; }}
            }}"
        );
        Self::serve(folder, &http)
    }

    /// With this in its block `http`.
    pub(crate) fn serve(folder: &std::path::Path, http: &str) -> Self {
        let path = folder.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {path}/{kind};"))
            .collect();
        // As root it would become somebody who may not write to the nodes' sockets.
        let user = match rustix::process::getuid().is_root() {
            true => "user root;",
            false => "",
        };
        let config = format!(
            "{user} daemon off; pid {path}/nginx.pid; error_log {path}/error.log; worker_processes 1;
            events {{ worker_connections 1024; }}
            http {{ access_log off; {temporary} {http} }}"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, config).expect("a file");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let child = Command::new("nginx")
            .env("PATH", path)
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        Self(child)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends its workers on this; a kill would leave them.
        crate::common::send_signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

/// nginx collects what a node answers, unless it is told not to.
#[tokio::test]
async fn behind_nginx_events_pass_at_once_and_a_stream_goes_on_at_the_other_node() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = |name: &str| format!("{}/{name}.sock", folder.path().display());
    let behind = |name: &str| {
        let listen = format!("unix:{}", socket(name));
        let settings = [
            ("PUSH_LISTEN", &*listen),
            ("PUSH_API_LISTEN", "127.0.0.1:0"),
            ("PUSH_SSE_BEAT_SECONDS", "1"),
        ];
        node_with(&redis, name, &settings)
    };
    let nodes = [behind("a"), behind("b")];
    let port = free_port();
    let _nginx = Nginx::start(folder.path(), port, &[socket("a"), socket("b")]);
    eventually(async || std::net::TcpStream::connect(("127.0.0.1", port))).await;

    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = connect_to(address, Transport::Sse, "42", None).await;
    let keep = async |node: &Node, n: u32| {
        let body = json!({"to": {"user": "42"}, "keep": true, "data": n});
        let (status, answer) = post(&node.push_url, &body).await;
        assert_eq!(status, 200, "{answer}");
    };
    // Each is awaited before the next is sent: nothing else drives it out of a buffer.
    for n in 0..3 {
        keep(&nodes[0], n).await;
        client.hears(n).await;
    }
    let at = |node: &Node| client.connection().starts_with(&format!("{}/", node.id));
    let [a, b] = nodes;
    let (here, other) = if at(&a) { (a, b) } else { (b, a) };
    here.signal("TERM");
    client.bye(1012, "drain").await;
    keep(&other, 3).await;
    let last = client.last_id.take().expect("an id");
    let mut client = connect_to(address, Transport::Sse, "42", Some(&last)).await;
    assert_eq!(client.ready["recovered"], true, "{}", client.ready);
    client.hears(3).await;
    while client.beats < 2 {
        keep(&other, 4).await;
        client.hears(4).await;
    }
}

#[tokio::test]
async fn behind_nginx_clients_of_a_dead_node_land_on_the_other() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = |name: &str| format!("{}/{name}.sock", folder.path().display());
    let sockets = [socket("a"), socket("b")];
    let listen = sockets.clone().map(|socket| format!("unix:{socket}"));
    let a = node_with(
        &redis,
        "a",
        &[
            ("PUSH_LISTEN", &listen[0]),
            ("PUSH_API_LISTEN", "127.0.0.1:0"),
        ],
    );
    let b = node_with(
        &redis,
        "b",
        &[
            ("PUSH_LISTEN", &listen[1]),
            ("PUSH_API_LISTEN", "127.0.0.1:0"),
        ],
    );
    let port = free_port();
    let _nginx = Nginx::start(folder.path(), port, &sockets);
    eventually(async || std::net::TcpStream::connect(("127.0.0.1", port))).await;

    let url = |user: usize| format!("ws://127.0.0.1:{port}/ws?user={user}");
    let mut clients = Vec::new();
    for user in 0..10 {
        clients.push(Client::v1(&url(user)).await);
    }
    let on = |node: &Node, clients: &[Client]| {
        let node = format!("{}/", node.id);
        clients
            .iter()
            .filter(|client| client.connection().starts_with(&node))
            .count()
    };
    assert_eq!((on(&a, &clients), on(&b, &clients)), (5, 5));

    let a_id = a.id.clone();
    a.kill();
    for (user, client) in clients.iter_mut().enumerate() {
        if client.connection().starts_with(&a_id) {
            client.end().await;
            *client = Client::v1(&url(user)).await;
        }
    }
    assert_eq!(on(&b, &clients), 10);
    for (user, client) in clients.iter_mut().enumerate() {
        let body = json!({"to": {"user": user.to_string()}, "data": user});
        let (status, answer) = post(&b.push_url, &body).await;
        assert_eq!(
            (status, &answer["status"]),
            (200, &json!("routed")),
            "{answer}"
        );
        assert_eq!(client.json().await["data"], user);
    }
}
