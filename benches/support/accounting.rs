//! What a process has cost, from its own accounting in /proc.
//!
//! CPU is the sum over its threads of the first field of `schedstat` (nanoseconds on a core). The user/system split
//! in `stat` has ticks of 10 ms, so only the share is taken from there. But threads that have ended are counted in
//! `stat` only: where it says clearly more, it is believed.

use std::collections::HashMap;
use std::fs;
use std::ops::{Add, Div};

/// A tick of `stat` in microseconds (USER_HZ is 100 on Linux).
const TICK: f64 = 10_000.0;

/// CPU time in microseconds, or microseconds per something once divided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub total: f64,
    pub user: f64,
    pub system: f64,
}

impl Add for Cpu {
    type Output = Cpu;
    fn add(self, other: Cpu) -> Cpu {
        Cpu {
            total: self.total + other.total,
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Div<f64> for Cpu {
    type Output = Cpu;
    fn div(self, by: f64) -> Cpu {
        Cpu {
            total: self.total / by,
            user: self.user / by,
            system: self.system / by,
        }
    }
}

/// A reading of a process's CPU clocks, to be compared with a later one.
pub struct Meter {
    pid: u32,
    threads: HashMap<u32, u64>,
    ticks: (u64, u64),
}

impl Meter {
    pub fn start(pid: u32) -> Meter {
        Meter {
            pid,
            threads: thread_nanoseconds(pid),
            ticks: user_and_system_ticks(pid),
        }
    }

    /// Counts from the start of the process.
    pub fn from_birth(pid: u32) -> Meter {
        Meter {
            pid,
            threads: HashMap::new(),
            ticks: (0, 0),
        }
    }

    /// What the process spent since `start`.
    pub fn spent(&self) -> Cpu {
        let before = |thread: &u32| self.threads.get(thread).copied().unwrap_or(0);
        let by_threads: u64 = thread_nanoseconds(self.pid)
            .iter()
            .map(|(thread, now)| now.saturating_sub(before(thread)))
            .sum();
        let (user, system) = user_and_system_ticks(self.pid);
        let (user, system) = ((user - self.ticks.0) as f64, (system - self.ticks.1) as f64);
        let share = if user + system > 0.0 {
            user / (user + system)
        } else {
            0.0
        };
        // Both fields of `stat` are rounded down, so two ticks are within its error.
        let by_ticks = (user + system - 2.0) * TICK;
        let total = (by_threads as f64 / 1_000.0).max(by_ticks);
        Cpu {
            total,
            user: total * share,
            system: total * (1.0 - share),
        }
    }
}

/// Resident memory of a process in KiB: now (`VmRSS`) and at its highest (`VmHWM`).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: f64,
    pub highest: f64,
}

pub fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .unwrap_or(f64::NAN)
    };
    Memory {
        resident: field("VmRSS:"),
        highest: field("VmHWM:"),
    }
}

/// Memory of a process in KiB (`Pss`): a page that several processes share counts for each in part.
pub fn proportional_memory(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The processes that a process has started.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&process| stat(process, [1]) == [u64::from(pid)])
        .collect()
}

/// How many files and sockets a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn thread_nanoseconds(pid: u32) -> HashMap<u32, u64> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return HashMap::new();
    };
    threads
        .flatten()
        .filter_map(|entry| {
            let thread = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            Some((thread, text.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

fn user_and_system_ticks(pid: u32) -> (u64, u64) {
    let [user, system] = stat(pid, [11, 12]);
    (user, system)
}

/// Fields of `stat`, counted from 0 at the state of the process.
fn stat<const N: usize>(pid: u32, fields: [usize; N]) -> [u64; N] {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the command name in parentheses and may hold blanks: count from its end.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let words: Vec<&str> = after_name.split_whitespace().collect();
    fields.map(|at| {
        let word = words.get(at).and_then(|word| word.parse().ok());
        word.unwrap_or(0)
    })
}
