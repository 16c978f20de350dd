//! What documents say of the configuration and the version is what the program does, and what
//! they show and link to is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use pushnode::{Config, VARIABLES};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `NAME=value` of a line `# PUSH_NAME=value`.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("# ")?.split_once('=')?;
    let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    (is_name && name.starts_with("PUSH_")).then_some((name, value))
}

#[test]
fn env_example_lists_every_variable_with_its_words_and_default() {
    let expected = pushnode::env_file();
    for variable in VARIABLES {
        let line = format!("\n# {}={}\n", variable.name, variable.default);
        assert!(expected.contains(&line), "{} is missing", variable.name);
    }
    assert!(
        read(".env.example") == expected,
        ".env.example differs from src/config/mod.rs: write it with `pushnode env > .env.example`; \
        it should read:\n\n{expected}"
    );
}

#[test]
fn env_example_loads_as_it_stands_and_with_every_line_uncommented() {
    let text = read(".env.example");
    for line in text.lines() {
        assert!(
            line.is_empty() || line.starts_with("# "),
            "a setting that is not commented out: {line}"
        );
    }
    let defaults = format!("{:?}", Config::from_pairs([]).unwrap());
    let settings: Vec<_> = text.lines().filter_map(setting).collect();
    assert_eq!(settings.len(), VARIABLES.len(), "{settings:#?}");
    let loaded = Config::from_pairs(settings).expect("no fault in it");
    assert_eq!(format!("{loaded:?}"), defaults);
}

#[test]
fn the_readme_lists_every_variable_with_its_default() {
    let text = read("README.md");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| `PUSH_") else {
            continue;
        };
        let mut cells = row.split('|');
        let name = format!("PUSH_{}", cells.next().unwrap().trim().trim_matches('`'));
        let default = cells.next().expect(line).trim().to_owned();
        let repeated = rows.insert(name, default);
        assert!(repeated.is_none(), "twice: {line}");
    }
    for variable in VARIABLES {
        let Some(cell) = rows.remove(variable.name) else {
            panic!("README.md has no row `| `{}` | ...`", variable.name);
        };
        let shown = match cell.strip_prefix('`').and_then(|cell| cell.split_once('`')) {
            Some((value, _)) => value,
            // An empty default may be told in words, but not in code.
            None => "",
        };
        assert_eq!(
            shown, variable.default,
            "the default of {} in README.md is {cell:?}",
            variable.name
        );
    }
    assert!(rows.is_empty(), "not a variable of ours: {rows:?}");
}

#[test]
fn the_changelog_has_this_version() {
    let text = read("CHANGELOG.md");
    let version = |line: &str| {
        let words = line.strip_prefix("## ")?;
        let word = words.split_whitespace().next()?;
        Some(word.trim_matches(['[', ']']).to_owned())
    };
    let versions: Vec<String> = text.lines().filter_map(version).collect();
    assert!(
        versions.iter().any(|version| version == pushnode::VERSION),
        "CHANGELOG.md has {versions:?}, Cargo.toml has {}",
        pushnode::VERSION
    );
}

/// The documents in these folders, named from the root of the project.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "docs", "benches", "k6", "tests/conformance"];
    let entries = folders.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(root.join(folder)).expect(folder);
        entries.map(|entry| entry.expect("an entry").path())
    });
    let mut documents: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .collect();
    documents.sort();
    documents
}

/// What a document links to and shows outside its examples: `](target)`, `src="target"`,
/// `srcset="target"`.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut is_example = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_example = !is_example;
        }
        if is_example {
            continue;
        }
        for (start, end) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')] {
            let rests = line.split(start).skip(1);
            targets.extend(rests.filter_map(|rest| Some(rest.split_once(end)?.0)));
        }
    }
    targets
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut links = 0;
    let mut broken = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a text");
        let folder = document.parent().expect("a folder");
        for target in targets(&text) {
            let (file, _) = target.split_once('#').unwrap_or((target, ""));
            if file.is_empty() || file.contains("://") {
                continue;
            }
            links += 1;
            if !folder.join(file).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(links > 20, "only {links} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Runs a script of ours that compares what it would write with what is there.
fn holds(script: &str, option: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new("python3").arg(script).arg(option).output();
    let output = output.expect("python3 runs; is it installed? `make setup` does that");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
}

#[test]
fn the_chart_is_what_its_script_makes_of_the_runs() {
    holds("scripts/bench-chart", "--check");
}

#[test]
fn the_tables_of_capacity_are_what_their_script_makes_of_the_costs() {
    holds("scripts/capacity", "--verify");
}

#[test]
fn the_two_pictures_of_the_shape_differ_in_their_colours_only() {
    let without_style = |name: &str| {
        let text = read(name);
        let (before, rest) = text.split_once("<style>").expect("a style");
        let (_, after) = rest.split_once("</style>").expect("its end");
        format!("{before}{after}")
    };
    let light = without_style("docs/images/shape-light.svg");
    assert_eq!(light, without_style("docs/images/shape-dark.svg"));
}
