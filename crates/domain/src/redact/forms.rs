//! The forms in which programs print a value: as it is, in base64, in URLs, in JSON, and line by line.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::secrets::MIN_HIDDEN_BYTES;

/// Of longer values only the value itself and its lines are hidden.
pub const MAX_ENCODED_BYTES: usize = 4 << 10;
/// Shorter lines of a value with several lines are not hidden on their own.
const MIN_LINE_BYTES: usize = 8;
/// Where programs break lines of base64: `base64`, and `openssl` with everything that writes PEM.
const LINE_WIDTHS: [usize; 2] = [76, 64];

/// All forms of a value; none of a value that is too short.
pub fn of(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    // A line end behind it is most often that of the file that it was read from.
    let core = trimmed(value);
    if core.len() < MIN_HIDDEN_BYTES {
        return forms;
    }
    forms.insert(core.to_vec());
    let lines = core.split(|byte| *byte == b'\n').map(trimmed);
    forms.extend(lines.filter(|line| line.len() >= MIN_LINE_BYTES).map(<[u8]>::to_vec));
    if core.len() <= MAX_ENCODED_BYTES {
        forms.extend(in_base64(core));
        forms.extend(in_urls(core));
        forms.extend(in_json(core));
    }
    forms.retain(|form| form.len() >= MIN_HIDDEN_BYTES);
    forms
}

fn trimmed(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
    value.get(..end).unwrap_or_default()
}

/// In base64, with nothing, one or two bytes before it in the group of three that it begins in. Characters that depend on what is
/// beside it are left out.
fn in_base64(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for (before, skipped) in [(0_usize, 0_usize), (1, 2), (2, 3)] {
        let text = STANDARD_NO_PAD.encode([&vec![0; before], value].concat());
        let whole = (before + value.len()) * 8 / 6;
        forms.extend(text.as_bytes().get(skipped..whole).map(<[u8]>::to_vec));
    }
    let alone = STANDARD.encode(value).into_bytes();
    for width in LINE_WIDTHS {
        if alone.len() > width {
            forms.extend(alone.chunks(width).map(<[u8]>::to_vec));
        }
    }
    forms.push(trimmed_padding(&alone));
    forms.push(alone);
    let other_alphabet = forms.iter().map(|form| {
        let other = |byte: &u8| match byte {
            b'+' => b'-',
            b'/' => b'_',
            byte => *byte,
        };
        form.iter().map(other).collect()
    });
    let other_alphabet: Vec<Vec<u8>> = other_alphabet.collect();
    forms.extend(other_alphabet);
    forms
}

fn trimmed_padding(text: &[u8]) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_vec()
}

/// With `%` and two digits for what may not stand in a URL, as the usual programs decide that.
fn in_urls(value: &[u8]) -> Vec<Vec<u8>> {
    let kept: [&[u8]; 3] = [b"-._~", b"-_.!~*'()", b"-_.~/"];
    let mut forms = Vec::new();
    for kept in kept {
        for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
            let encoded = value.iter().flat_map(|byte| {
                let digit = |four: u8| digits.get(usize::from(four)).copied().unwrap_or(b'0');
                match byte {
                    byte if byte.is_ascii_alphanumeric() || kept.contains(byte) => vec![*byte],
                    byte => vec![b'%', digit(byte >> 4), digit(byte & 15)],
                }
            });
            let encoded: Vec<u8> = encoded.collect();
            if value.contains(&b' ') {
                forms.push(replaced(&encoded, b"%20", b"+"));
            }
            forms.push(encoded);
        }
    }
    forms
}

/// As the content of a JSON string, escaped as most programs do it.
fn in_json(value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(value) else { return Vec::new() };
    let quoted = serde_json::Value::from(text).to_string();
    let plain = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    let mut ascii = String::new();
    for character in plain.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    let slashes = replaced(ascii.as_bytes(), b"/", b"\\/");
    vec![plain.as_bytes().to_vec(), ascii.into_bytes(), slashes]
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            result.extend_from_slice(to);
            rest = after;
        } else {
            result.push(*byte);
            rest = after;
        }
    }
    result
}
