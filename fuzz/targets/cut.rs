//! Bytes come in pieces of any size, and that must not matter.

use std::fmt::Debug;

/// Parses the input whole, and cut into pieces whose size its first byte says.
///
/// # Panics
/// If that makes a difference.
pub fn is_no_matter<T: PartialEq + Debug>(input: &[u8], parse: impl Fn(&[u8], usize) -> T) {
    let Some((first, input)) = input.split_first() else {
        return;
    };
    let whole = parse(input, input.len().max(1));
    let cut = parse(input, usize::from(*first).max(1));
    assert_eq!(whole, cut);
}
