//! Bytes of a client: however they are cut, the parser sees the same frames, never takes more
//! than it may, and says the same of what breaks the rules.
#![no_main]

mod cut;

use libfuzzer_sys::fuzz_target;
use pushnode_fuzz::protocol::client::websocket::{Event, FrameReader, Limits};

const LIMITS: Limits = Limits {
    message_bytes: 256,
    fragments: 4,
};

/// What the parser says of `input` cut behind every `step` bytes.
fn parse(input: &[u8], step: usize) -> (Vec<String>, Result<(), &'static str>) {
    let mut reader = FrameReader::default();
    let mut events = Vec::new();
    // It unmasks in place.
    for piece in input.to_vec().chunks_mut(step) {
        let parsed = reader.feed(piece, &LIMITS, &mut |event| {
            if let Event::Text(text) = &event {
                assert!(text.len() <= LIMITS.message_bytes);
            }
            events.push(format!("{event:?}"));
            true
        });
        if let Err(violation) = parsed {
            return (events, Err(violation.close.label()));
        }
    }
    (events, Ok(()))
}

fuzz_target!(|input: &[u8]| cut::is_no_matter(input, parse));
