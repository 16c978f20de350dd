//! Commands that are written together, and whether all of them were carried out.

use fred::error::{Error, ErrorKind};
use fred::types::Value;

use crate::backplane::redis::wire::connection::{Awaited, Wire};
use crate::backplane::redis::wire::queue::Answers;
use crate::backplane::redis::wire::resp::{self, Reply};
use crate::backplane::redis::wire::stream::accepted;

/// Commands as they are written, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Script {
    bytes: Vec<u8>,
    commands: usize,
}

impl Script {
    /// How many commands there are.
    pub(crate) fn commands(&self) -> usize {
        self.commands
    }

    pub(crate) fn command(&mut self, words: &[&[u8]]) {
        self.begin(words.len());
        words.iter().for_each(|word| self.word(word));
    }

    /// Begins a command of so many words, each of which is to be added.
    pub(crate) fn begin(&mut self, words: usize) {
        self.commands += 1;
        resp::begin(&mut self.bytes, words);
    }

    pub(crate) fn word(&mut self, word: &[u8]) {
        resp::word(&mut self.bytes, word);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Wire {
    /// Asks at once for all that a script says.
    pub(crate) fn play(&self, script: &Script) -> Awaited {
        self.ask(|out| {
            out.extend_from_slice(&script.bytes);
            script.commands
        })
    }
}

/// Whether all commands were carried out, those of a MULTI included.
///
/// # Errors
/// The first refusal, or why there are no answers.
pub(crate) fn outcome(answers: Answers) -> Result<(), Error> {
    answers?.into_iter().try_for_each(|answer| each(answer?))
}

/// What each command of a MULTI was answered: Redis carries out the others if it refuses one.
///
/// # Errors
/// None was carried out, and why; or why there are no answers.
pub(crate) fn executed(answers: Answers) -> Result<Vec<Reply>, Error> {
    let mut executed = Vec::new();
    for answer in answers? {
        if let Reply::List(list) = accepted(answer?)? {
            executed = list;
        }
    }
    Ok(executed)
}

/// In the answer to EXEC, each command has its own.
fn each(reply: Reply) -> Result<(), Error> {
    match accepted(reply)? {
        Reply::List(list) => list.into_iter().try_for_each(each),
        _ => Ok(()),
    }
}

/// A reply as fred would give it.
///
/// # Errors
/// It is a refusal.
pub(crate) fn as_value(reply: Reply) -> Result<Value, Error> {
    Ok(match accepted(reply)? {
        Reply::Text(text) => match String::from_utf8(text) {
            Ok(text) => text.into(),
            Err(odd) => Value::Bytes(odd.into_bytes().into()),
        },
        Reply::Number(number) => number.into(),
        Reply::List(list) => {
            Value::Array(list.into_iter().map(as_value).collect::<Result<_, _>>()?)
        }
        Reply::Nothing | Reply::Refused(_) => Value::Null,
    })
}

/// An answer of a kind that its command does not give.
pub(crate) fn odd() -> Error {
    Error::new(ErrorKind::Protocol, "an answer of another kind")
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    #[test]
    fn a_script_is_written_as_its_commands_are() {
        let mut script = Script::default();
        script.command(&[b"MULTI"]);
        script.begin(3);
        for word in [&b"HDEL"[..], b"row", b"a.1/7"] {
            script.word(word);
        }
        let mut expected = Vec::new();
        resp::command(&mut expected, &[b"MULTI"]);
        resp::command(&mut expected, &[b"HDEL", b"row", b"a.1/7"]);
        assert_eq!(script.bytes, expected);
        assert_eq!(script.commands, 2);
    }

    #[test]
    fn a_script_succeeds_only_if_all_of_it_does() {
        let queued = || Ok(Reply::Text(b"QUEUED".to_vec()));
        let refused = || Reply::Refused("WRONGTYPE of a key".to_owned());
        let told = |last| outcome(Ok(smallvec![queued(), last]));
        assert!(told(Ok(Reply::List(vec![Reply::Number(1)]))).is_ok());
        let inside = told(Ok(Reply::List(vec![Reply::Number(1), refused()])));
        assert_eq!(inside.unwrap_err().details(), "WRONGTYPE of a key");
        let denied = Error::new(ErrorKind::Unknown, "NOPERM no");
        let answers = smallvec![Err(denied), Ok(Reply::List(Vec::new()))];
        assert_eq!(outcome(Ok(answers)).unwrap_err().details(), "NOPERM no");
        let list = Reply::List(vec![Reply::Number(0), Reply::Number(1)]);
        let executed = |last| executed(Ok(smallvec![queued(), Ok(last)]));
        assert_eq!(
            executed(list).unwrap(),
            [Reply::Number(0), Reply::Number(1)]
        );
        let answers = executed(Reply::List(vec![Reply::Number(1), refused()]));
        assert_eq!(answers.unwrap(), [Reply::Number(1), refused()]);
        let aborted = Reply::Refused("EXECABORT of all".to_owned());
        let error = executed(aborted);
        assert_eq!(error.unwrap_err().details(), "EXECABORT of all");
        let lost = Error::new(ErrorKind::IO, "lost");
        assert_eq!(outcome(Err(lost)).unwrap_err().details(), "lost");
    }
}
