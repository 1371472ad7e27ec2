//! `gaffer logs --grep`: the lines of an output that match, found by the server.

use clap::Args;

use crate::follow::LineSearch;
use crate::matches::MatchManner;

/// Exit code if no line matches, as `grep` has it.
pub const NO_MATCH: u8 = 1;

/// Which lines, and what of them. The names are those of `grep`.
#[derive(Debug, Args)]
pub struct GrepArgs {
    /// Only lines that match this regular expression
    ///
    /// The server searches, in time proportional to the output; the syntax is that of the Rust crate regex. Lines are searched
    /// without their colours. Exit code 1 if no line matches.
    #[arg(long, value_name = "REGEX", conflicts_with = "verify")]
    grep: Option<String>,
    /// Ignore case
    #[arg(short, long, requires = "grep")]
    ignore_case: bool,
    /// The pattern is plain text
    #[arg(short = 'F', long, requires = "grep")]
    fixed_strings: bool,
    /// Only lines that do not match
    #[arg(short = 'v', long, requires = "grep")]
    invert_match: bool,
    /// Print only the number of matching lines
    #[arg(short, long, requires = "grep")]
    count: bool,
    /// Stop after N matching lines
    #[arg(short, long, value_name = "N", requires = "grep", value_parser = clap::value_parser!(u64).range(1..))]
    max_count: Option<u64>,
    /// Prefix each line with its number in the output
    #[arg(short = 'n', long, requires = "grep")]
    line_number: bool,
    /// Print N lines after each match
    #[arg(short = 'A', long, value_name = "N", requires = "grep", value_parser = clap::value_parser!(u32).range(..=100))]
    after_context: Option<u32>,
    /// Print N lines before each match
    #[arg(short = 'B', long, value_name = "N", requires = "grep", value_parser = clap::value_parser!(u32).range(..=100))]
    before_context: Option<u32>,
    /// Print N lines before and after each match
    #[arg(short = 'C', long, value_name = "N", requires = "grep", value_parser = clap::value_parser!(u32).range(..=100))]
    context: Option<u32>,
}

impl GrepArgs {
    /// What to search for; none if all lines are wanted.
    pub fn search(&self) -> Option<LineSearch> {
        let pattern = self.grep.as_ref()?;
        let pattern = if self.fixed_strings { plain(pattern) } else { pattern.clone() };
        Some(LineSearch {
            pattern: if self.ignore_case { format!("(?i){pattern}") } else { pattern },
            invert: self.invert_match,
            counts_only: self.count,
            before: self.before_context.or(self.context).unwrap_or(0),
            after: self.after_context.or(self.context).unwrap_or(0),
            limit: self.max_count,
        })
    }

    /// How its lines are shown. `names`: which task a line is of has to be said.
    pub fn manner(&self, names: bool) -> MatchManner {
        let has_context = [self.before_context, self.after_context, self.context].iter().any(Option::is_some);
        MatchManner { names, numbers: self.line_number, has_groups: has_context }
    }
}

/// A regular expression that matches this text and nothing else.
fn plain(text: &str) -> String {
    let escaped = text.chars().flat_map(|char| {
        let backslash = r"\.+*?()|[]{}^$#&-~".contains(char).then_some('\\');
        backslash.into_iter().chain([char])
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_loses_its_meaning_as_a_pattern() {
        assert_eq!(plain(r"a.b*(c) [d]\_<e>"), r"a\.b\*\(c\) \[d\]\\_<e>");
    }
}
