//! Bytes of a client over plain TCP: however they are cut, the same lines come out, none longer
//! than it may be, and what is a line is an object or a fault.
#![no_main]

mod cut;

use libfuzzer_sys::fuzz_target;
use pushnode_fuzz::protocol::ClientMessage;
use pushnode_fuzz::protocol::client::lines::LineReader;

const MOST: usize = 256;

/// What the parser says of `input` cut behind every `step` bytes.
fn parse(input: &[u8], step: usize) -> (Vec<String>, Result<(), &'static str>) {
    let mut reader = LineReader::default();
    let mut lines = Vec::new();
    for piece in input.chunks(step) {
        let parsed = reader.feed(piece, MOST, &mut |line| {
            assert!(line.len() <= MOST && !line.contains('\n'));
            // Total: it answers or says what is wrong.
            let _ = ClientMessage::parse(line);
            lines.push(line.to_owned());
            true
        });
        if let Err(violation) = parsed {
            return (lines, Err(violation.close.label()));
        }
    }
    (lines, Ok(()))
}

fuzz_target!(|input: &[u8]| cut::is_no_matter(input, parse));
