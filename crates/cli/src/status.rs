//! The status line on standard error.

use std::cell::Cell;

use gaffer_protocol::output::Stream;

use crate::out::Out;
use crate::style::{self, Colour};

/// The line. On anything but a terminal it shows nothing.
pub struct Status<'a> {
    out: &'a Out,
    is_wanted: Cell<bool>,
    is_shown: Cell<bool>,
}

impl<'a> Status<'a> {
    /// A line for this command; `quiet` for none.
    pub fn new(out: &'a Out, quiet: bool) -> Status<'a> {
        let is_wanted = Cell::new(out.is_terminal(Stream::Stderr) && !quiet);
        Status { out, is_wanted, is_shown: Cell::new(false) }
    }

    /// Shows the line, or shows another text in it.
    pub fn show(&self, text: &str) {
        if self.is_wanted.get() {
            let room = usize::from(self.out.columns().unwrap_or(80)).saturating_sub(4);
            let text: String = style::visible(text).chars().take(room).collect();
            let arrow = style::paint("→", Colour::Dim, self.out.has_colours(Stream::Stderr));
            self.out.note_raw(&format!("\r\x1b[K{arrow} {text}"));
            self.is_shown.set(true);
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.is_shown.replace(false) {
            self.out.note_raw("\r\x1b[K");
        }
    }

    /// Takes the line away for good.
    pub fn retire(&self) {
        self.clear();
        self.is_wanted.set(false);
    }

    /// Whether it may still be shown.
    pub fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    /// Writes a lasting line to standard error, terminal or not.
    pub fn note(&self, text: &str) {
        self.clear();
        self.out.note(&format!("gaffer: {text}"));
    }

    /// Writes a lasting line for a person.
    pub fn remark(&self, text: &str) {
        self.clear();
        self.out.remark(&format!("gaffer: {text}"));
    }
}
