//! The head of a push or of a handshake: what the fast lane takes, hyper reads as the same request,
//! with the same body and the same end. However it is cut, it is the same, and no part of it is
//! taken for a whole.
#![no_main]

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, Version};
use libfuzzer_sys::fuzz_target;
use pushnode_fuzz::protocol::{
    CONNECT_HEAD_BYTES, ConnectHead, ConnectReading, HeadReading, KnownHead, PLAIN_BODY_BYTES,
    PLAIN_HEAD_BYTES, PushHead,
};

/// A socket that has these bytes to read, and then its end.
struct Input<'a>(&'a [u8]);

impl Read for Input<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.0.len().min(buffer.remaining());
        let (now, later) = self.0.split_at(count);
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Input<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first request, as hyper reads it.
struct Seen {
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn first_seen(input: &[u8]) -> Option<Seen> {
    let seen = Arc::new(Mutex::new(None));
    let place = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let place = place.clone();
        async move {
            let (head, mut body) = request.into_parts();
            let mut whole = Vec::new();
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                // A body that ends early is none.
                let Ok(frame) = frame else {
                    return Ok(Response::new(String::new()));
                };
                whole.extend(frame.into_data().unwrap_or_else(|_| Bytes::new()));
            }
            place.lock().expect("no panic").get_or_insert(Seen {
                method: head.method,
                target: head.uri.to_string(),
                version: head.version,
                headers: head.headers,
                body: whole,
            });
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(16 * 1024)
        .serve_connection(Input(input), service);
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    // It waits for nothing but turns of its own.
    for _ in 0..64 {
        if connection.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
    let seen = seen.lock().expect("no panic").take();
    seen
}

fn check(head: &PushHead<'_>, input: &[u8]) {
    assert!(head.length <= PLAIN_HEAD_BYTES && head.length <= input.len());
    assert!((1..=PLAIN_BODY_BYTES).contains(&head.body_length));
    let mut whole = input.to_vec();
    whole.resize(head.length + head.body_length, b' ');
    let seen = first_seen(&whole).expect("hyper reads a request");
    assert_eq!(seen.method, Method::POST);
    assert_eq!(seen.target, "/v1/push");
    assert_eq!(seen.version, Version::HTTP_11);
    assert_eq!(seen.body, whole[head.length..]);
    let only = |name: &str| {
        let mut values = seen.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().expect("text"));
        assert!(values.next().is_none(), "{name} is there twice");
        value
    };
    assert_eq!(only("host"), Some(head.host));
    assert_eq!(only("content-type"), Some(head.content_type));
    assert_eq!(only("authorization"), head.authorization);
    for value in seen.headers.get_all("connection") {
        assert!(value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
    }
    for name in [
        "transfer-encoding",
        "expect",
        "upgrade",
        "content-encoding",
        "origin",
        "sec-fetch-site",
        "te",
        "trailer",
    ] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
}

/// Most inputs begin as those that are taken do.
fn read(input: &[u8]) {
    match HeadReading::read(input) {
        HeadReading::Push(head) => {
            check(&head, input);
            for at in 0..head.length {
                assert_eq!(HeadReading::read(&input[..at]), HeadReading::Part, "{at}");
            }
        }
        HeadReading::Part => assert!(input.len() < PLAIN_HEAD_BYTES),
        // More bytes do not make it one.
        HeadReading::Other => {
            let longer = [input, b"\r\n\r\n"].concat();
            assert_eq!(HeadReading::read(&longer), HeadReading::Other);
        }
    }
}

/// Two requests of one connection. If the second has the head that is known, it is read as the first
/// was, but for the length of its body.
fn read_again(first: &[u8], second: &[u8]) {
    let HeadReading::Push(head) = HeadReading::read(first) else {
        return;
    };
    let Some(known) = KnownHead::of(first, &head) else {
        return;
    };
    assert_eq!(known.lengths(first), Some((head.length, head.body_length)));
    if let Some((length, body_length)) = known.lengths(second) {
        let HeadReading::Push(again) = HeadReading::read(second) else {
            panic!("{} is no push", second.escape_ascii());
        };
        let expected = PushHead {
            length,
            body_length,
            body_digits: again.body_digits,
            ..head
        };
        assert_eq!(again, expected);
    }
}

fn check_handshake(head: &ConnectHead<'_>, input: &[u8]) {
    assert!(head.length <= CONNECT_HEAD_BYTES && head.length <= input.len());
    let Some(seen) = first_seen(&input[..head.length]) else {
        // A target that is none of hyper's is none of the node's either, which leaves it to hyper.
        assert!(hyper::Uri::try_from(head.target).is_err());
        return;
    };
    assert_eq!(seen.method, Method::GET);
    assert_eq!(seen.version, Version::HTTP_11);
    assert_eq!(seen.body, b"");
    let target = hyper::Uri::try_from(head.target).expect("hyper has read it");
    assert_eq!(seen.target, target.to_string());
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let value = hyper::header::HeaderValue::from_bytes(value).expect("a value");
        headers.append(name, value);
    }
    assert_eq!(seen.headers, headers);
}

/// As `read`, for handshakes.
fn read_handshake(input: &[u8]) {
    match ConnectReading::read(input) {
        ConnectReading::Connect(head) => {
            check_handshake(&head, input);
            for at in 0..head.length {
                let part = ConnectReading::read(&input[..at]);
                assert_eq!(part, ConnectReading::Part, "{at}");
            }
        }
        ConnectReading::Part => assert!(input.len() < CONNECT_HEAD_BYTES),
        ConnectReading::Other => {
            let longer = [input, b"\r\n\r\n"].concat();
            assert_eq!(ConnectReading::read(&longer), ConnectReading::Other);
        }
    }
}

fuzz_target!(|input: &[u8]| {
    read_handshake(input);
    let begun = b"GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n";
    read_handshake(&[begun, input].concat());
    read_handshake(&[begun, input, b"\r\n\r\n"].concat());
    read(input);
    let begun = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    read(&[begun, input].concat());
    let length = b"Content-Length: 7\r\n";
    let whole = [begun, &length[..], input, b"\r\n\r\n"].concat();
    read(&whole);
    // The first byte says where, the second what is there instead.
    let mut other = whole.clone();
    if let [place, byte, ..] = input {
        let place = usize::from(*place) % other.len();
        other[place] = *byte;
    }
    read_again(&whole, &other);
    read_again(input, &[input, b"Content-Length: 7"].concat());
});
