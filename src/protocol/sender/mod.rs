//! Said by senders over HTTP. Read strictly: a misspelt field fails at once.

pub(super) mod plain_push;

pub mod push;

pub mod push_head;

pub mod known_head;

pub mod reply;

pub mod call;

pub mod access;
