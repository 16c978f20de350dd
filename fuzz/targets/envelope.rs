//! A line on a channel: whatever it is, it becomes a value or a fault, and a push that is
//! understood is understood the same when it is written again. The short way for the usual push
//! makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushnode_fuzz::protocol::{Dialect, EventStream, Line, push_line};

fn stream(is_chunked: bool, has_envelopes: bool) -> Dialect {
    Dialect::Sse(EventStream {
        is_chunked,
        has_envelopes,
    })
}

fuzz_target!(|input: &[u8]| {
    let line = Line::parse(input);
    // The short way knows no `except`, whose sets are shown in any order.
    if !matches!(&line, Ok(Line::Push(push, _)) if push.except.is_some()) {
        assert_eq!(format!("{line:?}"), format!("{:?}", Line::parse_any(input)));
    }
    let Ok(Line::Push(push, reply)) = line else {
        return;
    };
    let write = |push: &pushnode_fuzz::protocol::Push, reply: Option<&_>| {
        push_line(&push.to, push.except.as_deref(), &push.message, reply)
    };
    let line = write(&push, reply.as_ref());
    assert!(!line.contains(['\n', '\r']), "an envelope is one line");
    let again = match Line::parse(line.as_bytes()) {
        Ok(Line::Push(again, again_reply)) => {
            assert_eq!(again_reply, reply);
            again
        }
        other => panic!("{line} became {other:?}"),
    };
    assert_eq!((&again.to, &again.except), (&push.to, &push.except));
    assert_eq!(again.message.position(), push.message.position());
    for dialect in [
        Dialect::Plain,
        Dialect::V1,
        stream(false, false),
        stream(true, false),
        stream(true, true),
        Dialect::Lines,
    ] {
        assert_eq!(again.message.frame(dialect), push.message.frame(dialect));
    }
});
