use super::*;
use crate::protocol::position::{ERASURE, first_number};

fn extent(newest: u64, length: u64) -> LogExtent {
    LogExtent {
        unwritten: at(100),
        lasts: 50,
        ..LogExtent::of(newest, length)
    }
}

/// Where a reader of nothing stands at this moment.
fn at(seconds: u32) -> Unwritten {
    Unwritten { epoch: 9, seconds }
}

fn position(n: u64, ms: u64) -> Position {
    let entry = EntryId { ms, seq: 0 };
    Position { n, entry }
}

fn entries(from: u64, to: u64) -> Vec<Entry> {
    let entry = |ms| Entry {
        entry: EntryId { ms, seq: 0 },
        id: None,
        event: None,
        from: None,
        data: format!("{ms}"),
    };
    (from..=to).map(entry).collect()
}

#[test]
fn a_token_is_read_as_it_was_written_and_nothing_else_is() {
    let text = "281474976710655.1732137000000-3";
    assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
    for bad in [
        "", "0", "1", "1.2", "1.2-", "+1.2-3", "1.2-3-4", "1.2-x", "x", "1.2-3 ",
    ] {
        assert!(bad.parse::<Position>().is_err(), "{bad:?}");
    }
    assert_eq!("0".parse(), Ok(Since::Beginning));
    assert!("".parse::<Since>().is_err());
}

#[test]
fn nothing_is_missing_behind_a_position_that_is_still_there() {
    // 7 messages were stored, 5 are left: 3 to 7.
    let page = Page::new(
        &Since::After(position(5, 50)),
        &extent(7, 5),
        entries(60, 61),
    );
    assert!(page.is_continuous && page.is_last);
    assert_eq!((page.start, page.end), (position(5, 50), position(7, 61)));
    // The last before those that are left.
    let page = Page::new(
        &Since::After(position(2, 20)),
        &extent(7, 5),
        entries(30, 34),
    );
    assert!(page.is_continuous);
    assert_eq!(page.messages.len(), 5);
}

#[test]
fn what_was_thrown_out_cannot_be_recovered() {
    let page = Page::new(
        &Since::After(position(1, 10)),
        &extent(7, 5),
        entries(30, 34),
    );
    assert!(!page.is_continuous);
    assert_eq!((page.start.n, page.end), (2, position(7, 34)));
}

#[test]
fn a_position_in_an_inbox_that_was_lost_fits_nowhere() {
    let page = Page::new(
        &Since::After(position(1000, 10)),
        &extent(7, 5),
        entries(30, 34),
    );
    assert!(!page.is_continuous);
    assert_eq!(page.end, position(7, 34), "and yet all that is there comes");
    let nothing = Page::new(&Since::After(position(1000, 10)), &extent(7, 0), Vec::new());
    assert!(!nothing.is_continuous);
}

#[test]
fn an_entry_that_is_missing_in_the_middle_is_noticed_at_the_end() {
    let page = Page::new(
        &Since::After(position(4, 40)),
        &extent(7, 7),
        entries(60, 61),
    );
    assert!(!page.is_continuous && page.is_short);
    assert_eq!(page.end, position(7, 61));
}

#[test]
fn a_long_inbox_comes_in_pages() {
    let all = PAGE as u64 + 1;
    let page = Page::new(
        &Since::After(position(0, 0)),
        &extent(all, all),
        entries(1, all),
    );
    assert!(!page.is_last && page.is_continuous);
    assert_eq!(page.messages.len(), PAGE);
    assert_eq!(page.end, position(PAGE as u64, PAGE as u64));
}

#[test]
fn who_wants_nothing_old_stands_at_the_newest() {
    let page = Page::new(&Since::Now, &extent(7, 5), entries(34, 34));
    assert_eq!(page.end, position(7, 34));
    assert!(page.messages.is_empty() && page.is_last);
}

#[test]
fn a_message_stored_twice_is_given_once() {
    let mut twice = entries(1, 3);
    for entry in &mut twice[..2] {
        entry.id = Some("same".to_owned());
    }
    let page = Page::new(&Since::Beginning, &extent(3, 3), twice);
    assert_eq!(page.messages.len(), 2);
    assert_eq!(page.end, position(3, 3));
    assert!(
        !page.is_continuous,
        "there is nothing to be continuous with"
    );
}

#[test]
fn an_id_that_comes_again_after_a_minute_is_another_message() {
    let mut all = entries(1, 4);
    for (entry, ms) in all.iter_mut().zip([1_000, 2_000, 62_000, 63_000]) {
        entry.entry.ms = ms;
        entry.id = Some("same".to_owned());
    }
    let page = Page::new(&Since::After(position(0, 0)), &extent(4, 4), all);
    let given = page.messages.iter().map(|message| message.position());
    let expected = [position(1, 1_000), position(3, 62_000)].map(Some);
    assert_eq!(given.collect::<Vec<_>>(), expected);
    assert_eq!(page.end, position(4, 63_000));
    assert!(page.is_continuous);
}

#[test]
fn what_is_no_message_is_passed_over_and_counted() {
    let mut three = entries(1, 3);
    "no JSON".clone_into(&mut three[1].data);
    let page = Page::new(&Since::After(position(0, 0)), &extent(3, 3), three);
    assert_eq!((page.messages.len(), page.unreadable), (2, 1));
    assert_eq!(page.end, position(3, 3));
}

/// The number of the first message of an inbox, the `count`th of which is the newest.
fn after_first(count: u64) -> u64 {
    first_number() + count
}

#[test]
fn who_found_nothing_has_missed_nothing_while_all_is_there_that_was_ever_kept() {
    let since = Since::After(at(70).position());
    let whole = Page::new(&since, &extent(after_first(2), 2), entries(1, 2));
    assert!(whole.is_continuous);
    assert_eq!(whole.messages.len(), 2);
    let trimmed = Page::new(&since, &extent(after_first(3), 2), entries(2, 3));
    assert!(!trimmed.is_continuous);
    let nothing = LogExtent {
        newest: None,
        ..extent(0, 0)
    };
    let page = Page::new(&since, &nothing, Vec::new());
    assert!(page.is_continuous);
    assert_eq!(page.end, at(100).position());
    // So long ago that all may have been forgotten since, or after everything was lost.
    for then in [
        at(49),
        at(101),
        Unwritten {
            epoch: 8,
            seconds: 70,
        },
        Unwritten::UNKNOWN,
    ] {
        let since = Since::After(then.position());
        assert!(
            !Page::new(&since, &nothing, Vec::new()).is_continuous,
            "{then:?}"
        );
        let page = Page::new(&since, &extent(after_first(2), 2), entries(1, 2));
        assert!(!page.is_continuous, "{then:?}");
        assert_eq!(page.messages.len(), 2);
    }
    // A position among messages proves nothing once their number is lost.
    let since = Since::After(position(after_first(1), 1));
    assert!(!Page::new(&since, &nothing, Vec::new()).is_continuous);
}

#[test]
fn the_first_message_ever_follows_nothing() {
    let first = position(after_first(1), 1);
    assert!(first.follows(&at(7).position()));
    assert!(!position(after_first(2), 1).follows(&at(7).position()));
    let text = at(7).position().to_string();
    assert_eq!(text.parse::<Position>().unwrap(), at(7).position());
}

#[test]
fn a_number_that_another_message_has_proves_nothing() {
    let since = Since::After(position(7, 70));
    let twin = LogExtent {
        holds: false,
        ..extent(7, 5)
    };
    assert!(!Page::new(&since, &twin, Vec::new()).is_continuous);
    // Its own message was thrown out, as far as is known: it was the last before those there.
    let since = Since::After(position(2, 20));
    assert!(Page::new(&since, &twin, entries(30, 34)).is_continuous);
}

#[test]
fn a_reader_who_finds_nothing_any_more_stays_where_it_was_by_its_entry() {
    let here = position(first_number() + 3, 30);
    let nothing = LogExtent {
        newest: None,
        ..extent(0, 0)
    };
    let page = Page::new(&Since::After(here), &nothing, Vec::new());
    assert!(!page.is_continuous);
    assert_eq!(page.end.entry, here.entry);
    assert!(Unwritten::of(&page.end).is_some());
    // What is kept there from now on is its next.
    let first = position(first_number() + 1, 40);
    assert!(first.follows(&page.end));
}

#[test]
fn the_last_are_given_in_one_page_and_proven_by_what_the_store_knows() {
    let all = 3 * PAGE as u64;
    let last = |wanted: u64, length: u64, erased: Option<u64>| {
        let extent = LogExtent {
            erased: erased.map(|ms| EntryId { ms, seq: 0 }),
            ..extent(all, length)
        };
        let given = wanted.min(length);
        let read = (wanted + 1).min(length);
        let page = Page::new(
            &Since::Last(wanted as u16),
            &extent,
            entries(all - read + 1, all),
        );
        assert_eq!(page.messages.len() as u64, given);
        assert_eq!((page.start.n, page.end), (all - given, position(all, all)));
        // It is a message's own where there is one.
        assert_eq!(page.start.entry.ms, all - given);
        assert_eq!(page.start.entry.seq == 0, read > given);
        assert!(page.is_last);
        page.is_continuous
    };
    // 50 are there, the others were thrown out.
    assert!(last(50, 50, Some(0)) && last(2, 50, Some(0)));
    assert!(!last(51, 50, Some(0)), "fewer than are wanted, and not all");
    assert!(last(2, 50, Some(all - 2)), "erased before them");
    assert!(!last(2, 50, Some(all - 1)), "or since it was read");
    assert!(!last(2, 50, None), "the store does not know");
}

#[test]
fn an_erased_message_is_missed_by_those_alone_who_have_not_had_it() {
    // 5 messages, of which the third was erased: the numbers go on from a higher one.
    let newest = 5 + ERASURE;
    let after = |n: u64, erased: Option<u64>| {
        let extent = LogExtent {
            erased: erased.map(|ms| EntryId { ms, seq: 0 }),
            holds: n != 3,
            ..extent(newest, 4)
        };
        let left = entries(n + 1, 5).into_iter();
        let left = left.filter(|one| one.entry.ms != 3).collect();
        let page = Page::new(&Since::After(position(n, n)), &extent, left);
        assert_eq!(page.end, position(newest, 5));
        page.is_continuous
    };
    for (n, proven) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
        assert_eq!(after(n, Some(3)), proven, "{n}");
        assert!(
            !after(n, None) && !after(n, Some(0)),
            "{n}: it is not known which"
        );
    }
    // The next one follows for a reader that has had it.
    assert!(position(newest + 1, 6).follows(&position(5, 5)));
    assert!(!position(newest + 1, 6).follows(&position(4, 4)));
    assert!(!position(5, 5).follows(&position(newest, 5)));
}
