//! Who asks: a program, this node's own page, or a page from elsewhere. As far as the head of a
//! request tells, and before any route sees it.
//!
//! A browser sends requests of any page to any address that its user can reach, loopback included.
//! It says so in headers that pages cannot set: `Origin`, `Sec-Fetch-Site` and `Host`. What each
//! kind of route makes of that: `check_page` for clients, `check_stranger` where access is free.

use warp::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_VERSION};
use warp::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version};

use crate::app::App;
use crate::config::hosts::{Authority, OwnNames};
use crate::config::origins::Origin;
use crate::edge::error::HttpError;

/// Headers of which a second one would leave open which counts. hyper refuses two lengths, and
/// `ws` two keys.
const SINGLE: [HeaderName; 6] = [
    ORIGIN,
    AUTHORIZATION,
    CONTENT_TYPE,
    SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("last-event-id"),
    SEC_FETCH_SITE,
];
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The ports that `https://` and `http://` leave out.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// Of what a stranger wrote, so much is logged.
const SHOWN_CHARS: usize = 100;

/// What the head of a request tells about its sender.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    page: PageKind,
    name: Name,
    /// For the log; none unless something is strange.
    words: Option<Words>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageKind {
    /// No browser, or none that says where its page is from.
    Unknown,
    /// A page of this host.
    Own,
    /// A page of another origin.
    Foreign,
}

/// The name by which the node was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// One of its own.
    Own,
    /// That of a proxy in front of it.
    Proxy,
    /// One that a stranger may have had resolved to this node (DNS rebinding).
    Strange,
}

impl Name {
    fn of(
        host: Option<Authority<'_>>,
        port: Option<u16>,
        own: &OwnNames,
        (page, is_secure): (PageKind, bool),
    ) -> Self {
        match (host, port) {
            // HTTP/1.0 without a host is no browser either.
            (None, _) | (_, None) => Self::Own,
            (Some(host), _) if own.have(host) => Self::Own,
            (Some(host), Some(port)) if page != PageKind::Foreign => {
                // A proxy with TLS has a certificate for this name. Without, a browser that comes
                // directly names the listener's port, and a proxy usually has the default one.
                let named = host.port.unwrap_or(DEFAULT_PORTS[0]);
                match is_secure || (named != port && DEFAULT_PORTS.contains(&named)) {
                    true => Self::Proxy,
                    false => Self::Strange,
                }
            }
            _ => Self::Strange,
        }
    }
}

/// As they came: a node behind a proxy sees such requests all the time, and logs none of them.
#[derive(Debug, Clone)]
struct Words {
    origin: Option<HeaderValue>,
    host: Option<HeaderValue>,
}

impl Caller {
    /// Reads the head of a request. `port` is the listener's; none is a Unix socket, which no
    /// browser can reach.
    ///
    /// # Errors
    /// What RFC 9112, 3.2 refuses, and repeated headers of which only one can count.
    pub(crate) fn of<B>(
        request: &Request<B>,
        own: &OwnNames,
        port: Option<u16>,
    ) -> Result<Self, HttpError> {
        let headers = request.headers();
        let host = host(request)?;
        // No name is there twice in almost all requests, which costs nothing to know.
        if headers.len() != headers.keys_len() {
            check_repeated(headers)?;
        }
        let read = headers.get(ORIGIN).map(origin);
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        let page = match (read, site) {
            (_, Some(b"cross-site")) | (None, Some(b"same-site")) => PageKind::Foreign,
            (None, _) => PageKind::Unknown,
            (Some(Some(origin)), _) if host.is_some_and(|host| origin.is_of(host)) => PageKind::Own,
            (Some(_), _) => PageKind::Foreign,
        };
        // Browsers say where a page is from only to https and to this machine's own names.
        let is_secure = site.is_some() || read.flatten().is_some_and(|origin| origin.is_secure());
        let name = Name::of(host, port, own, (page, is_secure));
        let mut caller = Self {
            page,
            name,
            words: None,
        };
        if !caller.is_plain() {
            caller.words = Some(Words {
                origin: headers.get(ORIGIN).cloned(),
                host: headers.get(HOST).cloned(),
            });
        }
        Ok(caller)
    }

    /// As [`Caller::of`], for a request that only a program sends: with one `Host`, and without
    /// `Origin` and `Sec-Fetch-Site`. None if that host is no host.
    pub(crate) fn of_program(host: &str, own: &OwnNames, port: Option<u16>) -> Option<Self> {
        let host = Authority::parse(host)?;
        Some(Self {
            page: PageKind::Unknown,
            name: Name::of(Some(host), port, own, (PageKind::Unknown, false)),
            words: None,
        })
    }

    /// Whether neither its page nor the name that it uses is strange.
    pub(crate) fn is_plain(&self) -> bool {
        self.page != PageKind::Foreign && self.name == Name::Own
    }

    /// Whether a page, if it is one, may connect as a client.
    pub(crate) fn may_connect(&self, app: &App, headers: &HeaderMap) -> bool {
        self.judge(app, headers).is_none()
    }

    /// Refuses pages that may not connect as clients.
    pub(crate) fn check_page(&self, app: &App, headers: &HeaderMap) -> Result<(), HttpError> {
        match self.judge(app, headers) {
            None => Ok(()),
            Some(Complaint::Host) => Err(self.strange_name(app)),
            Some(Complaint::Origin) => {
                let setting = "PUSH_ORIGINS lists the pages that may connect";
                self.log(app, Complaint::Origin, setting);
                let words = "pages of this origin may not connect (PUSH_ORIGINS)";
                Err(HttpError::new(StatusCode::FORBIDDEN, "origin", words))
            }
        }
    }

    fn judge(&self, app: &App, headers: &HeaderMap) -> Option<Complaint> {
        let allowed = &app.config.origins;
        if allowed.allow_any() || (self.page == PageKind::Unknown && self.name == Name::Own) {
            return None;
        }
        let listed = |value: &HeaderValue| allowed.allow(origin(value));
        if headers.get(ORIGIN).is_some_and(listed) {
            return None;
        }
        // A page that had its own name resolved to this node still has no token for it.
        let is_open = app.authenticator.is_open();
        match (self.page, self.name) {
            (PageKind::Foreign, _) => Some(Complaint::Origin),
            (_, Name::Strange) if is_open => Some(Complaint::Host),
            _ => None,
        }
    }

    /// Refuses pages from elsewhere, for a route that asks for no key.
    pub(crate) fn check_stranger(&self, app: &App) -> Result<(), HttpError> {
        self.check_foreign(app)?;
        match self.name == Name::Own {
            true => Ok(()),
            false => Err(self.strange_name(app)),
        }
    }

    /// As [`Caller::check_stranger`], under any name: load balancers use the names of their
    /// clients.
    pub(crate) fn check_foreign(&self, app: &App) -> Result<(), HttpError> {
        if self.page != PageKind::Foreign {
            return Ok(());
        }
        let setting = "without PUSH_API_KEYS, senders may not be pages of other hosts";
        self.log(app, Complaint::Origin, setting);
        let words = "pages of other origins may not ask this";
        Err(HttpError::new(StatusCode::FORBIDDEN, "origin", words))
    }

    /// Whether a sender of pushes is let in: by its key or, where none are set, as no stranger.
    pub(crate) fn check_sender(
        &self,
        app: &App,
        authorization: Option<&str>,
    ) -> Result<(), SenderFault> {
        if !app.api_keys.allow(authorization) {
            return Err(SenderFault::NoKey);
        }
        if app.api_keys.is_empty() {
            self.check_stranger(app).map_err(SenderFault::Stranger)?;
        }
        Ok(())
    }

    fn strange_name(&self, app: &App) -> HttpError {
        let setting = "PUSH_ALLOWED_HOSTS lists further names of this node";
        self.log(app, Complaint::Host, setting);
        let words = "this node is not known by the name in Host (PUSH_ALLOWED_HOSTS)";
        HttpError::new(StatusCode::FORBIDDEN, "host", words)
    }

    fn log(&self, app: &App, complaint: Complaint, setting: &str) {
        let throttle = match complaint {
            Complaint::Origin => &app.refused_origins,
            Complaint::Host => &app.refused_hosts,
        };
        let Some(words) = &self.words else { return };
        if let Some(unlogged) = throttle.pass() {
            let text = |value: &Option<HeaderValue>| -> String {
                let bytes = value.as_ref().map_or(&[][..], HeaderValue::as_bytes);
                String::from_utf8_lossy(bytes)
                    .chars()
                    .take(SHOWN_CHARS)
                    .collect()
            };
            let (origin, host) = (text(&words.origin), text(&words.host));
            tracing::info!(%origin, %host, unlogged, "request refused: {setting}");
        }
    }
}

/// Why a sender is not let in.
#[derive(Debug)]
pub(crate) enum SenderFault {
    /// It has no valid key.
    NoKey,
    /// It comes from elsewhere.
    Stranger(HttpError),
}

#[derive(Clone, Copy)]
enum Complaint {
    Origin,
    Host,
}

/// The origin in a header; none if it is not one.
fn origin(value: &HeaderValue) -> Option<Origin<'_>> {
    value.to_str().ok().and_then(Origin::parse)
}

/// The host that a request is for. None where HTTP/1.0 names none.
fn host<B>(request: &Request<B>) -> Result<Option<Authority<'_>>, HttpError> {
    let mut values = request.headers().get_all(HOST).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(HttpError::bad_request("Host must be there once"));
    }
    let Some(value) = first else {
        return match request.version() < Version::HTTP_11 {
            true => Ok(None),
            false => Err(HttpError::bad_request("Host is missing")),
        };
    };
    let read = value.to_str().ok().and_then(Authority::parse);
    let read = read.ok_or_else(|| HttpError::bad_request("Host must be a host and a port"))?;
    // RFC 9112, 3.2.2: the host of an absolute target counts instead.
    let target = request.uri().authority();
    match target.map(|target| Authority::parse(target.as_str())) {
        None => Ok(Some(read)),
        Some(Some(target)) => Ok(Some(target)),
        Some(None) => Err(HttpError::bad_request("the target has no host")),
    }
}

fn check_repeated(headers: &HeaderMap) -> Result<(), HttpError> {
    for name in SINGLE {
        if headers.get_all(&name).iter().nth(1).is_some() {
            let words = format!("the header {name} must be there once");
            return Err(HttpError::bad_request(words));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const PORT: u16 = 8080;

    fn read(headers: &[(&'static str, &'static str)]) -> Result<(PageKind, Name), String> {
        let mut request = Request::new(());
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let own = OwnNames::new(&Config::from_pairs([]).unwrap());
        let caller = Caller::of(&request, &own, Some(PORT));
        let caller = caller.map_err(|error| error.object())?;
        Ok((caller.page, caller.name))
    }

    #[test]
    fn a_page_is_known_by_its_origin_or_by_what_the_browser_says_of_it() {
        let page = |headers: &[_]| {
            let host = [("host", "127.0.0.1:8080")];
            read(&[&host, headers].concat()).unwrap().0
        };
        assert_eq!(page(&[]), PageKind::Unknown);
        for site in ["none", "same-origin"] {
            assert_eq!(page(&[("sec-fetch-site", site)]), PageKind::Unknown);
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(page(&[("sec-fetch-site", site)]), PageKind::Foreign);
        }
        let own = ("origin", "http://127.0.0.1:8080");
        assert_eq!(page(&[own]), PageKind::Own);
        assert_eq!(
            page(&[own, ("sec-fetch-site", "cross-site")]),
            PageKind::Foreign
        );
        for origin in ["http://localhost:8080", "null", "https://evil.example", "?"] {
            assert_eq!(page(&[("origin", origin)]), PageKind::Foreign, "{origin}");
        }
    }

    #[test]
    fn a_foreign_name_is_a_proxys_or_a_trick() {
        let name = |headers: &[_]| read(headers).unwrap().1;
        for own in [
            "127.0.0.1:8080",
            "localhost:9000",
            "[::1]:8080",
            "node-a:8080",
        ] {
            assert_eq!(name(&[("host", own)]), Name::Own, "{own}");
        }
        for headers in [
            &[("host", "push.example.org")][..],
            &[("host", "push.example.org:443")],
            &[
                ("host", "push.example.org"),
                ("origin", "http://push.example.org"),
            ],
            &[
                ("host", "push.example.org:8443"),
                ("origin", "https://push.example.org:8443"),
            ],
            &[
                ("host", "push.example.org:8080"),
                ("sec-fetch-site", "same-origin"),
            ],
        ] {
            assert_eq!(name(headers), Name::Proxy, "{headers:?}");
        }
        for headers in [
            &[("host", "evil.example:8080")][..],
            &[
                ("host", "evil.example:8080"),
                ("origin", "http://evil.example:8080"),
            ],
            &[
                ("host", "evil.example:9000"),
                ("origin", "http://evil.example:9000"),
            ],
        ] {
            assert_eq!(name(headers), Name::Strange, "{headers:?}");
        }
    }

    #[test]
    fn there_is_one_host_and_one_of_each_header_that_counts_once() {
        assert!(read(&[]).unwrap_err().contains("Host is missing"));
        let two = [("host", "a"), ("host", "a")];
        assert!(read(&two).unwrap_err().contains("Host must be there once"));
        for bad in ["a b", "a/b", "u@a", "a:b"] {
            assert!(read(&[("host", bad)]).is_err(), "{bad}");
        }
        for name in ["origin", "authorization", "last-event-id", "sec-fetch-site"] {
            let words = read(&[("host", "a"), (name, "x"), (name, "x")]).unwrap_err();
            assert!(words.contains(name), "{words}");
        }
        assert!(read(&[("host", "a"), ("cookie", "x"), ("cookie", "y")]).is_ok());
    }
}
