//! A history, looked up by what the checker's rules ask for. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Cause, EVERYBODY, Event, Inbox, Micros, Push, SECOND, topic};

/// A message that a connection got.
#[derive(Clone, Copy)]
pub(crate) struct Recv<'a> {
    pub(crate) id: &'a str,
    pub(crate) to: &'a [String],
    pub(crate) kept: bool,
    pub(crate) at: Micros,
}

impl<'a> Recv<'a> {
    /// Where it lies if it is kept: in the topic's log, or the inbox of this user.
    pub(crate) fn log(&self, user: &'a str) -> &'a str {
        let topic = self.to.iter().find(|one| topic(one).is_some());
        topic.map_or(user, |topic| topic)
    }
}

/// Its user, or a topic: from when on a connection must get what is for them.
pub(crate) struct Seat<'a> {
    pub(crate) of: &'a str,
    pub(crate) inbox: &'a Inbox,
    pub(crate) since: Micros,
}

/// A connection's life.
pub(crate) struct Conn<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: &'a str,
    pub(crate) v1: bool,
    pub(crate) node: &'a str,
    pub(crate) fd: Option<u64>,
    pub(crate) opened: Micros,
    pub(crate) closes: Vec<(Cause, Option<u16>, Micros)>,
    pub(crate) byes: Vec<u16>,
    pub(crate) recvs: Vec<Recv<'a>>,
    /// Those it may get something of, the user aside.
    topics: &'a [String],
    /// Its user's first.
    pub(crate) seats: Vec<Seat<'a>>,
    pub(crate) ids: HashSet<&'a str>,
    /// Of which topic, if not of everything.
    resyncs: Vec<(Option<&'a str>, Micros)>,
    pub(crate) degraded: bool,
}

impl Conn<'_> {
    pub(crate) fn closed(&self) -> Micros {
        self.closes.first().map_or(Micros::MAX, |close| close.2)
    }

    /// Whether it is one of these.
    pub(crate) fn is_among(&self, to: &[String]) -> bool {
        to.iter()
            .any(|one| one == self.user || one == EVERYBODY || self.topics.contains(one))
    }

    /// Since when it must get what is for this user, topic or everybody.
    pub(crate) fn since(&self, of: &str) -> Micros {
        let seat = self.seats.iter().find(|seat| seat.of == of);
        seat.map_or(self.opened, |seat| seat.since)
    }

    /// Whether it was told between these times that it may lack something that was for them.
    pub(crate) fn told(&self, of: &str, from: Micros, until: Micros) -> bool {
        self.resyncs
            .iter()
            .any(|(topic, at)| topic.is_none_or(|topic| topic == of) && (from..=until).contains(at))
    }
}

/// A history, looked up by what the rules ask for.
pub(crate) struct Index<'a> {
    pub(crate) events: &'a [Event],
    pub(crate) conns: BTreeMap<&'a str, Conn<'a>>,
    /// Attempts of each message, in order.
    pub(crate) messages: BTreeMap<&'a str, Vec<&'a Push>>,
    /// Whom it hit, from when, until when.
    pub(crate) stalls: Vec<(Option<&'a str>, Micros, Micros)>,
    pub(crate) samples: HashMap<&'a str, Vec<(Micros, f64)>>,
    pub(crate) end: Micros,
    /// Whether Redis was emptied.
    pub(crate) forgets: bool,
}

impl<'a> Index<'a> {
    pub(crate) fn new(events: &'a [Event]) -> Self {
        let mut index = Self {
            events,
            conns: BTreeMap::new(),
            messages: BTreeMap::new(),
            stalls: Vec::new(),
            samples: HashMap::new(),
            end: 0,
            forgets: false,
        };
        for event in events {
            index.take(event);
        }
        index.stalls.sort_by_key(|stall| stall.1);
        for attempts in index.messages.values_mut() {
            attempts.sort_by_key(|push| push.attempt);
        }
        index
    }

    fn take(&mut self, event: &'a Event) {
        let conn = |index: &mut Self, name: &'a str, act: &mut dyn FnMut(&mut Conn<'a>)| {
            if let Some(conn) = index.conns.get_mut(name) {
                act(conn);
            }
        };
        match event {
            Event::Push(push) => {
                self.messages.entry(&push.id).or_default().push(push);
            }
            Event::Open {
                conn: name,
                user,
                v1,
                node,
                fd,
                inbox,
                topics,
                at,
            } => {
                let (v1, fd, opened) = (*v1, *fd, *at);
                self.conns.entry(name).or_insert(Conn {
                    name,
                    user,
                    v1,
                    node,
                    fd,
                    opened,
                    closes: Vec::new(),
                    byes: Vec::new(),
                    recvs: Vec::new(),
                    topics,
                    seats: vec![Seat {
                        of: user,
                        inbox,
                        since: opened,
                    }],
                    ids: HashSet::new(),
                    resyncs: Vec::new(),
                    degraded: false,
                });
            }
            Event::Subscribed {
                conn: name,
                topic,
                inbox,
                at,
            } => conn(self, name, &mut |conn| {
                conn.seats.push(Seat {
                    of: topic,
                    inbox,
                    since: *at,
                });
            }),
            Event::Recv {
                conn: name,
                id,
                to,
                kept,
                at,
            } => conn(self, name, &mut |conn| {
                conn.recvs.push(Recv {
                    id,
                    to,
                    kept: *kept,
                    at: *at,
                });
                conn.ids.insert(id);
            }),
            Event::Resync {
                conn: name,
                topic,
                at,
            } => conn(self, name, &mut |conn| {
                conn.resyncs.push((topic.as_deref(), *at));
            }),
            Event::Degraded { conn: name, .. } => {
                conn(self, name, &mut |conn| conn.degraded = true);
            }
            Event::Bye {
                conn: name, code, ..
            } => conn(self, name, &mut |conn| conn.byes.push(*code)),
            Event::Close {
                conn: name,
                cause,
                code,
                at,
            } => conn(self, name, &mut |conn| {
                conn.closes.push((*cause, *code, *at));
            }),
            Event::Fault {
                kind,
                node,
                at,
                until,
            } => {
                self.stalls.push((node.as_deref(), *at, *until));
                self.forgets |= matches!(&**kind, "redis-restart" | "flushall");
            }
            Event::Sample { node, lost, at } => {
                self.samples.entry(node).or_default().push((*at, *lost));
            }
            Event::End { at } => self.end = *at,
            _ => {}
        }
    }

    /// The end of `span` of time in which this node could work, from `from` on.
    pub(crate) fn after(&self, node: &str, from: Micros, span: Micros) -> Micros {
        let mut end = from + span;
        let mut counted = from;
        for (whom, at, until) in &self.stalls {
            if whom.is_some_and(|whom| whom != node) || *until <= counted || *at > end {
                continue;
            }
            end += until - (*at).max(counted);
            counted = *until;
        }
        end
    }

    /// Whether the node counted a loss between these times.
    pub(crate) fn counted_loss(&self, node: &str, from: Micros, until: Micros) -> bool {
        let samples = self.samples.get(node).map_or(&[][..], Vec::as_slice);
        let last = |time| samples.iter().rev().find(|(at, _)| *at <= time);
        let lost = |time| last(time).map_or(0.0, |sample| sample.1);
        lost(until + 2 * SECOND) > lost(from)
    }
}
