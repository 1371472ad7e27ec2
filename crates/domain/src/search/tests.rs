#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod long_lines;
mod patterns;
mod turns;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use super::*;

fn query(pattern: &str) -> LineQuery {
    LineQuery::new(Pattern::compile(pattern).unwrap())
}

/// Searches what was pushed, for as long as it takes.
fn step<T: Copy>(search: &mut LineSearch<T>, most: usize, found: &mut Vec<FoundLine<T>>) -> bool {
    search.advance(most, found, &mut Turn::new(&mut || false))
}

/// Searches pieces of one text, a few lines at a time.
fn search(query: LineQuery, pieces: &[&[u8]]) -> Vec<FoundLine<usize>> {
    let mut search = LineSearch::new(query, 0);
    let (mut found, mut offset, mut lines) = (Vec::new(), 0, 0);
    for (tag, bytes) in pieces.iter().enumerate() {
        search.push(Piece { offset, lines_before: lines, tag, bytes });
        offset += bytes.len() as u64;
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        advance(&mut search, &mut found);
    }
    search.finish();
    advance(&mut search, &mut found);
    found
}

fn advance(search: &mut LineSearch<usize>, found: &mut Vec<FoundLine<usize>>) {
    loop {
        let most = found.len() + 3;
        if step(search, most, found) {
            return;
        }
    }
}

fn numbers(found: &[FoundLine<usize>]) -> Vec<u64> {
    found.iter().map(|line| line.number).collect()
}

fn texts(found: &[FoundLine<usize>]) -> Vec<String> {
    found.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
}

#[test]
fn a_line_is_found_with_its_number_its_place_and_its_matches() {
    let found = search(query("o+"), &[b"one\ntwo\nthree\nfoo boo"]);
    let expected = FoundLine {
        number: 4,
        offset: 14,
        end: 21,
        tag: 0,
        text: b"foo boo".to_vec(),
        skipped_bytes: 0,
        is_cut: false,
        matches: vec![1..3, 5..7],
        is_context: false,
    };
    assert_eq!(numbers(&found), [1, 2, 4]);
    assert_eq!(found[2], expected);
}

#[test]
fn a_line_across_pieces_is_one_line() {
    let found = search(query("across the border"), &[b"first\nacross ", b"the ", b"border\nlast\n"]);
    assert_eq!((numbers(&found), found[0].offset, found[0].end), (vec![2], 6, 24));
    assert_eq!(found[0].tag, 0, "where the match begins");
    assert!(search(query("first.*across"), &[b"first\nacross\n"]).is_empty(), "a match stays in its line");
    assert!(search(query(r"first\s+across|[^x]t\W+a"), &[b"first\nacross\n"]).is_empty());
}

#[test]
fn anchors_are_those_of_the_line() {
    let text: &[&[u8]] = &[b"one\r\ntwo\n\nprogress 10%\rdone\r\nlast"];
    for (pattern, expected) in [
        ("^one$", vec![1]),
        (r"\Atwo\z", vec![2]),
        ("^$", vec![3]),
        ("^done$", vec![4]),
        ("last$", vec![5]),
        ("", vec![1, 2, 3, 4, 5]),
        ("(?-m)^two$", vec![2]),
        (r"\btwo\b", vec![2]),
        ("^ne", vec![]),
        ("tw$", vec![]),
    ] {
        assert_eq!(numbers(&search(query(pattern), text)), expected, "{pattern}");
    }
    assert_eq!(numbers(&search(query("^$"), &[b"\n"])), [1]);
    assert!(search(query(""), &[b""]).is_empty(), "no text, no line");
}

#[test]
fn colours_do_not_hide_what_a_reader_sees() {
    let text: &[&[u8]] = &[b"\x1b[31merr\x1b[1mor\x1b[0m: disk\n\x1b]0;error: title\x07quiet\n"];
    let found = search(query("^error: d"), text);
    assert_eq!(numbers(&found), [1]);
    let line = &found[0];
    assert_eq!(&line.text[line.matches[0].clone()], b"err\x1b[1mor\x1b[0m: d");
    assert!(search(query("31m|title"), text).is_empty());
}

#[test]
fn bytes_that_are_no_text_are_searched_around() {
    let text: &[&[u8]] = &[b"\xff\xfe bad \x00 bytes\n\xffx\n"];
    assert_eq!(numbers(&search(query("bad . bytes"), text)), [1]);
    assert_eq!(numbers(&search(query(r"(?-u)\xffx"), text)), [2]);
    assert_eq!(numbers(&search(query("(?i)\u{c4}pfel"), &["\u{e4}PFEL\n".as_bytes()])), [1]);
}

#[test]
fn lines_around_are_given_once_and_not_beyond_the_text() {
    let text: &[&[u8]] = &[b"1\n2\n3 x\n4\n5\n6 x\n7\n", b"8\n9\n10\n11 x"];
    let with = |before, after| LineQuery { before, after, ..query("x") };
    assert_eq!(numbers(&search(with(1, 0), text)), [2, 3, 5, 6, 10, 11]);
    assert_eq!(numbers(&search(with(0, 1), text)), [3, 4, 6, 7, 11]);
    assert_eq!(numbers(&search(with(2, 2), text)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(numbers(&search(with(100, 0), text)), (1..=11).collect::<Vec<_>>());
    let context: Vec<bool> = search(with(1, 1), text).iter().map(|line| line.is_context).collect();
    assert_eq!(context, [true, false, true, true, false, true, true, false]);
    let limited = LineQuery { limit: Some(1), ..with(0, 2) };
    assert_eq!(numbers(&search(limited, text)), [3, 4, 5]);
}

#[test]
fn a_search_that_has_enough_continues_behind_what_it_found() {
    let bytes: &[u8] = b"a x\nb\nc x\nd\ne x\nf";
    let mut search = LineSearch::new(LineQuery { limit: Some(2), after: 1, ..query("x") }, 0);
    let mut found = Vec::new();
    search.push(Piece { offset: 0, lines_before: 0, tag: 0, bytes });
    assert!(step(&mut search, 100, &mut found));
    assert_eq!(numbers(&found), [1, 2, 3, 4]);
    assert!(search.is_done());
    assert_eq!((search.found(), search.position()), (2, 10.into()), "line 4 was given, and not searched");

    let mut search = LineSearch::new(query("x"), 0);
    search.push(Piece { offset: 0, lines_before: 0, tag: 0, bytes });
    assert!(step(&mut search, 100, &mut found));
    assert_eq!(search.position(), 16.into(), "the last line has not ended");
    search.pass(99);
    assert_eq!(search.position(), 16.into());
    search.push(Piece { offset: 99, lines_before: 5, tag: 0, bytes: b"\n" });
    assert!(step(&mut search, 100, &mut found));
    assert_eq!(search.position(), 100.into());
}

#[test]
fn one_stream_of_two_has_its_own_lines_and_the_numbers_of_both() {
    let mut search = LineSearch::new(query("warning: low"), 0);
    let mut found = Vec::new();
    // "other\n" and "more\n" are of another stream.
    search.pass(6);
    search.push(Piece { offset: 6, lines_before: 1, tag: 0, bytes: b"quiet\nwarning: " });
    search.pass(26);
    search.push(Piece { offset: 26, lines_before: 3, tag: 1, bytes: b"low\n" });
    assert!(step(&mut search, 100, &mut found));
    assert_eq!((found[0].number, found[0].offset, found[0].end), (4, 12, 30));
    assert_eq!(found[0].text, b"warning: low");
}

#[test]
fn what_does_not_match_is_found_too() {
    let text: &[&[u8]] = &[b"a\nb x\nc\n", b"d", b"\nx\n", b"e"];
    let inverted = LineQuery { invert: true, ..query("x") };
    assert_eq!(texts(&search(inverted.clone(), text)), ["a", "c", "d", "e"]);
    let limited = LineQuery { limit: Some(2), after: 1, ..inverted.clone() };
    assert_eq!(texts(&search(limited, text)), ["a", "b x", "c", "d"]);
    assert_eq!(texts(&search(LineQuery { before: 1, ..inverted }, text)), ["a", "b x", "c", "d", "x", "e"]);
}

#[test]
fn lines_are_counted_without_being_given() {
    for (invert, expected) in [(false, 2), (true, 3)] {
        let mut search = LineSearch::new(LineQuery { counts_only: true, invert, ..query("x") }, 0);
        let mut found = Vec::new();
        search.push(Piece { offset: 0, lines_before: 0, tag: (), bytes: b"x\na\nb\nx\nc" });
        search.finish();
        assert!(step(&mut search, 1, &mut found) && found.is_empty());
        assert_eq!(search.found(), expected);
    }
}

#[test]
fn a_very_long_line_is_searched_to_its_end_in_bounded_memory() {
    let mut search = LineSearch::new(LineQuery { before: 1, ..query("needle in hay|^start$") }, 0);
    let mut found = Vec::new();
    let mut offset = 0;
    let mut push = |search: &mut LineSearch<u8>, bytes: &[u8], lines: u64| {
        search.push(Piece { offset, lines_before: lines, tag: 0, bytes });
        offset += bytes.len() as u64;
        while !step(search, 1_000, &mut found) {}
        assert!(search.text_memory() < 2 << 20, "{}", search.text_memory());
        (offset, found.len())
    };
    push(&mut search, b"first\n", 0);
    // It goes on for 16 MiB, and is searched in parts of 1 MiB that share 64 KiB. A part ends behind "needle ".
    let hay = vec![b'h'; 256 << 10];
    for _ in 0..35 {
        push(&mut search, &hay, 1);
    }
    push(&mut search, &hay[..(192 << 10) - 3], 1);
    for part in [&b"needle "[..], b"in ", b"hay"] {
        push(&mut search, part, 1);
    }
    for _ in 0..31 {
        push(&mut search, &hay, 1);
    }
    let (end, _) = push(&mut search, b"\nstart\n", 1);
    assert_eq!(numbers_of(&found), [1, 2, 3]);
    let line = &found[1];
    assert_eq!((line.offset, line.is_cut, line.text.len()), (6, true, MAX_TEXT_BYTES));
    assert_eq!(&line.text[line.matches[0].clone()], b"needle in hay");
    let needle = 6 + 35 * (256 << 10) + (192 << 10) - 3;
    assert_eq!(line.skipped_bytes + line.matches[0].start as u64, needle - 6);
    assert_eq!(found[2].end, end);
    assert!(found[0].is_context);
}

#[test]
fn a_match_is_found_wherever_a_part_of_a_long_line_ends() {
    // A part ends with a piece of 64 KiB: with each in turn, a part and the next would divide the match.
    const PIECE: usize = 64 << 10;
    for at in (15..=40).map(|pieces| pieces * PIECE - b"needle ".len()) {
        let mut text = vec![b'h'; 48 * PIECE];
        text[at..at + 13].copy_from_slice(b"needle in hay");
        let pieces: Vec<&[u8]> = text.chunks(PIECE).collect();
        let found = search(query("needle in hay"), &pieces);
        assert_eq!(numbers(&found), [1], "at {at}");
        assert_eq!(found[0].skipped_bytes + found[0].matches[0].start as u64, at as u64);
    }
}

fn numbers_of<T>(found: &[FoundLine<T>]) -> Vec<u64> {
    found.iter().map(|line| line.number).collect()
}

#[test]
fn anchors_do_not_match_where_a_long_line_is_cut() {
    let hay = vec![b'h'; 3 << 20];
    for (pattern, expected) in [("^h", vec![1]), ("h$", vec![1]), ("^hhh$", vec![]), ("xh|^$|hx", vec![])] {
        let pieces: Vec<&[u8]> = hay.chunks(200_000).collect();
        assert_eq!(numbers(&search(query(pattern), &pieces)), expected, "{pattern}");
    }
    let inverted = LineQuery { invert: true, ..query("x$") };
    let pieces: Vec<&[u8]> = hay.chunks(200_000).chain([&b"\nx\nlast"[..]]).collect();
    let found = search(inverted, &pieces);
    assert_eq!(numbers(&found), [1, 3]);
    assert_eq!((found[0].text.len(), found[0].is_cut, found[0].skipped_bytes), (MAX_TEXT_BYTES, true, 0));
}

/// A line without its end, which counts for anchors.
fn within_line(line: &[u8]) -> Input<'_> {
    Input::new(line).range(..line.len() - usize::from(line.ends_with(b"\n")))
}

/// What the search must find: each line on its own, as a reader sees it.
fn expected(query: &LineQuery, pattern: &Regex, text: &[u8]) -> Vec<(u64, bool)> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let is_wanted = |line: &&[u8]| {
        let mut visible = sequences::VisibleText::default();
        visible.read(line);
        pattern.is_match(within_line(visible.bytes())) != query.invert
    };
    let mut wanted: Vec<usize> = (0..lines.len()).filter(|at| is_wanted(&lines[*at])).collect();
    wanted.truncate(query.limit.map_or(usize::MAX, |limit| limit as usize));
    let is_near = |at: usize| {
        wanted.iter().any(|found| at + query.before as usize >= *found && at <= *found + query.after as usize)
    };
    (0..lines.len()).filter(|at| is_near(*at)).map(|at| (at as u64 + 1, !wanted.contains(&at))).collect()
}

#[test]
fn however_the_text_is_cut_the_same_lines_are_found_as_line_by_line() {
    let parts: [&[u8]; 14] = [
        b"a",
        b"b",
        b"ab",
        b" ",
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\x1b[31m",
        b"\x1b[0m",
        b"\x1b]0;ab\x07",
        b"\xff",
        "\u{e4}".as_bytes(),
    ];
    let patterns = [
        "ab",
        "^ab$",
        "a.b",
        "b$",
        "^$",
        r"a\s*b",
        "[^a]b",
        r"\bab\b",
        r"\Ba|b\b",
        r"\b\w+\b",
        r"(?-u:\b)a",
        "(?i)AB?",
        "x*",
        "\u{e4}|b{2}",
        "x",
        "a+?b|ab*",
        "a.*b|b|a",
        "[ab]{3}",
        r"[ab]\s[ab]",
        "(?:.b|[ab]{2}) ?[^a]$",
        r"\b[ab]{2,3}\b|\x{e4}[ab]{2}",
    ];
    let patterns = patterns.map(|pattern| {
        let parser = syntax::Config::new().utf8(false).multi_line(true).crlf(true);
        let reference = Regex::builder()
            .syntax(parser)
            .configure(Regex::config().utf8_empty(false))
            .build(pattern)
            .unwrap();
        (pattern, reference)
    });
    let mut random = StdRng::seed_from_u64(11);
    for round in 0..3_000 {
        let count = random.random_range(0..60);
        let text: Vec<u8> = (0..count).flat_map(|_| parts.choose(&mut random).unwrap().to_vec()).collect();
        let (pattern, reference) = patterns.choose(&mut random).unwrap();
        let query = LineQuery {
            invert: random.random_bool(0.3),
            before: random.random_range(0..3),
            after: random.random_range(0..3),
            limit: random.random_bool(0.3).then(|| random.random_range(1..4)),
            ..query(pattern)
        };
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.random_range(1..=rest.len().min(12)));
            pieces.push(piece);
            rest = after;
        }
        let found = search(query.clone(), &pieces);
        let seen: Vec<(u64, bool)> = found.iter().map(|line| (line.number, line.is_context)).collect();
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(seen, expected(&query, reference, &text), "round {round}: {query:?} in {shown:?}");
        for line in &found {
            let (from, to) = (line.offset as usize, line.end as usize);
            assert_eq!(text[from..to].strip_suffix(b"\n").unwrap_or(&text[from..to]), line.text, "{shown:?}");
            if !line.text.contains(&b'\x1b') {
                let is_marked = !query.invert && !line.is_context;
                let matches = reference.find_iter(within_line(&text[from..to]));
                let matches =
                    matches.map(|found| found.range()).filter(|found| is_marked && !found.is_empty());
                let matches: Vec<_> = matches.collect();
                assert_eq!(line.matches, matches, "round {round}: {query:?} in {shown:?}");
            }
        }
    }
}

#[test]
fn a_bad_pattern_is_explained() {
    for (pattern, said) in [
        ("a(b", "unclosed group, at character 2"),
        ("ab**c)", "unopened group, at character 6"),
        ("(?=x)", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"a\nb", "without its line end"),
        ("[z-a]", "invalid character class range"),
        (r"\w{2000}", "too large"),
        ("(((a{100}){100}){100}){100}", "too large"),
    ] {
        let error = Pattern::compile(pattern).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains('\n'), "{pattern}: {error}");
    }
    assert_eq!(Pattern::compile(&"x".repeat(MAX_PATTERN_BYTES + 1)).unwrap_err(), InvalidPattern::TooLong);
    assert!(Pattern::compile(&"(".repeat(2_000)).is_err());
    let deep = format!("{}a{}", "(".repeat(1_000), ")".repeat(1_000));
    assert!(Pattern::compile(&deep).is_err(), "nesting is limited");
    assert!(Pattern::compile(r"\d{4}-\d\d-\d\d \w+: .*(timeout|refused)$").is_ok());
}

#[test]
fn beginnings_are_looked_for_where_that_is_faster_than_the_table() {
    let candidate = |pattern: &str| Pattern::compile(pattern).unwrap().next_candidate(b"no digits", 0..9);
    assert_eq!(candidate("error [0-9]"), None);
    assert_eq!(candidate("digits"), Some(3));
    // Half of a text may be digits.
    assert_eq!(candidate("[0-9]{20}"), Some(0));
}
