//! The pattern of one rule: which topics it is for, whatever user they name.
//!
//! What must stay true: where a pattern is said to cover another, no topic fits the other alone.

use serde::{Serialize, Serializer};

use crate::protocol::ids::{MAX_TOPIC_BYTES, Topic, UserId};
use crate::protocol::topic_pattern::{
    ANY, BadPattern, REST, TopicPatterns, USER, is_separator, matches_start,
};

/// The pattern of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePattern {
    /// As it was written.
    text: Box<str>,
    /// Without `**` at its end, and with a `*` in the place of the user.
    start: Box<str>,
    /// Whether there is a `**`.
    and_more: bool,
    /// For the question whether it is a given user who is named.
    allowed: TopicPatterns,
}

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// Any text within a segment.
    Star,
    /// Any text.
    Rest,
}

impl RulePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none, or names the user twice, or fits no topic.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words = |error: BadPattern| error.to_string();
        let allowed = TopicPatterns::from_patterns([text]).map_err(words)?;
        if text.matches(USER).count() > 1 {
            return Err(format!("{text:?} has {USER} more than once"));
        }
        let (start, and_more) = match text.strip_suffix(REST) {
            _ if text == ANY => ("", true),
            Some(start) => (start, true),
            None => (text, false),
        };
        let pattern = Self {
            text: text.into(),
            start: start.replace(USER, "*").into(),
            and_more,
            allowed,
        };
        let is_byte = |token: &&Token| matches!(token, Token::Byte(_));
        if pattern.tokens().iter().filter(is_byte).count() > MAX_TOPIC_BYTES {
            return Err(format!(
                "{text:?} fits no topic: those have {MAX_TOPIC_BYTES} bytes at most"
            ));
        }
        Ok(pattern)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is a topic of the rule.
    #[must_use]
    pub fn fits(&self, topic: &Topic) -> bool {
        matches_start(&self.start, topic.as_str(), self.and_more)
    }

    /// Whether it is one that names no other user than this.
    #[must_use]
    pub fn fits_for(&self, topic: &Topic, user: &UserId) -> bool {
        self.allowed.allows(topic, user)
    }

    /// Whether it fits every topic that the other one fits.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.tokens(), other.tokens());
        // Row by row from the end: whether the rest of mine covers the rest of theirs.
        let ends = |row: usize| row == mine.len();
        let mut below = Vec::new();
        for row in (0..=mine.len()).rev() {
            let mut here = vec![false; theirs.len() + 1];
            for at in (0..=theirs.len()).rev() {
                let next = theirs.get(at);
                here[at] = match mine.get(row) {
                    None => ends(row) && next.is_none(),
                    Some(Token::Rest) => true,
                    Some(Token::Star) => {
                        let stays = match next {
                            Some(Token::Byte(byte)) => !is_separator(*byte),
                            Some(Token::Star) => true,
                            Some(Token::Rest) | None => false,
                        };
                        below[at] || (stays && here[at + 1])
                    }
                    Some(byte @ Token::Byte(_)) => next == Some(byte) && below[at + 1],
                };
            }
            below = here;
        }
        below[0]
    }

    fn tokens(&self) -> Vec<Token> {
        let token = |byte| match byte {
            b'*' => Token::Star,
            byte => Token::Byte(byte),
        };
        let rest = self.and_more.then_some(Token::Rest);
        self.start.bytes().map(token).chain(rest).collect()
    }
}

impl Serialize for RulePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> RulePattern {
        RulePattern::parse(text).unwrap()
    }

    #[test]
    fn a_rule_is_for_topics_of_all_users_and_allows_each_its_own() {
        let topic = |text: &str| text.parse::<Topic>().unwrap();
        let user = |text: &str| text.parse::<UserId>().unwrap();
        let own = pattern("ai.{user}.**");
        assert!(own.fits(&topic("ai.42.run.1")) && own.fits(&topic("ai.43.run.1")));
        assert!(!own.fits(&topic("ai.42")) && own.fits(&topic("ai.4.2")));
        assert!(own.fits_for(&topic("ai.42.run.1"), &user("42")));
        assert!(!own.fits_for(&topic("ai.42.run.1"), &user("43")));
        let alone = pattern("{user}");
        assert!(alone.fits(&topic("42")) && !alone.fits(&topic("42.1")));
        assert!(pattern("*").fits(&topic("a.b:c")));
    }

    #[test]
    fn a_pattern_that_is_none_or_fits_no_topic_is_refused() {
        for bad in ["", "a b", "a**b", "{user}.{user}", &"x".repeat(201)] {
            assert!(RulePattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_covers_another_leaves_it_no_topic() {
        for (one, other, covers) in [
            ("chat.**", "chat.1", true),
            ("chat.**", "chat.*", true),
            ("chat.**", "chat.**", true),
            ("chat.*", "chat.**", false),
            ("chat.*", "chat.a.b", false),
            ("chat.*", "chat.{user}", true),
            ("chat.{user}", "chat.*", true),
            ("*", "a.**", true),
            ("**", "{user}", true),
            ("a*c", "abc", true),
            ("a*c", "a*b*c", true),
            ("a*b*c", "a*c", false),
            ("chat.1", "chat.**", false),
            ("chat.1", "chat.2", false),
            ("a.*.c", "a.b:c", false),
        ] {
            assert_eq!(
                pattern(one).covers(&pattern(other)),
                covers,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn covering_agrees_with_matching() {
        let letters = ["a", ".", "*", "**", "{user}"];
        let mut texts = vec![String::new()];
        for _ in 0..3 {
            let longer = texts
                .iter()
                .flat_map(|text| letters.map(|one| text.clone() + one));
            texts = longer.chain(texts.clone()).collect();
        }
        texts.sort();
        texts.dedup();
        let patterns: Vec<RulePattern> = texts
            .iter()
            .filter_map(|text| RulePattern::parse(text).ok())
            .collect();
        let topics: Vec<Topic> = [
            "a", "b", ".", "a.", "a.a", "aa", "a.b", "aab", "..", ".a", "b.b.b",
        ]
        .iter()
        .map(|topic| topic.parse().unwrap())
        .collect();
        for one in &patterns {
            for other in patterns.iter().filter(|other| one.covers(other)) {
                for topic in topics.iter().filter(|topic| other.fits(topic)) {
                    assert!(one.fits(topic), "{one:?} covers {other:?}, not {topic}");
                }
            }
        }
    }
}
