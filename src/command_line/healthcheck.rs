//! For a container's health check: an image without a shell has no curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, Listen};

/// How long a health check waits at each step.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(config: &Config) -> ExitCode {
    let alive = config.admin_listen.iter().any(|listen| match listen {
        Listen::Tcp(address) | Listen::Proxied(address) => {
            TcpStream::connect_timeout(address, CHECK_TIMEOUT).is_ok_and(|socket| {
                // The kernel accepts connections even for a process that is stuck.
                socket.set_read_timeout(Some(CHECK_TIMEOUT)).is_ok() && is_healthy(socket)
            })
        }
        Listen::Unix(path) => UnixStream::connect(path).is_ok_and(|socket| {
            socket.set_read_timeout(Some(CHECK_TIMEOUT)).is_ok() && is_healthy(socket)
        }),
    });
    if alive {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn is_healthy(mut socket: impl Read + Write) -> bool {
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut answer = [0; 12];
    socket.write_all(request.as_bytes()).is_ok()
        && socket.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 200"
}
