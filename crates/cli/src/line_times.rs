//! Prefixes each line of output with its time.

/// What has been shown so far on one screen or in one file, as far as the next time depends on it. Streams that are
/// shown in one place share it: their lines are one.
#[derive(Debug, Default)]
pub struct LineTimes {
    spot: Spot,
    /// Colours that were set where a line may begin: they come behind its time, if it does.
    colours: Vec<u8>,
    /// On a terminal a carriage return leads back to the beginning, and what follows covers the time.
    is_terminal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Spot {
    #[default]
    LineStart,
    /// Behind a carriage return.
    Returned,
    Inside,
}

const ESC: u8 = 0x1b;

impl LineTimes {
    /// Nothing has been shown.
    pub fn new(is_terminal: bool) -> LineTimes {
        LineTimes { is_terminal, ..LineTimes::default() }
    }

    /// Appends output that was read at the given time to `into`.
    pub fn pass(&mut self, at: &str, shown: &[u8], into: &mut Vec<u8>) {
        let mut rest = shown;
        while let Some(&first) = rest.first() {
            let is_break = |byte: &u8| *byte == b'\n' || (*byte == b'\r' && self.is_terminal);
            let colour = if self.is_terminal && first == ESC { colour_len(rest) } else { 0 };
            if colour > 0 && self.spot != Spot::Inside {
                let (sequence, behind) = rest.split_at(colour);
                if is_reset(sequence) {
                    // It ends the line before, and may be the last of all.
                    self.colours.clear();
                    into.extend_from_slice(sequence);
                } else {
                    self.colours.extend_from_slice(sequence);
                }
                rest = behind;
                continue;
            }
            let begins = match self.spot {
                Spot::LineStart => true,
                Spot::Returned => !is_break(&first),
                Spot::Inside => false,
            };
            if begins {
                into.extend_from_slice(at.as_bytes());
                into.push(b' ');
            }
            into.append(&mut self.colours);
            let end = rest.iter().position(is_break).map_or(rest.len(), |end| end + 1);
            into.extend_from_slice(&rest[..end]);
            self.spot = match rest[end - 1] {
                b'\n' => Spot::LineStart,
                b'\r' if self.is_terminal => Spot::Returned,
                _ => Spot::Inside,
            };
            rest = &rest[end..];
        }
    }

    /// Accounts for output shown without a time.
    pub fn note(&mut self, shown: &[u8]) {
        if let Some(last) = shown.last() {
            self.spot = if *last == b'\n' { Spot::LineStart } else { Spot::Inside };
        }
    }

    /// Whether the last line that is shown has not ended.
    pub fn is_inside_line(&self) -> bool {
        self.spot != Spot::LineStart
    }
}

/// Length of the escape sequence at this position, as the terminal filter passes it.
fn colour_len(bytes: &[u8]) -> usize {
    let is_colour = bytes.get(1) == Some(&b'[');
    bytes.iter().position(|byte| *byte == b'm').filter(|_| is_colour).map_or(0, |end| end + 1)
}

/// Whether a sequence sets everything back: `ESC [ m`, `ESC [ 0 m`.
fn is_reset(sequence: &[u8]) -> bool {
    sequence[2..sequence.len() - 1].iter().all(|byte| matches!(byte, b'0' | b';'))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn shown(is_terminal: bool, pieces: &[&str]) -> String {
        let mut times = LineTimes::new(is_terminal);
        let mut into = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            times.pass(&format!("T{number}"), piece.as_bytes(), &mut into);
        }
        String::from_utf8_lossy(&into).into_owned()
    }

    #[test]
    fn a_line_has_one_time_however_it_came_and_whatever_mixes_in_it() {
        assert_eq!(shown(false, &["a\nb\n"]), "T0 a\nT0 b\n");
        assert_eq!(shown(false, &["a", "b\n", "c"]), "T0 ab\nT2 c");
        // Two streams in one place.
        assert_eq!(shown(false, &["out", "err\n", "out\n"]), "T0 outerr\nT2 out\n");
        assert_eq!(shown(false, &["\n", "\n\nx"]), "T0 \nT1 \nT1 \nT1 x");
        assert_eq!(shown(false, &["", "a\n", ""]), "T1 a\n");
    }

    #[test]
    fn a_line_that_is_written_over_has_its_time_again_on_a_terminal_only() {
        assert_eq!(shown(true, &["10%\r", "20%\r", "\n"]), "T0 10%\rT1 20%\r\n");
        assert_eq!(shown(true, &["a\r\nb\r", "\r\n"]), "T0 a\r\nT0 b\r\r\n");
        assert_eq!(shown(false, &["10%\r", "20%\r\n"]), "T0 10%\r20%\r\n");
    }

    #[test]
    fn a_colour_begins_no_line() {
        assert_eq!(shown(true, &["\x1b[31mred\n\x1b[0m"]), "T0 \x1b[31mred\n\x1b[0m");
        assert_eq!(
            shown(true, &["\x1b[31m", "red\x1b[0m\n", "\x1b[1m", "\n"]),
            "T1 \x1b[31mred\x1b[0m\nT3 \x1b[1m\n"
        );
        assert_eq!(shown(true, &["\x1b[31m\x1b[0;0m", "x"]), "\x1b[0;0mT1 x");
        assert_eq!(shown(false, &["\x1b[31m", "x"]), "T0 \x1b[31mx");
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = "one\n\ntwo\rthree\r\nfour\n";
        for is_terminal in [false, true] {
            let mut random = StdRng::seed_from_u64(7);
            let whole = shown(is_terminal, &[text]).replace("T0", "T");
            for _ in 0..200 {
                let mut times = LineTimes::new(is_terminal);
                let (mut into, mut rest) = (Vec::new(), text.as_bytes());
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(random.random_range(0..=rest.len().min(5)));
                    times.pass("T", piece, &mut into);
                    rest = after;
                }
                assert_eq!(String::from_utf8_lossy(&into), whole);
            }
        }
    }
}
