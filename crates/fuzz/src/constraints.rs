//! Constraints, durations, amounts and the other small languages of a specification: what is read means the same when it is
//! written and read again.

use gaffer_domain::constraint::Constraint;
use gaffer_domain::quantity::{Bytes, Cpu, Span};

/// Reads a text as each of them.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    stays::<Constraint>(text);
    stays::<Span>(text);
    stays::<Bytes>(text);
    stays::<Cpu>(text);
}

fn stays<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
    let Ok(read) = text.parse::<T>() else { return };
    let written = read.to_string();
    match written.parse::<T>() {
        Ok(again) => assert_eq!(again, read, "{text:?} is written as {written:?}"),
        Err(_) => panic!("{text:?} is written as {written:?}, which cannot be read"),
    }
}

/// One of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "arch == arm64",
        "labels.gpu == a100",
        "memory >= 8GiB",
        "labels.rack in [1, 2]",
        "not labels.ssd",
        "name =~ ^gpu",
        "cpu > 2",
        "labels.zone != \"a b\"",
        "version >= 1.2.3",
        "1h30m",
        "250ms",
        "90",
        "7d",
        "512MiB",
        "1.5GiB",
        "2GB",
        "0.5",
        "500m",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
