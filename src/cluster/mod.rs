//! Communication between nodes: what this node receives, asks, answers and waits for.

pub(crate) mod pending;

pub(crate) mod questions;

pub(crate) mod sequence;

pub(crate) mod inbound;

pub(crate) mod reach;

pub(crate) mod survey;

pub(crate) mod balance;
