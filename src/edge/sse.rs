//! Server-sent events: from an HTTP request to a raw socket in a shard, for `EventSource`
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! The stream is not a body of hyper's, which would cost a task and buffers for each client: the
//! shard writes the head of the answer, and then the events, into the socket itself. Each event is
//! a chunk, so that clients which read in blocks pass it on at once. The last chunk comes only
//! after a goodbye for good: its absence tells a client that the stream was cut off. Over HTTP/1.0
//! there are no chunks, and the end of the stream is the end of the connection.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use warp::http::{HeaderMap, Method, StatusCode, Version};
use warp::reply::Response;

use crate::app::App;
use crate::edge::cors::{Reader, preflight};
use crate::edge::error::HttpError;
use crate::edge::handshake::{enter, read_request};
use crate::edge::introduction::ClientWords;
use crate::edge::refusal;
use crate::edge::upgrade::{RequestContext, Takeover, Upgrade, UpgradeRequest};
use crate::local::connection::Role;
use crate::local::retry::retry_after;
use crate::protocol::close::CloseReason;
use crate::protocol::{Dialect, EventStream, GOODBYE_ID};

/// Lets a client in, or answers why not.
pub(crate) async fn connect(app: Arc<App>, request: UpgradeRequest) -> Response {
    let (headers, caller) = (&request.headers, &request.context.caller);
    if request.method == Method::OPTIONS {
        return preflight(&app, headers, caller);
    }
    let reader = Reader::of(&app, headers, caller);
    match admit(&app, request, &reader).await {
        Ok(response) => reader.allow(response),
        Err(error) => refusal::answer(&app, error, &reader),
    }
}

async fn admit(
    app: &Arc<App>,
    request: UpgradeRequest,
    reader: &Reader,
) -> Result<Response, HttpError> {
    let UpgradeRequest {
        headers,
        query,
        context:
            RequestContext {
                peer,
                version,
                caller,
                slot,
                ..
            },
        ..
    } = request;
    caller.check_page(app, &headers)?;
    if app.closing.has_begun() {
        return slot.fill(send_on(app, reader, version)).await;
    }
    let mut connect = read_request(&query, &headers)?;
    match last_event_id(&headers, &query)? {
        Some(id) if id == GOODBYE_ID => {
            // It was told not to reconnect. A browser does all the same, and stops at this answer.
            let mut stop = Response::default();
            *stop.status_mut() = StatusCode::NO_CONTENT;
            return Ok(stop);
        }
        // It is the client's position now; the URL's `since` is the one it began with.
        id => connect.event_id = id.map(|id| id.parse()),
    }
    let dialect = Dialect::Sse(EventStream {
        is_chunked: version != Version::HTTP_10,
        has_envelopes: connect.wants_envelope()?,
    });
    let said = ClientWords::Http {
        query: &query,
        headers: &headers,
    };
    let admitted = enter(app, connect, said, dialect, &peer).await?;
    let config = &app.config;
    let upgrade = Upgrade {
        hub: app.hub.clone(),
        admitted,
        peer,
        role: Role::Client,
        head: head(reader, dialect).into(),
        // A write that is not taken is found by the write deadline, which should speak first.
        silence: Some(config.pong_seconds + config.write_seconds),
    };
    slot.fill(Takeover::Client(upgrade)).await
}

/// A leaving node opens a stream only to say when to reconnect: an `EventSource` that is answered
/// 503 stops for good.
fn send_on(app: &App, reader: &Reader, version: Version) -> Takeover {
    app.metrics.handshake_refused("draining");
    let dialect = Dialect::Sse(EventStream {
        is_chunked: version != Version::HTTP_10,
        has_envelopes: false,
    });
    let mut bytes = Vec::from(head(reader, dialect));
    for frame in dialect.goodbye(CloseReason::Drain, Some(retry_after())) {
        bytes.extend_from_slice(&frame);
    }
    Takeover::Refused(bytes.into())
}

/// The id of the last event that the client got: from the header that browsers send, or from
/// the query, as clients do that cannot set one. It may be of another server that once stood
/// here: an `EventSource` would stop for good if it were refused.
fn last_event_id(headers: &HeaderMap, query: &str) -> Result<Option<String>, HttpError> {
    let id = match headers.get("last-event-id") {
        Some(id) => Some(String::from_utf8_lossy(id.as_bytes()).into_owned()),
        None => {
            let named = |(name, _): &(Cow<'_, str>, _)| name == "lastEventId";
            let mut ids = url::form_urlencoded::parse(query.as_bytes()).filter(named);
            let id = ids.next();
            if ids.next().is_some() {
                return Err(HttpError::bad_request("lastEventId must be there once"));
            }
            id.map(|(_, value)| value.into_owned())
        }
    };
    Ok(id.filter(|id| !id.is_empty()))
}

/// The head of the answer. It does not announce the end of the connection where there are chunks:
/// the `fetch` of Node takes a stream that is cut off after that for a whole one.
fn head(reader: &Reader, dialect: Dialect) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let framing = match dialect {
        Dialect::Sse(form) if form.is_chunked => "transfer-encoding: chunked",
        _ => "connection: close",
    };
    let mut head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
         x-accel-buffering: no\r\n{framing}\r\ndate: {date}\r\n"
    );
    reader.write(&mut head);
    head.push_str("\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn stream(is_chunked: bool) -> Dialect {
        Dialect::Sse(EventStream {
            is_chunked,
            has_envelopes: false,
        })
    }

    fn head(reader: &Reader) -> String {
        super::head(reader, stream(true))
    }

    #[test]
    fn a_page_may_read_the_stream_if_it_may_connect() {
        assert!(!head(&Reader::None).contains("access-control"));
        let page = Reader::Page("https://app.example.org".parse().unwrap());
        let listed = head(&page);
        assert!(listed.contains("\r\naccess-control-allow-origin: https://app.example.org\r\n"));
        assert!(listed.contains("\r\naccess-control-allow-credentials: true\r\n"));
        for (reader, origin) in [(Reader::Any, "*"), (Reader::Null, "null")] {
            let head = head(&reader);
            assert!(head.contains(&format!("\r\naccess-control-allow-origin: {origin}\r\n")));
            assert!(!head.contains("credentials"), "{head}");
        }
    }

    #[test]
    fn only_http_1_1_has_chunks() {
        for (dialect, framing) in [
            (stream(true), "transfer-encoding: chunked"),
            (stream(false), "connection: close"),
        ] {
            let head = super::head(&Reader::None, dialect);
            let said = ["transfer-encoding: chunked", "connection: close"];
            let said = said.into_iter().filter(|one| head.contains(one));
            assert_eq!(said.collect::<Vec<_>>(), [framing], "{head}");
        }
    }

    #[test]
    fn the_header_counts_before_the_query() {
        let mut headers = HeaderMap::new();
        let query = "user=42&lastEventId=1.2-3";
        let id = |headers: &HeaderMap| last_event_id(headers, query);
        assert_eq!(id(&headers).unwrap().as_deref(), Some("1.2-3"));
        headers.insert("last-event-id", "4.5-6".parse().unwrap());
        assert_eq!(id(&headers).unwrap().as_deref(), Some("4.5-6"));
        headers.insert("last-event-id", "".parse().unwrap());
        assert_eq!(id(&headers).unwrap(), None);
    }
}
