//! Fetches a JWKS, bounded in time and size.

use std::time::Duration;

use url::Url;

use crate::auth::keys;
use crate::auth::keys::Key;
use crate::http_client::{HttpAnswer, HttpBounds, HttpClient, HttpUrl};

/// The time limit of one fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most redirects of one fetch.
const MAX_REDIRECTS: usize = 5;
/// Maximum size of the answer.
const MAX_BYTES: usize = 256 * 1024;

/// Fetches the keys at a URL.
pub(super) async fn fetch(client: &HttpClient, url: &str) -> Result<Vec<Key>, String> {
    let fetched = tokio::time::timeout(TIMEOUT, get(client, url)).await;
    let answer = fetched.map_err(|_| "no answer in time".to_owned())??;
    if !(200..300).contains(&answer.status) {
        return Err(format!("the answer has the status {}", answer.status));
    }
    let text = std::str::from_utf8(&answer.body);
    let text = text.map_err(|_| "the answer is not UTF-8".to_owned())?;
    if !text.trim_start().starts_with('{') {
        return Err("the answer is not a JSON object".to_owned());
    }
    keys::read_set(text).map_err(|what| format!("the answer {what}"))
}

/// Requests a URL, and follows redirects on its own scheme, host and port only: another server was
/// not configured, and may be one that trusts this machine.
async fn get(client: &HttpClient, url: &str) -> Result<HttpAnswer, String> {
    let mut url = Url::parse(url).map_err(|error| error.to_string())?;
    let origin = url.origin();
    let bounds = HttpBounds {
        time: TIMEOUT,
        bytes: MAX_BYTES,
    };
    for _ in 0..=MAX_REDIRECTS {
        let answer = client.get(&HttpUrl::parse(url.as_str())?, bounds).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !(300..400).contains(&answer.status) {
            return Ok(answer);
        }
        let location = answer.location.as_deref();
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
