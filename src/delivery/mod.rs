//! The requests of senders: pushes, kicks and calls, carried to the nodes that hold the user.

pub mod answer;

pub mod operation;

pub mod carrier;

pub mod keep;

pub mod ledger;

pub mod router;

pub mod kick;

pub mod call;

pub mod replay_reader;
