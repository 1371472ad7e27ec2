//! Shows lines that a search found, as `grep` shows them: with their task, their number and their matches marked.

use std::io::Write;

use crate::ndjson::Match;

/// Marks a match without touching the line's own colours.
const MARK: &[u8] = b"\x1b[7m";
const UNMARK: &[u8] = b"\x1b[27m";

/// How lines are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct MatchManner {
    /// With the address of their task.
    pub names: bool,
    /// With their number.
    pub numbers: bool,
    /// Lines that do not follow each other are separated.
    pub has_groups: bool,
}

/// Writes found lines one after the other.
#[derive(Debug, Default)]
pub struct Matches {
    manner: MatchManner,
    is_marked: bool,
    /// The line shown last.
    last: Option<(String, u32, u64)>,
}

impl Matches {
    /// None was shown. `is_marked`: matches are marked for a terminal.
    pub fn new(manner: MatchManner, is_marked: bool) -> Matches {
        Matches { manner, is_marked, ..Matches::default() }
    }

    /// Whether something separates this line from the one before.
    pub fn begins_group(&mut self, line: &Match<'_>) -> bool {
        let next = (line.task.to_string(), line.attempt, line.line);
        let last = self.last.replace(next.clone());
        let follows = |(task, attempt, line): (String, u32, u64)| (task, attempt, line + 1) == next;
        self.manner.has_groups && last.is_some_and(|last| !follows(last))
    }

    /// Appends a line with its line end.
    pub fn write(&self, line: &Match<'_>, bytes: &[u8], into: &mut Vec<u8>) {
        let sign = if line.context { '-' } else { ':' };
        // Writing to memory does not fail.
        if self.manner.names {
            let _ = write!(into, "{}{sign}", line.task);
        }
        if self.manner.numbers {
            let _ = write!(into, "{}{sign}", line.line);
        }
        if line.skipped_bytes > 0 {
            into.extend_from_slice("… ".as_bytes());
        }
        let mut at = 0;
        for [start, end] in line.matches.iter().filter(|_| self.is_marked) {
            let (start, end) = (*start as usize, *end as usize);
            let (Some(before), Some(matched)) = (bytes.get(at..start), bytes.get(start..end)) else { break };
            into.extend_from_slice(before);
            into.extend_from_slice(MARK);
            into.extend_from_slice(matched);
            into.extend_from_slice(UNMARK);
            at = end;
        }
        into.extend_from_slice(&bytes[at..]);
        if line.cut {
            into.extend_from_slice(" …".as_bytes());
        }
        into.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn line(number: u64, matches: &[[u32; 2]]) -> Match<'static> {
        Match {
            task: Cow::Borrowed("a.1"),
            attempt: 1,
            line: number,
            end: 0,
            at: Cow::Borrowed(""),
            text: Cow::default(),
            base64: Cow::default(),
            skipped_bytes: 0,
            cut: false,
            matches: matches.to_vec(),
            context: matches.is_empty(),
        }
    }

    fn shown(matches: &Matches, line: &Match<'_>, text: &str) -> String {
        let mut into = Vec::new();
        matches.write(line, text.as_bytes(), &mut into);
        String::from_utf8_lossy(&into).into_owned()
    }

    #[test]
    fn a_line_has_its_task_its_number_and_marks() {
        let manner = MatchManner { names: true, numbers: true, has_groups: false };
        let plain = Matches::new(manner, false);
        assert_eq!(shown(&plain, &line(7, &[[0, 2]]), "abc"), "a.1:7:abc\n");
        assert_eq!(shown(&plain, &line(8, &[]), "abc"), "a.1-8-abc\n");
        let marked = Matches::new(MatchManner::default(), true);
        assert_eq!(shown(&marked, &line(7, &[[0, 1], [2, 3]]), "abc"), "\x1b[7ma\x1b[27mb\x1b[7mc\x1b[27m\n");
        let cut = Match { skipped_bytes: 5, cut: true, ..line(1, &[[0, 1]]) };
        assert_eq!(shown(&Matches::default(), &cut, "abc"), "… abc …\n");
        assert_eq!(shown(&marked, &line(7, &[[2, 9]]), "abc"), "abc\n", "a mark that is no place");
    }

    #[test]
    fn lines_that_do_not_follow_each_other_are_separated() {
        let mut matches = Matches::new(MatchManner { has_groups: true, ..MatchManner::default() }, false);
        let separated: Vec<bool> =
            [3, 4, 6, 7].iter().map(|number| matches.begins_group(&line(*number, &[]))).collect();
        assert_eq!(separated, [false, false, true, false]);
    }
}
