//! What a run has made and not removed: told at its end, however that came about.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that has to be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// Jobs of an installation, with the label that they have.
    Jobs(String),
    Directory(PathBuf),
}

/// Everything that a run has made and not removed yet.
#[derive(Debug, Default)]
pub struct Leftovers {
    made: BTreeSet<Leftover>,
    has_made_any: bool,
}

impl Leftovers {
    pub fn add_jobs(&mut self, label: String) {
        self.add(Leftover::Jobs(label));
    }

    pub fn add_directory(&mut self, path: &Path) {
        self.add(Leftover::Directory(path.to_owned()));
    }

    fn add(&mut self, leftover: Leftover) {
        self.made.insert(leftover);
        self.has_made_any = true;
    }

    pub fn jobs_are_deleted(&mut self) {
        self.made.retain(|leftover| matches!(leftover, Leftover::Directory(_)));
    }

    /// What is left now. Directories are looked for.
    pub fn left(&self) -> Vec<&Leftover> {
        let is_left = |leftover: &&Leftover| match leftover {
            Leftover::Jobs(_) => true,
            Leftover::Directory(path) => path.exists(),
        };
        self.made.iter().filter(is_left).collect()
    }

    /// What to tell at the end; nothing if the run did not get as far as to make something.
    pub fn sentences(&self) -> Vec<String> {
        let left = self.left();
        if left.is_empty() && self.has_made_any {
            return vec!["nothing of this run is left".to_owned()];
        }
        left.into_iter().map(|leftover| format!("left of this run: {leftover}")).collect()
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Jobs(label) => {
                write!(f, "jobs with the label {label}; list them with `gaffer jobs -l {label}`")
            }
            Leftover::Directory(path) => {
                write!(f, "the directory {}; remove it when no process uses it any more", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_and_is_still_there_is_told() {
        let mut leftovers = Leftovers::default();
        assert_eq!(leftovers.sentences(), Vec::<String>::new());
        leftovers.add_jobs("gaffer-bench=r1".to_owned());
        leftovers.add_directory(Path::new("/no/such/directory"));
        assert_eq!(
            leftovers.sentences(),
            [
                "left of this run: jobs with the label gaffer-bench=r1; list them with `gaffer jobs -l gaffer-bench=r1`"
            ]
        );
        leftovers.jobs_are_deleted();
        assert_eq!(leftovers.sentences(), ["nothing of this run is left"]);
        leftovers.add_directory(Path::new("/"));
        assert_eq!(
            leftovers.sentences(),
            ["left of this run: the directory /; remove it when no process uses it any more"]
        );
    }
}
