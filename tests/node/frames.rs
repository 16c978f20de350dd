//! What clients may send, frame by frame, and how it ends if they send anything else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Node, eventually, node, post};
use crate::raw::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Raw, TEXT, close_payload, frame, header,
};

/// Values of `pushnode_closes_total` by reason.
async fn closes(node: &Node) -> Vec<(String, u64)> {
    let text = node.metrics().await;
    let parse = |line: &str| {
        let rest = line.strip_prefix("pushnode_closes_total{reason=\"")?;
        let (reason, count) = rest.split_once("\"} ")?;
        let count: u64 = count.parse().expect("a count");
        (count > 0).then(|| (reason.to_owned(), count))
    };
    let mut closes: Vec<_> = text.lines().filter_map(parse).collect();
    closes.sort();
    closes
}

/// Waits until every connection of the node has ended, each with one reason.
async fn ended(node: &Node, expected: &[(&str, u64)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(reason, count)| ((*reason).to_owned(), *count))
        .collect();
    expected.sort();
    eventually(async || {
        let seen = closes(node).await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await;
    let total: u64 = expected.iter().map(|(_, count)| count).sum();
    assert_eq!(node.metric("connects_total").await, total as f64);
    assert_eq!(node.metric("connections").await, 0.0);
}

#[tokio::test]
async fn broken_rules_close_with_the_code_of_the_rfc() {
    let node = node(&[]);
    let start = |first: u8, payload: &[u8]| frame(first & !FIN, payload);
    let fragments = |count: usize| -> Vec<u8> {
        let mut bytes = start(TEXT, b"x");
        (1..count).for_each(|_| bytes.extend(start(CONTINUATION, b"x")));
        bytes
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked text", vec![FIN | TEXT, 1, b'x'], 1002),
        ("unmasked close", vec![FIN | CLOSE, 0], 1002),
        ("RSV1", frame(FIN | 0x40 | TEXT, b"x"), 1002),
        ("RSV2", frame(FIN | 0x20 | TEXT, b"x"), 1002),
        ("RSV3", frame(FIN | 0x10 | PING, b"x"), 1002),
        ("reserved data opcode", frame(FIN | 0x3, b"x"), 1002),
        ("reserved control opcode", frame(FIN | 0xB, b"x"), 1002),
        ("fragmented ping", start(PING, b"x"), 1002),
        ("fragmented close", start(CLOSE, b""), 1002),
        ("ping of 126 bytes", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("close of 126 bytes", header(FIN | CLOSE, 126), 1002),
        (
            "continuation of nothing",
            frame(FIN | CONTINUATION, b"x"),
            1002,
        ),
        (
            "a text inside a text",
            [start(TEXT, b"x"), frame(FIN | TEXT, b"y")].concat(),
            1002,
        ),
        (
            "a length with the highest bit",
            [&[FIN | BINARY, 0xFF, 0x80][..], &[0; 7]].concat(),
            1002,
        ),
        ("close with one byte", frame(FIN | CLOSE, b"x"), 1002),
        (
            "close 999",
            frame(FIN | CLOSE, &close_payload(999, b"")),
            1002,
        ),
        (
            "close 1004",
            frame(FIN | CLOSE, &close_payload(1004, b"")),
            1002,
        ),
        (
            "close 1005",
            frame(FIN | CLOSE, &close_payload(1005, b"")),
            1002,
        ),
        (
            "close 1006",
            frame(FIN | CLOSE, &close_payload(1006, b"")),
            1002,
        ),
        (
            "close 5000",
            frame(FIN | CLOSE, &close_payload(5000, b"")),
            1002,
        ),
        ("text not UTF-8", frame(FIN | TEXT, b"ab\xFFc"), 1007),
        (
            "text ends in a character",
            frame(FIN | TEXT, b"ab\xC3"),
            1007,
        ),
        (
            "a character split between fragments, badly",
            [start(TEXT, b"\xC3"), frame(FIN | CONTINUATION, b"x")].concat(),
            1007,
        ),
        (
            "a bad byte in a message that is not over",
            start(TEXT, b"\xFF"),
            1007,
        ),
        (
            "a close reason that is not UTF-8",
            frame(FIN | CLOSE, &close_payload(1000, b"\xFF")),
            1007,
        ),
        (
            "15 MiB claimed in a header",
            header(FIN | TEXT, 15 << 20),
            1009,
        ),
        ("one byte too many", header(FIN | BINARY, 65_537), 1009),
        ("2^62 bytes claimed", header(FIN | BINARY, 1 << 62), 1009),
        (
            "too big in two fragments",
            [start(BINARY, &[0; 40_000]), header(CONTINUATION, 40_000)].concat(),
            1009,
        ),
        ("65 fragments", fragments(65), 1009),
    ];
    let of = |code: u16| cases.iter().filter(|case| case.2 == code).count() as u64;
    let expected = [
        ("protocol", of(1002)),
        ("invalid_text", of(1007)),
        ("too_big", of(1009)),
    ];
    for (name, bytes, code) in &cases {
        let mut raw = Raw::plain(&node, "42").await;
        raw.send(bytes).await;
        let begun = Instant::now();
        let (closed, reason) = raw.close_frame().await;
        assert_eq!(closed, *code, "{name}: {reason}");
        // What comes behind is ignored, and the node closes its side by itself.
        raw.try_send(&frame(FIN | PING, b"still there?")).await;
        raw.end().await;
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "{name}: ended after {took:?}"
        );
    }
    ended(&node, &expected).await;
}

#[tokio::test]
async fn the_same_broken_frames_byte_by_byte_come_to_the_same_end() {
    let node = node(&[]);
    for (bytes, code) in [
        (frame(FIN | 0x40 | TEXT, b"x"), 1002),
        (frame(FIN | TEXT, b"ab\xFF"), 1007),
        (header(FIN | TEXT, 15 << 20), 1009),
    ] {
        let mut raw = Raw::plain(&node, "42").await;
        raw.socket.set_nodelay(true).unwrap();
        for byte in bytes {
            raw.try_send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.close_frame().await.0, code);
    }
}

#[tokio::test]
async fn a_v1_client_hears_bye_before_the_close() {
    let node = node(&[]);
    let mut raw = Raw::v1(&node, "42").await;
    raw.send(&frame(FIN | TEXT, b"\xFF")).await;
    let bye = raw.frame().await.json();
    let expected = json!({"type": "bye", "code": 1007, "reason": "text is not UTF-8"});
    assert_eq!(
        bye, expected,
        "no retry_ms: it would end the same way again"
    );
    assert_eq!(raw.close_frame().await.0, 1007);
    raw.end().await;
}

#[tokio::test]
async fn what_is_just_allowed_does_no_harm() {
    let node = node(&[]);
    let mut raw = Raw::plain(&node, "42").await;
    // A plain client has nothing to say that matters, but it may say it.
    raw.send(&frame(FIN | TEXT, b"{not json")).await;
    raw.send(&frame(FIN | TEXT, b"")).await;
    raw.send(&frame(FIN | BINARY, &[0xFF; 65_536])).await;
    raw.send(&frame(FIN | PONG, b"unasked")).await;
    raw.send(&frame(TEXT, b"\xC3")).await;
    raw.send(&frame(FIN | PING, b"between two fragments")).await;
    raw.send(&frame(FIN | CONTINUATION, b"\xBC")).await;
    let mut sixty_four = frame(BINARY, b"x");
    (2..64).for_each(|_| sixty_four.extend(frame(CONTINUATION, b"x")));
    sixty_four.extend(frame(FIN | CONTINUATION, b"x"));
    raw.send(&sixty_four[..sixty_four.len() / 2]).await;
    raw.send(&sixty_four[sixty_four.len() / 2..]).await;
    let pong = raw.frame().await;
    assert_eq!(pong.first, FIN | PONG);
    assert_eq!(pong.payload, b"between two fragments");
    for payload in [&b""[..], &[b'x'; 125]] {
        raw.send(&frame(FIN | PING, payload)).await;
        let pong = raw.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (FIN | PONG, payload));
    }
    post(&node.push_url, &json!({"to": {"user": "42"}, "data": 1})).await;
    assert_eq!(raw.frame().await.text(), "1", "and pushes still come");
}

#[tokio::test]
async fn a_larger_limit_of_bytes_allows_the_fragments_that_libraries_make_of_them() {
    const LIMIT: usize = 1_200_000;
    let node = node(&[("PUSH_MAX_MESSAGE_BYTES", &LIMIT.to_string())]);
    let mut raw = Raw::v1(&node, "42").await;
    let in_fragments = |length: usize, each: usize| -> Vec<u8> {
        let mut message = br#"{"type":"ping"}"#.to_vec();
        message.resize(length, b' ');
        let count = length.div_ceil(each);
        let chunks = message.chunks(each).enumerate();
        let frames = chunks.map(|(at, chunk)| {
            let opcode = if at == 0 { TEXT } else { CONTINUATION };
            frame(opcode | if at + 1 == count { FIN } else { 0 }, chunk)
        });
        frames.collect::<Vec<_>>().concat()
    };
    // As Java's and Go's send it, and the smallest fragments that are taken.
    for each in [16_384, 4_092, 1_024] {
        raw.send(&in_fragments(LIMIT, each)).await;
        assert_eq!(raw.frame().await.json(), json!({"type": "pong"}), "{each}");
    }
    raw.try_send(&in_fragments(LIMIT, 1_000)).await;
    assert_eq!(raw.frame().await.json()["code"], 1009);
    assert_eq!(raw.close_frame().await.0, 1009);
}

#[tokio::test]
async fn a_close_is_answered_with_its_code_and_the_node_closes_the_socket() {
    let node = node(&[]);
    for (payload, answer) in [
        (close_payload(1000, b""), close_payload(1000, b"")),
        (close_payload(1001, b"page left"), close_payload(1001, b"")),
        (close_payload(4999, b""), close_payload(4999, b"")),
        (Vec::new(), Vec::new()),
    ] {
        let mut raw = Raw::v1(&node, "42").await;
        let ping = frame(FIN | PING, b"behind the close");
        raw.send(&[frame(FIN | CLOSE, &payload), ping].concat())
            .await;
        let frame = raw.frame().await;
        assert_eq!((frame.first, &frame.payload), (FIN | CLOSE, &answer));
        raw.end().await;
    }
    ended(&node, &[("by_client", 4)]).await;
}

#[tokio::test]
async fn a_client_that_vanishes_is_gone() {
    let node = node(&[]);
    let polite = Raw::plain(&node, "42").await;
    drop(polite);
    let rude = Raw::plain(&node, "42").await;
    // The reset of a process that was killed with data unread.
    rude.socket.set_zero_linger().unwrap();
    drop(rude);
    // Its last bytes and its end come together.
    let begun = Instant::now();
    for _ in 0..20 {
        let mut half = Raw::plain(&node, "42").await;
        half.send(&frame(FIN | TEXT, b"half a frame")[..6]).await;
        drop(half);
    }
    ended(&node, &[("gone", 22)]).await;
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(20),
        "noticed only after {took:?}"
    );
    let (_, answer) = post(&node.push_url, &json!({"to": {"user": "42"}, "data": 1})).await;
    assert_eq!(answer["status"], "offline", "{answer}");
}

#[tokio::test]
async fn a_client_with_too_much_to_say_is_closed() {
    let node = node(&[("PUSH_CLIENT_RATE", "20")]);
    let mut raw = Raw::plain(&node, "42").await;
    // Within two seconds however they fall, more than 20 in one.
    let many: Vec<u8> = (0..41).flat_map(|_| frame(FIN | PONG, b"")).collect();
    raw.send(&many).await;
    let (code, reason) = raw.close_frame().await;
    assert_eq!((code, reason.as_str()), (1008, "too many messages"));
    raw.end().await;
    ended(&node, &[("too_fast", 1)]).await;
}

#[tokio::test]
async fn a_v1_client_that_is_not_understood_is_told_and_stays() {
    let node = node(&[]);
    let mut raw = Raw::v1(&node, "42").await;
    for (text, code) in [
        ("", "bad_message"),
        ("hello", "bad_message"),
        ("[]", "bad_message"),
        ("{}", "bad_message"),
        (r#"{"type":7}"#, "bad_message"),
        (r#"{"type":"ack"}"#, "bad_message"),
        (r#"{"type":"ack","id":7}"#, "bad_message"),
        (r#"{"type":"fly"}"#, "unknown_type"),
        (r#"{"type":"ping""#, "bad_message"),
    ] {
        raw.send(&frame(FIN | TEXT, text.as_bytes())).await;
        let error = raw.frame().await.json();
        assert_eq!(error["type"], "error", "{text}: {error}");
        assert_eq!(error["code"], code, "{text}: {error}");
        assert!(error["message"].is_string(), "{text}: {error}");
    }
    // Whom nobody waits for may acknowledge; unknown fields are the future's.
    raw.send(&frame(FIN | TEXT, br#"{"type":"ack","id":"never sent"}"#))
        .await;
    raw.send(&frame(FIN | TEXT, br#"{ "at": 1, "type" : "p\u0069ng" }"#))
        .await;
    assert_eq!(raw.frame().await.json(), json!({"type": "pong"}));
    post(&node.push_url, &json!({"to": {"user": "42"}, "data": 1})).await;
    let message = raw.frame().await.json();
    assert_eq!(message, json!({"type": "message", "data": 1}));
}

#[tokio::test]
async fn pings_come_and_a_client_that_answers_none_is_closed() {
    let node = node(&[("PUSH_PING_SECONDS", "1"), ("PUSH_PONG_SECONDS", "4")]);
    let mut dead = Raw::v1(&node, "dead").await;
    let mut alive = Raw::plain(&node, "alive").await;
    let watch_dead = async {
        let ping = dead.any_frame().await;
        assert_eq!((ping.opcode(), &ping.payload[..]), (PING, &b""[..]));
        let bye = dead.frame().await.json();
        assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4003)));
        assert!(bye["retry_ms"].is_u64(), "may come back: {bye}");
        let (code, reason) = dead.close_frame().await;
        assert_eq!((code, reason.as_str()), (4003, "heartbeat timeout"));
        // It answers after all, with the close that RFC 6455 asks for.
        dead.send(&frame(FIN | CLOSE, &close_payload(4003, b"")))
            .await;
        dead.end().await;
    };
    let watch_alive = async {
        for _ in 0..5 {
            let ping = alive.any_frame().await;
            assert_eq!(ping.first, FIN | PING, "{ping:?}");
            alive.send(&frame(FIN | PONG, &ping.payload)).await;
        }
    };
    tokio::join!(watch_dead, watch_alive);
    post(&node.push_url, &json!({"to": {"user": "alive"}, "data": 1})).await;
    assert_eq!(alive.frame().await.text(), "1");
    assert_eq!(closes(&node).await, [("heartbeat".to_owned(), 1)]);
}

#[tokio::test]
async fn the_metric_of_received_messages_counts_messages() {
    let node = node(&[]);
    let mut raw = Raw::plain(&node, "42").await;
    let three: Vec<u8> = (0..3).flat_map(|_| frame(FIN | TEXT, b"x")).collect();
    raw.send(&three).await;
    raw.send(&frame(FIN | PING, b"")).await;
    assert_eq!(raw.frame().await.first, FIN | PONG);
    assert_eq!(node.metric("received_total").await, 4.0);
}

#[cfg(feature = "echo")]
#[tokio::test]
async fn echo_gives_back_text_binary_and_fragments() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: x\r\n{}\r\n",
        crate::raw::HANDSHAKE
    );
    assert_eq!(raw.ask(&request).await.status, 101);
    for (first, payload) in [
        (FIN | TEXT, &b""[..]),
        (FIN | TEXT, "hällo".as_bytes()),
        (FIN | BINARY, &[0xFF; 65_536]),
    ] {
        raw.send(&frame(first, payload)).await;
        let echo = raw.frame().await;
        assert_eq!((echo.first, &echo.payload[..]), (first, payload));
    }
    raw.send(&frame(TEXT, "h\u{E4}".as_bytes().split_at(2).0))
        .await;
    raw.send(&frame(FIN | PING, b"p")).await;
    raw.send(&frame(CONTINUATION, "\u{E4}".as_bytes().split_at(1).1))
        .await;
    raw.send(&frame(FIN | CONTINUATION, b"llo")).await;
    assert_eq!(raw.frame().await.first, FIN | PONG);
    assert_eq!(raw.frame().await.text(), "hällo");
}

#[cfg(not(feature = "echo"))]
#[tokio::test]
async fn there_is_no_echo_without_the_feature() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: x\r\n{}\r\n",
        crate::raw::HANDSHAKE
    );
    assert_eq!(raw.ask(&request).await.status, 404);
}
