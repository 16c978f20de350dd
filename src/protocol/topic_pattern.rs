//! Patterns of topics: which topics a client may subscribe to by itself.
//!
//! The patterns come from the client's token or from the settings. Owns the one wildcard matcher
//! of the program: `is_match` also finds the service of a client's route.

use std::fmt;

use crate::protocol::ids::{Topic, UserId, is_name_byte};

/// Longest pattern, in bytes: a topic with a few stars.
const MAX_BYTES: usize = 256;
/// Stands for the user's id.
const USER: &str = "{user}";

/// The text is no pattern of topics; the message says what one is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pattern of topics: A-Z a-z 0-9 . _ : @ -, * for any run of these, {{user}} for the user's id"
)]
pub struct BadPattern(String);

/// A set of patterns. A topic is allowed if one of them fits all of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TopicPatterns(Box<[Box<str>]>);

impl TopicPatterns {
    /// Reads patterns: topics in which `*` stands for any run of bytes and `{user}` for the
    /// user's id. An empty list allows nothing.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn from_patterns<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadPattern> {
        let read = |pattern: &str| {
            let rest = pattern.replace(USER, "");
            let is_clean = rest.bytes().all(|byte| byte == b'*' || is_name_byte(byte));
            if is_clean && (1..=MAX_BYTES).contains(&pattern.len()) {
                Ok(pattern.into())
            } else {
                Err(BadPattern(pattern.to_owned()))
            }
        };
        let patterns = patterns.into_iter().map(read);
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }

    /// Whether this user may subscribe to this topic.
    #[must_use]
    pub fn allows(&self, topic: &Topic, user: &UserId) -> bool {
        let topic = topic.as_str();
        // No user id has a star or a brace, so what is put in cannot be taken for a pattern.
        self.0.iter().any(|pattern| match pattern.contains(USER) {
            false => is_match(pattern, topic),
            true => is_match(&pattern.replace(USER, user.as_str()), topic),
        })
    }
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
            (
                "chat.*",
                &["chat.1", "chat.a.b", "chat."],
                &["chat", "xchat.1"],
            ),
            ("*.eu", &["a.eu", "a.eu.eu", ".eu"], &["eu", "a.eu.x"]),
            (
                "a*b*c",
                &["abc", "aXbYc", "abbcc", "abcbc"],
                &["ab", "acb", "abcx"],
            ),
            (
                "user.{user}.*",
                &["user.42.x"],
                &["user.43.x", "user.4.2x", "user.{"],
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
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            " ",
            "a b",
            "a,b",
            "{User}",
            "{user",
            "a/b",
            "ü",
            &"x".repeat(257),
        ] {
            assert!(TopicPatterns::from_patterns([bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!allows(&[&pattern], &"a".repeat(128)));
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
