//! The search itself: takes pieces of text, gives the lines that were looked for and those around them.

use std::ops::Range;

use super::finder::{Finder, Looked};
use super::found::{FoundLine, shown_part};
use super::haystack::Haystack;
use super::marks::Matches;
use super::query::LineQuery;
use super::resume::{InsideLine, ResumePoint};
use super::sequences::VisibleText;
use super::text::{JoinedText, Piece};
use super::turn::Turn;

/// A longer line is searched in parts of about this size. A match that is longer than what two parts share may be missed.
const PART_BYTES: usize = 1 << 20;
const SHARED_BYTES: usize = 64 << 10;
/// The most memory for the text that is to be searched, with where its pieces came from: of tiny pieces, parts are shorter.
const TEXT_MEMORY: usize = 4 << 20;
/// The most memory for lines that may be given before a later one.
const CONTEXT_MEMORY: usize = 1 << 20;
/// What a line costs that was found, in effort.
const LINE_EFFORT: usize = 64;
/// The found lines of one step have about this many bytes.
const STEP_BYTES: usize = 1 << 20;

/// A search under way. Use it in turns: [`Self::push`] some text, then [`Self::advance`] until that says that it needs
/// more.
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
    finder: Finder,
    visible: VisibleText,
    /// The line at `searched` began before what is in memory.
    long: Option<LongLine<T>>,
    /// The same, before there is any text.
    resumed: Option<InsideLine>,
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
    /// How it begins; none if the search began inside it.
    head: Option<Vec<u8>>,
    /// How much of it is not in memory any more.
    dropped: u64,
    has_matched: bool,
}

/// What a look for the next line came to.
enum Sought {
    Matching(Matching),
    Nothing,
    Interrupted,
}

/// A line that matches.
struct Matching {
    line: Range<usize>,
    matches: Matches,
    /// Where the line after it begins in the haystack.
    next: usize,
}

impl<T: Copy> LineSearch<T> {
    /// A search that begins at this place, which is where a line begins if it is not inside one.
    pub fn new(query: LineQuery, from: impl Into<ResumePoint>) -> LineSearch<T> {
        let ResumePoint { offset, inside } = from.into();
        LineSearch {
            query,
            text: JoinedText::new(),
            whole: 0,
            searched: 0,
            given: 0,
            finder: Finder::default(),
            visible: VisibleText::default(),
            long: None,
            resumed: inside,
            after_left: 0,
            found: 0,
            found_end: offset,
            end: offset,
            is_at_end: false,
        }
    }

    /// What was pushed or passed so far is the end of a line that is not searched.
    pub fn pass_rest_of_line(&mut self) {
        self.resumed = Some(InsideLine { line_offset: self.end, dropped: 0, has_matched: true });
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: Piece<'_, T>) {
        if let Some(InsideLine { line_offset, dropped, has_matched }) = self.resumed.take() {
            self.long =
                Some(LongLine { offset: line_offset, tag: piece.tag, head: None, dropped, has_matched });
        }
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

    /// Where a later search has to continue: with a line that was not searched.
    pub fn position(&self) -> ResumePoint {
        let offset = match self.is_looking() {
            true => self.text.offset(self.searched).filter(|_| self.searched < self.text.bytes.len()),
            false => Some(self.found_end),
        };
        // With enough found, the present line counts only if it is the last of those.
        let long = self.long.as_ref().filter(|long| self.is_looking() || long.has_matched);
        let long = long.map(|long| InsideLine {
            line_offset: long.offset,
            dropped: long.dropped,
            has_matched: long.has_matched,
        });
        ResumePoint { offset: offset.unwrap_or(self.end), inside: long.or(self.resumed) }
    }

    /// Whether so much text is in memory that it should be searched before there is more.
    pub fn is_full(&self) -> bool {
        self.text.memory_from(self.searched) >= TEXT_MEMORY
    }

    /// How much memory the text takes.
    #[cfg(test)]
    pub(super) fn text_memory(&self) -> usize {
        self.text.memory()
    }

    fn is_looking(&self) -> bool {
        self.query.limit.is_none_or(|limit| self.found < limit)
    }

    /// Searches what was pushed and appends found lines, about `most` of them in all. True if more text is needed; false if
    /// there may be more lines in what is there, or the turn has ended: it goes on there in the next one.
    pub fn advance(&mut self, most: usize, found: &mut Vec<FoundLine<T>>, turn: &mut Turn<'_>) -> bool {
        if self.long.as_ref().is_some_and(|long| long.has_matched) && !self.skip_rest_of_line() {
            return true;
        }
        let end = if self.is_at_end { self.text.bytes.len() } else { self.whole };
        if self.searched < end {
            let haystack = Haystack::of(&self.text.bytes, self.searched..end, &mut self.visible);
            let is_searched = self.search_lines(&haystack, most, found, turn);
            haystack.give_back(&mut self.visible);
            if !is_searched {
                return false;
            }
        }
        let is_long = !self.is_at_end
            && (self.text.bytes.len() - self.whole >= PART_BYTES
                || self.text.memory_from(self.whole) >= TEXT_MEMORY);
        if is_long && !self.search_part_of_line(found, turn) {
            return false;
        }
        self.forget_what_is_not_needed();
        true
    }

    /// Searches lines that have ended. False if there may be more of them in the haystack.
    fn search_lines(
        &mut self,
        haystack: &Haystack,
        most: usize,
        found: &mut Vec<FoundLine<T>>,
        turn: &mut Turn<'_>,
    ) -> bool {
        let end = haystack.part.end;
        // What precedes a part of a long line counts for the pattern, and was searched before.
        let begun = usize::from(self.long.is_some());
        let mut at = begun;
        let mut room = Room { lines: most, bytes: STEP_BYTES, seen: found.len() };
        while room.is_left(found) && !turn.has_ended() {
            let matching = match self.next_matching(haystack, at, turn) {
                Sought::Matching(matching) => Some(matching),
                Sought::Nothing => None,
                Sought::Interrupted => {
                    if at != begun {
                        // The next haystack begins elsewhere.
                        self.finder.forget();
                    }
                    return false;
                }
            };
            let before = matching.as_ref().map_or(end, |matching| matching.line.start);
            while self.query.invert && self.is_looking() && self.searched < before {
                if !room.is_left(found) {
                    return false;
                }
                let line = self.searched..self.line_end(self.searched, before);
                turn.spend(LINE_EFFORT + line.len());
                self.select(line, Matches::default(), found);
            }
            self.pass_lines(before, found);
            let Some(Matching { line, matches, next }) = matching else { return true };
            turn.spend(LINE_EFFORT + line.len());
            match self.query.invert {
                true => self.pass_lines(line.end, found),
                false => self.select(line, matches, found),
            }
            at = next;
        }
        false
    }

    /// The next line that matches, from a place in the haystack on.
    fn next_matching(&mut self, haystack: &Haystack, at: usize, turn: &mut Turn<'_>) -> Sought {
        let bytes = haystack.bytes(&self.text.bytes);
        if !self.is_looking() || at > bytes.len() {
            return Sought::Nothing;
        }
        let place = match self.finder.find(&self.query.pattern, bytes, at..bytes.len(), turn) {
            Looked::Found(place) => place,
            Looked::Nothing => return Sought::Nothing,
            Looked::Interrupted => return Sought::Interrupted,
        };
        // After the last line end no line begins.
        if place == bytes.len() && self.text.bytes[haystack.part.clone()].ends_with(b"\n") {
            return Sought::Nothing;
        }
        let begin = memchr::memrchr(b'\n', &bytes[at..place]).map_or(at, |end| at + end + 1);
        let end = memchr::memchr(b'\n', &bytes[place..]).map(|end| place + end);
        let original = haystack.original(&(place..place)).start;
        let next = end.map_or(bytes.len() + 1, |end| end + 1);
        let matches = self.matches(haystack, begin..end.unwrap_or(bytes.len()), place, turn);
        let line_start = memchr::memrchr(b'\n', &self.text.bytes[haystack.part.start..original])
            .map_or(haystack.part.start, |end| haystack.part.start + end + 1);
        let line = line_start..self.line_end(original, haystack.part.end);
        Sought::Matching(Matching { line, matches, next })
    }

    /// The matches in this part of the haystack, if they are shown. `place` is in the first one.
    fn matches(
        &mut self,
        haystack: &Haystack,
        part: Range<usize>,
        place: usize,
        turn: &mut Turn<'_>,
    ) -> Matches {
        match self.query.counts_only || self.query.invert {
            true => Matches::default(),
            false => {
                let bytes = haystack.bytes(&self.text.bytes);
                let matches = Matches::of(&self.query.pattern, &mut self.finder, bytes, part, place, turn);
                matches.in_text(haystack)
            }
        }
    }

    /// Where the line ends in which this place is, its line end included.
    fn line_end(&self, at: usize, end: usize) -> usize {
        memchr::memchr(b'\n', &self.text.bytes[at..end]).map_or(end, |line_end| at + line_end + 1)
    }

    /// A line was found: gives it, and those before it that were not given.
    fn select(&mut self, line: Range<usize>, matches: Matches, found: &mut Vec<FoundLine<T>>) {
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
            self.give(before..end, Matches::default(), true, found);
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
                self.give(line, Matches::default(), true, found);
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
        matches: Matches,
        is_context: bool,
        found: &mut Vec<FoundLine<T>>,
    ) {
        self.given = line.end;
        let ends = self.text.bytes[line.clone()].ends_with(b"\n");
        let content = line.start..line.end - usize::from(ends);
        let number = self.text.lines_before(content.end) + 1;
        let begin = matches.marked.first().map(|first| first.start).or(matches.near);
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
            Some(LongLine { head: Some(head), dropped, tag, .. }) if begin.is_none() => {
                line.is_cut = dropped + content.len() as u64 > head.len() as u64;
                (line.text, line.skipped_bytes, line.tag) = (head, 0, tag);
            }
            _ => {
                let shown = shown_part(&self.text.bytes, content.clone(), begin);
                line.skipped_bytes += (shown.start - content.start) as u64;
                line.is_cut = shown.end < content.end;
                line.text = self.text.bytes[shown.clone()].to_vec();
                let inside = matches.marked.into_iter().filter(|found| found.end <= shown.end);
                line.matches =
                    inside.map(|found| found.start - shown.start..found.end - shown.start).collect();
            }
        }
        found.push(line);
    }

    /// Searches a line that is too long to wait for its end, and drops what was searched. False if it was interrupted.
    fn search_part_of_line(&mut self, found: &mut Vec<FoundLine<T>>, turn: &mut Turn<'_>) -> bool {
        let part = self.whole..self.text.bytes.len();
        let haystack = Haystack::of(&self.text.bytes, part.clone(), &mut self.visible);
        let matches = self.matches_in_part(&haystack, turn);
        haystack.give_back(&mut self.visible);
        let Ok(matches) = matches else { return false };
        let long = self.long.take().or_else(|| {
            let head = shown_part(&self.text.bytes, part.clone(), None);
            Some(LongLine {
                offset: self.text.offset(part.start)?,
                tag: self.text.tag(part.start)?,
                head: Some(self.text.bytes[head].to_vec()),
                dropped: 0,
                has_matched: false,
            })
        });
        let Some(mut long) = long else { return true };
        if let Some(matches) = matches {
            if !self.query.invert {
                let (offset, dropped) = (long.offset, long.dropped);
                let given = LongLine { offset, tag: long.tag, head: None, dropped, has_matched: true };
                self.long = Some(given);
                let given_before = found.len();
                self.select(part.clone(), matches, found);
                if let Some(line) = found[given_before..].last_mut() {
                    line.is_cut = true;
                }
            }
            long.has_matched = true;
        }
        let kept = if long.has_matched { 0 } else { SHARED_BYTES.min(part.len() / 2) };
        let dropped = part.start..part.end - kept;
        long.dropped += dropped.len() as u64;
        self.text.cut(dropped.start, dropped.end);
        (self.searched, self.given) = (part.start, self.given.min(part.start));
        self.long = Some(long);
        true
    }

    /// The matches in a part of a line that goes on after it; none if there are none. An error if it was interrupted.
    fn matches_in_part(&mut self, haystack: &Haystack, turn: &mut Turn<'_>) -> Result<Option<Matches>, ()> {
        let bytes = haystack.bytes(&self.text.bytes);
        // The last byte is seen and not searched: nothing ends here.
        let end = bytes.len().saturating_sub(1);
        let part = usize::from(self.long.is_some()).min(end)..end;
        if !self.is_looking() {
            return Ok(None);
        }
        match self.finder.find(&self.query.pattern, bytes, part.clone(), turn) {
            Looked::Found(place) => Ok(Some(self.matches(haystack, part, place, turn))),
            Looked::Nothing => Ok(None),
            Looked::Interrupted => Err(()),
        }
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
        if !self.is_looking() {
            // It was the last one that was wanted, and has been given.
            self.found_end = self.text.offset(end - 1).map_or(self.end, |last| last + 1);
        }
        true
    }

    /// Drops lines that were searched, unless they may be given before a later one.
    fn forget_what_is_not_needed(&mut self) {
        let kept = self.lines_back(self.searched, self.query.before);
        let context = self.text.memory_from(kept) - self.text.memory_from(self.searched);
        let kept = if context > CONTEXT_MEMORY { self.searched } else { kept };
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
