//! A client's socket, over TCP or a Unix socket: the few calls a shard makes on one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

/// A client's socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over TCP.
    Tcp(mio::net::TcpStream),
    /// Over a Unix socket, from a proxy on this machine.
    Unix(mio::net::UnixStream),
}

impl TryFrom<tokio::net::TcpStream> for Socket {
    type Error = io::Error;

    fn try_from(stream: tokio::net::TcpStream) -> io::Result<Self> {
        Ok(Self::Tcp(mio::net::TcpStream::from_std(stream.into_std()?)))
    }
}

impl TryFrom<tokio::net::UnixStream> for Socket {
    type Error = io::Error;

    fn try_from(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let stream = stream.into_std()?;
        Ok(Self::Unix(mio::net::UnixStream::from_std(stream)))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Lets the kernel give up the connection if the other side leaves unacknowledged for so long
    /// what was sent to it. A Unix socket's other side cannot vanish without a word.
    pub(crate) fn limit_silence(&self, limit: Duration) -> io::Result<()> {
        let Self::Tcp(socket) = self else {
            return Ok(());
        };
        let socket = socket2::SockRef::from(socket);
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(limit))?;
        // Where the kernel has no such limit, this finds out in the end.
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(limit))
    }

    /// Has the kernel say when there is something to read. Not yet when there is room to write: a
    /// new socket has room, and the kernel would say so at once.
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.register(registry, token, Interest::READABLE),
            Self::Unix(socket) => socket.register(registry, token, Interest::READABLE),
        }
    }

    /// Has the kernel say also when there is room to write. It says so at once if there is by now.
    pub(crate) fn await_room(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(socket) => socket.reregister(registry, token, interest),
            Self::Unix(socket) => socket.reregister(registry, token, interest),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    pub(crate) fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(slices),
            Self::Unix(socket) => socket.write_vectored(slices),
        }
    }

    /// As [`Socket::write_vectored`], for the last bytes before the socket is closed: the kernel
    /// keeps them back for the packet that ends the connection, and wakes the client once, not
    /// twice (`MSG_MORE`, tcp(7)). If the socket is not closed after all, they leave after 200 ms.
    pub(crate) fn write_last(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Tcp(socket) => socket2::SockRef::from(&*socket)
                .send_vectored_with_flags(slices, libc::MSG_MORE | libc::MSG_NOSIGNAL),
            _ => self.write_vectored(slices),
        }
    }

    /// Says that no more will come. An error means that the other side knows already.
    pub(crate) fn finish(&self) {
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_kernel_is_told_when_to_give_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let socket = Socket::try_from(stream.await.unwrap()).unwrap();
        let limit = Duration::from_secs(18);
        socket.limit_silence(limit).unwrap();
        let Socket::Tcp(socket) = &socket else {
            panic!("TCP");
        };
        let told = socket2::SockRef::from(socket).tcp_user_timeout();
        assert_eq!(told.unwrap(), Some(limit));
    }
}
