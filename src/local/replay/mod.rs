//! Kept messages on their way to a connection: pages of an inbox or a log, and its place in it.

pub mod page;

pub mod follower;
