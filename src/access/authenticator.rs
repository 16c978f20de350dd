//! Authentication: from a token to an identity, and whether its user is banned.
//!
//! Every transport and the in-band `auth` ask here, so that a token means the same everywhere.
//! Tokens appear in no log, no metric and no error: fixed words say what was wrong with one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::claims::{Claims, Rules, UserClaim};
use crate::auth::identity::Identity;
use crate::auth::keyring::{Keyring, Sources};
use crate::auth::{Denial, looks_like_jwt};
use crate::backplane::Backplane;
use crate::backplane::access::Session;
use crate::config::Config;
use crate::config::auth::AuthMode;
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;
use crate::protocol::secret::Secret;
use crate::protocol::session_id::SessionId;
use crate::telemetry::throttle::ThrottleByKind;

/// Between two lines in the log about one reason to refuse a token.
const REFUSALS: Duration = Duration::from_secs(60);

/// Finds identities. One for each node.
#[derive(Debug)]
pub(crate) struct Authenticator {
    mode: AuthMode,
    /// Present where tokens can be JWTs.
    keyring: Option<Arc<Keyring>>,
    backplane: Arc<Backplane>,
    /// Whether bans are looked at.
    bans: bool,
    refusals: ThrottleByKind,
}

impl Authenticator {
    /// Reads the keys of the configuration, and starts to fetch those at a URL. An error says what
    /// is wrong with a key.
    pub(crate) fn start(config: &Config, backplane: Arc<Backplane>) -> Result<Self, String> {
        let keyring = config.auth.takes_jwt();
        let keyring = keyring
            .then(|| Keyring::start(Sources::of(config), Rules::of(config)))
            .transpose()?;
        Ok(Self {
            mode: config.auth,
            keyring,
            backplane,
            bans: config.bans,
            refusals: ThrottleByKind::new(REFUSALS),
        })
    }

    /// Reads keys again now, and not only when they are due.
    pub(crate) fn reload(&self) {
        if let Some(keyring) = &self.keyring {
            keyring.reload();
        }
    }

    /// Takes other secrets of tokens in place of those before.
    pub(crate) fn replace_secrets(&self, secrets: &[Secret]) {
        if let Some(keyring) = &self.keyring {
            keyring.replace_secrets(secrets);
        }
    }

    /// Whether clients are believed what they say of themselves.
    pub(crate) fn is_open(&self) -> bool {
        self.mode.is_none()
    }

    /// Whether tokens let clients in.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.mode.takes_jwt() || self.mode.takes_sessions()
    }

    /// Whether tokens of sessions let clients in.
    pub(crate) fn takes_sessions(&self) -> bool {
        self.mode.takes_sessions()
    }

    /// The identity of the client that shows this token.
    pub(crate) async fn identify(&self, token: Option<&str>) -> Result<Identity, Denial> {
        let identified = self.look(token.filter(|token| !token.is_empty()));
        let identified = Box::pin(identified).await;
        identified.inspect_err(|denial| self.log_refusal(*denial))
    }

    /// Any client can cause a refusal, as often as it likes.
    fn log_refusal(&self, denial: Denial) {
        let (code, reason) = (denial.code(), denial.reason());
        tracing::debug!(reason, "token refused");
        if let Some(unlogged) = self.refusals.pass(reason) {
            let count = unlogged + 1;
            tracing::info!(code, reason, count, "clients refused by their token");
        }
    }

    async fn look(&self, token: Option<&str>) -> Result<Identity, Denial> {
        let token = token.ok_or(Denial::Missing)?;
        match &self.keyring {
            Some(keyring) if !self.takes_sessions() || looks_like_jwt(token) => {
                identify_jwt(keyring, token).await
            }
            _ => self.identify_session(SessionId::of(token)).await,
        }
    }

    async fn identify_session(&self, id: SessionId) -> Result<Identity, Denial> {
        match self.backplane.sessions(&[id]).await.pop() {
            Some(Ok(Some(session))) => bearer(id, &session),
            Some(Ok(None)) => Err(Denial::Invalid("no such session")),
            Some(Err(_)) | None => Err(Denial::SessionsUnavailable),
        }
    }

    /// Refuses a banned user; answers whether the user could be looked up. One that could not is
    /// let in: bans must not lock everybody out while Redis is unavailable. The caller then owes
    /// a check by `LateChecks`.
    pub(crate) async fn check_ban(&self, user: &UserId) -> Result<bool, Denial> {
        if !self.bans {
            return Ok(true);
        }
        match self.backplane.is_banned(user).await {
            Ok(true) => Err(Denial::Banned),
            Ok(false) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    /// Looks again at a user who was sent away a moment ago: the ban may be lifted since.
    pub(crate) async fn check_again(
        &self,
        barred: Option<CloseReason>,
        user: &UserId,
    ) -> Result<(), Denial> {
        match barred {
            None => Ok(()),
            Some(CloseReason::Banned) => match self.backplane.is_banned(user).await {
                Ok(false) => Ok(()),
                Ok(true) | Err(_) => Err(Denial::Banned),
            },
            Some(_) => Err(Denial::Invalid("revoked a moment ago")),
        }
    }
}

async fn identify_jwt(keyring: &Keyring, token: &str) -> Result<Identity, Denial> {
    let (claims, left) = keyring.check(token).await?;
    identity(claims.user(), claims, Some(left), None)
}

/// The identity that a session stands for. Its value is a user id, or claims as JSON.
pub(crate) fn bearer(id: SessionId, session: &Session) -> Result<Identity, Denial> {
    let text = session.claims.trim();
    if !text.starts_with(protocol::JSON_BEGINS) {
        let user = text.parse();
        let user = user.map_err(|_| Denial::Invalid("the session names no user"))?;
        return Ok(Identity {
            expires: session.left.map(|left| Instant::now() + left),
            session: Some(id),
            ..Identity::claimed(user)
        });
    }
    let claims = Claims::parse(text.as_bytes(), &UserClaim::default()).map_err(Denial::Claim)?;
    let user = claims.user();
    let now = crate::clock::since_1970();
    let left = match (session.left, claims.check_session(now.as_secs_f64())?) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    identity(user, claims, left, Some(id))
}

fn identity(
    user: UserId,
    claims: Claims,
    left: Option<Duration>,
    session: Option<SessionId>,
) -> Result<Identity, Denial> {
    let grants = claims.grants().map_err(Denial::Invalid)?;
    let info = claims.info().map_err(Denial::Invalid)?;
    Ok(Identity {
        user,
        grants: grants.map(Arc::new),
        device: claims.device.map(Into::into),
        info,
        expires: left.map(|left| Instant::now() + left),
        session,
    })
}
