//! Rows and leases: which node holds which user, and which nodes are live.

pub(crate) mod read;

pub(crate) mod write;

pub(crate) mod node_table;

pub(crate) mod absent;

pub(crate) mod lease;

pub(crate) mod skew;

pub(crate) mod standing;

pub(crate) mod sweep;

pub(crate) mod verify;
