//! Tasks that each wait for the task with their own index in other definitions: `index: same`.
//!
//! They are looked at when such a task ends. When they come to be judged at all, because what all of them wait for has come, or when
//! nobody knows what was looked at before, all of them are looked at once, in slices.

use std::collections::{BTreeSet, HashMap};

use gaffer_domain::conditions::{self, Standing, Verdict};
use gaffer_domain::task::{StateName, TaskEvent, TaskState};
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::forms::known;
use super::{Detail, Input, Work};

/// What of such tasks a batch has looked at.
#[derive(Debug, Default)]
pub(super) struct ByIndex {
    /// By index.
    looked_at: BTreeSet<(JobId, usize, u32)>,
    /// Definitions of which a slice of all was.
    scanned: BTreeSet<(JobId, usize)>,
    /// Jobs that the batch goes on with.
    pub continued: BTreeSet<JobId>,
}

/// A definition whose tasks are judged one by one, and those that they wait for, by position.
pub(super) struct Judged {
    pub job: JobId,
    pub position: usize,
    pub others: Vec<usize>,
}

/// Position, index, state and reason.
type OtherRow = (i16, i32, String, Option<String>);

/// What came of tasks with some positions and indices.
const OTHERS: &str = "SELECT t.position, t.index, t.state::text, t.reason_code \
     FROM UNNEST($2::smallint[], $3::int[]) AS asked(position, index) \
     JOIN tasks t ON t.job_id = $1 AND t.position = asked.position AND t.index = asked.index AND t.era = $4";

impl Work {
    /// Does what follows for such tasks. Says whether anything was found to be judged.
    pub(super) async fn settle_by_index(
        &mut self,
        tx: &mut PgConnection,
        judged: Vec<Judged>,
        now: Time,
    ) -> Result<bool, StoreError> {
        let mut has_judged = false;
        for Judged { job, position, others } in judged {
            let mut indices = self.newly_ended(job, position, &others);
            if !indices.is_empty() {
                self.load_blocked_at(tx, job, position, &indices).await?;
            }
            if self.is_to_scan(job, position) {
                self.by_index.scanned.insert((job, position));
                indices.extend(self.load_scanned(tx, job, position).await?);
            }
            if !indices.is_empty() {
                has_judged = true;
                self.judge_indices(tx, &Judged { job, position, others }, &indices, now).await?;
            }
        }
        Ok(has_judged)
    }

    /// The indices of what the batch has ended and such tasks wait for, each once.
    fn newly_ended(&mut self, job: JobId, position: usize, others: &[usize]) -> Vec<u32> {
        let of_others = self.tasks.values().filter(|work| work.job == job && others.contains(&work.position));
        let ended = of_others.filter(|work| work.dirty && work.task.state.name().is_final());
        let looked_at = &mut self.by_index.looked_at;
        ended.map(|work| work.index).filter(|index| looked_at.insert((job, position, *index))).collect()
    }

    /// Whether tasks may wait of which the others have ended before the batch.
    fn is_to_scan(&self, job: JobId, position: usize) -> bool {
        let Some(work) = self.jobs.get(&job).filter(|_| !self.unfinished.contains(&job)) else {
            return false;
        };
        if self.by_index.scanned.contains(&(job, position)) {
            return false;
        }
        let before: Vec<Standing> = work.definitions.iter().map(|definition| definition.stored).collect();
        let verdicts = conditions::decide(&work.spec, &before, work.stop_request());
        let was_judged = verdicts
            .iter()
            .any(|(at, verdict)| *at == position && matches!(verdict, Verdict::EachByIndex(_)));
        self.by_index.continued.contains(&job) || !was_judged
    }

    async fn judge_indices(
        &mut self,
        tx: &mut PgConnection,
        Judged { job, position, others }: &Judged,
        indices: &[u32],
        now: Time,
    ) -> Result<(), StoreError> {
        let wanted: BTreeSet<u32> = indices.iter().copied().collect();
        let of_job = self.tasks.iter().filter(|(_, work)| work.job == *job && wanted.contains(&work.index));
        let mut blocked: Vec<(TaskId, u32)> = Vec::new();
        let mut found: HashMap<(usize, u32), Standing> = HashMap::new();
        for (id, work) in of_job {
            if work.position == *position && work.task.state == TaskState::Blocked {
                blocked.push((*id, work.index));
            } else if others.contains(&work.position) {
                let standing = Standing::of_task(work.task.state.name(), work.task.state.is_skipped());
                found.insert((work.position, work.index), standing);
            }
        }
        blocked.sort_unstable();
        self.find_others(tx, *job, others, &blocked, &mut found).await?;

        let Some(work) = self.jobs.get(job) else { return Ok(()) };
        let standings: Vec<Standing> = (0..work.definitions.len()).map(|at| work.standing(at)).collect();
        let with_others = blocked.iter().map(|(id, index)| {
            let of = |at: &usize| Some((*at, *found.get(&(*at, *index))?));
            (*id, others.iter().filter_map(of).collect())
        });
        for (task, verdict) in conditions::judge_each(&work.spec, *position, &standings, with_others) {
            let event = match verdict {
                Verdict::Release => TaskEvent::DependenciesMet,
                Verdict::CannotRun(reason) => TaskEvent::CannotRun(reason),
                Verdict::Stop(_) | Verdict::EachByIndex(_) => continue,
            };
            let input = Input { task, event, actor: "dependencies".into(), detail: Detail::None };
            let _ = self.apply(&input, now);
        }
        Ok(())
    }

    /// Reads what came of the others that are not in work.
    async fn find_others(
        &self,
        tx: &mut PgConnection,
        job: JobId,
        others: &[usize],
        blocked: &[(TaskId, u32)],
        found: &mut HashMap<(usize, u32), Standing>,
    ) -> Result<(), StoreError> {
        let Some(era) = self.jobs.get(&job).map(|work| work.era) else { return Ok(()) };
        let all = blocked.iter().flat_map(|(_, index)| others.iter().map(move |at| (*at, *index)));
        let missing: Vec<(usize, u32)> = all.filter(|place| !found.contains_key(place)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows: Vec<OtherRow> = sqlx::query_as(OTHERS)
            .bind(job.0)
            .bind(missing.iter().map(|(position, _)| *position as i16).collect::<Vec<i16>>())
            .bind(missing.iter().map(|(_, index)| *index as i32).collect::<Vec<i32>>())
            .bind(era)
            .fetch_all(tx)
            .await?;
        for (position, index, state, reason) in rows {
            let state: StateName = known("task state", &state)?;
            let is_skipped = state == StateName::Cancelled
                && reason.as_deref() == Some(gaffer_domain::reason::ReasonCode::ConditionNotMet.as_str());
            found.insert((position as usize, index as u32), Standing::of_task(state, is_skipped));
        }
        Ok(())
    }
}
