//! The lean connections to Redis, for what each push and each connect needs: look-ups and
//! publishing, rows and bans, and the subscription. fred does the rest, where a microsecond does
//! not count.
//!
//! `resp` reads and writes the protocol, `stream` greets a server, `queue` holds what is to be
//! asked, `connection` writes it and hands out the answers, `script` is several commands at once,
//! `listener` is subscribed. Which server to dial, and with which credentials, `servers` knows: it
//! gives a [`connection::Door`].

pub(crate) mod connection;

pub(crate) mod listener;

pub(crate) mod queue;

pub(crate) mod resp;

pub(crate) mod script;

pub(crate) mod stream;
