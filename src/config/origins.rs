//! The web pages that may connect: origins, compared by RFC 6454.
//!
//! A browser sends scheme, host and port of a page in `Origin`; the default port is left out. Apps
//! in a web view send a scheme of their own (`capacitor://localhost`). A page without an origin, as
//! in a sandboxed frame, sends `null`.

use crate::config::hosts::{Authority, HostPattern};

/// An origin as a request has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin<'a> {
    /// `null`: a page that may be any.
    Null,
    Page {
        scheme: &'a str,
        host: &'a str,
        /// The scheme's default, if it has one and the request names none.
        port: Option<u16>,
    },
}

impl<'a> Origin<'a> {
    /// Reads the header; none if it is no origin. A slash at the end is forgiven.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, rest) = text.split_once("://")?;
        let Authority { name, port } = Authority::parse(rest.strip_suffix('/').unwrap_or(rest))?;
        is_scheme(scheme).then_some(Self::Page {
            scheme,
            host: name,
            port: port.or(default_port(scheme)),
        })
    }

    /// Whether a page that this node, or a proxy in front of it, served under this host has this
    /// origin. Only the page knows whether it came by TLS.
    pub(crate) fn is_of(&self, served: Authority<'_>) -> bool {
        let Self::Page { scheme, host, port } = *self else {
            return false;
        };
        let is_web = is_plain(scheme) || is_secure(scheme);
        is_web
            && host.eq_ignore_ascii_case(served.name)
            && port == served.port.or(default_port(scheme))
    }

    /// Whether the page came by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        matches!(self, Self::Page { scheme, .. } if is_secure(scheme))
    }
}

fn is_plain(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("http")
}

fn is_secure(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https")
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if is_plain(scheme) => Some(80),
        _ if is_secure(scheme) => Some(443),
        _ => None,
    }
}

/// RFC 3986, 3.1.
fn is_scheme(text: &str) -> bool {
    let is_rest = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_rest)
}

/// `PUSH_ORIGINS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    any: bool,
    null: bool,
    pages: Vec<PagePattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PagePattern {
    scheme: String,
    host: HostPattern,
    port: Option<u16>,
}

impl AllowedOrigins {
    /// Whether no page of another host is listed.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether pages may connect that are not listed by name.
    pub(super) fn allow_strangers(&self) -> bool {
        self.any || self.null
    }

    /// Reads a list.
    ///
    /// # Errors
    /// The first entry that is not an origin, and why.
    pub(super) fn parse<'a>(list: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut allowed = Self::default();
        for text in list {
            match text {
                "*" => allowed.any = true,
                "null" => allowed.null = true,
                text => {
                    let page = PagePattern::parse(text);
                    let page = page.map_err(|what| format!("has {text:?}: {what}"))?;
                    allowed.pages.push(page);
                }
            }
        }
        Ok(allowed)
    }

    /// Whether all pages may connect.
    pub(crate) fn allow_any(&self) -> bool {
        self.any
    }

    /// Whether pages of this origin may connect; none is what could not be read.
    pub(crate) fn allow(&self, origin: Option<Origin<'_>>) -> bool {
        self.any
            || match origin {
                None => false,
                Some(Origin::Null) => self.null,
                Some(Origin::Page { scheme, host, port }) => {
                    let fits = |page: &PagePattern| {
                        page.port == port
                            && page.scheme.eq_ignore_ascii_case(scheme)
                            && page.host.fits(host)
                    };
                    self.pages.iter().any(fits)
                }
            }
    }
}

impl PagePattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "must be an origin such as https://app.example.org or \
            capacitor://localhost, without a path, null, or *";
        const WILDCARD: &str = "* stands for one label, at the beginning of the host of an http \
            or https origin: https://*.example.org";
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        if !is_scheme(scheme) {
            return Err(if scheme.contains('*') {
                WILDCARD
            } else {
                SHAPE
            });
        }
        let scheme = scheme.to_ascii_lowercase();
        let is_web = matches!(scheme.as_str(), "http" | "https");
        let (rest, is_wildcard) = match rest.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        if rest.contains('*') || (is_wildcard && !is_web) {
            return Err(WILDCARD);
        }
        match scheme.as_str() {
            "http" | "https" => Self::web(scheme, rest, is_wildcard).ok_or(SHAPE),
            "ws" | "wss" => Err("a page's origin begins with http:// or https://"),
            _ => Self::app(scheme, rest).ok_or(SHAPE),
        }
    }

    fn web(scheme: String, rest: &str, is_wildcard: bool) -> Option<Self> {
        // As browsers write it: small letters, ASCII, addresses in their short form.
        let url = url::Url::parse(&format!("{scheme}://{rest}")).ok()?;
        let is_bare = !rest.contains(['/', '\\', '?', '#', '@']) && !rest.ends_with(':');
        let name = url.host_str()?;
        // `https://*.org` would be anyone's.
        let is_narrow = matches!(url.host()?, url::Host::Domain(_))
            && (name.contains('.') || name == "localhost");
        (is_bare && (is_narrow || !is_wildcard)).then(|| Self {
            host: HostPattern::new(name, is_wildcard),
            port: url.port_or_known_default(),
            scheme,
        })
    }

    fn app(scheme: String, rest: &str) -> Option<Self> {
        let Authority { name, port } = Authority::parse(rest)?;
        let has_name = !name.is_empty() || scheme == "file";
        (has_name && !rest.ends_with(':')).then(|| Self {
            scheme,
            host: HostPattern::new(name, false),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &str) -> Result<AllowedOrigins, String> {
        AllowedOrigins::parse(list.split(',').map(str::trim))
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (list, good, bad) in [
            (
                "https://app.example.org",
                &[
                    "https://app.example.org",
                    "https://app.example.org:443",
                    "HTTPS://App.Example.org/",
                ][..],
                &[
                    "http://app.example.org",
                    "https://app.example.org:444",
                    "https://app.example.org.evil.net",
                    "https://evil.net/https://app.example.org",
                    "https://x@app.example.org",
                    "null",
                    "",
                ][..],
            ),
            (
                "HTTP://A.org:80",
                &["http://a.org"],
                &["https://a.org", "http://a.org:81"],
            ),
            ("http://[::0:1]:81", &["http://[::1]:81"], &["http://[::1]"]),
            (
                "https://bücher.example",
                &["https://xn--bcher-kva.example"],
                &[],
            ),
            (
                "https://*.example.org",
                &["https://a.example.org", "https://A.EXAMPLE.org:443"],
                &[
                    "https://example.org",
                    "https://.example.org",
                    "https://a.b.example.org",
                    "https://aexample.org",
                    "http://a.example.org",
                    "https://a.example.org:8443",
                ],
            ),
            (
                "http://*.localhost:5173",
                &["http://app.localhost:5173"],
                &["http://localhost:5173"],
            ),
            (
                "capacitor://localhost, ionic://localhost, tauri://localhost, app://obsidian.md",
                &[
                    "capacitor://localhost",
                    "ionic://localhost",
                    "tauri://localhost",
                    "app://obsidian.md",
                ],
                &[
                    "capacitor://evil",
                    "http://localhost",
                    "app://obsidian.md:1",
                ],
            ),
            (
                "chrome-extension://abcdefghijklmnopabcdefghijklmnop, moz-extension://8c7e",
                &[
                    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
                    "moz-extension://8c7e",
                ],
                &["chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba"],
            ),
            ("file://", &["file://"], &["null", "file://x"]),
            ("null", &["null"], &["file://", "NULL"]),
            ("*", &["null", "https://evil.net", "what?"], &[]),
        ] {
            let allowed = allowed(list).unwrap();
            for origin in good {
                assert!(allowed.allow(Origin::parse(origin)), "{list}: {origin}");
            }
            for origin in bad {
                assert!(!allowed.allow(Origin::parse(origin)), "{list}: {origin}");
            }
        }
    }

    #[test]
    fn what_could_never_match_is_refused_at_the_start() {
        for bad in [
            "app.example.org",
            "https://app.example.org/",
            "https://app.example.org/x",
            "https://u@app.example.org",
            "https://",
            "https://app.example.org:",
            "wss://app.example.org",
            "capacitor://",
            "capacitor://local host",
            "://x",
        ] {
            let words = allowed(bad).unwrap_err();
            assert!(words.contains("origin"), "{bad}: {words}");
        }
        for bad in [
            "https://*",
            "*://app.example.org",
            "https://a*.example.org",
            "https://*.*.example.org",
            "https://app.*.org",
            "https://app.example.org:*",
            "chrome-extension://*",
            "capacitor://*.localhost",
            "https://*.org",
            "https://*.0.0.1",
        ] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_nodes_own_page_has_its_host() {
        let is_own = |origin, host| {
            let host = Authority::parse(host).unwrap();
            Origin::parse(origin).unwrap().is_of(host)
        };
        for (origin, host) in [
            ("https://push.example.org", "push.example.org"),
            ("http://push.example.org", "push.example.org"),
            ("https://push.example.org", "push.example.org:443"),
            ("http://push.example.org", "Push.Example.org:80"),
            ("https://push.example.org:443/", "push.example.org"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(is_own(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://push.example.org", "push.example.org:8443"),
            ("https://push.example.org", "push.example.org:80"),
            ("https://push.example.org.evil.net", "push.example.org"),
            ("capacitor://push.example.org", "push.example.org"),
            ("null", "push.example.org"),
        ] {
            assert!(!is_own(origin, host), "{origin} {host}");
        }
    }
}
