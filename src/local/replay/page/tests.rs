use super::*;

fn position(n: u64, ms: u64) -> Position {
    let entry = EntryId { ms, seq: 0 };
    Position { n, entry }
}

fn entries(from: u64, to: u64) -> Vec<Entry> {
    let entry = |ms| Entry {
        entry: EntryId { ms, seq: 0 },
        id: None,
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
    let page = Page::new(&Since::After(position(5, 50)), 7, 5, entries(60, 61));
    assert!(page.is_continuous && page.is_last);
    assert_eq!((page.start, page.end), (position(5, 50), position(7, 61)));
    // The last before those that are left.
    let page = Page::new(&Since::After(position(2, 20)), 7, 5, entries(30, 34));
    assert!(page.is_continuous);
    assert_eq!(page.messages.len(), 5);
}

#[test]
fn what_was_thrown_out_cannot_be_recovered() {
    let page = Page::new(&Since::After(position(1, 10)), 7, 5, entries(30, 34));
    assert!(!page.is_continuous);
    assert_eq!((page.start.n, page.end), (2, position(7, 34)));
}

#[test]
fn a_position_in_an_inbox_that_was_lost_fits_nowhere() {
    let page = Page::new(&Since::After(position(1000, 10)), 7, 5, entries(30, 34));
    assert!(!page.is_continuous);
    assert_eq!(page.end, position(7, 34), "and yet all that is there comes");
    let nothing = Page::new(&Since::After(position(1000, 10)), 7, 0, Vec::new());
    assert!(!nothing.is_continuous);
}

#[test]
fn an_entry_that_is_missing_in_the_middle_is_noticed_at_the_end() {
    let page = Page::new(&Since::After(position(4, 40)), 7, 7, entries(60, 61));
    assert!(!page.is_continuous);
    assert_eq!(page.end, position(7, 61));
}

#[test]
fn a_long_inbox_comes_in_pages() {
    let all = PAGE as u64 + 1;
    let page = Page::new(&Since::After(position(0, 0)), all, all, entries(1, all));
    assert!(!page.is_last && page.is_continuous);
    assert_eq!(page.messages.len(), PAGE);
    assert_eq!(page.end, position(PAGE as u64, PAGE as u64));
}

#[test]
fn who_wants_nothing_old_stands_at_the_newest() {
    let page = Page::new(&Since::Now, 7, 5, entries(34, 34));
    assert_eq!(page.end, position(7, 34));
    assert!(page.messages.is_empty() && page.is_last);
}

#[test]
fn a_message_stored_twice_is_given_once() {
    let mut twice = entries(1, 3);
    for entry in &mut twice[..2] {
        entry.id = Some("same".to_owned());
    }
    let page = Page::new(&Since::Beginning, 3, 3, twice);
    assert_eq!(page.messages.len(), 2);
    assert_eq!(page.end, position(3, 3));
    assert!(
        !page.is_continuous,
        "there is nothing to be continuous with"
    );
}

#[test]
fn what_is_no_message_is_passed_over_and_counted() {
    let mut three = entries(1, 3);
    "no JSON".clone_into(&mut three[1].data);
    let page = Page::new(&Since::After(position(0, 0)), 3, 3, three);
    assert_eq!((page.messages.len(), page.unreadable), (2, 1));
    assert_eq!(page.end, position(3, 3));
}
