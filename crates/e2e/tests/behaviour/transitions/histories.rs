//! Random histories, through `store/transitions` and through a model that is nothing but the rules: both must agree, also on what
//! became of a batch whose outcome nobody heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gaffer_domain::conditions::{Standing, StopScope, Verdict, decide, judge_each};
use gaffer_domain::job::{JobState, TaskCounts};
use gaffer_domain::reason::{LostCause, ProcessEnd};
use gaffer_domain::task::{StateName, StopCause, Task, TaskState, apply};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use gaffer_e2e::eventually;
use gaffer_master::records::{LiveOnWorker, PlaceInQueue};
use gaffer_master::scheduling_state::SchedulingState;
use gaffer_master::wakes::Wake;
use sqlx::{Connection as _, PgConnection};

use super::*;

mod interleaved;

/// The jobs of one history.
const JOBS: usize = 3;
const BATCHES: usize = 25;
const HISTORIES: u64 = 6;

/// What the rules make of everything, without a database.
#[derive(Debug, Clone)]
struct Model {
    jobs: Vec<ModelJob>,
    tasks: BTreeMap<TaskId, Task>,
}

#[derive(Debug, Clone)]
struct ModelJob {
    id: JobId,
    spec: JobSpec,
    /// The tasks of each definition.
    tasks: Vec<Vec<TaskId>>,
    has_started: bool,
    stop: StopScope,
}

/// What can be seen of a task from outside.
pub(super) type Seen = (String, u32, Option<(String, String)>);

impl Model {
    fn apply(&mut self, batch: &Batch, now: Time) -> (Vec<Result<(), Rejected>>, Vec<StopResult>) {
        let stops = batch.stops.iter().map(|stop| self.stop(stop, now)).collect();
        let results = batch
            .inputs
            .iter()
            .map(|input| {
                let result = self.change(input.task, input.event.clone(), now);
                // A report of an end says when it began, too.
                if let (Ok(()), TaskEvent::Ended(..) | TaskEvent::Started(..)) = (&result, &input.event) {
                    self.job_of(input.task).has_started = true;
                }
                result
            })
            .collect();
        while self.settle(now) {}
        (results, stops)
    }

    fn change(&mut self, task: TaskId, event: TaskEvent, now: Time) -> Result<(), Rejected> {
        let job = self.job_of(task);
        let position = job.tasks.iter().position(|tasks| tasks.contains(&task)).unwrap();
        let restart = job.spec.tasks[position].restart;
        let changed = apply(&self.tasks[&task], &restart, event, now)?;
        self.tasks.insert(task, changed.task);
        Ok(())
    }

    fn job_of(&mut self, task: TaskId) -> &mut ModelJob {
        self.jobs.iter_mut().find(|job| job.tasks.iter().flatten().any(|id| *id == task)).unwrap()
    }

    fn stop(&mut self, stop: &StopJob, now: Time) -> StopResult {
        let at = self.jobs.iter().position(|job| job.id == stop.job).unwrap();
        let state = self.job_state(&self.jobs[at]);
        if state.is_final() {
            return StopResult::Over(state);
        }
        if stop.force {
            self.jobs[at].stop = StopScope::All;
        } else if self.jobs[at].stop == StopScope::None {
            self.jobs[at].stop = StopScope::AllButCleanup;
        }
        let job = &self.jobs[at];
        let stopped =
            job.spec.tasks.iter().zip(&job.tasks).filter(|(definition, _)| job.stop.covers(definition));
        for task in stopped.flat_map(|(_, tasks)| tasks.clone()).collect::<Vec<_>>() {
            let _ = self.change(task, TaskEvent::StopRequested(StopCause::by(&stop.actor)), now);
        }
        StopResult::Stopping
    }

    /// Decides what becomes of tasks by what came of others, as far as that is decided. Says whether anything changed.
    fn settle(&mut self, now: Time) -> bool {
        let mut decided = Vec::new();
        for job in &self.jobs {
            let standings: Vec<Standing> = job.tasks.iter().map(|tasks| self.standing(tasks)).collect();
            for (position, verdict) in decide(&job.spec, &standings, job.stop) {
                let event = match verdict {
                    Verdict::EachByIndex(others) => {
                        decided.extend(self.judged(job, position, &standings, &others));
                        continue;
                    }
                    Verdict::Release => TaskEvent::DependenciesMet,
                    Verdict::CannotRun(reason) => TaskEvent::CannotRun(reason),
                    Verdict::Stop(cause) => TaskEvent::StopRequested(cause),
                };
                let is_meant = |task: &&TaskId| match &event {
                    TaskEvent::StopRequested(_) => self.tasks[*task].state.can_be_stopped(),
                    _ => self.tasks[*task].state == TaskState::Blocked,
                };
                decided
                    .extend(job.tasks[position].iter().filter(is_meant).map(|task| (*task, event.clone())));
            }
        }
        let is_change = !decided.is_empty();
        for (task, event) in decided {
            self.change(task, event, now).unwrap();
        }
        is_change
    }

    /// What is decided of tasks that each wait for those of their own index.
    fn judged(
        &self,
        job: &ModelJob,
        position: usize,
        standings: &[Standing],
        others: &[usize],
    ) -> Vec<(TaskId, TaskEvent)> {
        let tasks = job.tasks[position].iter().enumerate();
        let blocked = tasks.filter(|(_, task)| self.tasks[task].state == TaskState::Blocked);
        let with_others = blocked.map(|(index, task)| {
            let other = |at: &usize| (*at, self.standing(&job.tasks[*at][index..=index]));
            (*task, others.iter().map(other).collect())
        });
        let judged = judge_each(&job.spec, position, standings, with_others).into_iter();
        judged
            .map(|(task, verdict)| match verdict {
                Verdict::Release => (task, TaskEvent::DependenciesMet),
                Verdict::CannotRun(reason) => (task, TaskEvent::CannotRun(reason)),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn standing(&self, tasks: &[TaskId]) -> Standing {
        let mut standing = Standing::default();
        for task in tasks {
            standing.counts.add(self.tasks[task].state.name(), 1);
            standing.skipped += i64::from(self.tasks[task].state.is_skipped());
        }
        standing
    }

    fn counts(&self, job: &ModelJob) -> TaskCounts {
        let mut counts = TaskCounts::default();
        job.tasks.iter().flatten().for_each(|task| counts.add(self.tasks[task].state.name(), 1));
        counts
    }

    fn job_state(&self, job: &ModelJob) -> JobState {
        let skipped = job.tasks.iter().map(|tasks| self.standing(tasks).skipped).sum();
        JobState::of(&self.counts(job), skipped, job.has_started, job.stop != StopScope::None)
    }

    fn seen(&self) -> BTreeMap<TaskId, Seen> {
        self.tasks.iter().map(|(id, task)| (*id, seen(task))).collect()
    }

    /// Mostly something that makes sense.
    fn any_event(&self, workers: &[WorkerId], rng: &mut StdRng) -> (TaskId, TaskEvent) {
        let (id, task) = self.tasks.iter().nth(rng.random_range(0..self.tasks.len())).unwrap();
        let worker = match task.state.worker() {
            Some(worker) if rng.random_ratio(9, 10) => worker,
            _ => *workers.choose(rng).unwrap(),
        };
        let attempt = match rng.random_range(0..10) {
            0 => task.attempt.saturating_sub(1),
            1 => task.attempt + 1,
            _ => task.attempt,
        };
        let report = Report { worker, attempt };
        let placed = TaskEvent::Placed { worker: workers[rng.random_range(0..2)] };
        let leaves = || TaskEvent::MoveRequested(report, "moved away".to_owned());
        let event = match (task.state.name(), rng.random_range(0..10)) {
            (StateName::Pending, 0..8) => placed,
            (StateName::Scheduled | StateName::Running, 7) => leaves(),
            (StateName::Scheduled, 0..4) | (_, 8) => TaskEvent::Started(report, now()),
            (StateName::Scheduled, 4) => TaskEvent::Returned(report),
            (_, 9) => placed,
            _ => TaskEvent::Ended(report, any_end(rng)),
        };
        (*id, event)
    }
}

pub(super) fn seen(task: &Task) -> Seen {
    let reason = match &task.state {
        TaskState::Pending { after, .. } => after.clone(),
        TaskState::Failed { reason, .. } | TaskState::Cancelled { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let reason = reason.map(|reason| (reason.code.as_str().to_owned(), reason.message));
    (task.state.name().as_str().to_owned(), task.attempt, reason)
}

fn any_end(rng: &mut StdRng) -> AttemptEnd {
    match rng.random_range(0..8) {
        0 => AttemptEnd::Exited { code: 1 },
        1 => AttemptEnd::Signalled { signal: 11 },
        2 => AttemptEnd::Lost { cause: LostCause::OutOfContact },
        3 => AttemptEnd::Lost { cause: LostCause::WorkerShutDown },
        4 => AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) },
        _ => AttemptEnd::Exited { code: 0 },
    }
}

/// As exact as the database keeps it.
fn now() -> Time {
    use chrono::SubsecRound as _;
    chrono::Utc::now().trunc_subsecs(6)
}

fn any_spec(rng: &mut StdRng) -> serde_json::Value {
    let policy = *["never", "on-failure", "always"].choose(rng).unwrap();
    let on_lost = *["restart", "fail"].choose(rng).unwrap();
    let restart =
        json!({"policy": policy, "limit": rng.random_range(0..4), "delay": "0s", "on_lost": on_lost});
    let on = *["completed", "failed", "ended"].choose(rng).unwrap();
    let count = rng.random_range(1..4);
    let same =
        json!({"task": "a", "index": "same", "on": *["completed", "failed", "ended"].choose(rng).unwrap()});
    let further = json!(["d", {"task": "g", "index": "same"}, {"task": "a", "index": "same", "on": "ended"}]);
    let mut job = json!({"tasks": [
        {"name": "a", "command": ["true"], "count": count, "restart": restart},
        {"name": "b", "command": ["true"], "count": rng.random_range(1..3), "depends_on": ["a"]},
        {"name": "c", "command": ["true"], "depends_on": ["a", {"task": "b", "on": on}], "restart": restart},
        {"name": "d", "command": ["true"], "restart": restart},
        {"name": "e", "command": ["true"], "when": *["always", "failure"].choose(rng).unwrap()},
        {"name": "f", "command": ["true"], "count": 2, "when": "always", "depends_on": ["a"]},
        {"name": "g", "command": ["true"], "count": count, "restart": restart, "depends_on": [same]},
        {"name": "h", "command": ["true"], "count": count, "depends_on": further},
        {"name": "i", "command": ["true"], "count": count, "when": "always",
            "depends_on": [{"task": "a", "index": "same"}, {"task": "h", "index": "same"}]},
    ]});
    if rng.random_ratio(1, 3) {
        job["max_failures"] = json!(rng.random_range(0..2));
    }
    if rng.random_ratio(1, 3) {
        job["tasks"][0]["max_failures"] = json!(rng.random_range(0..2));
    }
    // What waits may be listed before what it waits for.
    job["tasks"].as_array_mut().unwrap().shuffle(rng);
    job
}

impl Bench {
    async fn model(&self, rng: &mut StdRng) -> Model {
        let mut model = Model { jobs: Vec::new(), tasks: BTreeMap::new() };
        for _ in 0..JOBS {
            let spec = any_spec(rng);
            let id = self.submit(spec.clone()).await;
            let spec = JobSpec::read(&spec).unwrap();
            let mut tasks = vec![Vec::new(); spec.tasks.len()];
            for task in self.store.task_list(id, &TaskFilter::default(), 500).await.unwrap() {
                let position =
                    spec.tasks.iter().position(|definition| definition.name == task.definition).unwrap();
                tasks[position].push(task.id);
                model.tasks.insert(task.id, Task::new(spec.tasks[position].waits_for_others(), now()));
            }
            model.jobs.push(ModelJob { id, spec, tasks, has_started: false, stop: StopScope::None });
        }
        model
    }

    /// Reads everything back and compares.
    async fn agrees_with(&self, model: &Model, workers: &[WorkerId]) {
        assert_eq!(self.seen(model).await, model.seen());
        for job in &model.jobs {
            let view = self.store.job_get(self.project, job.id).await.unwrap().unwrap();
            assert_eq!(view.state, model.job_state(job), "{:?}", view.task_counts);
            let counts = model.counts(job);
            for state in StateName::ALL {
                assert_eq!(view.task_counts.get(state), counts.get(state), "{}", state.as_str());
            }
        }
        for worker in workers {
            let mut expected = self.store.tasks_expected(&[*worker]).await.unwrap();
            let expected = expected.remove(worker).unwrap_or_default();
            // There are also those of earlier histories.
            let of_model =
                expected.iter().filter(|expected| model.tasks.contains_key(&expected.attempt.task));
            let found: Vec<_> = of_model.map(|expected| expected.attempt).collect();
            let held = model.tasks.iter().filter(|(_, task)| task.state.worker() == Some(*worker));
            let held: Vec<_> = held
                .map(|(id, task)| gaffer_domain::AttemptRef { task: *id, attempt: task.attempt })
                .collect();
            assert_eq!(found, held);
        }
    }

    async fn seen(&self, model: &Model) -> BTreeMap<TaskId, Seen> {
        let mut seen = BTreeMap::new();
        for job in &model.jobs {
            for task in self.store.task_list(job.id, &TaskFilter::default(), 500).await.unwrap() {
                let reason = task.reason.map(|reason| (reason.code.as_str().to_owned(), reason.message));
                seen.insert(task.id, (task.state.to_string(), task.attempt, reason));
            }
        }
        seen
    }

    /// Applies a batch and goes away in the middle. Whether it was applied is seen only afterwards: wholly or not at all.
    async fn interrupted(&self, batch: &Batch, model: &Model, now: Time, patience: Duration) -> Model {
        let mut database = PgConnection::connect(&self.database_url).await.unwrap();
        let begun: Time =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut database).await.unwrap();
        let store = Store::connect(&self.database_url).await.unwrap();
        let heard = tokio::time::timeout(patience, store.tasks_apply(batch, now)).await;
        store.close().await;
        // What was sent to the server may be read there only now.
        let left =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_start > $1";
        eventually("its connection is gone", async || {
            let left: i64 = sqlx::query_scalar(left).bind(begun).fetch_one(&mut database).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
        let mut after = model.clone();
        after.apply(batch, now);
        let seen = self.seen(model).await;
        if seen == after.seen() {
            return after;
        }
        assert!(heard.is_err(), "it was said to be committed");
        assert_eq!(seen, model.seen());
        model.clone()
    }
}

fn batch(events: Vec<(TaskId, TaskEvent)>, stops: Vec<StopJob>) -> Batch {
    let input = |(task, event): (TaskId, TaskEvent)| {
        let attempt = |report: &Report| gaffer_domain::AttemptRef { task, attempt: report.attempt };
        let detail = match &event {
            TaskEvent::Ended(report, end) => {
                Detail::End(Box::new(ended(attempt(report), end.clone(), 0)), Default::default())
            }
            _ => Detail::None,
        };
        Input { task, event, actor: "test".into(), detail }
    };
    Batch { inputs: events.into_iter().map(input).collect(), stops, ..Batch::default() }
}

/// What the scheduler learns from batches, beside what the database says.
struct Learned {
    database: PgConnection,
    state: SchedulingState,
    /// Class and position of what waits.
    waiting: BTreeSet<(i64, PlaceInQueue)>,
}

impl Learned {
    /// As at the end of a pass that has placed all that waits.
    async fn begin(bench: &Bench) -> Learned {
        let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
        let state = SchedulingState::new(Wake::default());
        state.live_was_counted(&bench.store.live_on_workers().await.unwrap());
        state.begin_pass();
        state.waiting_was_read([]);
        let waiting = waiting(&mut database).await;
        Learned { database, state, waiting }
    }

    /// What is live is what the batches have told, and what has come to wait since is found from where they say.
    async fn agrees_with(mut self, bench: &Bench, outcome: &Outcome) {
        self.state.live_changed(&outcome.live);
        for (class, first) in &outcome.waiting {
            self.state.waiting([*class], *first);
        }
        let by_key = |live: Vec<LiveOnWorker>| {
            live.into_iter().map(|live| ((live.worker, live.class, live.waiting), live.count))
        };
        let counted: BTreeMap<_, _> = by_key(bench.store.live_on_workers().await.unwrap()).collect();
        assert_eq!(by_key(self.state.live().unwrap()).collect::<BTreeMap<_, _>>(), counted);
        let from = self.state.begin_pass().unwrap();
        for (class, position) in waiting(&mut self.database).await.difference(&self.waiting) {
            assert!(from.get(class).is_some_and(|from| from <= position), "{class} {position:?} {from:?}");
        }
    }
}

async fn waiting(database: &mut PgConnection) -> BTreeSet<(i64, PlaceInQueue)> {
    let rows: Vec<(i64, Time, i64)> =
        sqlx::query_as("SELECT class_id, not_before, id FROM live_tasks WHERE state = 'pending'")
            .fetch_all(database)
            .await
            .unwrap();
    rows.into_iter()
        .map(|(class, not_before, task)| (class, PlaceInQueue { not_before, task: TaskId(task) }))
        .collect()
}

async fn history(bench: &Bench, workers: &[WorkerId], seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut model = bench.model(rng).await;
    for _ in 0..BATCHES {
        // Each event as the model has it before the batch, so that some come too late within it.
        let events = (0..rng.random_range(1..12)).map(|_| model.any_event(workers, rng)).collect();
        let mut stops = Vec::new();
        if rng.random_ratio(1, 15) {
            let job = model.jobs.choose(rng).unwrap().id;
            let force = rng.random_ratio(1, 3);
            stops.push(StopJob { job, project: bench.project, actor: "ana".into(), force });
        }
        let (batch, now) = (batch(events, stops), now());
        if rng.random_ratio(1, 4) {
            let patience = Duration::from_micros(rng.random_range(0..8_000));
            model = bench.interrupted(&batch, &model, now, patience).await;
        }
        let learned = Learned::begin(bench).await;
        // Also as the repetition of what was interrupted.
        let outcome = bench.store.tasks_apply(&batch, now).await.unwrap();
        learned.agrees_with(bench, &outcome).await;
        assert_eq!((outcome.results, outcome.stops), model.apply(&batch, now));
        bench.agrees_with(&model, workers).await;
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the last one that is named is the one that failed")]
async fn random_histories_go_as_the_rules_say_however_they_are_cut_into_batches_and_interrupted() {
    let bench = bench().await;
    let second = bench.another_worker().await;
    let stranger = WorkerId(second.0 + 1);
    for seed in 0..HISTORIES {
        eprintln!("history {seed}");
        history(&bench, &[bench.worker, second, stranger], seed).await;
    }
}
