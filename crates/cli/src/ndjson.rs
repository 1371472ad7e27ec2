//! Parses `application/x-ndjson` incrementally with few copies.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{OutputSearched, Problem, Task};
use serde::Deserialize;

use crate::failure::Failure;

/// The API packs at most 256 KiB into a line; even with every byte escaped, and the rest around it, that is shorter.
const MAX_LINE_BYTES: usize = 8 << 20;

/// Cuts a stream of bytes into lines.
#[derive(Default)]
pub struct Lines {
    /// The start of a line whose end has not arrived.
    rest: Vec<u8>,
}

impl Lines {
    /// Takes the next chunk and passes each complete line on, without its line end.
    ///
    /// # Errors
    /// Those of `each`, and [`Failure::Garbled`] if a line does not end.
    pub fn feed(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut from = 0;
        for end in memchr::memchr_iter(b'\n', piece) {
            let part = &piece[from..end];
            from = end + 1;
            if self.rest.is_empty() {
                each(without_return(part))?;
            } else {
                self.rest.extend_from_slice(part);
                each(without_return(&self.rest))?;
                self.rest.clear();
            }
        }
        if self.rest.len() + piece.len() - from > MAX_LINE_BYTES {
            return Err(garbled("a line of the output stream is too long"));
        }
        self.rest.extend_from_slice(&piece[from..]);
        Ok(())
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// One line of an output: the API's `OutputLine`, borrowing what need not be unescaped. A kind of line that this version
/// does not know has neither.
#[derive(Deserialize)]
pub struct OutputLine<'a> {
    /// Bytes of one stream.
    #[serde(borrow, default)]
    pub data: Option<Data<'a>>,
    /// A line that a search found, or one near it.
    #[serde(borrow, default, rename = "match")]
    pub found: Option<Match<'a>>,
    /// How far a search went.
    #[serde(default)]
    pub searched: Option<OutputSearched>,
    /// The end of a task's output.
    #[serde(default)]
    pub end: Option<Box<Task>>,
    /// Why the output breaks off here.
    #[serde(default)]
    pub error: Option<Box<Problem>>,
}

/// A line that a search found: the API's `OutputMatch`.
#[derive(Deserialize)]
pub struct Match<'a> {
    #[serde(borrow)]
    pub task: Cow<'a, str>,
    pub attempt: u32,
    pub line: u64,
    /// Offset of the byte after it.
    pub end: u64,
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    #[serde(borrow, default)]
    pub text: Cow<'a, str>,
    #[serde(borrow, default)]
    pub base64: Cow<'a, str>,
    #[serde(default)]
    pub skipped_bytes: u64,
    #[serde(default)]
    pub cut: bool,
    pub matches: Vec<[u32; 2]>,
    #[serde(default)]
    pub context: bool,
}

/// Bytes of one stream of one attempt.
#[derive(Deserialize)]
pub struct Data<'a> {
    #[serde(borrow)]
    pub task: Cow<'a, str>,
    pub attempt: u32,
    /// Offset of the first byte in the attempt's output.
    pub offset: u64,
    /// When the bytes were read; as text, because it is rarely wanted.
    #[serde(borrow)]
    pub at: Cow<'a, str>,
    pub stream: Stream,
    // Empty where it is left out; no piece is empty, and an `Option` would not borrow.
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(borrow, default)]
    base64: Cow<'a, str>,
}

impl<'a> OutputLine<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if it is something else.
    pub fn read(line: &'a [u8]) -> Result<OutputLine<'a>, Failure> {
        serde_json::from_slice(line)
            .map_err(|error| garbled(&format!("unreadable line in the output stream: {error}")))
    }
}

impl Data<'_> {
    /// The bytes; `scratch` is where they are unpacked if they came in base64.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if it is no base64.
    pub fn bytes<'s>(&'s self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Failure> {
        bytes_of(&self.text, &self.base64, scratch)
    }
}

impl Match<'_> {
    /// The bytes, as [`Data::bytes`] gives them.
    ///
    /// # Errors
    /// [`Failure::Garbled`] if it is no base64.
    pub fn bytes<'s>(&'s self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Failure> {
        bytes_of(&self.text, &self.base64, scratch)
    }
}

fn bytes_of<'s>(text: &'s str, base64: &str, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Failure> {
    if base64.is_empty() {
        return Ok(text.as_bytes());
    }
    scratch.clear();
    STANDARD
        .decode_vec(base64.as_bytes(), scratch)
        .map_err(|error| garbled(&format!("unreadable chunk in the output stream: {error}")))?;
    Ok(scratch)
}

fn garbled(message: &str) -> Failure {
    Failure::Garbled { status: None, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in pieces {
            let fed = lines.feed(piece, |line| {
                seen.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            });
            assert!(fed.is_ok());
        }
        seen
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"{\"a\":1}\n\n{\"b\":\"two\"}\r\n\r\n{\"c\":3}\nunfinished";
        let whole = lines_of(&[text]);
        assert_eq!(whole, ["{\"a\":1}", "", "{\"b\":\"two\"}", "", "{\"c\":3}"]);
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..500 {
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut rest = &text[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(0..=rest.len().min(9)));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(lines_of(&pieces), whole);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; MAX_LINE_BYTES];
        assert!(lines.feed(&piece, |_| Ok(())).is_ok());
        assert!(matches!(lines.feed(b"x", |_| Ok(())), Err(Failure::Garbled { .. })));
    }

    #[test]
    fn data_comes_as_text_or_in_base64() -> Result<(), Failure> {
        let mut scratch = Vec::new();
        let line = br#"{"data":{"task":"main","attempt":1,"offset":0,"at":"2026-01-01T00:00:00Z","stream":"stderr","text":"a\n\u00e9","new":1}}"#;
        let data = OutputLine::read(line)?.data;
        let data = data.as_ref().ok_or_else(|| garbled("no data"))?;
        assert_eq!((data.stream, data.bytes(&mut scratch)?), (Stream::Stderr, "a\né".as_bytes()));

        let line =
            br#"{"data":{"task":"main","attempt":1,"offset":0,"at":"","stream":"stdout","base64":"/wD+"}}"#;
        let data = OutputLine::read(line)?.data;
        let data = data.as_ref().ok_or_else(|| garbled("no data"))?;
        assert_eq!(data.bytes(&mut scratch)?, b"\xff\x00\xfe");

        assert!(OutputLine::read(br#"{"news":{}}"#)?.data.is_none());
        assert!(OutputLine::read(b"<html>").is_err());
        Ok(())
    }
}
