//! Said by senders over HTTP. Read strictly: a misspelt field fails at once.

pub mod push;

pub mod reply;

pub mod call;

pub mod access;
