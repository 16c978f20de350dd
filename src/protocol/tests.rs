//! Envelopes and requests: what is accepted, what is refused and in which words.

use std::time::Duration;

use super::*;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{NodeId, Topic, UserId};

fn request(body: &str) -> Result<PushRequest, String> {
    PushRequest::parse(body.as_bytes()).map_err(|fault| fault.to_string())
}

fn text(bytes: &bytes::Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_refused(body: &str, words: &str) {
    let fault = request(body).expect_err("is refused");
    assert!(
        fault.contains(words),
        "{body}\n  says:     {fault}\n  expected: {words}"
    );
}

#[test]
fn the_shortest_envelope_is_whole() {
    let Line::Push(push, None) = Line::parse(br#"{"to":{"user":"42"},"data":{"a":1}}"#).unwrap()
    else {
        panic!("a push")
    };
    assert_eq!(push.to, Target::User("42".parse().unwrap()));
    assert_eq!(&push.message.frame(Dialect::Plain)[2..], br#"{"a":1}"#);
    assert_eq!(
        &push.message.frame(Dialect::V1)[2..],
        br#"{"type":"message","data":{"a":1}}"#
    );
}

#[test]
fn data_passes_through_as_the_bytes_it_came_in() {
    let odd = r#"{"b" : 1.0e5, "a":[ "\u00e9", null ],"a":2}"#;
    let request = request(&format!(r#"{{"data":{odd},"to":{{"all":true}}}}"#)).unwrap();
    assert_eq!(
        &request.push.message.frame(Dialect::Plain)[2..],
        odd.as_bytes()
    );
}

#[test]
fn a_payload_over_several_lines_becomes_one_line() {
    let body = "{\"to\":{\"user\":\"a\"},\"data\":{\r\n \"x\": \"a\\nb\"\n}}";
    let push = request(body).unwrap().push;
    let line = push_line(&push.to, None, &push.message, None);
    assert_eq!(line, r#"{"to":{"user":"a"},"data":{   "x": "a\nb" }}"#);
}

#[test]
fn a_push_reads_back_as_it_was_written() {
    let body = r#"{"to":{"users":["a","b","a"]},"id":"m\"1","policy":"latest:k",
        "except":{"users":["c"],"fds":["n.1/7"]},"data":[1],"wait":"acked","timeout_ms":50}"#;
    let PushRequest {
        push,
        keep,
        wait,
        timeout,
    } = request(body).unwrap();
    assert!(!keep);
    assert_eq!((wait, timeout), (Wait::Acked, Duration::from_millis(50)));
    let reply = ReceiptRequest {
        node: "me.1".parse().unwrap(),
        reference: "9".into(),
        wait,
        timeout_ms: 50,
    };
    let line = push_line(
        &push.to,
        push.except.as_deref(),
        &push.message,
        Some(&reply),
    );
    let Line::Push(read, Some(read_reply)) = Line::parse(line.as_bytes()).unwrap() else {
        panic!("a push with a reply: {line}")
    };
    assert_eq!(
        read.to,
        Target::Users(vec!["a".parse().unwrap(), "b".parse().unwrap()])
    );
    assert_eq!((read.except, read_reply), (push.except, reply));
    assert_eq!(
        (read.message.id(), read.message.policy()),
        (Some("m\"1"), &Policy::Latest("k".into()))
    );
}

#[test]
fn commands_read_back_as_they_were_written() {
    let receipt = DeliveryReport {
        reference: "r".into(),
        node: "n.1".parse().unwrap(),
        status: Status::Stale,
        connections: 3,
    };
    let line = receipt_line(&receipt);
    assert!(
        matches!(Line::parse(line.as_bytes()), Ok(Line::Receipt(read)) if read == receipt),
        "{line}"
    );
    assert_eq!(as_probe(probe_line(5).as_bytes()), Some(5));
    assert_eq!(as_probe(br#"{"to":{"all":true},"data":1}"#), None);
    assert!(matches!(
        Line::parse(probe_line(5).as_bytes()),
        Ok(Line::Probe(5))
    ));
    assert!(matches!(
        Line::parse(drain_line().as_bytes()),
        Ok(Line::Drain)
    ));
    let to = Target::Connection("n.1/7".parse().unwrap(), Some("u".parse().unwrap()));
    let line = kick_line(&to, CloseReason::Kicked, None);
    assert!(
        matches!(Line::parse(line.as_bytes()), Ok(Line::Kick(read, CloseReason::Kicked, None)) if read == to),
        "{line}"
    );
    let topic: Topic = "news".parse().unwrap();
    let line = subscribe_line(&to, &topic, true, None);
    assert!(
        matches!(Line::parse(line.as_bytes()), Ok(Line::Subscribe(read, in_topic, None))
            if read == to && in_topic == topic),
        "{line}"
    );
    let line = subscribe_line(&to, &topic, false, None);
    assert!(
        matches!(Line::parse(line.as_bytes()), Ok(Line::Unsubscribe(..))),
        "{line}"
    );
    let header = header_line(&"n.1".parse().unwrap(), 8);
    assert!(matches!(
        Line::parse(header.trim().as_bytes()),
        Ok(Line::Header { seq: 8, .. })
    ));
}

#[test]
fn faults_of_a_request_are_named() {
    assert_refused(
        r#"{"to":{"user":"a"},"data":1,"keeep":true}"#,
        "unknown field `keeep`",
    );
    assert_refused(r#"{"to":{"user":"a"}}"#, "missing field `data`");
    assert_refused(r#"{"data":1}"#, "missing field `to`");
    assert_refused(r#"{"to":{},"data":1}"#, "must have one of");
    assert_refused(r#"{"to":{"user":"a","all":true},"data":1}"#, "only one of");
    assert_refused(r#"{"to":{"all":false},"data":1}"#, "to.all must be true");
    assert_refused(
        r#"{"to":{"user":7.5},"data":1}"#,
        "invalid type: floating point `7.5`, expected a string",
    );
    assert_refused(
        r#"{"to":{"user":"a\u0000b"},"data":1}"#,
        "user id must be 1 to 256",
    );
    assert_refused(r#"{"to":{"fd":"7"},"data":1}"#, "connection id must be");
    assert_refused(
        r#"{"to":{"users":[]},"data":1}"#,
        "to.users must not be empty",
    );
    assert_refused(
        r#"{"to":{"user":"a"},"data":1,"wait":"soon"}"#,
        "unknown variant `soon`",
    );
    assert_refused(
        r#"{"to":{"user":"a"},"data":1,"policy":"latest:"}"#,
        "policy must be",
    );
    assert_refused(
        r#"{"to":{"user":"a"},"data":1,"timeout_ms":0}"#,
        "timeout_ms must be",
    );
    assert_refused(r#"{"to":{"user":"a"},"data":1,"id":"a\nb"}"#, "id must be");
    for bad in ["", "a\\nid: bye", &"e".repeat(201)] {
        let body = format!(r#"{{"to":{{"user":"a"}},"data":1,"event":"{bad}"}}"#);
        assert_refused(&body, "event must be");
        assert!(Line::parse(body.as_bytes()).is_err(), "{bad:?}");
    }
    assert_refused(
        r#"{"to":{"user":"a"},"to":{"user":"b"},"data":1}"#,
        "duplicate field `to`",
    );
    assert_refused(r#"{"to":{"user":"a"},"data":NaN}"#, "expected value");
    let many: Vec<_> = (0..=MAX_USERS).map(|i| format!("\"{i}\"")).collect();
    assert_refused(
        &format!(r#"{{"to":{{"users":[{}]}},"data":1}}"#, many.join(",")),
        "1000 at most",
    );
}

#[test]
fn depth_costs_no_stack() {
    let deep = format!(
        r#"{{"to":{{"user":"a"}},"data":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(request(&deep).is_ok());
}

#[test]
fn a_newer_nodes_fields_do_not_disturb_on_the_bus() {
    assert!(Line::parse(br#"{"to":{"user":"a"},"data":1,"colour":"red"}"#).is_ok());
    assert!(Line::parse(br#"{"v":2,"from":"n.1","seq":1}"#).is_err());
}

#[test]
fn any_bytes_on_the_bus_are_survived() {
    fastrand::seed(2);
    let whole = br#"{"to":{"user":"42"},"data":{"a":[1,2]},"reply":{"node":"n.1","ref":"x"}}"#;
    for _ in 0..20_000 {
        let mut line = whole.to_vec();
        for _ in 0..fastrand::usize(1..4) {
            let at = fastrand::usize(0..line.len());
            line[at] = fastrand::u8(..);
        }
        line.truncate(fastrand::usize(0..=line.len()));
        let _ = Line::parse(&line);
        let _ = PushRequest::parse(&line);
    }
}

#[test]
fn questions_and_answers_read_back_as_they_were_written() {
    let reply = ReceiptRequest {
        node: "me.1".parse().unwrap(),
        reference: "a\"b".into(),
        wait: Wait::Written,
        timeout_ms: 50,
    };
    for question in [
        Question::Stats,
        Question::Kick(Target::User("42".parse().unwrap())),
        Question::Drain,
    ] {
        let line = ask_line(&question, &reply);
        let Ok(Line::Ask(Ok(read), to)) = Line::parse(line.as_bytes()) else {
            panic!("a question: {line}")
        };
        assert_eq!((read, to), (question, reply.clone()), "{line}");
    }
    let unknown = r#"{"cmd":"ask","what":"weather","reply":{"node":"me.1","ref":"1"}}"#;
    assert!(
        matches!(Line::parse(unknown.as_bytes()), Ok(Line::Ask(Err(_), _))),
        "its asker is known, so it gets an answer"
    );
    let answer = NodeAnswer {
        reference: "a\"b".into(),
        node: "n.1".parse().unwrap(),
        body: r#"{"a":1}"#.into(),
    };
    let line = answer_line(&answer);
    assert!(
        matches!(Line::parse(line.as_bytes()), Ok(Line::Answer(read)) if read == answer),
        "{line}"
    );
    let text = r#"{"cmd":"answer","ref":"1","node":"n.1","body":[1]}"#;
    assert!(Line::parse(text.as_bytes()).is_err(), "not an object");
}

#[test]
fn answers_are_collected_under_their_nodes() {
    let node = |text: &str| text.parse::<NodeId>().unwrap();
    let answers = [
        (node("a.1"), r#"{"connections":1}"#.into()),
        (node("b.1"), " { } ".into()),
    ];
    assert_eq!(
        collected_body(&answers, &["c".to_owned()]),
        r#"{"answers":[{"node":"a.1","connections":1},{"node":"b.1"}],"missing":["c"]}"#
    );
}

#[test]
fn a_tail_is_a_header_for_those_who_do_not_know_it() {
    let node: NodeId = "eu-1.9f86d081884c".parse().unwrap();
    let tail = tail_payload(&node, 7);
    let Ok(Line::Header { from, seq, tail }) = Line::parse(tail.as_bytes()) else {
        panic!("{tail}");
    };
    assert_eq!((from, seq, tail), (node.clone(), 7, true));
    let Ok(Line::Header { tail, .. }) = Line::parse(header_line(&node, 7).as_bytes()) else {
        panic!("no header");
    };
    assert!(!tail);
}

#[test]
fn an_announcement_says_which_rows_may_be_missing() {
    let node: NodeId = "eu-1.9f86d081884c".parse().unwrap();
    for why in [None, Some("Redis is out of memory".to_owned())] {
        let said = Announcement {
            from: node.clone(),
            n: 3,
            unwritten: why,
        };
        let line = announcement_payload(&said);
        assert!(
            matches!(Line::parse(line.as_bytes()), Ok(Line::Announcement(read)) if read == said),
            "{line}"
        );
    }
    // As nodes of 0.1.0 say that they are there.
    let tail = tail_payload(&node, 0);
    assert!(
        matches!(Line::parse(tail.as_bytes()), Ok(Line::Announcement(read)) if read.n == 0),
        "{tail}"
    );
}

#[test]
fn events_are_json() {
    let node: NodeId = "eu-1.9f86d081884c".parse().unwrap();
    let user: UserId = "a:b@c.d_e-f".parse().unwrap();
    let event = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let lost = event(&node_lost_event(&node));
    assert_eq!(
        (&lost["type"], &lost["node"]),
        (&"node-lost".into(), &node.as_str().into())
    );
    let left = event(&leave_event(&user, &node));
    assert_eq!(
        (&left["type"], &left["user"]),
        (&"leave".into(), &user.as_str().into())
    );
    assert_eq!(left["reason"], "node-lost");
}

#[test]
fn a_fault_for_the_log_quotes_nothing_of_the_line() {
    let shown = |line: &str| Line::parse(line.as_bytes()).unwrap_err().unquoted();
    for (line, words) in [
        (r#""secret""#, "invalid type: string at line 1 column 8"),
        ("5", "invalid type: integer at line 1 column 1"),
        ("secret", "expected value at line 1 column 1"),
        (
            r#"{"to":{"secret":1},"data":1}"#,
            "unknown field at line 1 column 15",
        ),
        (
            r#"{"cmd":"receipt","ref":"1","node":"a.1","status":"at line 7 secret"}"#,
            "unknown variant at line 1 column 67",
        ),
        (
            r#"{"to":{"user":"secret\u0000"},"data":1}"#,
            "user id must be 1 to 256 bytes of UTF-8 without control characters at line 1 column 28",
        ),
        (r#"{"to":{"user":"42"}}"#, "missing field `data`"),
        (r#"{"cmd":"secret"}"#, "unknown cmd"),
    ] {
        assert_eq!(shown(line), words, "{line}");
    }
}

fn stream(is_chunked: bool) -> Dialect {
    Dialect::Sse(EventStream {
        is_chunked,
        has_envelopes: false,
    })
}

#[test]
fn a_message_is_one_event_or_one_line_whatever_is_in_it() {
    let body = "{\"to\":{\"all\":true},\"id\":\"m\",\"data\":{\n\"a\":\r\n\"b\\nc\"}}";
    let message = PushRequest::parse(body.as_bytes()).unwrap().push.message;
    let data = r#"{ "a":  "b\nc"}"#;
    assert_eq!(
        text(&message.frame(stream(false))),
        format!("data: {data}\n\n")
    );
    assert_eq!(
        text(&message.frame(stream(true))),
        format!("17\r\ndata: {data}\n\n\r\n")
    );
    let line = format!("{{\"type\":\"message\",\"id\":\"m\",\"data\":{data}}}\n");
    assert_eq!(text(&message.frame(Dialect::Lines)), line);
    let kept = message.kept_at("7.1-2".parse().unwrap());
    let event = format!("id: 7.1-2\ndata: {data}\n\n");
    assert_eq!(text(&kept.frame(stream(false))), event);
}

#[test]
fn what_nodes_say_is_read_as_it_was_written() {
    let (topic, node): (Topic, NodeId) = (
        "room".parse().unwrap(),
        "eu-1.9f86d081884c".parse().unwrap(),
    );
    let names = |users: &[&str]| users.iter().map(|user| user.parse().unwrap()).collect();
    let watch = |begin, end| {
        PresenceLine::Watch(Watch {
            topic: topic.clone(),
            node: node.clone(),
            begin,
            end,
        })
    };
    let told = |begin, end, here, gone| {
        PresenceLine::Told(Told {
            topic: topic.clone(),
            node: node.clone(),
            begin,
            end,
            here: names(here),
            info: Infos::new(),
            gone: names(gone),
        })
    };
    let info = Infos::from([(
        "a".parse().unwrap(),
        serde_json::from_str(r#"{"name":"A \"a\""}"#).unwrap(),
    )]);
    let shown = PresenceLine::Told(Told {
        topic: topic.clone(),
        node: node.clone(),
        begin: false,
        end: false,
        here: names(&["a", "b"]),
        info,
        gone: vec![],
    });
    for line in [
        watch(false, false),
        watch(true, false),
        watch(false, true),
        told(true, true, &[], &[]),
        told(false, true, &["a", "b:c@d"], &["e"]),
        shown,
    ] {
        let text = line.to_line();
        let Ok(Line::Presence(read)) = Line::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        assert_eq!(read, line, "{text}");
    }
    for bad in [
        r#"{"cmd":"watch","topic":"room"}"#,
        r#"{"cmd":"presence","node":"eu-1.9f86d081884c"}"#,
        r#"{"cmd":"presence","topic":"room","node":"eu-1.9f86d081884c","here":["a\u0000b"]}"#,
    ] {
        assert!(Line::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

mod absent;
mod client;
mod connect_head;
mod plain;
mod push_head;
mod wire;
