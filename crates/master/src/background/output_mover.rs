//! Moves output of finished jobs to object storage, oldest jobs first.
//!
//! First the objects are put there, then one transaction for each adds its row and deletes its chunks. If the master dies before
//! that, the output is where it was, and objects are left that no row names; [`super::unused_objects`] deletes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt as _;
use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::Span;

use super::driver::{Background, Ran};
use crate::output_store::{NewObject, OutputStore};
use crate::store::output::moving::{TaskPlace, UnmovedJob};
use crate::store::{Store, StoreError};

/// Approximate maximum size of an object: reading one line means reading a whole object.
const PART_BYTES: usize = 4 << 20;
/// Maximum number of objects of a run, and the approximate maximum of their bytes, which a run has in memory.
const TOGETHER: usize = 32;
const TOGETHER_BYTES: usize = 16 << 20;
/// Maximum number of concurrent uploads.
const AT_ONCE: usize = 8;
/// Maximum number of pages of tasks that a run looks at. Most jobs may have no output.
const LOOKS: usize = 50;
/// The pause between runs, in which others have the disk.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct OutputMover {
    store: Store,
    objects: Arc<OutputStore>,
    /// How long after a job's end.
    after: Span,
    /// The job whose output is being moved.
    job: Option<Progress>,
    /// The job before it, by its end: what is left there is looked at again after a period.
    last_job: Option<UnmovedJob>,
}

/// How far the output of a job is.
#[derive(Debug)]
struct Progress {
    job: UnmovedJob,
    /// Attempts of a page of tasks, and from which offset on their output is still to be moved.
    attempts: VecDeque<(AttemptRef, u64)>,
    /// After which task the next page begins; none before the first.
    after: Option<TaskPlace>,
    is_last_page: bool,
    /// Whether some output may be movable later.
    has_others: bool,
}

impl OutputMover {
    /// Begins with the oldest job.
    pub fn new(store: Store, objects: Arc<OutputStore>, after: Span) -> OutputMover {
        OutputMover { store, objects, after, job: None, last_job: None }
    }

    /// The next attempts whose output is to be moved. False if there are none.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let progress = match self.job.take() {
            Some(progress) if progress.is_last_page => {
                self.finish(&progress).await?;
                None
            }
            progress => progress,
        };
        let mut progress = match progress {
            Some(progress) => progress,
            None => {
                let until = Utc::now() - chrono::TimeDelta::from_std(self.after.to_std()).unwrap_or_default();
                let Some(job) = self.store.job_with_output_to_move(until, self.last_job).await? else {
                    self.last_job = None;
                    return Ok(false);
                };
                let attempts = VecDeque::new();
                Progress { job, attempts, after: None, is_last_page: false, has_others: false }
            }
        };
        let page = self.store.outputs_to_move(progress.job, progress.after).await?;
        progress.attempts = page.attempts.into();
        progress.has_others |= page.has_others;
        progress.is_last_page = page.next.is_none();
        progress.after = page.next.or(progress.after);
        self.job = Some(progress);
        Ok(true)
    }

    async fn finish(&mut self, progress: &Progress) -> Result<(), StoreError> {
        if !progress.has_others {
            self.store.job_output_moved(progress.job.id).await?;
        }
        self.last_job = Some(progress.job);
        Ok(())
    }

    /// The next parts of output, as objects.
    async fn parts(&mut self) -> Result<Vec<NewObject>, StoreError> {
        let directory = self.store.output_directory().await?;
        let (mut parts, mut bytes) = (Vec::new(), 0);
        let Some(progress) = &mut self.job else { return Ok(parts) };
        while parts.len() < TOGETHER
            && bytes < TOGETHER_BYTES
            && let Some((attempt, offset)) = progress.attempts.front_mut()
        {
            let chunks = match self.store.output_part(*attempt, *offset, PART_BYTES).await {
                Ok(chunks) => chunks,
                Err(error @ StoreError::Unreadable(_)) => {
                    tracing::warn!(%attempt, %error, "output is not moved to object storage");
                    progress.has_others = true;
                    progress.attempts.pop_front();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(part) = NewObject::of(directory, &chunks) else {
                progress.attempts.pop_front();
                continue;
            };
            *offset = part.row.end();
            bytes += part.bytes.len();
            parts.push(part);
        }
        Ok(parts)
    }

    /// Puts the parts into the store, then makes them the places of their output. Returns how many were moved, and the attempts
    /// whose output was not moved further, because chunks of a part have changed.
    async fn put(&self, parts: Vec<NewObject>) -> Result<(u64, Vec<AttemptRef>), StoreError> {
        let objects = &self.objects;
        let puts = parts.into_iter().map(|part| async move {
            let NewObject { row, chunks, bytes } = part;
            objects.put(&row.name, bytes).await.map(|()| (row, chunks))
        });
        let mut puts = futures::stream::iter(puts.collect::<Vec<_>>()).buffered(AT_ONCE);
        let (mut moved, mut changed) = (0, Vec::new());
        while let Some(put) = puts.next().await {
            let (row, chunks) = put?;
            // Output is moved from its beginning on: after a part that stays in the database, the rest stays, too.
            if !changed.contains(&row.attempt) && self.store.output_moved(&row, chunks).await? {
                moved += 1;
            } else {
                changed.push(row.attempt);
                objects.delete(&row.name).await?;
            }
        }
        Ok((moved, changed))
    }

    async fn move_some(&mut self) -> Result<Ran, StoreError> {
        for _ in 0..LOOKS {
            if self.job.as_ref().is_some_and(|progress| !progress.attempts.is_empty()) {
                break;
            }
            if !self.look().await? {
                return Ok(Ran::default());
            }
        }
        let parts = self.parts().await?;
        if !parts.is_empty() {
            // Each time: a disk may have been unmounted since.
            let has_moved = self.store.output_in_objects().await?.objects > 0;
            self.objects.recognise(has_moved).await?;
        }
        let (moved, changed) = self.put(parts).await?;
        if !changed.is_empty()
            && let Some(progress) = &mut self.job
        {
            // The job was deleted, or chunks were joined: the next look at the job reads them from the beginning.
            progress.has_others = true;
            progress.attempts.retain(|(attempt, _)| !changed.contains(attempt));
        }
        Ok(Ran { done: moved, again_after: Some(PAUSE) })
    }
}

impl Background for OutputMover {
    const NAME: &'static str = "output_mover";
    const DESCRIPTION: &'static str = "moves output of finished jobs to object storage";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let ran = self.move_some().await;
        if ran.is_err() {
            // What was read of the job may not have been moved: it is looked at from its beginning.
            self.job = None;
        }
        ran
    }
}
