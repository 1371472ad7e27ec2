//! Regular expressions for values.

use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson::{Compiler, NFA, WhichCaptures};
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{Hir, Look};

/// The longest pattern.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The largest automaton.
const MAX_AUTOMATON_BYTES: usize = 1 << 20;

/// A pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It is no regular expression.
    #[error("this is not a regular expression: {0}")]
    Syntax(String),
    /// Its automaton would be too large, or cannot decide.
    #[error("this regular expression is too large, or has a Unicode word boundary: write (?-u:\\b) for \\b")]
    Unusable,
}

/// Whether values can be matched with a pattern.
///
/// # Errors
/// [`InvalidPattern`].
pub fn check_pattern(pattern: &str) -> Result<(), InvalidPattern> {
    compile(pattern).map(|_| ())
}

/// Whether a pattern matches all of a text. One that cannot be used matches nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let Ok(automaton) = compile(pattern) else { return false };
    let input = Input::new(text).anchored(Anchored::Yes);
    matches!(automaton.try_search_fwd(&mut automaton.create_cache(), &input), Ok(Some(_)))
}

fn compile(pattern: &str) -> Result<DFA, InvalidPattern> {
    let parsed = regex_syntax::Parser::new().parse(pattern);
    let parsed = parsed.map_err(|error| {
        let what = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            other => other.to_string(),
        };
        InvalidPattern::Syntax(what)
    })?;
    let whole = Hir::concat(vec![Hir::look(Look::Start), parsed, Hir::look(Look::End)]);
    let limits = NFA::config().which_captures(WhichCaptures::None).nfa_size_limit(Some(MAX_AUTOMATON_BYTES));
    let automaton = Compiler::new().configure(limits).build_from_hir(&whole);
    let table = DFA::config().skip_cache_capacity_check(true);
    let automaton = automaton.map_err(|_| InvalidPattern::Unusable)?;
    DFA::builder().configure(table).build_from_nfa(automaton).map_err(|_| InvalidPattern::Unusable)
}
