//! Stored data: kept messages, sessions and bans, streams to services, events.

pub mod kept;

pub mod access;

pub mod upstream;

pub mod events;
