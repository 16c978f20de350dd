//! What the routes of senders and the fast lane share: reading one push, and its outcome as an
//! answer over HTTP.

use serde::Serialize;
use warp::http::StatusCode;

use crate::app::App;
use crate::delivery::answer::Answer;
use crate::edge::error::ErrorBody;
use crate::protocol::{InvalidInput, PushRequest, Status};

/// Seconds until a sender may try again what did not find its way.
pub(crate) const UNROUTED_RETRY: u32 = 1;

/// Reads the body of one push.
pub(crate) fn parse(app: &App, body: &[u8]) -> Result<PushRequest, InvalidInput> {
    let request = PushRequest::parse(body)?;
    if request.keep && app.config.keep_messages == 0 {
        return Err(InvalidInput::new(
            "nothing is kept here (PUSH_KEEP_MESSAGES is 0)",
        ));
    }
    app.router.check(&request)?;
    Ok(request)
}

/// Writes the body for the outcome of a push, or of another command to a user's connections.
/// Answers its status; with 503 goes `Retry-After`, [`UNROUTED_RETRY`].
pub(crate) fn write(answer: &Answer, body: &mut Vec<u8>) -> StatusCode {
    if write_usual(answer, body) {
        return StatusCode::OK;
    }
    if answer.status != Status::Unrouted {
        serde_json::to_writer(body, answer).expect("our own types become JSON");
        return StatusCode::OK;
    }
    #[derive(Serialize)]
    struct Unrouted<'a> {
        error: ErrorBody<'a>,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let message = answer.reason.unwrap_or("no way to the user's node");
    let error = ErrorBody {
        code: "unrouted",
        message,
    };
    serde_json::to_writer(body, &Unrouted { error, answer }).expect("our own types become JSON");
    StatusCode::SERVICE_UNAVAILABLE
}

/// Writes an answer that has nothing beside its status and counts, as nearly all have: for serde it
/// takes 7 % of a push. Whether it was such a one; if not, nothing is written.
fn write_usual(answer: &Answer, body: &mut Vec<u8>) -> bool {
    let (status, connections, nodes) = (answer.status, answer.connections, answer.nodes);
    if status == Status::Unrouted || *answer != Answer::of(status, connections, nodes) {
        return false;
    }
    body.extend_from_slice(b"{\"id\":null,\"status\":\"");
    body.extend_from_slice(status.as_str().as_bytes());
    for (name, count) in [("\",\"connections\":", connections), (",\"nodes\":", nodes)] {
        body.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut *body, &count).expect("digits");
    }
    body.push(b'}');
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_answer_is_written_as_serde_writes_it() {
        for status in Status::ALL {
            for (connections, nodes) in [(0, 0), (1, 1), (10, 2), (u32::MAX, u32::MAX)] {
                let answer = Answer::of(status, connections, nodes);
                let mut body = Vec::new();
                let is_usual = write_usual(&answer, &mut body);
                assert_eq!(is_usual, status != Status::Unrouted);
                if is_usual {
                    let expected = serde_json::to_vec(&answer).unwrap();
                    assert_eq!(
                        body.escape_ascii().to_string(),
                        expected.escape_ascii().to_string()
                    );
                }
            }
        }
    }

    #[test]
    fn an_answer_with_more_in_it_is_left_to_serde() {
        let usual = || Answer::of(Status::Routed, 1, 1);
        let named = Answer {
            id: Some("a\"b".into()),
            ..usual()
        };
        let unreplicated = Answer {
            replicated: Some(false),
            ..usual()
        };
        let reasoned = Answer {
            reason: Some("why"),
            ..usual()
        };
        for answer in [named, unreplicated, reasoned] {
            let mut body = Vec::new();
            assert!(!write_usual(&answer, &mut body) && body.is_empty());
            assert_eq!(write(&answer, &mut body), StatusCode::OK);
            assert_eq!(body, serde_json::to_vec(&answer).unwrap());
        }
    }
}
