//! Why a text is not a constraint.

use crate::spelling::with_suggestion;

/// Why a text is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {}", with_suggestion(detail, suggestion.as_deref()))]
pub struct ConstraintError {
    /// The character at which the mistake is, counted from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub detail: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
}
