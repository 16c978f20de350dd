//! What holds of presence on every backplane. Each takes the node that is asked and those that
//! clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::topics::call;
use super::{Client, Node, eventually, post};

pub async fn presence(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.url("/v1/presence"), &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A client that comes with this topic.
pub async fn member(node: &Node, user: &str, topic: &str) -> Client {
    Client::v1(&format!("{}&topics={topic}", node.ws_url(user))).await
}

pub async fn many_users_are_asked_after_at_once(asked: &Node, first: &Node, second: &Node) {
    let url = |node: &Node, user: &str, device: &str| {
        format!("{}&device={device}&topics=news", node.ws_url(user))
    };
    let mut clients = vec![
        Client::v1(&url(first, "twice", "phone")).await,
        Client::v1(&url(second, "twice", "phone")).await,
        Client::v1(&url(first, "once", "tablet")).await,
        Client::v1(&first.ws_url("unnamed")).await,
        Client::v1(&first.ws_url("unnamed")).await,
    ];
    let mut users: Vec<String> = (0..996).map(|i| format!("nobody{i}")).collect();
    users.extend(["twice", "once", "unnamed", "twice"].map(str::to_owned));
    let answer = presence(asked, json!({"users": users})).await;
    let shown = answer["users"].as_array().expect("users");
    let names: Vec<&str> = shown
        .iter()
        .map(|one| one["user"].as_str().unwrap())
        .collect();
    assert_eq!(names, users, "in the order of the question");
    let nobody = json!({"user": "nobody7", "online": false, "connections": 0, "devices": 0, "since": null, "nodes": []});
    assert_eq!(shown[7], nobody);
    let mut nodes = vec![first.id.clone(), second.id.clone()];
    nodes.sort();
    nodes.dedup();
    for (one, connections, devices, nodes) in [
        (&shown[996], 2, 1, &nodes),
        (&shown[997], 1, 1, &vec![first.id.clone()]),
        (&shown[998], 2, 2, &vec![first.id.clone()]),
        (&shown[999], 2, 1, &nodes),
    ] {
        assert_eq!(
            (&one["online"], &one["connections"], &one["devices"]),
            (&json!(true), &json!(connections), &json!(devices)),
            "{one}"
        );
        assert_eq!(one["nodes"], json!(nodes), "{one}");
        let (_, alone) = call(
            asked,
            "GET",
            &format!("/v1/users/{}", one["user"].as_str().unwrap()),
        )
        .await;
        assert_eq!(
            (&alone["since"], &alone["devices"]),
            (&one["since"], &one["devices"])
        );
        let oldest = alone["connections"].as_array().expect("rows").iter();
        let oldest = oldest.map(|row| row["at"].as_u64().unwrap()).min();
        assert_eq!(one["since"], json!(oldest));
    }
    let answer = presence(asked, json!({"topics": ["news", "none"]})).await;
    assert_eq!(
        answer["topics"][0]["connections"],
        json!(clients.len() - 2),
        "{answer}"
    );
    let none = json!({"topic": "none", "connections": 0, "nodes": []});
    assert_eq!(answer["topics"][1], none);

    clients.remove(0);
    eventually(async || {
        let answer = presence(asked, json!({"users": ["twice"]})).await;
        match answer["users"][0]["connections"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
}

pub async fn members_are_listed_by_user(asked: &Node, first: &Node, second: &Node) {
    let _clients = [
        member(first, "b", "news").await,
        member(first, "a", "news").await,
        member(second, "a", "news").await,
        member(second, "c", "news").await,
        member(second, "d", "other").await,
    ];
    let (status, answer) = call(asked, "GET", "/v1/topics/news?members=true").await;
    assert_eq!(status, 200, "{answer}");
    let both: Vec<&str> = match first.id == second.id {
        true => vec![&first.id],
        false => vec![&first.id, &second.id],
    };
    let one = |user, connections, nodes: &[&str]| json!({"user": user, "connections": connections, "nodes": nodes});
    let expected = [
        one("a", 2, &both),
        one("b", 1, &[&first.id]),
        one("c", 1, &[&second.id]),
    ];
    assert_eq!(answer["members"], json!(expected), "{answer}");
    assert_eq!(
        (&answer["truncated"], &answer["missing"]),
        (&json!(false), &json!([]))
    );
}

pub async fn a_bad_question_after_presence_is_refused(node: &Node) {
    let url = node.url("/v1/presence");
    let many: Vec<_> = (0..=1000).map(|i| format!("u{i}")).collect();
    for (body, words) in [
        (json!({"users": []}), "users must not be empty"),
        (json!({"users": many}), "1001 users; 1000 at most"),
        (json!({"topics": many}), "1001 topics; 100 at most"),
        (json!({"user": "a"}), "unknown field"),
        (json!({"users": ["a b"]}), "user id must be"),
        (json!({}), "one of users and topics is needed"),
    ] {
        let (status, answer) = post(&url, &body).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{message}");
    }
    let (status, answer) = call(node, "GET", "/v1/presence").await;
    assert_eq!(status, 405, "{answer}");
}
