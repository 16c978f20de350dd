//! What a client asks of its node, what senders ask of the client, and what it acknowledges.
//!
//! All are bounded for each connection, and cost nothing while there are none.

use std::collections::VecDeque;
use std::time::Duration;

use crate::local::connection::Connection;
use crate::local::connection::send_queue::Sent;
use crate::local::pending_call::PendingCall;
use crate::protocol;
use crate::protocol::position::Position;
use crate::protocol::{CallStatus, ClientAnswer, Request, RequestKind};

/// Most requests of a client that wait for those before them.
const MAX_REQUESTS: usize = 32;
/// Most calls that wait for an answer of one client.
const MAX_CALLS: usize = 32;
/// Most unacknowledged messages remembered for one connection.
const MAX_UNACKED: usize = 256;
/// When a client that sent too much may go on: sends are counted by the second.
pub(super) const NEXT_SECOND: Duration = Duration::from_secs(1);

/// One thing at a time, in the client's order; calls in any order.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    is_under_way: bool,
    waiting: VecDeque<Request>,
    calls: Vec<PendingCall>,
    /// Messages whose senders wait for the client's word.
    unacked: Vec<Sent>,
}

impl Exchanges {
    fn is_over(&self) -> bool {
        let Self {
            is_under_way,
            waiting,
            calls,
            unacked,
        } = self;
        !is_under_way && waiting.is_empty() && calls.is_empty() && unacked.is_empty()
    }
}

impl Connection {
    /// Takes what a client asks for, unless it sends too much; it may stay all the same.
    pub(crate) fn hear_request(&mut self, request: Request, send_rate: u32) {
        if matches!(request.what, RequestKind::Send(_)) {
            self.sends += 1;
            if send_rate > 0 && self.sends > send_rate {
                let words = format!("over {send_rate} sends in a second (PUSH_SEND_RATE)");
                let reference = request.reference.as_deref();
                let code = "rate_limited";
                let object = protocol::later_object(reference, code, &words, NEXT_SECOND);
                return self.say(&object);
            }
        }
        self.queue_request(request);
    }

    fn queue_request(&mut self, request: Request) {
        let dialogue = self.dialogue.get_or_insert_default();
        if dialogue.waiting.len() < MAX_REQUESTS {
            return dialogue.waiting.push_back(request);
        }
        let words = "too many requests wait for their answer; send this one again";
        let reference = request.reference.as_deref();
        self.say(&protocol::error_object(reference, "busy", words));
    }

    /// The next thing that the client asks of the node, once what it asked before is answered.
    /// The caller that takes it owes a [`Connection::answered`]. What makes a large answer waits
    /// until the client has taken all that it was given.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        let dialogue = self.dialogue.as_mut()?;
        let is_large = |request: &Request| matches!(request.what, RequestKind::History { .. });
        let waits = !self.queue.is_empty() && dialogue.waiting.front().is_some_and(is_large);
        if dialogue.is_under_way || waits {
            return None;
        }
        let request = dialogue.waiting.pop_front();
        dialogue.is_under_way = request.is_some();
        self.rest();
        request
    }

    /// Why a request cannot be carried out, if the connection itself can tell.
    pub(crate) fn refusal(&self, request: &Request) -> Option<String> {
        let RequestKind::History { topic, .. } = &request.what else {
            return None;
        };
        if self.is_in(topic) {
            return None;
        }
        let words = format!("you are not subscribed to the topic {topic}");
        let reference = request.reference.as_deref();
        Some(protocol::error_object(reference, "not_subscribed", &words))
    }

    /// Most clients say something seldom: in between it should cost nothing.
    fn rest(&mut self) {
        self.dialogue = self.dialogue.take().filter(|dialogue| !dialogue.is_over());
    }

    /// What the client asked for is done; it hears this of it.
    pub(crate) fn answered(&mut self, object: Option<&str>) {
        if let Some(dialogue) = &mut self.dialogue {
            dialogue.is_under_way = false;
        }
        if let Some(object) = object
            && !self.is_closing()
        {
            self.say(object);
        }
    }

    /// Asks the client something for a sender. One that is going drops `pending`, which says so.
    pub(crate) fn call(&mut self, object: &str, pending: PendingCall, queue_bytes: usize) {
        if self.is_closing() {
            return;
        }
        if !self.dialect.sends_objects() {
            return pending.refuse(CallStatus::Plain);
        }
        let frame = self.dialect.encode(object);
        let dialogue = self.dialogue.get_or_insert_default();
        dialogue.calls.retain(|pending| !pending.is_over());
        if dialogue.calls.len() >= MAX_CALLS || self.queue.is_full(&frame, queue_bytes) {
            return pending.refuse(CallStatus::Busy);
        }
        dialogue.calls.push(pending);
        self.queue.push(frame);
        self.credit(1);
    }

    /// The client answers a call. One that is over, or was never put to it, is no harm: it cannot
    /// know that another client was faster.
    pub(crate) fn hear_answer(&mut self, answer: ClientAnswer) {
        let Some(dialogue) = &mut self.dialogue else {
            return;
        };
        let is_asked = |pending: &PendingCall| pending.reference() == &*answer.reference;
        if let Some(at) = dialogue.calls.iter().position(is_asked) {
            dialogue.calls.swap_remove(at).answer(answer.result);
        }
    }

    /// A message is in the socket and its sender wants to know of the client's acknowledgement.
    /// Answers whether an older one is forgotten for it.
    pub(crate) fn await_ack(&mut self, sent: Sent) -> bool {
        // Neither one that sends no objects nor one that got no id can acknowledge.
        if !self.dialect.sends_objects() || sent.message.id().is_none() {
            return false;
        }
        let unacked = &mut self.dialogue.get_or_insert_default().unacked;
        let is_full = unacked.len() == MAX_UNACKED;
        if is_full {
            unacked.remove(0);
        }
        unacked.push(sent);
        is_full
    }

    /// The client has dealt with what was kept up to here, and maybe with the message of this id.
    pub(crate) fn hear_ack_kept(&mut self, position: Position, id: Option<&str>) {
        self.has_read(position);
        if let Some(id) = id {
            self.hear_ack(id);
        }
    }

    /// The client has dealt with the message of this id.
    pub(crate) fn hear_ack(&mut self, id: &str) {
        self.has_read_id(id);
        let Some(dialogue) = &mut self.dialogue else {
            return;
        };
        dialogue.unacked.retain(|sent| {
            let acked = sent.message.id() == Some(id);
            if acked {
                sent.receipt.acked();
            }
            !acked
        });
        self.rest();
    }
}
