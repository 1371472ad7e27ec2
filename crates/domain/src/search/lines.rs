//! The search itself: takes pieces of text, gives the lines that were looked for and those around them.

use std::mem;
use std::ops::Range;

use super::found::{FoundLine, shown_part};
use super::pattern::Pattern;
use super::sequences::{VisibleText, has_sequences};
use super::text::{JoinedText, Piece};

/// The most lines that are given before or after each line that was found.
pub const MAX_CONTEXT_LINES: u32 = 100;
/// A longer line is searched in parts of about this size. A match that is longer than what two parts share may be missed.
const PART_BYTES: usize = 1 << 20;
const SHARED_BYTES: usize = 64 << 10;
/// What is kept of lines that may be given before a later one.
const KEPT_CONTEXT_BYTES: usize = 1 << 20;
/// The most matches that are marked in a line, and how often is looked for them.
const MAX_MARKED: usize = 100;
const MAX_LOOKS: usize = 1_000;
/// The found lines of one step have about this many bytes.
const STEP_BYTES: usize = 1 << 20;

/// What to look for, and what to give.
#[derive(Debug, Clone)]
pub struct LineQuery {
    /// What a line must match.
    pub pattern: Pattern,
    /// Look for the lines that do not match.
    pub invert: bool,
    /// Lines to give before each that was found, at most [`MAX_CONTEXT_LINES`].
    pub before: u32,
    /// Lines to give after each that was found, at most [`MAX_CONTEXT_LINES`].
    pub after: u32,
    /// How many lines to find; none for all.
    pub limit: Option<u64>,
    /// Only count them.
    pub counts_only: bool,
}

impl LineQuery {
    /// All lines that match, and no others.
    pub fn new(pattern: Pattern) -> LineQuery {
        LineQuery { pattern, invert: false, before: 0, after: 0, limit: None, counts_only: false }
    }
}

/// A search under way. Use it in turns: [`Self::push`] some text, then [`Self::advance`] until that says to go on.
#[derive(Debug)]
pub struct LineSearch<T> {
    query: LineQuery,
    /// Lines that may be given before the next one, lines to search, and the beginning of one that has not ended.
    text: JoinedText<T>,
    /// Where the line begins that has not ended.
    whole: usize,
    /// Where the first line begins that was not searched.
    searched: usize,
    /// Lines before this place were given, or cannot be given any more.
    given: usize,
    visible: VisibleText,
    /// The line at `searched` began before what is in memory.
    long: Option<LongLine<T>>,
    /// Lines to give after the last that was found.
    after_left: u32,
    found: u64,
    /// Where the last line ends that was found.
    found_end: u64,
    /// Where the text ends that was pushed or passed over.
    end: u64,
    is_at_end: bool,
}

/// A line of which only the last part is in memory.
#[derive(Debug)]
struct LongLine<T> {
    offset: u64,
    tag: T,
    /// How it begins.
    head: Vec<u8>,
    /// How much of it is not in memory any more.
    dropped: u64,
    has_matched: bool,
}

/// What is searched in one go, without escape sequences.
struct Haystack {
    part: Range<usize>,
    /// The part is what is visible of it; none if that is all.
    visible: Option<VisibleText>,
}

/// A line that matches.
struct Matching {
    line: Range<usize>,
    /// Its matches.
    matches: Vec<Range<usize>>,
    /// Where the line after it begins in the haystack.
    next: usize,
}

impl<T: Copy> LineSearch<T> {
    /// A search that begins at this offset.
    pub fn new(query: LineQuery, offset: u64) -> LineSearch<T> {
        LineSearch {
            query,
            text: JoinedText::new(),
            whole: 0,
            searched: 0,
            given: 0,
            visible: VisibleText::default(),
            long: None,
            after_left: 0,
            found: 0,
            found_end: offset,
            end: offset,
            is_at_end: false,
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: Piece<'_, T>) {
        self.pass(piece.offset + piece.bytes.len() as u64);
        if let Some(last) = memchr::memrchr(b'\n', piece.bytes) {
            self.whole = self.text.bytes.len() + last + 1;
        }
        self.text.push(piece);
    }

    /// Passes over what is not to be searched, up to this offset.
    pub fn pass(&mut self, end: u64) {
        self.end = end;
    }

    /// The text ends here: what has begun is a line.
    pub fn finish(&mut self) {
        self.is_at_end = true;
    }

    /// How many lines were found.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Whether all lines that were wanted were found and given.
    pub fn is_done(&self) -> bool {
        !self.is_looking() && self.after_left == 0
    }

    /// The offset from which a later search has to continue: that of a line that was not searched.
    pub fn position(&self) -> u64 {
        match self.is_looking() {
            true => self.text.offset(self.searched).filter(|_| self.searched < self.text.bytes.len()),
            false => Some(self.found_end),
        }
        .unwrap_or(self.end)
    }

    /// How much text is in memory.
    #[cfg(test)]
    pub(super) fn text_bytes(&self) -> usize {
        self.text.bytes.len()
    }

    fn is_looking(&self) -> bool {
        self.query.limit.is_none_or(|limit| self.found < limit)
    }

    /// Searches what was pushed and appends found lines, about `most` of them in all. True if more text is needed; false if
    /// there may be more lines in what is there.
    pub fn advance(&mut self, most: usize, found: &mut Vec<FoundLine<T>>) -> bool {
        if self.long.as_ref().is_some_and(|long| long.has_matched) && !self.skip_rest_of_line() {
            return true;
        }
        let end = if self.is_at_end { self.text.bytes.len() } else { self.whole };
        let haystack = self.haystack(self.searched..end);
        // What precedes a part of a long line counts for the pattern, and was searched before.
        let mut at = usize::from(self.long.is_some());
        let mut room = Room { lines: most, bytes: STEP_BYTES, seen: found.len() };
        while room.is_left(found) {
            let matching = self.is_looking().then(|| self.next_matching(&haystack, at)).flatten();
            let before = matching.as_ref().map_or(end, |matching| matching.line.start);
            while self.query.invert && self.is_looking() && self.searched < before {
                if !room.is_left(found) {
                    self.give_back(haystack);
                    return false;
                }
                let line = self.searched..self.line_end(self.searched, before);
                self.select(line, Vec::new(), found);
            }
            self.pass_lines(before, found);
            let Some(Matching { line, matches, next }) = matching else {
                self.give_back(haystack);
                self.finish_step(found);
                return true;
            };
            match self.query.invert {
                true => self.pass_lines(line.end, found),
                false => self.select(line, matches, found),
            }
            at = next;
        }
        self.give_back(haystack);
        false
    }

    /// All whole lines were searched.
    fn finish_step(&mut self, found: &mut Vec<FoundLine<T>>) {
        if !self.is_at_end && self.text.bytes.len() - self.whole >= PART_BYTES {
            self.search_part_of_line(found);
        }
        self.forget_what_is_not_needed();
    }

    fn haystack(&mut self, part: Range<usize>) -> Haystack {
        let text = &self.text.bytes[part.clone()];
        let visible = has_sequences(text).then(|| {
            let mut visible = mem::take(&mut self.visible);
            visible.read(text);
            visible
        });
        Haystack { part, visible }
    }

    /// Its memory is used again.
    fn give_back(&mut self, haystack: Haystack) {
        self.visible = haystack.visible.unwrap_or_default();
    }

    /// The next line that matches, from a place in the haystack on.
    fn next_matching(&self, haystack: &Haystack, at: usize) -> Option<Matching> {
        let part = &self.text.bytes[haystack.part.clone()];
        let bytes = haystack.visible.as_ref().map_or(part, VisibleText::bytes);
        if at > bytes.len() {
            return None;
        }
        let first = self.query.pattern.find(bytes, at..bytes.len())?;
        // After the last line end no line begins.
        if first.start == bytes.len() && part.last().is_none_or(|last| *last == b'\n') {
            return None;
        }
        let line_end = memchr::memchr(b'\n', &bytes[first.start..]).map(|end| first.start + end);
        let matches = self.all_matches(bytes, first.start..line_end.unwrap_or(bytes.len()), haystack);
        let begin = haystack.original(&first).start;
        let line_start = memchr::memrchr(b'\n', &self.text.bytes[haystack.part.start..begin])
            .map_or(haystack.part.start, |end| haystack.part.start + end + 1);
        Some(Matching {
            line: line_start..self.line_end(begin, haystack.part.end),
            matches,
            next: line_end.map_or(bytes.len() + 1, |end| end + 1),
        })
    }

    /// The matches in this part of the haystack, as places in the text; those of nothing left out.
    fn all_matches(&self, bytes: &[u8], part: Range<usize>, haystack: &Haystack) -> Vec<Range<usize>> {
        let mut all = Vec::new();
        if self.query.counts_only || self.query.invert {
            return all;
        }
        let mut at = part.start;
        for _ in 0..MAX_LOOKS {
            let Some(found) = self.query.pattern.find(bytes, at..part.end) else { break };
            at = found.end + usize::from(found.is_empty());
            if !found.is_empty() {
                all.push(haystack.original(&found));
            }
            if all.len() == MAX_MARKED || at > part.end {
                break;
            }
        }
        all
    }

    /// Where the line ends in which this place is, its line end included.
    fn line_end(&self, at: usize, end: usize) -> usize {
        memchr::memchr(b'\n', &self.text.bytes[at..end]).map_or(end, |line_end| at + line_end + 1)
    }

    /// A line was found: gives it, and those before it that were not given.
    fn select(&mut self, line: Range<usize>, matches: Vec<Range<usize>>, found: &mut Vec<FoundLine<T>>) {
        self.found += 1;
        self.searched = line.end;
        if self.query.counts_only {
            self.given = line.end;
            self.long = None;
            self.found_end = self.text.offset(line.end - 1).map_or(self.end, |last| last + 1);
            return;
        }
        let mut before = self.lines_back(line.start, self.query.before);
        while before < line.start {
            let end = self.line_end(before, line.start);
            self.give(before..end, Vec::new(), true, found);
            before = end;
        }
        self.give(line, matches, false, found);
        self.found_end = found.last().map_or(self.end, |line| line.end);
        self.after_left = self.query.after;
    }

    /// Lines up to this place were not looked for: gives those that come after one that was.
    fn pass_lines(&mut self, end: usize, found: &mut Vec<FoundLine<T>>) {
        while self.searched < end && (self.after_left > 0 || self.long.is_some()) {
            let line = self.searched..self.line_end(self.searched, end);
            self.searched = line.end;
            // Most of a long line is gone.
            if self.long.take().is_some() {
                self.given = line.end;
            } else {
                self.give(line, Vec::new(), true, found);
            }
            self.after_left = self.after_left.saturating_sub(1);
        }
        self.searched = end;
    }

    /// Where the line begins that is so many lines before this place, as far as lines can be given.
    fn lines_back(&self, place: usize, lines: u32) -> usize {
        let mut start = place;
        for _ in 0..lines {
            if start <= self.given {
                break;
            }
            let before = &self.text.bytes[self.given..start - 1];
            start = self.given + memchr::memrchr(b'\n', before).map_or(0, |end| end + 1);
        }
        start
    }

    fn give(
        &mut self,
        line: Range<usize>,
        matches: Vec<Range<usize>>,
        is_context: bool,
        found: &mut Vec<FoundLine<T>>,
    ) {
        self.given = line.end;
        let ends = self.text.bytes[line.clone()].ends_with(b"\n");
        let content = line.start..line.end - usize::from(ends);
        let number = self.text.lines_before(content.end) + 1;
        let begin = matches.first().map(|first| first.start);
        let (Some(start), Some(tag), Some(last)) = (
            self.text.offset(line.start),
            self.text.tag(begin.unwrap_or(line.start)),
            self.text.offset(line.end.saturating_sub(1)),
        ) else {
            return;
        };
        let long = if is_context { None } else { self.long.take() };
        let mut line = FoundLine {
            number,
            offset: long.as_ref().map_or(start, |long| long.offset),
            end: last + 1,
            tag,
            text: Vec::new(),
            skipped_bytes: long.as_ref().map_or(0, |long| long.dropped),
            is_cut: false,
            matches: Vec::new(),
            is_context,
        };
        match long {
            // It was looked for because nothing in it matches: it is shown from its beginning.
            Some(long) if begin.is_none() => {
                line.is_cut = long.dropped + content.len() as u64 > long.head.len() as u64;
                (line.text, line.skipped_bytes, line.tag) = (long.head, 0, long.tag);
            }
            _ => {
                let shown = shown_part(&self.text.bytes, content.clone(), begin);
                line.skipped_bytes += (shown.start - content.start) as u64;
                line.is_cut = shown.end < content.end;
                line.text = self.text.bytes[shown.clone()].to_vec();
                let inside = matches.into_iter().filter(|found| found.end <= shown.end);
                line.matches =
                    inside.map(|found| found.start - shown.start..found.end - shown.start).collect();
            }
        }
        found.push(line);
    }

    /// Searches a line that is too long to wait for its end, and drops what was searched.
    fn search_part_of_line(&mut self, found: &mut Vec<FoundLine<T>>) {
        let part = self.whole..self.text.bytes.len();
        let haystack = self.haystack(part.clone());
        let at = usize::from(self.long.is_some());
        // The last byte is seen and not searched: nothing ends here.
        let matching = self.is_looking().then(|| self.next_matching_before_end(&haystack, at)).flatten();
        self.give_back(haystack);
        let long = self.long.take().or_else(|| {
            let head = shown_part(&self.text.bytes, part.clone(), None);
            Some(LongLine {
                offset: self.text.offset(part.start)?,
                tag: self.text.tag(part.start)?,
                head: self.text.bytes[head].to_vec(),
                dropped: 0,
                has_matched: false,
            })
        });
        let Some(mut long) = long else { return };
        if let Some(matches) = matching {
            if !self.query.invert {
                let (offset, dropped) = (long.offset, long.dropped);
                let given = LongLine { offset, tag: long.tag, head: Vec::new(), dropped, has_matched: true };
                self.long = Some(given);
                let given_before = found.len();
                self.select(part.clone(), matches, found);
                if let Some(line) = found[given_before..].last_mut() {
                    line.is_cut = true;
                }
            }
            long.has_matched = true;
        }
        let kept = if long.has_matched { 0 } else { SHARED_BYTES };
        let dropped = part.start..part.end - kept;
        long.dropped += dropped.len() as u64;
        self.text.cut(dropped.start, dropped.end);
        (self.searched, self.given) = (part.start, self.given.min(part.start));
        self.long = Some(long);
    }

    /// The matches in a part of a line that goes on after it; none if there are none.
    fn next_matching_before_end(&self, haystack: &Haystack, at: usize) -> Option<Vec<Range<usize>>> {
        let part = &self.text.bytes[haystack.part.clone()];
        let bytes = haystack.visible.as_ref().map_or(part, VisibleText::bytes);
        let end = bytes.len().saturating_sub(1);
        let first = self.query.pattern.find(bytes, at.min(end)..end)?;
        Some(self.all_matches(bytes, first.start..end, haystack))
    }

    /// Drops the rest of a line of which nothing more is needed. False if it has not ended.
    fn skip_rest_of_line(&mut self) -> bool {
        let bytes = &self.text.bytes;
        let rest = &bytes[self.searched..];
        let end = match memchr::memchr(b'\n', rest) {
            Some(end) => self.searched + end + 1,
            None if self.is_at_end => bytes.len(),
            None => {
                let all = bytes.len();
                self.text.cut(self.searched, all);
                return false;
            }
        };
        (self.searched, self.given, self.long) = (end, end, None);
        true
    }

    /// Drops lines that were searched, unless they may be given before a later one.
    fn forget_what_is_not_needed(&mut self) {
        let kept = self.lines_back(self.searched, self.query.before);
        let kept = if self.searched - kept > KEPT_CONTEXT_BYTES { self.searched } else { kept };
        self.text.cut(0, kept);
        self.whole = self.whole.saturating_sub(kept);
        self.searched -= kept;
        self.given = self.given.saturating_sub(kept);
    }
}

/// How many lines a step may still give.
struct Room {
    lines: usize,
    bytes: usize,
    seen: usize,
}

impl Room {
    fn is_left<T>(&mut self, found: &[FoundLine<T>]) -> bool {
        let new = found[self.seen..].iter().map(|line| line.text.len()).sum();
        self.bytes = self.bytes.saturating_sub(new);
        self.seen = found.len();
        self.seen < self.lines && self.bytes > 0
    }
}

impl Haystack {
    /// Where a match in the haystack is in the text.
    fn original(&self, found: &Range<usize>) -> Range<usize> {
        let (start, end) = match &self.visible {
            None => (found.start, found.end),
            Some(visible) => (visible.start(found.start), visible.end(found.end)),
        };
        self.part.start + start..self.part.start + end.max(start)
    }
}
