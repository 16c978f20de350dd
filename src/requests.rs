//! What clients ask of their node beyond getting messages.
//!
//! A shard hands over one request of a connection at a time, so a client's requests are carried
//! out in its order, and each costs its own client time and nobody else. What must stay true:
//! every request is answered by exactly one [`Command::Answered`], or its connection would never
//! be heard again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::hub::Hub;
use crate::names::{Fd, UserId};
use crate::protocol::{self, Request, Wanted};
use crate::shard::Command;
use crate::upstream::Upstream;

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
    /// When it may be tried again, if that makes sense.
    pub(crate) retry: Option<Duration>,
}

impl Refused {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry: None,
        }
    }

    pub(crate) fn retry_after(self, retry: Duration) -> Self {
        Self {
            retry: Some(retry),
            ..self
        }
    }

    fn object(&self, reference: Option<&str>) -> String {
        match self.retry {
            None => protocol::error_object(reference, self.code, &self.message),
            Some(retry) => protocol::later_object(reference, self.code, &self.message, retry),
        }
    }
}

/// What requests are carried out with.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
    pub(crate) upstream: Upstream,
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
            Err(refused) => refused.object(reference),
        };
        let object = Some(object);
        self.hub.tell(fd, Command::Answered { fd, object }).await;
    }

    /// Answers with further fields of the reply.
    async fn carry_out(&self, asked: Asked) -> Result<String, Refused> {
        let Asked { fd, user, request } = asked;
        let reference = request.reference.as_deref();
        match &request.what {
            Wanted::Send(send) => self.upstream.send(fd, &user, reference, send).await,
        }
    }
}
