//! Keys that tokens are checked with: reading them, and checking a signature.
//!
//! The algorithm belongs to the key, never to the token: a public key can not be taken for a
//! secret, and `none` is nobody's. Private keys are refused, so that none lies about on a node.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

/// Shortest RSA modulus: ring takes nothing below 2048 bits.
const MIN_MODULUS_BYTES: usize = 256;
/// Most keys of one source.
pub(crate) const MAX_KEYS: usize = 100;

/// How a token is signed (RFC 7518, 3.1; RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    /// By its name in a token's header.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // The second is the newer name (RFC 9864).
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

enum Material {
    Secret(ring::hmac::Key),
    /// An RSA key as modulus and exponent.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point on P-256, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key and what it is called.
pub(crate) struct Key {
    /// Its `kid`, if it has one.
    pub(crate) id: Option<String>,
    material: Material,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} key {:?}", self.algorithm(), self.id)
    }
}

impl Key {
    /// A secret that issuer and node share.
    pub(crate) fn secret(secret: &str) -> Self {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        Self {
            id: None,
            material: Material::Secret(key),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Whether this key made the signature; HMACs are compared in constant time.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Secret(key) => ring::hmac::verify(key, message, signature),
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            Material::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
            }
            Material::Ed25519(point) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signature)
            }
        };
        verified.is_ok()
    }
}

/// Reads public keys from PEM or from a JWKS, whichever this is.
pub(crate) fn read(text: &str) -> Result<Vec<Key>, String> {
    let keys = if text.trim_start().starts_with('{') {
        from_jwks(text.as_bytes())?
    } else {
        from_pem(text)?
    };
    match keys.len() {
        0 => Err("has no key that could be used".to_owned()),
        count if count > MAX_KEYS => Err(format!("has {count} keys; {MAX_KEYS} at most")),
        _ => Ok(keys),
    }
}

fn from_pem(text: &str) -> Result<Vec<Key>, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("has a private key: a node needs the public one only".to_owned());
    }
    if text.contains("BEGIN RSA PUBLIC KEY") || text.contains("BEGIN CERTIFICATE") {
        return Err("must be keys of the form BEGIN PUBLIC KEY".to_owned());
    }
    SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes())
        .enumerate()
        .map(|(i, info)| {
            let key = info.ok().and_then(|info| from_info(&info));
            key.ok_or(format!(
                "key number {} is no public key of RSA (2048 bits or more), P-256 or Ed25519",
                i + 1
            ))
        })
        .collect()
}

/// A `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7).
fn from_info(info: &[u8]) -> Option<Key> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT: u8 = 0x06;
    const INTEGER: u8 = 0x02;
    const BITS: u8 = 0x03;
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let (inner, _) = take(info, SEQUENCE)?;
    let (algorithm, rest) = take(inner, SEQUENCE)?;
    let (bits, _) = take(rest, BITS)?;
    // The first byte says how many bits of the last one are unused.
    let (0, point) = bits.split_first().map(|(unused, rest)| (*unused, rest))? else {
        return None;
    };
    let (kind, parameters) = take(algorithm, OBJECT)?;
    let material = match kind {
        RSA => {
            let (numbers, _) = take(point, SEQUENCE)?;
            let (n, rest) = take(numbers, INTEGER)?;
            let (e, _) = take(rest, INTEGER)?;
            rsa(n.to_vec(), e.to_vec())?
        }
        EC if take(parameters, OBJECT)?.0 == P256 && is_point(point) => {
            Material::P256(point.to_vec())
        }
        ED25519 if point.len() == 32 => Material::Ed25519(point.to_vec()),
        _ => return None,
    };
    Some(Key { id: None, material })
}

/// The content of the DER value in front, which must have this tag, and what comes behind it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length))?
}

/// An RSA key that ring will take: without leading zeros, and long enough.
fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Material> {
    let trimmed =
        |bytes: Vec<u8>| -> Vec<u8> { bytes.into_iter().skip_while(|byte| *byte == 0).collect() };
    let (n, e) = (trimmed(n), trimmed(e));
    (n.len() >= MIN_MODULUS_BYTES && !e.is_empty()).then_some(Material::Rsa { n, e })
}

fn is_point(bytes: &[u8]) -> bool {
    bytes.len() == 65 && bytes[0] == 4
}

/// A key in a JWKS (RFC 7517, 4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    r#use: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// Keys of kinds that we do not know are somebody else's (RFC 7517, 5); so are secrets (`oct`),
/// which have no place in what is published.
fn from_jwks(json: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|_| "is no JWKS".to_owned())?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk = serde_json::from_value(key).ok()?;
        from_jwk(jwk)
    });
    Ok(keys.collect())
}

fn from_jwk(jwk: Jwk) -> Option<Key> {
    if jwk.r#use.is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let bytes = |text: Option<String>| BASE64.decode(text?.trim_end_matches('=')).ok();
    let material = match (&*jwk.kty, jwk.crv.as_deref()) {
        ("RSA", _) => rsa(bytes(jwk.n)?, bytes(jwk.e)?)?,
        ("EC", Some("P-256")) => {
            let point = [vec![4], bytes(jwk.x)?, bytes(jwk.y)?].concat();
            is_point(&point).then_some(Material::P256(point))?
        }
        ("OKP", Some("Ed25519")) => {
            let point = bytes(jwk.x)?;
            (point.len() == 32).then_some(Material::Ed25519(point))?
        }
        _ => return None,
    };
    let key = Key {
        id: jwk.kid,
        material,
    };
    let is_its = |name: String| Algorithm::named(&name) == Some(key.algorithm());
    jwk.alg.is_none_or(is_its).then_some(key)
}
