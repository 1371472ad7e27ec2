//! A regular expression that matches inside a line: many lines are searched at once, and no match contains a line end.

use std::fmt;
use std::ops::Range;

use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

/// The longest pattern.
pub const MAX_PATTERN_BYTES: usize = 4 << 10;
/// The largest automaton: what each byte of a text may cost is proportional to it.
const MAX_AUTOMATON_BYTES: usize = 2 << 20;
/// How much of the automaton's states is computed in advance and kept.
const CACHE_BYTES: usize = 2 << 20;
const MAX_NESTING: u32 = 100;

/// A compiled regular expression. Its search takes time proportional to the text, whatever the pattern is.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// A pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("the regular expression is longer than {MAX_PATTERN_BYTES} bytes; search for a part of it")]
    TooLong,
    /// It is no regular expression.
    #[error("this is not a regular expression: {what}, at character {column}")]
    Syntax {
        /// What is wrong, in the words of the parser.
        what: String,
        /// Where, counted from 1.
        column: usize,
    },
    /// It has a line end in it.
    #[error("`\\n` matches nothing, because each line is searched without its line end; use `^` and `$`")]
    LineEnd,
    /// The automaton would be too large.
    #[error(
        "the regular expression is too large: its automaton needs more than {} MiB; use smaller counts in \
         repetitions, or (?-u) for ASCII classes",
        MAX_AUTOMATON_BYTES >> 20
    )]
    TooLarge,
}

impl Pattern {
    /// Compiles a regular expression in the syntax of the `regex` crate.
    ///
    /// # Errors
    /// [`InvalidPattern`] says what is wrong and where.
    pub fn compile(text: &str) -> Result<Pattern, InvalidPattern> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(InvalidPattern::TooLong);
        }
        let mut parser =
            ParserBuilder::new().utf8(false).multi_line(true).crlf(true).nest_limit(MAX_NESTING).build();
        let parsed = parser.parse(text).map_err(syntax)?;
        let config = Regex::config()
            .utf8_empty(false)
            .which_captures(WhichCaptures::Implicit)
            .nfa_size_limit(Some(MAX_AUTOMATON_BYTES))
            .hybrid_cache_capacity(CACHE_BYTES);
        let regex = Regex::builder().configure(config).build_from_hir(&within_a_line(&parsed)?);
        // What else can fail than its size was found by the parser.
        let pattern = |regex| Pattern { text: text.to_owned(), regex };
        regex.map(pattern).map_err(|_| InvalidPattern::TooLarge)
    }

    /// The leftmost match that lies in this part of a text. What is around it counts for `^`, `$` and `\b`.
    pub(super) fn find(&self, text: &[u8], part: Range<usize>) -> Option<Range<usize>> {
        self.regex.search(&Input::new(text).range(part)).map(|found| found.range())
    }
}

fn syntax(error: regex_syntax::Error) -> InvalidPattern {
    let (what, column) = match &error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.column),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.column),
        // No other kind is known today.
        other => (other.to_string(), 1),
    };
    InvalidPattern::Syntax { what, column }
}

/// The same expression, of whose classes none contains a line end, and for which a text begins and ends with each line.
fn within_a_line(hir: &Hir) -> Result<Hir, InvalidPattern> {
    let all = |subs: &[Hir]| subs.iter().map(within_a_line).collect::<Result<Vec<_>, _>>();
    Ok(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => return Err(InvalidPattern::LineEnd),
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(Look::Start) => Hir::look(Look::StartCRLF),
        HirKind::Look(Look::End) => Hir::look(Look::EndCRLF),
        HirKind::Look(look) => Hir::look(*look),
        HirKind::Repetition(repetition) => Hir::repetition(repetition.with(within_a_line(&repetition.sub)?)),
        HirKind::Capture(capture) => {
            Hir::capture(Capture { sub: Box::new(within_a_line(&capture.sub)?), ..capture.clone() })
        }
        HirKind::Concat(subs) => Hir::concat(all(subs)?),
        HirKind::Alternation(subs) => Hir::alternation(all(subs)?),
    })
}
