//! Heartbeats that the client's program sees.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::common::transports::{Transport, connect_as, refused_as};
use crate::common::{Client, PATIENCE, node};

/// The next frame, whatever it is.
async fn frame(client: &mut Client) -> Message {
    let next = tokio::time::timeout(PATIENCE, client.socket.next()).await;
    next.expect("a frame in time")
        .expect("open")
        .expect("whole")
}

#[tokio::test]
async fn a_page_sees_heartbeats_if_it_wants_to() {
    let node = node(&[("PUSH_PING_SECONDS", "1"), ("PUSH_PONG_SECONDS", "1")]);
    let mut client = Client::v1(&format!("{}&beat=1", node.ws_url("1"))).await;
    assert_eq!(client.ready.as_ref().unwrap()["beat_ms"], 1000);
    // Each is answered, and so it stays.
    for _ in 0..5 {
        let ping = client.json().await;
        assert_eq!(ping, json!({"type": "ping"}));
        client.send(r#"{"type":"pong"}"#).await;
    }
    // Not answered: the end, as with a ping of the protocol.
    while let Message::Text(text) = frame(&mut client).await {
        let object: Value = serde_json::from_str(&text).expect("JSON");
        if object["type"] == "bye" {
            assert_eq!(object["code"], 4003, "{object}");
            return;
        }
        assert_eq!(object, json!({"type": "ping"}));
    }
    panic!("no goodbye, but a ping of the protocol or the end");
}

#[tokio::test]
async fn clients_that_do_not_ask_notice_nothing() {
    let node = node(&[("PUSH_PING_SECONDS", "1"), ("PUSH_SSE_BEAT_SECONDS", "7")]);
    for query in ["", "&beat=0", "&beat="] {
        let mut client = Client::v1(&format!("{}{query}", node.ws_url("1"))).await;
        assert_eq!(client.ready.as_ref().unwrap()["beat_ms"], Value::Null);
        assert!(matches!(frame(&mut client).await, Message::Ping(_)));
        client.socket.close(None).await.expect("closed");
    }
    // A client without objects keeps the protocol's pings whatever it asks for.
    let mut plain = Client::plain(&format!("{}&beat=1", node.ws_url("2"))).await;
    assert!(matches!(frame(&mut plain).await, Message::Ping(_)));
    plain.socket.flush().await.expect("answered");
    // Where the program sees them anyway, it is told how often they come.
    for (by, beat) in [(Transport::Tcp, 1000), (Transport::Sse, 7000)] {
        let client = connect_as(by, &node, &[("user", "3")]).await;
        assert_eq!(client.ready["beat_ms"], beat, "{by:?}");
    }
    let who = [("user", "1"), ("beat", "soon")];
    assert_eq!(refused_as(Transport::Ws, &node, &who).await, "bad_request");
}
