//! Who may be here, and whether they still may.

pub mod authenticator;

pub mod session_watch;

pub mod recheck;

pub mod connection_limits;
