//! What docs/operations.md and deploy/alerts.yml say of metrics is what a node has.

use std::collections::BTreeSet;

use pushnode::Metrics;

use crate::common::books::{self, ACCOUNTS};
use crate::common::node;

fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The part of docs/operations.md under this heading.
fn section(heading: &str) -> String {
    let text = read("docs/operations.md");
    let (_, rest) = text
        .split_once(&format!("\n## {heading}\n"))
        .expect(heading);
    rest.split("\n## ").next().expect("a part").to_owned()
}

/// The headings inside a section.
fn headings(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect()
}

/// Names of ours in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("pushnode_"));
    ours.map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_with_its_words() {
    let mut expected =
        String::from("| metric | kind | label | meaning |\n| --- | --- | --- | --- |\n");
    for metric in Metrics::TABLE {
        let label = metric.label();
        let label = label.map_or(String::new(), |label| format!("`{label}`"));
        let (name, kind, help) = (metric.full_name(), metric.kind(), metric.help);
        expected += &format!("| `{name}` | {kind} | {label} | {help} |\n");
    }
    assert!(
        section("Metrics").contains(&expected),
        "the table in docs/operations.md should read:\n\n{expected}"
    );
}

#[tokio::test]
async fn a_node_shows_the_metrics_of_the_table_and_its_ledger_is_balanced() {
    let node = node(&[]);
    let text = node.metrics().await;
    let known: BTreeSet<String> = Metrics::TABLE.iter().map(|one| one.full_name()).collect();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in kinds {
        let (name, kind) = line.split_once(' ').expect("name and kind");
        let total = if kind == "counter" { "_total" } else { "" };
        assert!(known.contains(&format!("{name}{total}")), "{line}");
    }
    assert_eq!(books::gaps(&books::parse(&text)), []);
}

#[test]
fn documents_name_only_metrics_that_there_are() {
    let mut known: BTreeSet<String> = Metrics::TABLE.iter().map(|one| one.full_name()).collect();
    let histograms = Metrics::TABLE
        .iter()
        .filter(|one| one.kind() == "histogram");
    let buckets: Vec<String> = histograms.map(|one| one.full_name() + "_bucket").collect();
    known.extend(buckets);
    let documents = [
        "docs/operations.md",
        "deploy/alerts.yml",
        "README.md",
        "PROTOCOL.md",
        "docs/clients.md",
        "docs/http-api.md",
        "docs/redis.md",
        "docs/services.md",
    ];
    for document in documents {
        for name in names(&read(document)) {
            assert!(known.contains(&name), "{document} names {name}");
        }
    }
}

#[test]
fn the_ledger_is_documented_as_it_is_checked() {
    let text = section("Message ledger");
    // Each equation is a fenced block; it may be wrapped.
    let blocks = text.split("```text\n").skip(1);
    let shown: Vec<String> = blocks
        .map(|block| {
            let (inside, _) = block.split_once("\n```").expect("the end of a block");
            inside.split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(text.matches("```").count(), 2 * shown.len());
    let checked: Vec<String> = ACCOUNTS.iter().map(books::Account::equation).collect();
    assert_eq!(shown, checked);
}

/// A value that YAML takes as it stands, or in single quotes: no more of it is used.
fn is_plain(value: &str) -> bool {
    if let Some(quoted) = value.strip_prefix('\'') {
        return quoted
            .strip_suffix('\'')
            .is_some_and(|text| !text.contains('\''));
    }
    let starts_well = value.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts_well && !value.contains(": ") && !value.contains(" #") && !value.ends_with([' ', ':'])
}

#[test]
fn the_alerts_are_whole_and_documented() {
    let text = read("deploy/alerts.yml");
    let mut lines = text.lines().skip_while(|line| line.starts_with('#'));
    for first in ["groups:", "  - name: pushnode", "    rules:"] {
        assert_eq!(lines.next(), Some(first));
    }
    // In each rule these, in this order; `for` may be missing.
    let keys = [
        "      - alert: ",
        "        expr: ",
        "        for: ",
        "        labels:",
        "          severity: ",
        "        annotations:",
        "          summary: ",
    ];
    let (mut alerts, mut place) = (Vec::new(), 0);
    for line in lines {
        if place == 2 && !line.starts_with(keys[2]) {
            place += 1;
        }
        let value = line.strip_prefix(keys[place]);
        let value = value.unwrap_or_else(|| panic!("expected {:?}: {line}", keys[place]));
        let is_title = keys[place].ends_with(':');
        assert!(
            if is_title {
                value.is_empty()
            } else {
                is_plain(value)
            },
            "{line}"
        );
        if place == 0 {
            alerts.push(value.to_owned());
        }
        let brackets = |open, close| value.matches(open).count() == value.matches(close).count();
        assert!(
            brackets('(', ')') && brackets('{', '}') && brackets('[', ']'),
            "{line}"
        );
        place = (place + 1) % keys.len();
    }
    assert_eq!(place, 0, "the last rule is not whole");
    assert_eq!(headings(&section("Alerts")), alerts);
}

#[tokio::test]
async fn a_counter_has_all_its_labels_from_the_start() {
    let node = node(&[]);
    let text = node.metrics().await;
    for metric in Metrics::TABLE {
        let (Some(label), "counter") = (metric.label(), metric.kind()) else {
            continue;
        };
        let name = metric.full_name();
        let short = name.trim_start_matches("pushnode_");
        let values = Metrics::known_labels(short.trim_end_matches("_total"));
        assert!(!values.is_empty(), "{name} has no known labels");
        for value in values {
            let line = format!("{name}{{{label}=\"{value}\"}} ");
            assert!(text.contains(&line), "{line} is not there at the start");
        }
    }
}
