//! Why a text is not a constraint.

/// Why a text is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {detail}{}", suggestion.as_ref().map_or(String::new(), |text| format!(" ({text})")))]
pub struct ConstraintError {
    /// The character at which the mistake is, counted from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub detail: String,
    /// What may have been meant.
    pub suggestion: Option<String>,
}
