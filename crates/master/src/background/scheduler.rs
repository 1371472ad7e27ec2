//! Places waiting tasks on workers: a loop around one pass.

pub mod candidates;
pub mod recent;
pub mod reservations;
pub mod stats;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use gaffer_domain::placement::{Strategy, TAKE_BACK_AFTER, WorkerSnapshot, room};
use gaffer_domain::projects::Terms;
use gaffer_domain::queue::{Class, InUse, PassOptions, Turns, decide, may_keep};
use gaffer_domain::task::{Rejected, TaskEvent};
use gaffer_domain::{ProjectId, Time};
use gaffer_protocol::wire::ToWorker;

use super::driver::{Background, Ran};
use crate::hub::Hub;
use crate::large_jobs::LargeJobs;
use crate::pace::Pace;
use crate::pauses::Pauses;
use crate::records::{LiveOnWorker, PlaceInQueue, Worker};
use crate::scheduling_state::SchedulingState;
use crate::store::placement::{ClassHeads, PendingClass, WantedHeads};
use crate::store::transitions::{Detail, Input};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::WriteBatcherHandle;
use candidates::{measured, worker_snapshot};
use recent::Recent;
use reservations::{KeptFor, Reservations, ReservedFor};
use stats::SchedulerStats;

/// The most placements that are committed together.
const MAX_PLACED_AT_ONCE: usize = 512;
/// The least and the most tasks of one class that are looked at in a pass; the more classes wait, the fewer of each.
const MIN_HEADS: usize = 8;
const MAX_HEADS_OF_ALL: usize = 4 * MAX_PLACED_AT_ONCE;
/// The most attempts that are asked for back together.
const MAX_TAKEN_BACK_AT_ONCE: u32 = 2_000;
/// Wait while it is unknown whether this master leads.
const UNTRUSTED_PAUSE: TimeDelta = TimeDelta::milliseconds(500);
/// Wait for jobs that another transaction in the database holds.
const BUSY_WAIT: TimeDelta = TimeDelta::milliseconds(500);
/// Interval of full reads: rows that were changed by hand send no signal.
const READ_ALL_EVERY: Duration = Duration::from_secs(300);
/// Without a call and without a task in its back-off a pass is made so often.
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Scheduler {
    /// Where tasks and workers are read.
    pub store: Store,
    /// How far ahead to place.
    pub pace: Pace,
    /// Takes placements to the database.
    pub write_batcher: WriteBatcherHandle,
    /// What need not be read.
    pub state: SchedulingState,
    /// The jobs that are being stopped slice by slice: nothing of them is placed.
    pub large_jobs: LargeJobs,
    /// Asks for a pass.
    pub wake: Wake,
    /// Who is connected and how their machines do; through which workers are asked to give back what waits too long.
    pub hub: Hub,
    /// How workers are scored where a job does not say.
    pub strategy: Strategy,
    /// What passes remember of each other.
    pub turns: Turns,
    pub recent: Recent,
    /// Which workers have given what back.
    pub pauses: Pauses,
    /// How its passes go, for those who ask.
    pub stats: SchedulerStats,
    /// Which workers the last pass kept, and for what.
    pub reservations: Reservations,
    /// When to read everything anew.
    pub read_all_at: Option<Instant>,
    /// When to look for what has waited on a worker for too long; none while nothing can wait there.
    pub take_back_at: Option<Instant>,
}

/// How long it took a pass to decide, and which workers it keeps.
#[derive(Debug, Default)]
struct Effort {
    deciding: Duration,
    kept: ReservedFor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pass {
    /// Number of placed tasks.
    pub placed: usize,
    /// More could be placed at once.
    pub more: bool,
    /// A task in its back-off may be placed from then on.
    pub next: Option<Time>,
}

impl Background for Scheduler {
    const NAME: &'static str = "scheduler";
    const DESCRIPTION: &'static str = "places waiting tasks on workers";

    fn period(&self) -> Duration {
        PERIOD
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        if self.take_back_at.is_some_and(|at| at <= Instant::now()) {
            let is_anything_waiting = self.take_back_once(Utc::now()).await?;
            self.take_back_at = is_anything_waiting.then(take_back_next);
        }
        let pass = self.schedule_once(Utc::now()).await?;
        if pass.placed > 0 {
            self.take_back_at.get_or_insert_with(take_back_next);
        }
        let until_take_back = self.take_back_at.map(|at| at.saturating_duration_since(Instant::now()));
        let until_next =
            pass.next.map(|next| (next - Utc::now()).to_std().unwrap_or_default() + Duration::from_millis(1));
        let again_after = match pass.more {
            true => Some(Duration::ZERO),
            false => {
                let until_read = self.state.reads_again_in();
                until_next.into_iter().chain(until_take_back).chain(until_read).min()
            }
        };
        Ok(Ran { done: pass.placed as u64, again_after })
    }
}

fn take_back_next() -> Instant {
    Instant::now() + TAKE_BACK_AFTER.to_std()
}

impl Scheduler {
    /// Asks workers to return tasks that they have not started for too long. Returns whether any task is queued on a
    /// worker.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_back_once(&self, now: Time) -> Result<bool, StoreError> {
        let placed_before = now - TimeDelta::milliseconds(TAKE_BACK_AFTER.as_millis() as i64);
        let (overdue, any) = self.store.tasks_unstarted(placed_before, MAX_TAKEN_BACK_AT_ONCE).await?;
        for (attempt, worker) in overdue {
            self.hub.send(worker, ToWorker::TakeBack { attempt });
        }
        Ok(any)
    }

    /// One pass: the classes that wait, as [`decide`] orders them, each as far as the workers have room for it.
    ///
    /// # Errors
    /// When the database does not answer; nothing was placed then, or it was and shows in the next pass.
    pub async fn schedule_once(&mut self, now: Time) -> Result<Pass, StoreError> {
        if !self.store.leadership().is_trusted() {
            // Another master may place. When this one knows that it leads, it looks again.
            return Ok(Pass { next: Some(now + UNTRUSTED_PAUSE), ..Pass::default() });
        }
        let (begun, mut effort) = (Instant::now(), Effort::default());
        let waiting = self.waiting().await?;
        if waiting.is_empty() {
            self.reservations.set(ReservedFor::new());
            return Ok(Pass::default());
        }
        let pass = self.place(waiting, now, &mut effort).await?;
        let seen = stats::Pass {
            at: now,
            micros: micros(begun.elapsed()),
            decision_micros: micros(effort.deciding),
        };
        self.stats.note(seen);
        self.reservations.set(effort.kept);
        Ok(pass)
    }

    /// The classes of which tasks may wait, and from where on.
    async fn waiting(&mut self) -> Result<BTreeMap<i64, PlaceInQueue>, StoreError> {
        if self.read_all_at.is_none_or(|at| at <= Instant::now()) {
            self.state.read_anew();
            self.read_all_at = Some(Instant::now() + READ_ALL_EVERY);
        }
        if let Some(waiting) = self.state.begin_pass() {
            return Ok(waiting);
        }
        let classes = self.store.classes_pending().await.inspect_err(|_| self.state.read_anew())?;
        self.state.waiting_was_read(classes.iter().copied());
        Ok(classes.into_iter().map(|class| (class, PlaceInQueue::START)).collect())
    }

    /// What is live on workers.
    async fn live(&self) -> Result<Vec<LiveOnWorker>, StoreError> {
        match self.state.live() {
            Some(live) => Ok(live),
            None => self.write_batcher.count_live().await,
        }
    }

    /// What was set for projects.
    async fn terms(&self) -> Result<Arc<BTreeMap<ProjectId, Terms>>, StoreError> {
        match self.state.terms() {
            Ok(terms) => Ok(terms),
            Err(version) => {
                let terms = self.store.project_terms().await?;
                self.state.terms_were_read(version, &terms);
                Ok(terms)
            }
        }
    }

    async fn place(
        &mut self,
        waiting: BTreeMap<i64, PlaceInQueue>,
        now: Time,
        effort: &mut Effort,
    ) -> Result<Pass, StoreError> {
        // The workers before the tasks: what one that has just come is given is the best of all that was accepted before.
        let (workers, mut in_use) = self.store.worker_fleet_with(self.live().await?).await?;
        in_use.set_terms(self.terms().await?);
        let except = self.large_jobs.stopping();
        let few = (MAX_HEADS_OF_ALL / waiting.len()).clamp(1, MIN_HEADS);
        let wanted: Vec<WantedHeads> = waiting
            .iter()
            .map(|(class, from)| WantedHeads { class: *class, from: *from, most: few })
            .collect();
        let found = self.store.class_heads(&wanted, &except).await?;
        for class in waiting.keys() {
            match found.get(class) {
                // What its tasks need cannot be read.
                Some(None) => {}
                Some(Some(found)) => self.state.passed(*class, found.heads.first().copied()),
                None => self.state.passed(*class, None),
            }
        }
        let mut heads: BTreeMap<i64, ClassHeads> =
            found.into_iter().filter_map(|(class, heads)| Some((class, heads?))).collect();
        let first_later =
            |class: &ClassHeads| class.heads.iter().map(|head| head.not_before).find(|at| *at > now);
        let mut pass = Pass {
            next: heads.values().filter_map(first_later).chain(self.pauses.next_end(now)).min(),
            ..Pass::default()
        };
        heads.retain(|_, class| class.class.first <= now);
        let before = Instant::now();
        let mut offers: Vec<WorkerSnapshot> = workers.iter().map(|worker| self.offer(worker, now)).collect();
        let wanted = self.wanted(&heads, &in_use, &offers, now);
        effort.deciding += before.elapsed();
        if wanted.is_empty() {
            return Ok(pass);
        }
        let more: Vec<WantedHeads> = wanted
            .iter()
            .filter(|(class, room)| {
                **room > few && heads.get(class).is_some_and(|class| class.heads.len() == few)
            })
            // From the first that was found: what was passed over before it is not looked at again.
            .filter_map(|(class, room)| {
                let from = *heads.get(class)?.heads.first()?;
                Some(WantedHeads { class: *class, from, most: *room })
            })
            .collect();
        let looked_further: BTreeSet<i64> = more.iter().map(|wanted| wanted.class).collect();
        let mut found_further = self.store.class_heads(&more, &except).await?;
        for class in &looked_further {
            match found_further.remove(class).flatten().filter(|found| found.class.first <= now) {
                Some(found) => heads.insert(*class, found),
                None => heads.remove(class),
            };
        }
        let placeable = |id: &i64, class: &ClassHeads| {
            let ready = class.heads.iter().take_while(|head| head.not_before <= now).count();
            ready.min(wanted.get(id).copied().unwrap_or_default())
        };
        let classes: Vec<Class<'_>> = heads
            .iter()
            .filter(|(id, _)| wanted.contains_key(id))
            .map(|(id, found @ ClassHeads { class, .. })| Class {
                id: class.id,
                project: class.of.project,
                owner: &class.of.owner,
                priority: class.of.priority,
                needs: &class.of.needs,
                pending: placeable(id, found),
                since: class.first,
                mean_run: self.pace.mean(class.id),
            })
            .collect();
        let how = PassOptions { most: MAX_PLACED_AT_ONCE, strategy: self.strategy, now: Some(now) };
        let before = Instant::now();
        let decision = decide(&classes, &mut in_use, &mut offers, &mut self.turns, &how);
        effort.deciding += before.elapsed();
        let kept_for = |at: usize| {
            let Class { id: class, project, needs, .. } = classes[at];
            KeptFor { class, project, needs: needs.clone() }
        };
        effort.kept = decision.kept.iter().map(|kept| (kept.worker, kept_for(kept.class))).collect();

        let mut next_of = vec![0; classes.len()];
        let (mut inputs, mut placed_of) = (Vec::new(), Vec::new());
        for placed in decision.placed {
            let class = &classes[placed.class];
            let Some(head) = heads[&class.id].heads.get(next_of[placed.class]) else { continue };
            next_of[placed.class] += 1;
            placed_of.push((placed.class, placed.worker));
            inputs.push(Input {
                task: head.task,
                event: TaskEvent::Placed { worker: placed.worker },
                actor: "scheduler".into(),
                detail: Detail::Placement(Box::new(placed.receipt), Some(class.id)),
            });
        }
        // Of a class that is placed as far as it was looked at, there may be more.
        let is_used_up = |(class, next): (&Class<'_>, &usize)| *next == class.pending && *next > 0;
        let has_more = classes.iter().zip(&next_of).any(is_used_up);
        if inputs.is_empty() {
            return Ok(pass);
        }
        let unreadable = self.store.specs_unreadable().len();
        let Ok(results) = self.write_batcher.events(inputs).await else { return Ok(pass) };
        if results.contains(&Err(Rejected::Busy)) {
            // Another transaction holds their jobs, and no commit will signal its end.
            let again = now + BUSY_WAIT;
            pass.next = Some(pass.next.map_or(again, |next| next.min(again)));
        }
        let accepted = accepted_in_order(classes.len(), &placed_of, &results);
        for (class, accepted) in classes.iter().zip(accepted) {
            let heads = &heads[&class.id].heads;
            let Some(last) = accepted.checked_sub(1).and_then(|last| heads.get(last)) else { continue };
            let asked = if looked_further.contains(&class.id) { wanted[&class.id] } else { few };
            let is_all = accepted == heads.len() && heads.len() < asked;
            self.state.passed(class.id, (!is_all).then(|| last.next()));
        }
        // What has turned out to be unreadable must not keep those behind it waiting.
        let found_unreadable = self.store.specs_unreadable().len() > unreadable;
        let accepted = placed_of.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let reserved = accepted.map(|((class, worker), _)| (*worker, classes[*class].needs.resources));
        pass.placed = self.recent.add(reserved, Instant::now());
        pass.more = (decision.more || has_more) && pass.placed > 0 || found_unreadable;
        Ok(pass)
    }

    /// How many tasks to look at of the classes of which any can be placed now, or which may have a worker kept for them.
    fn wanted(
        &self,
        heads: &BTreeMap<i64, ClassHeads>,
        in_use: &InUse,
        offers: &[WorkerSnapshot],
        now: Time,
    ) -> BTreeMap<i64, usize> {
        let wanted = |class: &PendingClass| {
            let room = room(&class.of.needs, class.of.project, offers, self.pace.mean(class.id));
            (class.id, room.max(usize::from(may_keep(class.first, now))))
        };
        let mut wanted: BTreeMap<i64, usize> = heads
            .values()
            .map(|heads| &heads.class)
            .filter(|class| in_use.hold(class.of.project, &class.of.needs).is_none())
            .map(wanted)
            .filter(|(_, room)| *room > 0)
            .collect();
        let most = (MAX_HEADS_OF_ALL / wanted.len().max(1)).clamp(MIN_HEADS, MAX_PLACED_AT_ONCE);
        wanted.values_mut().for_each(|room| *room = (*room).min(most));
        wanted
    }

    /// The snapshot of a worker, with its backlog and measurements.
    fn offer(&self, worker: &Worker, now: Time) -> WorkerSnapshot {
        let finished_lately = self.pace.finished_lately(worker.id, Instant::now());
        let measured = measured(&self.hub, worker.id, |at| self.recent.since(worker.id, at));
        let paused = self.pauses.of(worker.id, now);
        let unhealthy = self.pauses.unhealthy_on(worker.id, now);
        WorkerSnapshot { finished_lately, measured, paused, unhealthy, ..worker_snapshot(worker, now) }
    }
}

/// Of how many tasks of each class, from the first one on, the placement was accepted without a gap.
fn accepted_in_order<W>(
    classes: usize,
    placed: &[(usize, W)],
    results: &[Result<(), Rejected>],
) -> Vec<usize> {
    let mut accepted = vec![(0, true); classes];
    for ((class, _), result) in placed.iter().zip(results) {
        let (count, has_no_gap) = &mut accepted[*class];
        *has_no_gap &= result.is_ok();
        *count += usize::from(*has_no_gap);
    }
    accepted.into_iter().map(|(count, _)| count).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_accepted_is_looked_at_again() {
        let placed = [(0, ()), (1, ()), (0, ()), (0, ())];
        let results = [Ok(()), Ok(()), Err(Rejected::Busy), Ok(())];
        assert_eq!(accepted_in_order(3, &placed, &results), [1, 1, 0]);
    }
}
