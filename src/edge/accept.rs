//! Taking connections from a listener: one by one, and the rest at its end.

use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::edge::fresh_stream::FreshStream;
use crate::edge::listeners::{BACKLOG, Listener, TcpDoor};

/// A client, or a proxy, at the door.
pub(crate) enum Accepted {
    Tcp(FreshStream, SocketAddr),
    Proxied(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    fn tcp((stream, address): (mio::net::TcpStream, SocketAddr)) -> io::Result<Self> {
        Ok(Self::Tcp(FreshStream::new(stream), address))
    }

    fn proxied((stream, address): (mio::net::TcpStream, SocketAddr)) -> io::Result<Self> {
        Ok(Self::Proxied(TcpStream::from_std(stream.into())?, address))
    }
}

/// Waits for the next one.
pub(crate) async fn accept(listener: &Listener) -> io::Result<Accepted> {
    let over_tcp = |door: &TcpDoor| door.accept();
    match listener {
        Listener::Tcp(door, _) => {
            let accepted = door.async_io(Interest::READABLE, over_tcp).await?;
            Accepted::tcp(accepted)
        }
        Listener::Proxied(door, _) => {
            let accepted = door.async_io(Interest::READABLE, over_tcp).await?;
            Accepted::proxied(accepted)
        }
        Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

/// Who has connected by now: the kernel has let them in, and they may have sent a request.
pub(crate) fn the_rest(listener: Listener) -> Vec<Accepted> {
    type AcceptOne = Box<dyn Fn() -> io::Result<Accepted>>;
    // Not through the runtime, which may not have heard of them yet.
    let accept_one: Option<AcceptOne> = match listener {
        Listener::Tcp(door, _) => {
            let door = door.into_inner();
            Some(Box::new(move || Accepted::tcp(door.accept()?)))
        }
        Listener::Proxied(door, _) => {
            let door = door.into_inner();
            Some(Box::new(move || Accepted::proxied(door.accept()?)))
        }
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
