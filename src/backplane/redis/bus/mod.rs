//! PUBLISH and SUBSCRIBE: lines to other nodes and from them.

pub mod outbox;

pub mod probes;

pub mod pump;

pub mod subscriber;
