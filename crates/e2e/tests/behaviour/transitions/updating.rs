//! Services that are updated, through `store/transitions`.

use gaffer_master::store::transitions::{ScaleJob, UpdateAction, UpdateStep};
use gaffer_master::store::updates::Promoted;
use gaffer_master::store::versions::{NewVersion, Updated, VersionSource};
use sqlx::PgConnection;

use super::*;

fn web(script: &str, cpu: f64) -> serde_json::Value {
    json!({"name": "web", "type": "service", "script": script, "resources": {"cpu": cpu}})
}

impl Bench {
    async fn update(&self, project: ProjectId, job: JobId, spec: serde_json::Value) -> Updated {
        let spec = JobSpec::read(&spec).unwrap();
        let new = NewVersion {
            project,
            job,
            spec: &spec,
            source: VersionSource::Text(None),
            created_by: "eve",
            message: "",
            goes_back_to: None,
            reverts: false,
            after: None,
            idempotency: None,
        };
        self.store.job_update(&new, chrono::Utc::now()).await.unwrap()
    }

    async fn step(&self, job: JobId, version: u32, action: UpdateAction) -> bool {
        let steps = vec![UpdateStep { job, position: 0, version, action }];
        let batch = Batch { steps, ..Batch::default() };
        self.store.tasks_apply(&batch, chrono::Utc::now()).await.unwrap().steps.remove(0)
    }

    async fn place_as(&self, task: TaskId, class: i64) -> Outcome {
        let receipt = Receipt {
            strategy: "spread".into(),
            at: None,
            workers: 1,
            feasible: 1,
            unmeasured: 0,
            suitable: None,
            candidates: Vec::new(),
        };
        let detail = Detail::Placement(Box::new(receipt), Some(class));
        let inputs = vec![Input { task, event: self.placed(), actor: "test".into(), detail }];
        self.store.tasks_apply(&Batch { inputs, ..Batch::default() }, chrono::Utc::now()).await.unwrap()
    }
}

async fn class_of(database: &mut PgConnection, task: TaskId) -> i64 {
    let sql = "SELECT class_id FROM live_tasks WHERE id = $1";
    sqlx::query_scalar(sql).bind(task.0).fetch_one(database).await.unwrap()
}

#[tokio::test]
async fn a_version_is_found_only_in_its_own_project() {
    let bench = bench().await;
    let job = bench.submit(web("one", 0.1)).await;
    let other = ProjectId(bench.project.0 + 1);
    assert_eq!(bench.update(other, job, web("two", 0.1)).await, Updated::Unknown);
    assert_eq!(bench.store.job_promote((other, job), None, "eve").await.unwrap(), Promoted::Unknown);
    assert_eq!(bench.update(bench.project, job, web("two", 0.1)).await, Updated::Accepted(2));
    assert_eq!(bench.update(bench.project, job, web("two", 0.1)).await, Updated::Unchanged(2));
}

#[tokio::test]
async fn a_placement_that_was_decided_for_the_version_before_is_refused() {
    let bench = bench().await;
    let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
    let job = bench.submit(web("one", 0.1)).await;
    let task = bench.ids(job).await[0];
    let before = class_of(&mut database, task).await;
    bench.update(bench.project, job, web("two", 7.0)).await;
    assert!(!bench.step(job, 1, UpdateAction::Replace(vec![0])).await, "the version is another one by now");
    assert!(bench.step(job, 2, UpdateAction::Replace(vec![0])).await);
    let after = class_of(&mut database, task).await;
    assert_ne!(before, after);
    assert_eq!(bench.place_as(task, before).await.results, [Err(Rejected::NoPlace)]);
    let outcome = bench.place_as(task, after).await;
    assert_eq!(outcome.results, [Ok(())]);
    let [Dispatch::Start(_, order)] = &outcome.commands[..] else { panic!("{:?}", outcome.commands) };
    let content = order.content().unwrap();
    assert_eq!(content.job, job);
    assert_ne!(order.definition.job, job, "workers know it as another one");
    let again = bench.store.tasks_start_again(&[order.attempt]).await.unwrap();
    assert_eq!((again[0].definition, again[0].content()), (order.definition, Some(content)));
}

#[tokio::test]
async fn what_runs_keeps_its_reservation_until_it_has_ended() {
    let bench = bench().await;
    let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
    let job = bench.submit(web("one", 0.1)).await;
    let task = bench.ids(job).await[0];
    let before = class_of(&mut database, task).await;
    bench.apply(vec![(task, bench.placed())]).await;
    bench.update(bench.project, job, web("two", 7.0)).await;
    assert!(bench.step(job, 2, UpdateAction::Replace(vec![0])).await);
    assert_eq!(bench.states(job).await, ["stopping"]);
    assert_eq!(class_of(&mut database, task).await, before);
    let report = Report { worker: bench.worker, attempt: 1 };
    bench.apply(vec![(task, TaskEvent::Ended(report, AttemptEnd::Stopped { process: None }))]).await;
    assert_eq!(bench.states(job).await, ["pending"]);
    let after = class_of(&mut database, task).await;
    assert_ne!(after, before);
    // Back to the first: nothing of it is left but its number.
    assert_eq!(bench.update(bench.project, job, web("one", 0.1)).await, Updated::Accepted(3));
    assert!(bench.step(job, 1, UpdateAction::Replace(vec![0])).await);
    assert_eq!(class_of(&mut database, task).await, before);
}

#[tokio::test]
async fn a_replaced_instance_waits_from_then_on_and_counts_its_repeats_anew() {
    let bench = bench().await;
    let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
    let mut spec = web("one", 0.1);
    spec["restart"] = json!({"policy": "always", "delay": "1h"});
    let job = bench.submit(spec).await;
    let task = bench.ids(job).await[0];
    bench.apply(vec![(task, bench.placed())]).await;
    let report = Report { worker: bench.worker, attempt: 1 };
    bench.apply(vec![(task, TaskEvent::Ended(report, AttemptEnd::Exited { code: 1 }))]).await;
    let mut waits = async || -> (Time, Time, i32) {
        let sql = "SELECT since, not_before, repeats FROM live_tasks WHERE id = $1";
        sqlx::query_as(sql).bind(task.0).fetch_one(&mut database).await.unwrap()
    };
    let (before, back_off, repeats) = waits().await;
    assert!(back_off > before && repeats == 1);
    bench.update(bench.project, job, web("two", 0.1)).await;
    assert!(bench.step(job, 2, UpdateAction::Replace(vec![0])).await);
    let (since, not_before, repeats) = waits().await;
    assert!(since > before && not_before == since, "{before}, {since}, {not_before}");
    assert_eq!(repeats, 0);
    assert_eq!(bench.states(job).await, ["pending"]);
}

#[tokio::test]
async fn what_was_scaled_to_counts_towards_the_tasks_that_a_job_may_have() {
    let bench = bench().await;
    let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
    let task = |name: &str| json!({"name": name, "script": "x"});
    let of = |tasks: Vec<serde_json::Value>| json!({"name": "web", "type": "service", "tasks": tasks});
    let job = bench.submit(of(vec![task("web")])).await;
    let sql = "UPDATE task_definitions SET count = 100000 WHERE job_id = $1";
    sqlx::query(sql).bind(job.0).execute(&mut database).await.unwrap();
    let updated = bench.update(bench.project, job, of(vec![task("web"), task("cache")])).await;
    assert!(
        matches!(&updated, Updated::Refused(why) if why.to_string().contains("100001 tasks")),
        "{updated:?}"
    );
}

#[tokio::test]
async fn a_version_is_kept_for_as_long_as_a_definition_has_it() {
    let bench = bench().await;
    let mut database = PgConnection::connect(&bench.database_url).await.unwrap();
    let of = |label: u32| {
        let mut spec = web("one", 0.1);
        spec["labels"] = json!({"n": label.to_string()});
        spec
    };
    let job = bench.submit(of(0)).await;
    // No instance is left that has it.
    let scales = vec![ScaleJob { job, project: bench.project, actor: "eve".into(), task: None, count: 0 }];
    bench.store.tasks_apply(&Batch { scales, ..Batch::default() }, chrono::Utc::now()).await.unwrap();
    for label in 1..=25 {
        bench.update(bench.project, job, of(label)).await;
    }
    let sql = "SELECT version FROM job_versions WHERE job_id = $1 ORDER BY version";
    let kept: Vec<i32> = sqlx::query_scalar(sql).bind(job.0).fetch_all(&mut database).await.unwrap();
    assert_eq!((kept[0], kept[1], kept.len()), (1, 7, 21), "{kept:?}");
}

#[tokio::test]
async fn what_is_known_of_a_service_is_read_again_once_it_was_updated() {
    let bench = bench().await;
    let of = |script: &str| json!({"name": "web", "type": "service", "script": script, "array": "5-7"});
    let job = bench.submit(of("one")).await;
    assert_eq!(bench.update(bench.project, job, of("two")).await, Updated::Accepted(2));
    let task = bench.ids(job).await[1];
    let outcome = bench.apply(vec![(task, bench.placed())]).await;
    let [Dispatch::Start(_, order)] = &outcome.commands[..] else { panic!("{:?}", outcome.commands) };
    assert_eq!(order.index, 6);
    let content = format!("{:?}", order.content().unwrap());
    assert!(
        content.contains("one") && !content.contains("two"),
        "it is replaced only when its turn comes: {content}"
    );
    assert!(bench.step(job, 2, UpdateAction::Replace(vec![6])).await);
    assert_eq!(bench.states(job).await, ["pending", "stopping", "pending"]);
}
