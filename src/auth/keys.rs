//! The keys that tokens are checked with: parsing keys, and checking signatures.
//!
//! The algorithm belongs to the key, never to the token: a token cannot make a public key pass
//! for a secret, and no key accepts `none`. Private keys are refused, so that nodes store none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use pkcs1::RsaPublicKeyRef;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;
use spki::der::Decode as _;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

/// The shortest RSA modulus: ring accepts nothing below 2048 bits.
const MIN_MODULUS_BYTES: usize = 256;
/// Maximum number of keys from one source.
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
    /// Finds an algorithm by its name in a token's header.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // `Ed25519` is the newer name (RFC 9864).
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

/// A key and its name.
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
    /// A secret shared by issuer and node.
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

    /// Whether this key made the signature. HMACs are compared in constant time.
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

/// Reads public keys from PEM or from a JWKS; detects which of the two the text is. A source that
/// an operator wrote must have a key.
pub(crate) fn read(text: &str) -> Result<Vec<Key>, String> {
    let keys = if text.trim_start().starts_with('{') {
        read_set(text)?
    } else {
        bounded(from_pem(text)?)?
    };
    if keys.is_empty() {
        return Err("has no usable key".to_owned());
    }
    Ok(keys)
}

/// Reads a JWKS. It may be empty: then its issuer has withdrawn all keys.
pub(crate) fn read_set(text: &str) -> Result<Vec<Key>, String> {
    bounded(from_jwks(text.as_bytes())?)
}

fn bounded(keys: Vec<Key>) -> Result<Vec<Key>, String> {
    match keys.len() {
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
                "key number {} is not a public RSA (2048 bits or more), P-256 or Ed25519 key",
                i + 1
            ))
        })
        .collect()
}

/// A `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7).
fn from_info(info: &[u8]) -> Option<Key> {
    const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
    const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
    const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
    let info = SubjectPublicKeyInfoRef::from_der(info).ok()?;
    let point = info.subject_public_key.as_bytes()?;
    let material = match info.algorithm.oids().ok()? {
        (pkcs1::ALGORITHM_OID, _) => {
            let key = RsaPublicKeyRef::from_der(point).ok()?;
            rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())?
        }
        (EC, Some(P256)) if is_point(point) => Material::P256(point.to_vec()),
        (ED25519, _) if point.len() == 32 => Material::Ed25519(point.to_vec()),
        _ => return None,
    };
    Some(Key { id: None, material })
}

/// An RSA key in the form that ring accepts: no leading zeros, and long enough.
fn rsa(n: &[u8], e: &[u8]) -> Option<Material> {
    let trimmed = |bytes: &[u8]| -> Vec<u8> {
        let digits = bytes.iter().copied();
        digits.skip_while(|byte| *byte == 0).collect()
    };
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

/// Skips keys of unknown kinds (RFC 7517, 5). Also skips secrets (`oct`): a published set must
/// not contain any.
fn from_jwks(json: &[u8]) -> Result<Vec<Key>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(json).map_err(|_| "is not a JWKS".to_owned())?;
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
        ("RSA", _) => rsa(&bytes(jwk.n)?, &bytes(jwk.e)?)?,
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

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkWkJ1SXplZlQBO0DVz4WaQEot0GM\
        s7qB/5JWaQ7QzBekZ51xcrd60Udw3lcNeslMIWqVPR0Dj34qrYrEqWPNYg==";
    const ED25519: &str = "MCowBQYDK2VwAyEAOdjoVUmLZao110gkuZrqAVukI/NE5fFLotLvSXaZv1s=";
    const RSA_2048: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqQnd3yz2yi9JnCezMhyh\
        ghPfo727RugQpl2wRyeAET1+B76oNOaHp6h18TZ/5DgMyzP/sQAzQ9/Eu5RX8DUg\
        90opeEVhYy9LqMpFLhbsbEgsFzDWP1kgAmSDbbN2mSef2EzJck7mkjd46YhR02+d\
        bcNuXxhpdENeKbmNwQMiS4l8/t2ACOg/7eCd8x+0PuSdgd9u5P3ZBl1p8BgV3FGw\
        vY1bCsxd5P0lXGKxdWHY6qpPzmJVGTL4I4VSshbhgGTWA1pwAG1peXGisKlBMlG6\
        kC4ADQJEwRYWSV6JkQJBHBN8kMu4j3kK5XaFkZltRDH80ECGNz8I2InGaIgNB74+\
        AwIDAQAB";
    const RSA_1024: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCgfwQUro9gRj8j7iZwraC5Ixfl\
        QnNzgFsGvQWfv0bB0LSWrJOMsZEVnRYMIXLuAKT7cyHoRF7K78thBoY6/6V83kDj\
        jeU8DrZo+MiDKDWW7Vo9rP0ym/lkSUrF17ynm+GMrNQ7kzBE8Xb3UtcKbwOiJ/yS\
        vCvjO34o1CFGN/Gl6wIDAQAB";
    const P384: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEpmBsZdZfrX+twQgZeHecufAnk6OQD4xt\
        9PfVjAzk9Vqywdqo8Rp7rY1vqs0MtB4DfZUt+fDRnCfh2RiVxrzHHyigWXBEXDNi\
        Ta+1njTjH+wuodGgKwnjdo5I4kcot5JM";
    /// As long as P-256, on another curve.
    const SECP256K1: &str = "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE7e9HuIjiVkrNmQBCVMcktL7mZeK8ABvE\
        g7xnmFltW7qLmVpaTPDND4sDlzl5qmCqmaFoHsU7FThdmY9N9o4owA==";
    /// As long as Ed25519, and no key of signatures.
    const X25519: &str = "MCowBQYDK2VuAyEA23xKZWPv+KmSJR33D0tNIPEOMOI4fDl+J5asrW9LOT0=";

    fn algorithm(der: &[u8]) -> Option<Algorithm> {
        from_info(der).map(|key| key.algorithm())
    }

    #[test]
    fn a_public_key_tells_its_algorithm() {
        let of = |text: &str| algorithm(&STANDARD.decode(text).unwrap());
        assert_eq!(of(P256), Some(Algorithm::Es256));
        assert_eq!(of(ED25519), Some(Algorithm::EdDsa));
        assert_eq!(of(RSA_2048), Some(Algorithm::Rs256));
        for other in [RSA_1024, P384, SECP256K1, X25519] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_public_key_that_is_not_whole_is_refused() {
        for text in [P256, ED25519, RSA_2048] {
            let der = STANDARD.decode(text).unwrap();
            for length in 0..der.len() {
                assert_eq!(algorithm(&der[..length]), None, "{length} bytes of {text}");
            }
            assert_eq!(
                algorithm(&[&der[..], &[0]].concat()),
                None,
                "more than {text}"
            );
        }
    }
}
