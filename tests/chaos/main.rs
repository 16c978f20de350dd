//! Chaos: nodes and Redis are killed, frozen, emptied and cut off while clients listen and
//! publishers publish; then a checker says from the history alone whether every promise held.
//!
//! Without arguments, as `cargo test` runs it: the checker is held against histories with a
//! planted fault each, and two short runs must be clean. For more:
//!
//! ```text
//! cargo test --all-features --test chaos -- --scenario <name>|all --seeds 1..20 --seconds 60
//!            [--nodes 3] [--jobs 2] [--keep-history DIR]
//! cargo test --all-features --test chaos -- --scenario upgrade --last-release PROGRAM
//! cargo test --all-features --test chaos -- --check FILE
//! ```
//!
//! At the end stands a table in the form of docs/chaos-runs.md. With `--jobs` runs go side by side.
//! They share nothing but the machine: one that holds this process up is written down as a fault.
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
mod deaths;
mod follows;
mod history;
mod index;
mod kept;
mod members;
mod mishaps;
mod names;
mod passed_over;
mod passes;
mod presence;
mod proofs;
mod proxy;
mod publishers;
mod resp;
mod rows;
mod run;
mod schedule;
mod senders;
mod stage;
mod stumbles;
mod summary;
mod switches;
mod tokens;
mod topology;
mod views;
mod wires;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::run::{Outcome, Size};
use crate::schedule::{SCENARIOS, Scenario};
use crate::summary::Summary;

/// Where histories of runs go that broke a rule, unless told otherwise.
const KEPT: &str = "target/chaos";
/// What `cargo test` plays, side by side.
const SHORT_RUNS: [&str; 2] = ["client-kill", "tokens"];
const USAGE: &str = "usage: chaos [--scenario NAME|all] [--seeds A..B] [--seconds N] [--nodes N] [--jobs N] [--keep-history DIR] [--last-release PROGRAM] | --check FILE";

#[derive(Debug, Default)]
struct Arguments {
    scenario: Option<String>,
    seeds: Option<RangeInclusive<u64>>,
    seconds: Option<u64>,
    nodes: Option<usize>,
    /// How many runs side by side.
    jobs: Option<usize>,
    keep: Option<PathBuf>,
    check: Option<PathBuf>,
    last_release: Option<PathBuf>,
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
            "--jobs" => arguments.jobs = Some(number(value()?)?.clamp(1, 8) as usize),
            "--nodes" => arguments.nodes = Some(number(value()?)?.clamp(1, 16) as usize),
            "--keep-history" => arguments.keep = Some(value()?.into()),
            "--last-release" => arguments.last_release = Some(value()?.into()),
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
    let verdicts = checker::check(&history);
    print!("{}", summary::report(&history, &verdicts));
    Ok(summary::is_clean(&verdicts))
}

/// What `cargo test` does, one name for each part.
fn as_a_test(arguments: &Arguments) -> Result<bool, String> {
    let wanted = |name: &str| {
        arguments.filters.is_empty() || arguments.filters.iter().any(|filter| name.contains(filter))
    };
    let names = [
        "chaos::checker_finds_planted_faults",
        "chaos::short_runs_are_clean",
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
        let size = Size {
            nodes: 2,
            users: 12,
            senders: 4,
            length: Duration::from_secs(6),
            last_release: None,
        };
        let named = |name| Scenario::named(name).map(|scenario| (scenario, 1));
        let runs: Option<Vec<_>> = SHORT_RUNS.into_iter().map(named).collect();
        let runs = runs.ok_or("no such scenario")?;
        well &= play_all(runs, SHORT_RUNS.len(), &size, None);
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
        last_release: arguments.last_release.clone(),
    };
    let seeds = arguments.seeds.clone().unwrap_or(1..=1);
    let runs = seeds.flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)));
    let jobs = arguments.jobs.unwrap_or(1);
    Ok(play_all(
        runs.collect(),
        jobs,
        &size,
        arguments.keep.as_deref(),
    ))
}

/// Plays these scenarios with their seeds, so many side by side, and prints the table over all.
/// Each has servers, folders and a runtime of its own; what it says is printed in one piece.
/// Answers whether all were clean.
fn play_all(
    runs: Vec<(&'static Scenario, u64)>,
    jobs: usize,
    size: &Size,
    keep: Option<&Path>,
) -> bool {
    let (runs, summary) = (Mutex::new(runs.into_iter()), Mutex::default());
    let next = || lock(&runs).next();
    let work = || {
        while let Some((scenario, seed)) = next() {
            let text = one_run(scenario, seed, size, keep, &summary);
            // Under the lock, so that no other run's lines come in between.
            let _printing = lock(&summary);
            print!("{text}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let mut summary: Summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("\n{}", summary.table());
    summary.is_clean()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays one scenario, adds it to the summary, and answers what is to be said of it.
fn one_run(
    scenario: &'static Scenario,
    seed: u64,
    size: &Size,
    keep: Option<&Path>,
    summary: &Mutex<Summary>,
) -> String {
    let mut text = format!(
        "\nscenario {}, seed {seed}: {} nodes, {} users, faults for {:?}\n",
        scenario.name, size.nodes, size.users, size.length
    );
    let again = format!(
        "  again: cargo test --all-features --test chaos -- --scenario {} --seeds {seed} --seconds {} --nodes {}\n",
        scenario.name,
        size.length.as_secs(),
        size.nodes
    );
    let play = || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(run::play(scenario, seed, size.clone()))
    };
    // What helps a test may fail as a test does; the other runs go on.
    let outcome = match std::panic::catch_unwind(play) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked".to_owned()),
    };
    let Outcome {
        history,
        verdicts,
        logs,
    } = match outcome {
        Ok(outcome) => outcome,
        Err(fault) => {
            lock(summary).add_unfinished(scenario.name, seed);
            return format!("{text}  BROKEN: the run could not be finished: {fault}\n{again}");
        }
    };
    text += &summary::report(&history, &verdicts);
    lock(summary).add(scenario.name, seed, &history, &verdicts);
    let well = summary::is_clean(&verdicts);
    let folder = keep.or((!well).then_some(Path::new(KEPT)));
    if let Some(folder) = folder {
        let file = folder.join(format!("{}-{seed}.jsonl", scenario.name));
        text += &match history::save(&history, &file) {
            Ok(()) => format!("  history: {}\n", file.display()),
            Err(error) => format!("  history not saved: {}: {error}\n", file.display()),
        };
    }
    if !well {
        text += &format!("{logs}\n{again}");
    }
    text
}
