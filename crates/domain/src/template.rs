//! Templates: specifications that are saved under a name, in numbered versions that never change.

use crate::document::{Language, SyntaxError, Value};

/// The most templates of a project.
pub const MAX_TEMPLATES: usize = 500;
/// The most versions of a template. Of more, the oldest go; jobs keep what they were made from.
pub const MAX_VERSIONS: u32 = 100;
/// The longest name of a template.
pub const MAX_TEMPLATE_NAME_LEN: usize = 63;
/// Characters of a template's name, beside letters and digits.
pub const TEMPLATE_NAME_OTHERS: &str = "._-";

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

/// Whether a template may have this name: letters, digits, `.`, `_` and `-`, first a letter or digit.
pub fn is_template_name(name: &str) -> bool {
    name.len() <= MAX_TEMPLATE_NAME_LEN
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || TEMPLATE_NAME_OTHERS.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part_of_an_address() {
        for name in ["train", "t", "7", "a.b_c-D", &"x".repeat(63)] {
            assert!(is_template_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "a b", "a/b", "ä", "a%", &"x".repeat(64)] {
            assert!(!is_template_name(name), "{name}");
        }
    }
}
