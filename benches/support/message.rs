//! The messages that are pushed: JSON of an exact size that names its user and its place in the order.

use std::ops::Range;

use super::rivals::USER;

/// The user named in a message to everybody.
pub const ALL: &str = "all";

/// `{"u":"<user>","s":<sequence>,"p":"..."}` padded to `size` bytes.
pub fn data(user: &str, sequence: u64, size: usize) -> String {
    let mut text = format!(r#"{{"u":"{user}","s":{sequence},"p":""#);
    let padding = size.saturating_sub(text.len() + 2);
    text.extend(std::iter::repeat_n('x', padding));
    text.push_str("\"}");
    text
}

/// A body of NDJSON with one push to each of these users.
pub fn batch(users: Range<usize>, sequence: u64, size: usize) -> String {
    users
        .map(|n| {
            let user = format!("{USER}{n}");
            let data = data(&user, sequence, size);
            format!("{{\"to\":{{\"user\":\"{user}\"}},\"data\":{data}}}\n")
        })
        .collect()
}

/// Takes user and sequence out of what `data` made.
pub fn parse(payload: &[u8]) -> Option<(&[u8], u64)> {
    let rest = payload.strip_prefix(br#"{"u":""#)?;
    let end = rest.iter().position(|&byte| byte == b'"')?;
    let (user, rest) = rest.split_at(end);
    let digits = rest.strip_prefix(br#"","s":"#)?;
    let length = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let sequence = std::str::from_utf8(&digits[..length]).ok()?.parse().ok()?;
    Some((user, sequence))
}
