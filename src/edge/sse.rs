//! Server-sent events: from an HTTP request to a raw socket in a shard, for `EventSource`
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! The stream is not a body of hyper's, which would cost a task and buffers for each client: the
//! shard writes the head of the answer, and then the events, into the socket itself. The answer has
//! neither a length nor chunks, so the end of the stream is the end of the connection.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use warp::http::header::ORIGIN;
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::edge::error::HttpError;
use crate::edge::handshake::{check_request, enter, read_request};
use crate::edge::upgrade::{RequestContext, Upgrade, UpgradeRequest};
use crate::local::connection::Role;
use crate::protocol::{Dialect, GOODBYE_ID};

/// Lets a client in, or answers why not.
pub(crate) async fn connect(app: Arc<App>, request: UpgradeRequest) -> Response {
    match admit(&app, request).await {
        Ok(response) => response,
        Err(error) => {
            app.metrics.handshake_refused(error.code);
            error.reply()
        }
    }
}

async fn admit(app: &Arc<App>, request: UpgradeRequest) -> Result<Response, HttpError> {
    let UpgradeRequest {
        headers,
        query,
        context: RequestContext { peer, slot, .. },
        ..
    } = request;
    check_request(app, &headers)?;
    let mut connect = read_request(&query, &headers);
    match last_event_id(&headers, &query) {
        Some(id) if id == GOODBYE_ID => {
            // It was told not to reconnect. A browser does all the same, and stops at this answer.
            let mut stop = Response::default();
            *stop.status_mut() = StatusCode::NO_CONTENT;
            return Ok(stop);
        }
        // It is the client's position now; the URL's `since` is the one it began with.
        id => connect.event_id = id.map(|id| id.parse()),
    }
    let admitted = enter(app, connect, Dialect::Sse, &peer).await?;
    let config = &app.config;
    let upgrade = Upgrade {
        hub: app.hub.clone(),
        admitted,
        peer,
        role: Role::Client,
        head: head(&config.origins, origin(&headers)).into(),
        // A write that is not taken is found by the write deadline, which should speak first.
        silence: Some(config.pong_seconds + config.write_seconds),
    };
    slot.fill(upgrade).await
}

/// The id of the last event that the client got: from the header that browsers send, or from
/// the query, as clients do that cannot set one. It may be of another server that once stood
/// here: an `EventSource` would stop for good if it were refused.
fn last_event_id(headers: &HeaderMap, query: &str) -> Option<String> {
    let id = match headers.get("last-event-id") {
        Some(id) => Some(String::from_utf8_lossy(id.as_bytes()).into_owned()),
        None => url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "lastEventId")
            .map(|(_, value)| value.into_owned()),
    };
    id.filter(|id| !id.is_empty())
}

fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(ORIGIN)?.to_str().ok()
}

/// The head of the answer. `origin` is allowed to connect.
fn head(allowed: &[String], origin: Option<&str>) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
         x-accel-buffering: no\r\nconnection: close\r\ndate: {date}\r\n"
    );
    if let Some(origin) = origin {
        // To any page, but without its user's cookies, unless the page is on the list.
        let _ = if allowed.iter().any(|one| one == "*") {
            write!(head, "access-control-allow-origin: *\r\n")
        } else {
            write!(
                head,
                "access-control-allow-origin: {origin}\r\n\
                 access-control-allow-credentials: true\r\nvary: origin\r\n"
            )
        };
    }
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_read_the_stream_if_it_may_connect() {
        let list = ["https://app.example.org".to_owned()];
        let head = |allowed: &[String], origin| crate::edge::sse::head(allowed, origin);
        assert!(!head(&list, None).contains("access-control"));
        let listed = head(&list, Some("https://app.example.org"));
        assert!(listed.contains("\r\naccess-control-allow-origin: https://app.example.org\r\n"));
        assert!(listed.contains("\r\naccess-control-allow-credentials: true\r\n"));
        let any = head(&["*".to_owned()], Some("https://evil.net"));
        assert!(any.contains("\r\naccess-control-allow-origin: *\r\n"));
        assert!(!any.contains("credentials"));
    }

    #[test]
    fn the_header_counts_before_the_query() {
        let mut headers = HeaderMap::new();
        let query = "user=42&lastEventId=1.2-3";
        let id = |headers: &HeaderMap| last_event_id(headers, query);
        assert_eq!(id(&headers).as_deref(), Some("1.2-3"));
        headers.insert("last-event-id", "4.5-6".parse().unwrap());
        assert_eq!(id(&headers).as_deref(), Some("4.5-6"));
        headers.insert("last-event-id", "".parse().unwrap());
        assert_eq!(id(&headers), None);
    }
}
