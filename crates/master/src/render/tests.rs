#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn lines_of(pieces: &[(Stream, &[u8])]) -> Vec<Line> {
    let mut renderer = Renderer::new();
    let mut lines = Vec::new();
    for (stream, bytes) in pieces {
        renderer.push(5_000_000, *stream, bytes, &mut lines);
    }
    lines.extend(renderer.partial());
    lines
}

fn lines(text: &str) -> Vec<Line> {
    lines_of(&[(Stream::Stdout, text.as_bytes())])
}

fn texts(text: &str) -> Vec<String> {
    lines(text).iter().map(Line::text).collect()
}

/// Class and text of each token of the only line.
fn tokens(text: &str) -> Vec<(String, String)> {
    let lines = lines(text);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].tokens.iter().map(|token| (token.class.clone(), token.text.clone())).collect()
}

fn token(class: &str, text: &str) -> (String, String) {
    (class.to_owned(), text.to_owned())
}

#[test]
fn lines_end_at_line_feeds_and_nowhere_else() {
    assert_eq!(texts("a\nb\r\n\nc"), ["a", "b", "", "c"]);
    assert_eq!(texts("a\n"), ["a"]);
    assert_eq!(texts(""), [""; 0]);
    assert_eq!(texts("a\x0bb\x0cc\u{85}d\u{2028}e"), ["abc\u{fffd}d\u{fffd}e"]);
}

#[test]
fn a_progress_bar_shows_its_last_state() {
    assert_eq!(texts("  1%\r 50%\r100%\ndone"), ["100%", "done"]);
    assert_eq!(texts("downloading\rok\x1b[K\n"), ["ok"]);
    assert_eq!(texts("abcdef\x1b[2K\rxy\n"), ["xy"]);
    assert_eq!(texts("abc\x08\x08X\n"), ["aXc"]);
    assert_eq!(texts("abc\x1b[1K|\n"), ["   |"]);
    assert_eq!(texts("abc\x1b[2DX\x1b[5GY\n"), ["aXc Y"]);
    assert_eq!(texts("\r\x08\x08a\n"), ["a"]);
}

#[test]
fn tabs_become_blanks_up_to_the_next_stop() {
    assert_eq!(texts("a\tb\t\tc\n"), ["a       b               c"]);
    assert_eq!(texts("abcdefgh\rx\ty\n"), ["xbcdefghy"]);
}

#[test]
fn looks_become_classes() {
    assert_eq!(tokens("\x1b[1;31mred\x1b[0m plain"), [token("b f1", "red"), token("", " plain")]);
    assert_eq!(tokens("\x1b[38;5;208mx"), [token("f208", "x")]);
    assert_eq!(tokens("\x1b[38;2;255;0;0mx"), [token("f196", "x")]);
    assert_eq!(tokens("\x1b[38:2::255:0:0mx"), [token("f196", "x")]);
    assert_eq!(tokens("\x1b[38:5:9mx"), [token("f9", "x")]);
    assert_eq!(tokens("\x1b[94;3;4;9;2mx"), [token("d i u s f12", "x")]);
    assert_eq!(tokens("\x1b[97;41mx"), [token("p15 g1", "x")]);
    assert_eq!(tokens("\x1b[7mx\x1b[27my"), [token("v", "x"), token("", "y")]);
    assert_eq!(tokens("\x1b[7;33mx"), [token("p16 g3", "x")]);
    assert_eq!(tokens("\x1b[30;42;7mx"), [token("p2 g0", "x")]);
    assert_eq!(tokens("\x1b[31;44mx"), [token("p16 g4", "x")]);
    assert_eq!(tokens("\x1b[58;5;1;1mx"), [token("b", "x")]);
    assert_eq!(tokens("\x1b[4:3mx\x1b[4:0my"), [token("u", "x"), token("", "y")]);
    assert_eq!(tokens("\x1b[38;5mx\x1b[48;2;1;2mx\x1b[999mx").len(), 1);
}

#[test]
fn a_colour_goes_on_over_lines_and_stays_in_its_stream() {
    let lines = lines_of(&[
        (Stream::Stderr, b"\x1b[31mone\ntwo "),
        (Stream::Stdout, b"plain\n"),
        (Stream::Stdout, b"more\n"),
    ]);
    assert_eq!(lines[0].tokens[0].class, "f1");
    assert_eq!(lines[0].origin, Origin::Stderr);
    let mixed: Vec<&str> = lines[1].tokens.iter().map(|token| token.class.as_str()).collect();
    assert_eq!((lines[1].origin, mixed.as_slice()), (Origin::Both, ["f1 e", ""].as_slice()));
    assert_eq!((lines[2].origin, lines[2].tokens[0].class.as_str()), (Origin::Stdout, ""));
}

#[test]
fn a_sequence_that_the_other_stream_cuts_is_still_one() {
    let lines = lines_of(&[
        (Stream::Stdout, b"\x1b[3"),
        (Stream::Stderr, b"E"),
        (Stream::Stdout, b"2mgreen \xe2\x82"),
        (Stream::Stderr, b"E"),
        (Stream::Stdout, b"\xac\n"),
    ]);
    let all: Vec<_> =
        lines[0].tokens.iter().map(|token| (token.class.as_str(), token.text.as_str())).collect();
    assert_eq!(all, [("e", "E"), ("f2", "green "), ("e", "E"), ("f2", "€")]);
}

#[test]
fn only_web_addresses_become_links() {
    let hrefs = |text: &str| -> Vec<Option<String>> {
        lines(text)[0].tokens.iter().map(|token| token.href.as_deref().map(str::to_owned)).collect()
    };
    let good = "\x1b]8;id=1;https://example.org/a;b?c=1\x1b\\here\x1b]8;;\x1b\\ there";
    assert_eq!(hrefs(good), [Some("https://example.org/a;b?c=1".to_owned()), None]);
    assert_eq!(hrefs("\x1b]8;;HTTP://x\x07here"), [Some("HTTP://x".to_owned())]);
    for bad in [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "//x",
        "http:x",
        "https://",
        "http://a b",
        "http://\u{202e}x",
    ] {
        assert_eq!(hrefs(&format!("\x1b]8;;{bad}\x07here")), [None], "{bad}");
    }
    let long = format!("\x1b]8;;http://{}\x07here", "x".repeat(3_000));
    assert_eq!(hrefs(&long), [None]);
}

#[test]
fn everything_else_is_dropped() {
    let text = "a\x1b]0;title\x07b\x1b]52;c;ZXZpbA==\x1b\\c\x1bPq#0\x1b\\d\x1b[2J\x1b[10;10He\x1b[?25lf\x1bcg\x1b(0h\x07i\
        \x1b_apc\x1b\\j\x1b[6nk\x1b[>4;2ml\x00m\x7fn\n";
    assert_eq!(texts(text), ["abcdefghijklm\u{fffd}n".replace('\u{fffd}', "")]);
    assert_eq!(tokens(text.trim_end_matches('\n')).len(), 1);
}

#[test]
fn what_never_ends_takes_its_own_line_only() {
    assert_eq!(texts("a\x1b]0;never ending\nb\x1bP never\nc\x1b[\nd\x1b\ne\n"), ["a", "b", "c", "d", "e"]);
}

#[test]
fn bytes_that_are_no_text_are_marked() {
    let rendered = lines_of(&[(Stream::Stdout, b"a\xffb\xc3\x28c\xe2\x82\nd\x93e\xf0\x9f\x98\x80")]);
    let texts: Vec<String> = rendered.iter().map(Line::text).collect();
    assert_eq!(texts, ["a\u{fffd}b\u{fffd}(c\u{fffd}", "d\u{fffd}e😀"]);
}

#[test]
fn long_lines_are_cut_with_a_count() {
    let line = &lines(&"x".repeat(MAX_LINE_CHARS + 5))[0];
    let [text, cut] = line.tokens.as_slice() else { panic!("{:?}", line.tokens.len()) };
    assert_eq!(
        (text.text.len(), cut.text.as_str(), cut.class.as_str()),
        (MAX_LINE_CHARS, " … 5 more", "cut")
    );
    let rewritten = &texts(&format!("{}\r\x1b[Kshort\n", "x".repeat(2 * MAX_LINE_CHARS)))[0];
    assert_eq!(rewritten, "short");
}

#[test]
fn a_few_bytes_make_no_long_line() {
    assert!(texts("\x1b[65535Cx\x1b[65535Gy\n")[0].len() < 1_000);
    assert!(texts(&"\x1b[65535C".repeat(1_000))[0].len() < 1_000);
}

/// Texts that have broken other viewers: markup, templates, queries, formats, terminals, directions, encodings.
const POLYGLOTS: &[&str] = &[
    "jaVasCript:/*-/*`/*\\`/*'/*\"/**/(/* */oNcliCk=alert() )//%0D%0A%0d%0a//</stYle/</titLe/</teXtarEa/</scRipt/--!>\\x3csVg/<sVg/oNloAd=alert()//>\\x3e",
    "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;&amp;&#x3c;",
    "\"'><svg/onload=alert(1)>",
    "{{7*7}}${7*7}<%= 7*7 %>#{7*7}{% raw %}",
    "\x1b]8;;javascript:alert(1)\x07x\x1b]8;;\x07",
    "\x1b]8;;http://x\" onclick=\"alert(1)\x07x\x1b]8;;\x07",
    "\x1b[31;1m\x1b[38;2;1;2;3m\x1b[48;5;300m\x1b[;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;;m",
    "\x1b]52;c;cm0gLXJmIC8=\x07\x1b]0;pwned\x07\x1b[21t\x1b]50;?\x07\x1bP$qm\x1b\\\x1b[c\x1b[5n\x1bZ",
    "admin\u{202e}txt.exe\u{2066}\u{2069}\u{200b}\u{feff}",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "👩‍👩‍👧‍👦🏳️‍🌈 日本語 العربية עברית ไทย",
    "\r\r\r\r\x08\x08\x08\t\t\x1b[K\x1b[1K\x1b[2K\x1b[999D\x1b[999C",
    "\u{9b}31m\u{9d}0;title\u{9c}\u{85}\u{90}q\u{9c}",
    "'; DROP TABLE jobs; -- %s%s%s%n ../../../etc/passwd \\0 NaN null undefined",
];

fn check(lines: &[Line]) {
    for line in lines {
        for token in &line.tokens {
            assert!(!token.text.chars().any(char::is_control), "{token:?}");
            assert!(token.text.chars().count() <= MAX_LINE_CHARS);
            let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == ' ';
            assert!(token.class.chars().all(plain), "{token:?}");
            if let Some(href) = &token.href {
                assert!(href.to_ascii_lowercase().starts_with("http"), "{token:?}");
                assert!(!href.contains(['"', ' ', '<', '>']) || !href.contains('"'), "{token:?}");
            }
        }
    }
}

#[test]
fn nothing_in_the_corpus_gets_through() {
    for text in POLYGLOTS {
        check(&lines(text));
        check(&lines(&POLYGLOTS.concat()));
    }
    let markup = texts(POLYGLOTS[1]);
    assert_eq!(markup, [POLYGLOTS[1]], "text stays the text that it is");
}

#[test]
fn however_the_bytes_are_cut_the_lines_are_the_same() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut records: Vec<(Stream, Vec<u8>)> = Vec::new();
        for _ in 0..rng.random_range(1..12) {
            let stream = if rng.random() { Stream::Stdout } else { Stream::Stderr };
            let mut bytes = POLYGLOTS[rng.random_range(0..POLYGLOTS.len())].as_bytes().to_vec();
            for _ in 0..rng.random_range(0..6) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] =
                    [b'\n', b'\r', 0x1b, 0x9b, 0xff, 0xc2, b'[', b'm', rng.random()][rng.random_range(0..9)];
            }
            records.push((stream, bytes));
        }
        let whole: Vec<(Stream, &[u8])> =
            records.iter().map(|(stream, bytes)| (*stream, bytes.as_slice())).collect();
        let mut cut: Vec<(Stream, &[u8])> = Vec::new();
        for (stream, mut rest) in whole.iter().copied() {
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rng.random_range(1..=rest.len().min(7)));
                cut.push((stream, piece));
                rest = behind;
            }
        }
        let expected = lines_of(&whole);
        check(&expected);
        assert_eq!(lines_of(&cut), expected, "seed {seed}");
        let ends = whole.iter().map(|(_, bytes)| memchr::memchr_iter(b'\n', bytes).count()).sum::<usize>();
        assert!(expected.len() == ends || expected.len() == ends + 1, "seed {seed}");
    }
}

#[test]
fn what_is_sent_is_compact() {
    let line = &lines("\x1b[1mhi\x1b]8;;http://x/\x07!")[0];
    let json = serde_json::to_string(line).unwrap();
    assert_eq!(json, r#"{"s":"out","at":5000,"t":[["b","hi"],["b","!","http://x/"]]}"#);
}
