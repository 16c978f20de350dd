//! Patterns of topics: which topics a client may subscribe to by itself.
//!
//! The patterns come from the client's token or from the settings. What must stay true: what a
//! pattern gives to one user by `{user}` it gives to no other, whatever their ids hold.
//! `is_match` is another matcher, without segments: it finds the service of a client's route.

use std::borrow::Cow;
use std::fmt;

use crate::protocol::ids::{Topic, UserId, is_topic_byte};

/// Longest pattern, in bytes: a topic with a few stars.
const MAX_BYTES: usize = 256;
/// Stands for the user's id.
pub(super) const USER: &str = "{user}";
/// Stands for the rest of the topic.
pub(super) const REST: &str = "**";
/// As a whole pattern: every topic.
pub(super) const ANY: &str = "*";

/// The text is no pattern of topics; the message says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern of topics: {what}")]
pub struct BadPattern {
    pattern: String,
    what: &'static str,
}

const BAD_LETTERS: &str = "1 to 256 bytes of A-Z a-z 0-9 . _ : @ = , ; -, * for any text within a \
    segment, ** at the end for the rest, {user} for the user's id";
const REST_INSIDE: &str = "** may only stand at its end; * stands for any text within a segment";
/// Of `{user}-*` the user `a` would get `a-b-1`, which is meant for the user `a-b`.
const USER_BESIDE_STAR: &str = "a segment with {user} must have no *, or it would fit what belongs \
    to other users; put a . or : between the two";

/// A set of patterns. A topic is allowed if one of them fits all of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TopicPatterns(Box<[Box<str>]>);

impl TopicPatterns {
    /// Reads patterns: topics in which `*` stands for any text within one segment, `**` at the
    /// end for the rest, and `{user}` for the user's id as one segment has it
    /// ([`UserId::in_topic`]). Segments are separated by `.` and `:`. A pattern that is only `*`
    /// allows every topic. An empty list allows nothing.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn from_patterns<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadPattern> {
        let read = |pattern: &str| {
            let bad = |what| {
                let pattern = pattern.to_owned();
                Err(BadPattern { pattern, what })
            };
            let letters = pattern.replace(USER, "");
            let is_clean = letters
                .bytes()
                .all(|byte| byte == b'*' || is_topic_byte(byte));
            if !is_clean || !(1..=MAX_BYTES).contains(&pattern.len()) {
                return bad(BAD_LETTERS);
            }
            let body = pattern.strip_suffix(REST).unwrap_or(pattern);
            if body.contains(REST) || (body.len() < pattern.len() && body.ends_with('*')) {
                return bad(REST_INSIDE);
            }
            let mut segments = pattern.split(['.', ':']);
            if segments.any(|one| one.contains(USER) && one.contains('*')) {
                return bad(USER_BESIDE_STAR);
            }
            Ok(pattern.into())
        };
        let patterns = patterns.into_iter().map(read);
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }

    /// Whether this user may subscribe to this topic.
    #[must_use]
    pub fn allows(&self, topic: &Topic, user: &UserId) -> bool {
        let topic = topic.as_str();
        self.0.iter().any(|pattern| {
            let pattern = match pattern.contains(USER) {
                false => Cow::Borrowed(&**pattern),
                // What is put in has neither a star nor a separator.
                true => Cow::Owned(pattern.replace(USER, &user.in_topic())),
            };
            fits(&pattern, topic)
        })
    }

    /// Whether no topic is allowed to any user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has a `*` that is bounded by its segment.
    #[must_use]
    pub fn has_segment_star(&self) -> bool {
        let has_star = |pattern: &str| {
            let body = pattern.strip_suffix(REST).unwrap_or(pattern);
            pattern != ANY && body.contains('*')
        };
        self.0.iter().any(|pattern| has_star(pattern))
    }
}

/// Whether a pattern fits all of a topic.
fn fits(pattern: &str, topic: &str) -> bool {
    if pattern == ANY {
        return true;
    }
    match pattern.strip_suffix(REST) {
        Some(start) => matches_start(start, topic, true),
        None => matches_start(pattern, topic, false),
    }
}

/// Whether a pattern without `**` fits a topic: all of it or, with `and_more`, its beginning.
///
/// The last star takes one byte more whenever what follows it does not fit. Those before it need
/// not be tried again: their shortest text leaves the longest rest. A star that has reached the
/// end of its segment is done.
pub(super) fn matches_start(pattern: &str, topic: &str, and_more: bool) -> bool {
    let (pattern, topic) = (pattern.as_bytes(), topic.as_bytes());
    let (mut at, mut here) = (0, 0);
    // The place after the last star, and where its text ends.
    let mut star = None;
    loop {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, here));
                continue;
            }
            None if and_more || here == topic.len() => return true,
            Some(byte) if topic.get(here) == Some(byte) => {
                at += 1;
                here += 1;
                continue;
            }
            _ => {}
        }
        match star {
            Some((after, end)) if topic.get(end).is_some_and(|byte| !is_separator(*byte)) => {
                star = Some((after, end + 1));
                (at, here) = (after, end + 1);
            }
            _ => return false,
        }
    }
}

/// Whether this byte ends a segment of a topic.
pub(super) const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'.' | b':')
}

impl fmt::Debug for TopicPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Whether a pattern with stars fits all of a text. Each `*` stands for any text, also none.
///
/// The text must begin with the first part and end with the last. Each part between them is
/// matched at its first occurrence, which leaves the longest rest, so no star is tried twice.
pub(crate) fn is_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], topic: &str) -> bool {
        let patterns = TopicPatterns::from_patterns(patterns.iter().copied()).unwrap();
        patterns.allows(&topic.parse().unwrap(), &"42".parse().unwrap())
    }

    #[test]
    fn a_pattern_fits_the_whole_topic_or_not_at_all() {
        for (pattern, good, bad) in [
            (
                "news",
                &["news"][..],
                &["new", "newss", "xnews", "News"][..],
            ),
            ("*", &["a", "a.b:c"], &[]),
            ("**", &["a", "a.b:c"], &[]),
            (
                "chat.*",
                &["chat.1", "chat.a-b", "chat."],
                &["chat", "xchat.1", "chat.a.b", "chat.a:b"],
            ),
            (
                "chat.**",
                &["chat.1", "chat.a.b", "chat.a:b", "chat."],
                &["chat", "xchat.1"],
            ),
            ("*.eu", &["a.eu", ".eu"], &["eu", "a.eu.x", "a.eu.eu"]),
            ("*.*.eu", &["a.eu.eu"], &["a.eu", "a.b.c.eu"]),
            (
                "a*b*c",
                &["abc", "aXbYc", "abbcc", "abcbc"],
                &["ab", "acb", "abcx", "a.bc", "ab:c"],
            ),
            ("a*.b**", &["ax.b", "a.bc.d"], &["ax.c.b", "a.x.b"]),
            (
                "user.{user}.*",
                &["user.42.x"],
                &["user.43.x", "user.4.2x", "user.{", "user.42.x.y"],
            ),
            ("{user}", &["42"], &["4", "422"]),
        ] {
            for topic in good {
                assert!(allows(&[pattern], topic), "{pattern} {topic}");
            }
            for topic in bad.iter().filter(|topic| topic.parse::<Topic>().is_ok()) {
                assert!(!allows(&[pattern], topic), "{pattern} {topic}");
            }
        }
        assert!(!allows(&[], "a"));
        assert!(allows(&["a", "b"], "b"));
    }

    #[test]
    fn an_id_with_a_separator_or_a_star_is_one_segment_and_no_pattern() {
        let allows = |pattern: &str, user: &str, topic: &str| {
            let patterns = TopicPatterns::from_patterns([pattern]).unwrap();
            patterns.allows(&topic.parse().unwrap(), &user.parse().unwrap())
        };
        for (pattern, user, own, foreign) in [
            (
                "user.{user}.*",
                "john",
                "user.john.inbox",
                "user.john.doe.inbox",
            ),
            (
                "user.{user}.*",
                "john.doe",
                "user.john=2Edoe.inbox",
                "user.john.doe",
            ),
            (
                "user.{user}.**",
                "john.doe",
                "user.john=2Edoe.a.b",
                "user.john.doe.inbox",
            ),
            ("user.{user}", "a.inbox", "user.a=2Einbox", "user.a.inbox"),
            ("{user}:*", "a:b", "a=3Ab:c", "a:b"),
            ("user:{user}", "a:b", "user:a=3Ab", "user:a:b"),
            ("user-{user}", "5-7", "user-5-7", "user-5"),
            ("user.{user}", "a@b", "user.a@b", "user.a"),
        ] {
            assert!(allows(pattern, user, own), "{pattern} {user} {own}");
            assert!(
                !allows(pattern, user, foreign),
                "{pattern} {user} {foreign}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            " ",
            "a b",
            "{User}",
            "{user",
            "a/b",
            "ü",
            "a%b",
            "**.a",
            "a**b",
            "a***",
            "{user}*",
            "a.*{user}",
            "a.{user}-*.b",
            "a.{user}**",
            &"x".repeat(257),
        ] {
            assert!(TopicPatterns::from_patterns([bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!allows(&[&pattern], &"a".repeat(200)));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, route, fits) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("aba*aba", "aba", false),
            ("*b*", "abc", true),
            ("*b*", "ac", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("a", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(is_match(pattern, route), fits, "{pattern:?} {route:?}");
        }
    }

    /// All texts over these letters up to this length.
    fn all_texts(letters: &str, most: usize) -> Vec<String> {
        let mut texts = vec![String::new()];
        let mut begun = 0;
        for _ in 0..most {
            let end = texts.len();
            for i in begun..end {
                let longer = letters
                    .chars()
                    .map(|letter| format!("{}{letter}", texts[i]));
                let longer: Vec<String> = longer.collect();
                texts.extend(longer);
            }
            begun = end;
        }
        texts
    }

    #[test]
    fn the_segment_matcher_agrees_with_the_definition() {
        fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', b'*'] => true,
                [b'*', rest @ ..] => {
                    let dot = text.iter().position(|byte| *byte == b'.');
                    let segment = dot.unwrap_or(text.len());
                    (0..=segment).any(|n| by_definition(rest, &text[n..]))
                }
                [byte, rest @ ..] => text.first() == Some(byte) && by_definition(rest, &text[1..]),
            }
        }
        for pattern in all_texts("a.*", 5) {
            if pattern != ANY && TopicPatterns::from_patterns([&*pattern]).is_ok() {
                for text in all_texts("ab.", 4) {
                    let expected = by_definition(pattern.as_bytes(), text.as_bytes());
                    assert_eq!(fits(&pattern, &text), expected, "{pattern:?} {text:?}");
                }
            }
        }
    }

    #[test]
    fn the_matcher_agrees_with_the_definition() {
        fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'*', rest)) => (0..=text.len()).any(|n| by_definition(rest, &text[n..])),
                Some((byte, rest)) => text.first() == Some(byte) && by_definition(rest, &text[1..]),
            }
        }
        for pattern in all_texts("ab*", 5) {
            for text in all_texts("ab", 5) {
                let expected = by_definition(pattern.as_bytes(), text.as_bytes());
                assert_eq!(is_match(&pattern, &text), expected, "{pattern:?} {text:?}");
            }
        }
    }
}
