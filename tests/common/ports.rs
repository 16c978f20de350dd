//! Ports for programs of others, which take a number and cannot be given a listener.
//!
//! Between a look at a port and the moment when a program listens there, no other may get it, or
//! two tests share a server. So they are none of those that the kernel gives to who asks for any,
//! each test process has a block of them that no other has, and none is given twice within a
//! round of that block.

use std::fs::File;
use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const BLOCKS: u16 = 20;
/// Together they end below 32,768, where those of the kernel begin.
const BLOCK: u16 = 1_000;

/// The first port of this process's block. The lock on its file ends with the process.
struct Reserved {
    first: u16,
    next: AtomicU16,
    _lock: Option<File>,
}

impl Reserved {
    fn new() -> Self {
        let start = fastrand::u16(..BLOCKS);
        let mut blocks = (0..BLOCKS).map(|number| (start + number) % BLOCKS);
        let own = |block| locked(block).map(|lock| (block, Some(lock)));
        // With as many processes as blocks, or a folder that is not writable, one is shared.
        let (block, lock) = blocks.find_map(own).unwrap_or((start, None));
        Self {
            first: FIRST + block * BLOCK,
            next: AtomicU16::new(fastrand::u16(..BLOCK)),
            _lock: lock,
        }
    }
}

fn locked(block: u16) -> Option<File> {
    let path = std::env::temp_dir().join(format!("pushnode-test-ports-{block}"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// A port of 127.0.0.1 on which no program listens.
pub fn free_port() -> u16 {
    static RESERVED: LazyLock<Reserved> = LazyLock::new(Reserved::new);
    loop {
        let port = RESERVED.first + RESERVED.next.fetch_add(1, Ordering::Relaxed) % BLOCK;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
