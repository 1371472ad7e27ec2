//! A regular expression that matches inside a line: many lines are searched at once, and no match contains a line end.

use std::fmt;
use std::ops::Range;

use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson::{Compiler, NFA, WhichCaptures};
use regex_automata::util::prefilter::Prefilter;
use regex_automata::{MatchKind, Span};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

use super::leaps::Leaps;

/// The longest pattern.
pub const MAX_PATTERN_BYTES: usize = 4 << 10;
/// The largest automaton: what each byte of a text may cost is proportional to it.
const MAX_AUTOMATON_BYTES: usize = 1 << 20;
/// How much of its table is kept that was computed while searching.
const TABLE_BYTES: usize = 2 << 20;
const MAX_NESTING: u32 = 100;

/// A compiled regular expression. Its search takes time proportional to the text, whatever the pattern is.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    /// The automaton, and the rules of its table of states, which each search computes as it needs it.
    table: DFA,
    /// Finds what each match begins with, if that is a few literals.
    beginnings: Option<Prefilter>,
    /// Leaps to where a match may begin; none with `beginnings`, which are faster.
    leaps: Option<Leaps>,
    /// How long a match can be, if there is a limit.
    longest_match: Option<usize>,
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
        let expression = within_a_line(&parsed)?;
        let automaton = NFA::config()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_AUTOMATON_BYTES));
        // What else can fail than its size was found by the parser.
        let automaton = Compiler::new()
            .configure(automaton)
            .build_from_hir(&expression)
            .map_err(|_| InvalidPattern::TooLarge)?;
        // To look for beginnings that are everywhere takes longer than to walk the table.
        let beginnings =
            Prefilter::from_hir_prefix(MatchKind::LeftmostFirst, &expression).filter(Prefilter::is_fast);
        let leaps = match beginnings {
            Some(_) => None,
            None => Leaps::of(&automaton, expression.properties().minimum_len().unwrap_or(0)),
        };
        let table = DFA::config()
            .unicode_word_boundary(true)
            .specialize_start_states(beginnings.is_some() || leaps.is_some())
            .cache_capacity(TABLE_BYTES)
            .skip_cache_capacity_check(true);
        let table = DFA::builder()
            .configure(table)
            .build_from_nfa(automaton)
            .map_err(|_| InvalidPattern::TooLarge)?;
        let longest_match = expression.properties().maximum_len();
        Ok(Pattern { text: text.to_owned(), table, beginnings, leaps, longest_match })
    }

    pub(super) fn table(&self) -> &DFA {
        &self.table
    }

    pub(super) fn nfa(&self) -> &NFA {
        self.table.get_nfa()
    }

    /// How many states the automaton has.
    pub(super) fn states(&self) -> usize {
        self.nfa().states().len()
    }

    /// Where the leftmost match of a text may begin at the earliest, if the first one to end ends here: it ends no earlier.
    pub(super) fn earliest_start(&self, first_end: usize) -> usize {
        self.longest_match.map_or(0, |longest| first_end.saturating_sub(longest))
    }

    /// How to leap to where a match may begin, if that is faster than the table of states.
    pub(super) fn leaps(&self) -> Option<&Leaps> {
        self.leaps.as_ref()
    }

    /// The first place in a part of a text where a match may begin, by the literals that it begins with; none if nowhere.
    pub(super) fn next_candidate(&self, text: &[u8], part: Range<usize>) -> Option<usize> {
        match &self.beginnings {
            _ if part.start > part.end => None,
            None => Some(part.start),
            Some(beginnings) => beginnings.find(text, Span::from(part)).map(|found| found.start),
        }
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
