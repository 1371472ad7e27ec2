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
        let (mut after, mut slices) = (None, 0);
        loop {
            let batch = Batch { slices: vec![JobSlice { job, after }], ..Batch::default() };
            let outcome = self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
            slices += 1;
            match outcome.slices[..] {
                [SliceResult::More(place)] => after = place,
                [SliceResult::Done] => return slices,
                ref other => panic!("{other:?}"),
            }
        }
    }

    async fn stop(&self, job: JobId) -> Outcome {
        let stop = StopJob { job, project: self.project, actor: "ana".into(), everything: false };
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
