//! What holds of kept messages on every backplane. Each takes the node that is pushed to and
//! those that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::transports::{self, AnyClient, Transport};
use super::{Client, Node, post};

/// A client that gets objects, whatever its transport.
pub trait Listener {
    /// Its first object.
    fn ready(&self) -> &Value;
    /// The next object.
    async fn object(&mut self) -> Value;
}

impl Listener for Client {
    fn ready(&self) -> &Value {
        self.ready.as_ref().expect("a v1 client")
    }

    async fn object(&mut self) -> Value {
        self.json().await
    }
}

impl Listener for AnyClient {
    fn ready(&self) -> &Value {
        &self.ready
    }

    async fn object(&mut self) -> Value {
        self.json().await
    }
}

pub async fn keep(node: &Node, user: &str, data: impl Into<Value>) -> Value {
    let body = json!({"to": {"user": user}, "keep": true, "data": data.into()});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

pub async fn connect(node: &Node, user: &str, since: Option<&str>) -> Client {
    let mut url = node.ws_url(user);
    if let Some(since) = since {
        url.push_str("&since=");
        url.push_str(since);
    }
    Client::v1(&url).await
}

pub fn ready<'a>(client: &'a impl Listener, field: &str) -> &'a Value {
    &client.ready()[field]
}

pub fn resume(client: &impl Listener) -> String {
    let token = ready(client, "resume").as_str();
    token.expect("a resume token").to_owned()
}

/// The next kept message: its data, and the token to go on behind it.
pub async fn next(client: &mut impl Listener) -> (Value, String) {
    let mut frame = client.object().await;
    assert_eq!(frame["type"], "message", "{frame}");
    let token = frame["resume"].as_str().expect("a token").to_owned();
    (frame["data"].take(), token)
}

pub async fn hears(client: &mut impl Listener, expected: impl IntoIterator<Item = i32>) -> String {
    let mut last = String::new();
    for number in expected {
        let (data, token) = next(client).await;
        assert_eq!(data, number);
        last = token;
    }
    last
}

pub async fn a_client_goes_on_where_it_was(
    by: Transport,
    sender: &Node,
    first: &Node,
    second: &Node,
) {
    let user = by.name();
    let connect =
        async |node: &Node, since: Option<&str>| transports::connect(by, node, user, since).await;
    let mut client = connect(first, None).await;
    assert_eq!(*ready(&client, "recovered"), Value::Null, "it was not here");
    for number in 1..=3 {
        let answer = keep(sender, user, number).await;
        assert_eq!(answer["status"], "routed", "{answer}");
        assert!(answer["seq_id"].is_string(), "{answer}");
    }
    // It has taken two when it goes.
    let token = hears(&mut client, 1..=2).await;
    drop(client);
    for number in 4..=6 {
        keep(sender, user, number).await;
    }
    let mut client = connect(second, Some(&token)).await;
    assert_eq!(*ready(&client, "recovered"), true);
    assert_eq!(resume(&client), token, "what follows is not had yet");
    hears(&mut client, 3..=6).await;
    keep(sender, user, 7).await;
    let token = hears(&mut client, 7..=7).await;

    // Nothing new: nothing comes, and nothing is missing.
    let mut again = connect(first, Some(&token)).await;
    assert_eq!(*ready(&again, "recovered"), true);
    keep(sender, user, 8).await;
    hears(&mut again, 8..=8).await;
    hears(&mut client, 8..=8).await;
}

pub async fn offline_is_stored(sender: &Node, node: &Node) {
    let answer = keep(sender, "away", 1).await;
    assert_eq!(
        (&answer["status"], &answer["connections"]),
        (&json!("stored"), &json!(0))
    );
    let both = json!({"to": {"users": ["away", "gone"]}, "keep": true, "data": 2});
    let (_, answer) = post(&sender.push_url, &both).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    assert!(answer["targets"][1]["seq_id"].is_string(), "{answer}");

    let mut client = connect(node, "away", Some("0")).await;
    assert_eq!(
        *ready(&client, "recovered"),
        true,
        "nothing was ever thrown out"
    );
    hears(&mut client, 1..=2).await;
    // A plain client too can ask for all there is.
    let mut plain = Client::plain(&format!("{}&since=0", node.ws_url("away"))).await;
    assert_eq!(
        (plain.text().await, plain.text().await),
        ("1".to_owned(), "2".to_owned())
    );
    keep(sender, "away", 3).await;
    assert_eq!(plain.text().await, "3");
    hears(&mut client, 3..=3).await;
}

pub async fn an_id_is_kept_once(one: &Node, other: &Node, node: &Node) {
    let mut client = connect(node, "twice", None).await;
    let start = resume(&client);
    let body = json!({"to": {"user": "twice"}, "keep": true, "id": "m1", "data": 1});
    let (_, first) = post(&one.push_url, &body).await;
    assert_eq!(first["status"], "routed", "{first}");
    let (_, second) = post(&other.push_url, &body).await;
    assert_eq!(second["status"], "duplicate", "{second}");
    keep(one, "twice", 2).await;
    hears(&mut client, 1..=2).await;
    let mut again = connect(node, "twice", Some(&start)).await;
    hears(&mut again, 1..=2).await;
    assert_eq!(*ready(&again, "recovered"), true);
}

/// Two senders number their messages; a client comes and goes all the while.
pub async fn nothing_is_lost_or_repeated_under_way(
    by: Transport,
    senders: [&Node; 2],
    nodes: [&Node; 2],
) {
    const MESSAGES: usize = 300;
    let mut client = transports::connect(by, nodes[0], "busy", None).await;
    let mut token = resume(&client);
    let send = async |sender: usize| {
        for number in 0..MESSAGES {
            keep(senders[sender], "busy", json!([sender, number])).await;
        }
    };
    let receive = async {
        let mut heard = [0; 2];
        let mut turns = 0;
        while heard != [MESSAGES; 2] {
            for _ in 0..fastrand::usize(1..20) {
                let (data, resume) = next(&mut client).await;
                let sender = data[0].as_u64().expect("a sender") as usize;
                assert_eq!(data[1], heard[sender], "of sender {sender}, turn {turns}");
                heard[sender] += 1;
                token = resume;
                if heard == [MESSAGES; 2] {
                    break;
                }
            }
            turns += 1;
            // Without a goodbye, with whatever is on its way.
            client = transports::connect(by, nodes[turns % 2], "busy", Some(&token)).await;
            assert_eq!(*ready(&client, "recovered"), true, "turn {turns}");
        }
    };
    tokio::join!(send(0), send(1), receive);
}

/// For nodes with `PUSH_KEEP_MESSAGES=10`.
pub async fn what_was_thrown_out_is_not_claimed(sender: &Node, node: &Node) {
    let token = resume(&connect(node, "full", None).await);
    for number in 1..=300 {
        keep(sender, "full", number).await;
    }
    let mut client = connect(node, "full", Some(&token)).await;
    assert_eq!(*ready(&client, "recovered"), false);
    let (first, token) = next(&mut client).await;
    let mut expected = first.as_i64().expect("a number");
    assert!(expected > 1, "the first was thrown out");
    while expected < 300 {
        expected += 1;
        assert_eq!(next(&mut client).await.0, expected);
    }
    let client = connect(node, "full", Some("0")).await;
    assert_eq!(
        *ready(&client, "recovered"),
        false,
        "not all there ever was"
    );
    keep(sender, "fresh", 1).await;
    let client = connect(node, "fresh", Some("0")).await;
    assert_eq!(*ready(&client, "recovered"), true, "all there ever was");
    let client = connect(node, "full", Some(&token)).await;
    assert_eq!(
        *ready(&client, "recovered"),
        true,
        "all behind that is there"
    );
}
