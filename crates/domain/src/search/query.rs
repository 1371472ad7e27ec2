//! What a search looks for, and what it gives.

use super::pattern::Pattern;

/// The most lines that are given before or after each line that was found.
pub const MAX_CONTEXT_LINES: u32 = 100;

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
