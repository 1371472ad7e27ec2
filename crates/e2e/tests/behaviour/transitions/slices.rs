//! Work on a job that is too large for one transaction is done in slices; a job that is locked delays only itself.

use gaffer_domain::job::JobState;
use gaffer_domain::task::{StateName, TaskEvent};
use gaffer_master::store::transitions::{JobSlice, SLICE_TASKS, SliceResult, Unfinished};
use sqlx::PgConnection;

use super::*;

/// More than two slices.
const MANY: usize = 2 * SLICE_TASKS + 500;

async fn counted(bench: &Bench, job: JobId, state: StateName) -> i64 {
    let job = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    job.task_counts.get(state)
}

impl Bench {
    /// Goes on with a job to its end; returns how many slices that took.
    async fn slices(&self, job: JobId) -> usize {
        self.slices_from(JobSlice { job, after: None }, SLICE_TASKS).await
    }

    async fn slices_from(&self, first: JobSlice, slice_tasks: usize) -> usize {
        let mut next = first;
        for slices in 1..=100 {
            let batch = Batch { slices: vec![next], slice_tasks, ..Batch::default() };
            let outcome = self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
            match outcome.slices[..] {
                [SliceResult::More(after)] => next.after = after,
                [SliceResult::Done] => return slices,
                ref other => panic!("{other:?}"),
            }
        }
        panic!("it is never done")
    }

    async fn stop(&self, job: JobId) -> Outcome {
        let stop = StopJob { job, project: self.project, actor: "ana".into(), force: false };
        let batch = Batch { stops: vec![stop], ..Batch::default() };
        self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap()
    }
}

#[tokio::test]
async fn a_large_job_is_stopped_in_slices_and_nothing_of_it_begins_meanwhile() {
    let (bench, mut database) = bench_and_database().await;
    let job = bench.submit(json!({"command": ["true"], "count": MANY})).await;
    let ids = bench.ids(job).await;
    let outcome = bench.stop(job).await;
    assert_eq!(outcome.stops, [StopResult::Stopping]);
    assert_eq!(outcome.unfinished, [Unfinished { job, is_stopping: true }]);
    assert_eq!(counted(&bench, job, StateName::Cancelled).await, SLICE_TASKS as i64);
    let view = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!(view.state, JobState::Stopping);

    // Those that no slice has reached are not placed any more.
    let last = last_task(&mut database, job).await;
    assert!(!ids.contains(&last));
    assert_eq!(bench.apply(vec![(last, bench.placed())]).await.results, [Err(Rejected::NoPlace)]);

    assert_eq!(bench.slices(job).await, 2);
    assert_eq!(counted(&bench, job, StateName::Cancelled).await, MANY as i64);
    let view = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!(view.state, JobState::Cancelled);
    assert_eq!(view.reason.unwrap().message, "stopped by ana");
}

#[tokio::test]
async fn a_job_that_is_over_with_a_full_slice_stays_as_it_ended() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"], "count": SLICE_TASKS})).await;
    let outcome = bench.stop(job).await;
    assert_eq!(
        outcome.unfinished,
        [Unfinished { job, is_stopping: true }],
        "nobody knows that it was the last"
    );
    let ended = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!(ended.state, JobState::Cancelled);
    assert_eq!(bench.slices(job).await, 1);
    assert_eq!(bench.store.job_get(bench.project, job).await.unwrap().unwrap(), ended);
}

/// A bench, and a connection to its database.
async fn bench_and_database() -> (Bench, PgConnection) {
    let url = fresh_database().await;
    let bench = bench_on(&url).await;
    (bench, PgConnection::connect(&url).await.unwrap())
}

async fn last_task(database: &mut PgConnection, job: JobId) -> TaskId {
    let id = sqlx::query_scalar("SELECT max(id) FROM tasks WHERE job_id = $1").bind(job.0);
    TaskId(id.fetch_one(database).await.unwrap())
}

#[tokio::test]
async fn what_runs_in_a_job_that_is_being_stopped_is_stopped_when_it_is_heard_of() {
    let (bench, mut database) = bench_and_database().await;
    let job = bench.submit(json!({"command": ["true"], "count": MANY})).await;
    let last = last_task(&mut database, job).await;
    bench.apply(vec![(last, bench.placed())]).await;
    assert_eq!(bench.stop(job).await.stops, [StopResult::Stopping]);
    // No slice has been there yet; its start, or its end with a repeat, must not let it go on.
    let outcome = bench
        .apply(vec![(
            last,
            TaskEvent::Started(Report { worker: bench.worker, attempt: 1 }, chrono::Utc::now()),
        )])
        .await;
    assert!(matches!(outcome.commands[..], [Dispatch::Stop(_, of)] if of.task == last), "{outcome:?}");
    assert_eq!(counted(&bench, job, StateName::Stopping).await, 1);
    bench.slices(job).await;
    assert_eq!(counted(&bench, job, StateName::Stopping).await, 1);
    assert_eq!(counted(&bench, job, StateName::Cancelled).await, MANY as i64 - 1);
}

#[tokio::test]
async fn dependencies_of_a_large_definition_are_settled_in_slices() {
    let bench = bench().await;
    for (code, state) in [(0, StateName::Pending), (1, StateName::Cancelled)] {
        let job = bench
            .submit(json!({"tasks": [
                {"name": "first", "command": ["true"]},
                {"name": "many", "command": ["true"], "count": MANY, "depends_on": ["first"]},
                {"name": "last", "command": ["true"], "depends_on": ["many"]},
            ]}))
            .await;
        let first = bench.ids(job).await[0];
        bench.apply(vec![(first, bench.placed())]).await;
        let outcome = bench.apply(vec![(first, bench.exited(1, code))]).await;
        assert_eq!(outcome.unfinished, [Unfinished { job, is_stopping: false }]);
        assert_eq!(counted(&bench, job, state).await, SLICE_TASKS as i64);
        // A master that starts finds it again.
        let left = bench.store.jobs_unsettled().await.unwrap();
        assert!(left.contains(&Unfinished { job, is_stopping: false }), "{left:?}");
        let slices = bench.slices(job).await;
        assert!(slices >= 2, "{slices}");
        let settled = if code == 0 { MANY as i64 } else { MANY as i64 + 1 };
        assert_eq!(counted(&bench, job, state).await, settled);
    }
}

#[tokio::test]
async fn a_job_that_somebody_else_holds_delays_only_itself() {
    let (bench, mut database) = bench_and_database().await;
    let held = bench.submit(json!({"command": ["true"]})).await;
    let free = bench.submit(json!({"command": ["true"]})).await;
    let (of_held, of_free) = (bench.ids(held).await[0], bench.ids(free).await[0]);
    let mut lock = database.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE")
        .bind(held.0)
        .execute(&mut *lock)
        .await
        .unwrap();

    let outcome = bench.apply(vec![(of_held, bench.placed()), (of_free, bench.placed())]).await;
    assert_eq!(outcome.results, [Err(Rejected::Busy), Ok(())]);
    assert_eq!(outcome.busy, [held]);
    assert_eq!(bench.stop(held).await.stops, [StopResult::Busy]);

    lock.rollback().await.unwrap();
    assert_eq!(bench.apply(vec![(of_held, bench.placed())]).await.results, [Ok(())]);
    // A job that is gone is not one that somebody holds.
    let stranger = TaskId(of_free.0 + 1_000);
    let event = TaskEvent::Placed { worker: bench.worker };
    assert_eq!(bench.apply(vec![(stranger, event)]).await.results, [Err(Rejected::Stale)]);
}

#[tokio::test]
async fn tasks_of_matching_indices_are_released_one_by_one_and_in_slices_when_all_come_to_be_judged() {
    let (bench, mut database) = bench_and_database().await;
    let job = bench
        .submit(json!({
            "tasks": [
                {"name": "gate", "command": ["true"]},
                {"name": "each", "command": ["true"], "count": MANY},
                {"name": "after", "command": ["true"], "count": MANY,
                    "depends_on": ["gate", {"task": "each", "index": "same"}]},
            ],
        }))
        .await;
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1 ORDER BY position, index")
        .bind(job.0)
        .fetch_all(&mut database)
        .await
        .unwrap();
    let ids: Vec<TaskId> = ids.into_iter().map(TaskId).collect();
    let (gate, each) = (ids[0], &ids[1..=MANY]);
    let run = async |tasks: &[TaskId]| {
        bench.apply(tasks.iter().map(|task| (*task, bench.placed())).collect()).await;
        bench.apply(tasks.iter().map(|task| (*task, bench.exited(1, 0))).collect()).await
    };
    // Ended before anything of the other definition may run: nobody will hear of these again.
    for tasks in each[..MANY - 10].chunks(SLICE_TASKS) {
        assert_eq!(run(tasks).await.unfinished, []);
    }
    assert_eq!(counted(&bench, job, StateName::Blocked).await, MANY as i64);
    let outcome = run(&[gate]).await;
    assert_eq!(outcome.unfinished, [Unfinished { job, is_stopping: false }]);
    // The first slice was done with the end of the gate.
    assert_eq!(bench.slices(job).await, 2);
    assert_eq!(counted(&bench, job, StateName::Blocked).await, 10);
    // From now on each is released by the one that it waits for.
    assert_eq!(run(&each[MANY - 10..MANY - 5]).await.unfinished, []);
    assert_eq!(counted(&bench, job, StateName::Blocked).await, 5);
    // A new master does not know what was looked at.
    assert_eq!(bench.slices(job).await, 1);
    assert_eq!(counted(&bench, job, StateName::Blocked).await, 5);
    run(&each[MANY - 5..]).await;
    assert_eq!(counted(&bench, job, StateName::Blocked).await, 0);
}

impl Bench {
    /// The tasks of a job by their address, as `a.0`.
    async fn addresses(&self, job: JobId) -> std::collections::BTreeMap<String, TaskId> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        tasks.into_iter().map(|task| (format!("{}.{}", task.definition, task.index), task.id)).collect()
    }

    /// How the tasks of one definition stand, in order.
    async fn states_of(&self, job: JobId, definition: &str) -> Vec<String> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        let of_it = tasks.into_iter().filter(|task| task.definition == definition);
        of_it.map(|task| task.state.to_string()).collect()
    }

    /// Places a task in one batch, and has it exit in the next one, beside whatever else this has.
    async fn end_with(&self, task: TaskId, code: i32, batch: Batch) -> Outcome {
        self.apply(vec![(task, self.placed())]).await;
        let event = self.exited(1, code);
        let input = Input { task, event, actor: "test".into(), detail: Detail::None };
        let batch = Batch { inputs: vec![input], ..batch };
        self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap()
    }

    async fn end(&self, task: TaskId, code: i32) {
        self.end_with(task, code, Batch::default()).await;
    }

    /// One slice of this many tasks at most; returns what is to be asked for next.
    async fn slice_of(&self, slice: JobSlice, slice_tasks: usize) -> JobSlice {
        let batch = Batch { slices: vec![slice], slice_tasks, ..Batch::default() };
        after(self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap(), slice.job)
    }
}

/// The next slice, where there is more.
fn after(outcome: Outcome, job: JobId) -> JobSlice {
    match outcome.slices[..] {
        [SliceResult::More(after)] => JobSlice { job, after },
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_task_that_waits_for_two_of_its_index_is_judged_when_the_second_ends_in_the_same_batch() {
    let bench = bench().await;
    let same = |task: &str, on: &str| json!({"task": task, "index": "same", "on": on});
    let job = bench
        .submit(json!({"tasks": [
            {"name": "clean", "command": ["true"], "count": 2, "when": "always",
                "depends_on": [{"task": "build", "index": "same"}, {"task": "test", "index": "same"}]},
            {"name": "build", "command": ["true"], "count": 2},
            {"name": "test", "command": ["true"], "count": 2, "depends_on": [same("build", "completed")]},
        ]}))
        .await;
    // Its failure cancels `test.0`, which `clean.0` waits for, too.
    bench.end(bench.addresses(job).await["build.0"], 1).await;
    assert_eq!(bench.states_of(job, "test").await, ["cancelled", "blocked"]);
    assert_eq!(bench.states_of(job, "clean").await, ["pending", "blocked"]);

    // Listed in the order in which they run, and the second one ends by what becomes of a whole definition.
    let job = bench
        .submit(json!({"tasks": [
            {"name": "a", "command": ["true"], "count": 2},
            {"name": "g", "command": ["true"], "count": 2, "depends_on": [same("a", "completed")]},
            {"name": "c", "command": ["true"], "count": 2, "depends_on": ["g"]},
            {"name": "h", "command": ["true"], "count": 2, "depends_on": [same("a", "ended"), same("c", "ended")]},
        ]}))
        .await;
    bench.end(bench.addresses(job).await["a.0"], 1).await;
    assert_eq!(bench.states_of(job, "c").await, ["cancelled", "cancelled"]);
    assert_eq!(bench.states_of(job, "h").await, ["pending", "blocked"]);
    assert_eq!(bench.job_state(job).await, "running");
}

#[tokio::test]
async fn what_comes_to_be_judged_while_slices_are_past_it_is_judged() {
    let bench = bench().await;
    let same = json!({"task": "each", "index": "same"});
    let job = bench
        .submit(json!({"tasks": [
            {"name": "gate", "command": ["true"]},
            {"name": "each", "command": ["true"], "count": 5},
            {"name": "early", "command": ["true"], "count": 5, "depends_on": ["gate", same]},
            {"name": "late", "command": ["true"], "count": 5, "depends_on": [same]},
        ]}))
        .await;
    let ids = bench.addresses(job).await;
    bench.end(ids["each.0"], 0).await;
    assert_eq!(bench.states_of(job, "late").await[..2], ["pending", "blocked"]);
    // As a new master does, which does not know what was looked at.
    let next = bench.slice_of(JobSlice { job, after: None }, 2).await;
    // Whether there is room to look at all of them in this batch, or not.
    let batch = Batch { slices: vec![next], slice_tasks: 2, ..Batch::default() };
    let next = after(bench.end_with(ids["gate.0"], 0, batch).await, job);
    bench.slices_from(next, 2).await;
    assert_eq!(bench.states_of(job, "early").await, ["pending", "blocked", "blocked", "blocked", "blocked"]);
}

#[tokio::test]
async fn a_stop_reaches_all_tasks_wherever_the_slices_of_other_work_are() {
    let bench = bench().await;
    for force in [false, true] {
        let job = bench
            .submit(json!({"tasks": [
                {"name": "first", "command": ["true"]},
                {"name": "many", "command": ["true"], "count": 6, "depends_on": ["first"]},
                {"name": "clean", "command": ["true"], "when": "always", "count": 6, "depends_on": ["first"]},
            ]}))
            .await;
        let ids = bench.addresses(job).await;
        let batch = Batch { slice_tasks: 2, ..Batch::default() };
        let outcome = bench.end_with(ids["first.0"], 0, batch).await;
        assert_eq!(outcome.unfinished, [Unfinished { job, is_stopping: false }]);
        let slice = bench.slice_of(JobSlice { job, after: None }, 2).await;
        assert_eq!(counted(&bench, job, StateName::Pending).await, 4);
        let stop = StopJob { job, project: bench.project, actor: "ana".into(), force };
        let batch = Batch { stops: vec![stop], slices: vec![slice], slice_tasks: 2, ..Batch::default() };
        let outcome = bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
        assert_eq!(outcome.stops, [StopResult::Stopping]);
        assert_eq!(outcome.unfinished, [Unfinished { job, is_stopping: true }]);
        let _ = after(outcome, job);
        bench.slices(job).await;
        assert_eq!(bench.states_of(job, "many").await, ["cancelled"; 6]);
        let clean = if force { "cancelled" } else { "pending" };
        assert_eq!(bench.states_of(job, "clean").await, [clean; 6]);
    }
}

#[tokio::test]
async fn a_forced_stop_reaches_also_those_tasks_that_the_slices_of_the_stop_have_left() {
    let bench = bench().await;
    let job = bench
        .submit(json!({"tasks": [
            {"name": "clean", "command": ["true"], "when": "always", "count": 3},
            {"name": "many", "command": ["true"], "count": 8},
        ]}))
        .await;
    let stop = |force| vec![StopJob { job, project: bench.project, actor: "ana".into(), force }];
    let batch = Batch { stops: stop(false), slice_tasks: 2, ..Batch::default() };
    bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
    let slice = bench.slice_of(JobSlice { job, after: None }, 2).await;
    let batch = Batch { stops: stop(true), slices: vec![slice], slice_tasks: 2, ..Batch::default() };
    let next = after(bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap(), job);
    bench.slices_from(next, 2).await;
    assert_eq!(bench.states_of(job, "clean").await, ["cancelled"; 3]);
    assert_eq!(bench.job_state(job).await, "cancelled");
}

#[tokio::test]
async fn too_many_failures_stop_also_those_tasks_that_the_slices_of_their_release_are_past() {
    let bench = bench().await;
    let job = bench
        .submit(json!({"tasks": [
            {"name": "first", "command": ["true"]},
            {"name": "many", "command": ["true"], "count": 8, "max_failures": 0, "depends_on": ["first"]},
        ]}))
        .await;
    let ids = bench.addresses(job).await;
    bench.end_with(ids["first.0"], 0, Batch { slice_tasks: 2, ..Batch::default() }).await;
    let slice = bench.slice_of(JobSlice { job, after: None }, 2).await;
    assert_eq!(counted(&bench, job, StateName::Pending).await, 4);
    let batch = Batch { slices: vec![slice], slice_tasks: 2, ..Batch::default() };
    let next = after(bench.end_with(ids["many.0"], 1, batch).await, job);
    bench.slices_from(next, 2).await;
    assert_eq!(bench.states_of(job, "many").await[1..], ["cancelled"; 7]);
}
