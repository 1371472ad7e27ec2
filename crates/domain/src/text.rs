//! Decodes text from files, bodies and forms as UTF-8.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

const BOM: &str = "\u{feff}";

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotText {
    /// They are text in an encoding that is not read here.
    Utf16,
    /// They are not UTF-8 from here on.
    Byte {
        /// The line, from 1.
        line: usize,
        /// How many bytes of the line come before it.
        offset: usize,
        /// The byte.
        byte: u8,
    },
}

impl Display for NotText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            NotText::Utf16 => f.write_str("is text in UTF-16: save it as UTF-8"),
            NotText::Byte { line, offset, byte } => {
                write!(f, "is not text in UTF-8: line {line} has the byte {byte:#04x} after {offset} bytes")
            }
        }
    }
}

impl std::error::Error for NotText {}

/// The text that bytes are, without one leading byte order mark.
///
/// # Errors
/// When they are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, NotText> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(without_bom(text)),
        Err(_) if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) => Err(NotText::Utf16),
        Err(error) => {
            let (before, rest) = bytes.split_at(error.valid_up_to());
            let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            Err(NotText::Byte {
                line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
                offset: before.len() - line_start,
                byte: rest.first().copied().unwrap_or_default(),
            })
        }
    }
}

/// The text without one leading byte order mark, which some editors write and no reader of a script understands.
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// A script as a shell understands it: without a byte order mark before its `#!`, and without the carriage returns of
/// a form or of another system's editor, which a shell would take for part of its words.
pub fn script(text: &str) -> Cow<'_, str> {
    let text = without_bom(text);
    if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

/// Bytes for a message: invalid UTF-8 as `\xe9`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_order_mark_is_dropped() {
        assert_eq!(decode(b"\xef\xbb\xbfa"), Ok("a"));
        assert_eq!(decode("\u{feff}\u{feff}a".as_bytes()), Ok("\u{feff}a"));
        assert_eq!(decode(b""), Ok(""));
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        assert_eq!(decode(b"ab\nc\xe9d"), Err(NotText::Byte { line: 2, offset: 1, byte: 0xe9 }));
        assert_eq!(decode(b"\xff\xfea\0"), Err(NotText::Utf16));
        assert_eq!(decode(b"\xfe\xff\0a"), Err(NotText::Utf16));
        assert_eq!(escaped(b"caf\xe9\n"), "caf\\xe9\\n");
    }

    #[test]
    fn a_script_has_the_line_ends_of_a_shell() {
        assert_eq!(script("\u{feff}#!/bin/sh\r\necho a\r\n"), "#!/bin/sh\necho a\n");
        assert_eq!(script("a\rb\n"), "a\rb\n");
    }
}
