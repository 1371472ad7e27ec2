//! A line that a search gives, with as much of its text as is worth showing.

use std::ops::Range;

/// The most bytes that are given of a line: those around its first match.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// How much of a longer line is given before its first match.
const BYTES_BEFORE_MATCH: usize = 1 << 10;

/// A line that a search found, or one around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLine<T> {
    /// Its number, counted from 1.
    pub number: u64,
    /// Offset of its first byte.
    pub offset: u64,
    /// Offset of the byte after it, where a search continues.
    pub end: u64,
    /// Of the piece in which the first match begins; without a match, of the piece in which the line does.
    pub tag: T,
    /// Its bytes without the line end: all of them, or those around the first match.
    pub text: Vec<u8>,
    /// How many bytes of it come before the text.
    pub skipped_bytes: u64,
    /// Whether there are more bytes of it after the text.
    pub is_cut: bool,
    /// Where the matches are in the text.
    pub matches: Vec<Range<usize>>,
    /// It was not looked for: it is near a line that was.
    pub is_context: bool,
}

/// Which part of a line is given: all of it, or as much as is allowed around the first match. Characters stay whole.
pub(super) fn shown_part(text: &[u8], line: Range<usize>, first_match: Option<usize>) -> Range<usize> {
    if line.len() <= MAX_TEXT_BYTES {
        return line;
    }
    let wanted = first_match.map_or(line.start, |at| at.saturating_sub(BYTES_BEFORE_MATCH).max(line.start));
    let start = wanted.min(line.end - MAX_TEXT_BYTES);
    let end = start + MAX_TEXT_BYTES;
    character_start(text, start, line.start)..match end == line.end {
        true => end,
        false => character_start(text, end, start),
    }
}

/// The beginning of the character that this byte belongs to; the byte itself if it belongs to none.
fn character_start(text: &[u8], at: usize, least: usize) -> usize {
    let is_inside = |at: &usize| matches!(text.get(*at), Some(0x80..=0xbf));
    (at.saturating_sub(3).max(least)..=at).rev().find(|at| !is_inside(at)).unwrap_or(at)
}
