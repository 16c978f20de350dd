//! Where a node listens. All listeners are bound before anything else happens, so that a port that
//! is taken stops the start.
//!
//! A Unix socket's file belongs to its listener: dropping the listener removes the file.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

use crate::config::{Config, Listen};

/// Connections the kernel may hold for us to accept: a connect storm should wait, not fail.
pub(crate) const BACKLOG: i32 = 4_096;

/// A connection for HTTP without a byte on it is accepted only once it is so old. Mostly a node then
/// reads the request at once, and need not watch the socket before its shard does.
#[cfg(target_os = "linux")]
const SILENT_SECONDS: u32 = 1;

#[cfg(target_os = "linux")]
mod option {
    use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// When a listener hands a connection over that has sent nothing, in seconds (tcp(7)).
        DeferAccept,
        Both,
        libc::IPPROTO_TCP,
        libc::TCP_DEFER_ACCEPT,
        u32
    );
}

/// The listeners of a node.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) clients: Vec<Listener>,
    pub(crate) lines: Vec<Listener>,
    pub(crate) senders: Vec<Listener>,
    pub(crate) admin: Vec<Listener>,
}

/// A listener that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} ({variable}): {source}")]
pub struct CannotListen {
    listen: Listen,
    variable: &'static str,
    source: io::Error,
}

impl Listeners {
    /// Binds all listeners of the configuration.
    ///
    /// # Errors
    /// The first that cannot be bound.
    pub fn bind(config: &Config) -> Result<Self, CannotListen> {
        let bind = |listens: &[Listen], variable, speaks| {
            let one = |listen: &Listen| {
                Listener::bind(listen, speaks).map_err(|source| CannotListen {
                    listen: listen.clone(),
                    variable,
                    source,
                })
            };
            listens.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            clients: bind(&config.listen, "PUSH_LISTEN", First::Client)?,
            lines: bind(&config.tcp_listen, "PUSH_TCP_LISTEN", First::Either)?,
            senders: bind(&config.api_listen, "PUSH_API_LISTEN", First::Client)?,
            admin: bind(&config.admin_listen, "PUSH_ADMIN_LISTEN", First::Client)?,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn clients(&self) -> Vec<Listen> {
        self.clients.iter().map(Listener::address).collect()
    }

    /// Where clients connect by plain TCP.
    #[must_use]
    pub fn lines(&self) -> Vec<Listen> {
        self.lines.iter().map(Listener::address).collect()
    }

    /// Where senders call: with clients, unless they have listeners of their own.
    #[must_use]
    pub fn senders(&self) -> Vec<Listen> {
        if self.senders.is_empty() {
            return self.clients();
        }
        self.senders.iter().map(Listener::address).collect()
    }

    /// Where operators look.
    #[must_use]
    pub fn admin(&self) -> Vec<Listen> {
        self.admin.iter().map(Listener::address).collect()
    }
}

/// Who may speak first on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// As in HTTP.
    Client,
    /// A client of lines hears that a node leaves before it has said who it is.
    Either,
}

/// A socket that listens. Not the runtime's, which would at once watch what it accepts.
pub(crate) type TcpDoor = mio::net::TcpListener;

/// A listener with its port or path taken.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(AsyncFd<TcpDoor>, SocketAddr),
    /// Each connection begins with a PROXY header.
    Proxied(AsyncFd<TcpDoor>, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket. Dropping this removes the file.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another program may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(crate) fn bind(listen: &Listen, first: First) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let (listener, address) = Self::bind_tcp(*address, first)?;
                Ok(Self::Tcp(listener, address))
            }
            Listen::Proxied(address) => {
                let (listener, address) = Self::bind_tcp(*address, first)?;
                Ok(Self::Proxied(listener, address))
            }
            Listen::Unix(path) => {
                remove_dead_socket(path);
                Ok(Self::Unix(
                    UnixListener::bind(path)?,
                    SocketFile(path.clone()),
                ))
            }
        }
    }

    fn bind_tcp(address: SocketAddr, first: First) -> io::Result<(AsyncFd<TcpDoor>, SocketAddr)> {
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // A restarted node takes its port again while old connections still end.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Inherited by every connection it accepts, which saves each a call.
        socket.set_tcp_nodelay(true)?;
        #[cfg(not(target_os = "linux"))]
        let _ = first;
        #[cfg(target_os = "linux")]
        if first == First::Client {
            // A kernel that cannot do it has them accepted at once.
            let _ = nix::sys::socket::setsockopt(&socket, option::DeferAccept, &SILENT_SECONDS);
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let door = TcpDoor::from_std(socket.into());
        let address = door.local_addr()?;
        // Its successor is an unsafe function, because a type could hand out a file descriptor
        // that it closes without tokio's knowledge. Mio's listener owns its own until it is dropped.
        #[allow(deprecated)]
        let door = AsyncFd::with_interest(door, Interest::READABLE)?;
        Ok((door, address))
    }

    /// None over a Unix socket.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(_, address) | Self::Proxied(_, address) => Some(address.port()),
            Self::Unix(..) => None,
        }
    }

    /// Where it listens, as a person or a program would write it.
    fn address(&self) -> Listen {
        match self {
            Self::Tcp(_, address) => Listen::Tcp(*address),
            Self::Proxied(_, address) => Listen::Proxied(*address),
            Self::Unix(_, file) => Listen::Unix(file.0.clone()),
        }
    }
}

/// A killed node leaves its socket file in place. The file is removed if no process answers there;
/// anything else stays, and then binding says so.
fn remove_dead_socket(path: &Path) {
    let is_socket = path
        .metadata()
        .is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_do_not_delay_small_writes() {
        let any_port = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let Listener::Tcp(door, address) = Listener::bind(&any_port, First::Client).unwrap() else {
            panic!("TCP");
        };
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.try_write(b"GET").unwrap();
        let accepted = door.async_io(Interest::READABLE, TcpDoor::accept).await;
        let (accepted, _) = accepted.unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_client_is_accepted_with_its_first_bytes_or_after_a_while() {
        use std::io::Read;

        let any_port = Listen::Tcp("127.0.0.1:0".parse().unwrap());
        let Listener::Tcp(door, address) = Listener::bind(&any_port, First::Client).unwrap() else {
            panic!("TCP");
        };
        let silent = tokio::net::TcpStream::connect(address).await.unwrap();
        let speaks = tokio::net::TcpStream::connect(address).await.unwrap();
        speaks.try_write(b"GET").unwrap();
        let mut read = [0; 8];
        for (client, count) in [(&speaks, Some(3)), (&silent, None)] {
            let accepted = door.async_io(Interest::READABLE, TcpDoor::accept).await;
            let (mut accepted, of) = accepted.unwrap();
            assert_eq!(of, client.local_addr().unwrap());
            assert_eq!(accepted.read(&mut read).ok(), count);
        }
    }

    #[tokio::test]
    async fn a_dead_nodes_socket_file_is_taken_over_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(folder.path().join("node.sock"));
        let dead = std::os::unix::net::UnixListener::bind(folder.path().join("node.sock")).unwrap();
        drop(dead);
        let alive = Listener::bind(&listen, First::Either).unwrap();
        let error = Listener::bind(&listen, First::Either).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(alive);
        assert!(!folder.path().join("node.sock").exists());
    }
}
