//! Filters the output of a job for terminals: passes text and colours, drops all other escape sequences.
//!
//! Kept are text in UTF-8, line ends, tabs, backspaces, carriage returns, and the sequences `ESC [ … m` that set colours
//! and weights. Dropped are titles, clipboard, links, cursor movement, modes and every other control. What a sequence is
//! does not depend on how the output was cut into pieces.

/// Longer parameters set no colour.
const MAX_SEQUENCE_BYTES: usize = 64;

/// The filter of one stream.
#[derive(Default)]
pub struct SgrFilter {
    state: State,
    /// What arrived of a character or a sequence that is not complete.
    held: Vec<u8>,
    /// Whether colours are set at this point.
    coloured: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Text,
    /// Inside a character, with this many bytes left.
    Character(u8),
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte: one more byte, which chooses a character set or the like.
    EscapeMore,
    /// In `ESC [ …` that may set a colour; the parameters are held.
    Sequence,
    /// In `ESC [ …` that is something else.
    OtherSequence,
    /// In a title, a link or the like, which ends with BEL, ST or the line.
    Title,
    /// In a picture or the like, which ends with ST.
    Device,
}

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

impl SgrFilter {
    /// Appends to `into` what may pass of the next piece.
    pub fn pass(&mut self, piece: &[u8], into: &mut Vec<u8>) {
        let mut rest = piece;
        while let Some(&byte) = rest.first() {
            if self.state == State::Text {
                // Most output is plain: take it in long runs.
                let plain = rest.iter().take_while(|byte| is_plain(**byte)).count();
                into.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
                if plain > 0 {
                    continue;
                }
            }
            self.step(byte, into);
            rest = &rest[1..];
        }
    }

    /// Whether a colour is active, which must be reset before other text.
    pub fn is_coloured(&self) -> bool {
        self.coloured
    }

    fn step(&mut self, byte: u8, into: &mut Vec<u8>) {
        self.state = match (self.state, byte) {
            (State::Character(more), 0x80..=0xbf) => self.continue_character(more, byte, into),
            (State::Character(_), _) => {
                into.extend_from_slice(REPLACEMENT);
                self.begin(byte, into)
            }
            (State::Text, _) => self.begin(byte, into),
            (State::Device | State::Title, CAN | SUB) | (State::Title, BEL | b'\n') => {
                if byte == b'\n' {
                    into.push(byte);
                }
                State::Text
            }
            // Either ST, whose backslash then ends it, or the start of something else.
            (_, ESC) => State::Escape,
            (state @ (State::Device | State::Title), _) => state,
            (_, CAN | SUB) => State::Text,
            // A control in the midst of a sequence is obeyed as if it stood before it.
            (state, 0x00..=0x1f | 0x7f) => {
                if is_harmless_control(byte) {
                    into.push(byte);
                }
                state
            }
            (State::Escape, b'[') => {
                self.held.clear();
                State::Sequence
            }
            (State::Escape, b']') => State::Title,
            (State::Escape, b'P' | b'X' | b'^' | b'_') => State::Device,
            (State::Escape | State::EscapeMore, 0x20..=0x2f) => State::EscapeMore,
            (State::Sequence, b'm') => {
                self.colour(into);
                State::Text
            }
            (State::Sequence, b'0'..=b'9' | b';' | b':') if self.held.len() < MAX_SEQUENCE_BYTES => {
                self.held.push(byte);
                State::Sequence
            }
            (State::Sequence | State::OtherSequence, 0x20..=0x3f) => State::OtherSequence,
            (State::Sequence | State::OtherSequence, 0x40..=0x7e) => State::Text,
            (State::Escape | State::EscapeMore, 0x20..=0x7e) => State::Text,
            // Not ASCII: the sequence was none.
            (State::Escape | State::EscapeMore | State::Sequence | State::OtherSequence, _) => {
                self.begin(byte, into)
            }
        };
    }

    /// A byte outside of every sequence and character.
    fn begin(&mut self, byte: u8, into: &mut Vec<u8>) -> State {
        let more = match byte {
            ESC => return State::Escape,
            0x00..=0x7f => {
                if is_plain(byte) {
                    into.push(byte);
                }
                return State::Text;
            }
            0xc2..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf4 => 3,
            _ => {
                into.extend_from_slice(REPLACEMENT);
                return State::Text;
            }
        };
        self.held.clear();
        self.held.push(byte);
        State::Character(more)
    }

    fn continue_character(&mut self, more: u8, byte: u8, into: &mut Vec<u8>) -> State {
        self.held.push(byte);
        if more > 1 {
            return State::Character(more - 1);
        }
        match std::str::from_utf8(&self.held) {
            // The controls of ISO 6429 have a second form beyond ASCII, which some terminals obey as well.
            Ok(text) if text.chars().any(char::is_control) => {}
            Ok(_) => into.extend_from_slice(&self.held),
            Err(_) => into.extend_from_slice(REPLACEMENT),
        }
        State::Text
    }

    fn colour(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(b"\x1b[");
        into.extend_from_slice(&self.held);
        into.push(b'm');
        let last = self.held.rsplit(|byte| *byte == b';').next().unwrap_or_default();
        self.coloured = !last.iter().all(|byte| *byte == b'0');
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) || is_harmless_control(byte)
}

fn is_harmless_control(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b'\t' | 0x08)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn passed(pieces: &[&[u8]]) -> String {
        let mut filter = SgrFilter::default();
        let mut into = Vec::new();
        for piece in pieces {
            filter.pass(piece, &mut into);
        }
        String::from_utf8_lossy(&into).into_owned()
    }

    #[test]
    fn colours_pass_and_nothing_else_does() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain\ttext\r\n\x08", "plain\ttext\r\n\x08"),
            ("žluťoučký 🐎".as_bytes(), "žluťoučký 🐎"),
            (
                b"\x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3mrgb\x1b[m \x1b[4:3mcurly",
                "\x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3mrgb\x1b[m \x1b[4:3mcurly",
            ),
            (b"a\x1b]0;title\x07b\x1b]2;title\x1b\\c", "abc"),
            (b"\x1b]52;c;ZXZpbA==\x07clipboard", "clipboard"),
            (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b[2J\x1b[H\x1b[10;20Hmoved\x1b[?25l\x1b[6n\x1b[!p", "moved"),
            (b"\x1b[>4;1mxterm\x1b[?1m\x1b[1 m", "xterm"),
            (b"\x1bc\x1b7\x1b(0\x1b#8\x1b=reset", "reset"),
            (b"\x1bP1;2|sixel\nmore\x1b\\after", "after"),
            (b"\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\x", "x"),
            (b"\x1b]0;never ends\nnext line", "\nnext line"),
            (b"\x1b]0;aborted\x18kept", "kept"),
            (b"\x1b]0;t\x1b[31mred", "\x1b[31mred"),
            (b"\x1b[3\n1mmid", "\n\x1b[31mmid"),
            (b"bell\x07 null\x00 del\x7f shift\x0e\x0f vt\x0b\x0c", "bell null del shift vt"),
            (b"c1 \xc2\x9b31m \xc2\x9d0;t\x07", "c1 31m 0;t"),
            (b"bad \xff\xc0\x80 \xe2\x82 \xed\xa0\x80.", "bad \u{fffd}\u{fffd}\u{fffd} \u{fffd} \u{fffd}."),
            (b"\xe2\x82\x1b[31mx", "\u{fffd}\x1b[31mx"),
            (b"raw \x9b31m", "raw \u{fffd}31m"),
        ];
        for (input, expected) in cases {
            assert_eq!(passed(&[input]), *expected, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn a_sequence_without_end_holds_little() {
        let mut filter = SgrFilter::default();
        let mut into = Vec::new();
        filter.pass(b"\x1b[", &mut into);
        filter.pass(&[b'1'; 10_000], &mut into);
        filter.pass(b"mtext", &mut into);
        assert_eq!(into, b"text");
        assert!(filter.held.len() <= MAX_SEQUENCE_BYTES);
    }

    #[test]
    fn any_split_gives_the_same_result() {
        let mut random = StdRng::seed_from_u64(42);
        let parts: &[&[u8]] = &[
            b"text ",
            b"\x1b",
            b"[",
            b"]",
            b"31",
            b";",
            b"m",
            b"\x07",
            b"\x1b\\",
            b"\n",
            b"\r",
            b"\xc2",
            b"\x9b",
            b"\xe2\x82\xac",
            b"\xf0\x9f",
            b"\x90\x8e",
            b"\xff",
            b"P",
            b"?",
            b" ",
            b"\x18",
            b"H",
            "é".as_bytes(),
            b"\x00",
            b"(0",
            b"0;t",
        ];
        for _ in 0..3_000 {
            let input: Vec<u8> = (0..random.random_range(0..40))
                .flat_map(|_| parts[random.random_range(0..parts.len())].to_vec())
                .collect();
            let whole = passed(&[&input]);
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(0..=rest.len().min(5)));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(passed(&pieces), whole, "{:?}", String::from_utf8_lossy(&input));
            let again = passed(&[whole.as_bytes()]);
            assert_eq!(again, whole, "what passed once passes again");
        }
    }

    #[test]
    fn it_knows_whether_a_colour_is_left_on() {
        let mut filter = SgrFilter::default();
        let mut into = Vec::new();
        for (piece, coloured) in
            [(&b"\x1b[31m"[..], true), (b"x\x1b[0m", false), (b"\x1b[0;1m", true), (b"\x1b[m", false)]
        {
            filter.pass(piece, &mut into);
            assert_eq!(filter.is_coloured(), coloured);
        }
    }
}
