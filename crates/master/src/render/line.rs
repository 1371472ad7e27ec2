//! The current line of a terminal: cells and a cursor.

use std::sync::Arc;

use gaffer_protocol::output::Stream;

use super::pen::Pen;
use super::{CUT, Line, MARKED, MAX_LINE_CHARS, Origin, Token};

/// Commands move the cursor no farther to the right than this, so that a few bytes can't make a long line.
const MAX_ADDRESSED_COLUMN: usize = 500;
const TAB_WIDTH: usize = 8;

/// The line that is being written.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenLine {
    cells: Vec<Cell>,
    /// The looks that cells refer to; the last one is the one used last.
    looks: Vec<Look>,
    column: usize,
    /// How far the line would reach if all of it were kept.
    reach: usize,
    at_micros: Option<u64>,
    /// What is written now was looked for.
    pub is_marked: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    char: char,
    look: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    pen: Pen,
    stream: Stream,
    link: Option<Arc<str>>,
    is_marked: bool,
}

impl OpenLine {
    /// Something arrives for this line.
    pub fn touch(&mut self, at_micros: u64) {
        self.at_micros.get_or_insert(at_micros);
    }

    /// Whether anything arrived for it.
    pub fn has_begun(&self) -> bool {
        self.at_micros.is_some()
    }

    /// Overwrites the character at the cursor.
    pub fn print(&mut self, char: char, pen: Pen, stream: Stream, link: Option<&Arc<str>>) {
        let column = self.column;
        self.column += 1;
        self.reach = self.reach.max(self.column);
        if column >= MAX_LINE_CHARS {
            return;
        }
        if column > self.cells.len() {
            let blank = self.blank(stream);
            self.cells.resize(column, blank);
        }
        let is_marked = self.is_marked;
        let same = |look: &Look| {
            look.pen == pen
                && look.stream == stream
                && look.link.as_ref() == link
                && look.is_marked == is_marked
        };
        if !self.looks.last().is_some_and(same) {
            self.looks.push(Look { pen, stream, link: link.cloned(), is_marked });
        }
        let cell = Cell { char, look: self.looks.len() as u32 - 1 };
        match self.cells.get_mut(column) {
            Some(present) => *present = cell,
            None => self.cells.push(cell),
        }
    }

    /// Moves to a column.
    pub fn go_to(&mut self, column: usize) {
        self.column = column.min(self.reach.max(MAX_ADDRESSED_COLUMN));
    }

    /// Moves by some columns.
    pub fn go_by(&mut self, columns: i32) {
        self.go_to(self.column.saturating_add_signed(columns as isize));
    }

    /// Moves to the next tab stop. A terminal erases nothing on the way.
    pub fn tab(&mut self) {
        self.column = (self.column / TAB_WIDTH + 1) * TAB_WIDTH;
    }

    /// Erases from the cursor on (0), up to it (1), or everything (2).
    pub fn erase(&mut self, what: u16, stream: Stream) {
        match what {
            0 => {
                self.cells.truncate(self.column);
                self.reach = self.reach.min(self.column);
            }
            1 => {
                let end = self.cells.len().min(self.column + 1);
                let blank = self.blank(stream);
                self.cells[..end].fill(blank);
            }
            2 => {
                self.cells.clear();
                self.reach = 0;
            }
            _ => {}
        }
    }

    /// A cell with nothing in it.
    fn blank(&mut self, stream: Stream) -> Cell {
        self.looks.push(Look { pen: Pen::default(), stream, link: None, is_marked: false });
        Cell { char: ' ', look: self.looks.len() as u32 - 1 }
    }

    /// The current line; resets to an empty one.
    pub fn finish(&mut self, ended_by: Stream) -> Line {
        let has = |stream| self.cells.iter().any(|cell| self.looks[cell.look as usize].stream == stream);
        let origin = match (has(Stream::Stdout), has(Stream::Stderr), ended_by) {
            (true, true, _) => Origin::Both,
            (true, false, _) | (false, false, Stream::Stdout) => Origin::Stdout,
            (false, true, _) | (false, false, Stream::Stderr) => Origin::Stderr,
        };
        let mut tokens: Vec<Token> = Vec::new();
        let mut last: Option<&Look> = None;
        for cell in &self.cells {
            let look = &self.looks[cell.look as usize];
            match tokens.last_mut() {
                Some(token) if last == Some(look) => token.text.push(cell.char),
                _ => {
                    let mut class = look.pen.class();
                    let is_other = origin == Origin::Both && look.stream == Stream::Stderr;
                    for (_, name) in [(is_other, "e"), (look.is_marked, MARKED)].iter().filter(|(is, _)| *is)
                    {
                        class.push_str(if class.is_empty() { "" } else { " " });
                        class.push_str(name);
                    }
                    tokens.push(Token { class, text: cell.char.to_string(), href: look.link.clone() });
                    last = Some(look);
                }
            }
        }
        if self.reach > MAX_LINE_CHARS {
            let text = format!(" … {} more", self.reach - MAX_LINE_CHARS);
            tokens.push(Token { class: CUT.to_owned(), text, href: None });
        }
        let at_millis = self.at_micros.unwrap_or(0) / 1_000;
        self.cells.clear();
        self.looks.clear();
        (self.column, self.reach, self.at_micros) = (0, 0, None);
        Line { origin, at_millis, tokens }
    }
}
