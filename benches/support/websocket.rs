//! The client half of RFC 6455, as much as the benches need: the opening request, whole frames, masked answers.

/// The key is fixed, so the right answer is too.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The opening request for a user's socket.
pub fn request(host: &str, user: &str) -> Vec<u8> {
    request_with(host, user, "")
}

/// The same with the subprotocol `pushnode.v1`.
pub fn request_v1(host: &str, user: &str) -> Vec<u8> {
    request_with(host, user, "Sec-WebSocket-Protocol: pushnode.v1\r\n")
}

fn request_with(host: &str, user: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET /ws?user={user} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// The length of the answer's head once all of it is there; an error if it is not the answer we want.
pub fn upgraded(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if head.starts_with("HTTP/1.1 101") && head.contains(ACCEPT) {
        Ok(Some(end + 4))
    } else {
        Err(format!(
            "refused: {}",
            head.lines().next().unwrap_or_default()
        ))
    }
}

/// A masked frame from the client; payloads up to 125 bytes.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short payload");
    let mut frame = vec![0x80 | opcode, 0x80 | length];
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// An unmasked text frame as a server sends it.
pub fn text_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | TEXT];
    match u16::try_from(payload.len()).expect("payload below 64 KiB") {
        short @ 0..=125 => frame.push(short as u8),
        long => {
            frame.push(126);
            frame.extend(long.to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// Splits one whole server frame off: opcode, payload, and the bytes behind it.
pub fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match second {
        126 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((first & 0x0f, payload, rest))
}
