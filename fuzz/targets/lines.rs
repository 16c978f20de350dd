//! Bytes of a client over plain TCP: however they are cut, the same lines come out, none longer
//! than it may be, and what is a line is an object or a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushnode::lines::Reader;
use pushnode::protocol::ClientMessage;

const MOST: usize = 256;

/// What the parser says of `input` cut behind every `step` bytes.
fn parse(input: &[u8], step: usize) -> (Vec<String>, Result<(), &'static str>) {
    let mut reader = Reader::default();
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

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else {
        return;
    };
    let whole = parse(input, input.len().max(1));
    let cut = parse(input, usize::from(*first).max(1));
    assert_eq!(whole, cut);
});
