//! Said between a node and its clients: frames, lines, and the objects in them.

pub mod websocket;

pub mod lines;

pub mod objects;

pub mod send;

pub mod dialect;

pub mod decoder;

pub mod connect;
