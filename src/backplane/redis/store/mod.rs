//! Stored data: kept messages, sessions and bans, streams to services, events.

pub(crate) mod epoch;

pub(crate) mod replicas;

pub(crate) mod bookmarks;

pub(crate) mod kept;

mod history;

mod entries;

mod marks;

mod pages;

pub(crate) mod access;

pub(crate) mod upstream;

pub(crate) mod events;
