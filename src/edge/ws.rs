//! WebSocket: from an HTTP request to a raw socket in a shard (RFC 6455, 4.2).
//!
//! The handshake is ours and not warp's, whose WebSocket costs 137 KiB a socket. The client's shard
//! writes the 101 after `handshake` has let the client in, together with `ready` and whatever else
//! waits for it.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};
use warp::http::header::{
    CONNECTION, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use warp::http::{HeaderMap, HeaderName, Method, StatusCode, Version};
use warp::reply::Response;

use crate::app::App;
use crate::edge::caller::Caller;
use crate::edge::cors::Reader;
use crate::edge::error::HttpError;
use crate::edge::handshake::{check_leaving, enter, read_request};
use crate::edge::introduction::ClientWords;
use crate::edge::peer::Peer;
use crate::edge::refusal;
use crate::edge::upgrade::{Takeover, Upgrade, UpgradeRequest};
use crate::local::connection::Role;
use crate::protocol::{Dialect, SUBPROTOCOL};

/// What the accept key is made of, together with the client's key (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version we speak (RFC 6455, 4.1).
const VERSION: &str = "13";

/// What the headers of an opening handshake ask for.
#[derive(Debug, PartialEq, Eq)]
struct Opening {
    accept: String,
    dialect: Dialect,
}

/// A request to become a WebSocket, whichever way it was read.
pub(crate) struct WsRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a str,
    pub(crate) caller: &'a Caller,
    pub(crate) peer: &'a Peer,
}

/// What becomes of such a request.
pub(crate) enum Judgement {
    /// Its socket is taken.
    Takeover(Takeover),
    /// It is answered, and its connection goes on.
    Answer(Box<Response>),
}

/// Lets a client in, or answers why not.
pub(crate) async fn connect(app: Arc<App>, request: UpgradeRequest) -> Response {
    let slot = request.context.slot.clone();
    match judge(&app, WsRequest::of(&request)).await {
        Judgement::Takeover(takeover) => slot.fill(takeover).await,
        Judgement::Answer(answer) => *answer,
    }
}

/// Whether a client is let in.
pub(crate) async fn judge(app: &Arc<App>, request: WsRequest<'_>) -> Judgement {
    let reader = Reader::of(app, request.headers, request.caller);
    let refused = |error| Judgement::Answer(refusal::answer(app, error, &reader).into());
    let opening = match request.opening() {
        Ok(opening) => opening,
        Err(error) => return refused(error),
    };
    let takes_frames = opening.dialect == Dialect::V1 && refusal::wants_frames(request.query);
    let head = takes_frames.then(|| opening.head());
    match (admit(app, request, opening, Role::Client).await, head) {
        (Ok(upgrade), _) => Judgement::Takeover(Takeover::Client(upgrade)),
        (Err(error), None) => refused(error),
        (Err(error), Some(head)) => {
            let words = refusal::frames(app, &error, head);
            Judgement::Takeover(Takeover::Refused(words))
        }
    }
}

/// As [`connect`], for a connection that gets back what it sends.
#[cfg(feature = "echo")]
pub(crate) async fn echo(app: Arc<App>, mut request: UpgradeRequest) -> Response {
    request.query = "user=echo".to_owned();
    let slot = request.context.slot.clone();
    let request = WsRequest::of(&request);
    let admitted = match request.opening() {
        Ok(opening) => admit(&app, request, opening, Role::Echo).await,
        Err(error) => Err(error),
    };
    match admitted {
        Ok(upgrade) => slot.fill(Takeover::Client(upgrade)).await,
        Err(error) => error.reply(),
    }
}

impl<'a> WsRequest<'a> {
    fn of(request: &'a UpgradeRequest) -> Self {
        let UpgradeRequest {
            method,
            headers,
            query,
            context,
        } = request;
        Self {
            method,
            version: context.version,
            headers,
            query,
            caller: &context.caller,
            peer: &context.peer,
        }
    }

    fn opening(&self) -> Result<Opening, HttpError> {
        read_opening(self.method, self.version, self.headers)
    }
}

async fn admit(
    app: &Arc<App>,
    WsRequest {
        headers,
        query,
        caller,
        peer,
        ..
    }: WsRequest<'_>,
    opening: Opening,
    role: Role,
) -> Result<Upgrade, HttpError> {
    check_leaving(app)?;
    // A browser always says where the page is from (RFC 6455, 10.2).
    if headers.contains_key(ORIGIN) {
        caller.check_page(app, headers)?;
    }
    let request = read_request(query, headers)?;
    let said = ClientWords::Http { query, headers };
    let admitted = enter(app, request, said, opening.dialect, peer).await?;
    Ok(Upgrade {
        hub: app.hub.clone(),
        admitted,
        peer: peer.clone(),
        role,
        head: opening.head().into(),
        silence: None,
    })
}

impl Opening {
    /// The head of the answer that makes it a WebSocket (RFC 6455, 4.2.2).
    fn head(&self) -> String {
        let accept = &self.accept;
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n"
        );
        if self.dialect == Dialect::V1 {
            let _ = write!(head, "sec-websocket-protocol: {SUBPROTOCOL}\r\n");
        }
        head.push_str("\r\n");
        head
    }
}

/// Checks the headers of the opening handshake (RFC 6455, 4.2.1).
fn read_opening(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<Opening, HttpError> {
    if method != Method::GET {
        return Err(HttpError::method_not_allowed("GET"));
    }
    let upgrade_required = |words| {
        HttpError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", words)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_VERSION, VERSION)
    };
    if version != Version::HTTP_11 {
        return Err(upgrade_required("WebSocket needs HTTP/1.1"));
    }
    if !has_token(headers, UPGRADE, "websocket") || !has_token(headers, CONNECTION, "upgrade") {
        return Err(upgrade_required(
            "this is a WebSocket endpoint: Upgrade: websocket",
        ));
    }
    match headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(|version| version.as_bytes())
    {
        Some(b"13") => {}
        _ => return Err(upgrade_required("Sec-WebSocket-Version must be 13")),
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(HttpError::bad_request(
            "Sec-WebSocket-Key must be there once",
        ));
    };
    let is_16_bytes = key.len() == 24 && BASE64.decode(key).is_ok_and(|key| key.len() == 16);
    if !is_16_bytes {
        return Err(HttpError::bad_request(
            "Sec-WebSocket-Key must be 16 bytes in base64",
        ));
    }
    let mut digest = Sha1::new();
    digest.update(key);
    digest.update(GUID);
    // Not in any case: a browser ends the connection over a protocol that it did not offer.
    let v1 = offered(headers, SEC_WEBSOCKET_PROTOCOL).any(|one| one == SUBPROTOCOL);
    let dialect = if v1 { Dialect::V1 } else { Dialect::Plain };
    Ok(Opening {
        accept: BASE64.encode(digest.finalize()),
        dialect,
    })
}

/// Whether a comma-separated header has this token, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    offered(headers, name).any(|one| one.eq_ignore_ascii_case(token))
}

/// The items of a comma-separated header.
fn offered(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn status(pairs: &[(&'static str, &'static str)]) -> u16 {
        read_opening(&Method::GET, Version::HTTP_11, &headers(pairs))
            .unwrap_err()
            .status
            .as_u16()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let opening = read_opening(&Method::GET, Version::HTTP_11, &headers(&GOOD)).unwrap();
        assert_eq!(opening.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(opening.dialect, Dialect::Plain);
    }

    #[test]
    fn the_subprotocol_is_one_of_a_list() {
        let mut pairs = GOOD.to_vec();
        pairs.push(("sec-websocket-protocol", "other, pushnode.v1"));
        let opening = read_opening(&Method::GET, Version::HTTP_11, &headers(&pairs)).unwrap();
        assert_eq!(opening.dialect, Dialect::V1);
    }

    #[test]
    fn only_a_subprotocol_that_was_offered_is_chosen() {
        for (offer, expected) in [
            ("PUSHNODE.V1", Dialect::Plain),
            ("other, Pushnode.v1", Dialect::Plain),
            ("PushNode.V1, pushnode.v1", Dialect::V1),
        ] {
            let pairs = [&GOOD[..], &[("sec-websocket-protocol", offer)]].concat();
            let opening = read_opening(&Method::GET, Version::HTTP_11, &headers(&pairs)).unwrap();
            assert_eq!(opening.dialect, expected, "{offer}");
        }
    }

    #[test]
    fn what_is_no_handshake_gets_its_status() {
        let without = |name: &str| -> Vec<_> {
            GOOD.into_iter()
                .filter(|(header, _)| *header != name)
                .collect()
        };
        let with = |name: &'static str, value: &'static str| -> Vec<_> {
            without(name).into_iter().chain([(name, value)]).collect()
        };
        assert_eq!(status(&without("upgrade")), 426);
        assert_eq!(status(&with("upgrade", "h2c")), 426);
        assert_eq!(status(&without("connection")), 426);
        assert_eq!(status(&with("sec-websocket-version", "8")), 426);
        assert_eq!(status(&without("sec-websocket-version")), 426);
        assert_eq!(status(&without("sec-websocket-key")), 400);
        assert_eq!(status(&with("sec-websocket-key", "")), 400);
        assert_eq!(status(&with("sec-websocket-key", "YWJj")), 400);
        assert_eq!(
            status(&with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZ!==")),
            400
        );
        let post = read_opening(&Method::POST, Version::HTTP_11, &headers(&GOOD)).unwrap_err();
        assert_eq!(post.status.as_u16(), 405);
        let old = read_opening(&Method::GET, Version::HTTP_10, &headers(&GOOD)).unwrap_err();
        assert_eq!(old.status.as_u16(), 426);
    }
}
