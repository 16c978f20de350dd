//! Users and passwords of Redis with any characters, on every topology, and what is wrong with a
//! URL.

use crate::common::{Client, Node, Redis, node, refused_node, start_node};
use crate::redis_groups::{RedisCluster, Trio};

/// As it is, and as it stands in a URL.
const LOGINS: [[&str; 4]; 6] = [
    ["u", "a b", "u", "a%20b"],
    ["us\"er", " a\"b", "us%22er", "%20a%22b"],
    ["u'ser", "a'b\\x41", "u%27ser", "a%27b%5Cx41"],
    [
        "u",
        "p@ss/w#o?r:d%25+&=",
        "u",
        "p%40ss%2Fw%23o%3Fr%3Ad%2525+&=",
    ],
    ["u", "pässwörd \t", "u", "p%C3%A4ssw%C3%B6rd%20%09"],
    ["u", "\\", "u", "%5C"],
];

fn set(server: &Redis, user: &str, password: &str) {
    let password = format!(">{password}");
    let rules = [
        "reset",
        "on",
        &password,
        "allcommands",
        "allkeys",
        "allchannels",
    ];
    let command = [&["ACL", "SETUSER", user][..], &rules].concat();
    assert_eq!(server.cli(&command), "OK");
}

fn ready_at(url: &str, login: &[&str; 4]) -> Node {
    let url = url.replacen("://", &format!("://{}:{}@", login[2], login[3]), 1);
    node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")])
}

async fn all_logins_work(servers: &[&Redis], url: &str, logins: &[[&str; 4]]) {
    for login in logins {
        servers.iter().for_each(|one| set(one, login[0], login[1]));
        let node = ready_at(url, login);
        // A client is let in at once: its row can be written.
        let client = Client::v1(&node.ws_url("42")).await;
        assert_eq!(client.ready.expect("ready")["type"], "ready");
    }
}

#[tokio::test]
async fn any_printable_password_works() {
    let redis = Redis::start();
    all_logins_work(&[&redis], &redis.url(), &LOGINS).await;
}

#[tokio::test]
async fn any_printable_password_works_over_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("of redis.sock");
    let redis = Redis::start_with(&["--unixsocket", socket.to_str().expect("UTF-8")]);
    let path = socket.to_str().expect("UTF-8").replace(' ', "%20");
    let url = format!("redis+unix://localhost{path}?db=3");
    all_logins_work(&[&redis], &url, &LOGINS[1..2]).await;
    assert_eq!(redis.cli(&["-n", "3", "EXISTS", "pn:boots"]), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_printable_password_works_in_a_cluster_and_behind_sentinels() {
    let cluster = RedisCluster::start(0);
    let servers: Vec<&Redis> = cluster.servers.iter().collect();
    all_logins_work(&servers, &cluster.url(), &LOGINS[1..2]).await;
    drop(cluster);
    let trio = Trio::start();
    for port in trio.sentinel_ports() {
        let sentinel = std::process::Command::new("redis-cli")
            .args(["-p", &port.to_string(), "ACL", "SETUSER", "s\"t"])
            .args(["on", ">x' \"+y", "allcommands", "allchannels"])
            .output();
        let said = sentinel.expect("redis-cli runs").stdout;
        assert_eq!(String::from_utf8_lossy(&said).trim(), "OK");
    }
    let login = "&sentinel_user=s%22t&sentinel_password=x%27%20%22+y";
    let servers: Vec<&Redis> = trio.servers.iter().collect();
    let url = trio.url() + login;
    all_logins_work(&servers, &url, &LOGINS[1..2]).await;
}

#[test]
fn a_url_with_a_fault_stops_the_start_and_is_not_quoted() {
    for (url, words) in [
        (
            "redis://:hunter2@127.0.0.1?timeout=3",
            "a parameter other than db",
        ),
        ("redis://:hunter2@127.0.0.1?db=x", "not a database number"),
        ("redis://:hunter2@127.0.0.1/1?db=2", "two databases"),
        ("redis://hunter2@127.0.0.1", "a user without a password"),
        ("redis-cluster://:hunter2@127.0.0.1?db=1", "only database 0"),
    ] {
        let (code, said) = refused_node(&[("PUSH_REDIS_URL", url)]);
        assert_eq!(code, 64, "{url}: {said}");
        assert!(said.contains(words) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_greeting_names_the_database_and_no_password() {
    let url = "redis://u:hunter2@127.0.0.1:1?db=3";
    let node = start_node(&[("PUSH_REDIS_URL", url)]);
    let line = node
        .greeting
        .lines()
        .find(|line| line.contains("backplane"));
    let line = line.expect("a line about the backplane");
    assert!(line.ends_with("redis://u:***@127.0.0.1:1/3"), "{line}");
}
