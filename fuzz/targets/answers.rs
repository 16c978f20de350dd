//! Bytes of Redis on the lean connections: however they are cut, the same answers come out; what
//! is whole is a value or a fault; and a command is read back as it was written.
#![no_main]

mod cut;

// The one file, which needs nothing else of the program.
#[path = "../../src/backplane/redis/wire/resp.rs"]
#[allow(dead_code)]
mod resp;

use libfuzzer_sys::fuzz_target;
use resp::{Framer, Malformed, Reply};

/// What is read of `input` cut behind every `step` bytes.
fn parse(input: &[u8], step: usize) -> (Vec<Reply>, Result<(), Malformed>) {
    let (mut framer, mut replies) = (Framer::default(), Vec::new());
    let (mut rest, mut there) = (input, 0);
    loop {
        match framer.whole(&rest[..there]) {
            Ok(Some(length)) => {
                let whole = &rest[..length];
                if resp::is_pushed(whole)
                    && let Ok(Some(places)) = resp::message(whole)
                {
                    assert!(places.channel.end < places.payload.start);
                    assert_eq!(&whole[places.payload.end..], b"\r\n");
                }
                match resp::reply(whole) {
                    Ok(reply) => replies.push(reply),
                    Err(fault) => return (replies, Err(fault)),
                }
                rest = &rest[length..];
                there -= length;
            }
            Ok(None) if there == rest.len() => return (replies, Ok(())),
            Ok(None) => there = rest.len().min(there + step),
            Err(fault) => return (replies, Err(fault)),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    cut::is_no_matter(input, parse);
    let words: Vec<&[u8]> = input.split(|byte| *byte == b' ').collect();
    let mut command = Vec::new();
    resp::command(&mut command, &words);
    let texts = words.iter().map(|word| Reply::Text(word.to_vec()));
    let expected = (vec![Reply::List(texts.collect())], Ok(()));
    assert_eq!(parse(&command, command.len()), expected);
});
