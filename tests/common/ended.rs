//! Runs the program where it should end by itself.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command that should end by itself. Killed if it does not.
pub fn run(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pushnode starts");
    let start = Instant::now();
    let ended = loop {
        if child.try_wait().expect("our child").is_some() {
            break true;
        }
        if start.elapsed() > PATIENCE {
            break false;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let _ = child.kill();
    let output = child.wait_with_output().expect("our child");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let end = Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(ended, "did not end by itself: {end:#?}");
    end
}
