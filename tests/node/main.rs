//! A whole node as its clients, senders and operators meet it: real processes, real sockets.
//! Clusters have a test binary of their own.

#[path = "../common/mod.rs"]
mod common;
mod raw;
mod sender;

mod start;

mod connect;
mod credits;
mod frames;
mod framing;
mod handshakes;
mod hooks;
mod idle_and_stuck;
mod limits;
mod long_bodies;
mod one_command;
mod origins;
mod strangers;

mod addresses;
mod bad_input;
mod batches;
mod beats;
mod bookmarks;
mod calls;
mod commands;
mod cors;
mod doors;
mod fast_lane;
mod history;
mod identity;
mod keep;
mod last;
mod many_sockets;
mod many_topics;
mod memory;
mod named_events;
mod passes;
mod presence;
mod proxies;
mod push;
mod refusals;
mod refused_frames;
mod rules;
mod secret_files;
mod shown;
mod slow;
mod slow_links;
mod streams;
mod stumbles;
mod threads;
mod tokens;
mod topics;
mod trace;
mod transports;
mod users;

mod lifecycle;

mod documents;
mod metrics;
mod openapi;
mod operations;
mod packages;
mod tidy;
