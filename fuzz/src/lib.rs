//! What the fuzz targets test: the folder `src/protocol/` of pushnode, compiled alone.
//!
//! It needs nothing from the rest of the program, so no target has to build a runtime, a Redis
//! client or an HTTP server under the flags of the fuzzer.

// The rest of the program uses what no target does.
#![allow(dead_code, unused_imports)]

#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
