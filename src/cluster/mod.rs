//! Communication between nodes: what this node receives, asks, answers and waits for.

pub mod pending;

pub mod questions;

pub mod sequence;

pub mod inbound;

pub mod reach;

pub mod survey;

pub mod balance;
