//! How many threads a node takes, and what it says where it gets too few.

use std::process::{Command, Stdio};

use crate::common::{node, node_command};

/// Beyond those that serve, as docs/operations.md says.
const OTHERS: usize = 40;

#[test]
fn a_node_takes_no_more_threads_than_it_is_told() {
    for count in [1, 3] {
        let node = node(&[("PUSH_THREADS", &count.to_string())]);
        let threads = std::fs::read_dir(format!("/proc/{}/task", node.pid()));
        let threads = threads.expect("its threads").count();
        assert!((count + 1..=count + OTHERS).contains(&threads), "{threads}");
    }
}

#[test]
fn a_node_that_gets_too_few_threads_says_so_and_ends() {
    let node = node_command(&[("PUSH_THREADS", "64")]);
    let mut command = Command::new("prlimit");
    command.arg("--nproc=24");
    // The limit is not for root.
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        command.args(["setpriv", "--reuid=65534", "--clear-groups"]);
    }
    command.arg(node.get_program()).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let set = node
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let output = command.envs(set).stdin(Stdio::null()).output();
    let output = output.expect("prlimit and setpriv of util-linux");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{words}");
    assert!(words.contains("does not give 68 threads"), "{words}");
    assert!(words.contains("PUSH_THREADS"), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
}
