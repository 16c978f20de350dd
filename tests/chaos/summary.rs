//! What runs came to, as text: one run with its rules, and the table over all of them, in the
//! form of docs/chaos-runs.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::checker::{RULES, Verdict};
use crate::history::Event;

/// What a history holds and what the rules say of it.
pub(crate) fn report(history: &[Event], verdicts: &[Verdict]) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for event in history {
        let name = match event {
            Event::Push(push) => {
                *answers.entry(&push.status).or_default() += 1;
                "pushes"
            }
            Event::Fault { kind, .. } => {
                *faults.entry(kind).or_default() += 1;
                "faults"
            }
            Event::Switched { .. } => "switched",
            Event::Open { .. } => "opened",
            Event::Close { .. } => "closed",
            Event::Recv { .. } => "received",
            Event::Resync { .. } => "resyncs",
            Event::Degraded { .. } => "degraded",
            _ => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
    let mut out = format!("  {counts:?}\n  answers {answers:?}\n  faults {faults:?}\n");
    for ((rule, words), verdict) in RULES.iter().zip(verdicts) {
        let Verdict {
            checked,
            broken,
            examples,
        } = verdict;
        let word = if *broken == 0 { "ok" } else { "BROKEN" };
        let _ = writeln!(
            out,
            "  {rule:<4}{word:<7}{words} ({checked} checked, {broken} broken)"
        );
        for example in examples {
            let _ = writeln!(out, "        {example}");
        }
    }
    for event in history {
        if let Event::Process {
            node,
            phase,
            fds,
            rss_kib,
            connections,
            ..
        } = event
        {
            let _ = writeln!(
                out,
                "  {node} {phase:?}: {fds} descriptors, {connections} connections, {rss_kib} KiB"
            );
        }
    }
    out
}

/// Whether every rule held.
pub(crate) fn is_clean(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.broken == 0)
}

/// The runs of one scenario: a row of the table.
#[derive(Debug, Default)]
struct Row {
    seeds: Vec<u64>,
    pushes: usize,
    received: usize,
    faults: BTreeMap<String, u64>,
    /// Of each seed that was not clean, what was found.
    broken: BTreeMap<u64, String>,
}

/// The table over all runs.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// By scenario, in the order of their first run.
    rows: Vec<(&'static str, Row)>,
}

impl Summary {
    fn row(&mut self, scenario: &'static str) -> &mut Row {
        let known = self.rows.iter().position(|(name, _)| *name == scenario);
        let at = known.unwrap_or_else(|| {
            self.rows.push((scenario, Row::default()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }

    pub(crate) fn add(
        &mut self,
        scenario: &'static str,
        seed: u64,
        history: &[Event],
        verdicts: &[Verdict],
    ) {
        let row = self.row(scenario);
        row.seeds.push(seed);
        for event in history {
            match event {
                Event::Push(_) => row.pushes += 1,
                Event::Recv { .. } => row.received += 1,
                Event::Fault { kind, .. } => *row.faults.entry(kind.clone()).or_default() += 1,
                Event::Switched { .. } => {
                    *row.faults.entry("sentinel-switch".to_owned()).or_default() += 1;
                }
                _ => {}
            }
        }
        let broken: Vec<String> = RULES
            .iter()
            .zip(verdicts)
            .filter(|(_, verdict)| verdict.broken > 0)
            .map(|((rule, _), verdict)| format!("{rule} ({})", verdict.broken))
            .collect();
        if !broken.is_empty() {
            row.broken.insert(seed, broken.join(", "));
        }
    }

    /// Notes a run that came to no verdict.
    pub(crate) fn add_unfinished(&mut self, scenario: &'static str, seed: u64) {
        let row = self.row(scenario);
        row.seeds.push(seed);
        row.broken.insert(seed, "not finished".to_owned());
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.rows.iter().all(|(_, row)| row.broken.is_empty())
    }

    /// The table in Markdown, and a line with its sums.
    pub(crate) fn table(&mut self) -> String {
        let mut out = "| scenario | seeds | pushes | received | faults | verdict |\n\
             | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
        let (mut runs, mut clean, mut pushes, mut received) = (0, 0, 0, 0);
        for (scenario, row) in &mut self.rows {
            row.seeds.sort_unstable();
            runs += row.seeds.len();
            clean += row.seeds.len() - row.broken.len();
            pushes += row.pushes;
            received += row.received;
            let faults = row.faults.iter().map(|(kind, n)| format!("{n} {kind}"));
            let faults: Vec<String> = faults.collect();
            let broken = row.broken.iter();
            let broken: Vec<String> = broken
                .map(|(seed, rules)| format!("seed {seed}: {rules}"))
                .collect();
            let verdict = if broken.is_empty() {
                "clean".to_owned()
            } else {
                broken.join("; ")
            };
            let _ = writeln!(
                out,
                "| `{scenario}` | {} | {} | {} | {} | {verdict} |",
                ranges(&row.seeds),
                grouped(row.pushes),
                grouped(row.received),
                faults.join(", "),
            );
        }
        let _ = write!(
            out,
            "\n{runs} runs, {} pushes, {} messages received; {clean} runs without a broken rule.",
            grouped(pushes),
            grouped(received)
        );
        out
    }
}

/// `1..3, 7` of sorted numbers.
fn ranges(numbers: &[u64]) -> String {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => spans.push((*number, *number)),
        }
    }
    let words = spans.iter().map(|(from, to)| match from == to {
        true => from.to_string(),
        false => format!("{from}..{to}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// `12,345`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
