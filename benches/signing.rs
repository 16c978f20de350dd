//! What `PUSH_CLUSTER_SECRET` costs: signing and checking the lines that only nodes may say. A
//! payload has one header, however many pushes it carries; each receipt is one line more.

use std::hint::black_box;
use std::time::Instant;

use pushnode::protocol::{ClusterKeys, Proof, header_line};

/// Lines in a pass.
const LINES: u64 = 200_000;
/// The median of so many passes counts.
const PASSES: usize = 7;
const CHANNEL: &str = "pn:n:{eu-1.9f86d081884c}";
const RECEIPT: &str = r#"{"cmd":"receipt","ref":"5f0c4a1b9f86d081884c60303ae22b99","node":"eu-2.60303ae22b99","status":"written","connections":2}"#;

/// Nanoseconds for one call.
fn median_of(mut call: impl FnMut(u64)) -> f64 {
    let mut passes: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            (0..LINES).for_each(&mut call);
            start.elapsed().as_nanos() as f64 / LINES as f64
        })
        .collect();
    passes.sort_by(f64::total_cmp);
    passes[PASSES / 2]
}

fn main() {
    let (old, new) = (
        "the old secret of this cluster..",
        "the new secret of this cluster..",
    );
    let node = "eu-2.60303ae22b99".parse().expect("a node");
    let none = ClusterKeys::default();
    let (one, both) = (ClusterKeys::new([old]), ClusterKeys::new([new, old]));
    println!("{LINES} lines a pass, median of {PASSES} passes, ns for one line");
    for (what, keys) in [("without a secret", &none), ("with a secret", &one)] {
        let header = |seq| keys.signed(CHANNEL, "", &header_line(&node, seq));
        let write = median_of(|seq| drop(black_box(header(seq))));
        let before = header(7);
        let write_receipt = median_of(|_| drop(black_box(keys.signed(CHANNEL, &before, RECEIPT))));
        println!("write  {what}: header {write:.0}, receipt {write_receipt:.0}");
    }
    let header = one.signed(CHANNEL, "", &header_line(&node, 7));
    let receipt = one.signed(CHANNEL, &header, RECEIPT);
    for (what, keys) in [
        ("by the only secret", &one),
        ("by the second secret", &both),
    ] {
        let check = |header: &str, line: &str| {
            let proof = keys.check(CHANNEL, header.as_bytes(), black_box(line).as_bytes());
            assert_eq!(proof, Proof::Valid);
        };
        let read = median_of(|_| check("", &header));
        let read_receipt = median_of(|_| check(&header, &receipt));
        println!("check  {what}: header {read:.0}, receipt {read_receipt:.0}");
    }
}
