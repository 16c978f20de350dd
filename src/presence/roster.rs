//! Who of this node is in a topic, and which nodes are told.
//!
//! By level: what is told is the difference between who is there now and who was when it was
//! last told. So it does not matter how many came and went in between, or in which order.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::ids::{NodeId, Topic, UserId};
use crate::protocol::info::Infos;
use crate::protocol::{MAX_NAMES, Told, infos_of, parts};

/// How long a node is told without asking again: three times what it takes to ask again.
pub(super) const HEARD: Duration = Duration::from_secs(90);
/// Between two looks at who is there, and more for each member: a look asks the shards for all.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_PER_MEMBER: Duration = Duration::from_micros(20);

/// Before a node that a line did not reach is told all again, at first.
const AGAIN: Duration = Duration::from_secs(1);

/// What this node tells of one topic.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// By name, as told last.
    users: Vec<UserId>,
    /// What they show of themselves, as told last.
    infos: Infos,
    /// Who is told, and until when.
    listeners: HashMap<NodeId, WatchingNode>,
    /// When they will be looked at.
    pub(super) due: Option<Instant>,
    /// When they may be looked at again.
    rested: Option<Instant>,
}

#[derive(Debug)]
struct WatchingNode {
    until: Option<Instant>,
    /// It has not got the whole list yet.
    is_new: bool,
    /// Lines in a row that did not reach it.
    unheard: u32,
    /// It will be told all again.
    is_owed: bool,
}

impl Roster {
    /// A node wants to hear: until it is forgotten, or for ever without a time. Answers whether it
    /// must get the whole list.
    pub(super) fn listen(&mut self, node: &NodeId, until: Option<Instant>, begin: bool) -> bool {
        let listener = self.listeners.entry(node.clone()).or_insert(WatchingNode {
            until,
            is_new: true,
            unheard: 0,
            is_owed: false,
        });
        listener.until = until;
        // It is there.
        listener.unheard = 0;
        listener.is_new |= begin;
        listener.is_new
    }

    /// A line did not reach this node. Answers when to tell it all again, longer each time; none if
    /// it is no listener, or that is settled.
    pub(super) fn note_unheard(&mut self, node: &NodeId) -> Option<Duration> {
        let listener = self.listeners.get_mut(node)?;
        if std::mem::replace(&mut listener.is_owed, true) {
            return None;
        }
        listener.unheard += 1;
        Some(AGAIN * (1 << (listener.unheard - 1).min(5)))
    }

    /// It is time to tell this node all again; answers whether it still listens.
    pub(super) fn begin_again(&mut self, node: &NodeId) -> bool {
        let Some(listener) = self.listeners.get_mut(node) else {
            return false;
        };
        (listener.is_owed, listener.is_new) = (false, true);
        true
    }

    /// Whether a node is told.
    pub(super) fn tells(&self, node: &NodeId) -> bool {
        self.listeners.contains_key(node)
    }

    /// How many nodes are told.
    pub(super) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// A node wants to hear no more.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.listeners.remove(node);
    }

    /// Forgets who has not asked for long; answers whether none is left.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        (self.listeners).retain(|_, listener| listener.until.is_none_or(|until| until > now));
        self.listeners.is_empty()
    }

    /// When to look at the members next, if that is not settled.
    pub(super) fn arrange(&mut self, now: Instant) -> Option<Instant> {
        if self.due.is_some() {
            return None;
        }
        self.due = Some(self.rested.map_or(now, |rested| rested.max(now)));
        self.due
    }

    /// These are there now, by name. Answers who is to be told what.
    pub(super) fn tell(
        &mut self,
        topic: &Topic,
        here: &NodeId,
        (users, infos): (Vec<UserId>, Infos),
        now: Instant,
    ) -> Vec<(NodeId, Told)> {
        self.due = None;
        let pause = PAUSE + PAUSE_PER_MEMBER * users.len() as u32;
        self.rested = Some(now + pause);
        let (mut joined, left) = differences(&self.users, &users);
        if infos != self.infos {
            let is_other = |user: &&UserId| infos.get(user) != self.infos.get(user);
            joined.extend(users.iter().filter(is_other).cloned());
            joined.sort_unstable();
            joined.dedup();
        }
        self.users = users;
        self.infos = infos;
        let infos = &self.infos;
        let told = |here_users: &[UserId], gone: &[UserId]| Told {
            topic: topic.clone(),
            node: here.clone(),
            begin: false,
            end: false,
            here: here_users.to_vec(),
            info: infos_of(here_users, infos),
            gone: gone.to_vec(),
        };
        let mut all = Vec::new();
        for (node, listener) in &mut self.listeners {
            let mut lines: Vec<Told> = Vec::new();
            if std::mem::take(&mut listener.is_new) {
                lines.extend(parts(&self.users, infos).map(|part| told(part, &[])));
                if lines.is_empty() {
                    lines.push(told(&[], &[]));
                }
                lines.first_mut().expect("one at least").begin = true;
                lines.last_mut().expect("one at least").end = true;
            } else {
                lines.extend(parts(&joined, infos).map(|part| told(part, &[])));
                lines.extend(left.chunks(MAX_NAMES).map(|part| told(&[], part)));
            }
            all.extend(lines.into_iter().map(|line| (node.clone(), line)));
        }
        all
    }
}

/// Who is only in the second of two lists, and who only in the first; both by name.
fn differences(before: &[UserId], now: &[UserId]) -> (Vec<UserId>, Vec<UserId>) {
    let only = |these: &[UserId], those: &[UserId]| {
        let missing = |user: &&UserId| those.binary_search(user).is_err();
        these.iter().filter(missing).cloned().collect()
    };
    (only(now, before), only(before, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(users: &[&str]) -> Vec<UserId> {
        users.iter().map(|user| user.parse().unwrap()).collect()
    }

    fn plain(users: &[&str]) -> (Vec<UserId>, Infos) {
        (names(users), Infos::new())
    }

    fn node(name: &str) -> NodeId {
        format!("{name}.0123456789ab").parse().unwrap()
    }

    #[test]
    fn who_is_new_hears_all_and_the_others_what_has_changed() {
        let (topic, here): (Topic, _) = ("t".parse().unwrap(), node("here"));
        let (a, b) = (node("a"), node("b"));
        let mut roster = Roster::default();
        let now = Instant::now();
        assert!(roster.listen(&a, None, false));
        let told = roster.tell(&topic, &here, plain(&["1", "2"]), now);
        assert_eq!(told.len(), 1);
        let (to, first) = &told[0];
        assert_eq!((to, &first.here), (&a, &names(&["1", "2"])));
        assert!(first.begin && first.end);
        assert!(!roster.listen(&a, None, false), "it has all");
        roster.listen(&b, None, false);
        let told = roster.tell(&topic, &here, plain(&["2", "3"]), now);
        let of = |node: &NodeId| -> Vec<(Vec<UserId>, Vec<UserId>)> {
            let of = told.iter().filter(|(to, _)| to == node);
            of.map(|(_, told)| (told.here.clone(), told.gone.clone()))
                .collect()
        };
        assert_eq!(of(&a), [(names(&["3"]), vec![]), (vec![], names(&["1"]))]);
        assert_eq!(of(&b), [(names(&["2", "3"]), vec![])]);
        assert!(
            roster
                .tell(&topic, &here, plain(&["2", "3"]), now)
                .is_empty()
        );
        assert!(roster.listen(&a, None, true), "it asks for all");
    }

    #[test]
    fn who_was_not_reached_is_told_all_again_later_each_time() {
        let (topic, here, a) = ("t".parse().unwrap(), node("here"), node("a"));
        let mut roster = Roster::default();
        let tell = |roster: &mut Roster, users: &[&str]| {
            let told = roster.tell(&topic, &here, plain(users), Instant::now());
            let lists = told.iter().filter(|(_, told)| told.begin);
            lists.map(|(_, told)| told.here.clone()).collect::<Vec<_>>()
        };
        assert_eq!(roster.note_unheard(&a), None, "no listener");
        roster.listen(&a, None, false);
        tell(&mut roster, &["1"]);
        assert_eq!(tell(&mut roster, &[]), [[]; 0], "a line that gets lost");
        assert_eq!(roster.note_unheard(&a), Some(AGAIN));
        assert_eq!(roster.note_unheard(&a), None, "once is enough");
        assert!(roster.begin_again(&a));
        assert_eq!(tell(&mut roster, &["2"]), [names(&["2"])]);
        assert_eq!(roster.note_unheard(&a), Some(AGAIN * 2));
        assert!(roster.begin_again(&a));
        roster.listen(&a, None, false);
        assert_eq!(roster.note_unheard(&a), Some(AGAIN), "it has asked");
        roster.forget(&a);
        assert!(!roster.begin_again(&a));
    }

    #[test]
    fn a_long_list_comes_in_parts() {
        let (topic, here) = ("t".parse().unwrap(), node("here"));
        let users: Vec<UserId> = (0..2 * MAX_NAMES + 1)
            .map(|i| format!("{i:05}").parse().unwrap())
            .collect();
        let mut roster = Roster::default();
        roster.listen(&node("a"), None, false);
        let told = roster.tell(&topic, &here, (users, Infos::new()), Instant::now());
        let ends: Vec<_> = told.iter().map(|(_, t)| (t.begin, t.end)).collect();
        assert_eq!(ends, [(true, false), (false, false), (false, true)]);
        let told = Roster::default().tell(&topic, &here, plain(&[]), Instant::now());
        assert!(told.is_empty());
    }

    #[test]
    fn who_shows_something_else_is_named_again() {
        let (topic, here): (Topic, _) = ("t".parse().unwrap(), node("here"));
        let mut roster = Roster::default();
        roster.listen(&node("a"), None, false);
        let mut tell = |info: Option<&str>| -> Vec<(Vec<UserId>, Infos)> {
            let shown = info.map(|json| (names(&["2"])[0].clone(), serde_json::from_str(json)));
            let infos = shown.map(|(user, info)| (user, info.unwrap()));
            let users = (names(&["1", "2"]), infos.into_iter().collect());
            let told = roster.tell(&topic, &here, users, Instant::now());
            told.into_iter()
                .map(|(_, told)| (told.here, told.info))
                .collect()
        };
        let first = tell(Some(r#"{"a":1}"#));
        assert_eq!(first[0].0, names(&["1", "2"]));
        assert_eq!(first[0].1.len(), 1);
        assert!(tell(Some(r#"{"a":1}"#)).is_empty());
        let other = tell(Some(r#"{"a":2}"#));
        assert_eq!(other[0].0, names(&["2"]));
        assert_ne!(other[0].1, first[0].1);
        assert_eq!(tell(None), [(names(&["2"]), Infos::new())]);
    }

    #[test]
    fn who_does_not_ask_again_is_forgotten() {
        let now = Instant::now();
        let mut roster = Roster::default();
        roster.listen(&node("a"), Some(now + HEARD), false);
        assert!(!roster.is_over(now));
        assert!(roster.is_over(now + HEARD));
    }
}
