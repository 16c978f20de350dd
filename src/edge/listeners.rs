//! Where a node listens: bound first of all, so that a port that is taken stops the start.

use crate::config::{Config, Listen};
use crate::edge::acceptor::Listener;

/// The listeners of a node, bound before anything else happens.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) clients: Vec<Listener>,
    pub(crate) lines: Vec<Listener>,
    pub(crate) senders: Vec<Listener>,
    pub(crate) admin: Vec<Listener>,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} ({variable}): {source}")]
pub struct CannotListen {
    listen: Listen,
    variable: &'static str,
    source: std::io::Error,
}

impl Listeners {
    /// Binds all listeners of the configuration.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn bind(config: &Config) -> Result<Self, CannotListen> {
        let bind = |listens: &[Listen], variable| {
            let one = |listen: &Listen| {
                Listener::bind(listen).map_err(|source| CannotListen {
                    listen: listen.clone(),
                    variable,
                    source,
                })
            };
            listens.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            clients: bind(&config.listen, "PUSH_LISTEN")?,
            lines: bind(&config.tcp_listen, "PUSH_TCP_LISTEN")?,
            senders: bind(&config.api_listen, "PUSH_API_LISTEN")?,
            admin: bind(&config.admin_listen, "PUSH_ADMIN_LISTEN")?,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn clients(&self) -> Vec<Listen> {
        self.clients.iter().map(Listener::address).collect()
    }

    /// Where clients connect by plain TCP.
    #[must_use]
    pub fn lines(&self) -> Vec<Listen> {
        self.lines.iter().map(Listener::address).collect()
    }

    /// Where senders call.
    #[must_use]
    pub fn senders(&self) -> Vec<Listen> {
        if self.senders.is_empty() {
            return self.clients();
        }
        self.senders.iter().map(Listener::address).collect()
    }

    /// Where operators look.
    #[must_use]
    pub fn admin(&self) -> Vec<Listen> {
        self.admin.iter().map(Listener::address).collect()
    }
}
