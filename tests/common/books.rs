//! The ledger of docs/operations.md: what a node's counters must add up to when it is quiet.

use std::collections::BTreeMap;
use std::fmt;

/// A node's metrics: `name{labels}`, without the prefix, and value.
pub type Values = BTreeMap<String, f64>;

/// Reads what `/metrics` says.
pub fn parse(text: &str) -> Values {
    let values = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("pushnode_")?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    values.collect()
}

/// The sum of a metric over its labels.
pub fn sum(values: &Values, name: &str) -> f64 {
    let ours = |key: &str| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
    };
    let ours = values.iter().filter(|(key, _)| ours(key));
    ours.map(|(_, value)| value).sum()
}

/// One account: what came in, and where all of it must be.
pub struct Account {
    pub name: &'static str,
    income: &'static [&'static str],
    outcome: &'static [&'static str],
}

/// All accounts, as docs/operations.md has them.
pub const ACCOUNTS: [Account; 4] = [
    Account {
        name: "shares",
        income: &["shares_total"],
        outcome: &["share_outcomes_total", "shares_under_way"],
    },
    Account {
        name: "lines",
        income: &["lines_total"],
        outcome: &["line_outcomes_total", "lines_under_way"],
    },
    Account {
        name: "arrivals",
        income: &["envelopes_total", "shares_here_total"],
        outcome: &[
            "arrivals_matched_total",
            "arrivals_unmatched_total",
            "arrivals_left_out_total",
            "duplicates_total",
            "looks_total",
        ],
    },
    Account {
        name: "messages",
        income: &["offered_total"],
        outcome: &[
            "written_total",
            "drops_total",
            "left_to_inbox_total",
            "waiting_messages",
        ],
    },
];

/// An account that does not add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    pub account: &'static str,
    pub income: f64,
    pub outcome: f64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            income,
            outcome,
        } = self;
        write!(
            f,
            "{account}: {income} came in, {outcome} are accounted for"
        )
    }
}

impl Account {
    /// What is missing or too much in it.
    pub fn gap(&self, values: &Values) -> Option<Gap> {
        let total = |names: &[&str]| names.iter().map(|name| sum(values, name)).sum::<f64>();
        let (income, outcome) = (total(self.income), total(self.outcome));
        (income != outcome).then_some(Gap {
            account: self.name,
            income,
            outcome,
        })
    }

    /// As docs/operations.md writes it.
    pub fn equation(&self) -> String {
        let side = |names: &[&str]| {
            let names = names.iter().map(|name| format!("pushnode_{name}"));
            names.collect::<Vec<_>>().join(" + ")
        };
        format!("{} = {}", side(self.income), side(self.outcome))
    }
}

/// All accounts of a node that do not add up.
pub fn gaps(values: &Values) -> Vec<Gap> {
    ACCOUNTS
        .iter()
        .filter_map(|account| account.gap(values))
        .collect()
}

/// That every label value of a counter is one that it has from the start.
pub fn check_labels(text: &str) {
    for line in text.lines() {
        let value = line
            .strip_prefix("pushnode_")
            .and_then(|line| line.split_once("_total{"))
            .and_then(|(name, rest)| Some((name, rest.split('"').nth(1)?)));
        if let Some((name, value)) = value {
            let known = pushnode::Metrics::known_labels(name);
            assert!(known.contains(&value), "not there from the start: {line}");
        }
    }
}
