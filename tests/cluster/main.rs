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

mod absent;
mod addresses;
mod ahead;
mod batches;
mod belief;
mod bookmarks;
mod calls;
mod checkup;
mod clocks;
mod commands;
mod credentials;
mod databases;
mod documents;
mod drain;
mod events;
mod evictions;
mod exactly_once;
mod flavours;
mod forged;
mod frameworks;
mod frozen;
mod gateway;
mod ghosts;
mod hangups;
mod history;
mod hooks;
mod identity;
mod keep;
mod kept_once;
mod last;
mod late_checks;
mod leaving;
mod logs;
mod losses;
mod managed_redis;
mod mangled;
mod many_topics;
mod named_events;
mod openapi;
mod outages;
mod passes;
mod presence;
mod prestop;
mod proofs;
mod publishers;
mod quickstarts;
mod readiness;
mod redis_faults;
mod refusals;
mod registry;
mod repeats;
mod replicas;
mod restart;
mod retries;
mod rolling;
mod rules;
mod secret_files;
mod secrets;
mod sentinels;
mod shown;
mod silent_master;
mod stream_bounds;
mod streams;
mod stumbles;
mod topics;
mod topologies;
mod topologies_refused;
mod trace;
mod twins;
mod unwritten;
mod upstream;
mod vanished;
mod verified_rows;
