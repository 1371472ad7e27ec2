//! Leaps over text in which no match can begin, for patterns whose matches begin with no few literals.
//!
//! Of a match, the bytes that may stand at each of its first places are known. Text is looked at where the last of these places
//! would be, and backwards from there: a byte that may not stand there says how far the next possible match is away. So a text with
//! few such bytes is searched without looking at most of it. Where that does not pay off, the table of states goes on alone.

use std::ops::Range;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::primitives::StateID;

/// The most places of a match that are known.
const MAX_PLACES: usize = 32;
/// With fewer there is nothing to leap over.
const MIN_PLACES: usize = 3;
/// Highest number of printable characters that may stand at the most selective place.
const FEW_CHARACTERS: usize = 32;
/// How much effort is made to find out what stands where: visits of states.
const MAX_VISITS: usize = 1 << 18;

/// How far a search may leap, by what stands where.
#[derive(Debug, Clone)]
pub(super) struct Leaps {
    /// For each place of a match and each byte: how far to go if that byte stands there. 0 if it may.
    shifts: Vec<[u8; 256]>,
}

/// Whether leaps have paid off lately.
#[derive(Debug)]
pub(super) struct Thrift {
    credit: usize,
    rests: bool,
}

impl Thrift {
    /// In bytes that were looked at in vain.
    const MOST: usize = 4 << 10;
    /// What it costs to go on by the table of states.
    const CANDIDATE: usize = 32;
    /// The credit is whole again after so many times its size.
    const REST: usize = 64;

    /// Whether leaps do not pay off, so that none are to be tried for a while.
    #[inline]
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// So many bytes were searched without leaps.
    pub fn walked(&mut self, bytes: usize) {
        if self.rests {
            self.credit += bytes / Thrift::REST;
            self.rests = self.credit < Thrift::MOST;
        }
    }

    #[inline]
    fn spend(&mut self, cost: usize) {
        self.credit = self.credit.saturating_sub(cost);
        self.rests |= self.credit == 0;
    }

    #[inline]
    fn gain(&mut self, leapt: usize) {
        self.credit = (self.credit + leapt / 2).min(Thrift::MOST);
    }
}

impl Default for Thrift {
    fn default() -> Thrift {
        Thrift { credit: Thrift::MOST, rests: false }
    }
}

impl Leaps {
    /// For an automaton whose matches have at least so many bytes; none if leaps would be short.
    pub fn of(nfa: &NFA, least_match: usize) -> Option<Leaps> {
        let places = places(nfa, least_match.min(MAX_PLACES))?;
        let printable = |place: &[bool; 256]| place[0x20..0x7f].iter().filter(|may| **may).count();
        let is_telling =
            places.len() >= MIN_PLACES && places.iter().any(|place| printable(place) <= FEW_CHARACTERS);
        is_telling.then(|| Leaps { shifts: (0..places.len()).map(|at| shifts(&places[..=at])).collect() })
    }

    /// The first place in a part of a text where a match may begin; none if nowhere. Gives up once that does not pay off: then a
    /// match may begin there as anywhere behind it.
    pub fn next(&self, text: &[u8], part: Range<usize>, thrift: &mut Thrift) -> Option<usize> {
        let (text, shifts) = (text.get(..part.end)?, &self.shifts[..]);
        let mut at = part.start;
        while let Some(begun) = text.get(at..at + shifts.len()) {
            // Nearly all of the time is spent here.
            let mut place = shifts.len();
            let mut shift = 0;
            while shift == 0 && place > 0 {
                place -= 1;
                shift = usize::from(shifts[place][usize::from(begun[place])]);
            }
            if shift == 0 {
                thrift.spend(Thrift::CANDIDATE);
                return Some(at);
            }
            at += shift;
            thrift.spend(shifts.len() - place);
            thrift.gain(shift);
            if thrift.rests() {
                return Some(at);
            }
        }
        None
    }
}

/// How far to go for each byte at the last of these places.
fn shifts(places: &[[bool; 256]]) -> [u8; 256] {
    let distance = |byte: usize| places.iter().rev().position(|place| place[byte]).unwrap_or(places.len());
    // There are at most `MAX_PLACES`.
    std::array::from_fn(|byte| distance(byte) as u8)
}

/// Which bytes may stand at the first places of a match; none if that takes too long to find out.
fn places(nfa: &NFA, count: usize) -> Option<Vec<[bool; 256]>> {
    let mut found = Vec::with_capacity(count);
    let mut visits = MAX_VISITS;
    let mut begun = vec![nfa.start_anchored()];
    for _ in 0..count {
        let mut place = [false; 256];
        let mut next = Vec::new();
        let mut seen = vec![false; nfa.states().len()];
        visits = visits.checked_sub(seen.len())?;
        while let Some(state) = begun.pop() {
            if std::mem::replace(&mut seen[state.as_usize()], true) {
                continue;
            }
            let mut step = |bytes: Range<usize>, to: StateID| {
                place[bytes].fill(true);
                next.push(to);
            };
            match nfa.state(state) {
                State::ByteRange { trans } => {
                    step(usize::from(trans.start)..usize::from(trans.end) + 1, trans.next);
                }
                State::Sparse(sparse) => {
                    for trans in &sparse.transitions {
                        step(usize::from(trans.start)..usize::from(trans.end) + 1, trans.next);
                    }
                }
                State::Dense(dense) => {
                    for (byte, to) in
                        dense.transitions.iter().enumerate().filter(|(_, to)| **to != StateID::ZERO)
                    {
                        step(byte..byte + 1, *to);
                    }
                }
                // What is around a place is not looked at: that would only forbid more.
                State::Look { next, .. } | State::Capture { next, .. } => begun.push(*next),
                State::Union { alternates } => begun.extend(alternates.iter()),
                State::BinaryUnion { alt1, alt2 } => begun.extend([*alt1, *alt2]),
                State::Fail => {}
                // Matches are not that long after all.
                State::Match { .. } => return Some(found),
            }
        }
        next.sort_unstable();
        next.dedup();
        found.push(place);
        begun = next;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Pattern;
    use super::*;

    fn leaps(pattern: &str) -> Option<Leaps> {
        Pattern::compile(pattern).unwrap().leaps().cloned()
    }

    /// Where matches may begin.
    fn candidates(pattern: &str, text: &[u8]) -> Vec<usize> {
        let (leaps, mut thrift) = (leaps(pattern).unwrap(), Thrift::default());
        let mut at = 0;
        std::iter::from_fn(|| {
            let found = leaps.next(text, at..text.len(), &mut thrift)?;
            at = found + 1;
            Some(found)
        })
        .collect()
    }

    #[test]
    fn a_match_may_begin_where_each_of_its_first_bytes_may_stand() {
        assert_eq!(candidates("[0-9]{3}", b"1a12b123c1234"), [5, 9, 10]);
        assert_eq!(candidates("[0-9]{3}", b""), [0; 0]);
        assert_eq!(candidates("[0-9]{3}", b"12"), [0; 0]);
        assert_eq!(candidates("[0-9]{3}x+", b"12x123xx4"), [3]);
        assert_eq!(candidates(r"\b\d\d:\d\d\b", b"at 12:34, not 1:23"), [3]);
    }

    #[test]
    fn there_are_no_leaps_where_anything_may_stand_or_literals_are_faster() {
        for pattern in [".{20}", r"\w{20}", "[0-9]+", "[0-9][0-9]", "error [0-9]{20}", "x?"] {
            assert!(leaps(pattern).is_none(), "{pattern}");
        }
        for pattern in ["[0-9]{20}", r"\d{4}-\d\d-\d\d", "(?-u:.{5}[0-9])"] {
            assert!(leaps(pattern).is_some(), "{pattern}");
        }
    }

    #[test]
    fn leaps_that_do_not_pay_off_are_left_alone_for_a_while() {
        let leaps = leaps("[a-f][0-9]{19}").unwrap();
        let (digits, mut thrift) = (vec![b'7'; 100_000], Thrift::default());
        let given_up = leaps.next(&digits, 0..digits.len(), &mut thrift).unwrap();
        assert!(thrift.rests() && given_up < 1_000, "{given_up}");
        thrift.walked(Thrift::MOST * Thrift::REST - Thrift::REST);
        assert!(thrift.rests());
        thrift.walked(Thrift::REST);
        assert!(!thrift.rests());
        let (others, mut thrift) = (vec![b' '; 100_000], Thrift::default());
        assert_eq!((leaps.next(&others, 0..others.len(), &mut thrift), thrift.rests()), (None, false));
    }
}
