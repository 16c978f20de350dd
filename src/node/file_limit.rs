//! How many files this process may open, clients' sockets included.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The process's limit on open files, raised as far as the system lets us.
pub(super) fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current < maximum
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
        .is_ok()
    {
        return maximum.map_or(usize::MAX, |limit| limit as usize);
    }
    current.map_or(usize::MAX, |limit| limit as usize)
}
