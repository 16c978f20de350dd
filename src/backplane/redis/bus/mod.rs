//! PUBLISH and SUBSCRIBE: lines to other nodes and from them.

pub(crate) mod lane;

pub(crate) mod numbers;

pub(crate) mod outbox;

pub(crate) mod post;

pub(crate) mod probes;

pub(crate) mod publish;

pub(crate) mod subscriber;

pub(crate) mod subscription;
