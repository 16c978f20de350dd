//! NATS's own protocol, as much as the benches need: what clients say, and what a server says to them.

/// What a client says first. Without `verbose` the server does not confirm each line.
pub const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
pub const PONG: &[u8] = b"PONG\r\n";

/// What a receiver says first. The `PONG` comes after the server has the subscription.
pub fn subscribe(subject: &str) -> Vec<u8> {
    format!("{CONNECT}SUB {subject} 1\r\nPING\r\n").into_bytes()
}

/// A message and a `PING`: `PUB` has no answer, and the server answers `PONG` after it took the message.
pub fn publish(subject: &str, data: &str) -> Vec<u8> {
    format!("PUB {subject} {}\r\n{data}\r\nPING\r\n", data.len()).into_bytes()
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    Message(&'a [u8]),
    Ping,
    Pong,
    Error,
    /// `INFO`, `+OK`.
    Other,
}

/// Splits one whole operation off, and the bytes behind it.
pub fn split(bytes: &[u8]) -> Option<(Heard<'_>, &[u8])> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    let heard = match line.split(|&byte| byte == b' ').next()? {
        b"MSG" => {
            let size = line.rsplit(|&byte| byte == b' ').next()?;
            let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
            let (data, rest) = rest.split_at_checked(size + 2)?;
            return Some((Heard::Message(&data[..size]), rest));
        }
        b"PING" => Heard::Ping,
        b"PONG" => Heard::Pong,
        b"-ERR" => Heard::Error,
        _ => Heard::Other,
    };
    Some((heard, rest))
}

/// Takes the answer to a `publish`, and all before it: whether the server took the message.
pub fn take_answer(bytes: &mut Vec<u8>) -> Option<bool> {
    let mut rest = &bytes[..];
    let mut answer = None;
    while let (None, Some((heard, behind))) = (answer, split(rest)) {
        rest = behind;
        answer = match heard {
            Heard::Pong => Some(true),
            Heard::Error => Some(false),
            _ => None,
        };
    }
    let taken = bytes.len() - rest.len();
    bytes.drain(..taken);
    answer
}
