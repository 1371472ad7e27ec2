//! `{{ name }}` in a text. Everything else in double braces, such as `{{ .Names }}` and `{{ x | default(1) }}`, is text.

use std::ops::Range;

/// The place of a value in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder<'t> {
    /// The name between the braces.
    pub name: &'t str,
    /// Where it is in the text, with its braces.
    pub range: Range<usize>,
}

/// The placeholders of a text, from left to right. They do not overlap.
pub fn placeholders(text: &str) -> impl Iterator<Item = Placeholder<'_>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text.get(from..)?.find("{{")?;
            match at(text, start) {
                Some(found) => {
                    from = found.range.end;
                    return Some(found);
                }
                // Of three braces, the last two may begin one.
                None => from = start + 1,
            }
        }
    })
}

/// The name in a text that is a placeholder and nothing else.
pub fn whole(text: &str) -> Option<&str> {
    at(text, 0).filter(|found| found.range.end == text.len()).map(|found| found.name)
}

/// The placeholder that begins here.
fn at(text: &str, start: usize) -> Option<Placeholder<'_>> {
    let inside = text.get(start..)?.strip_prefix("{{")?;
    let trimmed = inside.trim_start_matches([' ', '\t']);
    let len =
        trimmed.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).unwrap_or(trimmed.len());
    let (name, rest) = trimmed.split_at(len);
    let rest = rest.trim_start_matches([' ', '\t']).strip_prefix("}}")?;
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    is_name.then(|| Placeholder { name, range: start..text.len() - rest.len() })
}
