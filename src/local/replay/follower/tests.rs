use super::*;
use crate::local::replay::page::{Entry, LogExtent};
use crate::protocol::position::first_number;

fn at(n: u64) -> Position {
    let entry = EntryId { ms: n, seq: 0 };
    Position { n, entry }
}

fn page(end: u64, is_last: bool) -> Page {
    let since = Since::After(at(end - 1));
    let (id, data) = (None, "1".to_owned());
    let entry = at(end).entry;
    let mut page = Page::new(
        &since,
        &LogExtent::of(end, 5),
        vec![Entry {
            entry,
            id,
            event: None,
            from: None,
            data,
        }],
    );
    page.is_last = is_last;
    page
}

fn live(n: u64) -> Follower {
    let follower = Follower::behind(&page(n, true));
    assert_eq!(follower.state, State::Live);
    follower
}

#[test]
fn the_next_one_is_taken_and_no_other() {
    let mut follower = live(5);
    assert_eq!(follower.hear(at(5), true), Verdict::Old);
    assert_eq!(follower.hear(at(6), true), Verdict::Take);
    assert_eq!(follower.hear(at(6), true), Verdict::Old);
    assert_eq!(follower.ask(), None);
    assert_eq!(follower.hear(at(8), true), Verdict::Later);
    assert_eq!(follower.hear(at(7), true), Verdict::Later);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(at(6)))));
    assert_eq!(follower.ask(), None, "one page at a time");
}

#[test]
fn both_messages_are_taken_to_which_two_masters_gave_one_number() {
    let twin = |n: u64, ms: u64| Position {
        n,
        entry: EntryId { ms, seq: 0 },
    };
    // The second may be older or newer by the clocks of the masters.
    for ms in [600, 800] {
        let mut follower = live(5);
        assert_eq!(follower.hear(twin(6, 700), true), Verdict::Take);
        assert_eq!(follower.hear(twin(6, ms), true), Verdict::Take);
        assert_eq!(follower.hear(twin(6, 700.max(ms)), true), Verdict::Old);
        // A line that is published again after a fail-over.
        assert_eq!(follower.hear(twin(6, 700.min(ms)), true), Verdict::Old);
        // By the clock of the master that is left, which may be behind.
        assert_eq!(follower.hear(twin(7, 650), true), Verdict::Take);
        assert_eq!(follower.hear(twin(8, 900), true), Verdict::Take);
    }
}

#[test]
fn what_finds_no_room_comes_with_a_page() {
    let mut follower = live(5);
    assert_eq!(follower.hear(at(6), false), Verdict::Later);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(at(5)))));
    follower.take_page(&page(6, true));
    assert_eq!(follower.hear(at(6), true), Verdict::Old);
    assert_eq!(follower.hear(at(7), true), Verdict::Take);
}

#[test]
fn what_came_while_a_page_was_read_is_read_too() {
    let mut follower = live(5);
    follower.distrust();
    assert!(follower.ask().is_some());
    assert_eq!(follower.hear(at(7), true), Verdict::Later);
    follower.take_page(&page(6, true));
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(at(6)))));
    follower.take_page(&page(7, true));
    assert_eq!(follower.hear(at(8), true), Verdict::Take);
}

#[test]
fn a_second_doubt_while_asking_means_another_look() {
    let mut follower = live(5);
    follower.distrust();
    assert!(follower.ask().is_some());
    follower.distrust();
    follower.take_page(&page(6, true));
    assert!(follower.ask().is_some());
}

/// A message that comes while the second look of a doubt is under way.
#[test]
fn what_comes_while_a_doubt_is_looked_into_is_not_forgotten() {
    let nothing = Page::new(&Since::After(at(5)), &LogExtent::of(5, 5), Vec::new());
    let mut follower = live(5);
    follower.distrust();
    assert!(follower.ask().is_some());
    follower.distrust();
    follower.take_page(&nothing);
    assert!(follower.ask().is_some());
    assert_eq!(follower.hear(at(6), true), Verdict::Later);
    follower.take_page(&nothing);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(at(5)))));
}

#[test]
fn what_was_kept_behind_an_empty_page_is_looked_for_again() {
    let nothing = Page::new(&Since::After(at(5)), &LogExtent::of(5, 5), Vec::new());
    let mut follower = live(5);
    follower.distrust();
    assert!(follower.ask().is_some());
    assert_eq!(follower.hear(at(6), true), Verdict::Later);
    follower.take_page(&nothing);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(at(5)))));
    follower.take_page(&page(6, true));
    assert_eq!(follower.hear(at(7), true), Verdict::Take);
}

#[test]
fn the_first_message_of_who_came_without_redis_is_not_taken_for_old() {
    let mut follower = Follower::unread(Since::Now);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::Now)));
    assert_eq!(follower.hear(at(6), true), Verdict::Later);
    // Read after it.
    follower.take_page(&Page::new(&Since::Now, &LogExtent::of(6, 5), Vec::new()));
    assert_eq!(
        follower.ask(),
        Some(PageAsk::first(Since::After(at(6).before())))
    );
    follower.take_page(&page(6, true));
    assert_eq!(follower.hear(at(6), true), Verdict::Old);
    assert_eq!(follower.hear(at(7), true), Verdict::Take);
}

#[test]
fn a_first_message_proves_nothing_where_redis_may_have_lost_all() {
    let nothing = Unwritten {
        epoch: 9,
        seconds: 1,
    };
    let nothing = nothing.position();
    let live = || {
        let mut follower = Follower::unread(Since::After(nothing));
        follower.state = State::Live;
        follower
    };
    let first = Position {
        n: first_number() + 1,
        entry: at(1_000_000).entry,
    };
    let second = Position {
        n: first.n + 1,
        entry: at(1_010_000).entry,
    };
    let mut follower = live();
    assert!(!follower.doubt(1_000_000));
    assert_eq!(follower.hear(first, true), Verdict::Later);
    assert_eq!(follower.ask(), Some(PageAsk::first(Since::After(nothing))));

    let mut follower = live();
    assert_eq!(follower.hear(first, true), Verdict::Take);
    assert_eq!(follower.hear(second, true), Verdict::Take);
    assert!(follower.doubt(1_000_000 + RECENT_MS - 1));
    assert!(!follower.doubt(1_000_000 + RECENT_MS - 1), "it was told");

    let mut follower = live();
    assert_eq!(follower.hear(first, true), Verdict::Take);
    assert_eq!(follower.hear(second, true), Verdict::Take);
    assert!(!follower.doubt(1_000_000 + RECENT_MS + 1), "long ago");

    let mut follower = Follower::behind(&page(5, true));
    assert_eq!(follower.hear(at(6), true), Verdict::Take);
    assert!(!follower.doubt(0), "its number fits into no other inbox");
    assert_eq!(follower.hear(at(7), true), Verdict::Take);
}

/// Redis evicts a log of which nothing has been read, and goes on: nothing else is told.
#[test]
fn a_doubt_while_asking_where_nothing_has_been_read_means_another_look() {
    let nothing = Unwritten::UNKNOWN.position();
    let extent = LogExtent {
        newest: None,
        ..LogExtent::of(0, 0)
    };
    let page = Page::new(&Since::After(nothing), &extent, Vec::new());
    let mut follower = Follower::behind(&page);
    follower.distrust();
    assert!(follower.ask().is_some());
    assert!(!follower.doubt(1_000_000));
    follower.take_page(&page);
    assert!(follower.ask().is_some(), "that page was read before");
}

#[test]
fn a_late_line_of_an_earlier_subscription_is_old_to_the_next_one() {
    let again = || Follower::asking_again(PageAsk::first(Since::Now), live(5).reached());
    let mut follower = again();
    assert_eq!(follower.hear(at(3), true), Verdict::Old);
    assert_eq!(follower.hear(at(5), true), Verdict::Old);
    assert_eq!(follower.reached(), Some(at(5)), "and so to one after that");
    assert!(follower.take_page(&Page::new(&Since::Now, &LogExtent::of(5, 5), Vec::new())));

    // Kept since, before the first page was read or after it.
    let mut follower = again();
    assert_eq!(follower.hear(at(7), true), Verdict::Later);
    assert!(!follower.take_page(&Page::new(&Since::Now, &LogExtent::of(7, 5), Vec::new())));
    assert_eq!(
        follower.ask(),
        Some(PageAsk::first(Since::After(at(7).before())))
    );

    // A log that began after Redis lost everything, and a clock that went back.
    let other = Position {
        n: at(1).n.wrapping_sub(1 << 40),
        ..at(4)
    };
    assert_eq!(again().hear(other, true), Verdict::Later);
    let twin = Position { n: 5, ..at(4) };
    assert_eq!(again().hear(twin, true), Verdict::Later);
}

/// A first message that Redis lost with its log, and whose line comes again after that: its sender
/// had not reached all connections.
#[test]
fn a_first_message_that_was_lost_with_its_log_is_not_taken_twice() {
    let nothing = Unwritten {
        epoch: 9,
        seconds: 1,
    };
    let emptied = |since: &Since| {
        let extent = LogExtent {
            newest: None,
            unwritten: nothing,
            ..LogExtent::of(0, 0)
        };
        Page::new(since, &extent, Vec::new())
    };
    let first = |ms: u64| Position {
        n: first_number() + 1,
        ..at(ms)
    };
    let (lost, had) = (first(600), at(700));
    let again = |before: Position| {
        let mut follower = live(5);
        follower.since = Since::After(before);
        follower.distrust();
        assert!(follower.ask().is_some());
        assert!(follower.take_page(&emptied(&Since::After(before))));
        assert_eq!(follower.state, State::Live);
        follower
    };
    // It was the last one that the client had.
    assert_eq!(again(lost).hear(lost, true), Verdict::Old);
    // It was not, or another log has begun by a clock that went back: only a page tells.
    let mut follower = again(had);
    assert_eq!(follower.hear(lost, true), Verdict::Later);
    let ask = follower.ask().expect("it is looked for");
    assert!(follower.take_page(&emptied(&ask.since)));
    assert_eq!(follower.state, State::Live, "it is not there");
    assert_eq!(follower.hear(first(800), true), Verdict::Take);

    // The same of an earlier subscription of the connection.
    for (before, verdict) in [(lost, Verdict::Old), (had, Verdict::Later)] {
        let ask = PageAsk::first(Since::Now);
        let mut follower = Follower::asking_again(ask, Some(before));
        assert!(follower.take_page(&emptied(&Since::Now)));
        assert_eq!(follower.hear(lost, true), verdict);
    }
}

#[test]
fn a_gap_before_several_pages_is_told_once() {
    let told = |first_is_continuous: bool| {
        let mut first = page(6, false);
        first.is_continuous = first_is_continuous;
        let mut last = page(7, true);
        (last.is_continuous, last.is_short) = (false, true);
        let mut follower = live(5);
        follower.distrust();
        assert!(follower.ask().is_some());
        assert!(!follower.take_told(&first));
        follower.take_page(&first);
        assert!(follower.ask().is_some());
        let is_told = follower.take_told(&last);
        follower.take_page(&last);
        assert!(!follower.take_told(&last), "the next gap is another one");
        is_told
    };
    assert!(told(false), "it was not counted how much was missing");
    assert!(!told(true), "something is missing within the pages");
}

#[test]
fn what_is_not_in_the_inbox_is_not_looked_for_for_ever() {
    let mut follower = live(5);
    assert_eq!(follower.hear(at(9), true), Verdict::Later);
    assert!(follower.ask().is_some());
    follower.take_page(&Page::new(
        &Since::After(at(5)),
        &LogExtent::of(5, 5),
        Vec::new(),
    ));
    assert_eq!(follower.ask(), None);
    assert_eq!(follower.state, State::Live);
}
