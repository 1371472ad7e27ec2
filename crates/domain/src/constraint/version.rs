//! The order of versions: Semantic Versioning 2.0.0 §11, with any number of parts.

use std::cmp::Ordering;

/// Compares two versions. What comes after `+` does not count, nor does a `v` in front.
pub(super) fn compare(one: &str, other: &str) -> Ordering {
    let (one, one_early) = halves(one);
    let (other, other_early) = halves(other);
    parts(one, other, "0").then_with(|| match (one_early, other_early) {
        (None, None) => Ordering::Equal,
        // A version comes after its own release candidates.
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(one), Some(other)) => parts(one, other, ""),
    })
}

/// The version proper, and what makes it an early one.
fn halves(version: &str) -> (&str, Option<&str>) {
    let version = version.strip_prefix('v').unwrap_or(version);
    let version = version.split('+').next().unwrap_or_default();
    version.split_once('-').map_or((version, None), |(proper, early)| (proper, Some(early)))
}

/// Compares part by part; the shorter one is extended with `filler`.
fn parts(one: &str, other: &str, filler: &str) -> Ordering {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        let order = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (one, other) => part(one.unwrap_or(filler), other.unwrap_or(filler)),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Numbers as numbers, texts as texts; numbers come first.
fn part(one: &str, other: &str) -> Ordering {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = |text| str::trim_start_matches(text, '0');
    match (is_number(one), is_number(other)) {
        (true, true) => {
            let (one, other) = (digits(one), digits(other));
            one.len().cmp(&other.len()).then_with(|| one.cmp(other))
        }
        // An empty version is before every other.
        (true, false) if other.is_empty() => Ordering::Greater,
        (false, true) if one.is_empty() => Ordering::Less,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}
