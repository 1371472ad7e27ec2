//! Attempts whose processes cannot be killed: while there are any, this machine is not well, and gets nothing new.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::process_tree::ProcessTree;

/// Those of one driver. Clones are the same.
#[derive(Clone)]
pub(super) struct Stuck {
    trees: Arc<Mutex<Vec<Arc<ProcessTree>>>>,
    count: watch::Sender<usize>,
}

impl Stuck {
    pub fn new() -> Stuck {
        Stuck { trees: Arc::default(), count: watch::Sender::new(0) }
    }

    /// Something of this tree is left after everything that could be done.
    pub fn add(&self, tree: Arc<ProcessTree>) {
        let mut trees = self.trees();
        trees.push(tree);
        self.count.send_replace(trees.len());
    }

    /// Forgets those that are gone by now. To be called every few seconds; costs nothing while there are none.
    pub fn look_again(&self) {
        let mut trees = self.trees();
        let before = trees.len();
        trees.retain(|tree| tree.has_survivors());
        if trees.len() != before {
            self.count.send_replace(trees.len());
        }
    }

    /// What to tell; none while all is well.
    pub fn complaint(&self) -> Option<String> {
        let count = *self.count.borrow();
        (count > 0).then(|| {
            let whose = if count == 1 { "an ended task".to_owned() } else { format!("{count} ended tasks") };
            format!("processes of {whose} cannot be killed; nothing new is started here until they are gone")
        })
    }

    /// Ends once [`Self::complaint`] has changed since this was called.
    pub fn changes(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut count = self.count.subscribe();
        async move {
            if count.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn trees(&self) -> MutexGuard<'_, Vec<Arc<ProcessTree>>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;
    use crate::clock::BootTime;
    use crate::tests::master::soon;

    #[tokio::test]
    async fn a_complaint_lasts_until_the_processes_are_gone() {
        let stuck = Stuck::new();
        assert_eq!(stuck.complaint(), None);
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let tree = ProcessTree::new(pid, "x/1", "/nowhere".into(), BootTime::now(), None);
        let changes = stuck.changes();
        stuck.add(Arc::new(tree));
        soon("a change", changes).await;
        stuck.look_again();
        assert!(stuck.complaint().unwrap().contains("an ended task cannot be killed"));
        child.kill().unwrap();
        child.wait().unwrap();
        let changes = stuck.changes();
        stuck.look_again();
        soon("a change", changes).await;
        assert_eq!(stuck.complaint(), None);
    }
}
