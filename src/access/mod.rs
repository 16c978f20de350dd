//! Which clients may be connected here, and whether they still may: tokens, sessions, bans, limits.

pub(crate) mod authenticator;

pub(crate) mod session_watch;

pub(crate) mod recheck;

mod renewals;

pub(crate) mod connect_hook;

pub(crate) mod subscribe_hook;

pub(crate) mod connection_limits;

pub(crate) mod late_checks;
