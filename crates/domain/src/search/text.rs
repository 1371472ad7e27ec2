//! Text in memory that was put together from pieces: for each byte where it came from, and the number of its line.

/// A piece of text. Pieces come in the order of their offsets; what is not to be searched may lie between them.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a, T> {
    /// Offset of its first byte.
    pub offset: u64,
    /// Line ends before it, those between the pieces included.
    pub lines_before: u64,
    /// What the lines in it are given with.
    pub tag: T,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Pieces joined to one text.
#[derive(Debug)]
pub(super) struct JoinedText<T> {
    pub bytes: Vec<u8>,
    /// Where each piece begins, in order; the first at 0.
    marks: Vec<Mark<T>>,
    /// How far line ends were counted.
    counted: Counted,
}

#[derive(Debug, Clone, Copy)]
struct Mark<T> {
    at: usize,
    offset: u64,
    /// Line ends before it.
    lines: u64,
    tag: T,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    mark: usize,
    at: usize,
    lines: u64,
}

impl<T: Copy> JoinedText<T> {
    pub fn new() -> JoinedText<T> {
        JoinedText { bytes: Vec::new(), marks: Vec::new(), counted: Counted::default() }
    }

    pub fn push(&mut self, piece: Piece<'_, T>) {
        let Piece { offset, lines_before, tag, bytes } = piece;
        if bytes.is_empty() {
            return;
        }
        if self.bytes.is_empty() {
            self.counted = Counted { lines: lines_before, ..Counted::default() };
        }
        self.marks.push(Mark { at: self.bytes.len(), offset, lines: lines_before, tag });
        self.bytes.extend_from_slice(bytes);
    }

    /// How much memory the text takes from a place on: its bytes, and where each piece came from. Pieces may be tiny.
    pub fn memory_from(&self, at: usize) -> usize {
        let marks = self.marks.len() - self.marks.partition_point(|mark| mark.at < at);
        self.bytes.len() - at + marks * size_of::<Mark<T>>()
    }

    /// How much memory it takes in all.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.marks.len() * size_of::<Mark<T>>()
    }

    /// The offset of a byte.
    pub fn offset(&self, at: usize) -> Option<u64> {
        self.mark(at).map(|mark| mark.offset + (at - mark.at) as u64)
    }

    /// What was said of the piece that a byte came with.
    pub fn tag(&self, at: usize) -> Option<T> {
        self.mark(at).map(|mark| mark.tag)
    }

    /// How many line ends there were before a byte. Each question is about the same place as the one before, or a later
    /// one, so that no line end is counted twice.
    pub fn lines_before(&mut self, at: usize) -> u64 {
        let mut counted = self.counted;
        while let Some(next) = self.marks.get(counted.mark + 1).filter(|next| next.at <= at) {
            counted = Counted { mark: counted.mark + 1, at: next.at, lines: next.lines };
        }
        counted.lines += line_ends(&self.bytes[counted.at..at]);
        counted.at = at;
        self.counted = counted;
        counted.lines
    }

    /// Takes out a part.
    pub fn cut(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        // What comes after the part keeps its origin, also if it came with a piece that begins in the part.
        let behind = self.mark(to).filter(|_| to < self.bytes.len()).map(|mark| Mark {
            at: to,
            offset: mark.offset + (to - mark.at) as u64,
            lines: mark.lines + line_ends(&self.bytes[mark.at..to]),
            tag: mark.tag,
        });
        let first = self.marks.partition_point(|mark| mark.at < from);
        let last = self.marks.partition_point(|mark| mark.at <= to);
        self.marks.splice(first..last.max(first), behind);
        self.bytes.drain(from..to);
        for mark in &mut self.marks[first..] {
            mark.at -= to - from;
        }
        let lines = self.marks.first().map_or(0, |mark| mark.lines);
        self.counted = Counted { lines, ..Counted::default() };
    }

    fn mark(&self, at: usize) -> Option<&Mark<T>> {
        self.marks[..self.marks.partition_point(|mark| mark.at <= at)].last()
    }
}

/// How many lines end in these bytes.
pub fn line_ends(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
