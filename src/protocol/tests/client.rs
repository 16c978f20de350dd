//! What clients say, and what they are told.

use super::*;

#[test]
fn what_a_client_may_say() {
    assert_eq!(
        ClientMessage::parse(r#"{"type":"ping"}"#),
        Ok(ClientMessage::Ping)
    );
    let ack = ClientMessage::parse(r#"{"type":"ack","id":"m"}"#);
    assert_eq!(ack, Ok(ClientMessage::Ack("m".into())));
    let pong = ClientMessage::parse(r#"{"type":"pong"}"#);
    assert_eq!(pong, Ok(ClientMessage::Pong));
    let code = |text: &str| ClientMessage::parse(text).unwrap_err().code;
    assert_eq!(code("hello"), "bad_message");
    assert_eq!(code(r#"{"type":"fly"}"#), "unknown_type");
    for bad in [
        r#"{"type":"subscribe"}"#,
        r#"{"type":"subscribe","topic":"a b"}"#,
        r#"{"type":"subscribe","topic":"a","since":"x"}"#,
        r#"{"type":"unsubscribe","topic":""}"#,
        r#"{"type":"subscribe","topic":"a","presence":1}"#,
    ] {
        assert_eq!(code(bad), "bad_message", "{bad}");
    }
    let request = ClientMessage::parse(r#"{"type":"subscribe","topic":"a","ref":1,"since":"0"}"#);
    let expected = Request {
        reference: Some("1".into()),
        what: RequestKind::Subscribe {
            topic: "a".parse().unwrap(),
            since: Some(crate::protocol::position::Since::Beginning),
            watches: false,
        },
    };
    assert_eq!(request, Ok(ClientMessage::Request(expected)));
    let auth = ClientMessage::parse(r#"{"type":"auth","ref":1,"token":"a.b.c"}"#);
    let what = RequestKind::Auth(crate::protocol::secret::Secret::new("a.b.c".to_owned()));
    let reference = Some("1".into());
    let request = Request { reference, what };
    assert!(
        !format!("{request:?}").contains("a.b.c"),
        "not to be logged"
    );
    assert_eq!(auth, Ok(ClientMessage::Request(request)));
    assert_eq!(code(r#"{"type":"auth","ref":1}"#), "bad_message");
}

#[test]
fn a_client_may_name_many_topics_at_once() {
    let parse = |text: &str| match ClientMessage::parse(text) {
        Ok(ClientMessage::Request(request)) => Ok(request.what),
        Ok(other) => panic!("{other:?}"),
        Err(fault) => Err((fault.code, fault.message)),
    };
    let text = r#"{"type":"subscribe","presence":true,"ref":1,"topics":["a",
        {"topic":"b","since":"0","presence":false},"x y",{"topic":"c","since":"z"},
        {"topic":"d","last":50},{"topic":"e","last":101}]}"#;
    let Ok(RequestKind::SubscribeAll(wanted)) = parse(text) else {
        panic!("{text}")
    };
    let good = |name: &str, since, watches| WantedTopic {
        topic: name.parse().unwrap(),
        since,
        watches,
    };
    let all = crate::protocol::position::Since::Beginning;
    assert_eq!(wanted[0], Ok(good("a", None, true)));
    assert_eq!(wanted[1], Ok(good("b", Some(all), false)));
    let last = crate::protocol::position::Since::Last(50);
    assert_eq!(wanted[4], Ok(good("d", Some(last), true)));
    for (at, name) in [(2, "x y"), (3, "c"), (5, "e")] {
        assert_eq!(&*wanted[at].as_ref().unwrap_err().topic, name);
    }
    let names = |count: usize| vec![r#""a""#; count].join(",");
    let text = format!(r#"{{"type":"unsubscribe","topics":[{}]}}"#, names(256));
    assert!(matches!(parse(&text), Ok(RequestKind::UnsubscribeAll(all)) if all.len() == 256));
    for bad in [
        &*names(257),
        "",
        "7",
        "null",
        "{}",
        r#"["a"]"#,
        r#"{"topic":7}"#,
        r#"{"topic":"a","topic":"b"}"#,
    ] {
        let text = format!(r#"{{"type":"subscribe","topics":[{bad}]}}"#);
        assert_eq!(parse(&text).unwrap_err().0, "bad_message", "{bad}");
    }
    for bad in [
        r#""topic":"a""#,
        r#""since":"0""#,
        r#""last":1"#,
        r#""presence":7"#,
    ] {
        let text = format!(r#"{{"type":"subscribe","topics":["a"],{bad}}}"#);
        assert_eq!(parse(&text).unwrap_err().0, "bad_message", "{bad}");
    }
    let entries = [
        refused_fields("x\"", "forbidden", "no"),
        "\"topic\":\"a\"".to_owned(),
    ];
    assert_eq!(
        topics_fields(&entries),
        r#""topics":[{"topic":"x\"","status":"refused","error":{"code":"forbidden","message":"no"}},{"topic":"a"}]"#
    );
}

fn stream(has_envelopes: bool) -> Dialect {
    Dialect::Sse(EventStream {
        is_chunked: false,
        has_envelopes,
    })
}

#[test]
fn a_message_has_the_name_of_its_event_in_every_dialect_that_has_room_for_it() {
    let named = |name: &str| {
        let body = format!(r#"{{"to":{{"topic":"t"}},"event":"{name}","data":1}}"#);
        PushRequest::parse(body.as_bytes()).unwrap().push.message
    };
    let message = named("order.paid").kept_at("7.1-2".parse().unwrap());
    let head = r#"{"type":"message","event":"order.paid","topic":"t","resume":"7.1-2","data":1}"#;
    assert_eq!(&message.frame(Dialect::Plain)[2..], b"1");
    assert_eq!(text(&message.frame(Dialect::V1).slice(2..)), head);
    assert_eq!(text(&message.frame(Dialect::Lines)), format!("{head}\n"));
    assert_eq!(
        text(&message.frame(stream(false))),
        "event: order.paid\ndata: 1\n\n"
    );
    // The name is in the object, so that one listener hears all.
    let whole = format!("data: {head}\n\n");
    assert_eq!(text(&message.frame(stream(true))), whole);
    // Events of ours cannot be imitated.
    for ours in ["bye", "ready", "message"] {
        assert_eq!(text(&named(ours).frame(stream(false))), "data: 1\n\n");
    }
    let to = Target::Topic("t".parse().unwrap());
    let line = push_line(&to, None, &message, None);
    let Ok(Line::Push(push, _)) = Line::parse(line.as_bytes()) else {
        panic!("{line}");
    };
    assert_eq!(push.message.event_name(), Some("order.paid"));
}
