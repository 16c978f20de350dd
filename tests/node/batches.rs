//! Many pushes in one request.

use serde_json::{Value, json};

use crate::common::{Client, node, post_text};
use crate::sender::{JSON, NDJSON, push};

#[tokio::test]
async fn one_bad_item_of_a_batch_disturbs_nobody() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let items = [
        r#"{"to":{"user":"42"},"data":1,"id":"one"}"#,
        r#"{"to":{"user":"42"},"data":2,"urgent":true}"#,
        r#"{"to":{"user":"nobody"},"data":3}"#,
        r#"{"to":{"user":"42"},"data":4}"#,
    ];
    let check = |results: &[Value]| {
        assert_eq!(results.len(), 4, "{results:#?}");
        assert_eq!(results[0]["status"], "routed", "{results:#?}");
        assert_eq!(results[1]["status"], "error", "{results:#?}");
        assert_eq!(results[1]["error"]["code"], "bad_request", "{results:#?}");
        let words = results[1]["error"]["message"].as_str().expect("words");
        assert!(words.contains("`urgent`"), "{results:#?}");
        assert_eq!(results[2]["status"], "offline", "{results:#?}");
        assert_eq!(results[3]["status"], "routed", "{results:#?}");
    };

    // Blank lines and the other line break do no harm; a broken line is an item of its own.
    let lines = format!(
        "\n{}\r\n\r\n{}\n",
        items[..2].join("\r\n"),
        items[2..].join("\n")
    );
    let (status, answer) = post_text(&node.push_url, NDJSON, lines).await;
    assert_eq!(status, 200, "{answer}");
    let parsed: Vec<Value> = answer
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    check(&parsed);
    assert_eq!(parsed[0]["id"], "one");
    assert_eq!([client.json().await, client.json().await], [1, 4]);

    let array = format!(" [{}]", items.join(", ")).replace("one", "other");
    let (status, answer) = post_text(&node.push_url, JSON, array).await;
    assert_eq!(status, 200, "{answer}");
    check(&serde_json::from_str::<Vec<Value>>(&answer).expect("an array"));
    assert_eq!([client.json().await, client.json().await], [1, 4]);

    let torn = format!("{}\n{{\"to\":\n{}\n", items[2], items[3]);
    let (status, answer) = post_text(&node.push_url, NDJSON, torn).await;
    assert_eq!(status, 200);
    let states: Vec<String> = answer
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].to_string())
        .collect();
    assert_eq!(states, ["\"offline\"", "\"error\"", "\"routed\""]);
    assert_eq!(client.json().await, 4);

    for (content_type, body, expected) in
        [(JSON, "[]", "[]"), (NDJSON, "", ""), (NDJSON, "\n \n", "")]
    {
        let (status, answer) = post_text(&node.push_url, content_type, body).await;
        assert_eq!((status, answer.as_str()), (200, expected), "{body:?}");
    }
    // An array that is not JSON as a whole is refused as a whole.
    let (status, _) = post_text(&node.push_url, JSON, format!("[{},]", items[0])).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_batch_has_ten_thousand_pushes_at_most() {
    let node = node(&[]);
    let item = r#"{"to":{"user":"nobody"},"data":1}"#;
    for (count, status) in [(10_000, 200), (10_001, 413)] {
        let lines = vec![item; count];
        let (seen, answer) = post_text(&node.push_url, NDJSON, lines.join("\n")).await;
        assert_eq!(seen, status, "{count} lines");
        if status == 200 {
            assert_eq!(answer.lines().count(), count);
        } else {
            assert!(answer.contains("too_many"), "{answer}");
        }
        let array = format!("[{}]", lines.join(","));
        let (seen, _) = post_text(&node.push_url, JSON, array).await;
        assert_eq!(seen, status, "an array of {count}");
    }
}

#[tokio::test]
async fn ten_thousand_pushes_arrive_in_order_and_once() {
    const USERS: usize = 4;
    const PUSHES: usize = 10_000;
    let node = node(&[("PUSH_QUEUE_BYTES", "16777216")]);
    let mut clients = Vec::new();
    for user in 0..USERS {
        clients.push(Client::plain(&node.ws_url(&format!("u{user}"))).await);
    }
    let reading = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                match client.json().await {
                    Value::Number(n) => seen.push(n.as_u64().unwrap() as usize),
                    _ => return seen,
                }
            }
        })
    });
    let reading: Vec<_> = reading.collect();
    for batch in (0..PUSHES).collect::<Vec<_>>().chunks(1_000) {
        let lines: Vec<String> = batch
            .iter()
            .map(|n| format!(r#"{{"to":{{"user":"u{}"}},"data":{n}}}"#, n % USERS))
            .collect();
        let (status, answer) = post_text(&node.push_url, NDJSON, lines.join("\n")).await;
        assert_eq!(status, 200);
        let routed = answer.lines().filter(|line| line.contains("\"routed\""));
        assert_eq!(routed.count(), 1_000);
    }
    push(&node, json!({"to": {"all": true}, "data": "end"})).await;
    for (user, reading) in reading.into_iter().enumerate() {
        let seen = reading.await.expect("a reader");
        let expected: Vec<usize> = (user..PUSHES).step_by(USERS).collect();
        let wrong = seen.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            seen == expected,
            "user {user}: {} of {} messages, first wrong one at {wrong:?}",
            seen.len(),
            expected.len()
        );
    }
}
