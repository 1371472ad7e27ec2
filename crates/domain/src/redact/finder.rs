//! Finds all of many forms at once, byte by byte.

use std::collections::BTreeSet;

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

/// Nothing is built of more bytes of forms: it would take too long, and too much memory. The limits on the secrets of a task are
/// far below it.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// What finds forms.
pub(super) enum Finder {
    /// There is nothing to find.
    Nothing,
    Of(Box<Automaton>),
    /// It could not be built, so nobody knows what is to be hidden.
    Failed,
}

pub(super) struct Automaton {
    nfa: NFA,
    pub start: StateID,
    /// By state: how many of the last bytes may be the beginning of a form that is not complete.
    open: Vec<u32>,
    /// The bytes that forms begin with.
    first: Box<[bool; 256]>,
    /// The end of a stream is shown if it is no longer than this beginning of a form.
    harmless: usize,
}

impl Finder {
    pub fn new(forms: &BTreeSet<Vec<u8>>) -> Finder {
        if forms.is_empty() {
            return Finder::Nothing;
        }
        if forms.iter().map(Vec::len).sum::<usize>() > MAX_BYTES {
            return Finder::Failed;
        }
        let nfa = NFA::builder().match_kind(MatchKind::Standard).prefilter(false).build(forms).ok();
        let automaton = nfa.and_then(|nfa| Automaton::new(nfa, forms));
        automaton.map_or(Finder::Failed, |automaton| Finder::Of(Box::new(automaton)))
    }

    pub fn automaton(&self) -> Option<&Automaton> {
        match self {
            Finder::Of(automaton) => Some(automaton),
            Finder::Nothing | Finder::Failed => None,
        }
    }

    /// The end of a stream is shown if it is no longer than this beginning of a form; none where there are no forms.
    pub fn harmless(&self) -> Option<usize> {
        self.automaton().map(|automaton| automaton.harmless)
    }
}

impl Automaton {
    fn new(nfa: NFA, forms: &BTreeSet<Vec<u8>>) -> Option<Automaton> {
        let start = nfa.start_state(Anchored::No).ok()?;
        let mut open: Vec<u32> = Vec::new();
        let mut first = Box::new([false; 256]);
        for form in forms {
            let mut state = start;
            for (at, byte) in form.iter().enumerate() {
                state = nfa.next_state(Anchored::No, state, *byte);
                let place = state.as_usize();
                if open.len() <= place {
                    open.resize(place + 1, 0);
                }
                if let Some(open) = open.get_mut(place) {
                    *open = u32::try_from(at + 1).unwrap_or(u32::MAX);
                }
            }
            if let Some(first) = form.first().and_then(|byte| first.get_mut(usize::from(*byte))) {
                *first = true;
            }
        }
        let harmless = forms.iter().map(|form| form.len() / 4).min().unwrap_or(0);
        let mut automaton = Automaton { nfa, start, open, first, harmless };
        automaton.close_complete(forms);
        Some(automaton)
    }

    /// A form that is the beginning of no other one is complete: only a shorter end of it may be the beginning of another.
    fn close_complete(&mut self, forms: &BTreeSet<Vec<u8>>) {
        let mut complete: Vec<&Vec<u8>> = Vec::new();
        let mut after = forms.iter().peekable();
        while let Some(form) = after.next() {
            // What begins with it stands right behind it in this order.
            if !after.peek().is_some_and(|next| next.starts_with(form)) {
                complete.push(form);
            }
        }
        // The shorter first: the end of a form may be a shorter form.
        complete.sort_by_key(|form| form.len());
        for form in complete {
            let end = self.walk(self.start, form);
            let rest = self.walk(self.start, form.get(1..).unwrap_or_default());
            let left = self.open(rest);
            if let Some(open) = self.open.get_mut(end.as_usize()) {
                *open = u32::try_from(left).unwrap_or(u32::MAX);
            }
        }
    }

    fn walk(&self, from: StateID, bytes: &[u8]) -> StateID {
        bytes.iter().fold(from, |state, byte| self.next(state, *byte))
    }

    pub fn next(&self, state: StateID, byte: u8) -> StateID {
        self.nfa.next_state(Anchored::No, state, byte)
    }

    /// Whether a form begins with this byte.
    pub fn is_first(&self, byte: u8) -> bool {
        self.first.get(usize::from(byte)).copied().unwrap_or(false)
    }

    /// How many of the last bytes may be the beginning of a form that is not complete.
    pub fn open(&self, state: StateID) -> usize {
        self.open.get(state.as_usize()).map_or(0, |open| *open as usize)
    }

    /// The length of the longest form that ends in this state; 0 for none.
    pub fn ending(&self, state: StateID) -> usize {
        if !self.nfa.is_match(state) {
            return 0;
        }
        let all = 0..self.nfa.match_len(state);
        all.map(|at| self.nfa.pattern_len(self.nfa.match_pattern(state, at))).max().unwrap_or(0)
    }
}
