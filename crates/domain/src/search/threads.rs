//! Runs the automaton of a pattern thread by thread: slower than by its table of states, but it knows all anchors, where a match
//! begins, and how much effort it makes.

use std::ops::Range;

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::primitives::StateID;

use super::pattern::Pattern;

/// A search by threads, which continues where it ran out of effort.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// Threads before the next byte, the preferred ones first, and those behind it.
    now: ThreadSet,
    next: ThreadSet,
    at: usize,
    /// The best match so far.
    found: Option<Range<usize>>,
    is_under_way: bool,
    stack: Vec<StateID>,
}

/// How far a search by threads came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// The leftmost match.
    Found(Range<usize>),
    Nothing,
    /// It made as much effort as it may, and continues when it is called again.
    OutOfEffort,
}

impl Threads {
    /// The leftmost match in a part of a text. What is around the part counts for anchors. `effort` is how many states may be
    /// visited, and afterwards what is left of that.
    pub fn find(&mut self, pattern: &Pattern, text: &[u8], part: Range<usize>, effort: &mut usize) -> Ran {
        let nfa = pattern.nfa();
        if !self.is_under_way {
            self.begin(nfa, part.start);
        }
        let ran = loop {
            if self.now.is_empty() {
                if let Some(found) = self.found.take() {
                    break Ran::Found(found);
                }
                match pattern.next_candidate(text, self.at..part.end) {
                    Some(at) => self.at = at,
                    None => break Ran::Nothing,
                }
            }
            if *effort == 0 {
                return Ran::OutOfEffort;
            }
            if self.found.is_none() {
                let place = Place { text, at: self.at };
                self.now.follow(nfa, nfa.start_anchored(), self.at, place, &mut self.stack, effort);
            }
            self.step(nfa, text, part.end, effort);
        };
        self.forget();
        ran
    }

    /// What is under way does not continue.
    pub fn forget(&mut self) {
        self.is_under_way = false;
    }

    fn begin(&mut self, nfa: &NFA, at: usize) {
        self.now.make_room(nfa.states().len());
        self.next.make_room(nfa.states().len());
        (self.at, self.found, self.is_under_way) = (at, None, true);
    }

    /// Moves all threads over the next byte.
    fn step(&mut self, nfa: &NFA, text: &[u8], end: usize, effort: &mut usize) {
        let byte = text.get(self.at).filter(|_| self.at < end).copied();
        let behind = Place { text, at: self.at + 1 };
        *effort = effort.saturating_sub(self.now.order.len());
        for index in 0..self.now.order.len() {
            let state = self.now.order[index];
            let start = self.now.starts[state.as_usize()];
            let next = match nfa.state(state) {
                State::Match { .. } => {
                    // Threads after this one would lead to matches that are not preferred.
                    self.found = Some(start..self.at);
                    break;
                }
                State::ByteRange { trans } => {
                    byte.filter(|byte| trans.matches_byte(*byte)).map(|_| trans.next)
                }
                State::Sparse(sparse) => byte.and_then(|byte| sparse.matches_byte(byte)),
                State::Dense(dense) => byte.and_then(|byte| dense.matches_byte(byte)),
                State::Look { .. }
                | State::Union { .. }
                | State::BinaryUnion { .. }
                | State::Capture { .. }
                | State::Fail => None,
            };
            if let Some(next) = next {
                self.next.follow(nfa, next, start, behind, &mut self.stack, effort);
            }
        }
        std::mem::swap(&mut self.now, &mut self.next);
        self.next.order.clear();
        self.at += 1;
    }
}

/// Threads in the order of preference, at most one in each state.
#[derive(Debug, Default)]
struct ThreadSet {
    order: Vec<StateID>,
    /// By state: where it is in the order, if it is there.
    indices: Vec<usize>,
    /// By state: where the match of its thread would begin.
    starts: Vec<usize>,
}

/// A place between two bytes.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    text: &'a [u8],
    at: usize,
}

impl ThreadSet {
    fn make_room(&mut self, states: usize) {
        self.order.clear();
        self.indices.resize(states, 0);
        self.starts.resize(states, 0);
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a thread in a state, and those in all states that it leads to without a byte.
    fn follow(
        &mut self,
        nfa: &NFA,
        state: StateID,
        start: usize,
        place: Place<'_>,
        stack: &mut Vec<StateID>,
        effort: &mut usize,
    ) {
        stack.push(state);
        while let Some(state) = stack.pop() {
            if self.order.get(self.indices[state.as_usize()]) == Some(&state) {
                continue;
            }
            self.indices[state.as_usize()] = self.order.len();
            self.starts[state.as_usize()] = start;
            self.order.push(state);
            *effort = effort.saturating_sub(1);
            match nfa.state(state) {
                State::Union { alternates } => stack.extend(alternates.iter().rev()),
                State::BinaryUnion { alt1, alt2 } => stack.extend([*alt2, *alt1]),
                State::Look { look, next } => {
                    if nfa.look_matcher().matches(*look, place.text, place.at) {
                        stack.push(*next);
                    }
                }
                State::Capture { next, .. } => stack.push(*next),
                State::ByteRange { .. }
                | State::Sparse(_)
                | State::Dense(_)
                | State::Fail
                | State::Match { .. } => {}
            }
        }
    }
}
