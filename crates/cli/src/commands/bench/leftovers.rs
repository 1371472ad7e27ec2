//! What a run has made and not removed: told at its end, however that came about.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_worker::driver::bare_container::OWNER_LABEL;

/// Something that has to be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// Jobs of an installation, with the label that they have.
    Jobs(String),
    /// A session of the dashboard at this address.
    Session(String),
    /// Containers beside those of gaffer's workers, with their owner.
    Containers(String),
    Directory(PathBuf),
}

/// Everything that a run has made and not removed yet. Clones share the list, so each part of the run enters what it makes.
#[derive(Debug, Clone, Default)]
pub struct Leftovers(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    made: BTreeSet<Leftover>,
    has_made_any: bool,
}

impl Leftovers {
    /// Something is about to be made.
    pub fn add(&self, leftover: Leftover) {
        let mut list = self.list();
        list.made.insert(leftover);
        list.has_made_any = true;
    }

    /// It is gone.
    pub fn remove(&self, leftover: &Leftover) {
        self.list().made.remove(leftover);
    }

    /// What is left now. Directories are looked for.
    pub fn left(&self) -> Vec<Leftover> {
        let is_left = |leftover: &&Leftover| match leftover {
            Leftover::Jobs(_) | Leftover::Session(_) | Leftover::Containers(_) => true,
            Leftover::Directory(path) => path.exists(),
        };
        self.list().made.iter().filter(is_left).cloned().collect()
    }

    /// What to tell at the end; nothing if the run did not get as far as to make something.
    pub fn sentences(&self) -> Vec<String> {
        let left = self.left();
        if left.is_empty() && self.list().has_made_any {
            return vec!["nothing of this run is left".to_owned()];
        }
        left.into_iter().map(|leftover| format!("left of this run: {leftover}")).collect()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Jobs(label) => {
                write!(f, "jobs with the label {label}; list them with `gaffer jobs -l {label}`")
            }
            Leftover::Session(address) => {
                write!(f, "a session of the dashboard {address}; it expires by itself")
            }
            Leftover::Containers(owner) => {
                let label = format!("{OWNER_LABEL}={owner}");
                write!(
                    f,
                    "containers with the label {label}; list them with `docker ps -a --filter label={label}`"
                )
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
        let leftovers = Leftovers::default();
        assert_eq!(leftovers.sentences(), Vec::<String>::new());
        let jobs = Leftover::Jobs("gaffer-bench=r1".to_owned());
        leftovers.add(jobs.clone());
        leftovers.add(Leftover::Directory("/no/such/directory".into()));
        assert_eq!(
            leftovers.sentences(),
            [
                "left of this run: jobs with the label gaffer-bench=r1; list them with `gaffer jobs -l gaffer-bench=r1`"
            ]
        );
        leftovers.remove(&jobs);
        assert_eq!(leftovers.sentences(), ["nothing of this run is left"]);
        leftovers.add(Leftover::Directory("/".into()));
        assert_eq!(
            leftovers.sentences(),
            ["left of this run: the directory /; remove it when no process uses it any more"]
        );
    }

    #[test]
    fn sessions_and_containers_are_told_until_they_are_gone() {
        let leftovers = Leftovers::default();
        let session = Leftover::Session("http://127.0.0.1:3000".to_owned());
        let containers = Leftover::Containers("here:/tmp/x".to_owned());
        // Each part of a run has a clone.
        leftovers.clone().add(session.clone());
        leftovers.clone().add(containers.clone());
        assert_eq!(
            leftovers.sentences(),
            [
                "left of this run: a session of the dashboard http://127.0.0.1:3000; it expires by itself",
                "left of this run: containers with the label gaffer.bench=here:/tmp/x; list them with `docker ps -a --filter label=gaffer.bench=here:/tmp/x`",
            ]
        );
        leftovers.remove(&session);
        leftovers.remove(&containers);
        assert_eq!(leftovers.sentences(), ["nothing of this run is left"]);
    }
}
