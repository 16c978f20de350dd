//! The head of the usual handshake: what is taken, and what is left to the HTTP library.

use super::*;

const LINE: &str = "GET /ws?user=42 HTTP/1.1\r\n";

#[track_caller]
fn assert_other(head: &str) {
    let read = ConnectReading::read(head.as_bytes());
    assert_eq!(read, ConnectReading::Other, "{head}");
}

#[test]
fn a_usual_handshake_is_taken_once_it_is_whole() {
    let head = format!("{LINE}Host: x\r\nUPGRADE:  websocket\t\r\nX-A:\r\nX-A: \u{e9}\r\n\r\n");
    let taken = ConnectReading::Connect(ConnectHead {
        length: head.len(),
        target: "/ws?user=42",
        headers: vec![
            ("Host", b"x"),
            ("UPGRADE", b"websocket"),
            ("X-A", b""),
            ("X-A", "\u{e9}".as_bytes()),
        ],
    });
    for behind in ["", "{", "GET /ws"] {
        let bytes = format!("{head}{behind}");
        assert_eq!(ConnectReading::read(bytes.as_bytes()), taken);
    }
    for at in 0..head.len() {
        let part = &head.as_bytes()[..at];
        assert_eq!(ConnectReading::read(part), ConnectReading::Part, "{at}");
    }
}

#[test]
fn what_is_no_usual_handshake_is_left_alone() {
    for head in ["POST", "GET /w?", "GET /wss", "GET /ws/", "\r\n", "get /ws"] {
        assert_other(head);
    }
    assert_other("GET /ws HTTP/1.0\r\n\r\n");
    assert_other("GET /ws HTTP/1.2\r\n\r\n");
    for header in [
        "Content-Length: 0",
        "transfer-encoding: chunked",
        "EXPECT: 100-continue",
        "X-Space : a",
        "X-Null: \0",
    ] {
        assert_other(&format!("{LINE}{header}\r\n\r\n"));
    }
}

#[test]
fn a_long_handshake_is_left_alone() {
    let with = |length: usize| {
        let fixed = format!("{LINE}X: \r\n\r\n").len();
        format!("{LINE}X: {}\r\n\r\n", "x".repeat(length - fixed))
    };
    let longest = with(CONNECT_HEAD_BYTES);
    let read = ConnectReading::read(longest.as_bytes());
    assert!(matches!(read, ConnectReading::Connect(_)), "{read:?}");
    assert_other(&with(CONNECT_HEAD_BYTES + 1));
    assert_other(&with(CONNECT_HEAD_BYTES + 4)[..CONNECT_HEAD_BYTES]);
    let many: String = (0..33).map(|n| format!("X-{n}: {n}\r\n")).collect();
    assert_other(&format!("{LINE}{many}\r\n"));
}
