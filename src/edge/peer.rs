//! The other end of a socket that was accepted, before a shard owns it.
//!
//! The limits on time that count before a client is known are here, because every transport has
//! them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::local::admission::Permit;
use crate::local::shard::socket::Socket;

/// A request's headers must be here within this time, also the first ones on a new connection.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The address behind a socket, and its place under the node's caps.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// None over a Unix socket.
    pub(crate) address: Option<IpAddr>,
    pub(crate) permit: Arc<Permit>,
}

/// A socket that was accepted, over TCP or a Unix socket.
pub(crate) trait Stream:
    AsyncRead + AsyncWrite + Unpin + Send + TryInto<Socket, Error = io::Error> + 'static
{
}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Tells a client something and closes its socket.
pub(crate) async fn last_words(mut stream: impl Stream, words: impl AsRef<[u8]>) {
    let told = tokio::time::timeout(REFUSAL_TIMEOUT, async {
        stream.write_all(words.as_ref()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would send a reset, which can overtake the answer.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    });
    // The client has had its time, whether or not it has read the words.
    let _ = told.await;
}
