//! The requests of senders: pushes, kicks and calls, carried to the nodes that hold the user.

pub(crate) mod answer;

pub(crate) mod operation;

pub(crate) mod part;

pub(crate) mod share;

pub(crate) mod carrier;

pub(crate) mod ahead;

pub(crate) mod node_batch;

pub(crate) mod look_up;

pub(crate) mod keep;

pub(crate) mod ledger;

pub(crate) mod one_user;

pub(crate) mod router;

pub(crate) mod kick;

pub(crate) mod call;

pub(crate) mod replay_reader;

pub(crate) mod bookmark_writer;
