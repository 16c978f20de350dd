//! The body of `POST /v1/push`: a request or a fault. What is taken can be put on a channel
//! and means the same there. The short way for the usual push makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushnode_fuzz::protocol::{
    Line, MAX_TIMEOUT, MAX_TOPICS, MAX_USERS, PushRequest, Target, push_line,
};

fuzz_target!(|input: &[u8]| {
    let request = PushRequest::parse(input);
    // The short way knows no `except`, whose sets are shown in any order.
    if !matches!(&request, Ok(request) if request.push.except.is_some()) {
        let any = PushRequest::parse_any(input);
        assert_eq!(format!("{request:?}"), format!("{any:?}"));
    }
    let Ok(request) = request else {
        return;
    };
    assert!(!request.timeout.is_zero() && request.timeout <= MAX_TIMEOUT);
    let push = &request.push;
    if let Target::Users(users) = &push.to {
        assert!((1..=MAX_USERS).contains(&users.len()));
    }
    if let Target::Topics(topics) = &push.to {
        assert!((1..=MAX_TOPICS).contains(&topics.len()));
    }
    if request.keep {
        assert!(!matches!(push.to, Target::Connection(..) | Target::All));
    }
    let line = push_line(&push.to, push.except.as_deref(), &push.message, None);
    match Line::parse(line.as_bytes()) {
        Ok(Line::Push(heard, None)) => {
            assert_eq!((&heard.to, &heard.except), (&push.to, &push.except));
            assert_eq!(heard.message.data(), push.message.data());
            assert_eq!(heard.message.id(), push.message.id());
            assert_eq!(heard.message.policy(), push.message.policy());
        }
        other => panic!("{line} became {other:?}"),
    }
});
