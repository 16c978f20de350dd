//! Tokens of clients: signed ones, and sessions that a node opens. They live for some seconds, so
//! that they end and are renewed within a run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::tokens::Issuer;
use crate::history::{Micros, Recorder, SECOND, TOPICS, topic};
use crate::views::View;

/// Of all nodes and the issuer.
pub(crate) const SECRET: &str = "a-secret-of-the-chaos-test-32-bytes-long";
/// Longest wait for a session.
const OPENING: Duration = Duration::from_secs(3);

/// What kind of token a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Jwt,
    Session,
}

/// A token, and when it ends.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) ends: Micros,
}

impl Pass {
    /// A new token of this user.
    pub(crate) async fn issue(
        self,
        view: &View,
        user: &str,
        seconds: u64,
        recorder: &Recorder,
    ) -> Option<Token> {
        let topics: Vec<&str> = TOPICS.into_iter().filter_map(topic).collect();
        match self {
            Self::Jwt => {
                let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                let now = recorder.now();
                let exp = wall.as_secs() + seconds;
                let claims = json!({"sub": user, "exp": exp, "topics": topics});
                let left = Duration::from_secs(exp).saturating_sub(wall);
                Some(Token {
                    text: Issuer::secret(SECRET).token(&claims),
                    ends: now + left.as_micros() as Micros,
                })
            }
            Self::Session => {
                let url = format!("http://{}/v1/sessions", view.clients);
                let wish = json!({"user": user, "ttl_seconds": seconds, "topics": topics});
                // Redis counts from some time within the request on.
                let ends = recorder.now() + seconds * SECOND;
                let request = crate::common::http().post(url).timeout(OPENING).json(&wish);
                let answer: Value = request.send().await.ok()?.json().await.ok()?;
                let text = answer["token"].as_str()?.to_owned();
                Some(Token { text, ends })
            }
        }
    }
}
