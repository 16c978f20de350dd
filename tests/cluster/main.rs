//! Several nodes and one Redis: real processes, real sockets, real faults.
//!
//! What is promised across nodes: each message once, to its addressee and nobody else, whoever
//! publishes it and whatever happens to nodes and Redis meanwhile.

#[path = "../common/mod.rs"]
mod common;

mod books;
mod crowd;
mod flow;
mod ledger;
mod raw;
mod redis_groups;

mod calls;
mod commands;
mod documents;
mod drain;
mod events;
mod exactly_once;
mod flavours;
mod frozen;
mod gateway;
mod ghosts;
mod keep;
mod kept_once;
mod logs;
mod losses;
mod mangled;
mod openapi;
mod passes;
mod presence;
mod publishers;
mod quickstarts;
mod redis_faults;
mod registry;
mod repeats;
mod replicas;
mod restart;
mod secrets;
mod stream_bounds;
mod topics;
mod topologies;
mod topologies_refused;
mod trace;
mod upstream;
mod verified_rows;
