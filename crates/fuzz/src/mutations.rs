//! Changes inputs at random, for the short runs of the tests. A fuzzer does better.

use rand::Rng;
use rand::seq::IndexedRandom as _;

/// What parsers find hard.
const HARD: [&[u8]; 16] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"\x1b[",
    b"{{",
    b"}}",
    b"%",
    b"\\",
    b"\"",
    b"[[[[",
    b"-1",
    b"18446744073709551616",
    b"9999999999999999999999",
    b"\xe2\x80\xae",
    b"::add-mask::",
];

/// An input that differs from the first in up to six places, and may have a part of the second.
pub fn mutated(rng: &mut impl Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..40)).min(bytes.len());
        match rng.random_range(0..8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => drop(bytes.splice(at..at, HARD.choose(rng).copied().unwrap_or_default().iter().copied())),
            6 if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let to = (from + rng.random_range(0..60)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            7 => bytes.truncate(at),
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes
}
