//! Where clients come in: listeners, the accept loop, the handshake of each transport, and what
//! clients ask for afterwards.
//!
//! Only this folder and `api` know warp and hyper. Routes are handed in as a value, so nothing here
//! knows which there are.

pub(crate) mod listeners;

pub(crate) mod peer;

pub(crate) mod http_stream;

pub(crate) mod fresh_stream;

pub(crate) mod proxy_header;

pub(crate) mod request_body;

pub(crate) mod error;

pub(crate) mod client_error;

pub(crate) mod caller;

pub(crate) mod cors;

pub(crate) mod introduction;

pub(crate) mod handshake;

pub(crate) mod upgrade;

pub(crate) mod refusal;

pub(crate) mod ws;

pub(crate) mod sse;

pub(crate) mod tcp;

pub(crate) mod connect_lane;

pub(crate) mod push_reply;

pub(crate) mod push_lane;

pub(crate) mod accept;

pub(crate) mod acceptor;

pub(crate) mod upstream;

pub(crate) mod requests;
