//! Searches text for the lines that match a regular expression, piece by piece as the text arrives.
//!
//! A line ends with `\n`; a `\r` before it belongs to its end as far as the pattern is concerned. Escape sequences of terminals
//! are no part of what is searched. However the text is cut into pieces, the same lines are found.

mod found;
mod lines;
mod pattern;
mod sequences;
mod text;

pub use found::{FoundLine, MAX_TEXT_BYTES};
pub use lines::{LineQuery, LineSearch, MAX_CONTEXT_LINES};
pub use pattern::{InvalidPattern, MAX_PATTERN_BYTES, Pattern};
pub use text::Piece;

#[cfg(test)]
mod tests;
