//! Hook: the private directories of an attempt with its script, and its entries in the journal, for a later executor.
//!
//! All of these are files of the data directory. What is done with them at the same moment is done in one visit to a thread.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use gaffer_domain::spec::Action;
use gaffer_protocol::wire::Ended;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::scratch::Scratch;
use super::{Attempt, Hook};
use crate::blocking::NoAnswer;
use crate::driver::{Assignment, OnStart, StartError, Started};

/// How long a full disk is left alone before an attempt that waits for it tries again.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Files {
    scratch: Option<Scratch>,
    /// The journal has its start.
    is_noted: bool,
    /// What the journal is told of the start, unless that was done already.
    on_start: OnStart,
}

impl Hook for Files {
    fn concern(&self) -> &'static str {
        "directory"
    }

    /// Waits while the disk is full: an attempt that is not in the journal must not start, because a later executor
    /// would not look for it.
    fn before_start<'a>(
        &'a mut self,
        attempt: &'a Attempt,
        assignment: &'a mut Assignment,
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(async move {
            let is_given_up = Arc::new(AtomicBool::new(false));
            let mut warned = false;
            while !cancelled.is_cancelled() {
                let prepare = self.prepare(attempt, assignment, is_given_up.clone());
                let prepared = attempt.context.threads.run_until(cancelled.cancelled(), prepare).await;
                let Ok(prepared) = prepared else {
                    // Should it come back, the directories are dropped, which removes them, and nothing is noted any more.
                    is_given_up.store(true, Ordering::Release);
                    return Err(StartError::other("the disk of the data directory does not respond"));
                };
                let (scratch, noted) = prepared.map_err(|error| StartError::other(error.to_string()))?;
                self.scratch = scratch;
                let Err(error) = noted else {
                    assignment.directories =
                        self.scratch.as_ref().map(|scratch| scratch.directories().clone());
                    let (context, reference) = (attempt.context.clone(), attempt.reference());
                    self.on_start = OnStart::new(move |pid| context.spool.started(reference, pid));
                    assignment.on_start = self.on_start.clone();
                    self.is_noted = true;
                    return Ok(());
                };
                if !warned {
                    let attempt = attempt.reference();
                    tracing::warn!(%attempt, %error, "cannot write to the journal; the attempt waits");
                    warned = true;
                }
                let _ = timeout(RETRY, cancelled.cancelled()).await;
            }
            Err(StartError::other("stopped before its start was in the journal"))
        })
    }

    /// A driver that starts on a thread has told the journal there.
    fn after_start<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        let (on_start, pid) = (self.on_start.clone(), started.pid);
        Box::pin(async move {
            if on_start.is_waiting() {
                let tell = move || on_start.tell(pid);
                if attempt.context.threads.run_until(ready(()), tell).await == Err(NoAnswer) {
                    warn_of_disk(attempt, "the start is recorded later");
                }
            }
        })
    }

    /// What outlives its executor has its files elsewhere, and its start is in the journal that this executor has taken over.
    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.is_noted = true;
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, attempt: &'a Attempt, ended: &'a Ended) -> BoxFuture<'a, ()> {
        let (context, ended, is_noted) = (attempt.context.clone(), ended.clone(), self.is_noted);
        let scratch = self.scratch.take();
        Box::pin(async move {
            let leave = move || {
                context.spool.ended(&ended, is_noted);
                if let Some(scratch) = scratch {
                    context.scratch.remove(scratch);
                }
            };
            if attempt.context.threads.run_until(ready(()), leave).await == Err(NoAnswer) {
                warn_of_disk(attempt, "the end is recorded and the attempt's directory is removed later");
            }
        })
    }
}

impl Files {
    /// Makes the directories, unless there are some already, and notes that the attempt is about to start, unless that was given
    /// up. An error of the journal is one that may pass.
    fn prepare(
        &mut self,
        attempt: &Attempt,
        assignment: &Assignment,
        is_given_up: Arc<AtomicBool>,
    ) -> impl FnOnce() -> io::Result<(Option<Scratch>, io::Result<()>)> + Send + 'static {
        let capabilities = attempt.capabilities();
        let (context, began, start) = (attempt.context.clone(), attempt.began, assignment.start.clone());
        let made = self.scratch.take();
        move || {
            let scratch = match made {
                Some(made) => Some(made),
                None if capabilities.uses_host_files => {
                    let script = match &start.definition.action {
                        Action::Script(text) => Some(text.as_str()),
                        Action::Command(_) => None,
                    };
                    Some(context.scratch.create(start.attempt, script)?)
                }
                None => None,
            };
            let resume = capabilities.outlives_executor.then_some(&*start);
            let is_wanted = || !is_given_up.load(Ordering::Acquire);
            let noted = context.spool.starting(start.attempt, began, resume, is_wanted);
            Ok((scratch, noted))
        }
    }
}

fn warn_of_disk(attempt: &Attempt, what: &str) {
    let attempt = attempt.reference();
    tracing::warn!(%attempt, "the disk of the data directory does not respond; {what}");
}
