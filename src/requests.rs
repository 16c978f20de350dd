//! What clients ask of their node beyond getting messages.
//!
//! A shard hands over one request of a connection at a time, so a client's requests are carried
//! out in its order, and each costs its own client time and nobody else. What must stay true:
//! every request is answered by exactly one [`Command::Answered`], or its connection would never
//! be heard again.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::auth::Denial;
use crate::config::Secret;
use crate::gate::Gate;
use crate::hub::Hub;
use crate::names::{Fd, UserId};
use crate::protocol::{self, Request, Wanted};
use crate::sessions::Sessions;
use crate::shard::Command;

/// A request and who makes it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) fd: Fd,
    pub(crate) user: UserId,
    pub(crate) request: Request,
}

/// Why a request is refused: a code for programs and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self {
            code: denial.code(),
            message: denial.message().to_owned(),
        }
    }
}

/// What requests are carried out with.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) sessions: Arc<Sessions>,
}

impl Desk {
    /// Carries out what clients ask, until the last shard is gone.
    pub(crate) async fn serve(self, mut asked: mpsc::UnboundedReceiver<Asked>) {
        let desk = Arc::new(self);
        while let Some(asked) = asked.recv().await {
            tokio::spawn(desk.clone().answer(asked));
        }
    }

    async fn answer(self: Arc<Self>, asked: Asked) {
        let fd = asked.fd;
        let reference = asked.request.reference.clone();
        let reference = reference.as_deref();
        let object = match self.carry_out(asked).await {
            Ok(fields) => protocol::reply_object(reference, &fields),
            Err(Refused { code, message }) => protocol::error_object(reference, code, &message),
        };
        let object = Some(object);
        self.hub.tell(fd, Command::Answered { fd, object }).await;
    }

    /// Answers with further fields of the reply.
    async fn carry_out(&self, asked: Asked) -> Result<String, Refused> {
        let Asked { fd, user, request } = asked;
        match request.what {
            Wanted::Auth(token) => self.renew(fd, &user, &token).await,
        }
    }

    /// Lets a connection stay by a new token of the same user.
    async fn renew(&self, fd: Fd, user: &UserId, token: &Secret) -> Result<String, Refused> {
        if !self.gate.wants_tokens() {
            return Err(Refused {
                code: "no_tokens",
                message: "this node asks for no token".to_owned(),
            });
        }
        let identity = self.gate.identify(Some(token.reveal())).await?;
        if identity.user != *user {
            return Err(Denial::WrongUser.into());
        }
        self.gate.check_ban(user).await?;
        self.hub.renew(fd, user, &identity).await;
        // Revoked since it was looked up: whoever revoked did not find this connection.
        if let Some(reason) = self.hub.barred(user, identity.session)
            && self.gate.check_again(Some(reason), user).await.is_err()
        {
            self.hub.close(fd, reason, None).await;
        }
        if let Some(session) = identity.session {
            self.sessions.watch(session, identity.expires);
        }
        let left = (identity.expires).map(|at| at.saturating_duration_since(Instant::now()));
        Ok(left.map_or(String::new(), |left| {
            format!(r#""expires_in_ms":{}"#, left.as_millis())
        }))
    }
}
