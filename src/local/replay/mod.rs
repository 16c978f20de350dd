//! Kept messages on their way to a connection that is behind: pages of a log, and who follows it.

pub mod page;

pub mod follower;
