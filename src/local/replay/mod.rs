//! Kept messages on their way to a connection: pages of an inbox or a log, and its place in it.

pub(crate) mod page;

pub(crate) mod follower;

pub(crate) mod stumbles;

pub(crate) mod excerpt;
