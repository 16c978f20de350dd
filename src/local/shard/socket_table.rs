//! The sockets of a shard by slot, apart from their connections: a broadcast to connections for
//! which nothing waits goes over this array alone, a quarter of a cache line for each.
//!
//! What must stay true: an entry is `clear` only while its connection is open, its queue empty and
//! its socket not full. `ShardTask::touch` ends that, as everything that queues a frame calls it;
//! so does the end of the connection. `ShardTask::emptied` begins it again.

use std::os::fd::{AsFd, BorrowedFd};

use crate::local::shard::socket::Socket;
use crate::local::shard::uring::Ring;
use crate::protocol::Dialect;

#[derive(Debug, Default)]
struct SocketEntry {
    socket: Option<Socket>,
    /// The dialect of the connection while a frame may go straight to the socket.
    clear: Option<Dialect>,
    /// Pushes written straight to the socket that the connection does not know of.
    pushes: u16,
    /// And their bytes.
    bytes: u32,
}

impl SocketEntry {
    /// Notes how many bytes of a frame the socket took.
    fn note(&mut self, count: usize, length: usize) -> SentAtOnce {
        let bytes = u32::try_from(count).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        if count < length {
            self.clear = None;
            return SentAtOnce::Part(count);
        }
        self.pushes = self.pushes.saturating_add(1);
        SentAtOnce::Whole
    }
}

/// The sockets, and which of them a frame may go to at once.
#[derive(Debug, Default)]
pub(crate) struct SocketTable(Vec<SocketEntry>);

/// What was written straight to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unnoted {
    pub(crate) pushes: u16,
    pub(crate) bytes: u32,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentAtOnce {
    /// It is in the socket.
    Whole,
    /// So much of it is in the socket, none if the socket is full, broken or not clear.
    Part(usize),
}

impl SocketTable {
    pub(crate) fn put(&mut self, slot: usize, socket: Socket) {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, SocketEntry::default);
        }
        self.0[slot] = SocketEntry {
            socket: Some(socket),
            ..SocketEntry::default()
        };
    }

    /// Closes the socket, if there is one.
    pub(crate) fn remove(&mut self, slot: usize) {
        if let Some(entry) = self.0.get_mut(slot) {
            *entry = SocketEntry::default();
        }
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&Socket> {
        self.0.get(slot)?.socket.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Socket> {
        self.0.get_mut(slot)?.socket.as_mut()
    }

    /// Frames may go straight to the socket, until [`SocketTable::hold`].
    pub(crate) fn clear(&mut self, slot: usize, dialect: Dialect) {
        if let Some(entry) = self.0.get_mut(slot) {
            entry.clear = Some(dialect);
        }
    }

    /// Frames must wait their turn in the queue.
    pub(crate) fn hold(&mut self, slot: usize) {
        if let Some(entry) = self.0.get_mut(slot) {
            entry.clear = None;
        }
    }

    /// Whether frames may go straight to the socket.
    pub(crate) fn is_clear(&self, slot: usize) -> bool {
        self.0.get(slot).is_some_and(|entry| entry.clear.is_some())
    }

    /// Writes a frame straight to the socket if that is clear, and holds it if that does not take
    /// all of it.
    pub(crate) fn send<'a>(
        &mut self,
        slot: usize,
        frame: impl FnOnce(Dialect) -> &'a [u8],
    ) -> SentAtOnce {
        let Some(entry) = self.0.get_mut(slot) else {
            return SentAtOnce::Part(0);
        };
        let (Some(dialect), Some(socket)) = (entry.clear, &mut entry.socket) else {
            return SentAtOnce::Part(0);
        };
        let frame = frame(dialect);
        // An error comes again when the queue is flushed, which knows what to do about it.
        let count = socket.write(frame).unwrap_or(0);
        entry.note(count, frame.len())
    }

    /// As [`SocketTable::send`] for many, with one system call; tells of each place among the slots
    /// what became of its frame. Answers whether the ring may be used again.
    pub(crate) fn send_many<'a>(
        &mut self,
        slots: &[usize],
        ring: &mut Ring,
        frame: impl Fn(usize, Dialect) -> &'a [u8],
        mut each: impl FnMut(usize, SentAtOnce),
    ) -> bool {
        let mut batch: Vec<(BorrowedFd<'_>, &[u8])> = Vec::with_capacity(slots.len());
        // The place, the length of its frame, and how much of that is in the socket.
        let mut sent: Vec<(usize, usize, usize)> = Vec::with_capacity(slots.len());
        for (place, &slot) in slots.iter().enumerate() {
            match self.0.get(slot) {
                Some(SocketEntry {
                    socket: Some(socket),
                    clear: Some(dialect),
                    ..
                }) => {
                    let frame = frame(place, *dialect);
                    batch.push((socket.as_fd(), frame));
                    sent.push((place, frame.len(), 0));
                }
                _ => each(place, SentAtOnce::Part(0)),
            }
        }
        let outcome = ring.send(&batch, |nth, count| sent[nth].2 = count);
        drop(batch);
        for (place, length, count) in sent {
            each(place, self.0[slots[place]].note(count, length));
        }
        outcome.is_ok()
    }

    /// What the connection is still to be told of, if anything.
    pub(crate) fn take_unnoted(&mut self, slot: usize) -> Option<Unnoted> {
        let entry = self.0.get_mut(slot).filter(|entry| entry.bytes > 0)?;
        let (pushes, bytes) = (entry.pushes, entry.bytes);
        (entry.pushes, entry.bytes) = (0, 0);
        Some(Unnoted { pushes, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn table() -> (SocketTable, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut table = SocketTable::default();
        let ours = mio::net::UnixStream::from_std(ours);
        table.put(3, Socket::Unix(ours));
        (table, theirs)
    }

    #[test]
    fn only_a_clear_socket_takes_a_frame_at_once() {
        let (mut table, mut theirs) = table();
        assert_eq!(table.send(3, |_| b"early"), SentAtOnce::Part(0));
        table.clear(3, Dialect::V1);
        assert_eq!(table.send(3, |_| b"first"), SentAtOnce::Whole);
        table.hold(3);
        assert_eq!(table.send(3, |_| b"queued"), SentAtOnce::Part(0));
        table.clear(3, Dialect::V1);
        assert_eq!(table.send(3, |_| b"second"), SentAtOnce::Whole);
        // Neither a slot without a socket nor one that never was.
        assert_eq!(table.send(0, |_| b"nowhere"), SentAtOnce::Part(0));
        assert_eq!(table.send(9, |_| b"nowhere"), SentAtOnce::Part(0));
        let noted = Unnoted {
            pushes: 2,
            bytes: 11,
        };
        assert_eq!(table.take_unnoted(3), Some(noted));
        assert_eq!(table.take_unnoted(3), None);
        table.remove(3);
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "firstsecond");
    }

    #[test]
    fn a_full_socket_is_held_and_says_how_much_it_took() {
        let (mut table, mut theirs) = table();
        let frame = vec![b'x'; 100_000];
        table.clear(3, Dialect::Plain);
        let mut whole = 0;
        let part = loop {
            match table.send(3, |_| &frame) {
                SentAtOnce::Whole => whole += 1,
                SentAtOnce::Part(count) => break count,
            }
        };
        assert!(!table.is_clear(3));
        let unnoted = table.take_unnoted(3).unwrap();
        assert_eq!(usize::from(unnoted.pushes), whole);
        assert_eq!(unnoted.bytes as usize, whole * frame.len() + part);
        table.remove(3);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        assert_eq!(heard.len(), unnoted.bytes as usize);
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn an_entry_is_a_quarter_of_a_cache_line() {
        assert_eq!(size_of::<SocketEntry>(), 16);
    }
}
