//! What members of a topic show of themselves: what their token, the connect hook or the subscribe
//! hook says.

use serde_json::{Value, json};

use super::hooks::{Deed, Question, by_hook, ok, open};
use super::presence::{SHORT_GRACE, news, watch};
use super::tokens::{Issuer, claims};
use super::topics::{ask, call};
use super::transports::{TRANSPORTS, Transport, connect_as, refused_as};
use super::{Client, Node};

const JWT_SECRET: &str = "jwt-secret-of-32-bytes-and-a-little";

/// The settings of a node whose clients come by a token or by these hooks.
pub fn settings(url: &str) -> Vec<(&str, &str)> {
    let mut settings = by_hook(url).to_vec();
    settings.extend([
        ("PUSH_AUTH", "jwt,hook"),
        ("PUSH_JWT_SECRETS", JWT_SECRET),
        ("PUSH_SUBSCRIBE_HOOK", url),
        (
            "PUSH_TOPIC_RULES",
            r#"[{"match":"order.**","subscribe":"hook"}]"#,
        ),
        ("PUSH_TCP_LISTEN", "127.0.0.1:0"),
        SHORT_GRACE,
    ]);
    settings
}

/// What the backend says: of a client that connects, and of one that subscribes.
pub fn answer(question: &Question) -> Deed {
    let json = &question.json;
    let user = &json["query"]["u"];
    match (json["hook"].as_str(), json["topic"].as_str()) {
        (Some("connect"), _) if user == "boaster" => {
            ok(json!({"user": user, "info": {"a": "x".repeat(1_020)}}))
        }
        (Some("connect"), _) => {
            let topics = json!(["room", "room.*", "hall"]);
            ok(json!({"user": user, "topics": topics, "info": {"by": "connect"}}))
        }
        (_, Some("order.brief")) => {
            ok(json!({"allow": true, "expires_in": 1, "info": {"renewed": json["renew"]}}))
        }
        _ => ok(json!({"allow": true, "info": {"by": "subscribe"}})),
    }
}

fn token(user: &str, info: &Value) -> String {
    let mut claims = claims(user);
    claims["topics"] = json!(["room", "room.*"]);
    claims["info"] = info.clone();
    Issuer::secret(JWT_SECRET).token(&claims)
}

async fn enter(node: &Node, user: &str, info: &Value, topics: &str) -> Client {
    let query = format!("token={}&topics={topics}", token(user, info));
    open(node, &query, &[]).await.expect("let in")
}

fn shows(user: &str, info: &Value) -> Value {
    json!({"user": user, "info": info})
}

fn joins(topic: &str, member: &Value) -> Value {
    json!({"type": "presence", "topic": topic, "join": [member]})
}

/// Members are told of what the others show, over each transport, and of each change.
pub async fn members_see_what_the_others_show(first: &Node, second: &Node) {
    for (i, transport) in TRANSPORTS.into_iter().enumerate() {
        // A room of its own: the list of one that is watched already may be a moment old, and who
        // has just come follows it.
        let room = &*format!("room.{i}");
        let mut ann = enter(second, "ann", &json!({"name": "Ann"}), room).await;
        let _bob = open(first, &format!("u=bob&topics={room}"), &[])
            .await
            .expect("let in");
        let plain = token("me", &Value::Null);
        let mut who = vec![("token", &*plain), ("topics", room)];
        if transport == Transport::Sse {
            who.push(("presence", "true"));
        }
        let mut watcher = connect_as(transport, first, &who).await;
        if transport != Transport::Sse {
            let wish = json!({"type": "subscribe", "topic": room, "presence": true});
            watcher.send(&wish).await;
            assert_eq!(watcher.json().await["status"], "subscribed");
        }
        let members = json!([
            shows("ann", &json!({"name": "Ann"})),
            shows("bob", &json!({"by": "connect"})),
            "me",
        ]);
        let list = json!({"type": "presence", "topic": room, "members": members});
        assert_eq!(watcher.json().await, list, "{transport:?}");

        let listed = call(second, "GET", &format!("/v1/topics/{room}?members=true"))
            .await
            .1;
        let infos: Vec<&Value> = listed["members"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(infos[0]["info"], json!({"name": "Ann"}), "{listed}");
        assert_eq!(infos[1]["info"], json!({"by": "connect"}), "{listed}");
        assert!(infos[2].get("info").is_none(), "{listed}");

        let renewed = token("ann", &json!({"name": "Anna"}));
        let reply = ask(
            &mut ann,
            json!({"type": "auth", "token": renewed, "ref": 1}),
        )
        .await;
        assert_eq!(reply["type"], "reply", "{reply}");
        let now = joins(room, &shows("ann", &json!({"name": "Anna"})));
        assert_eq!(watcher.json().await, now, "{transport:?}");
        drop(ann);
        let left = json!({"type": "presence", "topic": room, "leave": ["ann"]});
        assert_eq!(watcher.json().await, left, "{transport:?}");
    }
}

/// What the subscribe hook says holds in its topic alone, and until it says something else.
pub async fn a_topic_may_show_something_else(first: &Node, second: &Node) {
    let mut bob = open(first, "u=bob&topics=hall", &[]).await.expect("let in");
    let by_topic = shows("bob", &json!({"by": "subscribe"}));
    assert_eq!(watch(&mut bob, "order.1").await, json!([by_topic]));
    let by_connect = shows("bob", &json!({"by": "connect"}));
    assert_eq!(watch(&mut bob, "hall").await, json!([by_connect]));
    // One that names the topic as it connects.
    let _ann = enter(second, "ann", &json!({"name": "Ann"}), "order.1").await;
    let joined = joins("order.1", &shows("ann", &json!({"by": "subscribe"})));
    assert_eq!(news(&mut bob).await, joined);

    let before = shows("bob", &json!({"renewed": false}));
    assert_eq!(watch(&mut bob, "order.brief").await, json!([before]));
    let after = shows("bob", &json!({"renewed": true}));
    assert_eq!(news(&mut bob).await, joins("order.brief", &after));
}

/// A list of many that show much comes in several objects, each of which fits into a queue.
pub async fn much_is_shown_in_parts(first: &Node, second: &Node) {
    let big = json!({"a": "x".repeat(1_000)});
    let come = async |i: usize| {
        let node = if i.is_multiple_of(2) { first } else { second };
        enter(node, &format!("{i:03}"), &big, "room").await
    };
    let _members = futures::future::join_all((0..100).map(come)).await;
    let mut watcher = enter(first, "zoe", &Value::Null, "room").await;
    let list = watch(&mut watcher, "room").await;
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), 101, "all are named at once");
    let is_shown = |member: &&Value| member["info"] == big;
    let mut shown = list.iter().filter(is_shown).count();
    assert!((20..60).contains(&shown), "{shown}");
    while shown < 100 {
        let more = news(&mut watcher).await;
        let more = more["join"]
            .as_array()
            .expect("those who show more")
            .clone();
        assert!(more.len() < 60 && more.iter().all(|member| is_shown(&member)));
        shown += more.len();
    }
    assert_eq!(shown, 100, "each is shown once");
}

/// One that shows too much is refused, and told why.
pub async fn too_much_is_refused(node: &Node) {
    let big = token("ann", &json!({"a": "x".repeat(1_020)}));
    let text = token("ann", &json!("Ann"));
    for transport in TRANSPORTS {
        for token in [&big, &text] {
            let refused = refused_as(transport, node, &[("token", token)]).await;
            assert_eq!(refused, "token_invalid", "{transport:?}");
        }
        let refused = refused_as(transport, node, &[("u", "boaster")]).await;
        assert_eq!(refused, "unavailable", "{transport:?}");
    }
    let query = format!("token={big}");
    let (_, body) = open(node, &query, &[]).await.err().expect("refused");
    let words = body["error"]["message"].as_str().expect("words");
    assert!(words.contains("info must be an object"), "{body}");
}
