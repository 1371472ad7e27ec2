#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn masks(values: &[&[u8]]) -> Masks {
    let values = values.iter().map(|value| SecretValue::new(value.to_vec())).collect();
    Masks::new(Arc::new(Hidden::of(values)))
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
        let forms = forms::within(MAX_FORM_BYTES, values.iter().map(Vec::as_slice));
        let mut masks = masks(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for _ in 0..10 {
            let bytes = rng.random_range(0..24);
            let text = text(&mut rng, &values, bytes);
            let whole = shown_in(&mut masks, &[&text]);
            assert_eq!(
                String::from_utf8_lossy(&whole),
                String::from_utf8_lossy(&expected(&forms, &text)),
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
    let value = "pa55 w\"rd/ü+x\\y<&'~>";
    let url = "pa55%20w%22rd%2F%C3%BC%2Bx%5Cy%3C%26%27~%3E";
    let json = "pa55 w\\\"rd/\\u00fc+x\\\\y<&'~>";
    let for_pages = |json: &str| json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let markup = "pa55 w\"rd/ü+x\\y&lt;&amp;'~&gt;";
    let forms = [
        value.to_owned(),
        url.to_owned(),
        url.to_lowercase(),
        url.replace("%20", "+"),
        url.replace("%2F", "/"),
        url.replace("%27", "'"),
        url.replace("%20", "+").replace('~', "%7E"),
        serde_json::json!(value).to_string(),
        json.to_owned(),
        json.replace('/', "\\/"),
        for_pages(json),
        for_pages(&json.replace("\\u00fc", "ü")),
        for_pages(json).replace('\'', "\\u0027"),
        "pa55 w\\u0022rd/\\u00FC\\u002Bx\\\\y\\u003C\\u0026\\u0027~\\u003E".to_owned(),
        markup.to_owned(),
        markup.replace('"', "&quot;").replace('\'', "&#39;"),
        markup.replace('"', "&quot;").replace('\'', "&#x27;"),
        markup.replace('"', "&#34;").replace('\'', "&#39;"),
        STANDARD.encode(value),
        URL_SAFE.encode(value),
        URL_SAFE.encode(value).trim_end_matches('=').to_owned(),
    ];
    for form in forms {
        let text = shown(&[value.as_bytes()], format!("<{form}>").as_bytes());
        let inner = text.trim_start_matches('<').trim_end_matches('>').trim_matches('"');
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
    assert!(masks(&[b"abc"]).finders().all(|finder| matches!(finder, Finder::Nothing)));
    let long = vec![b'v'; crate::secrets::MAX_VALUE_BYTES];
    assert_eq!(shown(&[&long], &[b"<", &long[..], b">"].concat()), "<***>");
}

#[test]
fn a_message_is_shown_without_the_values() {
    let mut masks = masks(&[b"hunter2"]);
    assert_eq!(masks.hide_in("cannot connect as admin:hunter2@db"), "cannot connect as admin:***@db");
    assert_eq!(format!("{masks:?}").matches("hunter2").count(), 0);
}

/// Base64 of a text, in lines of this width.
fn in_lines(text: &[u8], width: usize, line_end: &str) -> String {
    let encoded = STANDARD.encode(text);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(line_end)
}

#[test]
fn a_value_within_a_longer_text_in_base64_is_hidden_across_line_ends_however_it_is_cut() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..2_000 {
        let mut random = |most: usize| -> Vec<u8> {
            (0..rng.random_range(0..=most)).map(|_| rng.random_range(b' '..b'~')).collect()
        };
        let (before, value, after) = (random(90), [random(150), b"some more".to_vec()].concat(), random(60));
        let text = [&before[..], &value, &after].concat();
        let line_end = ["\n", "\r\n", "\n    ", "\n\t"][rng.random_range(0..4)];
        let written = in_lines(&text, rng.random_range(RUN..80), line_end);
        let mut masks = masks(&[&value]);
        let whole = shown_in(&mut masks, &[written.as_bytes()]);
        // The same as without line ends.
        let joined = String::from_utf8(whole.clone()).unwrap().replace(line_end, "").replace("******", "***");
        let expected = String::from_utf8(shown_in(&mut masks, &[STANDARD.encode(&text).as_bytes()])).unwrap();
        let once =
            |text: &str| text.split("***").filter(|part| !part.is_empty()).collect::<Vec<_>>().join("***");
        assert_eq!(once(&joined), once(&expected), "{written}");
        for _ in 0..5 {
            let pieces = cut(&mut rng, written.as_bytes());
            assert_eq!(shown_in(&mut masks, &pieces), whole, "{pieces:?}");
        }
        let single: Vec<&[u8]> = written.as_bytes().chunks(1).collect();
        assert_eq!(shown_in(&mut masks, &single), whole);
    }
}

#[test]
fn line_ends_of_other_text_are_shown_at_once() {
    let mut masks = masks(&[b"YWJjZGVmZ2g"]);
    let mut flow = Flow::default();
    // It ends with what a form begins with, but no program breaks base64 there.
    assert_eq!(flow.push(&mut masks, b"ready for a Y\n"), b"ready for a Y\n");
    let line = b"0123456789012345678901234567890123456789YWJj\n";
    assert_eq!(flow.push(&mut masks, line), b"0123456789012345678901234567890123456789");
    assert_eq!(flow.push(&mut masks, b"no"), b"YWJj\nno");
    assert_eq!(flow.push(&mut masks, line), b"0123456789012345678901234567890123456789");
    assert_eq!(flow.push(&mut masks, b"  ZGVmZ2g.\n"), b"***\n  ***.\n");
    // Blank space without an end is not kept.
    assert_eq!(flow.push(&mut masks, line), b"0123456789012345678901234567890123456789");
    let blank = vec![b' '; 1000];
    assert_eq!(flow.push(&mut masks, &blank), [b"YWJj\n", &blank[..]].concat());
}

#[test]
fn values_that_are_a_lot_together_are_hidden_as_they_are() {
    let values: Vec<Vec<u8>> =
        (0..32).map(|number| (1..=28).cycle().skip(number).take(4096).collect()).collect();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).chain([&b"short/one"[..]]).collect();
    let forms = forms::within(MAX_FORM_BYTES, values.iter().copied());
    let bytes: usize = forms.iter().map(Vec::len).sum();
    assert!(bytes <= MAX_FORM_BYTES + 2 * 32 * 4096, "{bytes}");
    let mut masks = masks(&values);
    let text = [values[31], b" ", b"c2hvcnQvb25l"].concat();
    assert_eq!(shown_in(&mut masks, &[&text]), b"*** ***", "the shorter ones have all their forms");
}

#[test]
fn each_value_that_is_added_costs_little_however_many_there_are() {
    let mut masks = masks(&[b"secret"]);
    let mut built = 0;
    for number in 0..200 {
        let before = masks.version;
        masks.add(format!("\x01\x02\x03\x04\x05{number:0140}").as_bytes());
        if masks.version > before {
            built += masks.added.last().unwrap().forms.iter().map(Vec::len).sum::<usize>();
        }
    }
    let all: usize = masks.added.iter().flat_map(|added| &added.forms).map(Vec::len).sum();
    assert!(all <= MAX_ADDED_FORM_BYTES + MAX_ALL_ADDED_BYTES, "{all}");
    assert!(built <= 8 * all, "{built} bytes were built for {all}");
    assert_eq!(masks.added_values, MAX_ADDED);
    assert!(masks.added.len() <= 7, "each byte of output goes through all of them");
    let text = format!("{:0140} {:0140}", 3, 99);
    let shown = shown_in(&mut masks, &[format!("\x01\x02\x03\x04\x05{text}").as_bytes()]);
    assert!(shown.starts_with(b"*** 0"), "{}", String::from_utf8_lossy(&shown));
}

#[test]
fn what_cannot_be_found_is_not_shown() {
    // More than a task can have.
    let values: Vec<SecretValue> =
        (0..80).map(|number| SecretValue::new(vec![number; crate::secrets::MAX_VALUE_BYTES])).collect();
    let mut too_many = Masks::new(Arc::new(Hidden::of(values)));
    for masks in [&mut too_many, &mut Masks::unknown()] {
        assert!(masks.hide_all());
        assert_eq!(shown_in(masks, &[b"some", b" text\n"]), b"");
        assert_eq!(masks.hide_in("cannot connect as admin"), "***");
    }
    // Also if that turns out in the middle of a stream.
    let mut masks = masks(&[b"hunter2"]);
    let mut flow = Flow::default();
    assert_eq!(flow.push(&mut masks, b"a hunt"), b"a ");
    masks.added.push(Added { values: 1, forms: BTreeSet::new(), finder: Finder::Failed });
    masks.version += 1;
    assert_eq!(flow.push(&mut masks, b"er2 and more\n"), b"");
    assert_eq!(flow.finish(&mut masks), b"");
    assert_eq!(flow.held_back(), 0);
}
