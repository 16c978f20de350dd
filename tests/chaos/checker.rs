//! The off-line checker: a history in, one verdict for each rule out. Pure.
//!
//! A rule is about what was promised to publishers and clients, never about how a node works.
//! Where a promise has a time limit, only time counts in which the node concerned and Redis
//! could work: a frozen process cannot tell anybody anything.

use std::collections::{HashMap, HashSet};

use crate::common::books::{ACCOUNTS, sum};
use crate::history::{
    Cause, EVERYBODY, Event, FINAL, Field, HUNG_UP, Micros, Phase, Push, SECOND, TOPICS, TopicRows,
};
use crate::index::{Conn, Index, Recv};
use crate::{deaths, follows, kept, members, passed_over, presence, rows, senders, tokens};

/// A loss is told within 3 s, spread over 5 s more; the beat of a shard and a busy machine
/// take up to 2 s.
pub(crate) const WINDOW: Micros = (3 + 5 + 2) * SECOND;
/// Nothing comes later than this.
const LATEST: Micros = 30 * SECOND;
/// After this long on a node nobody should be told that a user is not there.
const SETTLED: Micros = 2 * SECOND;
/// The close code of a connection whose token has ended.
pub(crate) const TOKEN_ENDED: u16 = 4004;
/// Examples kept of each rule.
const EXAMPLES: usize = 5;
/// File descriptors a node may have more at the end than when warm, beside its clients': kept
/// connections of senders.
const MORE_FDS: i64 = 64;
/// Memory a node may have more at the end than when warm: buffers of the largest backlog.
const MORE_RSS_KIB: u64 = 192 * 1024;

/// The rules, in the order of their verdicts.
pub(crate) const RULES: [(&str, &str); 22] = [
    (
        "H0",
        "no node ends by itself; all are ready again after the last fault",
    ),
    (
        "H1",
        "nothing reaches another user, or who is not in the topic or has left it",
    ),
    ("H2", "nothing arrives that nobody published"),
    ("H3", "order by publisher and node, on each connection"),
    ("H4", "no duplicate unless the publisher repeated itself"),
    ("H5", "no silent loss, no false answer"),
    ("H6", "nothing arrives more than 30 s late"),
    ("H7", "after quiet, the registry is what is connected"),
    ("H8", "counters agree with what publishers and clients saw"),
    ("H9", "each connection ends once, with one reason"),
    ("H10", "descriptors and memory return to the warm baseline"),
    (
        "H11",
        "a client that resumes gets each kept message once, in order",
    ),
    (
        "H12",
        "on each live node the ledger is balanced: of every message it is known what became of it",
    ),
    (
        "H13",
        "after quiet, who watches a topic knows exactly who is in it",
    ),
    (
        "H14",
        "no connection outlives its token, and none ends by it before",
    ),
    ("H15", "a row that somebody deleted is back within 30 s"),
    (
        "H16",
        "who half-closes, or comes to a leaving node, is answered; nothing waits for who reads nothing",
    ),
    (
        "H17",
        "a dead node is found by one push, and one that vanished within 20 s",
    ),
    (
        "H18",
        "a node serves soon after the name leads to the primary, or the address answers again",
    ),
    (
        "H19",
        "a kept message that a client cannot take is passed over and told, and all after it come",
    ),
    (
        "H20",
        "what a member publishes names it, and does not come back to its connection",
    ),
    (
        "H21",
        "what was erased from a log comes to nobody who asks for the log after that",
    ),
];

/// What the checker says of one rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// How many times the rule was applied.
    pub(crate) checked: u64,
    pub(crate) broken: u64,
    pub(crate) examples: Vec<String>,
}

impl Verdict {
    pub(crate) fn expect(&mut self, holds: bool, say: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.broken += 1;
            if self.examples.len() < EXAMPLES {
                self.examples.push(say());
            }
        }
    }
}

/// The verdicts, in the order of [`RULES`].
pub(crate) fn check(events: &[Event]) -> Vec<Verdict> {
    let index = Index::new(events);
    let (sent_to_others, unknown) = addressees(&index);
    vec![
        lives(&index),
        sent_to_others,
        unknown,
        order(&index),
        duplicates(&index),
        losses(&index),
        lateness(&index),
        registry(&index),
        counters(&index),
        endings(&index),
        resources(&index),
        kept::check(&index),
        ledger(&index),
        presence::check(&index),
        tokens::check(&index),
        rows::check(&index),
        senders::check(&index),
        deaths::check(&index),
        follows::check(&index),
        passed_over::check(&index),
        members::named(&index),
        members::erased(&index),
    ]
}

fn lives(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        if let Event::Died { node, how, at } = event {
            verdict.expect(false, || format!("{node}: {how}, at {at}"));
        }
        verdict.checked += u64::from(matches!(event, Event::Metrics { .. }));
    }
    verdict
}

/// H1 and H2.
fn addressees(index: &Index<'_>) -> (Verdict, Verdict) {
    let (mut others, mut unknown) = (Verdict::default(), Verdict::default());
    for conn in index.conns.values() {
        for Recv { id, to, at, .. } in &conn.recvs {
            let push = index.messages.get(id).map(|attempts| attempts[0]);
            unknown.expect(push.is_some(), || {
                format!("{} got {id}, which nobody published, at {at}", conn.name)
            });
            let meant =
                conn.is_among(to, *at) && push.is_none_or(|push| conn.is_among(&push.to, *at));
            others.expect(meant, || {
                format!("{} of {} got {id} for {to:?} at {at}", conn.name, conn.user)
            });
        }
    }
    (others, unknown)
}

/// One publisher through one node, each request answered before the next: they arrive in order. Of
/// one batch that is said of what goes to users, or to one topic.
fn order(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for conn in index.conns.values() {
        // Kept messages may come behind others, but not behind each other in an inbox or log.
        let mut last: HashMap<(&str, &str, Option<&str>, &str), u64> = HashMap::new();
        let mut latest: HashMap<(&str, &str, Option<&str>), Micros> = HashMap::new();
        let mut seen = HashSet::new();
        for recv in &conn.recvs {
            let Recv { id, at, .. } = recv;
            let Some([push]) = index.messages.get(id).map(Vec::as_slice) else {
                continue;
            };
            // Its publisher has been told that it may come, or may not.
            let is_open = matches!(&*push.status, "unknown" | HUNG_UP)
                || push.reason.is_some() && *at > push.answered;
            if !seen.insert(*id) || is_open {
                continue;
            }
            let (by, via, lane) = (&*push.by, &*push.via, recv.log(conn.user));
            let log = conn.is_kept(recv, push).then_some(lane);
            let before = last.insert((by, via, log, lane), push.seq);
            let latest = latest.entry((by, via, log)).or_default();
            let holds = before.is_none_or(|before| before < push.seq) && *latest <= push.sent;
            verdict.expect(holds, || {
                format!("{} got {id}, sent {}, after number {before:?} and what was sent {latest}, at {at}", conn.name, push.sent)
            });
            *latest = push.sent.max(*latest);
        }
    }
    verdict
}

fn duplicates(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for conn in index.conns.values() {
        let mut seen = HashSet::new();
        for Recv { id, at, .. } in &conn.recvs {
            let repeated = index
                .messages
                .get(id)
                .is_some_and(|attempts| attempts.len() > 1);
            verdict.expect(seen.insert(*id) || repeated, || {
                format!("{} got {id} once more at {at}", conn.name)
            });
        }
    }
    verdict
}

/// What was answered is what happened, or the connection was told: by `resync` or a close; a
/// plain one cannot hear that, so its node must have counted a loss in the same time.
fn losses(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    // Since when and until when they must get it.
    let mut by_user: HashMap<&str, Vec<(&Conn<'_>, Micros, Micros)>> = HashMap::new();
    for conn in index.conns.values() {
        for seat in &conn.seats {
            let until = seat.leaving.min(conn.closed());
            let entry = by_user.entry(seat.of).or_default();
            entry.push((conn, seat.since, until));
        }
        let all = by_user.entry(EVERYBODY).or_default();
        all.push((conn, conn.opened, conn.closed()));
    }
    let deleted = |topic: &str, first: &Push, last: &Push| {
        let mut deleted = index.deleted.iter();
        deleted
            .any(|(of, at)| *of == topic && *at <= last.answered && first.sent <= at + rows::ROUND)
    };
    for (id, attempts) in &index.messages {
        let (first, last) = (attempts[0], attempts[attempts.len() - 1]);
        for part in &last.parts {
            let words = ["routed", "written", "acked", HUNG_UP];
            let taken = words.contains(&&*part.status) && last.reason.is_none();
            let denied = part.status == "offline" && attempts.len() == 1;
            for (conn, since, until) in by_user.get(&*part.user).into_iter().flatten() {
                if first.author.as_deref() == Some(conn.name) {
                    continue;
                }
                let settled = since + if taken { 0 } else { SETTLED };
                if settled >= first.sent || *until < last.sent {
                    continue;
                }
                // Who looks for them is told that they are not there.
                let is_unlisted =
                    part.user == conn.user && conn.is_unlisted(first.sent, last.answered);
                if is_unlisted || deleted(&part.user, first, last) {
                    continue;
                }
                if first.by == FINAL && !taken {
                    verdict.expect(false, || {
                        format!(
                            "{id} to {} was answered {}: {:?}",
                            conn.name, part.status, last.reason
                        )
                    });
                }
                if !taken && !denied || taken && part.connections == 0 {
                    continue;
                }
                let limit = index
                    .after(conn.node, last.answered, WINDOW)
                    .min(index.end.max(last.answered));
                let holds = conn.ids.contains(id)
                    || *until <= limit
                    || conn.told(&part.user, first.sent, limit)
                    || denied && conn.degraded
                    || !conn.v1 && index.counted_loss(conn.node, first.sent, limit);
                verdict.expect(holds, || {
                    format!(
                        "{} ({}, on {} since {}) did not get {id} to {}, sent {} by {} via {}, answered {} ({}), and was told nothing until {limit}",
                        conn.name, if conn.v1 { "v1" } else { "plain" }, conn.node, since, part.user, first.sent, first.by, last.via, part.status, part.connections,
                    )
                });
            }
        }
    }
    verdict
}

fn lateness(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for conn in index.conns.values() {
        for recv in &conn.recvs {
            let Recv { id, at, .. } = recv;
            let Some(attempts) = index.messages.get(id) else {
                continue;
            };
            if conn.is_kept(recv, attempts[0]) {
                // Kept for whoever comes back, which may be late.
                continue;
            }
            let push = attempts[attempts.len() - 1];
            let sent = push.sent;
            let there = index.after(conn.node, sent, LATEST);
            // A node that stood still with a request in its socket carries it out afterwards. Who
            // was told that it is on its way waits for that node no more.
            let proven = ["routed", "written", "acked"].contains(&&*push.status);
            let is_told = proven && push.reason.is_none();
            let told = if is_told { push.answered } else { Micros::MAX };
            let limit = there.max(index.after_stalls(&push.via, sent, LATEST, told));
            verdict.expect(*at <= limit, || {
                format!("{} got {id}, sent {sent}, only at {at}", conn.name)
            });
        }
    }
    verdict
}

fn registry(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        let Event::Registry { fields, topics, at } = event else {
            continue;
        };
        let there = members(index, *at);
        verdict.expect(*topics == there, || {
            format!("the rows of topics say {topics:?}; connected are {there:?}")
        });
        let mut rows: HashMap<&str, Vec<&Field>> = HashMap::new();
        for field in fields {
            rows.entry(&field.device).or_default().push(field);
            let conn = index.conns.get(&*field.device);
            let lives = conn.is_some_and(|conn| conn.user == field.user && conn.closed() > *at);
            verdict.expect(lives, || {
                let Field {
                    user,
                    field,
                    device,
                } = field;
                format!("the row of {user} names {field}, device {device}, which is not connected")
            });
        }
        for conn in index.conns.values().filter(|conn| conn.closed() > *at) {
            let fields = rows.get(conn.name).map_or(&[][..], Vec::as_slice);
            let right = |field: &Field| {
                let (node, fd) = field.field.rsplit_once('/').unwrap_or_default();
                node == conn.node && conn.fd.is_none_or(|known| fd == known.to_string())
            };
            verdict.expect(matches!(fields, [only] if right(only)), || {
                format!(
                    "{} of {} is connected to {}, its fields: {fields:?}",
                    conn.name, conn.user, conn.node
                )
            });
        }
    }
    verdict
}

/// Who is in which topic then.
fn members(index: &Index<'_>, at: Micros) -> TopicRows {
    let mut rows = TopicRows::new();
    for conn in index.conns.values() {
        for topic in TOPICS.into_iter().filter(|topic| conn.is_in(topic, at)) {
            let row = rows.entry(topic.to_owned()).or_default();
            *row.entry(conn.node.to_owned()).or_default() += 1;
        }
    }
    rows
}

fn counters(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        let Event::Metrics { node, values, .. } = event else {
            continue;
        };
        let mut answers: HashMap<&str, f64> = HashMap::new();
        let mut unknown = 0.0;
        for push in index
            .messages
            .values()
            .flatten()
            .filter(|push| push.via == *node)
        {
            // A member is not told whether there were others.
            if push.author.is_some() || matches!(&*push.status, "unknown" | HUNG_UP) {
                unknown += 1.0;
            } else {
                *answers.entry(&push.status).or_default() += 1.0;
            }
        }
        for status in [
            "routed",
            "written",
            "acked",
            "offline",
            "duplicate",
            "unrouted",
        ] {
            let counted = sum(values, &format!("pushes_total{{status=\"{status}\"}}"));
            let told = answers.get(status).copied().unwrap_or(0.0);
            verdict.expect((told..=told + unknown).contains(&counted), || {
                format!("{node} counts {counted} pushes {status}; its publishers were told so {told} times, {unknown} answers unknown")
            });
        }
        let here = || index.conns.values().filter(|conn| conn.node == *node);
        let received: usize = here().map(|conn| conn.recvs.len()).sum();
        let [delivered, written, drops] =
            ["deliveries_total", "written_total", "drops_total"].map(|name| sum(values, name));
        verdict.expect(received as f64 <= written, || {
            format!("{node} counts {written} messages written, its clients received {received}")
        });
        verdict.expect((written..=written + drops).contains(&delivered), || {
            format!(
                "{node} took {delivered} messages for clients, wrote {written}, dropped {drops}"
            )
        });
        let live = here().filter(|conn| conn.closed() == Micros::MAX).count() as f64;
        let gauge = sum(values, "connections");
        verdict.expect(gauge == live, || {
            format!("{node} counts {gauge} connections; there are {live}")
        });
    }
    verdict
}

/// The accounts of docs/operations.md. A node that was killed took its own with it.
fn ledger(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        if let Event::Metrics { node, values, .. } = event {
            for account in &ACCOUNTS {
                let gap = account.gap(values);
                verdict.expect(gap.is_none(), || {
                    gap.map_or(String::new(), |gap| format!("{node}: {gap}"))
                });
            }
        }
    }
    verdict
}

fn endings(index: &Index<'_>) -> Verdict {
    const LEGAL: [u16; 7] = [1002, 1008, 1012, 4001, 4002, 4003, TOKEN_ENDED];
    let mut verdict = Verdict::default();
    let killed: HashSet<&str> = index
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Fault { kind, node, .. } if kind == "node-kill" => node.as_deref(),
            Event::Died { node, .. } => Some(node),
            _ => None,
        })
        .collect();
    for conn in index.conns.values() {
        verdict.expect(conn.closes.len() <= 1, || {
            format!("{} ended {} times", conn.name, conn.closes.len())
        });
        let Some((cause, code, at)) = conn.closes.first() else {
            continue;
        };
        let holds = match cause {
            Cause::Lost => killed.contains(conn.node),
            Cause::Node => {
                let said = if conn.v1 {
                    conn.byes.as_slice()
                } else {
                    code.as_slice()
                };
                code.is_some_and(|code| LEGAL.contains(&code)) && said == code.as_slice()
            }
            Cause::Client | Cause::Dropped => conn.byes.len() <= 1,
        };
        verdict.expect(holds, || {
            format!(
                "{} on {} ended at {at}: {cause:?}, code {code:?}, bye {:?}",
                conn.name, conn.node, conn.byes
            )
        });
    }
    for event in index.events {
        if let Event::Metrics { node, values, .. } = event {
            let [connects, closes, now] =
                ["connects_total", "closes_total", "connections"].map(|name| sum(values, name));
            verdict.expect(connects == closes + now, || {
                format!(
                    "{node} let {connects} clients in, counts {closes} ends and {now} connections"
                )
            });
        }
    }
    verdict
}

fn resources(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut warm = HashMap::new();
    for event in index.events {
        let Event::Process {
            node,
            phase,
            fds,
            rss_kib,
            connections,
            ..
        } = event
        else {
            continue;
        };
        let other = *fds as i64 - *connections as i64;
        match phase {
            Phase::Warm => {
                warm.insert(node, (other, *rss_kib));
            }
            Phase::End => {
                let Some((others, rss)) = warm.get(node) else {
                    continue;
                };
                verdict.expect(other <= others + MORE_FDS, || {
                    format!(
                        "{node} holds {other} descriptors beside its clients, {others} when warm"
                    )
                });
                verdict.expect(*rss_kib <= rss * 2 + MORE_RSS_KIB, || {
                    format!("{node} has {rss_kib} KiB, {rss} when warm")
                });
            }
        }
    }
    verdict
}
