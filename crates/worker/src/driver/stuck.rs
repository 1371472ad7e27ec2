//! Leftovers of ended attempts: processes that cannot be killed, and starts that hang in a file system. With too
//! many of them the driver is unhealthy and the worker gets no new tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Leftovers of one driver's attempts. Clones share them.
#[derive(Clone)]
pub(super) struct Stuck {
    /// For each attempt whose processes cannot be killed: whether any of them still lives.
    processes: Arc<Mutex<Vec<StillLives>>>,
    /// Number of hanging starts from which the driver is unhealthy.
    max_starts: usize,
    count: watch::Sender<Count>,
}

type StillLives = Box<dyn Fn() -> bool + Send>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    processes: usize,
    starts: usize,
}

impl Stuck {
    pub fn new(max_starts: usize) -> Stuck {
        Stuck { processes: Arc::default(), max_starts, count: watch::Sender::default() }
    }

    /// Something of an attempt lives after everything that could be done. `still_lives` may block.
    pub fn add(&self, still_lives: impl Fn() -> bool + Send + 'static) {
        let mut processes = self.processes();
        processes.push(Box::new(still_lives));
        self.count.send_modify(|count| count.processes = processes.len());
    }

    /// Forgets leftovers that are gone. Called every few seconds; cheap without any. Blocks.
    ///
    /// `starts`: how many hang at the moment, of attempts that are over.
    pub fn look_again(&self, starts: usize) {
        let mut processes = self.processes();
        processes.retain(|still_lives| still_lives());
        let now = Count { processes: processes.len(), starts };
        self.count.send_if_modified(|count| std::mem::replace(count, now) != now);
    }

    /// What to tell; none while all is well.
    pub fn complaint(&self) -> Option<String> {
        let Count { processes, starts } = *self.count.borrow();
        let whose = match processes {
            0 if starts < self.max_starts => return None,
            0 => {
                return Some(format!(
                    "{starts} starts of ended tasks hang in a file system that does not respond; no new \
                     tasks start until it does"
                ));
            }
            1 => "an ended task".to_owned(),
            _ => format!("{processes} ended tasks"),
        };
        Some(format!("processes of {whose} cannot be killed; no new tasks start until they exit"))
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

    fn processes(&self) -> MutexGuard<'_, Vec<StillLives>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use gaffer_protocol::boot_time::BootTime;

    use super::super::process_tree::ProcessTree;
    use super::*;
    use crate::tests::master::soon;

    #[tokio::test]
    async fn a_complaint_lasts_until_the_processes_are_gone() {
        let stuck = Stuck::new(2);
        assert_eq!(stuck.complaint(), None);
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let tree = ProcessTree::new(pid, "x/1", "/nowhere".into(), BootTime::now(), None);
        let changes = stuck.changes();
        stuck.add(move || tree.has_survivors());
        soon("a change", changes).await;
        stuck.look_again(0);
        assert!(stuck.complaint().unwrap().contains("an ended task cannot be killed"));
        child.kill().unwrap();
        child.wait().unwrap();
        let changes = stuck.changes();
        stuck.look_again(0);
        soon("a change", changes).await;
        assert_eq!(stuck.complaint(), None);
    }

    #[tokio::test]
    async fn a_few_starts_that_hang_are_no_reason_to_complain() {
        let stuck = Stuck::new(2);
        stuck.look_again(1);
        assert_eq!(stuck.complaint(), None);
        let changes = stuck.changes();
        stuck.look_again(2);
        soon("a change", changes).await;
        assert!(stuck.complaint().unwrap().contains("2 starts of ended tasks hang"));
        stuck.look_again(0);
        assert_eq!(stuck.complaint(), None);
    }
}
