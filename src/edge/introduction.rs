//! What a client said in its request, as the connect hook hears it.

use std::borrow::Cow;

use serde_json::{Map, Value};
use warp::http::HeaderMap;

use crate::edge::error::HttpError;
use crate::edge::peer::Peer;
use crate::protocol::Dialect;
use crate::protocol::client::connect::ConnectRequest;
use crate::protocol::hooks::{Introduction, Pairs};

/// A client's request, as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClientWords<'a> {
    Http {
        query: &'a str,
        headers: &'a HeaderMap,
    },
    /// The first line of a client over TCP.
    Line(&'a str),
}

/// Chooses what the hook hears. `wanted` are the headers that it gets. The token stands apart,
/// wherever the client put it.
pub(crate) fn introduce(
    said: ClientWords<'_>,
    wanted: &[String],
    request: &ConnectRequest,
    dialect: Dialect,
    peer: &Peer,
) -> Result<Introduction, HttpError> {
    let (query, headers) = match said {
        ClientWords::Http { query, headers } => (read_query(query)?, choose(headers, wanted)),
        ClientWords::Line(line) => (read_line(line), Pairs::new()),
    };
    Ok(Introduction::new(
        query,
        headers,
        request.token.clone(),
        peer.address,
        dialect.transport(),
        request.device.as_deref(),
    ))
}

/// Each parameter once: a proxy may have set the first, and programs disagree which of two counts.
fn read_query(query: &str) -> Result<Pairs, HttpError> {
    let mut pairs = Pairs::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let earlier = pairs.iter_mut().find(|(known, _)| **known == *name);
        match (&*name, earlier) {
            ("token", _) => {}
            (_, None) => pairs.push((Cow::into(name), Cow::into(value))),
            ("topics", Some((_, topics))) => *topics = format!("{topics},{value}").into(),
            (name, Some(_)) => {
                return Err(HttpError::bad_request(format!("{name} must be there once")));
            }
        }
    }
    Ok(pairs)
}

/// The texts in a line that was read as a connect request before.
fn read_line(line: &str) -> Pairs {
    let members: Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
    let texts = members.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) if name != "type" && name != "token" => {
            Some((name.into(), text.into()))
        }
        _ => None,
    });
    texts.collect()
}

fn choose(headers: &HeaderMap, wanted: &[String]) -> Pairs {
    let mut chosen = Pairs::new();
    for name in wanted {
        // RFC 6265, 5.4 and RFC 9110, 5.3.
        let between = if name == "cookie" { "; " } else { ", " };
        let values = headers.get_all(name.as_str()).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let values: Vec<_> = values.collect();
        let is_new = chosen.iter().all(|(known, _)| **known != **name);
        if !values.is_empty() && is_new {
            chosen.push((name.as_str().into(), values.join(between).into()));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &Pairs) -> Vec<(&str, &str)> {
        pairs
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect()
    }

    #[test]
    fn the_query_is_heard_without_the_token() {
        let read = read_query("room=7&token=secret&topics=a&topics=b%2Cc&x=%C3%B6+1").unwrap();
        let heard = [("room", "7"), ("topics", "a,b,c"), ("x", "ö 1")];
        assert_eq!(pairs(&read), heard);
        let refused = read_query("room=7&room=8").unwrap_err();
        assert_eq!(refused.message(), "room must be there once");
        let line = r#"{"type":"connect","token":"secret","room":"7","topics":["a"]}"#;
        assert_eq!(pairs(&read_line(line)), [("room", "7")]);
    }

    #[test]
    fn headers_are_heard_if_they_are_wanted() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("accept-language", "de"),
            ("accept-language", "en"),
            ("x-secret", "s"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let wanted = ["cookie", "accept-language", "cookie", "user-agent"].map(str::to_owned);
        let heard = [("cookie", "a=1; b=2"), ("accept-language", "de, en")];
        assert_eq!(pairs(&choose(&headers, &wanted)), heard);
    }
}
