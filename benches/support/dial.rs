//! How a client's TCP connection is opened, where the kernel's defaults will not do.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// What differs from a plain connect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// Where to connect from. Ports are counted for each address, so several (all of 127/8 is loopback) allow more
    /// connections than there are ports.
    pub source: Option<SocketAddrV4>,
    /// Largest segment, which also decides how large the other side's send buffer is to begin with: on loopback, with
    /// segments of 64 KiB, that is 2.5 MiB; with those of a network it is some 80 KiB.
    pub segment: Option<u32>,
}

impl Dial {
    /// Begins to connect.
    pub fn connect(&self, server: SocketAddr) -> io::Result<TcpStream> {
        let domain = Domain::for_address(server);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = self.source {
            // The port may still be on record for a connection that is gone.
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::V4(source).into())?;
        }
        if let Some(bytes) = self.segment {
            socket.set_tcp_mss(bytes)?;
        }
        socket.set_nonblocking(true)?;
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => return Err(error),
            _ => {}
        }
        Ok(TcpStream::from_std(socket.into()))
    }
}

/// What a connect that does not wait answers.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
