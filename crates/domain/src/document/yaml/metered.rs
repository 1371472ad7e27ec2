//! Parser input with a limit on how far the YAML parser reads ahead.
//!
//! A bracket may begin the key of a mapping, so the parser keeps all that follows it until the bracket closes. That is
//! a hundred bytes for every two of the text: a megabyte of commas would take more than a hundred.

use std::cell::Cell;
use std::rc::Rc;

use saphyr_parser::{Input, StrInput};

use super::super::MAX_VALUES;

/// What the parser asks once for each token that it takes from the text.
const ASKED_FOR_EACH_TOKEN: char = '\u{feff}';
/// Values and the text between them.
const MAX_TOKENS: usize = 5 * MAX_VALUES / 2;

/// How many tokens the parser has taken since its last event.
#[derive(Debug, Clone, Default)]
pub(super) struct Ahead(Rc<Cell<usize>>);

impl Ahead {
    pub fn begin_anew(&self) {
        self.0.set(0);
    }

    pub fn is_exceeded(&self) -> bool {
        self.0.get() > MAX_TOKENS
    }
}

pub(super) struct Metered<'t> {
    text: StrInput<'t>,
    ahead: Ahead,
}

impl<'t> Metered<'t> {
    pub fn new(text: &'t str, ahead: Ahead) -> Metered<'t> {
        Metered { text: StrInput::new(text), ahead }
    }
}

impl Input for Metered<'_> {
    fn lookahead(&mut self, count: usize) {
        self.text.lookahead(count);
    }

    fn buflen(&self) -> usize {
        self.text.buflen()
    }

    fn bufmaxlen(&self) -> usize {
        self.text.bufmaxlen()
    }

    fn raw_read_ch(&mut self) -> char {
        if self.ahead.is_exceeded() { '\0' } else { self.text.raw_read_ch() }
    }

    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        if self.ahead.is_exceeded() { None } else { self.text.raw_read_non_breakz_ch() }
    }

    fn skip(&mut self) {
        self.text.skip();
    }

    fn skip_n(&mut self, count: usize) {
        self.text.skip_n(count);
    }

    fn peek(&self) -> char {
        if self.ahead.is_exceeded() { '\0' } else { self.text.peek() }
    }

    fn peek_nth(&self, n: usize) -> char {
        if self.ahead.is_exceeded() { '\0' } else { self.text.peek_nth(n) }
    }

    fn peek_opt(&self) -> Option<char> {
        if self.ahead.is_exceeded() { None } else { self.text.peek_opt() }
    }

    fn next_char_is(&self, c: char) -> bool {
        if c == ASKED_FOR_EACH_TOKEN {
            self.ahead.0.set(self.ahead.0.get() + 1);
        }
        self.peek() == c
    }
}
