//! A history, looked up by what the checker's rules ask for. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Cause, EVERYBODY, Event, Inbox, Micros, News, Push, SECOND, topic};
use crate::wires::Wire;

/// A message that a connection got.
#[derive(Clone, Copy)]
pub(crate) struct Recv<'a> {
    pub(crate) id: &'a str,
    pub(crate) to: &'a [String],
    pub(crate) kept: bool,
    /// `<user> <node>/<fd>`.
    pub(crate) from: Option<&'a str>,
    pub(crate) at: Micros,
}

impl<'a> Recv<'a> {
    /// Where it lies if it is kept: in the topic's log, or the inbox of this user.
    pub(crate) fn log(&self, user: &'a str) -> &'a str {
        let topic = self.to.iter().find(|one| topic(one).is_some());
        topic.map_or(user, |topic| topic)
    }
}

/// Its user, or a topic: from when until when a connection must get what is for them.
pub(crate) struct Seat<'a> {
    pub(crate) of: &'a str,
    pub(crate) inbox: &'a Inbox,
    /// So many of the last messages come first.
    pub(crate) last: Option<u16>,
    /// Since when it may.
    pub(crate) asked: Micros,
    pub(crate) since: Micros,
    /// When it asked to leave.
    pub(crate) leaving: Micros,
    /// Until when it may.
    pub(crate) left: Micros,
}

/// A time in which a connection knew that it was not in the topic.
struct Gap<'a> {
    topic: &'a str,
    from: Micros,
    until: Micros,
}

/// A token by which a connection may stay.
#[derive(Clone, Copy)]
pub(crate) struct Leave {
    pub(crate) session: bool,
    pub(crate) ends: Micros,
}

/// A connection's life.
pub(crate) struct Conn<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: &'a str,
    pub(crate) v1: bool,
    pub(crate) wire: Wire,
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
    gaps: Vec<Gap<'a>>,
    /// From when until when its user's row may not have named it.
    unlisted: Vec<(Micros, Micros)>,
    /// When it asked for a topic last.
    asking: HashMap<&'a str, Micros>,
    /// Who is in these topics, as it was told last; none once no more is told.
    pub(crate) watched: BTreeMap<&'a str, Option<BTreeSet<&'a str>>>,
    /// The last of its tokens.
    pub(crate) token: Option<Leave>,
}

impl<'a> Conn<'a> {
    pub(crate) fn closed(&self) -> Micros {
        self.closes.first().map_or(Micros::MAX, |close| close.2)
    }

    /// Whether this message comes from an inbox or a log. Server-sent events do not tell it of topics.
    pub(crate) fn is_kept(&self, recv: &Recv<'_>, push: &Push) -> bool {
        recv.kept || push.kept && self.wire == Wire::Sse
    }

    /// Whether it is one of these, as far as it could know then.
    pub(crate) fn is_among(&self, to: &[String], at: Micros) -> bool {
        let left = |one: &str| {
            let mut gaps = self.gaps.iter();
            gaps.any(|gap| gap.topic == one && gap.from < at && at < gap.until)
        };
        to.iter().any(|one| {
            one == self.user || one == EVERYBODY || self.topics.contains(one) && !left(one)
        })
    }

    /// Whether it is in the topic then.
    pub(crate) fn is_in(&self, topic: &str, at: Micros) -> bool {
        let mut seats = self.seats.iter();
        self.closed() > at && seats.any(|seat| seat.of == topic && seat.leaving > at)
    }

    /// Whether its user's row may not have named it at some time between these.
    pub(crate) fn is_unlisted(&self, from: Micros, until: Micros) -> bool {
        let mut unlisted = self.unlisted.iter();
        unlisted.any(|(begin, end)| *begin <= until && from <= *end)
    }

    /// It has asked for the topic.
    fn ask(&mut self, topic: &'a str, presence: bool, at: Micros) {
        self.asking.insert(topic, at);
        let gaps = self.gaps.iter_mut();
        for gap in gaps.filter(|gap| gap.topic == topic && gap.until == Micros::MAX) {
            gap.until = at;
        }
        if presence {
            self.watched.insert(topic, Some(BTreeSet::new()));
        }
    }

    /// It asks to leave the topic, or knows that it has left.
    fn leave(&mut self, topic: &'a str, has_left: bool, at: Micros) {
        for seat in self.seats.iter_mut().filter(|seat| seat.of == topic) {
            seat.leaving = seat.leaving.min(at);
            if has_left {
                seat.left = seat.left.min(at);
            }
        }
        if has_left {
            self.watched.remove(topic);
            self.gaps.push(Gap {
                topic,
                from: at,
                until: Micros::MAX,
            });
        }
    }

    fn hear(&mut self, topic: &'a str, news: &'a News) {
        let Some(view) = self.watched.get_mut(topic) else {
            return;
        };
        match (news, &mut *view) {
            (News::Members(users), _) => *view = Some(users.iter().map(|user| &**user).collect()),
            (News::Join(users), Some(view)) => view.extend(users.iter().map(|user| &**user)),
            (News::Leave(users), Some(view)) => view.retain(|one| users.iter().all(|u| u != one)),
            (News::Lost, _) => *view = None,
            (_, None) => {}
        }
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
    /// When nodes that stood still were told to go on.
    pub(crate) thaws: Vec<(&'a str, Micros)>,
    pub(crate) end: Micros,
    /// Whether Redis was emptied, or some of it.
    pub(crate) forgets: bool,
    /// When rows of these topics were deleted.
    pub(crate) deleted: Vec<(&'a str, Micros)>,
    /// When Sentinels turned to another server by themselves.
    switches: Vec<Micros>,
    /// When the logs of these topics were erased.
    pub(crate) erasures: Vec<Erasure<'a>>,
}

/// That a topic's log, or one message of it, was erased, or may have been.
pub(crate) struct Erasure<'a> {
    pub(crate) topic: &'a str,
    pub(crate) id: Option<&'a str>,
    pub(crate) at: Micros,
    pub(crate) until: Micros,
    /// A node said that it was.
    pub(crate) is_done: bool,
}

impl<'a> Index<'a> {
    pub(crate) fn new(events: &'a [Event]) -> Self {
        let mut index = Self {
            events,
            conns: BTreeMap::new(),
            messages: BTreeMap::new(),
            stalls: Vec::new(),
            samples: HashMap::new(),
            thaws: Vec::new(),
            end: 0,
            forgets: false,
            deleted: Vec::new(),
            switches: Vec::new(),
            erasures: Vec::new(),
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
                wire,
                at,
            } => {
                let (v1, fd, opened) = (*v1, *fd, *at);
                self.conns.entry(name).or_insert(Conn {
                    name,
                    user,
                    v1,
                    wire: *wire,
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
                        last: None,
                        asked: opened,
                        since: opened,
                        leaving: Micros::MAX,
                        left: Micros::MAX,
                    }],
                    ids: HashSet::new(),
                    resyncs: Vec::new(),
                    degraded: false,
                    gaps: Vec::new(),
                    unlisted: Vec::new(),
                    asking: HashMap::new(),
                    watched: BTreeMap::new(),
                    token: None,
                });
            }
            Event::Subscribed {
                conn: name,
                topic,
                inbox,
                last,
                at,
            } => conn(self, name, &mut |conn| {
                conn.seats.push(Seat {
                    of: topic,
                    inbox,
                    last: *last,
                    asked: conn.asking.get(&**topic).copied().unwrap_or(*at),
                    since: *at,
                    leaving: Micros::MAX,
                    left: Micros::MAX,
                });
            }),
            Event::Subscribing {
                conn: name,
                topic,
                presence,
                at,
            } => conn(self, name, &mut |conn| conn.ask(topic, *presence, *at)),
            Event::Unsubscribing {
                conn: name,
                topic,
                at,
            } => conn(self, name, &mut |conn| conn.leave(topic, false, *at)),
            Event::Unsubscribed {
                conn: name,
                topic,
                at,
            } => conn(self, name, &mut |conn| conn.leave(topic, true, *at)),
            Event::Presence {
                conn: name,
                topic,
                news,
                ..
            } => conn(self, name, &mut |conn| conn.hear(topic, news)),
            Event::Token {
                conn: name,
                session,
                ends,
                ..
            } => conn(self, name, &mut |conn| {
                conn.token = Some(Leave {
                    session: *session,
                    ends: *ends,
                });
            }),
            Event::Recv {
                conn: name,
                id,
                to,
                kept,
                from,
                at,
            } => conn(self, name, &mut |conn| {
                conn.recvs.push(Recv {
                    id,
                    to,
                    kept: *kept,
                    from: from.as_deref(),
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
                self.forgets |= matches!(&**kind, "redis-restart" | "flushall" | "eviction");
            }
            Event::Thaw { node, at } => self.thaws.push((node, *at)),
            Event::Sample { node, lost, at } => {
                self.samples.entry(node).or_default().push((*at, *lost));
            }
            Event::RowsDeleted { conns, topics, at } => {
                let topics = topics.iter().map(|topic| (&**topic, *at));
                self.deleted.extend(topics);
                for name in conns {
                    conn(self, name, &mut |conn| {
                        conn.unlisted.push((*at, Micros::MAX));
                    });
                }
            }
            Event::Erased {
                topic,
                id,
                at,
                until,
                is_done,
            } => self.erasures.push(Erasure {
                topic,
                id: id.as_deref(),
                at: *at,
                until: *until,
                is_done: *is_done,
            }),
            Event::RowBack { conn: name, at } => conn(self, name, &mut |conn| {
                for (_, until) in &mut conn.unlisted {
                    *until = (*until).min(*at);
                }
            }),
            Event::Switched { at, .. } => self.switches.push(*at),
            Event::End { at } => self.end = *at,
            _ => {}
        }
    }

    /// The end of `span` of time in which this node could work, from `from` on.
    pub(crate) fn after(&self, node: &str, from: Micros, span: Micros) -> Micros {
        self.after_stalls(node, from, span, Micros::MAX)
    }

    /// The same, where only what had begun to hinder it by `told` counts.
    pub(crate) fn after_stalls(
        &self,
        node: &str,
        from: Micros,
        span: Micros,
        told: Micros,
    ) -> Micros {
        let mut end = from + span;
        let mut counted = from;
        for (whom, at, until) in &self.stalls {
            let is_other = whom.is_some_and(|whom| whom != node);
            if is_other || *until <= counted || *at > end.min(told) {
                continue;
            }
            end += until - (*at).max(counted);
            counted = *until;
        }
        end
    }

    /// Whether a kept message may be lost because Sentinels turned to another server by themselves:
    /// after its last attempt was answered, and before it had to be there.
    pub(crate) fn was_left_behind(&self, push: &Push, due: Micros) -> bool {
        let mut switches = self.switches.iter();
        switches.any(|at| (push.answered..=due).contains(at))
    }

    /// Whether a message that was kept in the topic's log may have been erased.
    pub(crate) fn is_erased(&self, topic: &str, push: &Push) -> bool {
        let mut erasures = self.erasures.iter();
        erasures.any(|erasure| {
            let is_meant = erasure.id.is_none_or(|id| id == push.id);
            is_meant && erasure.topic == topic && push.sent <= erasure.until
        })
    }

    /// Whether it was erased by then, or the whole log after it was kept.
    pub(crate) fn was_erased(&self, topic: &str, push: &Push, by: Micros) -> bool {
        let mut erasures = self.erasures.iter();
        erasures.any(|erasure| {
            let is_meant = erasure.id.is_none_or(|id| id == push.id);
            let is_over = push.answered < erasure.at && erasure.until < by;
            is_meant && erasure.topic == topic && erasure.is_done && is_over
        })
    }

    /// Whether the node counted a loss between these times.
    pub(crate) fn counted_loss(&self, node: &str, from: Micros, until: Micros) -> bool {
        let samples = self.samples.get(node).map_or(&[][..], Vec::as_slice);
        let last = |time| samples.iter().rev().find(|(at, _)| *at <= time);
        let lost = |time| last(time).map_or(0.0, |sample| sample.1);
        lost(until + 2 * SECOND) > lost(from)
    }
}
