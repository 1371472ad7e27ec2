//! Templates: specifications that are saved under a name, in numbered versions that never change.

use crate::document::{Language, SyntaxError, Value};

/// The most templates of a project.
pub const MAX_TEMPLATES: usize = 500;
/// The most versions of a template. Of more, the oldest go; jobs keep what they were made from.
pub const MAX_VERSIONS: u32 = 100;
/// One version of a template, by name and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateRef {
    /// Name of the template.
    pub name: String,
    /// Number of the version, from 1.
    pub version: u32,
}

/// A specification as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText {
    /// What it is written in.
    pub language: Language,
    /// With its comments.
    pub text: String,
}

impl TemplateText {
    /// The document.
    ///
    /// # Errors
    /// When the text cannot be parsed.
    pub fn document(&self) -> Result<Value, SyntaxError> {
        self.language.read(&self.text)
    }
}
