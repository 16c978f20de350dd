//! Said between a node and its clients: frames, lines, and the objects in them.
//!
//! Nothing here knows of a push: a message is encoded by `message.rs`, in the form of a dialect.

pub mod websocket;

pub mod lines;

pub mod send;

pub mod objects;

pub mod requests;

pub mod event_id;

pub mod dialect;

pub mod refusal;

pub mod decoder;

pub mod connect;

pub mod connect_head;
