//! Search in output: the same lines are found however the text is cut and however short each turn is, and they are those that
//! are found when each line is searched alone.

use gaffer_domain::search::{FoundLine, LineQuery, LineSearch, Pattern, Piece, Turn};

use crate::pieces::{Pieces, cut, joined};

/// Reads sizes of pieces, a pattern and a text.
pub fn check(input: &[u8]) {
    let mut input = Pieces(input);
    let sizes = input.counted();
    let Ok(pattern) = str::from_utf8(input.counted()) else { return };
    let Ok(pattern) = Pattern::compile(pattern) else { return };
    let text = input.0;
    let whole = found(&pattern, &[text], usize::MAX);
    for (sizes, most) in [(sizes, usize::MAX), (&[][..], 1), (&[7, 1, 3][..], 2)] {
        let again = found(&pattern, &cut(text, sizes), most);
        assert_eq!(again, whole, "{pattern:?} finds something else in pieces of {sizes:?}");
    }
    let mut alone = Vec::new();
    for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !found(&pattern, &[line], usize::MAX).is_empty() {
            alone.push(index as u64 + 1);
        }
    }
    let numbers: Vec<u64> = whole.iter().map(|line| line.number).collect();
    assert_eq!(numbers, alone, "{pattern:?} finds other lines when each is alone");
}

fn found(pattern: &Pattern, pieces: &[&[u8]], most: usize) -> Vec<FoundLine<()>> {
    let mut search = LineSearch::new(LineQuery::new(pattern.clone()), 0);
    let (mut found, mut offset, mut lines_before) = (Vec::new(), 0, 0);
    let advance = |search: &mut LineSearch<()>, found: &mut Vec<FoundLine<()>>| {
        while !search.advance(found.len().saturating_add(most), found, &mut Turn::new(&mut || false)) {}
    };
    for bytes in pieces {
        search.push(Piece { offset, lines_before, tag: (), bytes });
        offset += bytes.len() as u64;
        lines_before += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        advance(&mut search, &mut found);
    }
    search.finish();
    advance(&mut search, &mut found);
    found
}

/// Patterns of each kind, in a text in which some match.
pub fn seeds() -> Vec<Vec<u8>> {
    let text = "one\ntwo 2\r\nthree: error 42 at 10.0.0.1\n\nh\u{e9}llo w\u{f6}rld\n\x1b[31mred\x1b[0m\nlast";
    let patterns = [
        "o",
        "^$",
        r"error \d+",
        r"(?i)ERROR|last$",
        "[^a]b?",
        r"\bw\p{L}+",
        "(a|b)*c{2,3}",
        r"(?-u)\xff",
        ".",
    ];
    patterns.iter().map(|pattern| joined(&[&[5, 2], pattern.as_bytes()], text.as_bytes())).collect()
}
