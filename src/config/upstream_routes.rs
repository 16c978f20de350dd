//! Routes from clients to services: `pattern=service`; the first matching pattern decides.

use std::sync::Arc;

/// Longest pattern, and longest route of a client, in bytes.
pub const MAX_ROUTE_BYTES: usize = 128;

/// The table of routes. Empty: clients cannot send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamRoutes(Vec<(Box<str>, Arc<str>)>);

impl UpstreamRoutes {
    pub(super) fn parse<'a>(items: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let route = |item: &str| {
            let (pattern, service) = item
                .split_once('=')
                .ok_or_else(|| format!("has {item:?}: must be pattern=service"))?;
            let (pattern, service) = (pattern.trim(), service.trim());
            let is_pattern = (1..=MAX_ROUTE_BYTES).contains(&pattern.len())
                && pattern.bytes().all(|b| b == b'*' || is_route_byte(b));
            let is_service = (1..=64).contains(&service.len())
                && service
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            if !is_pattern {
                return Err(format!(
                    "has {item:?}: the pattern must be 1 to 128 bytes of A-Z a-z 0-9 . _ : / - and *"
                ));
            }
            if !is_service {
                return Err(format!(
                    "has {item:?}: the service must be 1 to 64 bytes of A-Z a-z 0-9 . _ -"
                ));
            }
            Ok((pattern.into(), service.into()))
        };
        items.map(route).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is no route, so that clients cannot send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service that receives messages on this route.
    #[must_use]
    pub fn service(&self, route: &str) -> Option<&Arc<str>> {
        let fits = |(pattern, _): &&(Box<str>, Arc<str>)| is_match(pattern, route);
        self.0.iter().find(fits).map(|(_, service)| service)
    }

    /// All services, each once.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        let is_first =
            |i: usize, service: &Arc<str>| !self.0[..i].iter().any(|(_, before)| before == service);
        let services = self.0.iter().enumerate();
        services.filter_map(move |(i, (_, service))| is_first(i, service).then_some(service))
    }
}

/// Whether this is a valid route of a client; it may be empty.
#[must_use]
pub fn is_route(route: &str) -> bool {
    route.len() <= MAX_ROUTE_BYTES && route.bytes().all(is_route_byte)
}

const fn is_route_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'/' | b'-')
}

/// Each `*` matches any text, also none. The route must begin with the first part and end with the
/// last. Each part between them is matched at its first occurrence, which leaves the longest rest.
fn is_match(pattern: &str, route: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else {
        return pattern == route;
    };
    let Some(mut rest) = route.strip_prefix(first) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> UpstreamRoutes {
        UpstreamRoutes::parse(text.split(',')).expect("routes")
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let routes = routes("chat.*=chat,order.new=orders,*.new=news,*=rest");
        for (route, service) in [
            ("chat.say", "chat"),
            ("chat.", "chat"),
            ("chat.new", "chat"),
            ("order.new", "orders"),
            ("order.newer", "rest"),
            ("x.new", "news"),
            ("", "rest"),
        ] {
            assert_eq!(
                routes.service(route).map(|s| &**s),
                Some(service),
                "{route:?}"
            );
        }
        let services: Vec<&str> = routes.services().map(|service| &**service).collect();
        assert_eq!(services, ["chat", "orders", "news", "rest"]);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, route, fits) in [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("aba*aba", "aba", false),
            ("*b*", "abc", true),
            ("*b*", "ac", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("a", "a", true),
            ("a", "ab", false),
        ] {
            assert_eq!(is_match(pattern, route), fits, "{pattern:?} {route:?}");
        }
    }
}
