#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn masks(values: &[&[u8]]) -> Masks {
    let values: Vec<SecretValue> = values.iter().map(|value| SecretValue::new(value.to_vec())).collect();
    Masks::new(&values)
}

fn shown_in(masks: &mut Masks, pieces: &[&[u8]]) -> Vec<u8> {
    let mut flow = Flow::default();
    let mut shown: Vec<u8> = pieces.iter().flat_map(|piece| flow.push(masks, piece)).collect();
    shown.extend(flow.finish(masks));
    assert_eq!(flow.held_back(), 0);
    shown
}

fn shown(values: &[&[u8]], text: &[u8]) -> String {
    String::from_utf8(shown_in(&mut masks(values), &[text])).unwrap()
}

/// What is to be shown, found the slow way: every place of every form is hidden, and so is an end that begins a form.
fn expected(forms: &BTreeSet<Vec<u8>>, text: &[u8]) -> Vec<u8> {
    let mut hidden = vec![false; text.len()];
    for form in forms {
        for at in 0..text.len() {
            if text[at..].starts_with(form) {
                hidden[at..at + form.len()].fill(true);
            }
        }
    }
    let begins = |end: &[u8]| forms.iter().any(|form| form.len() > end.len() && form.starts_with(end));
    let open = (0..text.len()).find(|at| begins(&text[*at..])).map_or(0, |at| text.len() - at);
    if open > forms.iter().map(|form| form.len() / 4).min().unwrap() {
        hidden[text.len() - open..].fill(true);
    }
    let mut shown = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        match hidden[at] {
            false => shown.push(*byte),
            true if at == 0 || !hidden[at - 1] => shown.extend_from_slice(MARK),
            true => {}
        }
    }
    shown
}

/// A text of few different bytes, in which values begin often and end sometimes.
fn text(rng: &mut StdRng, values: &[Vec<u8>], bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while text.len() < bytes {
        let value = &values[rng.random_range(0..values.len())];
        match rng.random_range(0..4) {
            0 => text.push(b"ab\n "[rng.random_range(0..4)]),
            1 => text.extend_from_slice(value),
            2 => text.extend_from_slice(&value[..rng.random_range(0..value.len())]),
            _ => text.extend_from_slice(STANDARD.encode(value).as_bytes()),
        }
    }
    text
}

fn cut<'t>(rng: &mut StdRng, text: &'t [u8]) -> Vec<&'t [u8]> {
    let mut cuts: Vec<usize> =
        (0..rng.random_range(0..6)).map(|_| rng.random_range(0..=text.len())).collect();
    cuts.extend([0, text.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect()
}

#[test]
fn a_million_ways_to_cut_a_stream_give_the_same_and_nothing_of_a_value() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut cuts = 0;
    for _ in 0..200 {
        // Values that overlap each other and themselves.
        let value = |rng: &mut StdRng| -> Vec<u8> {
            let bytes = rng.random_range(MIN_HIDDEN_BYTES..10);
            (0..bytes).map(|_| b"aab"[rng.random_range(0..3)]).collect()
        };
        let values: Vec<Vec<u8>> = (0..rng.random_range(1..4)).map(|_| value(&mut rng)).collect();
        let mut masks = masks(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for _ in 0..10 {
            let bytes = rng.random_range(0..24);
            let text = text(&mut rng, &values, bytes);
            let whole = shown_in(&mut masks, &[&text]);
            assert_eq!(
                String::from_utf8_lossy(&whole),
                String::from_utf8_lossy(&expected(&masks.forms, &text)),
                "{values:?} in {text:?}"
            );
            for value in &values {
                assert!(memchr::memmem::find(&whole, value).is_none(), "{value:?} in {whole:?}");
            }
            for _ in 0..500 {
                let pieces = cut(&mut rng, &text);
                assert_eq!(shown_in(&mut masks, &pieces), whole, "{values:?} in {pieces:?}");
                cuts += 1;
            }
        }
    }
    assert_eq!(cuts, 1_000_000);
}

#[test]
fn values_that_a_stream_adds_are_hidden_from_there_on_however_it_is_cut() {
    let mut rng = StdRng::seed_from_u64(2);
    let lines: [&[u8]; 8] = [
        b"::add-mask::token one\n",
        b"::add-mask::abab\r\n",
        b"::add-mask::abc\n",
        b"::add-mask::50%25 of it%0Aand more\n",
        b"here is token one and abab, 50% of it\n",
        b" ::add-mask::not at the beginning\n",
        b"::add-mas:k::no\n",
        b"secretsecret\n",
    ];
    for _ in 0..300 {
        let mut text: Vec<u8> = (0..rng.random_range(1..8))
            .flat_map(|_| lines[rng.random_range(0..lines.len())].to_vec())
            .collect();
        text.truncate(text.len() - rng.random_range(0..8));
        let whole = shown_in(&mut masks(&[b"secret"]), &[&text]);
        for _ in 0..20 {
            let pieces = cut(&mut rng, &text);
            let shown = shown_in(&mut masks(&[b"secret"]), &pieces);
            assert_eq!(String::from_utf8_lossy(&shown), String::from_utf8_lossy(&whole), "{pieces:?}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(shown_in(&mut masks(&[b"secret"]), &single), whole);
    }
    assert_eq!(
        shown(&[b"secret"], b"token one\n::add-mask::token one\ntoken one\n::add-mask::abc\nabc\n"),
        "token one\n::add-mask::***\n***\n::add-mask::abc\nabc\n"
    );
    assert_eq!(shown(&[b"secret"], b"::add-mask::50%25 of%0Ait\n50% of\nit\n"), "::add-mask::***\n***\n");
    assert_eq!(shown(&[b"secret"], b"::add-mask::half a li"), "::add-mask::***");
    let long = [ADD_MASK, &[b'x'; MAX_ADDED_BYTES + 1], b"\n"].concat();
    assert_eq!(shown(&[b"secret"], &long).as_bytes(), long, "it is not understood");
}

#[test]
fn a_value_that_one_stream_adds_is_hidden_in_the_other_one() {
    let mut masks = masks(&[b"secret"]);
    let [mut stdout, mut stderr] = [Flow::default(), Flow::default()];
    assert_eq!(stderr.push(&mut masks, b"a token, a tok"), b"a token, a tok");
    assert_eq!(stdout.push(&mut masks, b"::add-mask::token\n"), b"::add-mask::***\n");
    assert_eq!(stderr.push(&mut masks, b"en and a token\n"), b"en and a ***\n");
}

#[test]
fn what_cannot_begin_a_value_is_shown_at_once() {
    let mut masks = masks(&[b"hunter2"]);
    let mut flow = Flow::default();
    assert_eq!(flow.push(&mut masks, b"password: "), b"password: ");
    assert_eq!(flow.push(&mut masks, b"hunt"), b"");
    assert_eq!(flow.push(&mut masks, b"ing\n"), b"hunting\n");
    // As soon as it is complete.
    assert_eq!(flow.push(&mut masks, b"hunter2"), MARK);
    assert_eq!(flow.held_back(), 0);
}

#[test]
fn the_forms_of_a_value_are_hidden() {
    let value = "pa55 w\"rd/ü+x\\y";
    let url = "pa55%20w%22rd%2F%C3%BC%2Bx%5Cy";
    let forms = [
        value.to_owned(),
        url.to_owned(),
        url.to_lowercase(),
        url.replace("%20", "+"),
        url.replace("%2F", "/"),
        serde_json::json!(value).to_string(),
        "pa55 w\\\"rd/\\u00fc+x\\\\y".to_owned(),
        "pa55 w\\\"rd\\/\\u00fc+x\\\\y".to_owned(),
        STANDARD.encode(value),
        URL_SAFE.encode(value),
        URL_SAFE.encode(value).trim_end_matches('=').to_owned(),
    ];
    for form in forms {
        let text = shown(&[value.as_bytes()], format!("<{form}>").as_bytes());
        let inner = text.trim_matches(['<', '>', '"']);
        assert_eq!(inner, "***", "{form}");
    }
}

#[test]
fn a_value_within_a_longer_text_in_base64_is_hidden_wherever_it_begins() {
    let value = b"correct horse battery";
    for before in 0..12 {
        for after in 0..6 {
            let text = [&vec![b'.'; before][..], value, &vec![b'!'; after]].concat();
            for encoded in [STANDARD.encode(&text), URL_SAFE.encode(&text)] {
                let shown = shown(&[value], encoded.as_bytes());
                assert!(shown.contains("***"), "{before} {after}: {encoded} {shown}");
                // What is left depends on what is beside the value: at most two characters on each side.
                let left = shown.replace("***", "").len();
                assert!(
                    left <= before.div_ceil(3) * 4 + after.div_ceil(3) * 4 + 4,
                    "{before} {after}: {shown}"
                );
            }
        }
    }
    let long: Vec<u8> = (0..90).collect();
    let lines: Vec<String> = STANDARD
        .encode(&long)
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    assert_eq!(shown(&[&long], lines.join("\n").as_bytes()), "***\n***");
}

#[test]
fn each_line_of_a_long_value_is_hidden_and_so_is_the_value_without_its_last_line_end() {
    let key = b"-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n";
    assert_eq!(shown(&[key], key), "***\n");
    assert_eq!(shown(&[key], b"  MIIEvQIBADANBg\n  kqhkiG9w0BAQEF\n"), "  ***\n  ***\n");
}

#[test]
fn short_values_are_not_hidden_and_no_values_hide_nothing() {
    assert_eq!(shown(&[b"abc", b"x\n"], b"abc x abc\n"), "abc x abc\n");
    assert!(masks(&[b"abc"]).is_empty() && masks(&[]).is_empty());
    let long = vec![b'v'; crate::secrets::MAX_VALUE_BYTES];
    assert_eq!(shown(&[&long], &[b"<", &long[..], b">"].concat()), "<***>");
}

#[test]
fn a_message_is_shown_without_the_values() {
    let mut masks = masks(&[b"hunter2"]);
    assert_eq!(masks.hide_in("cannot connect as admin:hunter2@db"), "cannot connect as admin:***@db");
    assert_eq!(format!("{masks:?}").matches("hunter2").count(), 0);
}
