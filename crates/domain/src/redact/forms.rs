//! The forms in which programs print a value: as it is, in base64, in URLs, in JSON, in HTML, and line by line.

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

/// All forms of these values, if they have no more bytes together than this. Beyond it the longest values are hidden as they are,
/// and line by line.
pub fn within<'v>(limit: usize, values: impl IntoIterator<Item = &'v [u8]>) -> BTreeSet<Vec<u8>> {
    let mut values: Vec<&[u8]> = values.into_iter().collect();
    values.sort_by_key(|value| value.len());
    let (mut all, mut bytes) = (BTreeSet::new(), 0);
    for value in values {
        let forms = of(value);
        let more: usize = forms.iter().map(Vec::len).sum();
        if bytes + more <= limit {
            bytes += more;
            all.extend(forms);
        } else {
            all.extend(as_it_is(value));
        }
    }
    all
}

/// All forms of a value; none of a value that is too short.
pub fn of(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = as_it_is(value);
    let core = trimmed(value);
    if (MIN_HIDDEN_BYTES..=MAX_ENCODED_BYTES).contains(&core.len()) {
        forms.extend(in_base64(core));
        forms.extend(in_urls(core));
        forms.extend(in_json(core));
        forms.extend(in_html(core));
    }
    forms.retain(|form| form.len() >= MIN_HIDDEN_BYTES);
    forms
}

/// A value and its lines; nothing of a value that is too short.
fn as_it_is(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut forms = BTreeSet::new();
    // A line end behind it is most often that of the file that it was read from.
    let core = trimmed(value);
    if core.len() < MIN_HIDDEN_BYTES {
        return forms;
    }
    forms.insert(core.to_vec());
    let lines = core.split(|byte| *byte == b'\n').map(trimmed);
    forms.extend(lines.filter(|line| line.len() >= MIN_LINE_BYTES).map(<[u8]>::to_vec));
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
    // RFC 3986; `encodeURIComponent`; the default of Python; HTML forms and Java; PHP.
    let kept: [&[u8]; 5] = [b"-._~", b"-_.!~*'()", b"-_.~/", b"*-._", b"-_."];
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
    let units = |text: &str, is_escaped: fn(char) -> bool| {
        let mut escaped = String::new();
        for character in text.chars() {
            match is_escaped(character) {
                false => escaped.push(character),
                true => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        escaped.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        escaped
    };
    let is_foreign = |character: char| !character.is_ascii();
    let ascii = units(plain, is_foreign);
    // For pages: Go and Ruby, which leave other characters alone, and others, which do not.
    let is_markup = |character: char| matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
    let for_pages = units(plain, is_markup);
    let ascii_for_pages = units(&for_pages, is_foreign);
    // .NET: the escapes that Windows PowerShell writes, and those of today, in capitals, also for quotes and the plus sign.
    let with_apostrophes = ascii_for_pages.replace('\'', "\\u0027");
    let in_capitals = units(&plain.replace("\\\"", "\""), |character| {
        !character.is_ascii() || matches!(character, '<' | '>' | '&' | '\'' | '"' | '+' | '`' | '\u{7f}')
    });
    let in_capitals = in_capitals_from(&in_capitals);
    let slashes = replaced(ascii.as_bytes(), b"/", b"\\/");
    let texts = [plain.to_owned(), ascii, for_pages, ascii_for_pages, with_apostrophes, in_capitals];
    texts.into_iter().map(String::into_bytes).chain([slashes]).collect()
}

/// The digits of `\uXXXX` in capitals.
fn in_capitals_from(text: &str) -> String {
    let mut capitals = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let length = if escape.starts_with("\\u") { 6 } else { 2 };
        let (escape, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
        capitals.push_str(before);
        match length {
            6 => capitals.push_str(&escape.to_ascii_uppercase().replace('U', "u")),
            _ => capitals.push_str(escape),
        }
        rest = after;
    }
    capitals + rest
}

/// With the entities that programs write in HTML and XML.
fn in_html(value: &[u8]) -> Vec<Vec<u8>> {
    let Ok(text) = std::str::from_utf8(value) else { return Vec::new() };
    let markup = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let quotes = [
        ("\"", "'"),
        ("&quot;", "'"),
        ("&quot;", "&#39;"),
        ("&quot;", "&#x27;"),
        ("&quot;", "&#039;"),
        ("&quot;", "&apos;"),
        ("&#34;", "&#39;"),
    ];
    let quoted = quotes.map(|(double, single)| markup.replace('"', double).replace('\'', single));
    quoted.into_iter().map(String::into_bytes).collect()
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
