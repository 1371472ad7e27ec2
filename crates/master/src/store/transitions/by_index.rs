//! Tasks that each wait for the task with their own index in other definitions: `index: same`.
//!
//! They are looked at when such a task ends. When they come to be judged at all, because what all of them wait for has come, or when
//! nobody knows what was looked at before, all of them are looked at once, in slices.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gaffer_domain::conditions::{self, Standing, Verdict};
use gaffer_domain::task::{StateName, TaskEvent, TaskState};
use gaffer_domain::{JobId, TaskId, Time};
use sqlx::PgConnection;

use super::super::StoreError;
use super::super::forms::{known, reason_code};
use super::{Detail, Input, Work};

/// What of such tasks a batch has looked at.
#[derive(Debug, Default)]
pub(super) struct ByIndex {
    /// The indices of tasks that the batch has ended, for each definition, in the order of their ends.
    ended: HashMap<(JobId, usize), Vec<u32>>,
    /// How many of these ends a waiting definition was judged by, for each definition that it waits for. An index may come up
    /// again: a task may wait for several others of its index.
    looked_at: HashMap<(JobId, usize, usize), usize>,
    /// Definitions of which a slice of all was.
    scanned: BTreeSet<(JobId, usize)>,
    /// Definitions that were judged one by one before the batch already.
    judged_before: BTreeMap<JobId, BTreeSet<usize>>,
    /// Definitions that have come to be judged one by one in the batch.
    judged_newly: BTreeSet<(JobId, usize)>,
    /// Jobs that the batch goes on with.
    pub continued: BTreeSet<JobId>,
}

impl ByIndex {
    /// A task has ended.
    pub(super) fn note_end(&mut self, job: JobId, position: usize, index: u32) {
        self.ended.entry((job, position)).or_default().push(index);
    }

    /// The indices of what the batch has ended and such tasks wait for, since this was last asked for.
    fn newly_ended(&mut self, job: JobId, position: usize, others: &[usize]) -> Vec<u32> {
        let mut indices = BTreeSet::new();
        for other in others {
            let Some(ended) = self.ended.get(&(job, *other)) else { continue };
            let looked_at = self.looked_at.entry((job, position, *other)).or_default();
            indices.extend(&ended[*looked_at..]);
            *looked_at = ended.len();
        }
        indices.into_iter().collect()
    }
}

/// A definition whose tasks are judged one by one, and those that they wait for, by position.
pub(super) struct Judged {
    pub job: JobId,
    pub position: usize,
    pub others: Vec<usize>,
}

/// The tasks in work by job, position and index.
type InWork = HashMap<(JobId, usize, u32), TaskId>;

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
        let mut found = Vec::new();
        for definition in judged {
            let Judged { job, position, .. } = definition;
            let ended = self.by_index.newly_ended(job, position, &definition.others);
            if !ended.is_empty() {
                self.load_blocked_at(tx, job, position, &ended).await?;
            }
            let mut indices: BTreeSet<u32> = ended.into_iter().collect();
            if self.is_to_scan(job, position) {
                self.by_index.scanned.insert((job, position));
                indices.extend(self.load_scanned(tx, job, position).await?);
            }
            if !indices.is_empty() {
                found.push((definition, indices));
            }
        }
        if found.is_empty() {
            return Ok(false);
        }
        let in_work = self.tasks.iter().map(|(id, work)| ((work.job, work.position, work.index), *id));
        let in_work: InWork = in_work.collect();
        for (definition, indices) in found {
            self.judge_indices(tx, &in_work, &definition, &indices, now).await?;
        }
        Ok(true)
    }

    /// Whether tasks may wait of which the others have ended before the batch, and there is room to look at them.
    fn is_to_scan(&mut self, job: JobId, position: usize) -> bool {
        let was_judged = self.was_judged(job, position);
        if !was_judged && self.by_index.judged_newly.insert((job, position)) {
            // The slices may be past it. Without room they begin anew, with it they are where it ends.
            self.slices.insert(job, None);
        }
        (self.by_index.continued.contains(&job) || !was_judged)
            && !self.unfinished.contains(&job)
            && !self.by_index.scanned.contains(&(job, position))
    }

    /// Whether the tasks of a definition were judged one by one before the batch already.
    fn was_judged(&mut self, job: JobId, position: usize) -> bool {
        let Some(work) = self.jobs.get(&job) else { return false };
        let judged = self.by_index.judged_before.entry(job).or_insert_with(|| {
            let before: Vec<Standing> = work.definitions.iter().map(|definition| definition.stored).collect();
            let verdicts = conditions::decide(&work.spec, &before, work.stop_scope());
            let judged =
                verdicts.into_iter().filter(|(_, verdict)| matches!(verdict, Verdict::EachByIndex(_)));
            judged.map(|(position, _)| position).collect()
        });
        judged.contains(&position)
    }

    async fn judge_indices(
        &mut self,
        tx: &mut PgConnection,
        in_work: &InWork,
        Judged { job, position, others }: &Judged,
        indices: &BTreeSet<u32>,
        now: Time,
    ) -> Result<(), StoreError> {
        let state = |position: usize, index: u32| {
            let id = in_work.get(&(*job, position, index))?;
            Some((*id, &self.tasks.get(id)?.task.state))
        };
        let mut blocked: Vec<(TaskId, u32)> = Vec::new();
        let mut found: HashMap<(usize, u32), Standing> = HashMap::new();
        for index in indices.iter().copied() {
            match state(*position, index) {
                Some((id, TaskState::Blocked)) => blocked.push((id, index)),
                _ => continue,
            }
            for other in others {
                if let Some((_, state)) = state(*other, index) {
                    found.insert((*other, index), Standing::of_task(state.name(), state.is_skipped()));
                }
            }
        }
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
            let code = reason.as_deref().map(reason_code);
            let standing = Standing::of_task(state, state.is_skipped(code));
            found.insert((position as usize, index as u32), standing);
        }
        Ok(())
    }
}
