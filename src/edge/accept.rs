//! Taking connections from a listener: one by one, and the rest at its end.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::edge::listeners::{BACKLOG, Listener};

/// A client, or a proxy, at the door.
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Proxied(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Waits for the next one.
pub(crate) async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener, _) => {
            let (stream, address) = listener.accept().await?;
            Ok(Accepted::Tcp(stream, address))
        }
        Listener::Proxied(listener, _) => {
            let (stream, address) = listener.accept().await?;
            Ok(Accepted::Proxied(stream, address))
        }
        Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

/// Who has connected by now: the kernel has let them in, and they may have sent a request.
pub(crate) fn the_rest(listener: Listener) -> Vec<Accepted> {
    type AcceptOne = Box<dyn Fn() -> io::Result<Accepted>>;
    // Not through the runtime, which may not have heard of them yet.
    let over_tcp = |listener: TcpListener, wrap: fn(TcpStream, SocketAddr) -> Accepted| {
        let listener = listener.into_std().ok()?;
        let accept_one: AcceptOne = Box::new(move || {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok(wrap(TcpStream::from_std(stream)?, address))
        });
        Some(accept_one)
    };
    let accept_one = match listener {
        Listener::Tcp(listener, _) => over_tcp(listener, Accepted::Tcp),
        Listener::Proxied(listener, _) => over_tcp(listener, Accepted::Proxied),
        // Dropping the file first: no further client finds it.
        Listener::Unix(listener, _) => listener.into_std().ok().map(|listener| {
            let accept_one: AcceptOne = Box::new(move || {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Unix(UnixStream::from_std(stream)?))
            });
            accept_one
        }),
    };
    let Some(accept_one) = accept_one else {
        return Vec::new();
    };
    std::iter::from_fn(|| accept_one().ok())
        .take(BACKLOG as usize)
        .collect()
}
