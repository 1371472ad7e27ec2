//! A part of a text as it is searched: without escape sequences.

use std::ops::Range;

use super::sequences::{VisibleText, has_sequences};

/// What is searched in one go, without escape sequences.
pub(super) struct Haystack {
    pub part: Range<usize>,
    /// The part is what is visible of it; none if that is all.
    visible: Option<VisibleText>,
}

impl Haystack {
    /// Of a part of a text. `memory` is used for what is visible, if that is less than all.
    pub fn of(text: &[u8], part: Range<usize>, memory: &mut VisibleText) -> Haystack {
        let searched = &text[part.clone()];
        let visible = has_sequences(searched).then(|| {
            let mut visible = std::mem::take(memory);
            visible.read(searched);
            visible
        });
        Haystack { part, visible }
    }

    /// Its memory is used again.
    pub fn give_back(self, memory: &mut VisibleText) {
        if let Some(visible) = self.visible {
            *memory = visible;
        }
    }

    /// What is searched of this text.
    pub fn bytes<'a>(&'a self, text: &'a [u8]) -> &'a [u8] {
        self.visible.as_ref().map_or(&text[self.part.clone()], VisibleText::bytes)
    }

    /// Where a match in the haystack is in the text.
    pub fn original(&self, found: &Range<usize>) -> Range<usize> {
        let (start, end) = match &self.visible {
            None => (found.start, found.end),
            Some(visible) => (visible.start(found.start), visible.end(found.end)),
        };
        self.part.start + start..self.part.start + end.max(start)
    }
}
