//! Signs what is sent to hooks, so that a backend knows that it comes from here and is new:
//! `Pushnode-Signature: t=<seconds since 1970>,v1=<HMAC-SHA256 of "t.body" in hex>`.

use std::fmt::Write as _;

use parking_lot::RwLock;
use ring::hmac::{HMAC_SHA256, Key, sign};

use crate::protocol::secret::Secret;

/// The secrets; with two, each signs, and a backend that knows one of them is content.
pub(super) struct Signer(RwLock<Vec<Key>>);

impl Signer {
    pub(super) fn new(secrets: &[Secret]) -> Self {
        Self(RwLock::new(keys(secrets)))
    }

    /// Takes other secrets in place of those before; none would leave requests unsigned.
    pub(super) fn replace(&self, secrets: &[Secret]) {
        if !secrets.is_empty() {
            *self.0.write() = keys(secrets);
        }
    }

    /// The value of the header for a body that is sent at this time.
    pub(super) fn header(&self, seconds: u64, body: &[u8]) -> String {
        let mut signed = format!("{seconds}.").into_bytes();
        signed.extend_from_slice(body);
        let mut header = format!("t={seconds}");
        for key in self.0.read().iter() {
            header.push_str(",v1=");
            for byte in sign(key, &signed).as_ref() {
                let _ = write!(header, "{byte:02x}");
            }
        }
        header
    }
}

fn keys(secrets: &[Secret]) -> Vec<Key> {
    let key = |secret: &Secret| Key::new(HMAC_SHA256, secret.reveal().as_bytes());
    secrets.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_signs_time_and_body() {
        let secrets = ["first", "second"].map(|text| Secret::new(text.to_owned()));
        let signer = Signer::new(&secrets);
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac first
        let first = "6cec7c3b97296f6145c73e625243d78410b7e9bc25f64f9065364bc2424d8933";
        let second = "5929603d3c4708e1bd2b60b15eb7238c9c5e7ea672c323685492c927776c28d5";
        let header = signer.header(1_700_000_000, br#"{"a":1}"#);
        assert_eq!(header, format!("t=1700000000,v1={first},v1={second}"));
        signer.replace(&secrets[..1]);
        let header = signer.header(1_700_000_000, br#"{"a":1}"#);
        assert_eq!(header, format!("t=1700000000,v1={first}"));
        signer.replace(&[]);
        assert_eq!(signer.header(1_700_000_000, br#"{"a":1}"#), header);
        assert_ne!(
            signer.header(1_700_000_001, br#"{"a":1}"#)[13..],
            header[13..]
        );
    }
}
