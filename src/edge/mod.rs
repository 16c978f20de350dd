//! Where clients come in: listeners, the accept loop, the handshake of each transport.

pub mod listeners;

pub mod acceptor;

pub mod handshake;

pub mod ws;

pub mod sse;

pub mod tcp;

pub mod requests;

pub mod upstream;
