//! Taking connections from a listener: one by one, and the rest at its end.

use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;

use futures::FutureExt;
#[cfg(target_os = "linux")]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
    accept_by(listener, TcpDoor::accept).await
}

/// The next one, if it is here already. Over TCP the kernel is asked first: an accept that finds no
/// one costs ten times that, as it makes a socket before it looks.
pub(crate) fn accept_further(listener: &Listener) -> Option<io::Result<Accepted>> {
    let over_tcp = |door: &TcpDoor| match someone_waits(door) {
        true => door.accept(),
        false => Err(io::ErrorKind::WouldBlock.into()),
    };
    accept_by(listener, over_tcp).now_or_never()
}

#[cfg(target_os = "linux")]
fn someone_waits(door: &TcpDoor) -> bool {
    let mut asked = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
    // After an error an accept tells what is wrong.
    poll(&mut asked, PollTimeout::ZERO) != Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn someone_waits(_: &TcpDoor) -> bool {
    true
}

async fn accept_by(
    listener: &Listener,
    over_tcp: impl FnMut(&TcpDoor) -> io::Result<(mio::net::TcpStream, SocketAddr)>,
) -> io::Result<Accepted> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Listen;
    use crate::edge::listeners::First;

    #[tokio::test]
    async fn who_comes_after_a_look_in_vain_is_accepted() {
        let any_port = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = Listener::bind(&any_port, First::Either).unwrap();
        let address = ("127.0.0.1", listener.port().unwrap());
        for _ in 0..3 {
            assert!(accept_further(&listener).is_none());
            let _first = TcpStream::connect(address).await.unwrap();
            let _second = TcpStream::connect(address).await.unwrap();
            assert!(accept(&listener).await.is_ok());
            assert!(accept_further(&listener).unwrap().is_ok());
        }
    }
}
