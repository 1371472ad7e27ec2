//! What hides secrets in output: however a stream is cut, the same is shown, and no value is in it.

use std::sync::Arc;

use gaffer_domain::redact::{Flow, Hidden, MARK, Masks};
use gaffer_domain::secrets::{MIN_HIDDEN_BYTES, SecretValue};

use crate::pieces::{Pieces, cut, joined};

/// Reads sizes of pieces, up to three values, and a text.
pub fn check(input: &[u8]) {
    let mut input = Pieces(input);
    let sizes = input.counted();
    let values: Vec<&[u8]> = (0..1 + input.byte() % 3).map(|_| input.counted()).collect();
    let text = input.0;
    let whole = shown(&values, &[text]);
    for sizes in [sizes, &[], &[2, 1, 5]] {
        assert_eq!(shown(&values, &cut(text, sizes)), whole, "shown differently in pieces of {sizes:?}");
    }
    for value in values.iter().filter(|value| value.len() >= MIN_HIDDEN_BYTES) {
        // What stands in the place of a value may be a part of another one.
        let is_telling = !value.contains(&MARK[0]) && memchr::memmem::find(b"::add-mask::", value).is_none();
        assert!(!is_telling || memchr::memmem::find(&whole, value).is_none(), "a value is shown");
    }
}

fn shown(values: &[&[u8]], pieces: &[&[u8]]) -> Vec<u8> {
    let values = values.iter().map(|value| SecretValue::new(value.to_vec())).collect();
    let (mut masks, mut flow) = (Masks::new(Arc::new(Hidden::of(values))), Flow::default());
    let mut shown: Vec<u8> = pieces.iter().flat_map(|piece| flow.push(&mut masks, piece)).collect();
    shown.extend(flow.finish(&mut masks));
    assert_eq!(flow.held_back(), 0, "something stays behind");
    shown
}

/// Values in a text as they are, in base64, escaped, and cut off.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |values: &[&[u8]], text: &str| {
        let mut input = joined(&[&[3, 1]], &[u8::try_from(values.len() - 1).unwrap()]);
        input.extend(joined(values, text.as_bytes()));
        input
    };
    vec![
        of(&[b"hunter2!"], "the password is hunter2!, really: hunter2"),
        of(&[b"s3cr\"et"], r#"{"password": "s3cr\"et"} s3cr%22et czNjciJldA=="#),
        of(&[b"abab", b"babab"], "ababababab abab ba\nbab"),
        of(&[b"line one\nline two"], "line one\nline two\nline one\\nline two"),
        of(
            &[b"correct horse battery staple"],
            "YmVmb3JlIGl0IGFuZCBiZWZvcmUgaXQ6IGNvcnJl\n  Y3QgaG9yc2UgYmF0dGVyeSBzdGFwbGUu\r\n",
        ),
        of(&[b"token"], "::add-mask::other\nother token\n::add-mask::50%25\n50%\n"),
    ]
}
