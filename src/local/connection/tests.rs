use std::sync::{Arc, LazyLock};

use super::*;
use crate::local::budget::Budget;
use crate::local::connection::subscriptions::{Asker, NotSubscribed};
use crate::local::dirty_rows::DirtyRows;
use crate::local::replay::follower::Verdict;
use crate::local::replay::page::{LogExtent, Page};
use crate::local::topics::Topics;
use crate::protocol::client::websocket;
use crate::protocol::ids::Subject;
use crate::protocol::position::Since;
use crate::protocol::topic_pattern::TopicPatterns;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    queue_bytes: 4096,
    memory: Budget::new(usize::MAX, 1),
    uring: true,
    limits: Limits {
        message_bytes: 1000,
        fragments: 8,
    },
    client_rate: 3,
    send_rate: 0,
    ping: 25,
    beat: 15,
    pong: 8,
    write: 10,
});

fn open() -> Connection {
    let mut connection = Connection::reserve(Fd(1), "a".parse().unwrap(), Dialect::V1, 0);
    connection.state = State::Open;
    connection.heartbeat.begin(25);
    connection
}

fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[test]
fn a_silent_client_is_pinged_and_then_given_up() {
    let mut connection = open();
    assert_eq!(connection.due(), 25);
    assert_eq!(connection.look(25, &SETTINGS), Next::Stay);
    assert_eq!(connection.queue.only(), Some(&websocket::ping()[..]));
    assert!(connection.wrote(2, false, 25, &SETTINGS));
    assert_eq!(connection.due(), 34);
    assert_eq!(
        connection.look(34, &SETTINGS),
        Next::End(CloseReason::Heartbeat)
    );
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut connection = open();
    connection.look(25, &SETTINGS);
    connection.wrote(2, false, 25, &SETTINGS);
    connection.hear(&mut client_frame(0x8A, b""), &SETTINGS, 26, || ());
    assert_eq!(connection.look(34, &SETTINGS), Next::Stay);
    assert_eq!(connection.due(), 50);
}

#[test]
fn a_client_that_takes_nothing_is_slow() {
    let mut connection = open();
    connection.wrote(10, true, 1, &SETTINGS);
    connection.wrote(0, true, 5, &SETTINGS);
    assert_eq!(connection.due(), 12);
    connection.wrote(1, true, 6, &SETTINGS);
    assert_eq!(connection.due(), 17);
    assert_eq!(connection.look(17, &SETTINGS), Next::End(CloseReason::Slow));
}

#[test]
fn too_many_messages_in_a_second_end_it() {
    let mut connection = open();
    for _ in 0..3 {
        let next = connection.hear(&mut client_frame(0x89, b""), &SETTINGS, 7, || ());
        assert_eq!(next, Next::Stay);
    }
    assert_eq!(
        connection.hear(&mut client_frame(0x89, b""), &SETTINGS, 8, || ()),
        Next::Stay
    );
    for expected in [Next::Stay, Next::Stay, Next::End(CloseReason::TooFast)] {
        assert_eq!(
            connection.hear(&mut client_frame(0x89, b""), &SETTINGS, 8, || ()),
            expected
        );
    }
}

#[test]
fn a_socket_that_never_comes_is_given_up() {
    let mut connection = Connection::reserve(Fd(1), "a".parse().unwrap(), Dialect::Plain, 3);
    assert_eq!(connection.look(17, &SETTINGS), Next::Stay);
    assert_eq!(
        connection.look(18, &SETTINGS),
        Next::End(CloseReason::NeverAttached)
    );
}

#[test]
fn goodbye_is_answered_with_its_own_code_and_what_follows_is_ignored() {
    let mut connection = open();
    let mut input = client_frame(0x88, &3000u16.to_be_bytes());
    input.extend(client_frame(0x81, b"late"));
    assert_eq!(
        connection.hear(&mut input, &SETTINGS, 1, || ()),
        Next::End(CloseReason::ByClient)
    );
    connection.end(CloseReason::ByClient, 1);
    assert!(connection.has_parted(), "its socket need not wait for it");
    assert_eq!(
        connection.queue.only(),
        Some(&websocket::close(3000, "")[..])
    );
    assert_eq!(
        connection.hear(&mut client_frame(0x81, b"late"), &SETTINGS, 1, || ()),
        Next::Stay
    );
}

#[test]
fn a_client_subscribes_within_its_grants_and_a_sender_without() {
    let config = crate::config::Config::from_pairs([("PUSH_MAX_TOPICS", "2")]).unwrap();
    let topics = Topics::new(1, DirtyRows::ignored().into(), &config);
    let [news, chat, more]: [Topic; 3] = ["news", "chat.a", "more"].map(|one| one.parse().unwrap());
    let mut connection = open();
    assert_eq!(
        connection.subscribe(&news, Asker::Client, &topics),
        Ok(true)
    );
    assert_eq!(
        connection.subscribe(&news, Asker::Client, &topics),
        Ok(false)
    );
    let grants = TopicPatterns::from_patterns(["chat.{user}"]).unwrap();
    connection.grant(Some(Arc::new(grants)));
    let refused = connection.subscribe(&more, Asker::Client, &topics);
    assert_eq!(refused, Err(NotSubscribed::Forbidden));
    assert_eq!(
        connection.subscribe(&chat, Asker::Client, &topics),
        Ok(true)
    );
    let refused = connection.subscribe(&more, Asker::Server, &topics);
    assert_eq!(refused, Err(NotSubscribed::TooMany(2)));
    assert!(connection.unsubscribe(&chat) && !connection.unsubscribe(&chat));
    assert_eq!(
        connection.subscribe(&more, Asker::Server, &topics),
        Ok(true)
    );
    assert_eq!(connection.take_topics(), [news, more]);
    assert!(connection.extras.subscriptions().is_none());
    connection.end(CloseReason::Drain, 1);
    let refused = connection.subscribe(&chat, Asker::Server, &topics);
    assert_eq!(refused, Err(NotSubscribed::Gone));
}

#[test]
fn one_log_after_the_other_is_read_once_the_queue_is_empty() {
    let config = crate::config::Config::from_pairs([]).unwrap();
    let topics = Topics::new(1, DirtyRows::ignored().into(), &config);
    let mut connection = open();
    let names: [Topic; 2] = ["a", "b"].map(|one| one.parse().unwrap());
    let page = |since| Page::new(&since, &LogExtent::of(5, 0), Vec::new());
    for topic in &names {
        connection.subscribe(topic, Asker::Client, &topics).unwrap();
        let ask = connection.follow(topic, Since::Now).unwrap();
        let subject = Subject::Topic(topic.clone());
        assert!(
            connection
                .take_page(&subject, ask, &page(Since::Now))
                .is_some()
        );
        // No second one was asked for.
        assert!(
            connection
                .take_page(&subject, ask, &page(Since::Now))
                .is_none()
        );
    }
    assert!(connection.asks().is_empty());
    connection.distrust_all();
    connection.queue.push(websocket::ping());
    assert!(
        connection.asks().is_empty(),
        "the client has something to take"
    );
    connection.queue.advance(usize::MAX, drop);
    let asked = connection.asks();
    let [(first, ask)] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert!(connection.asks().is_empty(), "one at a time");
    connection.take_page(first, *ask, &page(ask.since));
    let asked = connection.asks();
    assert!(
        matches!(&asked[..], [(second, _)] if second != first),
        "{asked:?}"
    );
    // The one that is read ends, and with it what the others would wait for.
    let Subject::Topic(topic) = &asked[0].0 else {
        panic!("{asked:?}");
    };
    connection.unsubscribe(topic);
    connection.distrust_all();
    assert_eq!(connection.asks()[0].0, *first);
}

#[test]
fn a_page_for_a_subscription_that_has_ended_is_not_for_the_next() {
    let config = crate::config::Config::from_pairs([]).unwrap();
    let topics = Topics::new(1, DirtyRows::ignored().into(), &config);
    let mut connection = open();
    let topic: Topic = "a".parse().unwrap();
    let page = Page::new(&Since::Now, &LogExtent::of(5, 0), Vec::new());
    let subject = Subject::Topic(topic.clone());
    let subscribe = |connection: &mut Connection| {
        connection
            .subscribe(&topic, Asker::Client, &topics)
            .unwrap();
        connection.follow(&topic, Since::Now).unwrap()
    };
    let first = subscribe(&mut connection);
    // It could not be read in time, and there is nothing else to remember.
    assert!(connection.unsubscribe(&topic));
    let second = subscribe(&mut connection);
    assert!(connection.take_page(&subject, first, &page).is_none());
    // As one that names another place from which to go on.
    let third = connection.follow(&topic, Since::Now).unwrap();
    assert!(connection.take_page(&subject, second, &page).is_none());
    assert!(connection.take_page(&subject, third, &page).is_some());
}

#[test]
fn a_connection_remembers_where_it_was_in_the_last_logs_that_it_left() {
    let config = crate::config::Config::from_pairs([]).unwrap();
    let topics = Topics::new(1, DirtyRows::ignored().into(), &config);
    let mut connection = open();
    let names: Vec<Topic> = (0..=32).map(|i| format!("t{i}").parse().unwrap()).collect();
    let mut now = Page::new(&Since::Now, &LogExtent::of(5, 0), Vec::new());
    now.end.entry.ms = 5;
    for topic in &names {
        connection.subscribe(topic, Asker::Client, &topics).unwrap();
        let ask = connection.follow(topic, Since::Now).unwrap();
        let subject = Subject::Topic(topic.clone());
        assert!(connection.take_page(&subject, ask, &now).is_some());
    }
    assert!(names.iter().all(|topic| connection.unsubscribe(topic)));
    for (topic, verdict) in [(&names[0], Verdict::Later), (&names[32], Verdict::Old)] {
        connection.subscribe(topic, Asker::Client, &topics).unwrap();
        assert!(connection.follow(topic, Since::Now).is_some());
        let subscriptions = connection.extras.subscriptions_mut().unwrap();
        assert_eq!(subscriptions.hear(topic, now.end, true), Some(verdict));
    }
    // Nothing is remembered of topics whose log it did not follow.
    let mut connection = open();
    connection
        .subscribe(&names[0], Asker::Client, &topics)
        .unwrap();
    assert!(connection.unsubscribe(&names[0]));
    assert!(connection.extras.subscriptions().is_none());
}

#[test]
fn an_idle_connection_stays_small() {
    // A node has one for each client: what few of them need goes into a box.
    let size = std::mem::size_of::<Connection>();
    assert!(size <= 232, "{size} bytes");
}
