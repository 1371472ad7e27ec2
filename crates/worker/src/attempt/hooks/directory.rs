//! Hook: the private directories of an attempt, and its script file.

use std::future::ready;

use futures::future::BoxFuture;
use gaffer_domain::spec::Action;
use gaffer_protocol::wire::Ended;
use tokio_util::sync::CancellationToken;

use super::super::scratch::Scratch;
use super::{Attempt, Hook};
use crate::blocking::NoAnswer;
use crate::driver::{Assignment, StartError, Started};

#[derive(Default)]
pub(super) struct Directory {
    scratch: Option<Scratch>,
}

impl Hook for Directory {
    fn concern(&self) -> &'static str {
        "directory"
    }

    fn before_start<'a>(
        &'a mut self,
        attempt: &'a Attempt,
        assignment: &'a mut Assignment,
        cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(async move {
            if !attempt.capabilities().uses_host_files {
                return Ok(());
            }
            let (space, start) = (attempt.context.scratch.clone(), attempt.start.clone());
            let create = move || {
                let script = match &start.definition.action {
                    Action::Script(text) => Some(text.as_str()),
                    Action::Command(_) => None,
                };
                space.create(start.attempt, script)
            };
            // Should the answer come too late, the directories are dropped, which removes them.
            let created = attempt.context.threads.run_until(cancelled.cancelled(), create).await;
            let created = created
                .map_err(|NoAnswer| StartError::other("the disk of the data directory does not respond"))?;
            let scratch = created.map_err(|error| StartError::other(error.to_string()))?;
            assignment.directories = Some(scratch.directories().clone());
            self.scratch = Some(scratch);
            Ok(())
        })
    }

    /// What outlives its executor has its files elsewhere.
    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(scratch) = self.scratch.take() else { return };
            let space = attempt.context.scratch.clone();
            let removed = attempt.context.threads.run_until(ready(()), move || space.remove(scratch)).await;
            if removed == Err(NoAnswer) {
                tracing::warn!(
                    attempt = %attempt.reference(),
                    "the disk of the data directory does not respond; the attempt's directory is removed later"
                );
            }
        })
    }
}
