//! A strict JSON parser (RFC 8259).

use std::collections::HashMap;

use super::{Budget, Data, Entry, Lines, MAX_DEPTH, Place, Scalar, ScalarKind, SyntaxError, Value};

pub(super) fn read(text: &str) -> Result<Value, SyntaxError> {
    let mut reader = Reader { text, at: 0, lines: Lines::of(text), budget: Budget::default() };
    let value = reader.value(0)?;
    reader.skip_blanks();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.unexpected("the end of the text")),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    lines: Lines<'t>,
    budget: Budget,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.skip_blanks();
        let place = self.place();
        self.budget.spend(1, 0, place)?;
        let data = match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => return Err(SyntaxError::too_deep(place)),
            Some(b'{') => self.object(depth + 1)?,
            Some(b'[') => self.list(depth + 1)?,
            Some(b'"') => Data::Scalar(Scalar::new(ScalarKind::Text, self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Value { data, place: Some(place) })
    }

    fn object(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        self.at += 1;
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, Place> = HashMap::new();
        self.skip_blanks();
        if self.takes(b'}') {
            return Ok(Data::Object(entries));
        }
        loop {
            self.skip_blanks();
            let place = self.place();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in quotes"));
            }
            let key = self.string()?;
            if let Some(first) = known.insert(key.clone(), place) {
                return Err(SyntaxError::twice(&key, Some(first), place));
            }
            self.skip_blanks();
            if !self.takes(b':') {
                return Err(self.unexpected("a colon"));
            }
            let value = self.value(depth).map_err(|error| error.within(&key))?;
            entries.push(Entry { key, place: Some(place), value });
            self.skip_blanks();
            if self.takes(b'}') {
                return Ok(Data::Object(entries));
            }
            if !self.takes(b',') {
                return Err(self.unexpected("a comma or `}`"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Data, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.takes(b']') {
            return Ok(Data::List(items));
        }
        loop {
            items.push(self.value(depth).map_err(|error| error.within(&items.len().to_string()))?);
            self.skip_blanks();
            if self.takes(b']') {
                return Ok(Data::List(items));
            }
            if !self.takes(b',') {
                return Err(self.unexpected("a comma or `]`"));
            }
        }
    }

    fn word(&mut self) -> Result<Data, SyntaxError> {
        let words = [("null", ScalarKind::Null), ("true", ScalarKind::Bool), ("false", ScalarKind::Bool)];
        for (word, kind) in words {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(Data::Scalar(Scalar::new(kind, word)));
            }
        }
        Err(self.unexpected("a value"))
    }

    fn number(&mut self) -> Result<Data, SyntaxError> {
        let start = self.at;
        self.takes(b'-');
        let starts_with_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        let mut is_number = whole > 0 && !(starts_with_zero && whole > 1);
        if self.takes(b'.') {
            is_number &= self.digits() > 0;
        }
        if self.takes(b'e') || self.takes(b'E') {
            let _ = self.takes(b'+') || self.takes(b'-');
            is_number &= self.digits() > 0;
        }
        let text = &self.text[start..self.at];
        if !is_number {
            let message = format!("`{text}` is not a number in JSON: write it in quotes if it is a text");
            return Err(SyntaxError::at(self.lines.place(start), message));
        }
        Ok(Data::Scalar(Scalar::new(ScalarKind::Number, text)))
    }

    /// Consumes digits and returns their number.
    fn digits(&mut self) -> usize {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        count
    }

    /// The text between two quotes, the first of which is next.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let plain = self.rest().bytes().take_while(|byte| *byte >= 0x20 && !matches!(byte, b'"' | b'\\'));
            let count = plain.count();
            text.push_str(&self.rest()[..count]);
            self.at += count;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(control) => {
                    let message = format!(
                        "a text has the control character {control:#04x} in it: write \\u{control:04x}"
                    );
                    return Err(SyntaxError::at(self.place(), message));
                }
                None => {
                    return Err(SyntaxError::at(self.lines.place(start), "this text has no closing quote"));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let start = self.at;
        let wrong = |reader: &Self, message: &str| Err(SyntaxError::at(reader.lines.place(start), message));
        let kind = self.rest().as_bytes().get(1).copied();
        self.at += 1 + self.rest()[1..].chars().next().map_or(0, char::len_utf8);
        Ok(match kind {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.code_unit();
                let second = match first {
                    Some(0xd800..=0xdbff) if self.rest().starts_with("\\u") => {
                        self.at += 2;
                        self.code_unit()
                    }
                    _ => None,
                };
                let units = first.into_iter().chain(second);
                match char::decode_utf16(units).next() {
                    Some(Ok(character)) => character,
                    _ => return wrong(self, "\\u is not followed by the four digits of a character"),
                }
            }
            _ => return wrong(self, "JSON has no such escape"),
        })
    }

    /// The four hexadecimal digits of an escape.
    fn code_unit(&mut self) -> Option<u16> {
        let digits =
            self.rest().get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let unit = u16::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(unit)
    }

    fn skip_blanks(&mut self) {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().take_while(is_blank).count();
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn place(&self) -> Place {
        self.lines.place(self.at)
    }

    fn unexpected(&self, what: &str) -> SyntaxError {
        let found = match self.rest().chars().next() {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => "the end of the text".to_owned(),
        };
        SyntaxError::at(self.place(), format!("expected {what}, found {found}"))
    }
}

pub(super) fn write(value: &Value, indent: Option<usize>, into: &mut String) {
    let inner = indent.map(|indent| indent + 1);
    match &value.data {
        Data::Scalar(scalar) => scalar_as_json(scalar, into),
        Data::List(items) if items.is_empty() => into.push_str("[]"),
        Data::Object(entries) if entries.is_empty() => into.push_str("{}"),
        Data::List(items) => {
            into.push('[');
            for (position, item) in items.iter().enumerate() {
                into.push_str(if position > 0 { "," } else { "" });
                new_line(inner, into);
                write(item, inner, into);
            }
            new_line(indent, into);
            into.push(']');
        }
        Data::Object(entries) => {
            into.push('{');
            for (position, entry) in entries.iter().enumerate() {
                into.push_str(if position > 0 { "," } else { "" });
                new_line(inner, into);
                string_as_json(&entry.key, into);
                into.push_str(if indent.is_some() { ": " } else { ":" });
                write(&entry.value, inner, into);
            }
            new_line(indent, into);
            into.push('}');
        }
    }
}

fn new_line(indent: Option<usize>, into: &mut String) {
    if let Some(indent) = indent {
        into.push('\n');
        into.extend(std::iter::repeat_n("  ", indent));
    }
}

/// What JSON cannot write as it is (`+49`, `0x1F`, `.5`, `True`) becomes a text, which keeps it. A field that is a
/// number or a boolean reads it from there.
fn scalar_as_json(scalar: &Scalar, into: &mut String) {
    let is_json = match scalar.kind {
        ScalarKind::Null => return into.push_str("null"),
        ScalarKind::Text => false,
        ScalarKind::Bool => matches!(scalar.text.as_str(), "true" | "false"),
        ScalarKind::Number => {
            read(&scalar.text).is_ok_and(|value| matches!(&value.data, Data::Scalar(same) if same == scalar))
        }
    };
    if is_json { into.push_str(&scalar.text) } else { string_as_json(&scalar.text, into) }
}

fn string_as_json(text: &str, into: &mut String) {
    into.push_str(&serde_json::Value::from(text).to_string());
}
