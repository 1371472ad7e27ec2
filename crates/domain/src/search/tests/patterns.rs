//! Patterns made at random, among them many whose matches are leapt to, find the same lines as another engine line by line.

use super::*;

const ATOMS: [&str; 18] = [
    "a",
    "b",
    "1",
    "ab",
    "[0-9]",
    "[a-c]",
    "[ab1]",
    "[^a]",
    r"\d",
    r"\w",
    r"\s",
    ".",
    r"\x{e4}",
    "(?:a|1b)",
    "(?:[0-9]b|a{2})",
    "[[:upper:]]",
    "-",
    r"(?:\b|-)",
];
const COUNTS: [&str; 12] = ["", "", "", "?", "*", "+", "{2}", "{3}", "{2,4}", "{5}", "{0,3}", "+?"];
const BEFORE: [&str; 7] = ["", "", "", "^", r"\b", r"\B", r"(?:^|\s)"];
const AFTER: [&str; 6] = ["", "", "", "$", r"\b", r"(?:$|-)"];
const FLAGS: [&str; 6] = ["", "", "", "(?i)", "(?-u)", "(?s)"];
const PARTS: [&[u8]; 20] = [
    b"a",
    b"b",
    b"1",
    b"12",
    b"777777777777",
    b"aaa",
    b"abab1",
    b"2026-11-30",
    b" ",
    b"-",
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"A",
    b"B7",
    b"\x1b[31m",
    b"\xff",
    "\u{e4}".as_bytes(),
    b"                                        ",
];

fn sequence(random: &mut StdRng) -> String {
    let pieces = random.random_range(1..5);
    let mut choose = |of: &[&str]| (*of.choose(random).unwrap()).to_owned();
    let mut pattern = choose(&BEFORE);
    for _ in 0..pieces {
        pattern += &choose(&ATOMS);
        pattern += &choose(&COUNTS);
    }
    pattern + &choose(&AFTER)
}

fn pattern(random: &mut StdRng) -> String {
    let flags = *FLAGS.choose(random).unwrap();
    match random.random_bool(0.2) {
        true => format!("{flags}{}|{}", sequence(random), sequence(random)),
        false => format!("{flags}{}", sequence(random)),
    }
}

/// In pieces of any size, and perhaps in turns that end when they are first asked.
fn search_somehow(query: &LineQuery, text: &[u8], random: &mut StdRng) -> Vec<FoundLine<usize>> {
    if random.random_bool(0.3) {
        return turns::search_in_turns(query.clone(), text).0;
    }
    let most = *[3, 20, 300, 100_000].choose(random).unwrap();
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.random_range(1..=rest.len().min(most)));
        pieces.push(piece);
        rest = after;
    }
    search(query.clone(), &pieces)
}

#[test]
fn whatever_the_pattern_is_the_same_lines_are_found_as_line_by_line() {
    let mut random = StdRng::seed_from_u64(3);
    let mut with_leaps = 0;
    for round in 0..500 {
        let pattern = pattern(&mut random);
        let Ok(compiled) = Pattern::compile(&pattern) else { continue };
        with_leaps += usize::from(compiled.leaps().is_some());
        let parser = syntax::Config::new().utf8(false).multi_line(true).crlf(true);
        let reference = Regex::builder()
            .syntax(parser)
            .configure(Regex::config().utf8_empty(false))
            .build(&pattern)
            .unwrap();
        let count = *[5, 40, 40, 400, 4_000].choose(&mut random).unwrap();
        // Of a few kinds of parts at a time, so that there are long stretches without a match.
        let kinds: Vec<&[u8]> =
            (0..random.random_range(2..8)).map(|_| *PARTS.choose(&mut random).unwrap()).collect();
        let text: Vec<u8> = (0..count).flat_map(|_| kinds.choose(&mut random).unwrap().to_vec()).collect();
        let query = LineQuery { invert: random.random_bool(0.2), ..LineQuery::new(compiled) };
        let found = search_somehow(&query, &text, &mut random);
        let seen: Vec<(u64, bool)> = found.iter().map(|line| (line.number, line.is_context)).collect();
        let shown = || String::from_utf8_lossy(&text[..text.len().min(2_000)]).into_owned();
        assert_eq!(seen, expected(&query, &reference, &text), "round {round}: {pattern} in {:?}", shown());
        for line in found.iter().filter(|line| {
            !query.invert && !line.text.contains(&b'\x1b') && !line.is_cut && line.skipped_bytes == 0
        }) {
            let matches = reference
                .find_iter(within_line(&text[line.offset as usize..line.end as usize]))
                .map(|found| found.range());
            let matches: Vec<_> = matches.filter(|found| !found.is_empty()).take(marks::MAX_MARKED).collect();
            assert_eq!(line.matches, matches, "round {round}: {pattern} in {:?}", shown());
        }
    }
    assert!(with_leaps > 50, "only {with_leaps} patterns leap");
}
