//! Random histories of jobs that are too large for one batch: slices of them, stops and ends come together, in any order. Whatever
//! came together, nothing is left that the rules would decide, and every job ends.

use gaffer_domain::reason::{Reason, ReasonCode};
use gaffer_domain::task::AfterStop;
use gaffer_master::large_jobs::LargeJobs;
use gaffer_master::store::transitions::{JobSlice, SliceResult};

use super::*;

/// What one task is, as far as the rules look at it; from what can be seen of it.
fn state_of(task: &gaffer_master::records::Task) -> TaskState {
    let at = now();
    let worker = || task.worker_id.unwrap();
    let reason = || {
        let stopped = || Reason { code: ReasonCode::Stopped, message: String::new() };
        task.reason.clone().unwrap_or_else(stopped)
    };
    match task.state {
        StateName::Blocked => TaskState::Blocked,
        StateName::Pending => TaskState::Pending { not_before: at, after: None },
        StateName::Scheduled => TaskState::Scheduled { worker: worker(), since: at },
        StateName::Running => TaskState::Running { worker: worker(), since: at },
        StateName::Stopping => TaskState::Stopping {
            worker: worker(),
            started: None,
            cause: StopCause { message: reason().message, then: AfterStop::Cancel },
        },
        StateName::Completed => TaskState::Completed { at },
        StateName::Failed => TaskState::Failed { at, reason: reason() },
        StateName::Cancelled => TaskState::Cancelled { at, reason: reason() },
    }
}

/// A history, with what a master remembers of large jobs.
struct Interleaved<'a> {
    bench: &'a Bench,
    workers: &'a [WorkerId],
    model: Model,
    large: LargeJobs,
}

impl Interleaved<'_> {
    /// Makes the model what the database says.
    async fn read(&mut self) {
        for job in &self.model.jobs {
            for task in self.bench.store.task_list(job.id, &TaskFilter::default(), 500).await.unwrap() {
                let known = self.model.tasks.get_mut(&task.id).unwrap();
                (known.attempt, known.state) = (task.attempt, state_of(&task));
            }
        }
    }

    /// Applies a batch with slices of some of the jobs that were known to be large.
    async fn apply(&mut self, batch: Batch, known: &BTreeMap<JobId, gaffer_master::large_jobs::Progress>) {
        let outcome = self.bench.store.tasks_apply(&batch, now()).await.unwrap();
        for (stop, result) in batch.stops.iter().zip(&outcome.stops) {
            let job = self.model.jobs.iter_mut().find(|job| job.id == stop.job).unwrap();
            job.stop = match (result, stop.force, job.stop) {
                (StopResult::Stopping, true, _) => StopScope::All,
                (StopResult::Stopping, false, StopScope::None) => StopScope::AllButCleanup,
                (_, _, as_before) => as_before,
            };
        }
        // As the write batcher and the loop that continues large jobs do.
        self.large.add(outcome.unfinished);
        for (slice, result) in batch.slices.iter().zip(outcome.slices) {
            assert_ne!(result, SliceResult::Busy);
            self.large.sliced(slice.job, known[&slice.job], result);
        }
    }

    /// Continues what is large until nothing is; then nothing is left to decide or to stop.
    async fn drain(&mut self) {
        for _ in 0..500 {
            let known = self.large.all();
            if known.is_empty() {
                return self.check_that_nothing_is_left().await;
            }
            let slices =
                known.iter().map(|(job, known)| JobSlice { job: *job, after: known.after }).collect();
            self.apply(Batch { slices, slice_tasks: 2, ..Batch::default() }, &known).await;
        }
        panic!("it is never done: {:?}", self.large.all());
    }

    async fn check_that_nothing_is_left(&mut self) {
        self.read().await;
        let read = self.model.clone();
        assert!(!self.model.settle(now()), "the rules decide more of {:?}", read.seen());
        for job in &read.jobs {
            let stopped = job.spec.tasks.iter().zip(&job.tasks).filter(|(spec, _)| job.stop.covers(spec));
            for task in stopped.flat_map(|(_, tasks)| tasks) {
                assert!(!read.tasks[task].state.can_be_stopped(), "{task:?} was never asked to stop");
            }
        }
    }

    /// One step of every task that can go on.
    fn steps(&self, rng: &mut StdRng) -> Vec<(TaskId, TaskEvent)> {
        let step = |(id, task): (&TaskId, &Task)| {
            let report = |worker: &WorkerId| Report { worker: *worker, attempt: task.attempt };
            let event = match &task.state {
                TaskState::Pending { .. } => TaskEvent::Placed { worker: self.workers[0] },
                TaskState::Scheduled { worker, .. } | TaskState::Running { worker, .. } => {
                    TaskEvent::Ended(report(worker), any_end(rng))
                }
                TaskState::Stopping { worker, .. } => {
                    TaskEvent::Ended(report(worker), AttemptEnd::Stopped { process: None })
                }
                _ => return None,
            };
            Some((*id, event))
        };
        self.model.tasks.iter().filter_map(step).collect()
    }
}

async fn interleaved(bench: &Bench, workers: &[WorkerId], seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let model = bench.model(rng).await;
    let mut history = Interleaved { bench, workers, model, large: LargeJobs::default() };
    for _ in 0..BATCHES {
        // Slices may have been asked for before another batch.
        let known = history.large.all();
        for has_slices in [false, true] {
            if !has_slices && rng.random_ratio(2, 3) {
                continue;
            }
            history.read().await;
            let events = (0..rng.random_range(0..12)).map(|_| history.model.any_event(workers, rng));
            let mut batch = batch(events.collect(), Vec::new());
            if rng.random_ratio(1, 10) {
                let job = history.model.jobs.choose(rng).unwrap().id;
                let force = rng.random_ratio(1, 3);
                batch.stops.push(StopJob { job, project: bench.project, actor: "ana".into(), force });
            }
            let asked = known.iter().filter(|_| has_slices && rng.random_ratio(2, 3));
            batch.slices = asked.map(|(job, known)| JobSlice { job: *job, after: known.after }).collect();
            batch.slice_tasks = rng.random_range(1..4);
            history.apply(batch, &known).await;
        }
        if rng.random_ratio(1, 4) {
            history.drain().await;
        }
    }
    for _ in 0..60 {
        history.drain().await;
        let steps = history.steps(rng);
        if steps.is_empty() {
            break;
        }
        history.apply(batch(steps, Vec::new()), &BTreeMap::new()).await;
    }
    for job in &history.model.jobs {
        let view = bench.store.job_get(bench.project, job.id).await.unwrap().unwrap();
        assert!(view.state.is_final(), "{:?}", view.task_counts);
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the last one that is named is the one that failed")]
async fn random_histories_leave_nothing_undecided_whatever_slices_stops_and_ends_come_together() {
    let bench = bench().await;
    let second = bench.another_worker().await;
    let stranger = WorkerId(second.0 + 1);
    for seed in 0..3 * HISTORIES {
        eprintln!("history {seed}");
        interleaved(&bench, &[bench.worker, second, stranger], seed).await;
    }
}
