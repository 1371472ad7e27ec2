//! TOML, with its own parser; duplicate keys are refused.

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::{Budget, Data, Entry, Lines, MAX_DEPTH, MAX_VALUES, ScalarKind, SyntaxError, Value};

/// A value takes at most a key, an equals sign, itself and a comma or a new line.
const MAX_TOKENS: usize = 4 * MAX_VALUES;

pub(super) fn read(text: &str) -> Result<Value, SyntaxError> {
    let lines = Lines::of(text);
    measure(text, &lines)?;
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map(|span| lines.place(span.start));
        SyntaxError { place, pointer: None, message: error.message().to_owned() }
    })?;
    let mut reader = Reader { text, lines: &lines, budget: Budget::default() };
    reader.table(table.get_ref(), table.span().start, 0)
}

/// Refuses what would cost the parser more than it is worth: it takes the whole text apart before it makes anything of
/// it.
fn measure(text: &str, lines: &Lines<'_>) -> Result<(), SyntaxError> {
    let mut tokens = 0;
    let mut depth = 0_usize;
    let mut dots = 0;
    for token in Source::new(text).lex() {
        let place = || lines.place(token.span().start());
        match token.kind() {
            TokenKind::Whitespace | TokenKind::Comment => continue,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            TokenKind::Dot => dots += 1,
            TokenKind::Equals | TokenKind::Newline | TokenKind::Comma => dots = 0,
            _ => {}
        }
        tokens += 1;
        if depth > MAX_DEPTH || dots > MAX_DEPTH {
            return Err(SyntaxError::too_deep(place()));
        }
        if tokens > MAX_TOKENS {
            return Err(SyntaxError::too_many(place()));
        }
    }
    Ok(())
}

struct Reader<'t> {
    text: &'t str,
    lines: &'t Lines<'t>,
    budget: Budget,
}

impl Reader<'_> {
    fn value(&mut self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Value, SyntaxError> {
        let span = value.span();
        let place = self.lines.place(span.start);
        let own_text = self.text.get(span.clone()).unwrap_or_default();
        self.budget.spend(1, 0, place)?;
        Ok(match value.get_ref() {
            DeValue::String(text) => Value::scalar(ScalarKind::Text, text.as_ref(), place),
            DeValue::Integer(_) | DeValue::Float(_) => Value::scalar(ScalarKind::Number, own_text, place),
            DeValue::Boolean(_) => Value::scalar(ScalarKind::Bool, own_text, place),
            // No field is a date: one is as good as a text.
            DeValue::Datetime(_) => Value::scalar(ScalarKind::Text, own_text, place),
            DeValue::Array(_) if depth == MAX_DEPTH => return Err(SyntaxError::too_deep(place)),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.value(item, depth + 1)).collect::<Result<_, _>>()?;
                Value { data: Data::List(items), place: Some(place) }
            }
            DeValue::Table(table) => self.table(table, span.start, depth)?,
        })
    }

    fn table(&mut self, table: &DeTable<'_>, start: usize, depth: usize) -> Result<Value, SyntaxError> {
        let place = self.lines.place(start);
        if depth == MAX_DEPTH {
            return Err(SyntaxError::too_deep(place));
        }
        let mut entries: Vec<(usize, Entry)> = Vec::with_capacity(table.len());
        for (key, value) in table.iter() {
            let at = key.span().start;
            let value = self.value(value, depth + 1)?;
            let key = key.get_ref().to_string();
            entries.push((at, Entry { key, place: Some(self.lines.place(at)), value }));
        }
        // The parser sorts them by name.
        entries.sort_by_key(|(at, _)| *at);
        let entries = entries.into_iter().map(|(_, entry)| entry).collect();
        Ok(Value { data: Data::Object(entries), place: Some(place) })
    }
}
