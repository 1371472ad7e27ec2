//! Searches text for the lines that match a regular expression, piece by piece as the text arrives.
//!
//! A line ends with `\n`; a `\r` before it belongs to its end as far as the pattern is concerned. Escape sequences of terminals
//! are no part of what is searched. However the text is cut into pieces, the same lines are found.

mod finder;
mod found;
mod haystack;
mod leaps;
mod lines;
mod marks;
mod pattern;
mod query;
mod resume;
mod sequences;
mod text;
mod threads;
mod turn;

pub use found::{FoundLine, MAX_TEXT_BYTES};
pub use lines::LineSearch;
pub use pattern::{InvalidPattern, MAX_PATTERN_BYTES, Pattern};
pub use query::{LineQuery, MAX_CONTEXT_LINES};
pub use resume::{InsideLine, NoResumePoint, ResumePoint};
pub use text::{Piece, line_ends};
pub use turn::Turn;

#[cfg(test)]
mod tests;
