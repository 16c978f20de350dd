//! The exact bytes of every object, line and event that a node writes: others read them.

use std::time::Duration;

use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, NodeId, Topic, UserId};
use crate::protocol::position::Position;
use crate::protocol::{
    self, Call, CallStatus, Called, DeliveryReport, Infos, NodeAnswer, NodeMembers, PresenceLine,
    PushRequest, Question, ReceiptRequest, Status, Target, Told, Wait, Watch,
};

fn node() -> NodeId {
    "eu-1.9f86d081884c".parse().unwrap()
}

fn connection() -> ConnectionId {
    "eu-1.9f86d081884c/7".parse().unwrap()
}

fn user() -> UserId {
    "a:b@c.d_e-f".parse().unwrap()
}

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Of those named `shown`.
fn infos(names: &[&str]) -> Infos {
    let shown = users(names).into_iter();
    let shown = shown.filter(|user| user.as_str() == "shown");
    shown
        .map(|user| (user, serde_json::from_str(r#"{"name":"S"}"#).unwrap()))
        .collect()
}

fn topic() -> Topic {
    "room".parse().unwrap()
}

fn position() -> Position {
    "5.17-0".parse().unwrap()
}

fn reply() -> ReceiptRequest {
    ReceiptRequest {
        node: node(),
        reference: "r\"1".into(),
        wait: Wait::Acked,
        timeout_ms: 50,
    }
}

fn call(body: &str) -> Call {
    Call::parse(body.as_bytes()).unwrap()
}

#[track_caller]
fn assert_all<S: AsRef<str>>(pairs: impl IntoIterator<Item = (S, &'static str)>) {
    for (written, expected) in pairs {
        assert_eq!(written.as_ref(), expected);
    }
}

#[test]
fn objects_about_the_connection() {
    let (id, user) = (connection(), user());
    let topics = [topic(), "b".parse().unwrap()];
    let ms = Duration::from_millis;
    assert_all([
        (
            protocol::ready_object(&id, &user, &[], None, None, None),
            r#"{"type":"ready","node":"eu-1.9f86d081884c","fd":7,"user":"a:b@c.d_e-f"}"#,
        ),
        (
            protocol::ready_object(&id, &user, &topics, Some(position()), Some(false), None),
            r#"{"type":"ready","node":"eu-1.9f86d081884c","fd":7,"user":"a:b@c.d_e-f","topics":["room","b"],"resume":"5.17-0","recovered":false}"#,
        ),
        (
            protocol::expiring_object(ms(1500)),
            r#"{"type":"expiring","in_ms":1500}"#,
        ),
        (
            protocol::bye_object(CloseReason::Kicked, None),
            r#"{"type":"bye","code":4001,"reason":"kicked"}"#,
        ),
        (
            protocol::bye_object(CloseReason::Gone, Some(ms(250))),
            r#"{"type":"bye","code":1006,"reason":"connection lost","retry_ms":250}"#,
        ),
        (protocol::RESYNC.to_owned(), r#"{"type":"resync"}"#),
        (
            protocol::resync_object(&topic()),
            r#"{"type":"resync","topic":"room"}"#,
        ),
        (
            protocol::DEGRADED.to_owned(),
            r#"{"type":"degraded","reason":"backplane unavailable"}"#,
        ),
        (protocol::PONG.to_owned(), r#"{"type":"pong"}"#),
    ]);
}

#[test]
fn objects_that_answer_a_client() {
    let topic = topic();
    let subscribed = |resume, recovered, degraded| {
        protocol::subscribed_fields(&topic, resume, recovered, degraded)
    };
    assert_all([
        (protocol::reply_object(None, ""), r#"{"type":"reply"}"#),
        (
            protocol::reply_object(Some(r#""a\"""#), protocol::ACCEPTED),
            r#"{"type":"reply","ref":"a\"","status":"accepted"}"#,
        ),
        (
            subscribed(None, None, false),
            r#""topic":"room","status":"subscribed""#,
        ),
        (
            subscribed(Some(position()), Some(true), true),
            r#""topic":"room","status":"subscribed","resume":"5.17-0","recovered":true,"degraded":true"#,
        ),
        (
            protocol::unsubscribed_fields(&topic),
            r#""topic":"room","status":"unsubscribed""#,
        ),
        (
            protocol::enrolled_object(&topic, true),
            r#"{"type":"subscribed","topic":"room"}"#,
        ),
        (
            protocol::enrolled_object(&topic, false),
            r#"{"type":"unsubscribed","topic":"room"}"#,
        ),
        (
            protocol::error_object(None, "busy", "a \"b\"\n\u{7f}é/"),
            "{\"type\":\"error\",\"code\":\"busy\",\"message\":\"a \\\"b\\\"\\n\u{7f}é/\"}",
        ),
        (
            protocol::error_object(Some("-1.50e3"), "busy", ""),
            r#"{"type":"error","ref":-1.50e3,"code":"busy","message":""}"#,
        ),
        (
            protocol::later_object(Some("7"), "busy", "later", Duration::from_secs(1)),
            r#"{"type":"error","ref":7,"code":"busy","message":"later","retry_ms":1000}"#,
        ),
        (
            protocol::call_object("12", &call(r#"{"to":{"user":"a"},"data":{"b" : [1]}}"#)),
            r#"{"type":"call","ref":"12","data":{"b" : [1]}}"#,
        ),
        (
            protocol::call_object("12", &call(r#"{"to":{"user":"a"},"id":"\"i","data":null}"#)),
            r#"{"type":"call","ref":"12","id":"\"i","data":null}"#,
        ),
    ]);
}

#[test]
fn objects_about_presence() {
    let topic = topic();
    let shown = users(&["a", "shown"]);
    assert_all([
        (
            protocol::presence_members_object(&topic, &[], &Infos::new(), false),
            r#"{"type":"presence","topic":"room","members":[]}"#,
        ),
        (
            protocol::presence_members_object(&topic, &users(&["a", "b"]), &Infos::new(), true),
            r#"{"type":"presence","topic":"room","members":["a","b"],"more":true}"#,
        ),
        (
            protocol::presence_members_object(&topic, &shown, &infos(&["shown"]), false),
            r#"{"type":"presence","topic":"room","members":["a",{"user":"shown","info":{"name":"S"}}]}"#,
        ),
        (
            protocol::presence_change_object(&topic, &shown, &infos(&["shown"]), &[]),
            r#"{"type":"presence","topic":"room","join":["a",{"user":"shown","info":{"name":"S"}}]}"#,
        ),
        (
            protocol::presence_change_object(
                &topic,
                &users(&["a", "b"]),
                &Infos::new(),
                &users(&["c"]),
            ),
            r#"{"type":"presence","topic":"room","join":["a","b"],"leave":["c"]}"#,
        ),
        (
            protocol::presence_change_object(&topic, &[], &Infos::new(), &users(&["c"])),
            r#"{"type":"presence","topic":"room","leave":["c"]}"#,
        ),
        (
            protocol::presence_lost_object(&topic),
            r#"{"type":"presence","topic":"room","status":"lost"}"#,
        ),
    ]);
}

#[test]
fn events() {
    let (id, node, user, topic) = (connection(), node(), user(), topic());
    assert_all([
        (
            protocol::node_lost_event(&node),
            r#"{"type":"node-lost","node":"eu-1.9f86d081884c"}"#,
        ),
        (
            protocol::leave_event(&user, &node),
            r#"{"type":"leave","user":"a:b@c.d_e-f","node":"eu-1.9f86d081884c","reason":"node-lost"}"#,
        ),
        (
            protocol::connect_event(&id, &user, "ws", None),
            r#"{"type":"connect","user":"a:b@c.d_e-f","node":"eu-1.9f86d081884c","fd":7,"transport":"ws","device":null}"#,
        ),
        (
            protocol::connect_event(&id, &user, "sse", Some("a \"pad\"")),
            r#"{"type":"connect","user":"a:b@c.d_e-f","node":"eu-1.9f86d081884c","fd":7,"transport":"sse","device":"a \"pad\""}"#,
        ),
        (
            protocol::disconnect_event(&id, &user, "tcp", Some("tv"), "slow", None),
            r#"{"type":"disconnect","user":"a:b@c.d_e-f","node":"eu-1.9f86d081884c","fd":7,"transport":"tcp","device":"tv","reason":"slow"}"#,
        ),
        (
            protocol::topic_event("unsubscribe", &id, &user, &topic),
            r#"{"type":"unsubscribe","user":"a:b@c.d_e-f","node":"eu-1.9f86d081884c","fd":7,"topic":"room"}"#,
        ),
    ]);
}

#[test]
fn questions_and_answers() {
    let ask = |question| protocol::ask_line(&question, &reply());
    let trace = |id: Option<&str>| Question::Trace {
        user: user(),
        id: id.map(Into::into),
    };
    let body =
        r#"{"to":{"fd":"eu-1.9f86d081884c/7","user":"a"},"id":"i","timeout_ms":70,"data":[1, 2]}"#;
    let answer = NodeAnswer {
        reference: "r\"1".into(),
        node: node(),
        body: r#"{"a" : 1}"#.into(),
    };
    assert_all([
        (
            ask(Question::Stats),
            r#"{"cmd":"ask","what":"stats","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50}}"#,
        ),
        (
            ask(Question::Kick(Target::Users(users(&["a", "b"])))),
            r#"{"cmd":"ask","what":"kick","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50},"args":{"to":{"users":["a","b"]}}}"#,
        ),
        (
            ask(Question::Call(call(body))),
            r#"{"cmd":"ask","what":"call","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50},"args":{"to":{"fd":"eu-1.9f86d081884c/7","user":"a"},"id":"i","timeout_ms":70,"data":[1, 2]}}"#,
        ),
        (
            ask(trace(None)),
            r#"{"cmd":"ask","what":"trace","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50},"args":{"user":"a:b@c.d_e-f","id":null}}"#,
        ),
        (
            ask(trace(Some("\"i"))),
            r#"{"cmd":"ask","what":"trace","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50},"args":{"user":"a:b@c.d_e-f","id":"\"i"}}"#,
        ),
        (
            ask(Question::Members(topic())),
            r#"{"cmd":"ask","what":"members","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","timeout_ms":50},"args":{"topic":"room"}}"#,
        ),
        (
            protocol::answer_line(&answer),
            r#"{"cmd":"answer","ref":"r\"1","node":"eu-1.9f86d081884c","body":{"a" : 1}}"#,
        ),
        (
            protocol::error_body("busy", "a \"b\""),
            r#"{"error":{"code":"busy","message":"a \"b\""}}"#,
        ),
        (protocol::kicked_body(3), r#"{"connections":3}"#),
        (
            protocol::DRAINING_BODY.to_owned(),
            r#"{"state":"draining"}"#,
        ),
        (
            NodeMembers::new(vec![(user(), 2)], Infos::new()).to_body(),
            r#"{"users":[["a:b@c.d_e-f",2]]}"#,
        ),
        (
            Called::unanswered(CallStatus::Offline).to_body(),
            r#"{"status":"offline"}"#,
        ),
    ]);
}

#[test]
fn lines_about_presence() {
    let watch = |begin, end| {
        PresenceLine::Watch(Watch {
            topic: topic(),
            node: node(),
            begin,
            end,
        })
    };
    let told = |begin, end, here: &[&str], gone: &[&str]| {
        PresenceLine::Told(Told {
            topic: topic(),
            node: node(),
            begin,
            end,
            here: users(here),
            info: infos(here),
            gone: users(gone),
        })
    };
    assert_all([
        (
            watch(true, false).to_line(),
            r#"{"cmd":"watch","topic":"room","node":"eu-1.9f86d081884c","begin":true}"#,
        ),
        (
            watch(false, true).to_line(),
            r#"{"cmd":"watch","topic":"room","node":"eu-1.9f86d081884c","end":true}"#,
        ),
        (
            told(true, true, &["a", "b"], &[]).to_line(),
            r#"{"cmd":"presence","topic":"room","node":"eu-1.9f86d081884c","begin":true,"end":true,"here":["a","b"]}"#,
        ),
        (
            told(false, false, &["a", "shown"], &[]).to_line(),
            r#"{"cmd":"presence","topic":"room","node":"eu-1.9f86d081884c","here":["a","shown"],"info":{"shown":{"name":"S"}}}"#,
        ),
        (
            told(false, false, &[], &["c"]).to_line(),
            r#"{"cmd":"presence","topic":"room","node":"eu-1.9f86d081884c","gone":["c"]}"#,
        ),
    ]);
}

#[test]
fn commands() {
    let user = Target::User(user());
    let receipt = DeliveryReport {
        reference: "r\"1".into(),
        node: node(),
        status: Status::Written,
        connections: 2,
    };
    let session = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_all([
        (
            protocol::header_line(&node(), 8),
            "{\"v\":1,\"from\":\"eu-1.9f86d081884c\",\"seq\":8}",
        ),
        (
            protocol::tail_payload(&node(), 8),
            r#"{"v":1,"from":"eu-1.9f86d081884c","seq":8,"tail":true}"#,
        ),
        (
            protocol::kick_line(&user, CloseReason::Kicked, None),
            r#"{"cmd":"kick","to":{"user":"a:b@c.d_e-f"}}"#,
        ),
        (
            protocol::kick_line(&Target::All, CloseReason::Banned, Some(&reply())),
            r#"{"cmd":"kick","reason":"banned","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","wait":"acked","timeout_ms":50},"to":{"all":true}}"#,
        ),
        (
            protocol::subscribe_line(&user, &topic(), true, None),
            r#"{"cmd":"subscribe","topic":"room","to":{"user":"a:b@c.d_e-f"}}"#,
        ),
        (
            protocol::subscribe_line(
                &Target::Connection(connection(), None),
                &topic(),
                false,
                Some(&reply()),
            ),
            r#"{"cmd":"unsubscribe","topic":"room","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","wait":"acked","timeout_ms":50},"to":{"fd":"eu-1.9f86d081884c/7"}}"#,
        ),
        (
            protocol::look_line(&Target::Topics(vec![topic()])),
            r#"{"keep":true,"to":{"topics":["room"]}}"#,
        ),
        (
            protocol::line_but(r#"{"to":{"all":true}}"#, &[node()]),
            r#"{"but":["eu-1.9f86d081884c"],"to":{"all":true}}"#,
        ),
        (
            protocol::revoke_line(session.parse().unwrap()),
            r#"{"cmd":"revoke","session":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#,
        ),
        (protocol::drain_line(), r#"{"cmd":"drain"}"#),
        (protocol::probe_line(5), r#"{"cmd":"probe","n":5}"#),
        (
            protocol::receipt_line(&receipt),
            r#"{"cmd":"receipt","ref":"r\"1","node":"eu-1.9f86d081884c","status":"written","connections":2}"#,
        ),
    ]);
}

#[test]
fn pushes() {
    let line = |body: &str, position: Option<Position>| {
        let push = PushRequest::parse(body.as_bytes()).unwrap().push;
        let message = match position {
            Some(position) => push.message.kept_at(position),
            None => push.message.in_topic(&topic()),
        };
        protocol::push_line(&push.to, push.except.as_deref(), &message, Some(&reply()))
    };
    assert_all([
        (
            line(
                r#"{"to":{"user":"a"},"id":"\"i","policy":"latest:k\"","except":{"users":["b"]},"data":"x"}"#,
                Some(position()),
            ),
            r#"{"to":{"user":"a"},"id":"\"i","except":{"users":["b"],"fds":[]},"policy":"latest:k\"","keep":true,"seq_id":"5.17-0","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","wait":"acked","timeout_ms":50},"data":"x"}"#,
        ),
        (
            line(
                r#"{"to":{"topic":"room"},"policy":"drop","data":{ "x":1}}"#,
                None,
            ),
            r#"{"to":{"topic":"room"},"policy":"drop","reply":{"node":"eu-1.9f86d081884c","ref":"r\"1","wait":"acked","timeout_ms":50},"data":{ "x":1}}"#,
        ),
    ]);
    let body = r#"{"to":{"fd":"eu-1.9f86d081884c/7"},"ref":"a","error":"no"}"#;
    let push = PushRequest::parse_reply(body.as_bytes()).unwrap().push;
    assert_eq!(
        protocol::push_line(&push.to, None, &push.message, None),
        r#"{"to":{"fd":"eu-1.9f86d081884c/7"},"cmd":"reply","ref":"a","error":"no"}"#
    );
    assert_eq!(
        &push.message.frame(protocol::Dialect::V1)[2..],
        br#"{"type":"reply","ref":"a","status":"failed","error":"no"}"#
    );
}
