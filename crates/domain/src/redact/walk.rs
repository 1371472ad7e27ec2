//! Where a finder is in a text, also across the line ends of base64.
//!
//! Programs break base64 into lines, and where a line ends depends on what is before the value. So behind a long run of characters of
//! base64 a line end, with the indentation of the next line, may be in the middle of a form. There the finder goes two ways: one reads the
//! line end, the other passes over it, until what it may find lies behind the line end altogether.

use std::ops::Range;

use aho_corasick::automaton::StateID;

use super::finder::{Automaton, Finder};

/// The shortest line that can be one of several lines of base64.
pub(super) const RUN: usize = 32;
/// The most bytes between two lines of base64.
const MAX_BREAK: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Walk {
    /// None at the beginning.
    state: Option<StateID>,
    /// The way that passes over line ends, where there is one.
    wrapped: Option<Wrapped>,
}

#[derive(Debug, Clone, Copy)]
struct Wrapped {
    state: StateID,
    /// Characters of base64 behind the last line end.
    since: usize,
    /// Bytes of that line end and of the indentation behind it.
    skipped: usize,
}

impl Walk {
    /// Goes from a place of a text to its end, and notes the places of forms. `run_before`: how many characters of base64 are
    /// directly before the text, which begins no later than what is [open](Self::open).
    pub fn over(
        &mut self,
        finder: &Finder,
        text: &[u8],
        from: usize,
        run_before: usize,
        places: &mut Vec<Range<usize>>,
    ) {
        let Some(automaton) = finder.automaton() else { return };
        let mut state = self.state.unwrap_or(automaton.start);
        let mut at = from;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if state == automaton.start && self.wrapped.is_none() {
                match rest.iter().position(|byte| automaton.is_first(*byte)) {
                    Some(skipped) => at += skipped,
                    None => break,
                }
            }
            let Some(byte) = text.get(at).copied() else { break };
            if self.wrapped.is_some() {
                self.step_wrapped(automaton, text, at, byte, places);
            } else if matches!(byte, b'\n' | b'\r')
                && wraps(text.get(..at), automaton.open(state), run_before)
            {
                self.wrapped = Some(Wrapped { state, since: 0, skipped: 1 });
            }
            state = automaton.next(state, byte);
            at += 1;
            let found = automaton.ending(state);
            if found > 0 {
                places.push(at.saturating_sub(found)..at);
            }
        }
        self.state = Some(state);
    }

    /// The same for one byte on the way that passes over line ends.
    fn step_wrapped(
        &mut self,
        automaton: &Automaton,
        text: &[u8],
        at: usize,
        byte: u8,
        places: &mut Vec<Range<usize>>,
    ) {
        self.wrapped = self.wrapped.and_then(|Wrapped { state, since, skipped }| match byte {
            b'\n' | b'\r' if since >= RUN => Some(Wrapped { state, since: 0, skipped: 1 }),
            b'\n' | b'\r' | b' ' | b'\t' if since == 0 && skipped < MAX_BREAK => {
                Some(Wrapped { state, since, skipped: skipped + 1 })
            }
            byte if is_base64(byte) => {
                let (state, since) = (automaton.next(state, byte), since + 1);
                let found = automaton.ending(state);
                if found > since {
                    places.extend(pieces(text.get(..=at).unwrap_or_default(), found));
                }
                // Else what it may find is found on the other way.
                (automaton.open(state) > since).then_some(Wrapped { state, since, skipped })
            }
            _ => None,
        });
    }

    /// How many bytes at the end of the text up to which it went may belong to a form that is not complete.
    pub fn open(&self, finder: &Finder, text: &[u8]) -> usize {
        let (Some(automaton), Some(state)) = (finder.automaton(), self.state) else { return 0 };
        let wrapped = self.wrapped.map_or(0, |wrapped| {
            let open = pieces(text, automaton.open(wrapped.state));
            open.last().map_or(0, |first| text.len() - first.start)
        });
        automaton.open(state).max(wrapped)
    }

    /// The places of the beginning of a form at the end of the text, if that has more than so many bytes.
    pub fn open_places(&self, finder: &Finder, text: &[u8], harmless: usize) -> Vec<Range<usize>> {
        let (Some(automaton), Some(state)) = (finder.automaton(), self.state) else { return Vec::new() };
        let mut places = Vec::new();
        let open = automaton.open(state);
        if open > harmless {
            places.push(text.len().saturating_sub(open)..text.len());
        }
        let open = self.wrapped.map_or(0, |wrapped| automaton.open(wrapped.state));
        if open > harmless {
            places.extend(pieces(text, open));
        }
        places
    }
}

/// How many characters of base64 are at the end of a text, with those before it, as far as `enough`.
pub(super) fn run_at_end(text: &[u8], before: usize, enough: usize) -> usize {
    let run = text.iter().rev().take(enough).take_while(|byte| is_base64(**byte)).count();
    if run == text.len() { (run + before).min(enough) } else { run }
}

/// Whether a line end behind this text may be in the middle of a form, of which so many bytes have been there.
fn wraps(text: Option<&[u8]>, open: usize, run_before: usize) -> bool {
    let text = text.unwrap_or_default();
    open > 0 && run_at_end(text, 0, open) == open && run_at_end(text, run_before, RUN) >= RUN
}

/// The places of the last characters of base64 in a text, the last first; what is between them is left out.
fn pieces(text: &[u8], mut characters: usize) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    for (at, byte) in text.iter().enumerate().rev() {
        if characters == 0 {
            break;
        }
        if is_base64(*byte) {
            characters -= 1;
            match places.last_mut() {
                Some(place) if place.start == at + 1 => place.start = at,
                _ => places.push(at..at + 1),
            }
        }
    }
    places
}

/// Both alphabets.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}
