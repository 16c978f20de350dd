//! What is carried to connections: a push, the end of connections, a subscription, or the notice
//! that something was kept.

use std::sync::Arc;

use crate::local::hub::Hub;
use crate::local::hub::deliver::Delivered;
use crate::local::receipt::Receipt;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::Topic;
use crate::protocol::{self, Push, ReceiptRequest, Target};

/// What is carried to users and topics.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation<'a> {
    Push(&'a Push),
    Kick(CloseReason),
    /// A subscription to a topic or, if `false`, its end.
    Enroll(&'a Topic, bool),
    /// Only a notice that there is a message in the inbox.
    Look,
}

impl Operation<'_> {
    /// The operation as a line for a channel.
    pub(crate) fn line(self, to: &Target, reply: Option<&ReceiptRequest>) -> String {
        match self {
            Self::Push(push) => {
                protocol::push_line(to, push.except.as_deref(), &push.message, reply)
            }
            Self::Kick(reason) => protocol::kick_line(to, reason, reply),
            Self::Enroll(topic, joins) => protocol::subscribe_line(to, topic, joins, reply),
            Self::Look => protocol::look_line(to),
        }
    }

    /// Carries out the operation on this node.
    pub(crate) async fn carry_out(
        self,
        hub: &Arc<Hub>,
        to: &Target,
        receipt: Option<&Receipt>,
    ) -> Delivered {
        match self {
            Self::Push(push) => hub.deliver_to(to, push, receipt).await,
            Self::Kick(reason) => Delivered::To(hub.kick(to, reason, receipt).await),
            Self::Enroll(topic, joins) => {
                Delivered::To(hub.enroll(to, topic, joins, receipt).await)
            }
            Self::Look => {
                hub.look(to).await;
                Delivered::To(0)
            }
        }
    }
}
