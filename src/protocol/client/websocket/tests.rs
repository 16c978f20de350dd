//! The frame parser against the rules of RFC 6455, byte by byte and in every split.

use super::*;

const LIMITS: Limits = Limits {
    message_bytes: 1000,
    fragments: 8,
};

/// A masked client frame; `first` is the first byte (FIN, reserved bits, opcode).
fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..=125 => out.push(MASKED | length as u8),
        length @ 126..=0xFFFF => {
            out.push(MASKED | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[i % 4]),
    );
    out
}

/// What the parser says of `input` cut into pieces of `step` bytes, in words.
fn parse(input: &[u8], step: usize) -> (Vec<String>, Result<(), Violation>) {
    let mut reader = FrameReader::default();
    let mut seen = Vec::new();
    for piece in input.to_vec().chunks_mut(step.max(1)) {
        let result = reader.feed(piece, &LIMITS, &mut |event| {
            seen.push(format!("{event:?}"));
            true
        });
        if result.is_err() {
            return (seen, result);
        }
    }
    assert!(reader.0.is_none() || !seen.is_empty() || !input.is_empty());
    (seen, Ok(()))
}

/// Every way to cut the input must lead to the same events and the same verdict.
#[track_caller]
fn assert_parses(input: &[u8], events: &[&str], verdict: Result<(), CloseReason>) {
    for step in (1..=16).chain([input.len()]) {
        let (seen, result) = parse(input, step);
        assert_eq!(seen, events, "cut every {step} bytes");
        assert_eq!(
            result.map_err(|violation| violation.close),
            verdict,
            "cut every {step} bytes"
        );
    }
}

#[test]
fn whole_messages_and_control_frames() {
    let mut input = client_frame(0x81, "héllo".as_bytes());
    input.extend(client_frame(0x82, &[0, 255]));
    input.extend(client_frame(0x89, b"are you there"));
    input.extend(client_frame(0x8A, b""));
    input.extend(client_frame(0x88, &[0x03, 0xE8, b'x']));
    assert_parses(
        &input,
        &[
            "Text(\"héllo\")",
            "Binary([0, 255])",
            "Ping([97, 114, 101, 32, 121, 111, 117, 32, 116, 104, 101, 114, 101])",
            "Pong",
            "Close(Some(1000))",
        ],
        Ok(()),
    );
}

#[test]
fn a_ping_may_come_between_fragments_and_a_character_may_be_split() {
    let text = "añb".as_bytes();
    let mut input = client_frame(0x01, &text[..2]);
    input.extend(client_frame(0x89, b"!"));
    input.extend(client_frame(0x00, b""));
    input.extend(client_frame(0x80, &text[2..]));
    assert_parses(&input, &["Ping([33])", "Text(\"añb\")"], Ok(()));
}

#[test]
fn lengths_of_two_and_eight_bytes() {
    for length in [125, 126, 1000] {
        let input = client_frame(0x82, &vec![7; length]);
        let (seen, result) = parse(&input, 3);
        assert_eq!(result, Ok(()));
        assert_eq!(seen, [format!("Binary({:?})", vec![7; length])]);
    }
}

#[test]
fn broken_rules_end_with_their_code() {
    use CloseReason::{InvalidText, Protocol, TooBig};
    let mut nested = client_frame(0x01, b"a");
    nested.extend(client_frame(0x81, b"b"));
    let mut split_bad_text = client_frame(0x01, &[0xCE]);
    split_bad_text.extend(client_frame(0x80, b"a"));
    let unfinished_character = client_frame(0x81, &[0xCE]);
    let mut too_many = client_frame(0x01, b"");
    (0..8).for_each(|_| too_many.extend(client_frame(0x00, b"")));
    let mut too_big = client_frame(0x02, &[0; 600]);
    too_big.extend(client_frame(0x80, &[0; 600]));
    let cases: &[(&str, Vec<u8>, CloseReason)] = &[
        ("unmasked", vec![0x81, 0x01, b'a'], Protocol),
        ("reserved bit 1", client_frame(0xC1, b"a"), Protocol),
        ("reserved bit 3", client_frame(0x91, b"a"), Protocol),
        ("reserved data opcode", client_frame(0x83, b""), Protocol),
        ("reserved control opcode", client_frame(0x8B, b""), Protocol),
        ("fragmented ping", client_frame(0x09, b""), Protocol),
        ("long ping", client_frame(0x89, &[0; 126]), Protocol),
        ("continuation first", client_frame(0x80, b"a"), Protocol),
        ("message inside a message", nested, Protocol),
        ("close with one byte", client_frame(0x88, &[3]), Protocol),
        (
            "close code 1005",
            client_frame(0x88, &1005u16.to_be_bytes()),
            Protocol,
        ),
        (
            "close code 999",
            client_frame(0x88, &999u16.to_be_bytes()),
            Protocol,
        ),
        (
            "close reason not UTF-8",
            client_frame(0x88, &[3, 0xE8, 0xFF]),
            InvalidText,
        ),
        (
            "text not UTF-8",
            client_frame(0x81, &[b'a', 0xFF]),
            InvalidText,
        ),
        ("text not UTF-8 over fragments", split_bad_text, InvalidText),
        (
            "character cut off at the end",
            unfinished_character,
            InvalidText,
        ),
        ("fragments", too_many, TooBig),
        ("message", client_frame(0x82, &[0; 1001]), TooBig),
        ("message over fragments", too_big, TooBig),
        (
            "claimed 15 MiB",
            vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0xF0, 0, 0, 1, 2, 3, 4],
            TooBig,
        ),
        (
            "2 bytes with a length of 2 bytes",
            vec![0x82, 0xFE, 0, 2, 1, 2, 3, 4, 0, 0],
            Protocol,
        ),
        (
            "2 bytes with a length of 8 bytes",
            vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4, 0, 0],
            Protocol,
        ),
        (
            "claimed 2^63",
            vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            Protocol,
        ),
    ];
    for (name, input, close) in cases {
        for step in [1, 2, 3, 7, input.len()] {
            let (_, result) = parse(input, step);
            let seen = result.map_err(|violation| violation.close);
            assert_eq!(seen, Err(*close), "{name}, cut every {step} bytes");
        }
    }
}

#[test]
fn bad_text_is_refused_before_its_frame_is_complete() {
    let mut reader = FrameReader::default();
    let mut input = client_frame(0x81, &[b'a', 0xFF, b'b', b'c', b'd']);
    input.truncate(input.len() - 2);
    let result = reader.feed(&mut input, &LIMITS, &mut |_| true);
    assert_eq!(result, Err(NOT_UTF8));
}

#[test]
fn an_idle_reader_holds_nothing() {
    let mut reader = FrameReader::default();
    for piece in client_frame(0x81, b"hello").chunks_mut(1) {
        reader.feed(piece, &LIMITS, &mut |_| true).unwrap();
    }
    assert!(reader.0.is_none());
    assert_eq!(size_of::<FrameReader>(), 8);
}

#[test]
fn nothing_is_parsed_behind_a_refusal_to_go_on() {
    let mut input = client_frame(0x88, b"");
    input.extend(client_frame(0x81, b"late"));
    let mut seen = 0;
    let mut reader = FrameReader::default();
    let stopped = reader.feed(&mut input, &LIMITS, &mut |_| {
        seen += 1;
        false
    });
    assert_eq!((stopped, seen), (Ok(()), 1));
}

#[test]
fn our_frames_have_the_shortest_header() {
    for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        assert_eq!(text(&[&vec![b'a'; length]]).len(), length + header);
    }
    assert_eq!(&close(1000, "x")[..], [0x88, 3, 3, 0xE8, b'x']);
    assert_eq!(&pong(b"ab")[..], [0x8A, 2, b'a', b'b']);
    assert_eq!(&text(&[b"a", b"b"])[..], [0x81, 2, b'a', b'b']);
}

#[test]
fn any_bytes_are_survived() {
    fastrand::seed(1);
    for _ in 0..20_000 {
        let mut noise: Vec<u8> = (0..fastrand::usize(0..64))
            .map(|_| fastrand::u8(..))
            .collect();
        let mut reader = FrameReader::default();
        let step = fastrand::usize(1..8);
        for piece in noise.chunks_mut(step) {
            if reader.feed(piece, &LIMITS, &mut |_| true).is_err() {
                break;
            }
        }
    }
}
