//! A search is interrupted and continues; no expression keeps a turn.

use super::*;

/// Needs a new state for every byte of a random text of `a` and `b`.
const COSTLY: &str = "[ab]*a[ab]{600}c";

fn random_letters(length: usize, letters: &[u8]) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(5);
    (0..length).map(|_| *letters.choose(&mut random).unwrap()).collect()
}

/// Searches a text in turns that end when they are first asked; how many turns that were.
pub(super) fn search_in_turns(query: LineQuery, text: &[u8]) -> (Vec<FoundLine<usize>>, usize) {
    let mut search = LineSearch::new(query, 0);
    search.push(Piece { offset: 0, lines_before: 0, tag: 0, bytes: text });
    let (mut found, mut turns) = (Vec::new(), 0);
    for is_at_end in [false, true] {
        if is_at_end {
            search.finish();
        }
        loop {
            turns += 1;
            if search.advance(usize::MAX, &mut found, &mut Turn::new(&mut || true)) {
                break;
            }
        }
    }
    (found, turns)
}

#[test]
fn a_search_pauses_anywhere_and_finds_the_same() {
    let mut text = random_letters(4_000, b"ab");
    for at in [700, 750, 3_200] {
        text[at] = b'\n';
    }
    (text[2_800 - 601], text[2_800]) = (b'a', b'c');
    let spoilt = |text: &[u8]| [text, " \u{e4} ".as_bytes(), text].concat();
    for (pattern, text) in [(COSTLY.to_owned(), text.clone()), (format!(r"\b(?:{COSTLY})\b"), spoilt(&text))]
    {
        for invert in [false, true] {
            let query = LineQuery { invert, before: 1, ..query(&pattern) };
            let (found, turns) = search_in_turns(query.clone(), &text);
            assert!(turns > 5, "{pattern}: {turns} turns");
            assert_eq!(found, search(query, &[&text]), "{pattern}");
        }
    }
}

#[test]
fn no_expression_keeps_its_turn_while_it_goes_through_a_line() {
    let text = random_letters(10_000, b"ab");
    // Beside a letter beyond ASCII the table does not know where a word ends: the whole line is searched by threads.
    let spoilt = ["a\u{e4} ".as_bytes(), &text].concat();
    let words = format!(r"\b(?:{COSTLY})\b");
    for (pattern, text) in [(COSTLY, &text), ("(?:[ab]{0,40}a){40}!", &text), (&words, &spoilt)] {
        let mut search = LineSearch::new(query(pattern), 0);
        search.push(Piece { offset: 0, lines_before: 0, tag: 0, bytes: text });
        search.finish();
        let mut turns = 1;
        while !search.advance(10, &mut Vec::new(), &mut Turn::new(&mut || true)) {
            turns += 1;
        }
        assert!(turns > 10, "{pattern}: {turns} turns");
    }
}

#[test]
fn matches_are_marked_as_long_as_that_costs_little() {
    // For each match it has to look for an x up to the end of the line.
    let text = [&b"first "[..], &b"a".repeat(60_000), b"\n"].concat();
    let mut search = LineSearch::new(query("(?:.*x|a)"), 0);
    search.push(Piece { offset: 0, lines_before: 0, tag: 0, bytes: &text });
    let (mut found, mut asked) = (Vec::new(), 0);
    let mut is_over = || {
        asked += 1;
        false
    };
    assert!(search.advance(10, &mut found, &mut Turn::new(&mut is_over)));
    let marked = found[0].matches.len();
    assert!(asked <= 10 && (1..100).contains(&marked), "asked {asked} times for {marked} marks");
    assert_eq!(found[0].matches[0], 6..7);
    let easy = search_in_turns(query("a"), &text).0;
    assert_eq!(easy[0].matches.len(), 100);
}
