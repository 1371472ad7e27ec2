//! The matches in a line that was found.

use std::ops::Range;

use super::finder::{Finder, Looked};
use super::haystack::Haystack;
use super::pattern::Pattern;
use super::threads::Ran;
use super::turn::Turn;

/// The most matches that are marked in a line, and how much effort is made for that: an expression may have to look at the
/// rest of the line for each of them.
pub(super) const MAX_MARKED: usize = 100;
const MARK_EFFORT: usize = 1 << 21;

/// The matches of a line.
#[derive(Default)]
pub(super) struct Matches {
    /// Where they are, without those of nothing.
    pub marked: Vec<Range<usize>>,
    /// A place in the first one, where it would be too costly to find out where that begins.
    pub near: Option<usize>,
}

impl Matches {
    /// Those in a part of a text within one line. `place` is in the match that is the first to end.
    pub fn of(
        pattern: &Pattern,
        finder: &mut Finder,
        text: &[u8],
        part: Range<usize>,
        place: usize,
        turn: &mut Turn<'_>,
    ) -> Matches {
        let mut matches = Matches::default();
        let mut effort = MARK_EFFORT;
        // The table knows soon whether there is another match, or it does without.
        let mut is_over = || true;
        let mut look = Turn::new(&mut is_over);
        let (mut at, mut next) = (part.start, Some(place));
        while let Some(place) = next.filter(|_| matches.marked.len() < MAX_MARKED) {
            let from = at.max(pattern.earliest_start(place));
            match finder.threads.find(pattern, text, from..part.end, &mut effort) {
                Ran::Found(found) => {
                    at = found.end + usize::from(found.is_empty());
                    if !found.is_empty() {
                        matches.marked.push(found);
                    }
                }
                Ran::Nothing => break,
                Ran::OutOfEffort => {
                    matches.near = Some(place);
                    break;
                }
            }
            next = match at <= part.end {
                true => match finder.find(pattern, text, at..part.end, &mut look) {
                    Looked::Found(place) => Some(place),
                    Looked::Nothing | Looked::Interrupted => None,
                },
                false => None,
            };
        }
        finder.forget();
        turn.spend(MARK_EFFORT - effort);
        matches
    }

    /// The same as places in the text of which the haystack is a part.
    pub fn in_text(self, haystack: &Haystack) -> Matches {
        Matches {
            marked: self.marked.iter().map(|found| haystack.original(found)).collect(),
            near: self.near.map(|place| haystack.original(&(place..place)).start),
        }
    }
}
