//! Whether Sentinels vouch for a server.
//!
//! A master that was killed may be back, empty, before its nodes hear of the successor. One that
//! stood still goes on as a master once it runs again. Both answer writes that no other server will
//! have. So with Sentinels, a new connection carries no command before a Sentinel that was asked
//! after the connect has named its server. And after a silence of the master, and during a
//! fail-over, no write counts before a Sentinel has named its server again.
//!
//! Connections are made again by themselves. fred has one place where that can wait: its question
//! for credentials, which comes after the connect and before the first command. The lean
//! connections ask there, too. What must stay true:
//! while all Sentinels are away, no server is promoted, so all goes on without them.

use std::pin::Pin;
use std::sync::Arc;

use fred::error::{Error, ErrorKind};
use fred::types::config::{CredentialProvider, Server};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backplane::redis::servers::login::{FileLogin, LoginWords, words_of};
use crate::config::redis_url::{Host, Login, ServerUrl};

/// Whom the Sentinels name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    Master(Host),
    /// None of them has answered for some time.
    Away,
}

#[derive(Debug, Clone)]
struct LastNamed {
    named: Option<Named>,
    /// When they were asked.
    asked: Instant,
    /// Whether the master answered before they were asked, and since.
    is_steady: bool,
}

impl LastNamed {
    /// Whether that is enough to trust this server.
    fn vouches_for(&self, host: &Host) -> bool {
        match &self.named {
            Some(Named::Master(master)) => master == host,
            Some(Named::Away) => true,
            None => false,
        }
    }
}

/// What the Sentinels said last. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Vouchers {
    last: watch::Sender<LastNamed>,
    /// Has them asked at once.
    doubt: Arc<Notify>,
}

impl Vouchers {
    pub(crate) fn new(doubt: Arc<Notify>) -> Self {
        let word = LastNamed {
            named: None,
            asked: Instant::now(),
            is_steady: false,
        };
        Self {
            last: watch::channel(word).0,
            doubt,
        }
    }

    /// Notes an answer to a question of then.
    pub(crate) fn note(&self, named: Named, asked: Instant, is_steady: bool) {
        self.last.send_replace(LastNamed {
            named: Some(named),
            asked,
            is_steady,
        });
    }

    /// Notes that the master did not answer in time, or is about to be replaced.
    pub(crate) fn note_doubt(&self) {
        self.last.send_modify(|word| word.is_steady = false);
    }

    /// Waits until they are asked once more.
    ///
    /// # Errors
    /// They name another server.
    async fn vouch(
        &self,
        host: &Host,
        is_enough: impl Fn(&LastNamed) -> bool,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let mut last = self.last.subscribe();
        self.doubt.notify_one();
        let word =
            last.wait_for(|word| word.asked > now && (is_enough(word) || !word.vouches_for(host)));
        match word.await {
            Ok(word) if word.vouches_for(host) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Sentinel, LEFT)),
            Err(_) => Err(Error::new(ErrorKind::Canceled, "the node is ending")),
        }
    }

    /// Whether a write that this server has just answered counts. At once, unless the server was
    /// silent lately or is about to be replaced.
    ///
    /// # Errors
    /// It is not the master any more.
    pub(crate) async fn confirm(&self, host: &Host) -> Result<(), Error> {
        {
            let last = self.last.borrow();
            if last.is_steady && last.vouches_for(host) {
                return Ok(());
            }
        }
        let is_enough = |word: &LastNamed| word.is_steady || word.named == Some(Named::Away);
        self.vouch(host, is_enough).await
    }
}

/// Why a connection is not used, or a write does not count.
pub(crate) const LEFT: &str = "the Sentinels name another master";

/// Who must name a server before it is used.
#[derive(Debug, Clone)]
struct Vouch {
    vouchers: Vouchers,
    host: Host,
}

/// Where to connect.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) url: ServerUrl,
    vouch: Option<Vouch>,
    is_one_of_several: bool,
}

impl From<ServerUrl> for Destination {
    fn from(url: ServerUrl) -> Self {
        Self {
            url,
            vouch: None,
            is_one_of_several: false,
        }
    }
}

impl Destination {
    /// One of several servers. With Sentinels it is used only while they name it.
    pub(crate) fn one_of_several(url: ServerUrl, host: Host, vouchers: Option<Vouchers>) -> Self {
        Self {
            url,
            vouch: vouchers.map(|vouchers| Vouch { vouchers, host }),
            is_one_of_several: true,
        }
    }

    /// Whether it is one of several servers, whose roles are followed.
    pub(crate) fn is_one_of_several(&self) -> bool {
        self.is_one_of_several
    }

    /// What is asked at each connect.
    pub(crate) fn credentials(&self) -> Credentials {
        let login = self.url.login.clone();
        let file = self.url.login_file.clone();
        Credentials {
            vouch: self.vouch.clone(),
            file: file.map(FileLogin::new),
            login,
        }
    }

    /// What fred asks at each connect; `None` if the credentials never change.
    pub(crate) fn provider(&self) -> Option<Arc<dyn CredentialProvider>> {
        let credentials = self.credentials();
        let may_change = credentials.vouch.is_some() || credentials.file.is_some();
        may_change.then(|| Arc::new(credentials) as Arc<dyn CredentialProvider>)
    }
}

/// User and password, which are given once a Sentinel has named the server.
#[derive(Debug)]
pub(crate) struct Credentials {
    vouch: Option<Vouch>,
    file: Option<FileLogin>,
    login: Option<Login>,
}

impl Credentials {
    /// Those of now.
    ///
    /// # Errors
    /// The Sentinels name another server.
    pub(crate) async fn login(&self) -> Result<Option<Login>, Error> {
        if let Some(Vouch { vouchers, host }) = &self.vouch {
            vouchers.vouch(host, |_| true).await?;
        }
        Ok(match &self.file {
            Some(file) => file.read(),
            None => self.login.clone(),
        })
    }
}

// fred declares the method by `async_trait`: this is what that makes of it, without the crate.
impl CredentialProvider for Credentials {
    fn fetch<'a, 'b, 'c>(
        &'a self,
        _server: Option<&'b Server>,
    ) -> Pin<Box<dyn Future<Output = Result<LoginWords, Error>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move { Ok(words_of(self.login().await?.as_ref())) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(port: u16) -> Host {
        ("10.0.0.1".to_owned(), port)
    }

    /// Whether a connect to this server is still waiting after what was said.
    async fn connects(vouchers: &Vouchers, say: impl FnOnce()) -> Option<Result<(), Error>> {
        let host = host(1);
        let vouch = vouchers.vouch(&host, |_| true);
        tokio::pin!(vouch);
        assert!(futures::poll!(&mut vouch).is_pending());
        tokio::time::advance(Duration::from_millis(1)).await;
        say();
        match futures::poll!(&mut vouch) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_waits_for_a_question_that_came_after_it() {
        let vouchers = Vouchers::new(Arc::default());
        let before = Instant::now();
        let say = |named, asked| vouchers.note(named, asked, true);
        let old = || say(Named::Master(host(1)), before);
        assert!(connects(&vouchers, old).await.is_none());
        let ours = || say(Named::Master(host(1)), Instant::now());
        assert!(
            connects(&vouchers, ours)
                .await
                .is_some_and(|told| told.is_ok())
        );
        let other = || say(Named::Master(host(2)), Instant::now());
        assert!(
            connects(&vouchers, other)
                .await
                .is_some_and(|told| told.is_err())
        );
        let away = || say(Named::Away, Instant::now());
        assert!(
            connects(&vouchers, away)
                .await
                .is_some_and(|told| told.is_ok())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_silence_a_write_counts_once_the_server_is_named_again() {
        let vouchers = Vouchers::new(Arc::default());
        let (one, two) = (host(1), host(2));
        let say = |master: &Host, is_steady| {
            vouchers.note(Named::Master(master.clone()), Instant::now(), is_steady);
        };
        say(&one, true);
        assert!(vouchers.confirm(&one).await.is_ok());
        vouchers.note_doubt();
        for (named, holds) in [(&one, true), (&two, false)] {
            vouchers.note_doubt();
            let confirmed = vouchers.confirm(&one);
            tokio::pin!(confirmed);
            assert!(futures::poll!(&mut confirmed).is_pending());
            tokio::time::advance(Duration::from_millis(1)).await;
            // It has answered again, perhaps after they were asked.
            say(&one, false);
            assert!(futures::poll!(&mut confirmed).is_pending());
            say(named, true);
            assert_eq!(confirmed.await.is_ok(), holds, "{named:?}");
        }
    }
}
