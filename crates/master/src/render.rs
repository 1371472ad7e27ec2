//! Renders raw output as lines of styled tokens; never markup.
//!
//! The result is what a terminal would leave on the line: colours and weights, `\r`, backspace, tab and erasing. Sequences
//! that affect more than the line (cursor movement, titles, clipboard, sounds, modes) are dropped, so a line of output is
//! always one line here, with the number that the store counts.

mod line;
mod palette;
mod pen;

use std::sync::Arc;

use gaffer_protocol::output::Stream;
use serde::ser::{Serialize, SerializeTuple, Serializer};
use vte::{Params, Parser, Perform};

use self::line::OpenLine;
pub use self::palette::stylesheet;
use self::pen::Pen;

/// Maximum number of characters shown per line; the rest is counted.
pub const MAX_LINE_CHARS: usize = 10_000;
/// Style class of the token for hidden characters.
const CUT: &str = "cut";
/// Style class of what was looked for.
const MARKED: &str = "hit";
/// Longer addresses make no link.
const MAX_LINK_BYTES: usize = 2_048;

/// A piece of a line that looks the same throughout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Names of its style classes, separated by spaces; from a fixed set, never from the output.
    pub class: String,
    /// Its text, without control characters.
    pub text: String,
    /// Where it leads: an `http` or `https` address.
    pub href: Option<Arc<str>>,
}

impl Token {
    /// Changes the count of hidden characters to "and more".
    pub fn admit_more(&mut self) {
        if self.class == CUT {
            self.text = " … and more".to_owned();
        }
    }
}

impl Serialize for Token {
    /// `[class, text]` or `[class, text, href]`; these are half of the bytes sent to viewers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2 + usize::from(self.href.is_some()))?;
        tuple.serialize_element(&self.class)?;
        tuple.serialize_element(&self.text)?;
        if let Some(href) = &self.href {
            tuple.serialize_element(&**href)?;
        }
        tuple.end()
    }
}

/// Which streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Origin {
    /// Standard output only.
    #[serde(rename = "out")]
    Stdout,
    /// Standard error only.
    #[serde(rename = "err")]
    Stderr,
    /// Both; the tokens of standard error have the class `e`.
    #[serde(rename = "mix")]
    Both,
}

impl Origin {
    /// The name of its style class.
    pub fn class(self) -> &'static str {
        match self {
            Origin::Stdout => "out",
            Origin::Stderr => "err",
            Origin::Both => "mix",
        }
    }
}

/// A line as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    #[serde(rename = "s")]
    pub origin: Origin,
    /// When its first bytes were read, in milliseconds since 1970 by the worker's clock.
    #[serde(rename = "at")]
    pub at_millis: u64,
    #[serde(rename = "t")]
    pub tokens: Vec<Token>,
}

impl Line {
    pub fn text(&self) -> String {
        self.tokens.iter().map(|token| token.text.as_str()).collect()
    }
}

/// Reads output and makes lines of it. However the bytes are cut into pieces, the lines are the same.
#[derive(Default)]
pub struct Renderer {
    line: OpenLine,
    stdout: Channel,
    stderr: Channel,
}

/// What one stream has set: each has its own, so that an escape sequence that is cut by the other stream, or a colour
/// that is never reset, does no harm there.
#[derive(Default)]
struct Channel {
    parser: Parser,
    pen: Pen,
    link: Option<Arc<str>>,
    /// The beginning of an incomplete character. Kept out of the parser, which loses text after a truncated
    /// character.
    unfinished: Vec<u8>,
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Renderer {
    /// One that has read nothing.
    pub fn new() -> Renderer {
        Renderer::default()
    }

    /// Reads bytes of one stream and appends the lines that they end.
    pub fn push(&mut self, at_micros: u64, stream: Stream, bytes: &[u8], lines: &mut Vec<Line>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest);
            let (piece, behind) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            rest = behind;
            self.line.touch(at_micros);
            let channel = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            channel.advance(piece, stream, &mut self.line);
            if end.is_some() {
                // Sequences end with their line: an unfinished title would swallow the rest.
                channel.parser = Parser::default();
                lines.push(self.line.finish(stream));
            }
        }
    }

    /// From now on, what is read is marked as what was looked for, or not any more.
    pub fn mark(&mut self, is_marked: bool) {
        self.line.is_marked = is_marked;
    }

    /// The line that has begun and not ended, as it looks by now.
    pub fn partial(&self) -> Option<Line> {
        self.line.has_begun().then(|| self.line.clone().finish(Stream::Stdout))
    }
}

impl Channel {
    /// Reads some bytes, of which at most the last ends a line.
    fn advance(&mut self, piece: &[u8], stream: Stream, line: &mut OpenLine) {
        let mut screen = Screen { line, stream, pen: &mut self.pen, link: &mut self.link };
        let joined;
        let piece = match self.unfinished.is_empty() {
            true => piece,
            false => {
                joined = [&self.unfinished, piece].concat();
                &joined
            }
        };
        let (whole, unfinished) = piece.split_at(piece.len() - unfinished_len(piece));
        self.parser.advance(&mut screen, whole);
        self.unfinished = unfinished.to_vec();
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished_len(bytes: &[u8]) -> usize {
    let is_unfinished = |len: &usize| {
        let end = &bytes[bytes.len() - len..];
        end[0] >= 0xc0 && std::str::from_utf8(end).is_err_and(|error| error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(is_unfinished).unwrap_or(0)
}

/// Where one stream's characters and commands go.
struct Screen<'a> {
    line: &'a mut OpenLine,
    stream: Stream,
    pen: &'a mut Pen,
    link: &'a mut Option<Arc<str>>,
}

impl Perform for Screen<'_> {
    fn print(&mut self, char: char) {
        match char {
            char if char.is_control() => self.execute(char as u8),
            // These turn the order of the characters behind them around, to the end of what they are shown in.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => {
                self.line.print(char::REPLACEMENT_CHARACTER, *self.pen, self.stream, self.link.as_ref());
            }
            char => self.line.print(char, *self.pen, self.stream, self.link.as_ref()),
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\r' => self.line.go_to(0),
            b'\t' => self.line.tab(),
            0x08 => self.line.go_by(-1),
            // A byte that is no UTF-8, where old terminals knew one more set of controls.
            0x80..=0x9f => {
                self.line.print(char::REPLACEMENT_CHARACTER, *self.pen, self.stream, self.link.as_ref());
            }
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        if !intermediates.is_empty() {
            return;
        }
        let first = params.iter().next().and_then(|param| param.first().copied()).unwrap_or(0);
        let distance = i32::from(first.max(1));
        match action {
            'm' => self.pen.select(params),
            'K' => self.line.erase(first, self.stream),
            'C' => self.line.go_by(distance),
            'D' => self.line.go_by(-distance),
            'G' | '`' => self.line.go_to(usize::from(first.max(1)) - 1),
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell_terminated: bool) {
        // `8;parameters;address`; an empty address ends the link. Addresses may contain semicolons.
        if let [b"8", _, address @ ..] = params {
            *self.link = link(&address.join(&b';'));
        }
    }
}

/// A safe link: http or https, without characters that hide its target.
fn link(address: &[u8]) -> Option<Arc<str>> {
    let address = std::str::from_utf8(address).ok()?;
    let (scheme, rest) = address.split_once("://")?;
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let is_plain =
        address.chars().all(|char| char.is_ascii_graphic() || (!char.is_ascii() && char.is_alphanumeric()));
    (is_web && is_plain && !rest.is_empty() && address.len() <= MAX_LINK_BYTES).then(|| address.into())
}

#[cfg(test)]
mod tests;
