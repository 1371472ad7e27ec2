//! The list of seeded bugs, each with the test that must catch it.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Where the list is, from the root of the sources.
pub const LIST: &str = "crates/e2e/seeded-bugs.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    bug: Vec<SeededBug>,
}

/// One mistake: a text in a file, and what it becomes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeededBug {
    pub name: String,
    /// The promise (by its number) or rule that it breaks.
    pub breaks: String,
    /// The file, from the root of the sources.
    pub file: String,
    /// What stands there, exactly once.
    pub find: String,
    pub replace: String,
    /// The arguments of `cargo test` that choose what to build for the test that has to catch it.
    pub target: String,
    /// That test, by its name or a part of it.
    pub test: String,
    /// It starts the program `gaffer`.
    #[serde(default)]
    pub starts_program: bool,
}

/// Reads the list of the sources in `root`.
///
/// # Errors
/// When it is not there or says something that is not understood.
pub fn read(root: &Path) -> anyhow::Result<Vec<SeededBug>> {
    let list: List = toml::from_str(&fs::read_to_string(root.join(LIST))?)?;
    Ok(list.bug)
}

impl SeededBug {
    /// The text of its file with the bug in it.
    ///
    /// # Errors
    /// When what it replaces is not there exactly once: the code has changed, and so must the list.
    pub fn planted_in(&self, text: &str) -> Result<String, String> {
        let found = text.matches(&self.find).count();
        match found {
            1 if self.find != self.replace => Ok(text.replacen(&self.find, &self.replace, 1)),
            _ => Err(format!("{}: {} has {found} times {:?}", self.name, self.file, self.find)),
        }
    }
}
