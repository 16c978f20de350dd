//! How a command ends: its exit code and what it prints.

use std::io::Write as _;

/// The configuration or an argument is wrong (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;
/// A port, the node's name or Redis cannot be used (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;

/// Prints a result. Standard output may be closed, as in `pushnode env | head`.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
