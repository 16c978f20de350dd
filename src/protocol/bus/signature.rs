//! Signatures of the lines that only nodes may say, with `PUSH_CLUSTER_SECRET`.
//!
//! A signed line begins with `{"sig":"<64 hexadecimal digits>",`. The signature is the HMAC-SHA256
//! of three texts, with a line break between them: the name of the channel; the header line of the
//! payload as it was sent, or nothing; and the line as it is without its signature. So a line is
//! worth nothing on another channel or in another payload, and the payload's number makes its
//! repetition worthless. A node's channel is new in each boot, so nothing outlives a boot either.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use ring::hmac;

use crate::protocol::bus::line::Line;
use crate::protocol::bus::question::Question;

/// How a signed line begins.
const START: &str = r#"{"sig":""#;
/// How it goes on after the signature.
const END: &str = r#"","#;
/// Digits of a signature.
const DIGITS: usize = 64;
const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
/// Bytes before the rest of a signed line.
const PREFIX: usize = START.len() + DIGITS + END.len();

impl Line {
    /// Whether only nodes may say it. What publishers may say as well changes nothing that they
    /// could not change by a push or a kick.
    #[must_use]
    pub fn is_of_nodes(&self) -> bool {
        match self {
            Self::Header { .. }
            | Self::Announcement(_)
            | Self::Drain
            | Self::Probe(_)
            | Self::Receipt(_)
            | Self::Answer(_)
            | Self::Presence(_) => true,
            Self::Ask(question, _) => matches!(
                question,
                Ok(Question::Drain | Question::Trace { .. } | Question::Members(_))
            ),
            // Which member it was that published, a publisher cannot know.
            Self::Push(push, _) => push.message.author().is_some(),
            Self::Look(_)
            | Self::Kick(..)
            | Self::Revoke(_)
            | Self::Subscribe(..)
            | Self::Unsubscribe(..) => false,
        }
    }
}

/// The secrets of a cluster. Empty: nothing is signed.
///
/// Clones share them. Whether there are any stays as it was at the start.
#[derive(Clone, Default)]
pub struct ClusterKeys(Option<Arc<RwLock<Vec<hmac::Key>>>>);

/// What the signature of a line proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A holder of a secret said it, here.
    Valid,
    /// It has no signature.
    Unsigned,
    /// Its signature is of another secret, channel, payload or line.
    Invalid,
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.as_ref().map_or(0, |keys| keys.read().len());
        write!(f, "{count} secrets")
    }
}

impl ClusterKeys {
    /// The first secret signs, all are valid.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys_of(secrets);
        Self((!keys.is_empty()).then(|| Arc::new(RwLock::new(keys))))
    }

    /// Takes other secrets in place of those before. Without any, then or now, nothing changes.
    pub fn replace<'a>(&self, secrets: impl IntoIterator<Item = &'a str>) {
        let new = keys_of(secrets);
        if let Some(keys) = &self.0
            && !new.is_empty()
        {
            *keys.write() = new;
        }
    }

    /// Whether there is no secret.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Appends a line, signed if there is a secret. `header` is the payload's header line as it is
    /// sent; empty for a header and for a payload without one.
    pub fn push_signed(&self, out: &mut String, channel: &str, header: &str, line: &str) {
        let (Some(keys), Some(rest)) = (&self.0, line.strip_prefix('{')) else {
            return out.push_str(line);
        };
        let text = signed_text(channel.as_bytes(), header.as_bytes(), rest.as_bytes());
        let tag = hmac::sign(&keys.read()[0], &text);
        out.reserve(PREFIX + rest.len());
        out.push_str(START);
        for byte in tag.as_ref() {
            // Not by `write!`, which takes longer than the HMAC.
            out.push(char::from(HEXADECIMAL[usize::from(byte >> 4)]));
            out.push(char::from(HEXADECIMAL[usize::from(byte & 15)]));
        }
        out.push_str(END);
        out.push_str(rest);
    }

    /// A signed line by itself.
    #[must_use]
    pub fn signed(&self, channel: &str, header: &str, line: &str) -> String {
        let mut out = String::new();
        self.push_signed(&mut out, channel, header, line);
        out
    }

    /// Whether a line is signed, for this channel and by one of the secrets. HMACs are compared in
    /// constant time.
    #[must_use]
    pub fn check(&self, channel: &str, header: &[u8], line: &[u8]) -> Proof {
        if !line.starts_with(START.as_bytes()) {
            return Proof::Unsigned;
        }
        let Some(tag) = line.get(START.len()..PREFIX).and_then(tag_of) else {
            return Proof::Invalid;
        };
        let text = signed_text(channel.as_bytes(), header, &line[PREFIX..]);
        let is_by = |key: &hmac::Key| hmac::verify(key, &text, &tag).is_ok();
        match self.0.iter().any(|keys| keys.read().iter().any(is_by)) {
            true => Proof::Valid,
            false => Proof::Invalid,
        }
    }
}

fn keys_of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Vec<hmac::Key> {
    let key = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    secrets.into_iter().map(key).collect()
}

/// Whether a line of a node is a command, which is signed.
#[must_use]
pub fn is_command(line: &str) -> bool {
    line.starts_with(r#"{"cmd":""#)
}

/// `rest` is the line after its first brace.
fn signed_text(channel: &[u8], header: &[u8], rest: &[u8]) -> Vec<u8> {
    [channel, b"\n", header, b"\n{", rest].concat()
}

/// The bytes of 64 lower-case digits and [`END`].
fn tag_of(text: &[u8]) -> Option<[u8; DIGITS / 2]> {
    let digits = text.strip_suffix(END.as_bytes())?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut tag = [0; DIGITS / 2];
    for (byte, pair) in tag.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the old secret of this cluster..";
    const NEW: &str = "the new secret of this cluster..";
    const LINE: &str = r#"{"cmd":"drain"}"#;

    #[test]
    fn a_line_is_valid_in_its_payload_and_on_its_channel_only() {
        let keys = ClusterKeys::new([OLD]);
        let header = keys.signed("pn:n:{a.1}", "", r#"{"v":1,"from":"b.1","seq":7}"#);
        assert_eq!(
            keys.check("pn:n:{a.1}", b"", header.as_bytes()),
            Proof::Valid
        );
        let line = keys.signed("pn:n:{a.1}", &header, LINE);
        let check = |channel, header: &str, line: &str| {
            keys.check(channel, header.as_bytes(), line.as_bytes())
        };
        assert_eq!(check("pn:n:{a.1}", &header, &line), Proof::Valid);
        assert_eq!(check("pn:n:{a.2}", &header, &line), Proof::Invalid);
        assert_eq!(check("pn:n:{a.1}", "", &line), Proof::Invalid);
        let other = header.replace("\"seq\":7", "\"seq\":8");
        assert_eq!(check("pn:n:{a.1}", "", &other), Proof::Invalid);
        assert_eq!(check("pn:n:{a.1}", &other, &line), Proof::Invalid);
        assert_eq!(check("pn:n:{a.1}", &header, LINE), Proof::Unsigned);
        for cut in 0..line.len() {
            let proof = check("pn:n:{a.1}", &header, &line[..cut]);
            assert_ne!(proof, Proof::Valid, "{cut}");
        }
        let upper = line.replace("a", "A");
        assert_ne!(check("pn:n:{a.1}", &header, &upper), Proof::Valid);
    }

    #[test]
    fn the_first_secret_signs_and_both_are_valid() {
        let (old, both) = (ClusterKeys::new([OLD]), ClusterKeys::new([NEW, OLD]));
        let new = ClusterKeys::new([NEW]);
        let by_old = old.signed("g", "", LINE);
        let by_both = both.signed("g", "", LINE);
        let check = |keys: &ClusterKeys, line: &str| keys.check("g", b"", line.as_bytes());
        assert_eq!(check(&both, &by_old), Proof::Valid);
        assert_eq!(check(&both, &by_both), Proof::Valid);
        assert_eq!(check(&new, &by_both), Proof::Valid);
        assert_eq!(check(&new, &by_old), Proof::Invalid);
        assert_eq!(check(&old, &by_both), Proof::Invalid);
    }

    #[test]
    fn without_a_secret_nothing_changes() {
        let none = ClusterKeys::new([]);
        assert_eq!(none.signed("g", "", LINE), LINE);
        assert_eq!(none.check("g", b"", LINE.as_bytes()), Proof::Unsigned);
    }

    #[test]
    fn the_text_that_is_signed_is_the_documented_one() {
        // In Python: hmac.new(secret, b"pn:n:{a.1}\n\n" + line, "sha256").hexdigest()
        let line = ClusterKeys::new([OLD]).signed("pn:n:{a.1}", "", LINE);
        let text = format!("pn:n:{{a.1}}\n\n{LINE}");
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, OLD.as_bytes()),
            text.as_bytes(),
        );
        let digits: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(line, format!(r#"{{"sig":"{digits}","cmd":"drain"}}"#));
    }
}
