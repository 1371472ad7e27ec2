//! Hook: journal entries before the start, after the start and at the end, for a later executor.

use std::future::ready;
use std::time::Duration;

use futures::future::BoxFuture;
use gaffer_protocol::wire::Ended;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Hook};
use crate::driver::{Assignment, StartError, Started};

/// How long a full disk is left alone before an attempt that waits for it tries again.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Journal;

impl Hook for Journal {
    fn concern(&self) -> &'static str {
        "entry in the journal"
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
            let resume = attempt.capabilities().outlives_executor.then(|| assignment.start.clone());
            let (spool, reference, began) = (&attempt.context.spool, attempt.reference(), attempt.began);
            let mut warned = false;
            while !cancelled.is_cancelled() {
                let noted = spool.starting(reference, began, resume.clone(), cancelled.cancelled()).await;
                let Err(error) = noted else { return Ok(()) };
                if !warned {
                    tracing::warn!(attempt = %reference, %error, "cannot write to the journal; the attempt waits");
                    warned = true;
                }
                let _ = timeout(RETRY, cancelled.cancelled()).await;
            }
            Err(StartError::other("stopped before the entry was written"))
        })
    }

    fn after_start<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(attempt.context.spool.started(attempt.reference(), started.pid))
    }

    /// Its start is in the journal of the executor before, which this one has taken over.
    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, attempt: &'a Attempt, ended: &'a Ended) -> BoxFuture<'a, ()> {
        Box::pin(attempt.context.spool.ended(ended.clone()))
    }
}
