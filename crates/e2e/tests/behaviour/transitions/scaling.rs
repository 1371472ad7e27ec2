//! Services that are scaled, through `store/transitions`, beside a model that is nothing but the rules.

use std::collections::BTreeMap;

use gaffer_domain::job::TaskCounts;
use gaffer_domain::reason::{LostCause, ProcessEnd};
use gaffer_domain::scale::{Refused, message};
use gaffer_domain::task::{AfterStop, StopCause, Task, TaskState, apply};
use gaffer_e2e::eras::open_eras;
use gaffer_master::store::transitions::{JobSlice, ScaleJob, ScaleResult, SliceResult};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::histories::{Seen, seen};
use super::*;

const HISTORIES: u64 = 12;
const BATCHES: usize = 30;

/// A service of one definition.
struct Model {
    spec: JobSpec,
    slots: Vec<Task>,
    /// At how many it is kept, if it was scaled.
    count: Option<u32>,
    has_started: bool,
    is_stopped: bool,
}

impl Model {
    fn apply(&mut self, inputs: &[(u32, TaskEvent)], scale: Option<u32>, stop: bool, now: Time) {
        let is_over = self.job_state().is_final();
        if stop && !is_over {
            self.is_stopped = true;
            self.stop_all(now);
        }
        let before = self.count.unwrap_or(self.spec.tasks[0].indices.len());
        let scaled = scale.filter(|count| *count != before && !is_over && !self.is_stopped);
        self.count = scaled.or(self.count);
        for (index, event) in inputs {
            let is_placed = matches!(event, TaskEvent::Placed { .. });
            let is_away = self.count.is_some_and(|count| *index >= count);
            if is_placed && (is_away || self.is_stopped) {
                continue;
            }
            if self.change(*index, event.clone(), now)
                && matches!(event, TaskEvent::Ended(..) | TaskEvent::Started(..))
            {
                self.has_started = true;
            }
            if self.is_stopped {
                self.stop_all(now);
            }
        }
        if let Some(count) = scaled {
            self.settle(count, &message(count > before, count, "ana"), now);
        }
    }

    fn stop_all(&mut self, now: Time) {
        for index in 0..self.slots.len() as u32 {
            if self.slots[index as usize].state.can_be_stopped() {
                self.change(index, TaskEvent::StopRequested(StopCause::by("ana")), now);
            }
        }
    }

    fn settle(&mut self, count: u32, message: &str, now: Time) {
        let cause = StopCause { message: message.to_owned(), then: AfterStop::ScaleDown };
        for index in 0..self.slots.len() as u32 {
            let message = message.to_owned();
            let up = TaskEvent::ScaledUp { message, waits_for_others: false };
            let has_ended = matches!(
                self.slots[index as usize].state,
                TaskState::Completed { .. } | TaskState::Failed { .. }
            );
            match (index >= count, has_ended) {
                (true, true) => {
                    self.change(index, up, now);
                    self.change(index, TaskEvent::StopRequested(cause.clone()), now);
                }
                (true, false) => _ = self.change(index, TaskEvent::StopRequested(cause.clone()), now),
                (false, true) => {}
                (false, false) => _ = self.change(index, up, now),
            }
        }
        while self.slots.len() < count as usize {
            self.slots.push(Task::new(false, now));
        }
    }

    fn change(&mut self, index: u32, event: TaskEvent, now: Time) -> bool {
        let Some(task) = self.slots.get_mut(index as usize) else { return false };
        let changed = apply(task, &self.spec.tasks[0].restart, event, now);
        changed.map(|change| *task = change.task).is_ok()
    }

    fn job_state(&self) -> JobState {
        let mut counts = TaskCounts::default();
        self.slots.iter().for_each(|task| counts.add(task.state.name(), 1));
        if self.count == Some(0) && counts.unfinished() == 0 {
            return JobState::of_idle(&counts, self.has_started, self.is_stopped);
        }
        let skipped = self.slots.iter().filter(|task| task.state.is_skipped()).count() as i64;
        JobState::of(&counts, skipped, self.has_started, self.is_stopped)
    }

    fn any_event(&self, worker: WorkerId, rng: &mut StdRng) -> (u32, TaskEvent) {
        let index = rng.random_range(0..self.slots.len());
        let task = &self.slots[index];
        let report = Report { worker, attempt: task.attempt };
        let end = match rng.random_range(0..5) {
            0 => AttemptEnd::Exited { code: 0 },
            1 => AttemptEnd::Exited { code: 1 },
            2 => AttemptEnd::Lost { cause: LostCause::OutOfContact },
            _ => AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) },
        };
        let event = match (task.state.name(), rng.random_range(0..10)) {
            (StateName::Pending, 0..8) => TaskEvent::Placed { worker },
            (StateName::Scheduled, 0..5) => TaskEvent::Started(report, chrono::Utc::now()),
            (StateName::Scheduled | StateName::Stopping, 5) => TaskEvent::Returned(report),
            (StateName::Scheduled | StateName::Running, 6) => {
                TaskEvent::MoveRequested(report, "moved away".to_owned())
            }
            (StateName::Running, 0..6) => TaskEvent::Placed { worker },
            _ => TaskEvent::Ended(report, end),
        };
        (index as u32, event)
    }
}

impl Bench {
    fn scaling(&self, job: JobId, task: Option<&str>, count: u32) -> Batch {
        let task = task.map(str::to_owned);
        let scale = ScaleJob { job, project: self.project, actor: "ana".into(), task, count };
        Batch { scales: vec![scale], ..Batch::default() }
    }

    async fn scale(&self, job: JobId, count: u32) -> Outcome {
        self.store.tasks_apply(&self.scaling(job, None, count), chrono::Utc::now()).await.unwrap()
    }

    async fn by_index(&self, job: JobId) -> BTreeMap<u32, (TaskId, Seen)> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        let with_index = |task: gaffer_master::records::Task| {
            let reason = task.reason.map(|reason| (reason.code.as_str().to_owned(), reason.message));
            (task.index, (task.id, (task.state.to_string(), task.attempt, reason)))
        };
        let count = tasks.len();
        let by_index: BTreeMap<_, _> = tasks.into_iter().map(with_index).collect();
        assert_eq!(by_index.len(), count, "an index is that of one task");
        by_index
    }

    /// Applies this batch and then as many slices as it takes.
    async fn until_settled(&self, job: JobId, mut batch: Batch) {
        for _ in 0..100 {
            let slice_tasks = batch.slice_tasks;
            let outcome = self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
            if outcome.unfinished.is_empty() && outcome.slices.iter().all(|done| *done == SliceResult::Done) {
                return;
            }
            batch = Batch { slices: vec![JobSlice { job, after: None }], slice_tasks, ..Batch::default() };
        }
        panic!("it is never done");
    }

    async fn instances(&self, job: JobId, count: u32) -> Vec<&'static str> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        let live = |task: &gaffer_master::records::Task| if task.state.is_final() { "over" } else { "kept" };
        let is = tasks.iter().map(live).collect::<Vec<_>>();
        assert_eq!(is.iter().filter(|is| **is == "kept").count(), count as usize, "{is:?}");
        is
    }
}

#[tokio::test]
async fn random_histories_of_a_service_are_what_the_rules_say() {
    let bench = bench().await;
    for seed in 0..HISTORIES {
        let rng = &mut StdRng::seed_from_u64(seed);
        let restart =
            json!({"policy": "always", "limit": rng.random_range(0..4), "delay": "0s", "within": "1h"});
        let spec = json!({
            "type": "service", "command": ["true"], "count": rng.random_range(1..4), "restart": restart,
        });
        let job = bench.submit(spec.clone()).await;
        let spec = JobSpec::read(&spec).unwrap();
        let slots = spec.tasks[0].indices.iter().map(|_| Task::new(false, chrono::Utc::now())).collect();
        let mut model = Model { spec, slots, count: None, has_started: false, is_stopped: false };
        for step in 0..BATCHES {
            let ids = bench.by_index(job).await;
            let events: Vec<(u32, TaskEvent)> =
                (0..rng.random_range(0..6)).map(|_| model.any_event(bench.worker, rng)).collect();
            let scale = rng.random_ratio(1, 2).then(|| *[0, 1, 2, 3, 5].choose(rng).unwrap());
            let stop = step > 20 && rng.random_ratio(1, 8);
            let inputs = events.iter().map(|(index, event)| {
                let detail = match event {
                    TaskEvent::Ended(report, end) => {
                        let attempt =
                            gaffer_domain::AttemptRef { task: ids[index].0, attempt: report.attempt };
                        Detail::End(Box::new(ended(attempt, end.clone(), 0)), Default::default())
                    }
                    _ => Detail::None,
                };
                Input { task: ids[index].0, event: event.clone(), actor: "test".into(), detail }
            });
            let mut batch = match scale {
                Some(count) => bench.scaling(job, None, count),
                None => Batch::default(),
            };
            batch.inputs = inputs.collect();
            if stop {
                let actor = "ana".into();
                batch.stops.push(StopJob { job, project: bench.project, actor, force: false });
            }
            let now = chrono::Utc::now();
            bench.store.tasks_apply(&batch, now).await.unwrap();
            model.apply(&events, scale, stop, now);

            let found = bench.by_index(job).await;
            let found: Vec<Seen> = found.into_values().map(|(_, seen)| seen).collect();
            let expected: Vec<Seen> = model.slots.iter().map(seen).collect();
            assert_eq!(found, expected, "seed {seed}, step {step}: {events:?}, {scale:?}, {stop}");
            let view = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
            assert_eq!(view.state, model.job_state(), "seed {seed}, step {step}");
            for state in StateName::ALL {
                let expected = expected.iter().filter(|(name, ..)| *name == state.as_str()).count();
                assert_eq!(view.task_counts.get(state), expected as i64, "seed {seed}, step {step}: {state}");
            }
            let kept = model.count.unwrap_or(model.spec.tasks[0].indices.len());
            assert_eq!(view.kept(), (!view.is_over()).then_some(u64::from(kept)));
            if view.is_over() {
                break;
            }
        }
        if !model.job_state().is_final() {
            let stop = StopJob { job, project: bench.project, actor: "ana".into(), force: true };
            let batch = Batch { stops: vec![stop], ..Batch::default() };
            bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_service_is_scaled_in_slices_and_what_no_slice_has_reached_is_not_placed() {
    let bench = bench().await;
    let job = bench.submit(json!({"type": "service", "command": ["true"], "count": 7})).await;
    let ids = bench.by_index(job).await;
    let first = Batch { slice_tasks: 2, ..bench.scaling(job, None, 1) };
    let outcome = bench.store.tasks_apply(&first, chrono::Utc::now()).await.unwrap();
    assert_eq!(outcome.scales, [ScaleResult::Kept { task: "main".to_owned() }]);
    assert_eq!(outcome.unfinished.len(), 1);
    assert_eq!(bench.instances(job, 5).await[5..], ["over", "over"], "the highest indices go first");
    let left = bench.store.jobs_unsettled().await.unwrap();
    assert!(
        left.iter().any(|left| left.job == job && !left.is_stopping),
        "the next master goes on: {left:?}"
    );
    assert_eq!(bench.apply(vec![(ids[&4].0, bench.placed())]).await.results, [Err(Rejected::NoPlace)]);
    assert_eq!(bench.apply(vec![(ids[&0].0, bench.placed())]).await.results, [Ok(())]);
    let rest = Batch { slices: vec![JobSlice { job, after: None }], slice_tasks: 2, ..Batch::default() };
    bench.until_settled(job, rest).await;
    bench.instances(job, 1).await;
    let left = bench.store.jobs_unsettled().await.unwrap();
    assert!(!left.iter().any(|left| left.job == job), "{left:?}");
    bench.until_settled(job, Batch { slice_tasks: 2, ..bench.scaling(job, None, 11) }).await;
    bench.instances(job, 11).await;
    assert_eq!(bench.by_index(job).await[&6].0, ids[&6].0, "it is the same task");
}

#[tokio::test]
async fn a_service_that_is_older_than_the_present_era_gets_further_tasks_of_its_own_era() {
    let bench = bench().await;
    let job = bench.submit(json!({"type": "service", "command": ["true"], "count": 1})).await;
    let other = bench.submit(json!({"type": "service", "command": ["true"], "count": 1})).await;
    open_eras(&bench.database_url, 1).await;
    for (job, count) in [(job, 3), (other, 2), (job, 4)] {
        bench.scale(job, count).await;
        bench.instances(job, count).await;
    }
    let (first, second) = (bench.by_index(job).await, bench.by_index(other).await);
    let ids: std::collections::BTreeSet<TaskId> =
        first.values().chain(second.values()).map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), 6, "each has its number");
    assert!(ids.iter().all(|id| id.0 >> 32 == first[&0].0.0 >> 32), "{ids:?}");
    let of_new_era = bench.submit(json!({"command": ["true"]})).await;
    assert_ne!(bench.ids(of_new_era).await[0].0 >> 32, first[&0].0.0 >> 32);
    // They come and go like all others.
    bench.apply(vec![(first[&3].0, bench.placed())]).await;
    bench.apply(vec![(first[&3].0, bench.exited(1, 0))]).await;
    bench.scale(job, 0).await;
    assert_eq!(bench.job_state(job).await, "running");
    bench.scale(job, 4).await;
    bench.instances(job, 4).await;
    assert_eq!(bench.by_index(job).await[&3].0, first[&3].0);
}

#[tokio::test]
async fn attempts_after_a_restore_have_numbers_that_no_worker_knows_also_of_tasks_that_had_ended() {
    let bench = bench().await;
    let job = bench.submit(json!({"type": "service", "command": ["true"], "count": 2})).await;
    let task = bench.by_index(job).await[&1].0;
    bench.apply(vec![(task, bench.placed())]).await;
    bench.scale(job, 1).await;
    let stopped = AttemptEnd::Stopped { process: None };
    let report = Report { worker: bench.worker, attempt: 1 };
    bench.apply(vec![(task, TaskEvent::Ended(report, stopped))]).await;
    let mut database = sqlx::PgConnection::connect(&bench.database_url).await.unwrap();
    let term: i64 = sqlx::query_scalar("SELECT term FROM leadership").fetch_one(&mut database).await.unwrap();
    bench.store.continue_after_restore(chrono::Utc::now()).await.unwrap();
    // As if it had become the leader of the next term.
    sqlx::query("UPDATE leadership SET term = $1").bind(term).execute(&mut database).await.unwrap();
    bench.scale(job, 2).await;
    bench.apply(vec![(task, bench.placed())]).await;
    let (_, (state, attempt, _)) = &bench.by_index(job).await[&1];
    assert!(state == "scheduled" && *attempt > 100, "attempt {attempt} is {state}");
}

#[tokio::test]
async fn a_task_that_others_wait_for_and_a_batch_job_are_not_scaled() {
    let bench = bench().await;
    let batch = bench.submit(json!({"command": ["true"]})).await;
    let outcome = bench.scale(batch, 2).await;
    assert_eq!(outcome.scales, [ScaleResult::Refused(Refused::NotAService)]);
    let tasks = json!([
        {"name": "migrate", "command": ["true"], "restart": "never"},
        {"name": "web", "command": ["true"], "depends_on": ["migrate"], "count": 2},
    ]);
    let service = bench.submit(json!({"type": "service", "tasks": tasks})).await;
    let scaled = async |task, count| {
        let batch = bench.scaling(service, task, count);
        bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap().scales.remove(0)
    };
    assert!(matches!(scaled(None, 2).await, ScaleResult::Refused(Refused::WhichDefinition { .. })));
    assert!(matches!(scaled(Some("migrate"), 2).await, ScaleResult::Refused(Refused::IsAwaited { .. })));
    assert_eq!(scaled(Some("web"), 3).await, ScaleResult::Kept { task: "web".to_owned() });
    // What is added waits like those that were there.
    assert_eq!(bench.states(service).await, ["pending", "blocked", "blocked", "blocked"]);
    let ids = bench.ids(service).await;
    bench.apply(vec![(ids[0], bench.placed())]).await;
    bench.apply(vec![(ids[0], bench.exited(1, 0))]).await;
    assert_eq!(bench.states(service).await, ["completed", "pending", "pending", "pending"]);
    // What is added later does not wait any more.
    scaled(Some("web"), 1).await;
    scaled(Some("web"), 4).await;
    assert_eq!(bench.states(service).await[1..], ["pending"; 4]);
    let mut foreign = bench.scaling(service, Some("web"), 0);
    foreign.scales[0].project = ProjectId(bench.project.0 + 1);
    let outcome = bench.store.tasks_apply(&foreign, chrono::Utc::now()).await.unwrap();
    assert_eq!(outcome.scales, [ScaleResult::Unknown]);
}
