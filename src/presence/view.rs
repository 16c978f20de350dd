//! Who is in a topic, on all nodes, as far as this node has heard. No I/O.
//!
//! Each node with members is a source of its own, so a user who is on two nodes leaves when both
//! have said so. What must stay true: who has joined in the eyes of the watchers has not left
//! before the grace is over, however often it comes and goes.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::protocol::Told;
use crate::protocol::ids::{Fd, NodeId, UserId};
use crate::protocol::info::{Info, Infos};

/// Before a node that owes its list is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A node that owes its list for so long keeps no other user from leaving: what it said before
/// stands until it is dead.
const DOUBT: Duration = Duration::from_secs(10);

/// Maximum number of users noted in one topic.
const USERS: usize = 1_000_000;
/// Maximum number of nodes noted in one topic.
const SOURCES: usize = 10_000;

/// What this node knows of one topic.
#[derive(Debug)]
pub(super) struct View {
    users: HashMap<UserId, Present, ahash::RandomState>,
    sources: HashMap<NodeId, Source>,
    /// The row was read: all that it named are in `sources`.
    pub(super) is_located: bool,
    /// Connections that wait for the list, and until when.
    pub(super) waiting: Vec<(Fd, Instant)>,
    /// When the row is to be read again, and the sources told that we still listen.
    pub(super) refresh: Instant,
    /// What others have said may have been lost, and the row as well.
    pub(super) is_doubted: bool,
    /// When a client here last watched.
    pub(super) used: Instant,
}

#[derive(Debug, Default)]
struct Present {
    /// Where it is, and what it shows of itself there.
    nodes: SmallVec<[(NodeId, Option<Info>); 1]>,
    /// What the watchers see of that.
    shown: Option<Info>,
    /// If it is on no node: when it will have left.
    leaves: Option<Instant>,
}

impl Present {
    fn is_on(&self, node: &NodeId) -> bool {
        self.nodes.iter().any(|(one, _)| one == node)
    }

    /// Chooses what the watchers see: of several nodes the first by name, so that all of them see
    /// the same. While it is on none, that stays. Answers whether it is something else.
    fn choose(&mut self) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let showing = self.nodes.iter().filter(|(_, info)| info.is_some());
        let first = showing.min_by(|one, other| one.0.cmp(&other.0));
        let info = first.and_then(|(_, info)| info.clone());
        let is_other = info != self.shown;
        self.shown = info;
        is_other
    }
}

#[derive(Debug)]
struct Source {
    /// Since when its whole list is owed to us; none once we have it.
    owes: Option<Instant>,
    /// When it was asked last.
    asked: Option<Instant>,
    /// Who was in the list that is coming in.
    list: Option<HashSet<UserId>>,
}

/// What changes in the eyes of the watchers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PresenceChanges {
    /// Who has come, or shows something else of itself.
    pub(super) join: Vec<UserId>,
    /// Who will have left at this time, unless it comes back.
    pub(super) leaving: Vec<(Instant, UserId)>,
    /// Who has come back before that.
    pub(super) back: Vec<(Instant, UserId)>,
}

impl View {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            users: HashMap::default(),
            sources: HashMap::new(),
            is_located: false,
            waiting: Vec::new(),
            refresh: now,
            is_doubted: false,
            used: now,
        }
    }

    /// A node has members, as its row says or as it says itself.
    pub(super) fn add(&mut self, node: &NodeId, now: Instant) {
        self.sources.entry(node.clone()).or_insert(Source {
            owes: Some(now),
            asked: None,
            list: None,
        });
    }

    /// Whether nothing more can be noted of this node.
    pub(super) fn is_full(&self, node: &NodeId) -> bool {
        self.users.len() >= USERS
            || self.sources.len() >= SOURCES && !self.sources.contains_key(node)
    }

    /// Forgets nodes that have no members, but for those chosen.
    pub(super) fn drop_idle(&mut self, stays: impl Fn(&NodeId) -> bool) {
        let used: HashSet<&NodeId> = self
            .users
            .values()
            .flat_map(|one| one.nodes.iter().map(|(node, _)| node))
            .collect();
        self.sources
            .retain(|node, source| stays(node) || used.contains(node) || source.list.is_some());
    }

    /// What others have said may be lost.
    pub(super) fn doubt(&mut self, here: &NodeId, now: Instant) {
        self.refresh = now;
        self.is_doubted = true;
        for (node, source) in &mut self.sources {
            if node != here {
                source.owes = source.owes.or(Some(now));
                source.asked = None;
                source.list = None;
            }
        }
    }

    /// Which nodes to ask for their list now.
    pub(super) fn next_asked(&mut self, now: Instant) -> Vec<NodeId> {
        let is_due = |source: &Source| {
            source.owes.is_some() && source.asked.is_none_or(|at| now - at >= ASK_AGAIN)
        };
        let due = self.sources.iter_mut().filter(|(_, source)| is_due(source));
        due.map(|(node, source)| {
            source.asked = Some(now);
            node.clone()
        })
        .collect()
    }

    /// The nodes whose members are known.
    pub(super) fn sources(&self) -> impl Iterator<Item = &NodeId> {
        self.sources.keys()
    }

    /// Whether all nodes that we know of have told us their list.
    pub(super) fn is_whole(&self) -> bool {
        self.is_located && self.sources.values().all(|source| source.owes.is_none())
    }

    /// Whether a user who is on no node that we know of is gone indeed.
    pub(super) fn is_certain(&self, now: Instant) -> bool {
        let owes_lately = |source: &Source| source.owes.is_some_and(|since| now - since < DOUBT);
        self.is_located && !self.sources.values().any(owes_lately)
    }

    /// How many users are there, with those who may come back.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// Who is there, with those who may come back; no more than `most`, and whether there are more.
    pub(super) fn members(&self, most: usize) -> (Vec<UserId>, bool) {
        let mut members: Vec<UserId> = self.users.keys().cloned().collect();
        members.sort_unstable();
        let more = members.len() > most;
        members.truncate(most);
        (members, more)
    }

    /// What these users show of themselves.
    pub(super) fn infos(&self, users: &[UserId]) -> Infos {
        let shown = users.iter().filter_map(|user| {
            let info = self.users.get(user)?.shown.clone()?;
            Some((user.clone(), info))
        });
        shown.collect()
    }

    /// A node tells who of it is there.
    pub(super) fn hear(
        &mut self,
        mut told: Told,
        now: Instant,
        grace: Duration,
    ) -> PresenceChanges {
        let mut changes = PresenceChanges::default();
        self.add(&told.node, now);
        // Ours, so that all users of a node share one text.
        let (node, _) = self.sources.get_key_value(&told.node).expect("added");
        let node = node.clone();
        let source = self.sources.get_mut(&node).expect("added");
        if told.begin {
            source.list = Some(HashSet::new());
        }
        if let Some(list) = &mut source.list {
            list.extend(told.here.iter().cloned());
            for user in &told.gone {
                list.remove(user);
            }
        }
        let list = match told.end {
            true => source.list.take(),
            false => None,
        };
        if list.is_some() {
            source.owes = None;
        }
        for user in told.here {
            let info = told.info.remove(&user);
            self.come(user, &node, info, &mut changes);
        }
        for user in told.gone {
            self.go(&user, &node, now + grace, &mut changes);
        }
        if let Some(list) = list {
            let on_node = |(user, present): (&UserId, &Present)| {
                (present.is_on(&node) && !list.contains(user)).then(|| user.clone())
            };
            let missing: Vec<UserId> = self.users.iter().filter_map(on_node).collect();
            for user in missing {
                self.go(&user, &node, now + grace, &mut changes);
            }
        }
        changes
    }

    /// A node is dead.
    pub(super) fn bury(&mut self, node: &NodeId, now: Instant, grace: Duration) -> PresenceChanges {
        let mut changes = PresenceChanges::default();
        if self.sources.remove(node).is_some() {
            let there = self.users.iter().filter(|(_, one)| one.is_on(node));
            let there: Vec<UserId> = there.map(|(user, _)| user.clone()).collect();
            for user in there {
                self.go(&user, node, now + grace, &mut changes);
            }
        }
        changes
    }

    fn come(
        &mut self,
        user: UserId,
        node: &NodeId,
        info: Option<Info>,
        changes: &mut PresenceChanges,
    ) {
        let present = self.users.entry(user.clone()).or_default();
        let was_here = !present.nodes.is_empty();
        match present.nodes.iter_mut().find(|(one, _)| one == node) {
            Some((_, shown)) => *shown = info,
            None => present.nodes.push((node.clone(), info)),
        }
        let is_other = present.choose();
        if let Some(at) = present.leaves.take() {
            changes.back.push((at, user.clone()));
            if is_other {
                changes.join.push(user);
            }
        } else if !was_here || is_other {
            changes.join.push(user);
        }
    }

    fn go(&mut self, user: &UserId, node: &NodeId, at: Instant, changes: &mut PresenceChanges) {
        let Some(present) = self.users.get_mut(user) else {
            return;
        };
        let before = present.nodes.len();
        present.nodes.retain(|(one, _)| one != node);
        if before > 0 && present.nodes.is_empty() {
            present.leaves = Some(at);
            changes.leaving.push((at, user.clone()));
        } else if present.choose() {
            changes.join.push(user.clone());
        }
    }

    /// The grace of a user is over; answers whether it has left.
    pub(super) fn leave(&mut self, user: &UserId, at: Instant) -> bool {
        let is_due = (self.users.get(user)).is_some_and(|present| present.leaves == Some(at));
        if is_due {
            self.users.remove(user);
        }
        is_due
    }

    /// It is too early to say so: later.
    pub(super) fn put_off(&mut self, user: &UserId, at: Instant, later: Instant) {
        if let Some(present) = self.users.get_mut(user)
            && present.leaves == Some(at)
        {
            present.leaves = Some(later);
        }
    }

    /// Who will have left, and when: to be forgotten with the view.
    pub(super) fn leaving(&self) -> impl Iterator<Item = (Instant, &UserId)> {
        let users = self.users.iter();
        users.filter_map(|(user, present)| Some((present.leaves?, user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn node(name: &str) -> NodeId {
        format!("{name}.0123456789ab").parse().unwrap()
    }

    fn names(users: &[&str]) -> Vec<UserId> {
        users.iter().map(|user| user.parse().unwrap()).collect()
    }

    fn told(of: &str, whole: bool, here: &[&str], gone: &[&str]) -> Told {
        Told {
            topic: "t".parse().unwrap(),
            node: node(of),
            begin: whole,
            end: whole,
            here: names(here),
            info: Infos::new(),
            gone: names(gone),
        }
    }

    /// User 1 comes to a node, or is there, and shows this.
    fn shows(of: &str, name: &str) -> Told {
        let info = serde_json::from_str(&format!(r#"{{"name":"{name}"}}"#)).unwrap();
        Told {
            info: Infos::from([("1".parse().unwrap(), info)]),
            ..told(of, false, &["1"], &[])
        }
    }

    fn joins(changes: &PresenceChanges) -> Vec<&str> {
        changes.join.iter().map(UserId::as_str).collect()
    }

    #[test]
    fn a_user_on_two_nodes_joins_once_and_leaves_once() {
        let now = Instant::now();
        let mut view = View::new(now);
        let first = view.hear(told("a", true, &["1"], &[]), now, GRACE);
        assert_eq!(joins(&first), ["1"]);
        let second = view.hear(told("b", true, &["1", "2"], &[]), now, GRACE);
        assert_eq!(joins(&second), ["2"]);
        let one_gone = view.hear(told("a", false, &[], &["1"]), now, GRACE);
        assert_eq!(one_gone, PresenceChanges::default());
        let gone = view.hear(told("b", false, &[], &["1"]), now, GRACE);
        assert_eq!(gone.leaving, [(now + GRACE, names(&["1"])[0].clone())]);
        let repeated = view.hear(told("b", false, &[], &["1"]), now, GRACE);
        assert_eq!(repeated, PresenceChanges::default());
        assert_eq!(view.members(10).0, names(&["1", "2"]), "it may come back");
        assert!(view.leave(&names(&["1"])[0], now + GRACE));
        assert_eq!(view.members(10).0, names(&["2"]));
    }

    #[test]
    fn who_comes_back_in_time_makes_no_noise() {
        let now = Instant::now();
        let mut view = View::new(now);
        view.hear(told("a", true, &["1"], &[]), now, GRACE);
        view.hear(told("a", false, &[], &["1"]), now, GRACE);
        let back = view.hear(told("b", false, &["1"], &[]), now, GRACE);
        assert_eq!(joins(&back), [""; 0]);
        assert_eq!(back.back.len(), 1);
        assert!(!view.leave(&names(&["1"])[0], now + GRACE));
    }

    #[test]
    fn watchers_hear_what_a_member_shows_and_when_that_changes() {
        let now = Instant::now();
        let mut view = View::new(now);
        let one = names(&["1"]);
        let seen = |view: &View| serde_json::to_string(&view.infos(&one)).unwrap();
        let hear = |view: &mut View, told| joins(&view.hear(told, now, GRACE)).concat();
        assert_eq!(hear(&mut view, shows("b", "Ann")), "1");
        assert_eq!(seen(&view), r#"{"1":{"name":"Ann"}}"#);
        assert_eq!(hear(&mut view, shows("b", "Ann")), "", "nothing new");
        assert_eq!(hear(&mut view, shows("b", "Anna")), "1");
        assert_eq!(hear(&mut view, shows("c", "Other")), "", "b is before c");
        assert_eq!(
            hear(&mut view, told("a", false, &["1"], &[])),
            "",
            "a shows nothing"
        );
        assert_eq!(seen(&view), r#"{"1":{"name":"Anna"}}"#);
        assert_eq!(hear(&mut view, told("b", false, &[], &["1"])), "1");
        assert_eq!(seen(&view), r#"{"1":{"name":"Other"}}"#);
        assert_eq!(hear(&mut view, told("a", false, &[], &["1"])), "");
        assert_eq!(hear(&mut view, told("c", false, &[], &["1"])), "");
        assert_eq!(seen(&view), r#"{"1":{"name":"Other"}}"#, "it may come back");
        assert_eq!(hear(&mut view, told("a", false, &["1"], &[])), "1");
        assert_eq!(seen(&view), "{}");
    }

    #[test]
    fn who_is_not_in_a_new_list_is_gone() {
        let now = Instant::now();
        let mut view = View::new(now);
        view.hear(told("a", true, &["1", "2"], &[]), now, GRACE);
        let mut begin = told("a", false, &["2"], &[]);
        begin.begin = true;
        assert_eq!(view.hear(begin, now, GRACE), PresenceChanges::default());
        let mut end = told("a", false, &["3"], &[]);
        end.end = true;
        let changes = view.hear(end, now, GRACE);
        assert_eq!(joins(&changes), ["3"]);
        assert_eq!(changes.leaving[0].1, names(&["1"])[0]);
    }

    #[test]
    fn a_node_that_owes_its_list_is_asked_again_and_doubted_for_a_while() {
        let now = Instant::now();
        let (here, there) = (node("here"), node("there"));
        let mut view = View::new(now);
        view.is_located = true;
        view.add(&there, now);
        assert_eq!(view.next_asked(now), std::slice::from_ref(&there));
        assert_eq!(view.next_asked(now), []);
        assert_eq!(
            view.next_asked(now + ASK_AGAIN),
            std::slice::from_ref(&there)
        );
        assert!(!view.is_whole() && !view.is_certain(now));
        assert!(view.is_certain(now + DOUBT));
        view.hear(told("there", true, &[], &[]), now, GRACE);
        assert!(view.is_whole() && view.is_certain(now));
        view.doubt(&here, now);
        assert!(!view.is_certain(now));
        assert_eq!(view.next_asked(now), [there]);
    }

    #[test]
    fn a_dead_node_takes_those_along_who_were_nowhere_else() {
        let now = Instant::now();
        let mut view = View::new(now);
        view.hear(told("a", true, &["1", "2"], &[]), now, GRACE);
        view.hear(told("b", true, &["2"], &[]), now, GRACE);
        let changes = view.bury(&node("a"), now, GRACE);
        assert_eq!(changes.leaving, [(now + GRACE, names(&["1"])[0].clone())]);
        let (members, more) = view.members(1);
        assert_eq!((members, more), (names(&["1"]), true));
    }
}
