//! What is to be asked over a connection, and who waits for the answers.
//!
//! Callers add under a lock; the task of the connection takes all at once. What must stay true:
//! each command is answered exactly once, also if its connection ends; and no lock of this folder
//! is held while an answer is told.

use std::collections::VecDeque;
use std::sync::Arc;

use fred::error::{Error, ErrorKind};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backplane::redis::wire::resp::Reply;
use crate::backplane::redis::wire::stream::accepted;

/// The answers to commands that were asked together, or why there are none: then they may have been
/// carried out.
pub(crate) type Answers = Result<SmallVec<[Result<Reply, Error>; 1]>, Error>;

/// The only answer.
///
/// # Errors
/// It is a refusal, or none came.
pub(crate) fn only(answers: Answers) -> Result<Reply, Error> {
    let lacking = || Error::new(ErrorKind::Protocol, "an answer is missing");
    answers?.pop().ok_or_else(lacking)?
}

/// Who is told.
pub(super) enum Tell {
    Task(oneshot::Sender<Answers>),
    Call(Box<dyn FnOnce(Answers) + Send>),
}

/// Commands that were asked together.
pub(super) struct Asked {
    /// When they were asked, or given to the connection.
    pub(super) at: Instant,
    /// How long they are, while they wait.
    pub(super) bytes: usize,
    /// How many answers there will be.
    count: usize,
    got: SmallVec<[Result<Reply, Error>; 1]>,
    tell: Option<Tell>,
}

impl Asked {
    pub(super) fn new(bytes: usize, count: usize, tell: Tell) -> Self {
        Self {
            at: Instant::now(),
            bytes,
            count,
            got: SmallVec::new(),
            tell: Some(tell),
        }
    }

    /// Adds an answer; tells all if that was the last. Returns whether it was.
    pub(super) fn answer(&mut self, reply: Reply) -> bool {
        self.got.push(accepted(reply));
        let is_all = self.got.len() >= self.count;
        if is_all {
            let got = std::mem::take(&mut self.got);
            self.tell(Ok(got));
        }
        is_all
    }

    /// Tells that no answer comes.
    pub(super) fn fail(&mut self, error: &Error) {
        self.tell(Err(error.clone()));
    }

    fn tell(&mut self, answers: Answers) {
        match self.tell.take() {
            // The send fails if the caller has stopped waiting.
            Some(Tell::Task(caller)) => _ = caller.send(answers),
            Some(Tell::Call(call)) => call(answers),
            None => {}
        }
    }
}

impl Drop for Asked {
    /// The connection has ended with the task that held this.
    fn drop(&mut self) {
        if self.tell.is_some() {
            self.tell(Err(ended()));
        }
    }
}

pub(super) fn ended() -> Error {
    Error::new(ErrorKind::Canceled, "the connection was left")
}

/// Something that decides what to ask only when it is written, so that all that comes until then
/// goes together.
pub(crate) trait LateSource: Send + Sync {
    /// The connection writes now.
    fn pull(self: Arc<Self>, batch: &mut Batch<'_>);

    /// There is no connection now: nothing was taken.
    fn put_off(self: Arc<Self>);
}

/// What the connection writes next.
pub(crate) struct Batch<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) asked: &'a mut VecDeque<Asked>,
}

impl Batch<'_> {
    /// Adds commands. `write` writes them and returns how many; `caller` gets the answers.
    pub(crate) fn ask(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> usize,
        caller: oneshot::Sender<Answers>,
    ) {
        let count = write(self.out);
        self.asked
            .push_back(Asked::new(0, count, Tell::Task(caller)));
    }

    /// As [`Batch::ask`]; `told` gets the answers.
    pub(crate) fn add(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> usize,
        told: impl FnOnce(Answers) + Send + 'static,
    ) {
        let count = write(self.out);
        let tell = Tell::Call(Box::new(told));
        self.asked.push_back(Asked::new(0, count, tell));
    }
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct WriteQueue {
    pub(super) out: Vec<u8>,
    pub(super) asked: VecDeque<Asked>,
    pub(super) sources: Vec<Arc<dyn LateSource>>,
    /// The task knows that there is something.
    pub(super) is_woken: bool,
    /// Nothing will be written any more.
    pub(super) is_ended: bool,
}

impl WriteQueue {
    /// Takes out what has waited since before this time.
    pub(super) fn take_older(&mut self, time: Instant) -> Vec<Asked> {
        let old = self.asked.iter().take_while(|asked| asked.at < time);
        let (count, bytes) = old.fold((0, 0), |(count, bytes), asked| {
            (count + 1, bytes + asked.bytes)
        });
        self.out.drain(..bytes);
        self.asked.drain(..count).collect()
    }
}
