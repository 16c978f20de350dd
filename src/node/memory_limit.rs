//! How many bytes the queues of all clients may hold where `PUSH_MEMORY_BYTES` does not say.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::config::Config;

/// Of what the process may use: the rest is for connections, requests and what Redis sends.
const TENTHS: u64 = 6;
/// Control groups without a limit have a number near the largest.
const NO_LIMIT: u64 = 1 << 60;

/// The bound of the configuration, or one that fits the process's memory.
pub(super) fn of(config: &Config) -> usize {
    if config.memory_bytes > 0 {
        return config.memory_bytes;
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = of_groups(&groups, Path::new("/sys/fs/cgroup"));
    let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let address_space = getrlimit(Resource::As).current;
    let limits = [group, of_machine(&machine), address_space];
    let least = limits.into_iter().flatten().min();
    // Nothing is known where there is no /proc.
    least.map_or(usize::MAX, |least| {
        usize::try_from(least / 10 * TENTHS).unwrap_or(usize::MAX)
    })
}

/// The least limit of the process's control groups, those above them included. `mounted` is where
/// they are; inside a container only its own may be seen, at the top.
fn of_groups(groups: &str, mounted: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        // Number, controllers, path; version 2 has no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (top, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            one if one.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own = top.join(path.trim_start_matches('/'));
        let all = own.ancestors().take_while(|group| group.starts_with(&top));
        let read = |group: &Path| std::fs::read_to_string(group.join(file)).ok();
        // `max` where there is none.
        limits.extend(
            all.filter_map(read)
                .filter_map(|text| text.trim().parse::<u64>().ok()),
        );
    }
    limits.into_iter().filter(|limit| *limit < NO_LIMIT).min()
}

/// The memory of the machine.
fn of_machine(info: &str) -> Option<u64> {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = mounted.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let limit = |groups| of_groups(groups, mounted.path());
        assert_eq!(limit("0::/a/b\n"), None);
        put("a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), None);
        put("a/memory.max", "134217728\n");
        assert_eq!(limit("0::/a/b\n"), Some(134_217_728));
        assert_eq!(limit("0::/\n"), None);
        // Version 1, seen from inside of a container: its path is not there, its limit is.
        put("memory/memory.limit_in_bytes", "67108864\n");
        let groups = "5:pids:/x\n4:cpu,memory:/docker/x\n0::/\n";
        assert_eq!(limit(groups), Some(67_108_864));
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(groups), None);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let info = "MemTotal:       24731904 kB\nMemFree: 1 kB\n";
        assert_eq!(of_machine(info), Some(24_731_904 * 1024));
        assert_eq!(of_machine(""), None);
    }
}
