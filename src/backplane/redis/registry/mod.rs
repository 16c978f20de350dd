//! Rows and leases: which node holds which user, and what is believed of the nodes.

pub(crate) mod read;

pub(crate) mod write;

mod row_script;

pub(crate) mod node_table;

pub(crate) mod absent;

pub(crate) mod belief;

pub(crate) mod lease;

pub(crate) mod inquiry;

pub(crate) mod lost_rows;

pub(crate) mod offer;

pub(crate) mod forget;

pub(crate) mod isolation;

pub(crate) mod skew;

pub(crate) mod sweep;

pub(crate) mod unwritten;

pub(crate) mod verify;

pub(crate) mod whereabouts;
