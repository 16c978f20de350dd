//! URLs that a node itself requests.

/// The check of such a URL; empty: none.
pub(super) fn service_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        _ if text.is_empty() => Ok(String::new()),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("must not contain a user or password: logs would show them".to_owned())
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        _ => Err("must be a URL with https or http".to_owned()),
    }
}
