//! What hooks are asked and what they answer: JSON by HTTP, between a node and a backend.
//!
//! Answers are read strictly where they are known, and members that are not known are ignored, so
//! that a backend may say more than this version understands.

use std::net::IpAddr;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{ConnectionId, Topic, UserId};
use crate::protocol::info::Info;
use crate::protocol::json::{from_object, one_line, to_json};
use crate::protocol::secret::Secret;
use crate::protocol::topic_pattern::TopicPatterns;

/// Maximum topic patterns, and maximum topics, in one answer.
const MAX_TOPICS: usize = 1_000;
/// Longest time for which an answer holds: a year.
const MAX_SECONDS: f64 = 31_536_000.0;
/// Maximum characters of a reason that a client hears.
const MAX_REASON_CHARS: usize = 200;

/// Names and values, in their order.
pub type Pairs = Vec<(Box<str>, Box<str>)>;

/// What a client said when it came, as the connect hook hears it. Its values are secrets: they are
/// not shown in a log.
#[derive(Serialize)]
pub struct Introduction {
    #[serde(serialize_with = "as_object")]
    query: Pairs,
    #[serde(serialize_with = "as_object")]
    headers: Pairs,
    #[serde(serialize_with = "revealed")]
    token: Option<Secret>,
    address: Option<IpAddr>,
    transport: &'static str,
    device: Option<Box<str>>,
}

impl Introduction {
    /// `query` is without the token, wherever that stood. Pairs have different names.
    #[must_use]
    pub fn new(
        query: Pairs,
        headers: Pairs,
        token: Option<Secret>,
        address: Option<IpAddr>,
        transport: &'static str,
        device: Option<&str>,
    ) -> Self {
        Self {
            query,
            headers,
            token,
            address,
            transport,
            device: device.map(Into::into),
        }
    }

    /// The question whether this client may connect.
    #[must_use]
    pub fn question(&self) -> String {
        to_json(&ConnectQuestion {
            hook: "connect",
            renew: false,
            user: None,
            connection: None,
            client: self,
        })
    }

    /// The question whether it may stay.
    #[must_use]
    pub fn renewal(&self, user: &UserId, connection: &ConnectionId) -> String {
        to_json(&ConnectQuestion {
            hook: "connect",
            renew: true,
            user: Some(user),
            connection: Some(connection.to_string()),
            client: self,
        })
    }
}

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introduction").finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct ConnectQuestion<'a> {
    hook: &'static str,
    renew: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(flatten)]
    client: &'a Introduction,
}

fn as_object<S: Serializer>(pairs: &Pairs, serializer: S) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(pairs.len()))?;
    for (name, value) in pairs {
        object.serialize_entry(name, value)?;
    }
    object.end()
}

fn revealed<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::reveal).serialize(serializer)
}

/// Who a client is, as the connect hook says.
#[derive(Debug, Clone)]
pub struct ConnectAnswer {
    /// The user.
    pub user: UserId,
    /// What it may subscribe to, if that is not what the settings say.
    pub grants: Option<TopicPatterns>,
    /// What it is subscribed to from the beginning, granted or not.
    pub subscribe: Vec<Topic>,
    /// What it shows of itself to the members of its topics.
    pub info: Option<Info>,
    /// For how long this holds, if not for as long as the connection.
    pub expires_in: Option<Duration>,
}

impl ConnectAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            user: Option<Value>,
            #[serde(default)]
            topics: Option<Vec<Box<str>>>,
            #[serde(default)]
            subscribe: Option<Vec<Box<str>>>,
            #[serde(default)]
            info: Option<Box<RawValue>>,
            #[serde(default)]
            expires_in: Option<f64>,
        }
        let fields: Fields = from_object(body)?;
        let user = match &fields.user {
            Some(Value::String(text)) => text.parse().ok(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string().parse().ok(),
            _ => None,
        };
        let user = user.ok_or_else(|| {
            let words = "user must be 1 to 256 bytes of text without control characters, or a \
                whole number";
            InvalidInput::new(words)
        })?;
        let patterns = fields.topics.as_ref();
        if patterns.is_some_and(|all| all.len() > MAX_TOPICS) {
            return Err(InvalidInput::new("topics has over 1000 patterns"));
        }
        let grants = patterns.map(|all| TopicPatterns::from_patterns(all.iter().map(|one| &**one)));
        let grants = grants
            .transpose()
            .map_err(|_| InvalidInput::new("topics has something that is no pattern of topics"))?;
        let subscribe = fields.subscribe.unwrap_or_default();
        if subscribe.len() > MAX_TOPICS {
            return Err(InvalidInput::new("subscribe has over 1000 topics"));
        }
        let subscribe = subscribe.iter().map(|one| one.parse());
        let subscribe = subscribe.collect::<Result<_, _>>();
        let subscribe =
            subscribe.map_err(|_| InvalidInput::new("subscribe has something that is no topic"))?;
        Ok(Self {
            user,
            grants,
            subscribe,
            info: read_info(fields.info.as_deref())?,
            expires_in: fields.expires_in.map(lifetime).transpose()?,
        })
    }
}

fn read_info(json: Option<&RawValue>) -> Result<Option<Info>, InvalidInput> {
    json.map(Info::read).transpose().map(Option::flatten)
}

fn lifetime(seconds: f64) -> Result<Duration, InvalidInput> {
    match (1.0..=MAX_SECONDS).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(InvalidInput::new(
            "expires_in must be a number of seconds from 1 to 31536000",
        )),
    }
}

/// Why a hook refuses, in its own words: the text of this member of its answer.
#[must_use]
pub fn refusal_words(body: &[u8], member: &str) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let words = answer.get(member)?.as_str()?;
    let words = words.chars().filter(|one| !one.is_control());
    let words: String = words.take(MAX_REASON_CHARS).collect();
    Some(words).filter(|words| !words.is_empty())
}

/// The question whether a connection may have a topic, or may keep it. A client that is still on
/// its way in has no connection.
#[must_use]
pub fn subscribe_question(
    user: &UserId,
    connection: Option<&ConnectionId>,
    topic: &Topic,
    renew: bool,
) -> String {
    #[derive(Serialize)]
    struct SubscribeQuestion<'a> {
        hook: &'static str,
        renew: bool,
        user: &'a UserId,
        connection: Option<String>,
        topic: &'a Topic,
    }
    to_json(&SubscribeQuestion {
        hook: "subscribe",
        renew,
        user,
        connection: connection.map(ToString::to_string),
        topic,
    })
}

/// Whether a connection may have a topic, as the subscribe hook says.
#[derive(Debug, Clone)]
pub struct SubscribeAnswer {
    /// It may.
    pub allow: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What the connection shows of itself to the members of this topic, if that is not what it
    /// shows to all.
    pub info: Option<Info>,
    /// For how long this holds, if not for as long as the subscription.
    pub expires_in: Option<Duration>,
}

impl SubscribeAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        #[derive(Deserialize)]
        struct Fields {
            allow: bool,
            #[serde(default)]
            info: Option<Box<RawValue>>,
            #[serde(default)]
            expires_in: Option<f64>,
        }
        let fields: Fields = from_object(body)?;
        Ok(Self {
            allow: fields.allow,
            reason: refusal_words(body, "reason"),
            info: read_info(fields.info.as_deref())?,
            expires_in: fields.expires_in.map(lifetime).transpose()?,
        })
    }
}

/// What a client sends to a service that is a hook.
#[must_use]
pub fn send_question(
    user: &UserId,
    connection: &ConnectionId,
    route: &str,
    reference: Option<&str>,
    data: &str,
) -> String {
    #[derive(Serialize)]
    struct SendQuestion<'a> {
        hook: &'static str,
        user: &'a UserId,
        connection: String,
        route: &'a str,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a RawValue>,
        data: &'a RawValue,
    }
    // Both were read as JSON when the client's message was.
    let raw = |json| serde_json::from_str::<&RawValue>(json).expect("JSON that was read before");
    to_json(&SendQuestion {
        hook: "send",
        user,
        connection: connection.to_string(),
        route,
        reference: reference.map(raw),
        data: raw(data),
    })
}

/// The fields of the reply to a client, from the answer of the service that it sent to. An empty
/// answer is a reply without `data`.
///
/// # Errors
/// If the answer is not JSON.
pub fn send_answer_fields(body: &[u8]) -> Result<String, InvalidInput> {
    if body.trim_ascii().is_empty() {
        return Ok(r#""status":"answered""#.to_owned());
    }
    let data: &RawValue = serde_json::from_slice(body)?;
    let data = one_line(data);
    Ok(format!(r#""status":"answered","data":{data}"#))
}

/// The fields of the reply to a client whose service has failed, in these words.
#[must_use]
pub fn send_failed_fields(words: &str, retry: Option<Duration>) -> String {
    let words = to_json(&words);
    match retry {
        None => format!(r#""status":"failed","error":{words}"#),
        Some(retry) => {
            let retry = retry.as_millis();
            format!(r#""status":"failed","error":{words},"retry_ms":{retry}"#)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_user_and_what_it_may() {
        let json =
            br#"{"user":42,"topics":["chat.*"],"subscribe":["bell.42"],"expires_in":60,"x":1}"#;
        let answer = ConnectAnswer::parse(json).expect("an answer");
        assert_eq!(answer.user.as_str(), "42");
        let grants = answer.grants.expect("grants");
        assert!(grants.allows(&"chat.1".parse().expect("a topic"), &answer.user));
        assert_eq!(answer.subscribe, ["bell.42".parse().expect("a topic")]);
        assert_eq!(answer.expires_in, Some(Duration::from_secs(60)));
        let json = br#"{"user":"a|b","topics":null,"subscribe":null,"expires_in":null}"#;
        let answer = ConnectAnswer::parse(json).expect("an answer");
        assert_eq!(answer.user.as_str(), "a|b");
        assert!(answer.grants.is_none() && answer.expires_in.is_none());
        assert!(answer.subscribe.is_empty());
    }

    #[test]
    fn an_answer_that_is_none_is_told_by_its_fault() {
        for (json, word) in [
            ("", "EOF"),
            ("<html>", "expected value"),
            ("[42]", "an object"),
            ("null", "an object"),
            ("{}", "user must be"),
            (r#"{"user":null}"#, "user must be"),
            (r#"{"user":""}"#, "user must be"),
            (r#"{"user":1.5}"#, "user must be"),
            (r#"{"user":["a"]}"#, "user must be"),
            (r#"{"user":"a","user":"b"}"#, "duplicate field"),
            (r#"{"user":"a","topics":"chat"}"#, "expected a sequence"),
            (r#"{"user":"a","topics":["a b"]}"#, "no pattern"),
            (r#"{"user":"a","subscribe":["chat.*"]}"#, "no topic"),
            (r#"{"user":"a","info":"Ann"}"#, "info must be"),
            (r#"{"user":"a","expires_in":"60"}"#, "invalid type"),
            (r#"{"user":"a","expires_in":0}"#, "expires_in must be"),
            (r#"{"user":"a","expires_in":1e99}"#, "expires_in must be"),
        ] {
            let fault = ConnectAnswer::parse(json.as_bytes()).expect_err(json);
            assert!(fault.to_string().contains(word), "{json}: {fault}");
        }
    }

    #[test]
    fn an_answer_about_a_topic_says_yes_or_no() {
        let parse = |json: &str| SubscribeAnswer::parse(json.as_bytes());
        let yes = parse(r#"{"allow":true,"expires_in":60,"info":{}}"#).expect("an answer");
        assert!(yes.allow);
        assert_eq!(yes.expires_in, Some(Duration::from_secs(60)));
        let no = parse(r#"{"allow":false,"reason":"not a member"}"#).expect("an answer");
        assert_eq!(
            (no.allow, no.reason.as_deref()),
            (false, Some("not a member"))
        );
        for json in [
            "{}",
            r#"{"allow":1}"#,
            r#"{"allow":"true"}"#,
            r#"{"allow":true,"info":[]}"#,
            "true",
            "[true]",
            "",
        ] {
            assert!(parse(json).is_err(), "{json}");
        }
    }

    #[test]
    fn words_of_a_refusal_are_one_short_line() {
        let words = |json: &str| refusal_words(json.as_bytes(), "reason");
        assert_eq!(words(r#"{"reason":"log in"}"#).as_deref(), Some("log in"));
        assert_eq!(words(r#"{"reason":"a\r\nb"}"#).as_deref(), Some("ab"));
        let long = format!(r#"{{"reason":"{}"}}"#, "ö".repeat(500));
        assert_eq!(words(&long), Some("ö".repeat(MAX_REASON_CHARS)));
        for json in [
            "",
            "{}",
            "[]",
            r#"{"reason":7}"#,
            r#"{"reason":""}"#,
            "<html>",
        ] {
            assert_eq!(words(json), None, "{json}");
        }
    }

    #[test]
    fn an_answer_to_a_send_is_passed_on_in_one_line() {
        let fields = |body: &str| send_answer_fields(body.as_bytes());
        let whole = fields("{\n \"a\": \"x\\ny\"\n}\n").expect("JSON");
        assert_eq!(
            whole,
            "\"status\":\"answered\",\"data\":{  \"a\": \"x\\ny\" }"
        );
        assert_eq!(fields(" \n").expect("empty"), r#""status":"answered""#);
        for body in ["<html>", "{", "{} {}", "\u{feff}{}"] {
            assert!(fields(body).is_err(), "{body}");
        }
    }
}
