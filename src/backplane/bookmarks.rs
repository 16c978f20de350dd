//! What holds of the positions of devices on every backplane.

use std::cmp::Reverse;

use crate::protocol::position::{Position, Unwritten};

/// Most devices of one user whose positions are kept: their names are the clients' choice.
pub(crate) const MAX_DEVICES: usize = 64;

/// Of two positions of one device, the one that has read more.
pub(crate) fn newer(stored: Option<Position>, position: Position) -> Position {
    match stored {
        Some(stored) if stored.entry > position.entry => stored,
        _ => position,
    }
}

/// When what it points at was written, in milliseconds of the store's clock; where nothing was, when
/// that was found.
pub(crate) fn time_of(position: &Position) -> u64 {
    match Unwritten::of(position) {
        Some(found) => u64::from(found.seconds) * 1000,
        None => position.entry.ms,
    }
}

/// The devices whose positions go, beyond the bound: those that read longest ago, but not `newest`.
/// Each comes with the time of what it has read. Of the same time, the first by name go: two nodes
/// that bound them at once choose the same.
pub(crate) fn surplus<'a>(
    devices: impl Iterator<Item = (&'a str, u64)>,
    newest: &str,
) -> Vec<String> {
    let mut devices: Vec<_> = devices.filter(|(device, _)| *device != newest).collect();
    devices.sort_unstable_by_key(|(device, ms)| Reverse((*ms, *device)));
    let gone = devices.into_iter().skip(MAX_DEVICES - 1);
    gone.map(|(device, _)| device.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::position::EntryId;

    #[test]
    fn two_nodes_that_bound_the_same_devices_choose_the_same() {
        let names: Vec<String> = (0..MAX_DEVICES + 2)
            .map(|number| format!("d{number:02}"))
            .collect();
        let all = || names.iter().map(|name| (name.as_str(), 7));
        let one = surplus(all(), &names[64]);
        let other = surplus(all().rev(), &names[65]);
        assert_eq!(one, ["d01", "d00"]);
        assert_eq!(other, one);
    }

    #[test]
    fn who_found_nothing_lately_stays_before_who_read_long_ago() {
        let found = |seconds| Unwritten { epoch: 1, seconds }.position();
        let read = |ms| Position {
            n: 1,
            entry: EntryId { ms, seq: 0 },
        };
        let mut all = vec![("found", found(1_000)), ("read", read(999_999))];
        let names: Vec<String> = (0..MAX_DEVICES - 1).map(|n| format!("d{n}")).collect();
        all.extend(names.iter().map(|name| (name.as_str(), read(2_000_000))));
        let times = all
            .iter()
            .map(|(name, position)| (*name, time_of(position)));
        assert_eq!(surplus(times, "d0"), ["read"]);
    }
}
