//! User and password for a server, as they are at the moment of the dial.
//!
//! A password in a file may be replaced at any time, so it is read at each connect, also when a
//! connection is made again by itself. What must stay true: while the file cannot be read, the last
//! credentials that any connection read in it are used, and the log says so.

use std::time::Duration;

use crate::config::redis_url::{Login, LoginFile};
use crate::telemetry::throttle::Throttle;

/// Between two lines in the log about a file that cannot be read.
const COMPLAINTS: Duration = Duration::from_secs(30);

/// User and password as fred takes them.
pub(crate) type LoginWords = (Option<String>, Option<String>);

/// Credentials in a file.
#[derive(Debug)]
pub(crate) struct FileLogin {
    file: LoginFile,
    complaints: Throttle,
}

impl FileLogin {
    pub(crate) fn new(file: LoginFile) -> Self {
        Self {
            file,
            complaints: Throttle::new(COMPLAINTS),
        }
    }

    /// What the file holds now, or the last that any connection read in it.
    pub(crate) fn read(&self) -> Option<Login> {
        let (login, read) = self.file.read();
        if let Err(what) = read
            && let Some(unlogged) = self.complaints.pass()
        {
            tracing::warn!(
                unlogged,
                "credentials for Redis: the file {what}; those read before are used"
            );
        }
        login
    }
}

/// User and password of a login.
pub(crate) fn words_of(login: Option<&Login>) -> LoginWords {
    let user = login.and_then(|login| login.user.as_deref().map(inline_word));
    let password = login.map(|login| inline_word(login.password.reveal()));
    (user, password)
}

/// A user or password as one word of an inline command.
///
/// fred 10.1: writes HELLO inline and without quotes, so Redis splits a password at a space and
/// refuses one with a quote. In double quotes Redis takes any byte, as `\xHH`. Other words are left
/// as they are, because servers that imitate Redis may not know quotes.
fn inline_word(text: &str) -> String {
    let is_odd = |c: char| c.is_ascii_whitespace() || c.is_ascii_control() || "\"'".contains(c);
    if !text.contains(is_odd) {
        return text.to_owned();
    }
    let mut word = String::from('"');
    for c in text.chars() {
        match c {
            c if is_odd(c) || c == '\\' => word += &format!("\\x{:02x}", u32::from(c)),
            c => word.push(c),
        }
    }
    word.push('"');
    word
}
