//! JSON Web Tokens (RFC 7519) in the compact form of RFC 7515: checks the signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::claims::{Claims, UserClaim};
use crate::auth::keys::{Algorithm, Key};

/// The longest token that is examined: what fits into a request's headers.
const MAX_BYTES: usize = 16 * 1024;

/// Why a token is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What is wrong with it, in words that quote nothing of it.
    Invalid(&'static str),
    /// Its signature is right, and a claim is not: words for its bearer.
    Claim(&'static str),
    /// No known key has the token's `kid`. A later fetch may bring it.
    UnknownKey,
}

#[derive(Deserialize)]
struct JoseHeader<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that the recipient must understand; pushnode supports none. Whatever stands
    /// here, even `null`, breaks RFC 7515, 4.1.11 or asks for one.
    #[serde(default, borrow, deserialize_with = "present")]
    crit: Option<&'a RawValue>,
}

/// Deserializes a member that is there, whatever it holds.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Whether this can be a JWT: three parts.
pub(crate) fn looks_like_one(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// A token with these claims, signed by HS256.
pub(crate) fn sign_with_secret(claims: &Value, secret: &str) -> String {
    let header = BASE64.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", BASE64.encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = BASE64.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

/// Returns the claims of a token whose signature is valid. Does not check whether they hold now.
pub(crate) fn open<'a>(
    token: &str,
    keys: &(impl Iterator<Item = &'a Key> + Clone),
    user: &UserClaim,
) -> Result<Claims, Fault> {
    if token.len() > MAX_BYTES {
        return Err(Fault::Invalid("too long"));
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Fault::Invalid("no JWT"))?;
    let (header, claims) = message.split_once('.').ok_or(Fault::Invalid("no JWT"))?;
    let bytes = |text| {
        let bad = |_| Fault::Invalid("a part of it is not base64url");
        BASE64.decode(text).map_err(bad)
    };
    let (header, claims, signature) = (bytes(header)?, bytes(claims)?, bytes(signature)?);
    let header: JoseHeader<'_> = serde_json::from_slice(&header)
        .map_err(|_| Fault::Invalid("its header cannot be parsed"))?;
    if header.crit.is_some() {
        return Err(Fault::Invalid("its header asks for extensions (crit)"));
    }
    let Some(algorithm) = Algorithm::named(&header.alg) else {
        return Err(Fault::Invalid("alg is none of HS256, RS256, ES256, EdDSA"));
    };
    let fits = |key: &&Key| {
        key.algorithm() == algorithm
            && (key.id.is_none() || header.kid.is_none() || key.id == header.kid)
    };
    let is_signed_by = |key: &Key| key.verifies(message.as_bytes(), &signature);
    if keys.clone().filter(fits).any(is_signed_by) {
        return Claims::parse(&claims, user).map_err(Fault::Claim);
    }
    let knows = |kid: &String| keys.clone().any(|key| key.id.as_ref() == Some(kid));
    match &header.kid {
        Some(kid) if !knows(kid) => Err(Fault::UnknownKey),
        _ => Err(Fault::Invalid("signed by none of our keys")),
    }
}
