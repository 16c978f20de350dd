//! Routes from clients to services: `pattern=service`; the first matching pattern decides.

use std::sync::Arc;

pub(crate) use crate::protocol::route::MAX_ROUTE_BYTES;
use crate::protocol::route::is_route_byte;
use crate::protocol::topic_pattern::is_match;

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
}
