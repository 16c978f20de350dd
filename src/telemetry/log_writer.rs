//! The way of log lines to standard error: into a buffer in memory, from which one thread writes.
//!
//! What must stay true: a task that logs never waits for the reader of the log. If the reader of a
//! pipe stands still, the buffer fills, and further lines are dropped and counted. Serving goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Maximum bytes that wait to be written.
const ROOM: usize = 1024 * 1024;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Lines dropped since a metric last took them.
static UNCOUNTED: AtomicU64 = AtomicU64::new(0);

/// The number of lines dropped since the last call.
pub(crate) fn newly_dropped() -> u64 {
    UNCOUNTED.swap(0, Ordering::Relaxed)
}

/// A cheap handle; all copies write to the same log.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    /// There is something to write, or everything is written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    waiting: Vec<u8>,
    /// Whether the thread is writing what it took.
    is_writing: bool,
    /// Lines dropped that the log has not told of.
    untold: u64,
}

impl LogWriter {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub fn start(out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = Self(shared.clone());
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(out))?;
        Ok(writer)
    }

    /// Writes this line as it stands.
    pub fn say(&self, line: &str) {
        self.put(format!("{line}\n").as_bytes());
    }

    /// Waits until everything is written, for a second at most.
    pub fn flush(&self) {
        let deadline = Instant::now() + LAST_LINES;
        let mut buffer = self.0.buffer.lock();
        while buffer.is_writing || !buffer.waiting.is_empty() {
            if self.0.changed.wait_until(&mut buffer, deadline).timed_out() {
                return;
            }
        }
    }

    fn put(&self, line: &[u8]) {
        let mut buffer = self.0.buffer.lock();
        if buffer.waiting.len() + line.len() > ROOM {
            buffer.untold += 1;
            UNCOUNTED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.waiting.extend_from_slice(line);
        drop(buffer);
        self.0.changed.notify_all();
    }
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Writes until the process ends.
    fn write_to(&self, mut out: impl io::Write) {
        let mut taken = Vec::new();
        loop {
            let mut buffer = self.buffer.lock();
            buffer.is_writing = false;
            if buffer.waiting.is_empty() {
                self.changed.notify_all();
                let dropped = std::mem::take(&mut buffer.untold);
                if dropped > 0 {
                    // This thread logs into its own buffer.
                    drop(buffer);
                    tracing::warn!(
                        lines = dropped,
                        "log lines were dropped: standard error took none"
                    );
                    buffer = self.buffer.lock();
                }
            }
            while buffer.waiting.is_empty() {
                self.changed.wait(&mut buffer);
            }
            std::mem::swap(&mut buffer.waiting, &mut taken);
            buffer.is_writing = true;
            drop(buffer);
            // A log that is closed takes no lines. The node goes on.
            let _ = out.write_all(&taken).and_then(|()| out.flush());
            taken.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write as _;
    use std::sync::mpsc;

    /// Takes bytes only while the other end asks for them.
    struct Gate(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl io::Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_does_not_wait_and_what_has_room_is_written() {
        let (open, opened) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let mut writer = LogWriter::start(Gate(opened, written.clone())).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // Twice the room, besides what the thread took before it stood still.
        for _ in 0..2 * ROOM / line.len() + 1 {
            writer.write_all(&line).unwrap();
        }
        assert!(writer.0.buffer.lock().untold > 0);
        let before = Instant::now();
        writer.flush();
        assert!(before.elapsed() >= LAST_LINES, "it stands still");
        for _ in 0..10 {
            open.send(()).unwrap();
        }
        writer.flush();
        let written = written.lock().len();
        assert!(written >= ROOM - line.len(), "{written} bytes");
        assert_eq!(written % line.len(), 0, "whole lines");
        assert!(newly_dropped() > 0);
    }
}
