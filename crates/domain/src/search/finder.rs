//! Finds the lines that match by the automaton's table of states, which is computed as it is needed.
//!
//! The table is walked here and not by the library, because a walk must be able to pause anywhere: where every byte leads to a
//! state that was not there before, a megabyte takes minutes.

use std::ops::Range;

use regex_automata::Input;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::Cache;

use super::leaps::Thrift;
use super::pattern::Pattern;
use super::threads::{Ran, Threads};
use super::turn::Turn;

/// How much effort threads make before the turn is asked, and how many bytes a walk takes before that.
const THREADS_EFFORT: usize = 1 << 16;
const STRIDE_BYTES: usize = 64 << 10;

/// Finds lines of one pattern, one after the other.
#[derive(Debug, Default)]
pub(super) struct Finder {
    cache: Option<Cache>,
    /// Where an interrupted walk continues: with this byte, in this state.
    walk: Option<(usize, LazyStateID)>,
    /// The line that threads search, because the table does not decide.
    line: Option<Range<usize>>,
    thrift: Thrift,
    /// For such lines, and for the matches in a line.
    pub threads: Threads,
}

/// What a search came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// A place in the first line that matches: within it, or at its line end.
    Found(usize),
    Nothing,
    /// The turn is over. The same search of the same text continues where it was interrupted.
    Interrupted,
}

/// How a walk ended.
enum Walked {
    /// A match ends here.
    Found(usize),
    Nothing,
    Interrupted,
    /// The table does not know what comes at this place: a word boundary beside a character that is not ASCII.
    Undecided(usize),
}

impl Finder {
    /// Looks for a line that matches, in a part of a text. What is around the part counts for anchors.
    pub fn find(
        &mut self,
        pattern: &Pattern,
        text: &[u8],
        part: Range<usize>,
        turn: &mut Turn<'_>,
    ) -> Looked {
        let mut from = part.start;
        loop {
            let line = match self.line.take() {
                Some(line) => line,
                None => match self.walk(pattern, text, from..part.end, turn) {
                    Walked::Found(at) => return Looked::Found(at),
                    Walked::Nothing => return Looked::Nothing,
                    Walked::Interrupted => return Looked::Interrupted,
                    Walked::Undecided(at) => line_around(text, from..part.end, at),
                },
            };
            match self.run(pattern, text, line.clone(), turn) {
                Ran::Found(found) => return Looked::Found(found.start),
                Ran::Nothing if line.end >= part.end => return Looked::Nothing,
                Ran::Nothing => from = line.end + 1,
                Ran::OutOfEffort => {
                    self.line = Some(line);
                    return Looked::Interrupted;
                }
            }
        }
    }

    /// What is under way does not continue: something else is searched.
    pub fn forget(&mut self) {
        (self.walk, self.line) = (None, None);
        self.threads.forget();
    }

    /// Goes from state to state until a match ends.
    fn walk(&mut self, pattern: &Pattern, text: &[u8], part: Range<usize>, turn: &mut Turn<'_>) -> Walked {
        let dfa = pattern.table();
        let cache = self.cache.get_or_insert_with(|| dfa.create_cache());
        let thrift = &mut self.thrift;
        let begun = match self.walk.take() {
            Some(begun) => Ok(Some(begun)),
            None => begin(pattern, cache, text, part.clone(), thrift),
        };
        let (mut at, mut state) = match begun {
            Ok(Some(begun)) => begun,
            Ok(None) => return Walked::Nothing,
            Err(at) => return Walked::Undecided(at),
        };
        loop {
            let pause = part.end.min(at.saturating_add(STRIDE_BYTES));
            let begun = at;
            while at < pause {
                let mut before = state;
                if before.is_tagged() {
                    state = match dfa.next_state(cache, before, text[at]) {
                        Ok(state) => state,
                        Err(_) => return Walked::Undecided(at),
                    };
                    at += 1;
                } else {
                    // Nearly all of the time is spent here.
                    while at < pause && !state.is_tagged() {
                        before = state;
                        state = dfa.next_state_untagged(cache, before, text[at]);
                        at += 1;
                    }
                }
                if !state.is_tagged() {
                    continue;
                }
                let is_new = state.is_unknown();
                if is_new {
                    state = match dfa.next_state(cache, before, text[at - 1]) {
                        Ok(state) => state,
                        Err(_) => return Walked::Undecided(at - 1),
                    };
                }
                if state.is_match() {
                    thrift.walked(at - begun);
                    // The table tells a match one byte late.
                    return Walked::Found(at - 1);
                } else if state.is_dead() {
                    return Walked::Nothing;
                } else if state.is_quit() {
                    return Walked::Undecided(at - 1);
                } else if state.is_start() && !thrift.rests() {
                    // No match has begun: it goes on where the next one may begin.
                    (at, state) = match begin(pattern, cache, text, at..part.end, thrift) {
                        Ok(Some(begun)) => begun,
                        Ok(None) => return Walked::Nothing,
                        Err(at) => return Walked::Undecided(at),
                    };
                }
                // In the worst case, all states of the automaton were visited to find this one.
                if is_new && turn.spend(pattern.states()) {
                    break;
                }
            }
            thrift.walked(at - begun);
            if at >= part.end {
                break;
            }
            if turn.spend(STRIDE_BYTES) {
                self.walk = Some((at, state));
                return Walked::Interrupted;
            }
        }
        let last = match text.get(part.end) {
            Some(byte) => dfa.next_state(cache, state, *byte),
            None => dfa.next_eoi_state(cache, state),
        };
        match last {
            Ok(state) if state.is_match() => Walked::Found(part.end),
            Ok(state) if !state.is_quit() => Walked::Nothing,
            Ok(_) | Err(_) => Walked::Undecided(part.end),
        }
    }

    /// Searches a line by threads.
    fn run(&mut self, pattern: &Pattern, text: &[u8], line: Range<usize>, turn: &mut Turn<'_>) -> Ran {
        loop {
            let mut effort = THREADS_EFFORT;
            let ran = self.threads.find(pattern, text, line.clone(), &mut effort);
            if turn.spend(THREADS_EFFORT - effort) || ran != Ran::OutOfEffort {
                return ran;
            }
        }
    }
}

/// Where a match may begin in a part of a text, and the state there; none if nowhere. The error is a place that the table does
/// not know.
fn begin(
    pattern: &Pattern,
    cache: &mut Cache,
    text: &[u8],
    part: Range<usize>,
    thrift: &mut Thrift,
) -> Result<Option<(usize, LazyStateID)>, usize> {
    let at = match pattern.leaps() {
        Some(leaps) if !thrift.rests() => leaps.next(text, part.clone(), thrift),
        _ => pattern.next_candidate(text, part.clone()),
    };
    let Some(at) = at else { return Ok(None) };
    let input = Input::new(text).range(at..part.end);
    match pattern.table().start_state_forward(cache, &input) {
        Ok(state) => Ok(Some((at, state))),
        Err(_) => Err(at),
    }
}

/// The line of a part of a text in which a place is, without its line end.
fn line_around(text: &[u8], part: Range<usize>, at: usize) -> Range<usize> {
    let start = memchr::memrchr(b'\n', &text[part.start..at]).map_or(part.start, |end| part.start + end + 1);
    let end = memchr::memchr(b'\n', &text[at..part.end]).map_or(part.end, |end| at + end);
    start..end
}
