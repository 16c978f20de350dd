//! The head of the usual push: what is taken, and what is left to the HTTP library.

use super::*;

const LINE: &str = "POST /v1/push HTTP/1.1\r\n";
const HEADERS: [&str; 3] = [
    "Host: x",
    "Content-Type: application/json",
    "Content-Length: 7",
];

fn head(headers: &[&str]) -> String {
    format!("{LINE}{}\r\n\r\n", headers.join("\r\n"))
}

#[track_caller]
fn assert_other(head: &str) {
    assert_eq!(
        HeadReading::read(head.as_bytes()),
        HeadReading::Other,
        "{head}"
    );
}

#[test]
fn a_usual_head_is_taken_once_it_is_whole() {
    let headers = [
        &HEADERS[..],
        &["AUTHORIZATION:  Bearer key\t", "connection: Keep-Alive"],
    ];
    let head = head(&headers.concat());
    let taken = HeadReading::Push(PushHead {
        length: head.len(),
        body_length: 7,
        body_digits: "7",
        host: "x",
        content_type: "application/json",
        authorization: Some("Bearer key"),
    });
    for behind in ["", "{", "POST /v1/push"] {
        let bytes = format!("{head}{behind}");
        assert_eq!(HeadReading::read(bytes.as_bytes()), taken);
    }
    for at in 0..head.len() {
        assert_eq!(
            HeadReading::read(&head.as_bytes()[..at]),
            HeadReading::Part,
            "{at}"
        );
    }
}

#[test]
fn what_is_unusual_is_left_alone() {
    assert_other("GET");
    assert_other("POST /v1/push HTTP/1.0");
    assert_other("\r\n");
    for missing in 0..HEADERS.len() {
        let rest = (0..HEADERS.len()).filter(|n| *n != missing);
        assert_other(&head(&rest.map(|n| HEADERS[n]).collect::<Vec<_>>()));
    }
    for twice in HEADERS {
        assert_other(&head(&[&HEADERS[..], &[twice]].concat()));
    }
    for header in [
        "Connection: close",
        "Connection: keep-alive, x",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Content-Encoding: identity",
        "Origin: http://x",
        "Sec-Fetch-Site: none",
        "Upgrade: websocket",
        "TE: trailers",
        "Trailer: x",
        "Keep-Alive: timeout=1",
        "Proxy-Connection: close",
        "Last-Event-ID: 1",
        "Sec-WebSocket-Version: 13",
        "Authorization: a\r\nAuthorization: a",
        "Authorization: \u{e9}",
        "no colon",
        "X : a",
        "X: a\r\n folded",
    ] {
        assert_other(&head(&[&HEADERS[..], &[header]].concat()));
    }
    for length in ["0", "16385", "+1", "1,1", "", "0x1", "000001"] {
        let length = format!("Content-Length: {length}");
        assert_other(&head(&[HEADERS[0], HEADERS[1], &length]));
    }
}

#[test]
fn a_head_is_bounded() {
    let many = |count: usize| head(&[&HEADERS[..], &vec!["X: a"; count]].concat());
    assert!(matches!(
        HeadReading::read(many(29).as_bytes()),
        HeadReading::Push(_)
    ));
    assert_other(&many(30));
    let long = |bytes: usize| {
        let rest = head(&HEADERS).len() + "X: \r\n".len();
        let value = format!("X: {}", "a".repeat(bytes - rest));
        head(&[&HEADERS[..], &[&value]].concat())
    };
    let taken = long(PLAIN_HEAD_BYTES);
    assert_eq!(taken.len(), PLAIN_HEAD_BYTES);
    assert!(matches!(
        HeadReading::read(taken.as_bytes()),
        HeadReading::Push(_)
    ));
    assert_other(&long(PLAIN_HEAD_BYTES + 1));
    assert_other(&long(2 * PLAIN_HEAD_BYTES)[..PLAIN_HEAD_BYTES]);
}
