//! Hides values in a stream of bytes, however the stream is cut into pieces.
//!
//! [`Masks`] are the values of one attempt with the forms in which programs print them ([`forms`]); a [`Flow`] is what is known
//! of one of its streams. The result is the same for every way to cut the input: what is shown depends on the bytes
//! before it alone. So a flow holds back what may be the beginning of a form, and nothing else: at most as many bytes as the
//! longest form has. It never shows them earlier because nothing comes for a while, so a reader that begins again with the stream gets the
//! same.
//!
//! This is a best effort. A program that prints a value reversed, in hexadecimal, or letter by letter with something in between
//! is not stopped.

pub mod forms;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use crate::secrets::{MIN_HIDDEN_BYTES, SecretValue};

/// What stands in the place of a value. It does not tell how long the value is.
pub const MARK: &[u8] = b"***";
/// A line that begins with this names a value to hide from then on.
pub const ADD_MASK: &[u8] = b"::add-mask::";
/// A longer value after [`ADD_MASK`] is not understood.
pub const MAX_ADDED_BYTES: usize = 4 << 10;
/// The most values that an attempt can add, …
const MAX_ADDED: usize = 100;
/// … and their bytes together.
const MAX_ALL_ADDED_BYTES: usize = 16 << 10;

/// The values to hide in all streams of an attempt.
pub struct Masks {
    forms: BTreeSet<Vec<u8>>,
    finder: Finder,
    /// Counts the changes of `finder`.
    version: u32,
    added: usize,
    added_bytes: usize,
}

impl Masks {
    /// Hides these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a SecretValue>) -> Masks {
        let forms: BTreeSet<Vec<u8>> =
            values.into_iter().flat_map(|value| forms::of(value.bytes())).collect();
        Masks { finder: Finder::new(&forms), forms, version: 0, added: 0, added_bytes: 0 }
    }

    /// Whether there is nothing to hide yet.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// A text that stands by itself, such as a message, without the values.
    pub fn hide_in(&mut self, text: &str) -> String {
        let mut flow = Flow { line: Line::Other, ..Flow::default() };
        let mut shown = flow.push(self, text.as_bytes());
        shown.extend(flow.finish(self));
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Hides a further value from now on. Values that are too short or too many are left out.
    fn add(&mut self, value: &[u8]) {
        if value.len() < MIN_HIDDEN_BYTES
            || self.added == MAX_ADDED
            || self.added_bytes + value.len() > MAX_ALL_ADDED_BYTES
        {
            return;
        }
        self.added += 1;
        self.added_bytes += value.len();
        let before = self.forms.len();
        self.forms.extend(forms::of(value));
        if self.forms.len() > before {
            self.finder = Finder::new(&self.forms);
            self.version += 1;
        }
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masks({} forms)", self.forms.len())
    }
}

/// Finds all forms at once, byte by byte.
struct Finder {
    /// None if there is nothing to find.
    automaton: Option<Automaton>,
}

struct Automaton {
    nfa: NFA,
    start: StateID,
    /// By state: how many of the last bytes may be the beginning of a form that is not complete.
    open: Vec<u32>,
    /// The bytes that forms begin with.
    first: Box<[bool; 256]>,
    /// The end of a stream is shown if it is no longer than this beginning of a form.
    harmless: usize,
}

impl Finder {
    fn new(forms: &BTreeSet<Vec<u8>>) -> Finder {
        if forms.is_empty() {
            return Finder { automaton: None };
        }
        // The limits on values keep the automaton far below what it can hold.
        let nfa = NFA::builder().match_kind(MatchKind::Standard).prefilter(false).build(forms).ok();
        Finder { automaton: nfa.and_then(|nfa| Automaton::new(nfa, forms)) }
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
        bytes.iter().fold(from, |state, byte| self.nfa.next_state(Anchored::No, state, *byte))
    }

    fn open(&self, state: StateID) -> usize {
        self.open.get(state.as_usize()).map_or(0, |open| *open as usize)
    }

    /// The length of the longest form that ends in this state; 0 for none.
    fn ending(&self, state: StateID) -> usize {
        if !self.nfa.is_match(state) {
            return 0;
        }
        let all = 0..self.nfa.match_len(state);
        all.map(|at| self.nfa.pattern_len(self.nfa.match_pattern(state, at))).max().unwrap_or(0)
    }
}

/// Where a flow is in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So many bytes of [`ADD_MASK`], from the beginning of the line on.
    Marker(usize),
    /// Behind [`ADD_MASK`]: the rest of the line is a value.
    Value,
    Other,
}

/// One stream. All flows of an attempt have the same [`Masks`].
pub struct Flow {
    /// What is not shown yet.
    pending: Vec<u8>,
    /// So many of these bytes are decided on as far as the bytes behind them allow; the rest belongs to a value that is added.
    walked: usize,
    state: Option<StateID>,
    version: u32,
    /// Places in `pending` that are hidden, in order, apart from each other.
    hidden: Vec<Range<usize>>,
    /// The last byte that left was hidden.
    in_mark: bool,
    line: Line,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            pending: Vec::new(),
            walked: 0,
            state: None,
            version: 0,
            hidden: Vec::new(),
            in_mark: false,
            line: Line::Marker(0),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flow({} bytes held back)", self.pending.len())
    }
}

impl Flow {
    /// Takes the next bytes of the stream. Gives what can be shown now, which may be nothing.
    pub fn push(&mut self, masks: &mut Masks, bytes: &[u8]) -> Vec<u8> {
        if self.version != masks.version {
            self.walk_again(masks);
        }
        self.pending.extend_from_slice(bytes);
        let mut shown = Vec::new();
        self.read_lines(masks, false, &mut shown);
        self.show_decided(masks, &mut shown);
        shown
    }

    /// The stream has ended: gives the rest. If it ends within a form, its beginning is hidden, too, unless it says little.
    pub fn finish(&mut self, masks: &mut Masks) -> Vec<u8> {
        if self.version != masks.version {
            self.walk_again(masks);
        }
        let mut shown = Vec::new();
        self.read_lines(masks, true, &mut shown);
        if let (Some(automaton), Some(state)) = (&masks.finder.automaton, self.state) {
            let open = automaton.open(state);
            if open > automaton.harmless {
                self.hide(self.pending.len().saturating_sub(open)..self.pending.len());
            }
        }
        self.show(self.pending.len(), &mut shown);
        shown
    }

    /// How many bytes are held back.
    pub fn held_back(&self) -> usize {
        self.pending.len()
    }

    /// Walks over what is pending, line by line where a value may be added.
    fn read_lines(&mut self, masks: &mut Masks, is_end: bool, shown: &mut Vec<u8>) {
        loop {
            let rest = self.pending.get(self.walked..).unwrap_or_default();
            match self.line {
                Line::Marker(seen) if seen == ADD_MASK.len() => self.line = Line::Value,
                Line::Marker(seen) => match (rest.first(), ADD_MASK.get(seen)) {
                    (None, _) => return,
                    (found, expected) if found == expected => {
                        self.line = Line::Marker(seen + 1);
                        self.walk(masks, self.walked + 1);
                    }
                    _ => self.line = Line::Other,
                },
                Line::Other => match memchr::memchr(b'\n', rest) {
                    Some(at) => {
                        self.walk(masks, self.walked + at + 1);
                        self.line = Line::Marker(0);
                    }
                    None => return self.walk(masks, self.pending.len()),
                },
                Line::Value => match memchr::memchr(b'\n', rest).or(is_end.then_some(rest.len())) {
                    Some(at) if at <= MAX_ADDED_BYTES => {
                        let value = rest.get(..at).unwrap_or_default().to_vec();
                        self.line = Line::Other;
                        // What is decided by now does not change with the masks, however much came together.
                        self.show_decided(masks, shown);
                        for value in added_values(&value) {
                            masks.add(&value);
                        }
                        if self.version != masks.version {
                            self.walk_again(masks);
                        }
                    }
                    None if rest.len() <= MAX_ADDED_BYTES => return,
                    _ => self.line = Line::Other,
                },
            }
        }
    }

    /// Walks up to there, and notes what is to be hidden.
    fn walk(&mut self, masks: &Masks, until: usize) {
        let from = std::mem::replace(&mut self.walked, until);
        let Some(automaton) = &masks.finder.automaton else { return };
        let mut state = self.state.unwrap_or(automaton.start);
        let mut at = from;
        while let Some(rest) = self.pending.get(at..until).filter(|rest| !rest.is_empty()) {
            if state == automaton.start {
                let is_first = |byte: &u8| automaton.first.get(usize::from(*byte)).copied().unwrap_or(false);
                match rest.iter().position(is_first) {
                    Some(skipped) => at += skipped,
                    None => break,
                }
            }
            let Some(byte) = self.pending.get(at) else { break };
            state = automaton.nfa.next_state(Anchored::No, state, *byte);
            at += 1;
            let found = automaton.ending(state);
            if found > 0 {
                self.hide(at.saturating_sub(found)..at);
            }
        }
        self.state = Some(state);
    }

    /// The masks have changed: what is not shown yet is looked at again. What was found before stays hidden.
    fn walk_again(&mut self, masks: &Masks) {
        let until = std::mem::take(&mut self.walked);
        self.state = None;
        self.version = masks.version;
        self.walk(masks, until);
    }

    /// Hides these bytes, together with the places that they touch.
    fn hide(&mut self, mut place: Range<usize>) {
        let from = self.hidden.partition_point(|hidden| hidden.end < place.start);
        let until = self.hidden.partition_point(|hidden| hidden.start <= place.end);
        for hidden in self.hidden.drain(from..until.max(from)) {
            place = place.start.min(hidden.start)..place.end.max(hidden.end);
        }
        self.hidden.insert(from, place);
    }

    /// Gives what no later byte can hide any more.
    fn show_decided(&mut self, masks: &Masks, shown: &mut Vec<u8>) {
        let open = match (&masks.finder.automaton, self.state) {
            (Some(automaton), Some(state)) => automaton.open(state),
            _ => 0,
        };
        self.show(self.walked.saturating_sub(open), shown);
    }

    /// Gives the first bytes of those that are pending, with a mark for each place that is hidden.
    fn show(&mut self, until: usize, shown: &mut Vec<u8>) {
        shown.reserve(until);
        let mut at = 0;
        for hidden in &self.hidden {
            let (start, end) = (hidden.start.min(until), hidden.end.min(until));
            if start > at {
                shown.extend_from_slice(self.pending.get(at..start).unwrap_or_default());
                self.in_mark = false;
                at = start;
            }
            if end > start {
                if !self.in_mark {
                    shown.extend_from_slice(MARK);
                }
                self.in_mark = true;
                at = end;
            }
        }
        if until > at {
            shown.extend_from_slice(self.pending.get(at..until).unwrap_or_default());
            self.in_mark = false;
        }
        self.pending.drain(..until);
        self.walked = self.walked.saturating_sub(until);
        self.hidden.retain_mut(|hidden| {
            *hidden = hidden.start.saturating_sub(until)..hidden.end.saturating_sub(until);
            hidden.start < hidden.end
        });
    }
}

/// The values that the rest of an [`ADD_MASK`] line names: as it is written, and with `%0A`, `%0D` and `%25` read as
/// the characters that a line cannot have.
fn added_values(written: &[u8]) -> Vec<Vec<u8>> {
    let written = written.strip_suffix(b"\r").unwrap_or(written);
    let mut values = vec![written.to_vec()];
    if memchr::memchr(b'%', written).is_some() {
        let mut value = Vec::with_capacity(written.len());
        let mut rest = written;
        while let Some((byte, after)) = rest.split_first() {
            let escaped = [(&b"%0A"[..], b'\n'), (b"%0D", b'\r'), (b"%25", b'%')];
            match escaped.into_iter().find(|(escape, _)| rest.starts_with(escape)) {
                Some((escape, meant)) => {
                    value.push(meant);
                    rest = rest.get(escape.len()..).unwrap_or_default();
                }
                None => {
                    value.push(*byte);
                    rest = after;
                }
            }
        }
        values.push(value);
    }
    values
}
