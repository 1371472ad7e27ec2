//! Hides values in a stream of bytes, however the stream is cut into pieces.
//!
//! [`Masks`] are the values of one attempt with the forms in which programs print them ([`forms`]); a [`Flow`] is what is known
//! of one of its streams. The result is the same for every way to cut the input: what is shown depends on the bytes
//! before it alone. So a flow holds back what may be the beginning of a form, and nothing else: at most as many bytes as the
//! longest form has, with the line ends in it. It never shows them earlier because nothing comes for a while, so a reader that begins
//! again with the stream gets the same.
//!
//! The work is limited, because a worker does it for all of its attempts in one process: values that are a lot together are
//! hidden as they are and in no other form, and a value that is added costs no more than those that were added before it.
//!
//! This is a best effort. A program that prints a value reversed, in hexadecimal, or letter by letter with something in between
//! is not stopped.

mod finder;
pub mod forms;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::secrets::{MIN_HIDDEN_BYTES, SecretValue};
use finder::Finder;
use walk::{RUN, Walk, run_at_end};

/// What stands in the place of a value. It does not tell how long the value is.
pub const MARK: &[u8] = b"***";
/// A line that begins with this names a value to hide from then on.
pub const ADD_MASK: &[u8] = b"::add-mask::";
/// A longer value after [`ADD_MASK`] is not understood.
pub const MAX_ADDED_BYTES: usize = 4 << 10;
/// Bytes of all forms of the values that are given. Values beyond it, the longest, are hidden as they are.
pub const MAX_FORM_BYTES: usize = 256 << 10;
/// The same of the values that a stream adds.
pub const MAX_ADDED_FORM_BYTES: usize = 64 << 10;
/// The most values that an attempt can add, …
const MAX_ADDED: usize = 100;
/// … and their bytes together.
const MAX_ALL_ADDED_BYTES: usize = 16 << 10;

/// Values to hide with what finds them. Attempts with the same values can share it: it is most of what they need.
pub struct Hidden {
    values: Vec<SecretValue>,
    finder: Finder,
}

impl Hidden {
    /// Takes a while for many values, and never longer than for 4 MiB of them.
    pub fn of(values: Vec<SecretValue>) -> Hidden {
        let forms = forms::within(MAX_FORM_BYTES, values.iter().map(SecretValue::bytes));
        Hidden { finder: Finder::new(&forms), values }
    }

    /// Whether it was made of these.
    pub fn is_of(&self, values: &[SecretValue]) -> bool {
        self.values == values
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hidden({} values)", self.values.len())
    }
}

/// The values to hide in all streams of an attempt.
pub struct Masks {
    hidden: Arc<Hidden>,
    added: Vec<Added>,
    /// Counts the changes of `added`.
    version: u32,
    added_values: usize,
    added_bytes: usize,
    added_form_bytes: usize,
    /// It is not known what to hide.
    is_unknown: bool,
}

/// Some of the values that were added. A part is put together with those before it that are no larger, so each value becomes a part
/// of a larger one a few times only, however many follow.
struct Added {
    values: usize,
    forms: BTreeSet<Vec<u8>>,
    finder: Finder,
}

impl Masks {
    /// Hides these values.
    pub fn new(hidden: Arc<Hidden>) -> Masks {
        Masks {
            hidden,
            added: Vec::new(),
            version: 0,
            added_values: 0,
            added_bytes: 0,
            added_form_bytes: 0,
            is_unknown: false,
        }
    }

    /// Hides everything: what is to be hidden is not known.
    pub fn unknown() -> Masks {
        Masks { is_unknown: true, ..Masks::new(Arc::new(Hidden::of(Vec::new()))) }
    }

    /// Whether nothing at all is shown, because it is not known, or cannot be found, what to hide.
    pub fn hide_all(&self) -> bool {
        self.is_unknown || self.finders().any(|finder| matches!(finder, Finder::Failed))
    }

    /// Whether both have the same finder in memory.
    pub fn shares_with(&self, other: &Masks) -> bool {
        Arc::ptr_eq(&self.hidden, &other.hidden)
    }

    /// A text that stands by itself, such as a message, without the values.
    pub fn hide_in(&mut self, text: &str) -> String {
        if self.hide_all() {
            return String::from_utf8_lossy(MARK).into_owned();
        }
        let mut flow = Flow { line: Line::Other, ..Flow::default() };
        let mut shown = flow.push(self, text.as_bytes());
        shown.extend(flow.finish(self));
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// What finds them: that of the given values, then of those that were added.
    fn finders(&self) -> impl Iterator<Item = &Finder> {
        [&self.hidden.finder].into_iter().chain(self.added.iter().map(|added| &added.finder))
    }

    /// Hides a further value from now on. Values that are too short or too many are left out.
    fn add(&mut self, value: &[u8]) {
        if value.len() < MIN_HIDDEN_BYTES
            || self.added_values == MAX_ADDED
            || self.added_bytes + value.len() > MAX_ALL_ADDED_BYTES
            || self.added.iter().any(|added| added.forms.contains(value))
        {
            return;
        }
        self.added_values += 1;
        self.added_bytes += value.len();
        let room = MAX_ADDED_FORM_BYTES.saturating_sub(self.added_form_bytes);
        let mut forms = forms::within(room, [value]);
        if forms.is_empty() {
            return;
        }
        self.added_form_bytes += forms.iter().map(Vec::len).sum::<usize>();
        let mut values = 1;
        while let Some(before) = self.added.pop_if(|before| before.values <= values) {
            values += before.values;
            forms.extend(before.forms);
        }
        self.added.push(Added { values, finder: Finder::new(&forms), forms });
        self.version += 1;
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masks({:?} and {} added values)", self.hidden, self.added_values)
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
    /// One for each finder of the masks.
    walks: Vec<Walk>,
    version: u32,
    /// Places in `pending` that are hidden, in order, apart from each other.
    hidden: Vec<Range<usize>>,
    /// The last byte that left was hidden.
    in_mark: bool,
    /// How many characters of base64, as far as it matters, are directly before what is not shown yet.
    run_before: usize,
    line: Line,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            pending: Vec::new(),
            walked: 0,
            walks: Vec::new(),
            version: 0,
            hidden: Vec::new(),
            in_mark: false,
            run_before: 0,
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
        if masks.hide_all() {
            self.pending.clear();
            return Vec::new();
        }
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
        if masks.hide_all() {
            self.pending.clear();
            return Vec::new();
        }
        if self.version != masks.version {
            self.walk_again(masks);
        }
        let mut shown = Vec::new();
        self.read_lines(masks, true, &mut shown);
        if masks.hide_all() {
            self.pending.clear();
            return shown;
        }
        let harmless = masks.finders().filter_map(Finder::harmless).min().unwrap_or(0);
        let walks = masks.finders().zip(&self.walks);
        let open: Vec<_> =
            walks.flat_map(|(finder, walk)| walk.open_places(finder, &self.pending, harmless)).collect();
        for place in open {
            self.hide(place);
        }
        self.show(self.pending.len(), &mut shown);
        shown
    }

    /// Whether these bytes may add a value, so that taking them takes longer than to look at them.
    pub fn may_add(&self, bytes: &[u8]) -> bool {
        matches!(self.line, Line::Value)
            || matches!(self.line, Line::Marker(seen) if seen > 0)
            || memchr::memmem::find(bytes, ADD_MASK).is_some()
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
        let text = self.pending.get(..until).unwrap_or_default();
        let mut places = Vec::new();
        for (number, finder) in masks.finders().enumerate() {
            if self.walks.len() <= number {
                self.walks.push(Walk::default());
            }
            if let Some(walk) = self.walks.get_mut(number) {
                walk.over(finder, text, from, self.run_before, &mut places);
            }
        }
        for place in places {
            self.hide(place);
        }
    }

    /// The masks have changed: what is not shown yet is looked at again. What was found before stays hidden.
    fn walk_again(&mut self, masks: &Masks) {
        let until = std::mem::take(&mut self.walked);
        self.walks.clear();
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
        if masks.hide_all() {
            return;
        }
        let text = self.pending.get(..self.walked).unwrap_or_default();
        let walks = masks.finders().zip(&self.walks);
        let open = walks.map(|(finder, walk)| walk.open(finder, text)).max().unwrap_or(0);
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
        self.run_before = run_at_end(self.pending.get(..until).unwrap_or_default(), self.run_before, RUN);
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
