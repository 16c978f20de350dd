//! Routes from clients to services: `pattern=service`; the first matching pattern decides. A
//! service is a stream in Redis, by its name, or a hook, by its URL.

use std::sync::Arc;

pub(crate) use crate::protocol::route::MAX_ROUTE_BYTES;
use crate::protocol::route::is_route_byte;
use crate::protocol::topic_pattern::is_match;

use crate::config::service_url::service_url;

/// What receives messages of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// The stream of a service.
    Service(Arc<str>),
    /// A hook at this URL.
    Hook(Arc<str>),
}

/// The table of routes. Empty: clients cannot send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamRoutes(Vec<(Box<str>, RouteTarget)>);

impl UpstreamRoutes {
    pub(super) fn parse<'a>(items: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let route = |item: &str| {
            let (pattern, service) = item
                .split_once('=')
                .ok_or_else(|| format!("has {item:?}: must be pattern=service"))?;
            let (pattern, service) = (pattern.trim(), service.trim());
            let is_pattern = (1..=MAX_ROUTE_BYTES).contains(&pattern.len())
                && pattern.bytes().all(|b| b == b'*' || is_route_byte(b));
            if !is_pattern {
                return Err(format!(
                    "has {item:?}: the pattern must be 1 to 128 bytes of A-Z a-z 0-9 . _ : / - and *"
                ));
            }
            if service.contains("://") {
                // Not quoted: its query may hold a key.
                let url = service_url(service);
                url.map_err(|what| format!("has a URL for {pattern:?}: it {what}"))?;
                return Ok((pattern.into(), RouteTarget::Hook(service.into())));
            }
            let is_service = (1..=64).contains(&service.len())
                && service
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            if !is_service {
                return Err(format!(
                    "has {item:?}: the service must be 1 to 64 bytes of A-Z a-z 0-9 . _ -, or a URL"
                ));
            }
            Ok((pattern.into(), RouteTarget::Service(service.into())))
        };
        items.map(route).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is no route, so that clients cannot send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a service reads a stream, for which there must be a Redis.
    #[must_use]
    pub fn has_services(&self) -> bool {
        self.services().next().is_some()
    }

    /// What receives messages on this route.
    #[must_use]
    pub fn target(&self, route: &str) -> Option<&RouteTarget> {
        let fits = |(pattern, _): &&(Box<str>, RouteTarget)| is_match(pattern, route);
        self.0.iter().find(fits).map(|(_, target)| target)
    }

    /// All services that read streams, each once.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets().filter_map(|target| match target {
            RouteTarget::Service(service) => Some(service),
            RouteTarget::Hook(_) => None,
        })
    }

    /// The URLs of all services that are hooks, each once.
    pub fn hooks(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets().filter_map(|target| match target {
            RouteTarget::Hook(url) => Some(url),
            RouteTarget::Service(_) => None,
        })
    }

    fn targets(&self) -> impl Iterator<Item = &RouteTarget> {
        let is_first = |i: usize, target: &RouteTarget| {
            !self.0[..i].iter().any(|(_, before)| before == target)
        };
        let targets = self.0.iter().enumerate();
        targets.filter_map(move |(i, (_, target))| is_first(i, target).then_some(target))
    }
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
            let expected = RouteTarget::Service(service.into());
            assert_eq!(routes.target(route), Some(&expected), "{route:?}");
        }
        let services: Vec<&str> = routes.services().map(|service| &**service).collect();
        assert_eq!(services, ["chat", "orders", "news", "rest"]);
    }

    #[test]
    fn a_service_with_a_scheme_is_a_hook() {
        let both = routes(
            "chat.*=https://app.example/push?a=b,x=http://[::1]:1/,y=http://[::1]:1/,*=rest",
        );
        let hook = |url: &str| Some(RouteTarget::Hook(url.into()));
        let chat = both.target("chat.1").cloned();
        assert_eq!(chat, hook("https://app.example/push?a=b"));
        assert_eq!(both.target("x"), both.target("y"));
        let hooks: Vec<&str> = both.hooks().map(|url| &**url).collect();
        assert_eq!(hooks, ["https://app.example/push?a=b", "http://[::1]:1/"]);
        assert!(both.has_services());
        assert!(!routes("*=http://a/").has_services());
        for (text, word) in [
            ("*=ftp://a/", "https or http"),
            ("*=http://u:secret@a/", "user or password"),
            ("*=http://", "https or http"),
            ("*=a/b", "or a URL"),
        ] {
            let fault = UpstreamRoutes::parse(text.split(',')).expect_err(text);
            assert!(fault.contains(word) && !fault.contains("secret"), "{fault}");
        }
    }
}
