//! Lines that are longer than memory, or written byte by byte, and searches that continue within them.

use super::*;

const LINE: usize = 3 << 20;

/// A short line, one of 3 MiB that has a needle near its end, and a short one.
fn text() -> Vec<u8> {
    let mut long = vec![b'h'; LINE];
    long[LINE - 1_000..LINE - 994].copy_from_slice(b"needle");
    [&b"head\n"[..], &long, b"\nheh\nlast"].concat()
}

/// Searches a text from a place on in pieces, up to an offset; what it found, and where it is.
fn search_part(
    query: LineQuery,
    text: &[u8],
    from: ResumePoint,
    to: usize,
) -> (Vec<FoundLine<u8>>, ResumePoint) {
    let mut search = LineSearch::new(query, from);
    let mut found = Vec::new();
    for (index, bytes) in text[from.offset as usize..to].chunks(100_000).enumerate() {
        let offset = from.offset + index as u64 * 100_000;
        let lines_before = text[..offset as usize].iter().filter(|byte| **byte == b'\n').count() as u64;
        search.push(Piece { offset, lines_before, tag: 0, bytes });
        while !step(&mut search, usize::MAX, &mut found) {}
    }
    if to == text.len() {
        search.finish();
        while !step(&mut search, usize::MAX, &mut found) {}
    }
    (found, search.position())
}

#[test]
fn a_search_that_stopped_inside_of_a_long_line_continues_there() {
    let text = text();
    for pattern in ["^h", "^he", "h$", "needle", "nothing", "^h*$", "e", "last", "hh"] {
        for invert in [false, true] {
            let query = LineQuery { invert, ..query(pattern) };
            let whole = search_part(query.clone(), &text, ResumePoint::default(), text.len()).0;
            for stops in [vec![1_500_000], vec![400_000, 1_200_000, 2_400_000, LINE + 5], vec![LINE + 8]] {
                let (mut found, mut from) = (Vec::new(), ResumePoint::default());
                for stop in stops.into_iter().chain([text.len()]) {
                    let (part, at) = search_part(query.clone(), &text, from, stop);
                    found.extend(part);
                    // As it comes back from a client.
                    from = at.to_string().parse().unwrap();
                    assert_eq!(from, at);
                }
                let seen: Vec<_> = found.iter().map(|line| (line.number, line.offset)).collect();
                let expected: Vec<_> = whole.iter().map(|line| (line.number, line.offset)).collect();
                assert_eq!(seen, expected, "{pattern}, invert: {invert}");
                for (line, expected) in found.iter().zip(&whole).filter(|(line, _)| !line.matches.is_empty())
                {
                    assert_eq!(
                        line.text[line.matches[0].clone()],
                        expected.text[expected.matches[0].clone()]
                    );
                    let place = |line: &FoundLine<u8>| line.skipped_bytes + line.matches[0].start as u64;
                    assert_eq!(place(line), place(expected), "{pattern}");
                }
            }
        }
    }
}

#[test]
fn with_enough_found_it_continues_behind_the_long_line_that_was_last() {
    let text = text();
    let query = |limit| LineQuery { limit, ..query("h") };
    for stop in [1_500_000, 2_000_000, text.len()] {
        let (first, at) = search_part(query(Some(2)), &text, ResumePoint::default(), stop);
        let (rest, _) = search_part(query(None), &text, at, text.len());
        assert_eq!([numbers_of(&first), numbers_of(&rest)].concat(), [1, 2, 3], "{stop}: {at}");
    }
}

#[test]
fn the_rest_of_a_line_that_began_before_is_passed_over() {
    let mut search = LineSearch::new(LineQuery { invert: true, ..query("x") }, 10);
    search.pass_rest_of_line();
    let mut found = Vec::new();
    for (offset, bytes) in [(10, &b"of a line"[..]), (19, b" and\nsecond\nx\nlast")] {
        search.push(Piece { offset, lines_before: 3, tag: 0, bytes });
        assert!(step(&mut search, 10, &mut found));
    }
    search.finish();
    assert!(step(&mut search, 10, &mut found));
    assert_eq!(texts_of(&found), ["second", "last"]);
    assert_eq!(found[0].offset, 24);
}

fn texts_of<T>(found: &[FoundLine<T>]) -> Vec<String> {
    found.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
}

#[test]
fn a_line_that_was_written_byte_by_byte_takes_bounded_memory() {
    let mut line = vec![b'-'; 600_000];
    line[450_000..450_006].copy_from_slice(b"needle");
    let text = [&line[..], b"\nneedle\n"].concat();
    let mut search = LineSearch::new(LineQuery { before: 100, ..query("^-|needle") }, 0);
    let mut found = Vec::new();
    for (offset, byte) in text.iter().enumerate() {
        let lines_before = u64::from(offset > line.len());
        search.push(Piece { offset: offset as u64, lines_before, tag: offset, bytes: &[*byte] });
        if search.is_full() || offset + 1 == text.len() {
            while !step(&mut search, 1_000, &mut found) {}
        }
        assert!(search.text_memory() < 6 << 20, "{} at {offset}", search.text_memory());
    }
    assert_eq!(numbers_of(&found), [1, 2]);
    assert_eq!((found[1].tag, found[1].offset), (line.len() + 1, line.len() as u64 + 1));
    let mut needle = LineSearch::new(query("needle"), 0);
    for (offset, byte) in line.iter().enumerate() {
        needle.push(Piece { offset: offset as u64, lines_before: 0, tag: offset, bytes: &[*byte] });
        if needle.is_full() {
            while !step(&mut needle, 1_000, &mut found) {}
        }
    }
    let place = found[2].skipped_bytes + found[2].matches[0].start as u64;
    assert_eq!((place, found[2].tag), (450_000, 450_000));
}

#[test]
fn a_place_is_read_as_it_was_written_and_nothing_else_is() {
    for text in ["0", "17", "4096.1024.3072.1", "4096.5.0.0"] {
        assert_eq!(text.parse::<ResumePoint>().unwrap().to_string(), text);
    }
    for text in
        ["", "x", "-1", "+1", "1.2", "9.1.2", "9.1.2.2", "9.8.2.0", "9.1.2.0.0", "9.18446744073709551615.1.0"]
    {
        assert!(text.parse::<ResumePoint>().is_err(), "{text}");
    }
}
