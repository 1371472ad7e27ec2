//! Text as a reader sees it: without escape sequences of terminals, and with the place of each byte in the original.

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Whether a text has escape sequences.
pub(super) fn has_sequences(text: &[u8]) -> bool {
    memchr::memchr(ESC, text).is_some()
}

/// A text without its escape sequences.
#[derive(Debug, Default)]
pub(super) struct VisibleText {
    bytes: Vec<u8>,
    cuts: Vec<Cut>,
}

/// Where something was left out.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// The place in the visible text.
    at: usize,
    /// How many bytes were left out here and before.
    removed: usize,
}

impl VisibleText {
    /// Reads a text in place of the one before.
    pub fn read(&mut self, text: &[u8]) {
        self.bytes.clear();
        self.cuts.clear();
        let (mut at, mut removed) = (0, 0);
        while let Some(next) = memchr::memchr(ESC, &text[at..]) {
            self.bytes.extend_from_slice(&text[at..at + next]);
            let length = sequence_len(&text[at + next..]);
            at += next + length;
            removed += length;
            let here = self.bytes.len();
            match self.cuts.last_mut() {
                Some(last) if last.at == here => last.removed = removed,
                _ => self.cuts.push(Cut { at: here, removed }),
            }
        }
        self.bytes.extend_from_slice(&text[at..]);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where something that begins here begins in the original: after the sequences before it.
    pub fn start(&self, at: usize) -> usize {
        self.original(at, self.cuts.partition_point(|cut| cut.at <= at))
    }

    /// Where something that ends here ends in the original: before the sequences after it.
    pub fn end(&self, at: usize) -> usize {
        self.original(at, self.cuts.partition_point(|cut| cut.at < at))
    }

    fn original(&self, at: usize, cuts_before: usize) -> usize {
        at + cuts_before.checked_sub(1).map_or(0, |last| self.cuts[last].removed)
    }
}

/// How long the escape sequence is with which a text begins. It ends with its line: what an unfinished title would swallow
/// is text again.
fn sequence_len(text: &[u8]) -> usize {
    let run = |from: usize, is_part: fn(&u8) -> bool| {
        from + text[from..].iter().take_while(|byte| is_part(byte)).count()
    };
    let and_final =
        |at: usize, is_final: fn(&u8) -> bool| at + usize::from(text.get(at).is_some_and(is_final));
    match text.get(1) {
        Some(b'[') => {
            and_final(run(2, |byte| matches!(byte, 0x20..=0x3f)), |byte| matches!(byte, 0x40..=0x7e))
        }
        Some(kind @ (b']' | b'P' | b'X' | b'^' | b'_')) => {
            let is_end = |byte: &u8| matches!(*byte, ESC | b'\n') || (*byte == BEL && *kind == b']');
            let end = text[2..].iter().position(is_end).map_or(text.len(), |end| end + 2);
            match text.get(end) {
                Some(&BEL) => end + 1,
                Some(&ESC) if text.get(end + 1) == Some(&b'\\') => end + 2,
                _ => end,
            }
        }
        Some(0x20..=0x2f) => {
            and_final(run(2, |byte| matches!(byte, 0x20..=0x2f)), |byte| matches!(byte, 0x30..=0x7e))
        }
        Some(0x30..=0x7e) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(text: &str) -> String {
        let mut visible = VisibleText::default();
        visible.read(text.as_bytes());
        String::from_utf8_lossy(visible.bytes()).into_owned()
    }

    #[test]
    fn what_a_terminal_does_not_show_is_left_out_and_lines_stay() {
        for (text, shown) in [
            ("plain\n", "plain\n"),
            ("\x1b[31;1mred\x1b[0m\n", "red\n"),
            ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", "ablink\n"),
            ("\x1b]0;never ends\nnext\n", "\nnext\n"),
            ("\x1b[31\nnext", "\nnext"),
            ("\x1b(Btext\x1b7\x1bM!", "text!"),
            ("\x1bPq#0;2\x07;\x1b\\after", "after"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b\u{e4}", "\u{e4}"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
    }

    #[test]
    fn each_place_is_found_in_the_original() {
        let text = "\x1b[1mab\x1b[0m\x1b[2mc\x1b[0m";
        let mut visible = VisibleText::default();
        visible.read(text.as_bytes());
        assert_eq!(visible.bytes(), b"abc");
        assert_eq!(&text[visible.start(0)..visible.end(2)], "ab");
        assert_eq!(&text[visible.start(2)..visible.end(3)], "c");
        assert_eq!(&text[visible.start(0)..visible.end(3)], "ab\x1b[0m\x1b[2mc");
    }
}
