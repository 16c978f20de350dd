//! The current keys: secrets and keys from the environment, a file that is read again when it
//! changes, and a JWKS that is fetched at intervals.
//!
//! What must stay true: a source that fails keeps its last good keys; a flood of tokens with
//! invented key names causes no flood of fetches; a token check waits for a fetch only if the
//! token's key is unknown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::auth::claims::{Claims, Rules};
use crate::auth::jwt;
use crate::auth::jwt::Fault;
use crate::auth::keys;
use crate::auth::keys::Key;
use crate::auth::{Denial, jwks};
use crate::config::Config;
use crate::http_client::HttpClient;
use crate::protocol::secret::Secret;

/// The time between two checks whether the file has changed.
const FILE_STEP: Duration = Duration::from_secs(1);
/// The minimum time between two fetches, however many callers ask for one.
const FETCH_PAUSE: Duration = Duration::from_secs(5);
/// How long a token with an unknown key waits for a fetch.
const PATIENCE: Duration = Duration::from_secs(2);

/// The sources of keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) secrets: Vec<Secret>,
    /// Public keys, as PEM.
    pub(crate) keys: String,
    /// A file with PEM or a JWKS.
    pub(crate) file: Option<PathBuf>,
    /// The URL of a JWKS.
    pub(crate) url: Option<String>,
    /// The time between two fetches of the JWKS.
    pub(crate) refresh: Duration,
}

impl Sources {
    /// Those of the settings.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            secrets: config.jwt_secrets.clone(),
            keys: config.jwt_keys.clone(),
            file: config.jwt_keys_file.clone(),
            url: Some(config.jwks_url.clone()).filter(|url| !url.is_empty()),
            refresh: config.jwks_seconds,
        }
    }

    /// The public keys from the environment, and those in the file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(&self) -> Result<[Vec<Key>; 2], String> {
        let fixed = match &*self.keys {
            "" => Vec::new(),
            keys => keys::read(keys).map_err(|what| format!("PUSH_JWT_KEYS {what}"))?,
        };
        let file = match &self.file {
            Some(path) => read_file(path).map_err(|what| format!("PUSH_JWT_KEYS_FILE {what}"))?,
            None => Vec::new(),
        };
        Ok([fixed, file])
    }
}

#[derive(Debug, Default)]
struct State {
    secrets: Vec<Key>,
    /// Public keys from the environment.
    fixed: Vec<Key>,
    file: Vec<Key>,
    /// `None` until the first fetch has succeeded.
    fetched: Option<Vec<Key>>,
}

impl State {
    fn keys(&self) -> impl Iterator<Item = &Key> + Clone {
        let fetched = self.fetched.iter().flatten();
        (self.secrets.iter().chain(&self.fixed))
            .chain(&self.file)
            .chain(fetched)
    }
}

/// All keys; a background task keeps them current.
#[derive(Debug)]
pub(crate) struct Keyring {
    state: RwLock<State>,
    rules: Rules,
    url: Option<String>,
    /// Wakes the task to fetch early.
    wanted: Notify,
    /// Wakes the task that watches the file, which reads it whether or not it seems changed.
    reread: Arc<Notify>,
    /// Counts fetch attempts.
    attempts: watch::Sender<u64>,
    /// When the last attempt ended.
    last: RwLock<Option<Instant>>,
}

impl Keyring {
    /// Reads the local keys and starts to fetch the remote ones. The task that watches the file
    /// ends with the ring. The task that fetches holds the ring itself, as the node does, and ends
    /// with the process.
    ///
    /// # Errors
    /// What is wrong with the keys or the file.
    pub(crate) fn start(sources: Sources, rules: Rules) -> Result<Arc<Self>, String> {
        let [fixed, file] = sources.read()?;
        let ring = Arc::new(Self {
            state: RwLock::new(State {
                secrets: secret_keys(&sources.secrets),
                fixed,
                file,
                fetched: None,
            }),
            rules,
            url: sources.url.clone(),
            wanted: Notify::new(),
            reread: Arc::default(),
            attempts: watch::channel(0).0,
            last: RwLock::default(),
        });
        if let Some(path) = sources.file {
            let reread = ring.reread.clone();
            tokio::spawn(watch_file(Arc::downgrade(&ring), path, reread));
        }
        if let Some(url) = sources.url {
            tokio::spawn(ring.clone().fetch(url, sources.refresh));
        }
        Ok(ring)
    }

    /// Reads the file and fetches the JWKS now.
    pub(crate) fn reload(&self) {
        self.reread.notify_one();
        self.wanted.notify_one();
    }

    /// Takes other secrets in place of those before.
    pub(crate) fn replace_secrets(&self, secrets: &[Secret]) {
        let keys = secret_keys(secrets);
        let mut state = self.state.write();
        state.secrets = keys;
    }

    /// The claims of a token and how long they remain valid.
    pub(crate) async fn check(&self, token: &str) -> Result<(Claims, Duration), Denial> {
        let attempts = self.attempts.subscribe();
        let opened = match self.open(token) {
            Err(Fault::UnknownKey) if self.has_fetched(attempts).await => self.open(token),
            opened => opened,
        };
        let claims = match opened {
            Ok(claims) => claims,
            Err(Fault::Claim(what)) => return Err(Denial::Claim(what)),
            Err(Fault::Invalid(_) | Fault::UnknownKey) if self.is_waiting_for_keys() => {
                return Err(Denial::KeysUnavailable);
            }
            Err(Fault::Invalid(what)) => return Err(Denial::Invalid(what)),
            Err(Fault::UnknownKey) => return Err(Denial::Invalid("its kid is unknown")),
        };
        let left = claims.check(&self.rules, crate::clock::since_1970().as_secs_f64())?;
        Ok((claims, left))
    }

    fn open(&self, token: &str) -> Result<Claims, Fault> {
        let state = self.state.read();
        jwt::open(token, &state.keys(), &self.rules.user)
    }

    /// Keys must be fetched, and no fetch has succeeded yet.
    fn is_waiting_for_keys(&self) -> bool {
        let state = self.state.read();
        self.url.is_some() && state.fetched.is_none()
    }

    /// Asks for a fetch, unless one was made a moment ago, and waits for it. Returns whether a
    /// fetch was made.
    async fn has_fetched(&self, mut attempts: watch::Receiver<u64>) -> bool {
        let recently = |last: &Option<Instant>| last.is_some_and(|at| at.elapsed() < FETCH_PAUSE);
        if self.url.is_none() || recently(&self.last.read()) {
            return false;
        }
        self.wanted.notify_one();
        let changed = tokio::time::timeout(PATIENCE, attempts.changed()).await;
        matches!(changed, Ok(Ok(())))
    }

    /// Fetches at once, then at intervals; earlier on request or after a failure.
    async fn fetch(self: Arc<Self>, url: String, refresh: Duration) {
        // One server, seldom: no connection is kept.
        let client = HttpClient::new();
        let mut failures = 0;
        loop {
            match jwks::fetch(&client, &url).await {
                Ok(keys) => {
                    if failures > 0 || self.is_waiting_for_keys() {
                        tracing::info!(keys = keys.len(), "JWKS fetched");
                    }
                    failures = 0;
                    let mut state = self.state.write();
                    // An issuer that withdraws all its keys is believed, like any other answer.
                    let had_keys = state.fetched.as_ref().is_none_or(|keys| !keys.is_empty());
                    if keys.is_empty() && had_keys {
                        tracing::warn!(
                            "the JWKS has no usable key: tokens of its keys are refused"
                        );
                    }
                    state.fetched = Some(keys);
                }
                Err(error) => {
                    // Logged once for each outage.
                    if failures == 0 {
                        tracing::warn!(%error, "cannot fetch the JWKS; the keys fetched before stay valid");
                    }
                    failures += 1;
                }
            }
            *self.last.write() = Some(Instant::now());
            self.attempts.send_modify(|count| *count += 1);
            // Fetches are never closer together than this.
            tokio::time::sleep(FETCH_PAUSE.min(refresh)).await;
            if failures == 0 {
                let rest = refresh.saturating_sub(FETCH_PAUSE);
                let _ = tokio::time::timeout(rest, self.wanted.notified()).await;
            }
        }
    }
}

fn secret_keys(secrets: &[Secret]) -> Vec<Key> {
    let key = |secret: &Secret| Key::secret(secret.reveal());
    secrets.iter().map(key).collect()
}

fn read_file(path: &Path) -> Result<Vec<Key>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("({}) cannot be read: {error}", path.display()))?;
    keys::read(&text).map_err(|what| format!("({}) {what}", path.display()))
}

/// Reads the file again whenever its time or size has changed, and when it is told to.
async fn watch_file(ring: std::sync::Weak<Keyring>, path: PathBuf, reread: Arc<Notify>) {
    let mark = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    // `None` at first: the file may have changed between the read at the start and this check.
    let mut seen = None;
    loop {
        let is_told = tokio::time::timeout(FILE_STEP, reread.notified())
            .await
            .is_ok();
        let Some(ring) = ring.upgrade() else { return };
        let now = mark(&path);
        if !is_told && (now == seen || now.is_none()) {
            continue;
        }
        let first = seen.is_none() && !is_told;
        seen = now;
        match read_file(&path) {
            Ok(keys) => {
                if !first {
                    tracing::info!(keys = keys.len(), "keys of PUSH_JWT_KEYS_FILE read again");
                }
                let mut state = ring.state.write();
                state.file = keys;
            }
            Err(what) => tracing::warn!("PUSH_JWT_KEYS_FILE {what}; the keys read before stay"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    /// A token by a key that is nowhere: `{"alg":"ES256","kid":"x"}` and `{}`.
    const INVENTED: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.e30.AAAA";

    /// The key of RFC 7517, appendix A.1.
    const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

    /// Serves a JWKS; the URL, and how often it was fetched.
    fn serve() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let fetched = Arc::new(AtomicUsize::new(0));
        let count = fetched.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.expect("a socket");
                let _ = socket.read(&mut [0; 4096]);
                count.fetch_add(1, Ordering::SeqCst);
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                let _ = write!(socket, "{head}{JWKS}");
            }
        });
        (format!("http://{address}/"), fetched)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_invented_keys_leads_to_one_fetch_in_each_pause() {
        let (url, fetched) = serve();
        let sources = Sources {
            url: Some(url),
            refresh: Duration::from_secs(3600),
            ..Sources::default()
        };
        let ring = Keyring::start(sources, Rules::default()).expect("no file to read");
        let flood = async || {
            // While a blocking task runs, the paused clock does not move by itself: else the time
            // that a real socket takes would count as all the time that a fetch may take.
            let (answered, brake) = std::sync::mpsc::channel::<()>();
            let brake = tokio::task::spawn_blocking(move || brake.recv());
            let checks = join_all((0..100).map(|_| ring.check(INVENTED))).await;
            for checked in checks {
                let denial = checked.expect_err("its key is nowhere");
                assert!(matches!(denial, Denial::Invalid(_)), "{denial:?}");
            }
            drop(answered);
            let _ = brake.await;
        };
        // The first fetch is the one of the start, however many wait for it.
        flood().await;
        for fetches in 1..=3 {
            // Who comes in the pause is answered without waiting.
            let began = Instant::now();
            flood().await;
            flood().await;
            assert_eq!(began.elapsed(), Duration::ZERO);
            tokio::time::sleep(FETCH_PAUSE - Duration::from_millis(1)).await;
            assert_eq!(fetched.load(Ordering::SeqCst), fetches);
            // Behind it all wait for one fetch, and not until their patience is at its end.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let began = Instant::now();
            flood().await;
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        }
    }
}
