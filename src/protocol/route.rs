//! A client's route to a service: the text by which a node finds the service.
//!
//! Owns the grammar only. Which service serves which route is a setting
//! (`PUSH_UPSTREAM_ROUTES`).

/// Longest route of a client, and longest pattern of routes, in bytes.
pub const MAX_ROUTE_BYTES: usize = 128;

/// Whether this text is a route. It may be empty.
#[must_use]
pub fn is_route(route: &str) -> bool {
    route.len() <= MAX_ROUTE_BYTES && route.bytes().all(is_route_byte)
}

/// Whether this byte may stand in a route.
pub(crate) const fn is_route_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'/' | b'-')
}
