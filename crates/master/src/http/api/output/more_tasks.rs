//! The tasks of a job whose output is read one after the other.

use std::collections::VecDeque;

use gaffer_domain::JobId;

use crate::output::TaskOutput;
use crate::records::Task;
use crate::store::StoreError;
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// The most and the fewest tasks that are read together.
const MOST_AHEAD: usize = 100;
const FEWEST_AHEAD: usize = 8;

/// The tasks of a job, page by page.
pub(super) struct MoreTasks {
    job: JobId,
    ready: VecDeque<Task>,
    after: Option<(i16, i32)>,
    /// Tasks that have not ended are waited for.
    follows: bool,
    /// How many to read next: a follower that has caught up needs few, one that is behind many.
    ahead: usize,
}

impl MoreTasks {
    /// The tasks behind this position and index, or all.
    pub fn of(job: JobId, after: Option<(i16, i32)>, follows: bool) -> MoreTasks {
        let ahead = if follows { FEWEST_AHEAD } else { MOST_AHEAD };
        MoreTasks { job, ready: VecDeque::new(), after, follows, ahead }
    }

    /// The first one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn first(&mut self, views: &Views) -> Result<Option<Task>, StoreError> {
        if self.ready.is_empty() {
            self.read(views).await?;
        }
        let next = self.ready.pop_front();
        if let Some(next) = &next {
            self.after = Some((next.position, next.index as i32));
        }
        Ok(next)
    }

    /// The next one, behind one that `reader` has read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next(&mut self, views: &Views, reader: &mut TaskOutput) -> Result<Option<Task>, StoreError> {
        // Since that was read, others have ended as well: they are read together, and need not be looked at one by one.
        if self.follows && self.ready.front().is_some_and(|task| !task.is_final()) {
            reader.turn_to_look().await;
            self.ready.clear();
        }
        self.first(views).await
    }

    async fn read(&mut self, views: &Views) -> Result<(), StoreError> {
        let filter = TaskFilter { after: self.after, ..TaskFilter::default() };
        let most = u32::try_from(self.ahead).unwrap_or(u32::MAX);
        self.ready = views.reads.task_list(self.job, &filter, most).await?.into();
        if self.follows {
            let ended = self.ready.iter().take_while(|task| task.is_final()).count();
            self.ahead = (2 * ended).clamp(FEWEST_AHEAD, MOST_AHEAD);
        }
        Ok(())
    }
}
