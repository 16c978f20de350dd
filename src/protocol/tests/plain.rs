//! The usual push is read by hand: everything is answered as if serde had read it.

use super::*;
use crate::protocol::sender::plain_push::plain_push;

/// Texts made of pieces, most of them right.
const TEXTS: usize = 20_000;

/// What a text is made of, the usual first: between tokens, as a user, before the data, as data.
const BLANKS: &[&str] = &["", " ", "\r\n", "\t", "\u{c}", "\u{a0}"];
const USERS: &[&str] = &[
    "a", "user 1", "é", "a\\u0041", "a\\\"b", "", "\u{1}", "\u{7f}",
];
const DATA: &[&str] = &[
    "\"data\"",
    "\"id\":\"m-1\",\"data\"",
    "\"id\":\"\\n\",\"data\"",
    "\"id\":\"\",\"data\"",
    "\"id\":null,\"data\"",
    "\"keep\":false,\"data\"",
    "\"cmd\":\"kick\",\"data\"",
    "\"to\":{\"user\":\"b\"},\"data\"",
    "\"d\"",
];
const VALUES: &[&str] = &[
    "1",
    "{}",
    "[]",
    "null",
    "true",
    "-0.5e+7",
    "01",
    "\"\"",
    "\"a\\\"b\"",
    "\"\\u00e9\"",
    "\"a\nb\"",
    "{\"a\":[{}]}",
    "{\"data\":1}",
    "{\"a\":1,\"a\":2}",
    "[1,]",
    "{]",
    "\"",
    "}",
    "{}}",
    "1,\"data\":2",
    "{},\"keep\":true",
    "{},\"except\":{}",
    "\"\",\"wait\":\"routed\"",
    "1,\"cmd\":\"drain\"",
    "[],\"v\":1",
    "1,\"x\":{\"y\":[1]}",
];

fn assert_no_matter(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    let line = (Line::parse(text), Line::parse_any(text));
    assert_eq!(format!("{:?}", line.0), format!("{:?}", line.1), "{shown}");
    let push = (PushRequest::parse(text), PushRequest::parse_any(text));
    assert_eq!(format!("{:?}", push.0), format!("{:?}", push.1), "{shown}");
}

#[test]
fn the_usual_push_is_read_by_hand() {
    for text in [
        r#"{"to":{"user":"42"},"data":{"a":[1,2,{}],"b":"}"}}"#,
        r#"{"to":{"user":"é ü"},"id":"m-1","data":"text"}"#,
        r#"{"to": {"user": "42"}, "id": "m-1", "data": [null]}"#,
        " {\r\n\t\"to\" : { \"user\" : \"42\" } , \"data\" : -1.5e3 }\r\n ",
        r#"{"to":{"user":"42"},"data":null}"#,
        r#"{"to":{"user":"42"},"data":{"data":1}}"#,
    ] {
        assert!(plain_push(text.as_bytes()).is_some(), "{text}");
        assert_no_matter(text.as_bytes());
    }
}

#[test]
fn what_is_unusual_or_wrong_is_left_to_serde() {
    for text in [
        r#"{"to":{"user":"a\u0041"},"data":1}"#,
        r#"{"to":{"user":"a\\"},"data":1}"#,
        r#"{"to":{"user":""},"data":1}"#,
        "{\"to\":{\"user\":\"a\u{1}\"},\"data\":1}",
        r#"{"to":{"user":"a","users":null},"data":1}"#,
        r#"{"to":{"user":"a"},"id":"","data":1}"#,
        r#"{"to":{"user":"a"},"id":null,"data":1}"#,
        r#"{"to":{"user":"a"},"data":{},"data":{}}"#,
        r#"{"to":{"user":"a"},"data":1,"wait":"written"}"#,
        r#"{"to":{"user":"a"},"data":1}}"#,
        r#"{"to":{"user":"a"},"data":{"a":1}"#,
        r#"{"to":{"user":"a"},"data":}"#,
        r#"{"to":{"user":"a"},"data":01}"#,
        "{\"to\":{\"user\":\"a\"},\"data\":1}\u{c}",
        "{\"to\":{\"user\":\"a\"},\"data\":1\u{b}}",
        "\u{feff}{\"to\":{\"user\":\"a\"},\"data\":1}",
        r#"{"to":{"user":"a"},"data":1} {}"#,
        r#"{"data":1,"to":{"user":"a"}}"#,
        r#"[{"user":"a"},1]"#,
    ] {
        assert!(plain_push(text.as_bytes()).is_none(), "{text}");
        assert_no_matter(text.as_bytes());
    }
    let no_text = b"{\"to\":{\"user\":\"a\"},\"data\":\"\xff\"}";
    assert!(plain_push(no_text).is_none());
    assert_no_matter(no_text);
}

/// One of these, every second time the first.
fn pick<'a>(random: &mut fastrand::Rng, pieces: &[&'a str]) -> &'a str {
    match random.bool() {
        true => pieces[0],
        false => pieces[random.usize(..pieces.len())],
    }
}

/// Pieces in the order of the usual push, now and then one that is none of its own. Then a byte of
/// the text may be changed, taken out or put in, or the text cut off.
#[test]
fn whatever_comes_is_answered_as_by_serde() {
    let mut random = fastrand::Rng::with_seed(13);
    let mut plain = 0;
    for _ in 0..TEXTS {
        let pieces: [(&str, &[&str]); 14] = [
            ("{", &["["]),
            ("\"to\"", &["\"t\\u006f\""]),
            (":", &[""]),
            ("{", &["[", ""]),
            ("\"user\"", &["\"users\"", "\"topic\""]),
            (":", &["="]),
            ("\"", &[""]),
            (pick(&mut random, USERS), &["a"]),
            ("\"", &[""]),
            ("}", &["]", ",\"fd\":null}"]),
            (",", &[""]),
            (pick(&mut random, DATA), &["\"data\""]),
            (":", &[""]),
            (pick(&mut random, VALUES), &["1"]),
        ];
        let mut text = String::new();
        for (usual, others) in pieces {
            if random.u8(..4) == 0 {
                text += BLANKS[random.usize(..4)];
            } else if random.u8(..64) == 0 {
                text += random.choice(BLANKS).unwrap();
            }
            let is_usual = random.u8(..32) > 0;
            text += if is_usual {
                usual
            } else {
                random.choice(others).unwrap()
            };
        }
        text += pick(&mut random, &["}", "} ", "", "}}", "} x", "}\u{c}"]);
        let mut text = text.into_bytes();
        let at = random.usize(..text.len());
        match random.u8(..12) {
            0 => text[at] = random.u8(..),
            1 => _ = text.remove(at),
            2 => text.insert(at, random.u8(..)),
            3 => text.truncate(at),
            _ => {}
        }
        plain += usize::from(plain_push(&text).is_some());
        assert_no_matter(&text);
    }
    assert!(plain > TEXTS / 50, "{plain} of {TEXTS} were read by hand");
}
