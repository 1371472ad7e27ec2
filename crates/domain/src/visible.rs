//! Characters that names must not contain: they end, hide or reorder the line that shows them.

/// Whether a character spoils a line: control characters, line separators, and marks that change the direction of text or
/// cannot be seen.
pub fn spoils_a_line(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_spoils_a_line_and_what_can_does_not() {
        assert!("\0\n\u{7f}\u{9b}\u{200f}\u{202e}\u{2067}\u{feff}".chars().all(spoils_a_line));
        // The joiners belong to words and to pictures.
        assert!(!"naïve Überläufer 日本 שלום 👩\u{200d}🚒 می\u{200c}خواهم ✓".chars().any(spoils_a_line));
    }
}
