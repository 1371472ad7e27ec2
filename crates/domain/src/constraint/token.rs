//! Splits a constraint into tokens, and quotes words so that they parse back unchanged.

use std::fmt::{self, Display, Formatter, Write};
use std::iter::Peekable;
use std::str::Chars;

use super::Operator;
use super::error::ConstraintError;
use crate::quantity::shown;

/// Words that mean something to the grammar; as values they stand in quotes.
pub(super) const KEYWORDS: [&str; 4] = ["and", "or", "not", "in"];

/// The smallest pieces of a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Without quotes: a keyword, a fact or a value.
    Word(String),
    /// In quotes: a value.
    Quoted(String),
    Operator(Operator),
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Comma,
    End,
}

impl Display for Token {
    /// As it is spoken of in a complaint.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let symbol = match self {
            Token::Word(text) | Token::Quoted(text) => return f.write_str(&shown(text)),
            Token::Operator(operator) => operator.as_str(),
            Token::OpenParen => "(",
            Token::CloseParen => ")",
            Token::OpenBracket => "[",
            Token::CloseBracket => "]",
            Token::Comma => ",",
            Token::End => return f.write_str("the end"),
        };
        write!(f, "`{symbol}`")
    }
}

/// What may be in a word without quotes.
pub(super) fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-/:+@%~*".contains(c)
}

/// Writes a text as a value: in quotes only where it needs them.
pub(super) fn write_text(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    if !text.is_empty() && text.chars().all(is_word_char) && !KEYWORDS.contains(&text) {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// All tokens with their columns, [`Token::End`] last. Columns count characters from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ConstraintError> {
    let mut rest = Rest { chars: text.chars().peekable(), column: 1 };
    let mut tokens = Vec::new();
    loop {
        while rest.take_if(char::is_whitespace).is_some() {}
        let column = rest.column;
        let token = rest.token()?;
        let is_end = token == Token::End;
        tokens.push((column, token));
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Rest<'a> {
    chars: Peekable<Chars<'a>>,
    column: usize,
}

impl Rest<'_> {
    fn take_if(&mut self, wanted: impl FnOnce(char) -> bool) -> Option<char> {
        let taken = self.chars.next_if(|c| wanted(*c))?;
        self.column += 1;
        Some(taken)
    }

    fn token(&mut self) -> Result<Token, ConstraintError> {
        let column = self.column;
        let Some(first) = self.take_if(|_| true) else { return Ok(Token::End) };
        let wrong = |detail: &str, suggestion: &str| {
            let suggestion = (!suggestion.is_empty()).then(|| suggestion.to_owned());
            Err(ConstraintError { column, detail: detail.to_owned(), suggestion })
        };
        Ok(match first {
            '(' => Token::OpenParen,
            ')' => Token::CloseParen,
            '[' => Token::OpenBracket,
            ']' => Token::CloseBracket,
            ',' => Token::Comma,
            '"' | '\'' => return self.quoted(first, column),
            '=' | '!' | '<' | '>' => match (first, self.take_if(|c| c == '=').is_some()) {
                ('=', true) => Token::Operator(Operator::Equal),
                ('!', true) => Token::Operator(Operator::NotEqual),
                ('<', true) => Token::Operator(Operator::AtMost),
                ('>', true) => Token::Operator(Operator::AtLeast),
                ('<', false) => Token::Operator(Operator::Less),
                ('>', false) => Token::Operator(Operator::Greater),
                ('=', false) => return wrong("`=` is not an operator", "write `==`"),
                _ => return wrong("`!` is not an operator", "write `not`, or `!=` to compare"),
            },
            '&' => return wrong("`&` is not an operator", "write `and`"),
            '|' => return wrong("`|` is not an operator", "write `or`"),
            first if is_word_char(first) => {
                let mut word = String::from(first);
                while let Some(c) = self.take_if(is_word_char) {
                    word.push(c);
                }
                Token::Word(word)
            }
            other => {
                let detail = format!("{} cannot stand here", shown(&other.to_string()));
                return wrong(&detail, "values with such characters are written in quotes");
            }
        })
    }

    fn quoted(&mut self, quote: char, column: usize) -> Result<Token, ConstraintError> {
        let mut text = String::new();
        loop {
            let at = self.column;
            match self.take_if(|_| true) {
                Some(c) if c == quote => return Ok(Token::Quoted(text)),
                Some('\\') => match self.take_if(|c| matches!(c, '"' | '\'' | '\\')) {
                    Some(c) => text.push(c),
                    None => {
                        let detail = "after `\\` comes a quote or another `\\`".to_owned();
                        return Err(ConstraintError { column: at, detail, suggestion: None });
                    }
                },
                Some(c) if c.is_control() => {
                    let detail = "a value has no control characters".to_owned();
                    return Err(ConstraintError { column: at, detail, suggestion: None });
                }
                Some(c) => text.push(c),
                None => {
                    let detail = "the quote that opens here is never closed".to_owned();
                    return Err(ConstraintError { column, detail, suggestion: None });
                }
            }
        }
    }
}
