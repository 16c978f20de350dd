//! Fetches a JWKS: one request on a blocking thread, bounded in time and size.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::Response;
use ureq::http::header::LOCATION;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::auth::keys;
use crate::auth::keys::Key;

/// The time limit of one fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most redirects of one fetch.
const MAX_REDIRECTS: usize = 5;
/// Maximum size of the answer.
const MAX_BYTES: u64 = 256 * 1024;

pub(super) struct Client(ureq::Agent);

impl Client {
    /// Trusts the certificates of this system, or those in `SSL_CERT_FILE`, as for Redis.
    pub(super) fn new() -> Self {
        let certificates = rustls_native_certs::load_native_certs().certs;
        let roots: Vec<Certificate<'static>> = certificates
            .iter()
            .map(|certificate| Certificate::from_der(certificate).to_owned())
            .collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .tls_config(tls)
            .build();
        Self(config.into())
    }

    pub(super) async fn fetch(&self, url: &str) -> Result<Vec<Key>, String> {
        let (agent, url) = (self.0.clone(), url.to_owned());
        let fetched = tokio::task::spawn_blocking(move || {
            let mut answer = get(&agent, &url)?;
            let body = answer.body_mut().with_config().limit(MAX_BYTES);
            let text = body.read_to_string().map_err(|error| error.to_string())?;
            if !text.trim_start().starts_with('{') {
                return Err("the answer is not a JSON object".to_owned());
            }
            keys::read_set(&text).map_err(|what| format!("the answer {what}"))
        });
        fetched.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// Requests a URL, and follows redirects on its own scheme, host and port only: another server was
/// not configured, and may be one that trusts this machine.
fn get(agent: &ureq::Agent, url: &str) -> Result<Response<ureq::Body>, String> {
    let mut url = url::Url::parse(url).map_err(|error| error.to_string())?;
    let origin = url.origin();
    for _ in 0..=MAX_REDIRECTS {
        let answer = agent.get(url.as_str()).call();
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.status().is_redirection() {
            return Ok(answer);
        }
        let location = answer.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok());
        url = next.ok_or("the answer redirects to no URL")?;
        if url.origin() != origin {
            let words = "the answer redirects to another scheme, host or port, which is not followed; \
                set PUSH_JWKS_URL to it if it is right";
            return Err(words.to_owned());
        }
    }
    Err(format!("over {MAX_REDIRECTS} redirects"))
}
