//! What clients ask of their node beyond getting messages.
//!
//! A shard hands over one request of a connection at a time, so a client's requests are carried
//! out in its order, and each costs its own client time and nobody else. What must stay true:
//! every request is answered by exactly one [`Command::Answered`], or its connection would never
//! be heard again.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hub::{Hub, ROW_PATIENCE};
use crate::names::{Fd, Topic, UserId};
use crate::protocol::{self, Request, Wanted};
use crate::shard::{Asker, Command, NotSubscribed};

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

/// What requests are carried out with.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
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
        let (fd, user) = (asked.fd, asked.user.clone());
        let reference = asked.request.reference.clone();
        let reference = reference.as_deref();
        let object = match self.carry_out(asked).await {
            Ok(fields) => protocol::reply_object(reference, &fields),
            Err(Refused { code, message }) => {
                tracing::debug!(%fd, %user, code, "request refused");
                protocol::error_object(reference, code, &message)
            }
        };
        let object = Some(object);
        self.hub.tell(fd, Command::Answered { fd, object }).await;
    }

    /// Answers with further fields of the reply.
    async fn carry_out(&self, asked: Asked) -> Result<String, Refused> {
        let fd = asked.fd;
        match asked.request.what {
            Wanted::Subscribe { topic, since: _ } => self.subscribe(fd, topic).await,
            Wanted::Unsubscribe { topic } => {
                let fields = protocol::unsubscribed_fields(&topic);
                self.hub.unsubscribe(fd, topic, Asker::Client).await;
                Ok(fields)
            }
        }
    }

    /// The client hears that it is subscribed when the topic's row is written, so that whoever it
    /// tells can push to it at once.
    async fn subscribe(&self, fd: Fd, topic: Topic) -> Result<String, Refused> {
        let deadline = Instant::now() + ROW_PATIENCE;
        let subscribed = self.hub.subscribe(fd, topic.clone(), Asker::Client).await;
        let rows = subscribed.map_err(|reason| refusal(&topic, reason))?;
        let degraded = !self.hub.await_rows(fd, rows, deadline).await;
        Ok(protocol::subscribed_fields(&topic, None, None, degraded))
    }
}

fn refusal(topic: &Topic, reason: NotSubscribed) -> Refused {
    let (code, message) = match reason {
        NotSubscribed::Gone => ("gone", "the connection is ending".to_owned()),
        NotSubscribed::Forbidden => (
            "forbidden",
            format!("you may not subscribe to the topic {topic}"),
        ),
        NotSubscribed::TooMany(most) => (
            "too_many_topics",
            format!("you are subscribed to {most} topics, and that is the limit"),
        ),
    };
    Refused { code, message }
}
