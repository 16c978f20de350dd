//! Which topics a client may subscribe to by itself: patterns from its token or the settings.

use std::fmt;

use crate::protocol::ids::{Topic, UserId, is_name_byte};

/// Longest pattern, in bytes: a topic with a few stars.
const MAX_BYTES: usize = 256;
/// Stands for the user's id.
const USER: &str = "{user}";

/// A text that is no pattern; the words say what one is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no pattern of topics: A-Z a-z 0-9 . _ : @ -, * for any run of these, {{user}} for the user's id"
)]
pub struct BadPattern(String);

/// A set of patterns. A topic is allowed if one of them fits all of it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Grants(Box<[Box<str>]>);

impl Grants {
    /// Reads patterns: topics in which `*` stands for any run of bytes and `{user}` for the
    /// user's id. None at all allow nothing.
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
        let topic = topic.as_str().as_bytes();
        // No user id has a star or a brace, so what is put in cannot be taken for a pattern.
        self.0.iter().any(|pattern| match pattern.contains(USER) {
            false => fits(pattern.as_bytes(), topic),
            true => fits(pattern.replace(USER, user.as_str()).as_bytes(), topic),
        })
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// Whether the pattern fits all of the text. Only the last star is ever tried again, so the time
/// is bounded by the product of both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // The last star, and how much of the text it takes so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, t) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], topic: &str) -> bool {
        let grants = Grants::from_patterns(patterns.iter().copied()).unwrap();
        grants.allows(&topic.parse().unwrap(), &"42".parse().unwrap())
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
            assert!(Grants::from_patterns([bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!allows(&[&pattern], &"a".repeat(128)));
    }
}
