//! Said between nodes, and by publishers through Redis, one line each. Read tolerantly: an unknown
//! field may come from a newer node.

pub mod question;

pub mod presence;

pub mod event;

pub mod line;

pub mod node_lines;

pub mod signature;
