//! What is `null` is as good as absent, and a `ref` comes back whatever else is wrong.

use super::*;
use crate::protocol::ids::UserId;

#[test]
fn null_is_as_good_as_absent() {
    let push = r#"{"to":{"user":"42","users":null,"topic":null,"topics":null,"fd":null,"all":null},
        "data":1,"id":null,"except":{"users":null,"fds":null},"policy":null,"keep":null,
        "wait":null,"timeout_ms":null}"#;
    let read = PushRequest::parse(push.as_bytes()).unwrap();
    let plain = PushRequest::parse(br#"{"to":{"user":"42"},"data":1}"#).unwrap();
    assert_eq!(read.push.to, plain.push.to);
    assert_eq!((read.keep, read.wait), (plain.keep, plain.wait));
    assert_eq!(read.timeout, plain.timeout);
    assert!(read.push.except.is_none());

    let reply = br#"{"to":{"fd":"a.1/1"},"ref":null,"data":1,"error":null,"wait":null}"#;
    assert!(PushRequest::parse_reply(reply).is_ok());
    let ban = BanRequest::parse(br#"{"seconds":1,"reason":null}"#).unwrap();
    assert_eq!(ban.reason, "");
    let session = br#"{"user":"42","topics":null,"device":null,"ttl_seconds":1}"#;
    assert!(SessionRequest::parse(session).is_ok());
    for line in [
        r#"{"to":{"user":"42"},"data":null,"keep":null,"except":null,"policy":null,"reply":null,
            "tail":null,"connections":null,"here":null,"gone":null,"begin":null,"end":null}"#,
        r#"{"to":{"user":"42"},"data":1,
            "reply":{"node":"a.1","ref":"1","wait":null,"timeout_ms":null}}"#,
        r#"{"cmd":"kick","to":{"user":"42"},"reason":null,"reply":null}"#,
        r#"{"cmd":"presence","topic":"room","node":"a.1","here":null,"gone":null,"end":null}"#,
    ] {
        let read = Line::parse(line.as_bytes());
        assert!(read.is_ok(), "{line}: {read:?}");
    }
    for object in [
        r#"{"type":"subscribe","topic":"t","since":null,"presence":null,"id":null,"token":null}"#,
        r#"{"type":"send","data":1,"route":null,"ref":null}"#,
        r#"{"type":"answer","ref":"1","data":1,"error":null}"#,
    ] {
        let read = ClientMessage::parse(object);
        assert!(read.is_ok(), "{object}: {read:?}");
    }
}

#[test]
fn whatever_has_a_ref_gets_it_back() {
    for object in [
        r#"{"type":"subscribe","ref":"r","topic":5}"#,
        r#"{"type":"subscribe","ref":"r","topic":["a"]}"#,
        r#"{"type":"subscribe","ref":"r","topic":"t","since":5}"#,
        r#"{"type":"subscribe","ref":"r","topic":"t","topic":"t"}"#,
        r#"{"type":"unsubscribe","ref":"r","topic":{}}"#,
        r#"{"type":"auth","ref":"r","token":5}"#,
        r#"{"type":"auth","ref":"r"}"#,
        r#"{"type":"ack","ref":"r","id":5}"#,
        r#"{"type":"send","ref":"r","data":1,"route":5}"#,
        r#"{"type":"nonsense","ref":"r","id":7}"#,
        r#"{"type":7,"ref":"r"}"#,
        r#"{"ref":"r"}"#,
    ] {
        let fault = ClientMessage::parse(object).unwrap_err();
        assert_eq!(fault.reference.as_deref(), Some(r#""r""#), "{object}");
    }
    // A member that means nothing to this type may hold anything.
    let sent = ClientMessage::parse(r#"{"type":"send","ref":1,"data":1,"id":7,"topic":{"x":1}}"#);
    let Ok(ClientMessage::Request(request)) = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(request.reference.as_deref(), Some("1"));
}

#[test]
fn a_user_stands_in_a_line_as_json_has_it() {
    let user: UserId = r#"a"b\c|ü "#.parse().unwrap();
    let targets = [
        Target::User(user.clone()),
        Target::Users(vec![user.clone(), "42".parse().unwrap()]),
        Target::Connection("a.1/7".parse().unwrap(), Some(user.clone())),
    ];
    for to in targets {
        let body = serde_json::json!({"to": {"all": true}, "except": {"users": [user.as_str()]}, "data": 1});
        let push = PushRequest::parse(body.to_string().as_bytes())
            .unwrap()
            .push;
        let line = push_line(&to, push.except.as_deref(), &push.message, None);
        let Ok(Line::Push(read, _)) = Line::parse(line.as_bytes()) else {
            panic!("{line}");
        };
        assert_eq!((read.to, read.except), (to, push.except), "{line}");
    }
}

#[test]
fn a_user_by_number_is_the_text_of_it() {
    let line = Line::parse(br#"{"to":{"user":42},"data":1}"#);
    let Ok(Line::Push(push, _)) = line else {
        panic!("{line:?}");
    };
    assert_eq!(push.to, Target::User("42".parse().unwrap()));
}

#[test]
fn an_array_is_no_object() {
    for body in [
        r#"[{"user":"42"},1]"#,
        r#"{"to":["42"],"data":1}"#,
        r#"{"to":{"user":"42"},"data":1,"except":[null,null]}"#,
    ] {
        let refused = PushRequest::parse(body.as_bytes());
        let words = refused.expect_err(body).to_string();
        assert!(words.contains("expected an object"), "{body}: {words}");
    }
}

#[test]
fn a_whole_number_is_a_user_however_it_is_written() {
    for (number, user) in [("42", "42"), ("42.0", "42"), ("-7.0", "-7"), ("4e1", "40")] {
        let body = format!(r#"{{"to":{{"user":{number}}},"data":1}}"#);
        let read = PushRequest::parse(body.as_bytes()).expect(number);
        assert_eq!(read.push.to, Target::User(user.parse().unwrap()));
    }
    for number in ["4.5", "1e300"] {
        let body = format!(r#"{{"to":{{"user":{number}}},"data":1}}"#);
        assert!(PushRequest::parse(body.as_bytes()).is_err(), "{number}");
    }
}
