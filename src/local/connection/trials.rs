//! Whether a client takes the first kept message that it gets after it came back.
//!
//! Its connect counts as ended there if it says with its close frame that something was wrong, or
//! if it vanishes and has not answered a ping that followed the message.

use crate::local::connection::Connection;
use crate::local::replay::stumbles::Trial;
use crate::protocol;
use crate::protocol::Message;
use crate::protocol::close::{CloseReason, is_complaint};

/// What is watched: one message of the inbox, and one of each log.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    /// In the order in which the client gets them: it cannot fail at one before it took those
    /// above.
    list: Vec<Trial>,
    /// It has answered a ping.
    is_answered: bool,
}

impl Connection {
    /// The message is in the queue.
    pub(crate) fn watch(&mut self, trial: Trial) {
        if trial.is_suspect && self.dialect.answers_pings() {
            self.queue.push(self.dialect.ping(self.beats));
            self.credit(1);
        }
        self.extras.need_trials().list.push(trial);
    }

    /// It has answered a ping, so it has read what came before that.
    pub(crate) fn answered_ping(&mut self) {
        if let Some(trials) = self.extras.trials() {
            trials.is_answered = true;
            trials.list.iter().for_each(Trial::taken);
        }
    }

    /// It hears what it does not get.
    pub(crate) fn tell_passed(&mut self, message: &Message) {
        let bytes = message.data().len();
        let (topic, id, resume) = (message.topic(), message.id(), message.position());
        self.say(&protocol::passed_object(topic, id, resume, bytes));
    }

    /// Its connect ends.
    pub(crate) fn end_trials(&mut self, reason: CloseReason) {
        let Some(trials) = self.extras.take_trials() else {
            return;
        };
        let Some(first) = trials.list.first() else {
            return;
        };
        let has_failed = match reason {
            CloseReason::ByClient => self.close_code.is_some_and(is_complaint),
            CloseReason::Gone => !trials.is_answered && !first.needs_complaint,
            _ => false,
        };
        if has_failed {
            first.failed();
        }
    }
}
