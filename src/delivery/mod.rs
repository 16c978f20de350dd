//! What senders ask for: pushes, kicks and calls, carried to whichever nodes hold the user.

pub mod answer;

pub mod carrier;

pub mod keep;

pub mod ledger;

pub mod router;

pub mod kick;

pub mod call;

pub mod replay_reader;
