//! What `store/transitions` promises: batches apply as the rules say, together or not at all.

use gaffer_domain::job::JobState;
use gaffer_domain::placement::Receipt;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{Action, JobSpec};
use gaffer_domain::task::{Rejected, Report, StateName, TaskEvent};
use gaffer_domain::worker::Intake;
use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::raw_worker::{ended, hello, register};
use gaffer_e2e::stage::new_key;
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_master::store::Store;
use gaffer_master::store::jobs::{NewJob, Submitted};
use gaffer_master::store::tasks::TaskFilter;
use gaffer_master::store::transitions::{Batch, Detail, Dispatch, Input, Outcome, StopJob, StopResult};
use serde_json::json;
use sqlx::Connection as _;

mod histories;
mod scaling;
mod slices;
mod updating;

struct Bench {
    database_url: String,
    store: Store,
    project: ProjectId,
    key: i64,
    worker: WorkerId,
}

async fn bench() -> Bench {
    bench_on(&fresh_database().await).await
}

async fn bench_on(database_url: &str) -> Bench {
    let store = Store::connect(database_url).await.unwrap();
    let project = store.project_default().await.unwrap();
    let secret = NewSecret::new(Purpose::WorkerKey);
    let key = store.key_insert(project, new_key(&secret, None, "w")).await.unwrap().id;
    let worker = registered(&store, project, key, 1).await;
    Bench { database_url: database_url.to_owned(), store, project, key, worker }
}

async fn registered(store: &Store, project: ProjectId, key: i64, identity: u8) -> WorkerId {
    let (session, name) = (uuid::Uuid::now_v7(), format!("w{identity}"));
    register(store, (project, key), session, &[identity; 32], &hello(&name)).await.unwrap().unwrap().id
}

impl Bench {
    async fn another_worker(&self) -> WorkerId {
        registered(&self.store, self.project, self.key, 2).await
    }

    async fn submit(&self, spec: serde_json::Value) -> JobId {
        let spec = JobSpec::read(&spec).unwrap();
        let new = NewJob::of(self.project, &spec, "ana");
        match self.store.job_insert(&new, chrono::Utc::now()).await.unwrap() {
            Submitted::Created { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    async fn ids(&self, job: JobId) -> Vec<TaskId> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        tasks.into_iter().map(|task| task.id).collect()
    }

    async fn apply(&self, events: Vec<(TaskId, TaskEvent)>) -> Outcome {
        let inputs = events
            .into_iter()
            .map(|(task, event)| {
                let detail = match &event {
                    TaskEvent::Placed { .. } => Detail::Placement(
                        Box::new(Receipt {
                            strategy: "spread".into(),
                            at: None,
                            workers: 1,
                            feasible: 1,
                            unmeasured: 0,
                            suitable: None,
                            candidates: Vec::new(),
                        }),
                        None,
                    ),
                    TaskEvent::Ended(report, end) => Detail::End(
                        Box::new(ended(
                            gaffer_domain::AttemptRef { task, attempt: report.attempt },
                            end.clone(),
                            0,
                        )),
                        Default::default(),
                    ),
                    _ => Detail::None,
                };
                Input { task, event, actor: "test".into(), detail }
            })
            .collect();
        self.store.tasks_apply(&Batch { inputs, ..Batch::default() }, chrono::Utc::now()).await.unwrap()
    }

    fn placed(&self) -> TaskEvent {
        TaskEvent::Placed { worker: self.worker }
    }

    fn exited(&self, attempt: u32, code: i32) -> TaskEvent {
        TaskEvent::Ended(Report { worker: self.worker, attempt }, AttemptEnd::Exited { code })
    }

    async fn states(&self, job: JobId) -> Vec<String> {
        let tasks = self.store.task_list(job, &TaskFilter::default(), 500).await.unwrap();
        tasks.into_iter().map(|task| task.state.to_string()).collect()
    }

    async fn job_state(&self, job: JobId) -> String {
        self.store.job_get(self.project, job).await.unwrap().unwrap().state.to_string()
    }
}

#[tokio::test]
async fn nothing_is_placed_on_a_worker_that_takes_nothing_new_by_now_and_so_drained_is_drained() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    let task = bench.ids(job).await[0];
    // As decided by a pass that saw it open.
    let late = vec![(task, bench.placed())];
    let intake = async |intake| {
        assert!(bench.store.worker_intake(bench.project, bench.worker, intake, None, "ana").await.unwrap());
    };
    intake(Intake::Draining).await;
    assert_eq!(bench.store.workers_drained().await.unwrap(), 1);
    assert_eq!(bench.apply(late.clone()).await.results, [Err(Rejected::NoPlace)]);
    assert_eq!(bench.states(job).await, ["pending"]);
    intake(Intake::Open).await;
    assert_eq!(bench.apply(late).await.results, [Ok(())]);
}

#[tokio::test]
async fn nothing_is_placed_of_a_job_that_cannot_be_read() {
    let url = fresh_database().await;
    let bench = bench_on(&url).await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    let task = bench.ids(job).await[0];
    let mut database = sqlx::PgConnection::connect(&url).await.unwrap();
    let damage = "UPDATE jobs SET spec = jsonb_set(spec, '{tasks,0,driver}', '\"firecracker\"')";
    sqlx::raw_sql(damage).execute(&mut database).await.unwrap();
    // As decided by a pass that did not look at that.
    let bench = Bench { store: Store::connect(&url).await.unwrap(), ..bench };
    assert_eq!(bench.apply(vec![(task, bench.placed())]).await.results, [Err(Rejected::NoPlace)]);
    assert_eq!(bench.states(job).await, ["pending"]);
}

#[tokio::test]
async fn a_batch_of_a_job_whose_specification_has_changed_goes_by_the_present_one() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    let task = bench.ids(job).await[0];
    // As another connection has written it: this store still knows the version before.
    let mut database = sqlx::PgConnection::connect(&bench.database_url).await.unwrap();
    let update = "UPDATE jobs SET version = 2, spec = jsonb_set(spec, '{tasks,0,command}', '[\"false\"]') WHERE id = $1";
    sqlx::query(update).bind(job.0).execute(&mut database).await.unwrap();
    let outcome = bench.apply(vec![(task, bench.placed())]).await;
    let [Dispatch::Start(_, start)] = &outcome.commands[..] else { panic!("{:?}", outcome.commands) };
    assert_eq!(start.spec.tasks[0].action, Action::Command(vec!["false".to_owned()]));
}

#[tokio::test]
async fn a_task_goes_from_placement_to_completion_and_takes_its_job_along() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    assert_eq!(bench.job_state(job).await, "pending");
    let task = bench.ids(job).await[0];

    let outcome = bench.apply(vec![(task, bench.placed())]).await;
    assert!(matches!(&outcome.commands[..], [Dispatch::Start(worker, start)]
        if *worker == bench.worker && start.attempt.attempt == 1 && start.content().unwrap().task == "main"));
    assert_eq!(bench.states(job).await, ["scheduled"]);

    let report = Report { worker: bench.worker, attempt: 1 };
    let started = TaskEvent::Started(report, chrono::Utc::now());
    let outcome = bench.apply(vec![(task, started), (task, bench.exited(1, 0))]).await;
    assert_eq!(outcome.results, [Ok(()), Ok(())]);
    assert!(outcome.scheduling_wanted, "there is room on the worker now");
    let job = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!((job.state.as_str(), &job.reason), ("completed", &None));
    assert!(job.started_at.is_some() && job.finished_at.is_some());
    assert_eq!(job.task_counts.get(StateName::Completed), 1);
}

#[tokio::test]
async fn reports_about_another_attempt_or_from_another_worker_change_nothing() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    let task = bench.ids(job).await[0];
    bench.apply(vec![(task, bench.placed())]).await;
    let stranger = WorkerId(bench.worker.0 + 1);
    let from_stranger =
        TaskEvent::Ended(Report { worker: stranger, attempt: 1 }, AttemptEnd::Exited { code: 0 });
    let outcome = bench.apply(vec![(task, from_stranger), (task, bench.exited(2, 0))]).await;
    assert_eq!(outcome.results, [Err(Rejected::Stale), Err(Rejected::Stale)]);
    assert_eq!(bench.states(job).await, ["scheduled"]);
}

#[tokio::test]
async fn the_same_batch_applied_twice_has_the_effect_of_once() {
    let bench = bench().await;
    let job =
        bench.submit(json!({"command": ["false"], "restart": {"policy": "on-failure", "delay": "0s"}})).await;
    let task = bench.ids(job).await[0];
    bench.apply(vec![(task, bench.placed())]).await;
    let end = vec![(task, bench.exited(1, 1))];
    bench.apply(end.clone()).await;
    let again = bench.apply(end).await;
    assert_eq!(again.results, [Err(Rejected::Stale)]);
    assert_eq!(bench.states(job).await, ["pending"]);
    let attempts = bench.store.attempt_list(task).await.unwrap();
    assert_eq!((attempts.len(), attempts[0].exit_code), (1, Some(1)));
    // What was recorded already is no news, and no late report either.
    let events = bench.store.events_before(bench.project, Some(job), None, 100).await.unwrap();
    assert!(events.iter().all(|event| event.kind != "task.late_report"), "{events:?}");
}

#[tokio::test]
async fn a_report_that_comes_too_late_is_kept_as_history() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    let task = bench.ids(job).await[0];
    bench.apply(vec![(task, bench.placed())]).await;
    let lost = AttemptEnd::Lost { cause: gaffer_domain::reason::LostCause::OutOfContact };
    let report = Report { worker: bench.worker, attempt: 1 };
    bench.apply(vec![(task, TaskEvent::Ended(report, lost))]).await;
    assert_eq!(bench.states(job).await, ["failed"]);
    bench.apply(vec![(task, bench.exited(1, 0))]).await;
    assert_eq!(bench.states(job).await, ["failed"]);
    let events = bench.store.events_before(bench.project, Some(job), None, 1).await.unwrap();
    assert_eq!(events[0].kind, "task.late_report");
    assert_eq!(events[0].message, "late report, ignored: exited with code 0");
}

#[tokio::test]
async fn the_end_of_an_attempt_that_was_given_back_is_kept_as_history() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"], "restart": {"success": [3]}})).await;
    let task = bench.ids(job).await[0];
    let report = |attempt| Report { worker: bench.worker, attempt };
    bench.apply(vec![(task, bench.placed())]).await;
    bench.apply(vec![(task, TaskEvent::Returned(report(1)))]).await;
    let lost = AttemptEnd::Lost { cause: gaffer_domain::reason::LostCause::OutOfContact };
    bench.apply(vec![(task, TaskEvent::Ended(report(1), lost))]).await;
    let events = bench.store.events_before(bench.project, Some(job), None, 1).await.unwrap();
    assert_eq!(events[0].kind, "task.late_report", "{events:?}");
    // An exit code that counts as success, told twice, is no news.
    bench.apply(vec![(task, bench.placed())]).await;
    bench.apply(vec![(task, bench.exited(2, 3))]).await;
    bench.apply(vec![(task, bench.exited(2, 3))]).await;
    assert_eq!(bench.states(job).await, ["completed"]);
    let events = bench.store.events_before(bench.project, Some(job), None, 100).await.unwrap();
    let late = events.iter().filter(|event| event.kind == "task.late_report");
    assert_eq!(late.count(), 1, "{events:?}");
}

#[tokio::test]
async fn dependents_start_when_all_they_wait_for_completed_and_are_cancelled_when_it_cannot() {
    let bench = bench().await;
    let spec = json!({"tasks": [
        {"name": "a", "command": ["true"], "count": 2},
        {"name": "b", "command": ["true"], "depends_on": ["a"]},
        {"name": "c", "command": ["true"], "depends_on": ["b"]},
    ]});
    let job = bench.submit(spec.clone()).await;
    let ids = bench.ids(job).await;
    assert_eq!(bench.states(job).await, ["pending", "pending", "blocked", "blocked"]);
    bench.apply(vec![(ids[0], bench.placed()), (ids[1], bench.placed())]).await;
    bench.apply(vec![(ids[0], bench.exited(1, 0))]).await;
    assert_eq!(bench.states(job).await, ["completed", "scheduled", "blocked", "blocked"]);
    let outcome = bench.apply(vec![(ids[1], bench.exited(1, 0))]).await;
    assert!(outcome.scheduling_wanted);
    assert_eq!(bench.states(job).await, ["completed", "completed", "pending", "blocked"]);

    let job = bench.submit(spec).await;
    let ids = bench.ids(job).await;
    bench.apply(vec![(ids[0], bench.placed()), (ids[1], bench.placed())]).await;
    bench.apply(vec![(ids[0], bench.exited(1, 9))]).await;
    assert_eq!(bench.states(job).await, ["failed", "scheduled", "cancelled", "cancelled"]);
    assert_eq!(bench.job_state(job).await, "running");
    bench.apply(vec![(ids[1], bench.exited(1, 0))]).await;
    let job = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.reason.unwrap().message, "task a.0: exited with code 9");
}

#[tokio::test]
async fn stopping_a_job_cancels_what_waits_and_asks_the_rest_to_end() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["sleep", "9"], "count": 3})).await;
    let ids = bench.ids(job).await;
    bench.apply(vec![(ids[0], bench.placed())]).await;
    let stop = |project| StopJob { job, project, actor: "ana".into(), force: false };
    let batch = Batch { stops: vec![stop(bench.project), stop(ProjectId(99))], ..Batch::default() };
    let outcome = bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
    assert_eq!(outcome.stops, [StopResult::Stopping, StopResult::Unknown]);
    assert!(matches!(&outcome.commands[..], [Dispatch::Stop(_, attempt)] if attempt.task == ids[0]));
    assert_eq!(bench.states(job).await, ["stopping", "cancelled", "cancelled"]);
    assert_eq!(bench.job_state(job).await, "stopping");

    let report = Report { worker: bench.worker, attempt: 1 };
    let end = TaskEvent::Ended(report, AttemptEnd::Stopped { process: None });
    bench.apply(vec![(ids[0], end)]).await;
    let view = bench.store.job_get(bench.project, job).await.unwrap().unwrap();
    assert_eq!(view.state, JobState::Cancelled);
    assert_eq!(view.reason.unwrap().message, "stopped by ana");

    let batch = Batch { stops: vec![stop(bench.project)], ..Batch::default() };
    let outcome = bench.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap();
    assert_eq!(outcome.stops, [StopResult::Over(JobState::Cancelled)]);
}

#[tokio::test]
async fn a_repeated_submission_is_accepted_once() {
    let bench = bench().await;
    let spec = JobSpec::read(&json!({"command": ["true"]})).unwrap();
    let new = |request: u8| NewJob {
        idempotency: Some(("k1", [request; 32])),
        ..NewJob::of(bench.project, &spec, "ana")
    };
    let now = chrono::Utc::now();
    let Submitted::Created { job, .. } = bench.store.job_insert(&new(1), now).await.unwrap() else {
        panic!()
    };
    assert_eq!(bench.store.job_insert(&new(1), now).await.unwrap(), Submitted::Repeated(job));
    assert_eq!(bench.store.job_insert(&new(2), now).await.unwrap(), Submitted::KeyReused);
    let jobs = bench.store.job_list(bench.project, &Default::default(), 10).await.unwrap();
    assert_eq!(jobs.len(), 1);
}

#[tokio::test]
async fn a_submission_whose_key_is_in_use_leaves_no_class_behind() {
    let bench = bench().await;
    let mut database = sqlx::PgConnection::connect(&bench.database_url).await.unwrap();
    let mut classes = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM classes").fetch_one(&mut database).await.unwrap()
    };
    let submit = async |cpu: u8, request: u8| {
        let spec = JobSpec::read(&json!({"command": ["true"], "resources": {"cpu": cpu}})).unwrap();
        let new =
            NewJob { idempotency: Some(("k1", [request; 32])), ..NewJob::of(bench.project, &spec, "ana") };
        bench.store.job_insert(&new, chrono::Utc::now()).await.unwrap()
    };
    assert!(matches!(submit(1, 1).await, Submitted::Created { .. }));
    let before = classes().await;
    // No other job needs that much.
    assert_eq!(submit(2, 2).await, Submitted::KeyReused);
    assert_eq!(classes().await, before);
}

#[tokio::test]
async fn an_accepted_job_has_reached_the_disk() {
    let url = fresh_database().await;
    let bench = bench_on(&url).await;
    let mut database = sqlx::PgConnection::connect(&url).await.unwrap();
    let mut one = async |sql: &str| -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut database).await.unwrap()
    };
    for _ in 0..30 {
        let before = one("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").await;
        bench.submit(json!({"command": ["true"]})).await;
        let flushed = one("SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint").await;
        // A job takes more than that.
        assert!(flushed > before + 500, "{flushed} of {before} and more");
    }
}

#[tokio::test]
async fn a_deleted_job_leaves_nothing_behind() {
    let bench = bench().await;
    let job = bench.submit(json!({"command": ["true"]})).await;
    use gaffer_master::store::deletion::Deleted;
    let refused = bench.store.job_delete(bench.project, job, "ana").await.unwrap();
    assert_eq!(refused, Deleted::NotOver(JobState::Pending));
    assert_eq!(bench.store.job_delete(ProjectId(99), job, "eve").await.unwrap(), Deleted::Unknown);
    let task = bench.ids(job).await[0];
    bench.apply(vec![(task, bench.placed())]).await;
    bench.apply(vec![(task, bench.exited(1, 0))]).await;
    assert_eq!(bench.store.job_delete(bench.project, job, "ana").await.unwrap(), Deleted::Yes);
    assert!(bench.store.job_get(bench.project, job).await.unwrap().is_none());
    while bench.store.deletion_slice().await.unwrap().is_some() {}
    assert!(bench.ids(job).await.is_empty());
    assert!(bench.store.attempt_list(task).await.unwrap().is_empty());
    // A report about it finds nothing and breaks nothing.
    assert_eq!(bench.apply(vec![(task, bench.exited(1, 0))]).await.results, [Err(Rejected::Stale)]);
}

#[tokio::test]
async fn each_attempt_keeps_what_it_was_told_of_whatever_comes_together_in_one_batch() {
    let bench = bench().await;
    let spec = json!({"command": ["false"], "restart": {"policy": "on-failure", "delay": "0s"}});
    let job = bench.submit(spec).await;
    let task = bench.ids(job).await[0];
    let started = |attempt| TaskEvent::Started(Report { worker: bench.worker, attempt }, chrono::Utc::now());
    let all_ok = async |events: Vec<TaskEvent>| {
        let events: Vec<(TaskId, TaskEvent)> = events.into_iter().map(|event| (task, event)).collect();
        let count = events.len();
        assert_eq!(bench.apply(events).await.results, vec![Ok(()); count]);
    };
    // The first begins in one batch and ends in another, together with all of the second and the beginning of the third.
    all_ok(vec![bench.placed(), started(1)]).await;
    all_ok(vec![bench.exited(1, 11), bench.placed(), bench.exited(2, 12), bench.placed()]).await;
    all_ok(vec![started(3)]).await;
    let told = async || {
        let attempts = bench.store.attempt_list(task).await.unwrap();
        let told = attempts.iter().map(|attempt| {
            (attempt.attempt, attempt.exit_code, attempt.started_at.is_some(), attempt.finished_at.is_some())
        });
        told.collect::<Vec<_>>()
    };
    let earlier = [(2, Some(12), true, true), (1, Some(11), true, true)];
    assert_eq!(told().await, [&[(3, None, true, false)][..], &earlier].concat());
    assert!(bench.store.attempt_list(task).await.unwrap().iter().all(|attempt| attempt.placement.is_some()));
    all_ok(vec![bench.exited(3, 0)]).await;
    assert_eq!(told().await, [&[(3, Some(0), true, true)][..], &earlier].concat());
    assert_eq!(bench.states(job).await, ["completed"]);
    // What comes too late changes nothing, and is answered as the rules say.
    let late = bench.apply(vec![(task, bench.exited(3, 0)), (task, bench.placed())]).await;
    assert_eq!(late.results, [Err(Rejected::Stale), Err(Rejected::NotNow(StateName::Completed))]);

    // What is stored of an attempt that has ended is not what the next one begins with.
    let task = bench
        .ids(
            bench
                .submit(json!({"command": ["false"], "restart": {"policy": "on-failure", "delay": "0s"}}))
                .await,
        )
        .await[0];
    for event in [bench.placed(), bench.exited(1, 11), bench.placed()] {
        assert_eq!(bench.apply(vec![(task, event)]).await.results, [Ok(())]);
    }
    let attempts = bench.store.attempt_list(task).await.unwrap();
    let codes: Vec<_> = attempts.iter().map(|attempt| (attempt.attempt, attempt.exit_code)).collect();
    assert_eq!(codes, [(2, None), (1, Some(11))]);
}
