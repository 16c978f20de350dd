//! What holds of the positions of devices on every backplane.

use crate::protocol::position::Position;

/// Most devices of one user whose positions are kept: their names are the clients' choice.
pub(crate) const MAX_DEVICES: usize = 64;

/// Of two positions of one device, the one that has read more.
pub(crate) fn newer(stored: Option<Position>, position: Position) -> Position {
    match stored {
        Some(stored) if stored.entry > position.entry => stored,
        _ => position,
    }
}

/// The devices whose positions go, beyond the bound: those that read longest ago, but not `newest`.
/// Each comes with the time of what it has read.
pub(crate) fn surplus<'a>(
    devices: impl Iterator<Item = (&'a str, u64)>,
    newest: &str,
) -> Vec<String> {
    let mut devices: Vec<_> = devices.filter(|(device, _)| *device != newest).collect();
    devices.sort_unstable_by_key(|(_, ms)| std::cmp::Reverse(*ms));
    let gone = devices.into_iter().skip(MAX_DEVICES - 1);
    gone.map(|(device, _)| device.to_owned()).collect()
}
