//! The claims of a token or session, and whether they hold now.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::auth::Denial;
use crate::config::Config;
use crate::protocol::ids::UserId;
use crate::protocol::info::{BAD_INFO, Info};
use crate::protocol::topic_pattern::TopicPatterns;

/// Maximum number of topic patterns in one token.
const MAX_TOPICS: usize = 1_000;
/// Maximum length of a device name.
pub(crate) const MAX_DEVICE_BYTES: usize = 64;

/// The claims that pushnode reads; all others are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    /// Read by [`UserClaim`], which may name another.
    #[serde(default)]
    sub: Option<Value>,
    #[serde(skip)]
    user: Option<UserId>,
    #[serde(default)]
    topics: Option<Vec<Box<str>>>,
    #[serde(default)]
    pub(crate) device: Option<String>,
    #[serde(default)]
    info: Option<Box<RawValue>>,
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
}

/// The claim that names the user: `sub`, another, or one inside objects, by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserClaim(Box<str>);

impl Default for UserClaim {
    fn default() -> Self {
        Self(SUBJECT.into())
    }
}

/// The claim that names the user unless the settings say otherwise; always in sessions.
const SUBJECT: &str = "sub";

impl UserClaim {
    pub(crate) fn new(path: &str) -> Self {
        Self(path.into())
    }

    /// The user that the claims name.
    fn read(&self, claims: &Claims, json: &[u8]) -> Result<UserId, &'static str> {
        if &*self.0 == SUBJECT {
            return match &claims.sub {
                None | Some(Value::Null) => Err("the token has no sub"),
                Some(value) => user(value).ok_or(
                    "sub names no user: 1 to 256 bytes of text without control characters, \
                    or a whole number",
                ),
            };
        }
        let all: Map<String, Value> = serde_json::from_slice(json).map_err(|_| NO_OBJECT)?;
        match find(&all, &self.0) {
            None | Some(Value::Null) => Err("the token lacks the claim of PUSH_JWT_USER_CLAIM"),
            Some(value) => user(value).ok_or(
                "the claim of PUSH_JWT_USER_CLAIM names no user: 1 to 256 bytes of text without \
                control characters, or a whole number",
            ),
        }
    }
}

/// The value at a path. A name that itself has dots, such as `https://example.org/id`, counts
/// before the objects that the dots could lead into.
fn find<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let inside = claims.get(&path[..dot])?.as_object()?;
        find(inside, &path[dot + 1..])
    })
}

/// A user by text or whole number.
fn user(value: &Value) -> Option<UserId> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            number.to_string().parse().ok()
        }
        _ => None,
    }
}

const NO_OBJECT: &str = "a claim is of the wrong type";

/// One or several (RFC 7519, 4.1.3).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, one: &str) -> bool {
        match self {
            Self::One(name) => name == one,
            Self::Many(names) => names.iter().any(|name| name == one),
        }
    }
}

/// What a token must claim besides carrying a valid signature.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// The token's audience must include one of these; if empty, any audience is accepted.
    pub(crate) audiences: Vec<String>,
    /// The issuer must be one of these; if empty, any issuer is accepted.
    pub(crate) issuers: Vec<String>,
    /// The allowed clock difference between issuer and node.
    pub(crate) leeway: Duration,
    /// Where the user stands.
    pub(crate) user: UserClaim,
}

impl Rules {
    /// Those of the settings.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            audiences: config.jwt_audience.clone(),
            issuers: config.jwt_issuer.clone(),
            leeway: config.jwt_leeway_seconds,
            user: UserClaim::new(&config.jwt_user_claim),
        }
    }
}

impl Claims {
    /// Parses the claims. The error text never quotes them.
    pub(crate) fn parse(json: &[u8], user: &UserClaim) -> Result<Self, &'static str> {
        // serde would take a list for the members in their order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(NO_OBJECT);
        }
        let mut claims: Self = serde_json::from_slice(json).map_err(|_| NO_OBJECT)?;
        if (claims.topics.as_ref()).is_some_and(|topics| topics.len() > MAX_TOPICS) {
            return Err("topics has over 1000 patterns");
        }
        claims.grants()?;
        if claims
            .device
            .as_ref()
            .is_some_and(|device| device.len() > MAX_DEVICE_BYTES)
        {
            return Err("device has over 64 bytes");
        }
        claims.info()?;
        claims.user = Some(user.read(&claims, json)?);
        Ok(claims)
    }

    pub(crate) fn user(&self) -> UserId {
        self.user.clone().expect("set when parsed")
    }

    /// The topics that the bearer may subscribe to, if the claims list any.
    pub(crate) fn grants(&self) -> Result<Option<TopicPatterns>, &'static str> {
        let patterns = self.topics.as_ref();
        let grants = patterns.map(|all| TopicPatterns::from_patterns(all.iter().map(|one| &**one)));
        (grants.transpose()).map_err(|_| "topics has something that is no pattern of topics")
    }

    /// What the bearer shows of itself to the members of its topics.
    pub(crate) fn info(&self) -> Result<Option<Info>, &'static str> {
        let info = self.info.as_deref().map(Info::read).transpose();
        info.map(Option::flatten).map_err(|_| BAD_INFO)
    }

    /// Checks a JWT's claims at `now` (seconds since 1970); returns how long they remain valid.
    pub(crate) fn check(&self, rules: &Rules, now: f64) -> Result<Duration, Denial> {
        let leeway = rules.leeway.as_secs_f64();
        if self.nbf.is_some_and(|from| from > now + leeway) {
            return Err(Denial::Claim("the token is not valid yet (nbf)"));
        }
        if !rules.issuers.is_empty()
            && !self
                .iss
                .as_ref()
                .is_some_and(|issuer| rules.issuers.contains(issuer))
        {
            return Err(Denial::Claim("the token is of another issuer (iss)"));
        }
        let audience = self.aud.as_ref();
        if !rules.audiences.is_empty()
            && !rules
                .audiences
                .iter()
                .any(|one| audience.is_some_and(|audience| audience.names(one)))
        {
            return Err(Denial::Claim("the token is for another audience (aud)"));
        }
        let exp = self.exp.ok_or(Denial::Claim("the token has no exp"))?;
        lasts(exp, leeway, now).ok_or(Denial::Expired)
    }

    /// As [`Claims::check`], for a session. A session may also end by its key's time to live.
    pub(crate) fn check_session(&self, now: f64) -> Result<Option<Duration>, Denial> {
        let lasts = |exp| lasts(exp, 0.0, now).ok_or(Denial::Expired);
        self.exp.map(lasts).transpose()
    }
}

/// How long something that ends at `exp` remains valid: until `exp` or, if `exp` has passed,
/// until the leeway is over.
fn lasts(exp: f64, leeway: f64, now: f64) -> Option<Duration> {
    let end = if exp > now { exp } else { exp + leeway };
    // A century counts as unlimited; a longer time would not fit into an `Instant`.
    const FOR_EVER: f64 = 100.0 * 365.0 * 86_400.0;
    (end > now).then(|| Duration::from_secs_f64((end - now).min(FOR_EVER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, rules: &Rules) -> Result<u64, Denial> {
        let claims = Claims::parse(json.as_bytes(), &rules.user).map_err(Denial::Claim)?;
        claims.check(rules, 1000.0).map(|left| left.as_secs())
    }

    #[test]
    fn times_are_checked_with_leeway() {
        let rules = Rules {
            leeway: Duration::from_secs(10),
            ..Rules::default()
        };
        assert_eq!(check(r#"{"sub":"a","exp":1060}"#, &rules), Ok(60));
        assert_eq!(check(r#"{"sub":"a","exp":1060.5}"#, &rules), Ok(60));
        assert_eq!(check(r#"{"sub":"a","exp":995}"#, &rules), Ok(5));
        assert_eq!(
            check(r#"{"sub":"a","exp":990}"#, &rules),
            Err(Denial::Expired)
        );
        assert_eq!(
            check(r#"{"sub":"a","exp":1e300}"#, &rules).map(|_| ()),
            Ok(())
        );
        assert_eq!(
            check(r#"{"sub":"a","exp":-1}"#, &rules),
            Err(Denial::Expired)
        );
        assert_eq!(
            check(r#"{"sub":"a","exp":1060,"nbf":1010}"#, &rules),
            Ok(60)
        );
        let info = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_017));
        let too_large = format!(r#"{{"sub":"a","exp":1060,"info":{info}}}"#);
        for bad in [
            too_large.as_str(),
            r#"{"sub":"a","exp":1060,"info":"Ann"}"#,
            r#"{"sub":"a"}"#,
            r#"{"sub":"a","exp":null}"#,
            r#"{"sub":"a","exp":"1060"}"#,
            r#"{"sub":"a","exp":1060,"nbf":"1"}"#,
            r#"{"sub":"a","exp":1060,"nbf":1011}"#,
            r#"{"sub":"a\u0000b","exp":1060}"#,
            r#"{"exp":1060}"#,
            r#"{"sub":null,"exp":1060}"#,
            r#"{"sub":7.5,"exp":1060}"#,
            r#"{"sub":["a"],"exp":1060}"#,
            r#"{"sub":"a","sub":"b","exp":1060}"#,
            "[]",
            r#"["a",null,null,1060]"#,
        ] {
            assert!(matches!(check(bad, &rules), Err(Denial::Claim(_))), "{bad}");
        }
    }

    #[test]
    fn issuer_and_audience_are_checked_where_they_are_set() {
        let rules = Rules {
            audiences: vec!["push".to_owned()],
            issuers: vec!["https://id.example".to_owned()],
            ..Rules::default()
        };
        let token = |rest: &str| format!(r#"{{"sub":"a","exp":1060{rest}}}"#);
        let good = [
            r#","iss":"https://id.example","aud":"push""#,
            r#","iss":"https://id.example","aud":["web","push"]"#,
        ];
        for rest in good {
            assert_eq!(check(&token(rest), &rules), Ok(60), "{rest}");
        }
        let bad = [
            "",
            r#","iss":"https://id.example""#,
            r#","aud":"push""#,
            r#","iss":"https://id.example/","aud":"push""#,
            r#","iss":"https://id.example","aud":"pushes""#,
            r#","iss":"https://id.example","aud":[]"#,
        ];
        for rest in bad {
            let denied = check(&token(rest), &rules);
            assert!(matches!(denied, Err(Denial::Claim(_))), "{rest}");
        }
        assert_eq!(
            check(&token(r#","iss":"x","aud":"y""#), &Rules::default()),
            Ok(60)
        );
    }

    #[test]
    fn the_user_may_stand_in_another_claim() {
        let user = |claim: &str, json: &str| {
            let claims = Claims::parse(json.as_bytes(), &UserClaim::new(claim));
            claims.map(|claims| claims.user().to_string())
        };
        for (claim, json, name) in [
            ("sub", r#"{"sub":"auth0|abc"}"#, "auth0|abc"),
            ("sub", r#"{"sub":42}"#, "42"),
            ("email", r#"{"sub":"x","email":"a+b@c.d"}"#, "a+b@c.d"),
            ("user.id", r#"{"user":{"id":7}}"#, "7"),
            ("a.b.c", r#"{"a":{"b.c":"x"}}"#, "x"),
            ("a.b.c", r#"{"a.b":{"c":"x"}}"#, "x"),
            ("https://e.org/id", r#"{"https://e.org/id":"x"}"#, "x"),
        ] {
            assert_eq!(user(claim, json).as_deref(), Ok(name), "{claim} {json}");
        }
        for (claim, json, word) in [
            ("sub", r#"{"email":"x"}"#, "has no sub"),
            ("email", r#"{"sub":"x"}"#, "lacks the claim"),
            ("user.id", r#"{"user":"x"}"#, "lacks the claim"),
            ("user", r#"{"user":{"id":"x"}}"#, "names no user"),
        ] {
            let words = user(claim, json).expect_err("no user");
            assert!(words.contains(word), "{claim} {json}: {words}");
        }
    }
}
