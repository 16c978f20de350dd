//! Who must hear what: written before the pushes, held against what was heard.

use std::collections::{HashMap, HashSet};

use crate::crowd::Member;

/// A push of the plan.
pub(crate) struct Entry {
    pub(crate) user: String,
    /// JSON: a text with user, publisher and number.
    pub(crate) data: String,
}

/// Pushes to users in turn, shared out among publishers that send theirs one after the other.
pub(crate) struct Ledger {
    pub(crate) plan: Vec<Vec<Entry>>,
}

/// What went wrong, in numbers; all zero if nothing did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    missing: usize,
    duplicate: usize,
    misrouted: usize,
    disordered: usize,
    examples: Vec<String>,
}

impl Audit {
    fn note(&mut self, what: String) {
        if self.examples.len() < 5 {
            self.examples.push(what);
        }
    }

    #[track_caller]
    pub(crate) fn assert_flawless(&self) {
        assert_eq!(
            *self,
            Self::default(),
            "each message once, to its addressee"
        );
    }
}

impl Ledger {
    pub(crate) fn new(users: &[String], pushes: usize, publishers: usize) -> Self {
        let mut plan: Vec<Vec<Entry>> = (0..publishers).map(|_| Vec::new()).collect();
        for number in 0..pushes {
            // Each publisher meets each user now and then: 64 and 1,000 have common factors.
            let publisher = (number + number / users.len()) % publishers;
            let user = users[number % users.len()].clone();
            let data = format!("\"{user} {publisher} {number}\"");
            plan[publisher].push(Entry { user, data });
        }
        Self { plan }
    }

    /// Holds what was heard, in the order in which it was, against the plan.
    pub(crate) fn audit(&self, members: &[Member], heard: &[(usize, String)]) -> Audit {
        self.audit_but(members, heard, &HashSet::new())
    }

    /// As [`Ledger::audit`], where this data was refused: it may be missing.
    pub(crate) fn audit_but(
        &self,
        members: &[Member],
        heard: &[(usize, String)],
        refused: &HashSet<String>,
    ) -> Audit {
        let users: Vec<&str> = members.iter().map(|member| &*member.user).collect();
        self.audit_users(&users, heard, refused)
    }

    fn audit_users(
        &self,
        members: &[&str],
        heard: &[(usize, String)],
        refused: &HashSet<String>,
    ) -> Audit {
        let mut audit = Audit::default();
        // How often each member heard each text, and the last number of each publisher.
        let mut counts: HashMap<(usize, &str), usize> = HashMap::new();
        let mut last: HashMap<(usize, &str), usize> = HashMap::new();
        for (who, text) in heard {
            let user = members[*who];
            let words: Vec<&str> = text.trim_matches('"').split(' ').collect();
            let [to, publisher, number] = words[..] else {
                audit.misrouted += 1;
                audit.note(format!("{user} heard {text}, which nobody sent"));
                continue;
            };
            if to != user {
                audit.misrouted += 1;
                audit.note(format!("{user} heard {text}"));
                continue;
            }
            let count = counts.entry((*who, text)).or_default();
            *count += 1;
            if *count > 1 {
                audit.duplicate += 1;
                audit.note(format!("{user} heard {text} {count} times"));
                continue;
            }
            let number = number.parse().expect("a number");
            if let Some(before) = last.insert((*who, publisher), number)
                && before > number
            {
                audit.disordered += 1;
                audit.note(format!("{user} heard {text} after {before}"));
            }
        }
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (number, &user) in members.iter().enumerate() {
            places.entry(user).or_default().push(number);
        }
        for entry in self.plan.iter().flatten() {
            for who in places.get(&*entry.user).into_iter().flatten() {
                let is_there = counts.contains_key(&(*who, &*entry.data));
                if !is_there && !refused.contains(&entry.data) {
                    audit.missing += 1;
                    audit.note(format!("client {who} did not hear {}", entry.data));
                }
            }
        }
        audit
    }
}

#[test]
fn the_ledger_sees_what_is_missing_twice_elsewhere_and_out_of_order() {
    let users = ["a".to_owned(), "b".to_owned()];
    let ledger = Ledger::new(&users, 8, 2);
    let members = ["a", "a", "b"];
    let all = |who: usize| {
        let mut texts: Vec<&Entry> = ledger.plan.iter().flatten().collect();
        texts.retain(|entry| entry.user == members[who]);
        texts
            .into_iter()
            .map(move |entry| (who, entry.data.clone()))
    };
    let heard: Vec<(usize, String)> = (0..3).flat_map(all).collect();
    assert_eq!(heard.len(), 12);
    let audit = |heard: &[(usize, String)]| {
        let audit = ledger.audit_users(&members, heard, &HashSet::new());
        let numbers = [audit.missing, audit.duplicate, audit.misrouted];
        (numbers, audit.disordered)
    };
    assert_eq!(audit(&heard), ([0, 0, 0], 0));
    assert_eq!(audit(&heard[1..]), ([1, 0, 0], 0));
    let twice = [&heard[..], &heard[..1]].concat();
    assert_eq!(audit(&twice), ([0, 1, 0], 0));
    let mut elsewhere = heard.clone();
    elsewhere[0].0 = 2;
    assert_eq!(audit(&elsewhere), ([1, 0, 1], 0));
    let mut disordered = heard;
    disordered.swap(0, 1);
    assert_eq!(audit(&disordered), ([0, 0, 0], 1));
}
