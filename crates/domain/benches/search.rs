//! How fast outputs are searched, and how long an expression may keep a turn: `cargo bench -p gaffer-domain --bench search`.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use gaffer_domain::search::{FoundLine, LineQuery, LineSearch, Pattern, Piece, Turn};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// How much text, in pieces of this size.
const TEXT_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 256 << 10;
/// How long a turn is, as the master has it.
const TURN: Duration = Duration::from_millis(50);
/// How long an expression is searched for at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a search came to.
struct Measured {
    bytes: usize,
    took: Duration,
    found: u64,
    /// The longest turn.
    longest: Duration,
}

fn measure(pattern: &Pattern, text: &[u8]) -> Measured {
    let mut search = LineSearch::new(LineQuery::new(pattern.clone()), 0);
    let (mut found, mut longest, mut bytes) = (Vec::<FoundLine<()>>::new(), Duration::ZERO, 0);
    let begun = Instant::now();
    'text: for (index, piece) in text.chunks(PIECE_BYTES).enumerate() {
        let offset = (index * PIECE_BYTES) as u64;
        search.push(Piece { offset, lines_before: 0, tag: (), bytes: piece });
        loop {
            let turn = Instant::now();
            let mut is_over = || turn.elapsed() >= TURN;
            let needs_text = search.advance(1_000, &mut found, &mut Turn::new(&mut is_over));
            longest = longest.max(turn.elapsed());
            found.clear();
            if needs_text {
                break;
            }
            if begun.elapsed() > PATIENCE {
                break 'text;
            }
        }
        bytes += piece.len();
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    Measured { bytes, took: begun.elapsed(), found: search.found(), longest }
}

fn show(name: &str, pattern: &str, text: &[u8]) {
    let begun = Instant::now();
    let compiled = Pattern::compile(pattern);
    let compiling = begun.elapsed();
    let shown: String = pattern.chars().take(40).collect();
    let Ok(compiled) = compiled else {
        println!("{name:9} {shown:40} refused after {compiling:.1?}");
        return;
    };
    let Measured { bytes, took, found, longest } = measure(&compiled, text);
    let speed = bytes as f64 / took.as_secs_f64() / 1e6;
    println!(
        "{name:9} {shown:40} compiled in {compiling:9.1?}  {speed:9.1} MB/s  {found:8} found  longest turn {longest:.1?}"
    );
}

/// Lines as programs write them.
fn log_lines() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let words =
        ["request", "handled", "cache", "miss", "user", "session", "started", "retry", "worker", "idle"];
    let mut text = Vec::with_capacity(TEXT_BYTES);
    let mut line = 0_u64;
    while text.len() < TEXT_BYTES {
        line += 1;
        let level = if line.is_multiple_of(5_000) { "ERROR" } else { "INFO" };
        let (one, other) = (words.choose(&mut random), words.choose(&mut random));
        let (one, other) = (one.copied().unwrap_or_default(), other.copied().unwrap_or_default());
        let took = random.random_range(1..10_000);
        let text_line = format!(
            "2026-11-29T12:{:02}:{:02}.{:06}Z {level} server::{one} {other} id={line:08x} took {took}ms path=/api/v1/{other}/{took}\n",
            line / 60_000 % 60,
            line / 1_000 % 60,
            line % 1_000_000
        );
        text.extend_from_slice(text_line.as_bytes());
    }
    text
}

fn random_text(of: &[&str], line: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(2);
    let (mut text, mut since) = (Vec::with_capacity(TEXT_BYTES), 0);
    while text.len() < TEXT_BYTES {
        let piece = of.choose(&mut random).copied().unwrap_or_default();
        text.extend_from_slice(piece.as_bytes());
        since += piece.len();
        if since >= line {
            text.push(b'\n');
            since = 0;
        }
    }
    text
}

fn main() {
    let log = log_lines();
    for pattern in [
        "id=0001f4a0",
        "ERROR",
        "ERROR|refused",
        "(?i)error",
        r"took \d{4}ms",
        r"\d{4}ms",
        r"\w+ retry id=\w+ took 77\d+ms",
        r"^2026.*ERROR.*server::idle",
        r"\bidle\b.*7ms",
        "nothing like it$",
        "[^a-zA-Z0-9 .:=/_-]",
        ".",
    ] {
        show("log", pattern, &log);
    }
    let letters = random_text(&["a", "b"], usize::MAX);
    let words = random_text(&["a", "b", "ab ", "Zz", "\u{e4}", "\u{17f}", "\u{3b1}\u{3b2}", "0"], 2_000);
    let alternatives: String = (0..300).map(|n| format!("{n:x}x")).collect::<Vec<_>>().join("|");
    let costly = [
        "[ab]*a[ab]{4000}c".to_owned(),
        "(?:a|b|ab|ba){5000}c".to_owned(),
        r"\w{50}c".to_owned(),
        r"(?:\w|\d|\s){16}\w{16}!".to_owned(),
        r"(?i)(?:\w+\s*){12}!".to_owned(),
        r".*.*.*.*.*.*.*.*x".to_owned(),
        r"(?:.*a.*b){300}!".to_owned(),
        r"\b(?:\w|[ab]){40}\b!".to_owned(),
        r"(?:[ab]{0,90}a){60}!".to_owned(),
        format!("(?:{alternatives}|a|b){{20}}!"),
        r"(?:a?){3000}a{3000}!".to_owned(),
        r"(?i)[\w--\d&&\pL]{30}!".to_owned(),
    ];
    for pattern in &costly {
        show("letters", pattern, &letters);
        show("words", pattern, &words);
    }
    let compiled = [
        "\\pL".repeat(1_300),
        "(?i)".to_owned() + &"[\\pL&&\\w]".repeat(400),
        "[^\\pL]".repeat(500),
        "(?i)".to_owned() + &"\u{3b1}".repeat(2_000),
        r"\w{1,5000}".to_owned(),
        "(((((a{1,100}){1,100}){1,100}){1,100}){1,100}){1,100}".to_owned(),
        "(?:".repeat(90) + "a" + &"{1,9})".repeat(90),
        "x|".repeat(2_000) + "y",
    ];
    for pattern in &compiled {
        show("compile", pattern, b"text\n");
    }
}
