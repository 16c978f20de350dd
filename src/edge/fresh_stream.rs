//! A TCP connection that was just accepted. Mostly its client's request is there by now, or its
//! bytes are the shard's to wait for: the runtime gets to watch the socket only if it must. That
//! saves a client the calls that tell the kernel of it twice.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::edge::peer::Stream;
use crate::local::shard::socket::Socket;

/// A socket that the runtime watches from its second read on, or from when the first one or a
/// write has to wait.
#[derive(Debug)]
pub(crate) struct FreshStream(State);

#[derive(Debug)]
enum State {
    Unread(mio::net::TcpStream),
    Read(mio::net::TcpStream),
    Watched(TcpStream),
    /// The runtime could not watch it.
    Lost,
}

impl FreshStream {
    pub(crate) fn new(stream: mio::net::TcpStream) -> Self {
        Self(State::Unread(stream))
    }

    /// The socket, watched by the runtime from now on.
    pub(crate) fn into_watched(mut self) -> io::Result<TcpStream> {
        self.watched()?;
        match self.0 {
            State::Watched(stream) => Ok(stream),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// The socket as the runtime watches it.
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Unread(stream) | State::Read(stream) => {
                State::Watched(TcpStream::from_std(stream.into())?)
            }
            other => other,
        };
        match &mut self.0 {
            State::Watched(stream) => Ok(Pin::new(stream)),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Reads without waiting, if that was not done before. None if there is nothing yet.
    fn read_at_once(&mut self, buffer: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let State::Unread(stream) = &mut self.0 else {
            return None;
        };
        let read = match stream.read(buffer.initialize_unfilled()) {
            Err(error) if waits(&error) => return None,
            read => read.map(|count| buffer.advance(count)),
        };
        if let State::Unread(stream) = std::mem::replace(&mut self.0, State::Lost) {
            self.0 = State::Read(stream);
        }
        Some(read)
    }

    /// Writes without waiting, unless the runtime watches the socket. None if there is no room.
    fn write_at_once(
        &mut self,
        write: impl FnOnce(&mut mio::net::TcpStream) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let (State::Unread(stream) | State::Read(stream)) = &mut self.0 else {
            return None;
        };
        match write(stream) {
            Err(error) if waits(&error) => None,
            written => Some(written),
        }
    }
}

/// Whether it may succeed later.
fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Stream for FreshStream {}

impl TryFrom<FreshStream> for Socket {
    type Error = io::Error;

    fn try_from(stream: FreshStream) -> io::Result<Self> {
        match stream.0 {
            State::Unread(stream) | State::Read(stream) => Ok(Self::Tcp(stream)),
            State::Watched(stream) => stream.try_into(),
            State::Lost => Err(ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for FreshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(read) = self.read_at_once(buffer) {
            return Poll::Ready(read);
        }
        self.watched()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for FreshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = self.write_at_once(|stream| stream.write(bytes)) {
            return Poll::Ready(written);
        }
        self.watched()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = self.write_at_once(|stream| stream.write_vectored(parts)) {
            return Poll::Ready(written);
        }
        self.watched()?.poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TCP has no buffer of ours.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            State::Unread(stream) | State::Read(stream) => {
                Poll::Ready(stream.shutdown(Shutdown::Write))
            }
            State::Watched(stream) => Pin::new(stream).poll_shutdown(context),
            State::Lost => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A client's end, and the node's.
    async fn pair() -> (TcpStream, FreshStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let client = client.await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let stream = stream.into_std().unwrap();
        (
            client,
            FreshStream::new(mio::net::TcpStream::from_std(stream)),
        )
    }

    fn is_watched(stream: &FreshStream) -> bool {
        matches!(stream.0, State::Watched(_))
    }

    #[tokio::test]
    async fn what_is_there_is_read_without_the_runtime() {
        let (mut client, mut stream) = pair().await;
        client.write_all(b"request").await.unwrap();
        let mut read = [0; 64];
        // On loopback it is there when the write is done.
        assert_eq!(stream.read(&mut read).await.unwrap(), 7);
        stream.write_all(b"answer").await.unwrap();
        assert!(!is_watched(&stream));
        assert_eq!(client.read(&mut read).await.unwrap(), 6);
        assert!(matches!(stream.try_into(), Ok(Socket::Tcp(_))));
    }

    #[tokio::test]
    async fn what_comes_later_is_waited_for() {
        let (mut client, mut stream) = pair().await;
        let mut read = [0; 64];
        let later = async {
            tokio::task::yield_now().await;
            client.write_all(b"request").await.unwrap();
        };
        let (count, ()) = tokio::join!(stream.read(&mut read), later);
        assert_eq!(count.unwrap(), 7);
        assert!(is_watched(&stream));
        stream.shutdown().await.unwrap();
        assert_eq!(client.read(&mut read).await.unwrap(), 0);
        assert!(matches!(stream.try_into(), Ok(Socket::Tcp(_))));
    }

    #[tokio::test]
    async fn a_write_waits_for_room() {
        let (mut client, mut stream) = pair().await;
        let bytes = vec![7; 16 * 1024 * 1024];
        let mut read = Vec::new();
        let write = async {
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (_, count) = tokio::join!(write, client.read_to_end(&mut read));
        assert_eq!(count.unwrap(), bytes.len());
        assert!(is_watched(&stream));
    }
}
