//! Rows and leases: which node holds which user, and which nodes are live.

pub mod read;

pub mod write;

pub mod lease;

pub mod sweep;
