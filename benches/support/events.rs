//! The client half of server-sent events and of lines, as much as the benches need.

/// The request for a user's stream of events.
pub fn request(host: &str, user: &str) -> Vec<u8> {
    format!("GET /sse?user={user} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n")
        .into_bytes()
}

/// The length of the answer's head and of `ready` once both are there; an error if it is not the answer we want.
pub fn streaming(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    if !bytes.starts_with(b"HTTP/1.1 200") {
        return Err(format!("refused: {}", first_line(bytes)));
    }
    let (ready, rest) = match split_event(&bytes[end + 4..]) {
        Some(event) => event,
        None => return Ok(None),
    };
    match ready {
        None => Ok(Some(bytes.len() - rest.len())),
        Some(_) => Err("a message before `ready`".to_owned()),
    }
}

/// Splits one whole event off: its data if it is a message, and the bytes behind it. The sizes of
/// chunks stand in lines of their own, which no field begins.
pub fn split_event(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let end = bytes.windows(2).position(|window| window == b"\n\n")?;
    let event = &bytes[..end];
    let lines = || event.split(|&byte| byte == b'\n');
    let named = lines().any(|line| line.starts_with(b"event: "));
    let data = lines().find_map(|line| line.strip_prefix(b"data: "));
    Some((data.filter(|_| !named), &bytes[end + 2..]))
}

/// The first line of a client that comes by TCP.
pub fn connect(user: &str) -> Vec<u8> {
    format!("{{\"type\":\"connect\",\"user\":\"{user}\"}}\n").into_bytes()
}

/// The answer to the node's `ping`.
pub const PONG: &[u8] = b"{\"type\":\"pong\"}\n";

/// The length of the `ready` line once it is there; an error if it is another.
pub fn ready(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    match bytes.starts_with(br#"{"type":"ready""#) {
        true => Ok(Some(end + 1)),
        false => Err(format!("refused: {}", first_line(bytes))),
    }
}

/// What a line is to a client.
pub enum Line<'a> {
    Message(&'a [u8]),
    Ping,
    Other,
}

/// Splits one whole line off, and the bytes behind it.
pub fn split_line(bytes: &[u8]) -> Option<(Line<'_>, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
    let message = line.strip_prefix(br#"{"type":"message","data":"#);
    let line = match message.and_then(|message| message.strip_suffix(b"}")) {
        Some(data) => Line::Message(data),
        None if line == br#"{"type":"ping"}"# => Line::Ping,
        None => Line::Other,
    };
    Some((line, rest))
}

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().next().unwrap_or_default().to_owned()
}
