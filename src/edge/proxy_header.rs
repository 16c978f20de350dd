//! The PROXY protocol, version 1 and 2: how a proxy that only passes on bytes names its client
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Demanded on listeners that are declared so (`proxy:host:port`), and read on the others where a
//! connection begins with one; in both cases only from trusted proxies, so that no client can name
//! itself. What must stay true: not a byte after the header is read, because that belongs to the
//! client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// How version 2 begins. No line of version 1 is shorter.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its end.
const LINE_BYTES: usize = 107;
/// Most bytes after the fixed part of version 2: addresses, and extensions that are skipped.
const EXTENSION_BYTES: u16 = 4096;

/// What comes first is no PROXY header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadHeader(&'static str);

/// Waits for the first bytes of a connection; answers whether they are those of a header, and leaves
/// them. Proxies send a header in one piece.
pub(crate) async fn is_next(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; SIGNATURE.len()];
    let count = stream.peek(&mut start).await?;
    Ok(start[..count].starts_with(b"PROXY ") || start == SIGNATURE)
}

/// Reads the header at the beginning of a connection. Answers the client's address; none if the
/// proxy speaks for itself, as in health checks, or does not know it.
pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<Result<Option<IpAddr>, BadHeader>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_binary(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        let words = "a connection without a PROXY header";
        return Ok(Err(BadHeader(words)));
    }
    let mut line = start.to_vec();
    let mut peeked = [0; LINE_BYTES];
    while !line.ends_with(b"\n") {
        let room = LINE_BYTES - line.len();
        if room == 0 {
            return Ok(Err(BadHeader("a PROXY line of over 107 bytes")));
        }
        let count = stream.peek(&mut peeked[..room]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = memchr::memchr(b'\n', &peeked[..count]);
        let count = end.map_or(count, |end| end + 1);
        stream.read_exact(&mut peeked[..count]).await?;
        line.extend_from_slice(&peeked[..count]);
    }
    Ok(parse_line(&line))
}

async fn read_binary(stream: &mut TcpStream) -> io::Result<Result<Option<IpAddr>, BadHeader>> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let length = u16::from_be_bytes([high, low]);
    if length > EXTENSION_BYTES {
        return Ok(Err(BadHeader("a PROXY header of over 4096 bytes")));
    }
    let mut rest = vec![0; usize::from(length)];
    stream.read_exact(&mut rest).await?;
    Ok(parse_binary(command, family, &rest))
}

fn parse_line(line: &[u8]) -> Result<Option<IpAddr>, BadHeader> {
    const BAD: BadHeader = BadHeader("a PROXY line that is not understood");
    let line = line.strip_suffix(b"\r\n").ok_or(BAD)?;
    let line = std::str::from_utf8(line).map_err(|_| BAD)?;
    let words: Vec<&str> = line.split(' ').collect();
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family, from, to, from_port, to_port]
            if is_port(from_port) && is_port(to_port) =>
        {
            let parse = |text: &str| -> Option<IpAddr> {
                match family {
                    "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
                    "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
                    _ => None,
                }
            };
            parse(to).ok_or(BAD)?;
            parse(from).ok_or(BAD).map(Some)
        }
        _ => Err(BAD),
    }
}

fn parse_binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<IpAddr>, BadHeader> {
    const SHORT: BadHeader = BadHeader("a PROXY header without its addresses");
    match (command, family) {
        // LOCAL: the proxy's own connection, whatever the rest says.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            // Two addresses and two ports.
            let from = rest.get(..12).and_then(|both| both.first_chunk::<4>());
            from.map(|from| Some((*from).into())).ok_or(SHORT)
        }
        (0x21, 0x21) => {
            let from = rest.get(..36).and_then(|both| both.first_chunk::<16>());
            from.map(|from| Some((*from).into())).ok_or(SHORT)
        }
        // A Unix socket, or nothing that it says.
        (0x21, _) => Ok(None),
        _ => Err(BadHeader("a PROXY header of an unknown version or command")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<String> {
        match parse_line(text.as_bytes()) {
            Ok(Some(address)) => Some(address.to_string()),
            Ok(None) => Some("proxy".to_owned()),
            Err(_) => None,
        }
    }

    #[test]
    fn lines_of_version_1() {
        for (text, expected) in [
            (
                "PROXY TCP4 192.0.2.1 127.0.0.1 5678 80\r\n",
                Some("192.0.2.1"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 5678 80\r\n",
                Some("2001:db8::1"),
            ),
            ("PROXY UNKNOWN\r\n", Some("proxy")),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Some("proxy")),
            ("PROXY TCP4 192.0.2.1 127.0.0.1 5678 80\n", None),
            ("PROXY TCP4 2001:db8::1 ::1 5678 80\r\n", None),
            ("PROXY TCP4 192.0.2.1 127.0.0.1 5678 65536\r\n", None),
            ("PROXY TCP4 192.0.2.1 127.0.0.1 5678\r\n", None),
            ("PROXY TCP4  192.0.2.1 127.0.0.1 5678 80\r\n", None),
            ("PROXY TCP5 192.0.2.1 127.0.0.1 5678 80\r\n", None),
            ("PROXY TCP4 192.0.2.256 127.0.0.1 5678 80\r\n", None),
            ("PROXY \r\n", None),
        ] {
            assert_eq!(line(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 1, 127, 0, 0, 1, 0, 1, 0, 2, 0xEE, 0, 0];
        let v6: [u8; 36] = std::array::from_fn(|i| u8::from(i == 15));
        let seen = |command, family, rest: &[u8]| match parse_binary(command, family, rest) {
            Ok(Some(address)) => address.to_string(),
            Ok(None) => "proxy".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(seen(0x21, 0x11, &v4), "192.0.2.1");
        assert_eq!(seen(0x21, 0x21, &v6), "::1");
        for (command, family, rest, expected) in [
            (0x20, 0x11, &v4[..], "proxy"),
            (0x20, 0x00, &[], "proxy"),
            (0x21, 0x00, &[], "proxy"),
            (0x21, 0x31, &v6, "proxy"),
            (0x21, 0x11, &v4[..11], "refused"),
            (0x21, 0x21, &v6[..35], "refused"),
            (0x11, 0x11, &v4, "refused"),
            (0x22, 0x11, &v4, "refused"),
        ] {
            assert_eq!(
                seen(command, family, rest),
                expected,
                "{command:x} {family:x}"
            );
        }
    }

    /// Sends these bytes in two parts; what was read, and what is left of them.
    async fn passed(bytes: &'static [u8], first: usize) -> (Option<IpAddr>, Vec<u8>) {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.set_nodelay(true).unwrap();
        let sending = tokio::spawn(async move {
            near.write_all(&bytes[..first]).await.unwrap();
            tokio::task::yield_now().await;
            near.write_all(&bytes[first..]).await.unwrap();
        });
        let address = read(&mut far).await.unwrap().unwrap();
        sending.await.unwrap();
        let mut left = Vec::new();
        far.read_to_end(&mut left).await.unwrap();
        (address, left)
    }

    #[tokio::test]
    async fn what_follows_the_header_is_left_for_the_client() {
        for header in [
            &b"PROXY TCP4 192.0.2.1 127.0.0.1 5678 80\r\nGET /\n"[..],
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xC0\0\x02\x01\x7F\0\0\x01\0\x01\0\x02GET /\n",
        ] {
            for first in 1..header.len() {
                let (address, left) = passed(header, first).await;
                assert_eq!(address, Some("192.0.2.1".parse().unwrap()), "{first}");
                assert_eq!(left, b"GET /\n", "{first}");
            }
        }
        let (address, left) = passed(b"PROXY UNKNOWN\r\n{}\n", 3).await;
        assert_eq!((address, &left[..]), (None, &b"{}\n"[..]));
    }
}
