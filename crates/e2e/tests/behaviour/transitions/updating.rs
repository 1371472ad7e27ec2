//! Services that are updated, through `store/transitions`.

use gaffer_master::store::transitions::{UpdateAction, UpdateStep};
use gaffer_master::store::versions::{NewVersion, Updated, VersionSource};
use sqlx::PgConnection;

use super::*;

fn web(script: &str, cpu: f64) -> serde_json::Value {
    json!({"name": "web", "type": "service", "script": script, "resources": {"cpu": cpu}})
}

impl Bench {
    async fn update(&self, project: ProjectId, job: JobId, spec: serde_json::Value) -> Updated {
        let spec = JobSpec::read(&spec).unwrap();
        let (created_by, message, reverts, after) = ("eve", "", false, None);
        let new = NewVersion {
            project,
            job,
            spec: &spec,
            source: VersionSource::Text(None),
            created_by,
            message,
            reverts,
            after,
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
    assert!(!bench.store.job_promote(other, job, "eve").await.unwrap());
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
