//! `pushnode token`: a token as an issuer would sign it, for development and tests.
//!
//! What must stay true: only a token that this node's settings accept is printed.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::auth::claims::Rules;
use crate::auth::jwt;
use crate::auth::keys::Key;
use crate::clock;
use crate::command_line::output::{USAGE, print};
use crate::config::Config;
use crate::protocol::ids::UserId;

/// How long a token is valid without `--ttl`.
pub(super) const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// What a token is to say.
#[derive(Debug)]
pub struct TokenRequest {
    pub(super) user: UserId,
    /// Patterns. Empty: the claim is left out, and PUSH_TOPICS decides.
    pub(super) topics: Vec<String>,
    pub(super) device: Option<String>,
    pub(super) ttl: Duration,
}

pub(super) fn run(request: &TokenRequest, config: &Config) -> ExitCode {
    match sign(request, config) {
        Ok(token) => {
            let seconds = request.ttl.as_secs();
            eprintln!(
                "pushnode: a token for development and tests, valid for {seconds} s; \
                in production, your own server signs them"
            );
            print(&format!("{token}\n"));
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("pushnode: {what}");
            ExitCode::from(USAGE)
        }
    }
}

fn sign(request: &TokenRequest, config: &Config) -> Result<String, String> {
    let secret = config.jwt_secrets.first().ok_or(
        "PUSH_JWT_SECRETS is empty; tokens can be signed only with a secret, and not with the \
        public keys of PUSH_JWT_KEYS, PUSH_JWT_KEYS_FILE or PUSH_JWKS_URL",
    )?;
    let key = Key::secret(secret.reveal());
    let rules = Rules::of(config);
    let now = clock::since_1970().as_secs();
    let claims = claims(request, config, now);
    let token = jwt::sign_with_secret(&claims, secret.reveal());
    // The node's own check says what it would say to the bearer.
    let opened = jwt::open(&token, &std::iter::once(&key), &rules.user);
    let opened = opened.map_err(|fault| match fault {
        jwt::Fault::Invalid(what) | jwt::Fault::Claim(what) => what,
        jwt::Fault::UnknownKey => "no key fits",
    });
    let opened = opened.map_err(|what| format!("a node would refuse the token: {what}"))?;
    let held = opened.check(&rules, now as f64);
    held.map_err(|denial| format!("a node would refuse the token: {}", denial.message()))?;
    Ok(token)
}

fn claims(request: &TokenRequest, config: &Config, now: u64) -> Value {
    let mut claims = Map::new();
    put(&mut claims, &config.jwt_user_claim, json!(request.user));
    claims.insert("iat".to_owned(), json!(now));
    let end = now.saturating_add(request.ttl.as_secs());
    claims.insert("exp".to_owned(), json!(end));
    if !request.topics.is_empty() {
        claims.insert("topics".to_owned(), json!(request.topics));
    }
    let named = [
        ("device", request.device.as_ref()),
        ("iss", config.jwt_issuer.first()),
        ("aud", config.jwt_audience.first()),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            claims.insert(name.to_owned(), json!(value));
        }
    }
    Value::Object(claims)
}

/// Puts a value where the path of PUSH_JWT_USER_CLAIM leads: dots lead into objects, but not those
/// of a name that is a URL.
fn put(claims: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((first, rest)) if !path.contains('/') => {
            let mut inside = Map::new();
            put(&mut inside, rest, value);
            claims.insert(first.to_owned(), Value::Object(inside));
        }
        _ => {
            claims.insert(path.to_owned(), value);
        }
    }
}

/// Reads `90s`, `15m`, `1h`, `7d`, or a number of seconds.
pub(super) fn time_to_live(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is not a time such as 90s, 15m, 1h or 7d");
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 1,
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = number
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(fault)?;
    match u64::from(number) * seconds {
        0 => Err(fault()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_a_unit_or_is_in_seconds() {
        let of = |text| time_to_live(text).map(|time| time.as_secs());
        let known = [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("1h", 3600),
            ("7d", 604_800),
        ];
        for (text, seconds) in known {
            assert_eq!(of(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "h",
            "0",
            "0m",
            "-1h",
            "+1h",
            "1.5h",
            "1w",
            "1h30m",
            "99999999999s",
        ] {
            assert!(of(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_user_is_put_where_the_claim_leads() {
        for (path, expected) in [
            ("sub", json!({"sub": "42"})),
            ("user.id", json!({"user": {"id": "42"}})),
            (
                "https://example.org/id",
                json!({"https://example.org/id": "42"}),
            ),
        ] {
            let mut claims = Map::new();
            put(&mut claims, path, json!("42"));
            assert_eq!(Value::Object(claims), expected);
        }
    }
}
