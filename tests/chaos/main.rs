//! Chaos: nodes and Redis are killed, frozen, emptied and cut off while clients listen and
//! publishers publish; then a checker says from the history alone whether every promise held.
//!
//! Without arguments, as `cargo test` runs it: the checker is held against histories with a
//! planted fault each, and one short run must be clean. For more:
//!
//! ```text
//! cargo test --all-features --test chaos -- --scenario <name>|all --seeds 1..20 --seconds 60
//!            [--nodes 3] [--keep-history DIR]
//! cargo test --all-features --test chaos -- --check FILE
//! ```
//!
//! A seed decides the faults and their times, users, devices, addressees, sizes and
//! reconnects; it replays a run's schedule. What the operating system does with it is its own.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests in tests/cluster use more of it")]
#[path = "../cluster/redis_groups.rs"]
mod redis_groups;

mod access;
mod checker;
mod clients;
mod history;
mod index;
mod kept;
mod proofs;
mod proxy;
mod publishers;
mod resp;
mod run;
mod schedule;
mod stage;
mod topology;
mod views;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::checker::{RULES, Verdict};
use crate::history::Event;
use crate::run::{Outcome, Size};
use crate::schedule::{SCENARIOS, Scenario};

/// Where histories of runs go that broke a rule, unless told otherwise.
const KEPT: &str = "target/chaos";
const USAGE: &str = "usage: chaos [--scenario NAME|all] [--seeds A..B] [--seconds N] [--nodes N] [--keep-history DIR] | --check FILE";

#[derive(Debug, Default)]
struct Arguments {
    scenario: Option<String>,
    seeds: Option<RangeInclusive<u64>>,
    seconds: Option<u64>,
    nodes: Option<usize>,
    keep: Option<PathBuf>,
    check: Option<PathBuf>,
    /// As libtest takes them: what to run, by a part of its name.
    filters: Vec<String>,
    list: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments),
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text} is no number"))
        };
        match &*word {
            "--scenario" => arguments.scenario = Some(value()?),
            "--seeds" => arguments.seeds = Some(seeds(&value()?)?),
            "--seconds" => arguments.seconds = Some(number(value()?)?),
            "--nodes" => arguments.nodes = Some(number(value()?)?.clamp(1, 16) as usize),
            "--keep-history" => arguments.keep = Some(value()?.into()),
            "--check" => arguments.check = Some(value()?.into()),
            "--list" => arguments.list = true,
            // Options of libtest that `cargo test -- ...` hands to every test program.
            "--skip" | "--format" | "--color" | "--logfile" | "--test-threads" | "-Z" => {
                drop(value()?);
            }
            option if option.starts_with('-') => {}
            _ => arguments.filters.push(word),
        }
    }
    Ok(arguments)
}

/// `7`, or `1..20` with both ends.
fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    match (from.parse(), to.trim_start_matches('=').parse()) {
        (Ok(from), Ok(to)) if from <= to => Ok(from..=to),
        _ => Err(format!("{text}: seeds are A or A..B")),
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let well = if let Some(file) = &arguments.check {
        check_file(file)
    } else if arguments.scenario.is_some() || arguments.seeds.is_some() {
        long_runs(arguments)
    } else {
        as_a_test(arguments)
    };
    match well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::from(2)
        }
    }
}

fn check_file(file: &Path) -> Result<bool, String> {
    let history = history::load(file)?;
    Ok(report(&history, &checker::check(&history)))
}

/// What `cargo test` does, one name for each part.
fn as_a_test(arguments: &Arguments) -> Result<bool, String> {
    let wanted = |name: &str| {
        arguments.filters.is_empty() || arguments.filters.iter().any(|filter| name.contains(filter))
    };
    let names = [
        "chaos::checker_finds_planted_faults",
        "chaos::a_short_run_is_clean",
    ];
    if arguments.list {
        names
            .iter()
            .filter(|name| wanted(name))
            .for_each(|name| println!("{name}: test"));
        return Ok(true);
    }
    let mut well = true;
    if wanted(names[0]) {
        well &= proofs::run();
    }
    if wanted(names[1]) {
        let scenario = Scenario::named("client-kill").ok_or("no such scenario")?;
        let size = Size {
            nodes: 2,
            users: 12,
            senders: 4,
            length: Duration::from_secs(6),
        };
        well &= one_run(scenario, 1, size, None)?;
    }
    Ok(well)
}

fn long_runs(arguments: &Arguments) -> Result<bool, String> {
    let name = arguments.scenario.as_deref().unwrap_or("mixed");
    let known = || {
        SCENARIOS
            .iter()
            .map(|scenario| scenario.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let scenarios: Vec<&Scenario> = match name {
        "all" => SCENARIOS.iter().collect(),
        name => vec![
            Scenario::named(name)
                .ok_or_else(|| format!("no scenario {name}; there are {}", known()))?,
        ],
    };
    let size = Size {
        nodes: arguments.nodes.unwrap_or(3),
        users: 30,
        senders: 8,
        length: Duration::from_secs(arguments.seconds.unwrap_or(30)),
    };
    let mut broken = Vec::new();
    for seed in arguments.seeds.clone().unwrap_or(1..=1) {
        for scenario in &scenarios {
            if !one_run(scenario, seed, size, arguments.keep.as_deref())? {
                broken.push(format!("{} with seed {seed}", scenario.name));
            }
        }
    }
    if !broken.is_empty() {
        println!("broken: {}", broken.join(", "));
    }
    Ok(broken.is_empty())
}

/// Plays one scenario; answers whether it was clean.
fn one_run(
    scenario: &Scenario,
    seed: u64,
    size: Size,
    keep: Option<&Path>,
) -> Result<bool, String> {
    println!(
        "\nscenario {}, seed {seed}: {} nodes, {} users, faults for {:?}",
        scenario.name, size.nodes, size.users, size.length
    );
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(run::play(scenario, seed, size));
    let Outcome {
        history,
        verdicts,
        logs,
    } = outcome.map_err(|error| format!("the run could not be finished: {error}"))?;
    let well = report(&history, &verdicts);
    let folder = keep.or((!well).then_some(Path::new(KEPT)));
    if let Some(folder) = folder {
        let file = folder.join(format!("{}-{seed}.jsonl", scenario.name));
        history::save(&history, &file).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("  history: {}", file.display());
    }
    if !well {
        println!("{logs}");
        println!(
            "  again: cargo test --all-features --test chaos -- --scenario {} --seeds {seed} --seconds {} --nodes {}",
            scenario.name,
            size.length.as_secs(),
            size.nodes
        );
    }
    Ok(well)
}

/// Prints what a history holds and what the rules say; answers whether all of them held.
fn report(history: &[Event], verdicts: &[Verdict]) -> bool {
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
            Event::Open { .. } => "opened",
            Event::Close { .. } => "closed",
            Event::Recv { .. } => "received",
            Event::Resync { .. } => "resyncs",
            Event::Degraded { .. } => "degraded",
            _ => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
    println!("  {counts:?}\n  answers {answers:?}\n  faults {faults:?}");
    for ((rule, words), verdict) in RULES.iter().zip(verdicts) {
        let Verdict {
            checked,
            broken,
            examples,
        } = verdict;
        let word = if *broken == 0 { "ok" } else { "BROKEN" };
        println!("  {rule:<4}{word:<7}{words} ({checked} checked, {broken} broken)");
        examples
            .iter()
            .for_each(|example| println!("        {example}"));
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
            println!(
                "  {node} {phase:?}: {fds} descriptors, {connections} connections, {rss_kib} KiB"
            );
        }
    }
    verdicts.iter().all(|verdict| verdict.broken == 0)
}
