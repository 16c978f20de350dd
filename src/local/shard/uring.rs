//! Many writes to sockets with one system call, by io_uring of Linux; the one file with `unsafe`.
//!
//! What must stay true: the kernel may read the bytes of a write until it has said that the write
//! is complete. So [`Ring::send`] borrows sockets and bytes, and does not return before it has
//! heard of every write that the kernel took. A write that the kernel did not take it never sees:
//! the ring is used no more, and is dropped.
//!
//! No write waits in the kernel: `MSG_DONTWAIT` has a full socket answer at once.

#[cfg(target_os = "linux")]
pub(crate) use linux::Ring;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::Ring;

/// Most writes of one call.
pub(crate) const ENTRIES: usize = 256;

/// The ring of a shard, made when it is first wanted: it takes a file and some memory.
pub(crate) enum RingOnDemand {
    /// Not wanted so far.
    Untried,
    /// It works.
    Made(Box<Ring>),
    /// There is none, or none is to be used.
    Without,
}

impl RingOnDemand {
    /// Whether there is one, or may be one.
    pub(crate) fn may_be(&self) -> bool {
        !matches!(self, Self::Without)
    }

    /// The ring, if there is one.
    pub(crate) fn get(&mut self) -> Option<&mut Ring> {
        if matches!(self, Self::Untried) {
            *self = Ring::probe().map_or(Self::Without, |ring| Self::Made(Box::new(ring)));
        }
        match self {
            Self::Made(ring) => Some(ring),
            _ => None,
        }
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the kernel gets addresses of bytes")]
mod linux {
    use std::io::{self, ErrorKind, Read};
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    use io_uring::{IoUring, Probe, opcode, types};

    use super::ENTRIES;

    /// io_uring_enter(2): wait for completions.
    const GET_EVENTS: u32 = 1;

    /// The queues that this process shares with the kernel.
    pub(crate) struct Ring {
        ring: IoUring,
        /// Holds writes that the kernel did not take: it must get no further call.
        is_broken: bool,
    }

    impl Ring {
        /// A ring that has shown that it works.
        ///
        /// # Errors
        /// If this kernel has none, or forbids it, as the seccomp profiles of many containers do.
        pub(crate) fn probe() -> io::Result<Self> {
            let ring = IoUring::new(ENTRIES as u32)?;
            let mut known = Probe::new();
            ring.submitter().register_probe(&mut known)?;
            if !known.is_supported(opcode::Send::CODE) {
                return Err(ErrorKind::Unsupported.into());
            }
            let mut ring = Self {
                ring,
                is_broken: false,
            };
            let (sender, mut receiver) = UnixStream::pair()?;
            let mut count = 0;
            ring.send(&[(sender.as_fd(), b"?")], |_, taken| count = taken)?;
            let mut byte = [0];
            if count != 1 || receiver.read(&mut byte)? != 1 || byte != *b"?" {
                return Err(ErrorKind::Unsupported.into());
            }
            Ok(ring)
        }

        /// Writes to each socket what belongs to it, in order, and tells how many bytes each place
        /// of the batch took: 0 if the socket is full or broken. At most [`ENTRIES`].
        ///
        /// # Errors
        /// When the kernel refuses. Places of which nothing was told have taken nothing, and the
        /// ring refuses everything from then on.
        pub(crate) fn send(
            &mut self,
            batch: &[(BorrowedFd<'_>, &[u8])],
            mut each: impl FnMut(usize, usize),
        ) -> io::Result<()> {
            if self.is_broken || batch.len() > ENTRIES {
                return Err(ErrorKind::InvalidInput.into());
            }
            // Until every write is complete: whatever returns or panics between leaves it so.
            self.is_broken = true;
            let mut queue = self.ring.submission();
            for (place, (socket, bytes)) in batch.iter().enumerate() {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let socket = types::Fd(socket.as_raw_fd());
                let entry = opcode::Send::new(socket, bytes.as_ptr(), length)
                    .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                    .build()
                    .user_data(place as u64);
                // SAFETY: socket and bytes are borrowed by `batch` for the whole call, which ends
                // when the kernel has completed all that it took (below and in `finish`).
                if unsafe { queue.push(&entry) }.is_err() {
                    return Err(ErrorKind::StorageFull.into());
                }
            }
            drop(queue);
            let mut left = batch.len();
            while left > 0 {
                let outcome = self.ring.submit_and_wait(left);
                left -= self.reap(&mut each);
                match outcome {
                    Err(error) if error.kind() != ErrorKind::Interrupted => {
                        self.finish(left, &mut each);
                        return Err(error);
                    }
                    _ => {}
                }
            }
            self.is_broken = false;
            Ok(())
        }

        /// Hands on the completions that are there; answers how many.
        fn reap(&mut self, each: &mut impl FnMut(usize, usize)) -> usize {
            let mut count = 0;
            for completion in self.ring.completion() {
                let taken = usize::try_from(completion.result()).unwrap_or(0);
                each(completion.user_data() as usize, taken);
                count += 1;
            }
            count
        }

        /// Waits for what the kernel took before it refused to take the rest.
        fn finish(&mut self, left: usize, each: &mut impl FnMut(usize, usize)) {
            let mut in_flight = left - self.ring.submission().len();
            while in_flight > 0 {
                // SAFETY: submits nothing, and passes no argument.
                let outcome = unsafe {
                    let wanted = in_flight as u32;
                    self.ring
                        .submitter()
                        .enter::<()>(0, wanted, GET_EVENTS, None)
                };
                if outcome.is_err_and(|error| error.kind() != ErrorKind::Interrupted) {
                    // The kernel still reads memory that we are about to give back.
                    std::process::abort();
                }
                in_flight -= self.reap(each);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write;

        use super::*;

        #[test]
        fn each_socket_gets_its_own_and_a_full_one_nothing() {
            let Ok(mut ring) = Ring::probe() else {
                eprintln!("no io_uring here");
                return;
            };
            let (mut full, _kept) = UnixStream::pair().unwrap();
            full.set_nonblocking(true).unwrap();
            while full.write(&[0; 4096]).is_ok() {}
            let (gone, other) = UnixStream::pair().unwrap();
            drop(other);
            let (one, mut first) = UnixStream::pair().unwrap();
            let (two, mut second) = UnixStream::pair().unwrap();
            for round in 0..3 {
                let batch: [(BorrowedFd<'_>, &[u8]); 4] = [
                    (one.as_fd(), b"one"),
                    (full.as_fd(), b"full"),
                    (gone.as_fd(), b"gone"),
                    (two.as_fd(), b"second"),
                ];
                let mut told = [None; 4];
                ring.send(&batch, |place, count| told[place] = Some(count))
                    .unwrap();
                assert_eq!(told, [Some(3), Some(0), Some(0), Some(6)], "{round}");
                let mut bytes = [0; 16];
                assert_eq!(first.read(&mut bytes).unwrap(), 3);
                assert_eq!(&bytes[..3], b"one");
                assert_eq!(second.read(&mut bytes).unwrap(), 6);
                assert_eq!(&bytes[..6], b"second");
            }
        }

        #[test]
        fn a_batch_fills_the_ring_and_no_more() {
            let Ok(mut ring) = Ring::probe() else {
                eprintln!("no io_uring here");
                return;
            };
            let (sender, mut receiver) = UnixStream::pair().unwrap();
            let mut batch = vec![(sender.as_fd(), &b"x"[..]); ENTRIES];
            let mut sum = 0;
            ring.send(&batch, |_, count| sum += count).unwrap();
            assert_eq!(sum, ENTRIES);
            let mut bytes = [0; 2 * ENTRIES];
            assert_eq!(receiver.read(&mut bytes).unwrap(), ENTRIES);
            batch.push((sender.as_fd(), b"x"));
            assert!(ring.send(&batch, |_, _| {}).is_err());
            batch.pop();
            ring.send(&batch, |_, _| {}).expect("nothing was broken");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;
    use std::os::fd::BorrowedFd;

    /// There is none on this system.
    pub(crate) enum Ring {}

    impl Ring {
        pub(crate) fn probe() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn send(
            &mut self,
            _: &[(BorrowedFd<'_>, &[u8])],
            _: impl FnMut(usize, usize),
        ) -> io::Result<()> {
            match *self {}
        }
    }
}
