//! Command line of a bench program: `--name value` pairs from a table that is also its help text.
//!
//! `cargo bench` adds `--bench`; without it (`cargo test --benches`) a program does nothing.
//! `--role` marks a child that the program started from itself (see `rivals`).

use std::collections::HashMap;

use super::rivals;

/// An option: name, default, meaning.
pub type Known = (&'static str, &'static str, &'static str);

const COMMON: &[Known] = &[
    (
        "binary",
        env!("CARGO_BIN_EXE_pushnode"),
        "the pushnode to measure, to compare an older build",
    ),
    (
        "set",
        "",
        "extra settings of the nodes, comma separated: PUSH_X=1,PUSH_Y=2",
    ),
    (
        "save",
        "no",
        "`yes` also writes benches/runs/<date>-<machine>/<name>.txt",
    ),
];

pub struct Options {
    pub program: &'static str,
    values: HashMap<&'static str, String>,
}

impl Options {
    /// Reads the command line. Ends the process for `--help`, a mistake, a role, or a run by `cargo test`.
    pub fn read(program: &'static str, about: &str, known: &[Known]) -> Options {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        if arguments.first().is_some_and(|first| first == "--role") {
            rivals::run(&arguments[1..]);
        }
        let by_cargo_bench = arguments.iter().any(|argument| argument == "--bench");
        arguments.retain(|argument| argument != "--bench");

        let known: Vec<Known> = known.iter().chain(COMMON).copied().collect();
        let mut values: HashMap<_, _> = known
            .iter()
            .map(|&(name, default, _)| (name, default.to_owned()))
            .collect();
        let mut rest = arguments.into_iter().peekable();
        while let Some(argument) = rest.next() {
            let name = argument.strip_prefix("--").unwrap_or_default();
            match known.iter().find(|option| option.0 == name) {
                Some(&(name, ..)) if rest.peek().is_none_or(|next| next.starts_with("--")) => {
                    values.insert(name, "yes".to_owned());
                }
                Some(&(name, ..)) => {
                    values.insert(name, rest.next().unwrap_or_default());
                }
                None => {
                    println!("{about}\n\ncargo bench --bench {program} -- [options]");
                    for (name, default, meaning) in known {
                        println!("  --{name:<14} {meaning} (default: {default})");
                    }
                    std::process::exit(if name == "help" { 0 } else { 64 });
                }
            }
        }
        if !by_cargo_bench {
            println!("{program}: run by `cargo bench --bench {program}` only");
            std::process::exit(0);
        }
        Options { program, values }
    }

    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "yes"
    }

    pub fn number(&self, name: &str) -> usize {
        parse(name, self.text(name))
    }

    /// A comma-separated list of numbers.
    pub fn numbers(&self, name: &str) -> Vec<usize> {
        self.words(name)
            .into_iter()
            .map(|word| parse(name, word))
            .collect()
    }

    /// A comma-separated list of words.
    pub fn words(&self, name: &str) -> Vec<&str> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect()
    }
}

fn parse(name: &str, text: &str) -> usize {
    text.replace('_', "").parse().unwrap_or_else(|_| {
        eprintln!("--{name}: `{text}` is not a number");
        std::process::exit(64)
    })
}
