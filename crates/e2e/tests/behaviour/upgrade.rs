//! What an earlier version stored is there after the upgrade, in the tables of this one.

use std::borrow::Cow;
use std::sync::Arc;

use gaffer_domain::quantity::Span;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_e2e::client::script;
use gaffer_e2e::cluster::bare_database;
use gaffer_e2e::stage::Stage;
use gaffer_master::background::driver::Background as _;
use gaffer_master::background::output_mover::OutputMover;
use gaffer_master::output_store::{OutputStore, OutputStoreAddress};
use gaffer_master::store::MIGRATIONS;
use gaffer_protocol::output::{ChunkBuilder, Stream};
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

/// A database as it was before this migration.
pub async fn database_before(migration: i64) -> (String, PgConnection) {
    let url = bare_database().await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    let earlier = MIGRATIONS.iter().filter(|each| each.version < migration).cloned();
    let migrator = Migrator { migrations: Cow::Owned(earlier.collect()), ..Migrator::DEFAULT };
    migrator.run(&mut database).await.unwrap();
    (url, database)
}

/// A job that is over after two attempts; and one of which a task runs, one waits after a failure, and one was never placed.
const JOBS: &str = "
INSERT INTO workers (project_id, identity_sha256, name, datacenter, labels, cpu_millis, memory_bytes, disk_bytes, drivers,
    arch, os, version, warnings, boot_id, process, offline_since)
VALUES (1, decode(repeat('07', 32), 'hex'), 'w', 'dc1', '{}', 1000, 1000000, 1000000, '[]', 'x86_64', 'linux', '0.1.0', '[]',
    'b', gen_random_uuid(), now());
INSERT INTO classes (project_id, priority, needs, needs_sha256) VALUES (1, 50, '{}', decode(repeat('08', 32), 'hex'));
INSERT INTO jobs (project_id, name, kind, state, priority, labels, spec, lost_after_millis, created_by, started_at, finished_at)
VALUES (1, 'over', 'batch', 'completed', 50, '{}', $1, 600000, 'ana', now(), now()),
    (1, 'runs', 'batch', 'running', 50, '{}', $2, 600000, 'ana', now(), NULL);
INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, completed, running, pending)
VALUES (1, 0, 'main', 1, 'host', true, 1, 0, 0), (2, 0, 'main', 1, 'host', false, 0, 1, 2);
INSERT INTO tasks (job_id, position, index, class_id, state, since, attempt, repeats, not_before, worker_id, started_at,
    reason_code, reason_message, finished_at)
VALUES (1, 0, 0, 1, 'completed', now(), 2, 1, NULL, NULL, NULL, NULL, NULL, now()),
    (2, 0, 0, 1, 'running', now(), 1, 0, NULL, 1, now(), NULL, NULL, NULL),
    (2, 0, 1, 1, 'pending', now(), 1, 1, now() + interval '1 hour', NULL, NULL, 'exit_code', 'exited with code 3', NULL),
    (2, 0, 2, 1, 'pending', now(), 0, 0, now(), NULL, NULL, NULL, NULL, NULL);
INSERT INTO attempts (task_id, attempt, worker_id, scheduled_at, started_at, finished_at, ending, exit_code, reason_code,
    reason_message, output_bytes, output_lines, output_complete)
VALUES (1, 1, 1, now(), now(), now(), '{\"how\": \"exited\", \"code\": 4}', 4, 'exit_code', 'exited with code 4', 0, 0, true),
    (1, 2, 1, now(), now(), now(), '{\"how\": \"exited\", \"code\": 0}', 0, NULL, NULL, 0, 0, true),
    (2, 1, 1, now(), now(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, 1, 1, now(), now(), now(), '{\"how\": \"exited\", \"code\": 3}', 3, 'exit_code', 'exited with code 3', 0, 0, true);
INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message)
SELECT 1, now(), 'task.noted', 1, 1, 2, 'worker w', 'note ' || n FROM generate_series(1, 700) n;
INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message)
VALUES (1, now(), 'task.completed', 1, 1, 2, 'worker w', 'exited with code 0');
-- Of a job that was deleted.
SELECT setval('tasks_id_seq', 500);
";

#[tokio::test]
async fn tasks_attempts_and_history_of_an_earlier_version_are_kept() {
    let (url, mut database) = database_before(18).await;
    let spec = |count: u32| {
        let spec =
            JobSpec::read(&json!({"command": ["true"], "count": count, "restart": "on-failure"})).unwrap();
        serde_json::to_string(&spec).unwrap()
    };
    let quoted = |spec: String| format!("'{}'", spec.replace('\'', "''"));
    let sql = JOBS.replace("$1", &quoted(spec(1))).replace("$2", &quoted(spec(3)));
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut database).await.unwrap();

    let stage = Stage::on(url).await;
    let over = stage.client.get("/jobs/1/tasks/main").await.body;
    assert_eq!(
        (&over["state"], &over["exit_code"], &over["worker"]),
        (&json!("completed"), &json!(0), &json!("w"))
    );
    let codes: Vec<_> =
        over["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["exit_code"]).collect();
    assert_eq!(codes, [&json!(0), &json!(4)]);
    let told = stage.client.get("/jobs/1/events").await.body["items"].clone();
    assert_eq!(told[0]["message"], "exited with code 0", "{told}");
    let mut read = Vec::new();
    loop {
        let after = read.last().copied().unwrap_or(0);
        let page =
            stage.client.get(&format!("/jobs/1/events?after={after}&limit=50")).await.body["items"].clone();
        let page = page.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap());
        let page: Vec<i64> = page.collect();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!((read.len(), read.is_sorted()), (701, true));

    let runs = stage.client.tasks(2).await;
    let states: Vec<_> = runs.iter().map(|task| (task.state.as_str(), task.attempt)).collect();
    assert_eq!(states, [("running", 1), ("pending", 1), ("pending", 0)]);
    assert_eq!(runs[1].exit_code, Some(3), "of the attempt before the next one");
    let live: i64 =
        sqlx::query_scalar("SELECT count(*) FROM live_tasks").fetch_one(&mut database).await.unwrap();
    assert_eq!(live, 3);

    // New tasks get new numbers, and what was there goes on.
    let new = stage.client.submit(script("true")).await;
    let task: i64 = sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1")
        .bind(new)
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!(task > 500, "number {task} is given out again");
    let last = read.last().unwrap();
    let after = stage.client.get(&format!("/events?after={last}")).await.body["items"].clone();
    assert_eq!(after[0]["kind"], "job.submitted", "{after}");
    stage.client.post("/jobs/2/stop", &json!({})).await;
    let states = stage.client.tasks(2).await.into_iter().map(|task| task.state).collect::<Vec<_>>();
    assert_eq!(states, ["stopping", "cancelled", "cancelled"]);
    let deleted = stage.client.delete("/jobs/1").await;
    assert_eq!(deleted.status, reqwest::StatusCode::NO_CONTENT, "{}", deleted.text);
}

/// A finished job with an earlier attempt, output and history; and an event of no job.
const FINISHED: &str = "
INSERT INTO classes (project_id, priority, needs, needs_sha256) VALUES (1, 50, '{}', decode(repeat('08', 32), 'hex'));
INSERT INTO jobs (project_id, name, kind, state, priority, labels, spec, lost_after_millis, created_by, started_at, finished_at)
VALUES (1, 'over', 'batch', 'completed', 50, '{}', $1, 600000, 'ana', now(), now());
INSERT INTO task_definitions (job_id, position, name, class_id, driver, single, completed) VALUES (1, 0, 'main', 1, 'host', true, 1);
INSERT INTO finished_tasks (id, job_id, position, index, class_id, state, finished_at, attempt, worker_id, scheduled_at, exit_code)
VALUES (1, 1, 0, 0, 1, 'completed', now(), 2, 1, now(), 0);
INSERT INTO earlier_attempts (task_id, attempt, worker_id, scheduled_at, exit_code) VALUES (1, 1, 1, now(), 4);
INSERT INTO output_chunks VALUES (1, 2, 0, 5, 0, 1, 0, 'hello');
SELECT setval('live_tasks_id_seq', 1);
INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, actor, message)
VALUES (1, now(), 'task.completed', 1, 1, 2, 'worker w', 'exited with code 0');
INSERT INTO events (project_id, at, kind, actor, message) VALUES (1, now(), 'worker.joined', 'worker w', 'of no job');
";

#[tokio::test]
async fn what_was_there_before_eras_is_in_the_first_one() {
    let (url, mut database) = database_before(20).await;
    let spec = JobSpec::read(&json!({"command": ["true"], "restart": "on-failure"})).unwrap();
    let spec = format!("'{}'", serde_json::to_string(&spec).unwrap().replace('\'', "''"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(FINISHED.replace("$1", &spec))).execute(&mut database).await.unwrap();
    let newest: i64 =
        sqlx::query_scalar("SELECT max(id) FROM events").fetch_one(&mut database).await.unwrap();

    let stage = Stage::on(url).await;
    let task = stage.client.get("/jobs/1/tasks/main").await.body;
    let codes: Vec<_> =
        task["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["exit_code"]).collect();
    assert_eq!(codes, [&json!(0), &json!(4)]);
    let of_job = stage.client.get("/jobs/1/events").await.body;
    assert_eq!(of_job["items"][0]["message"], "exited with code 0", "{of_job}");
    let of_all = stage.client.get("/events").await.text;
    assert!(of_all.contains("of no job") && of_all.contains("exited with code 0"), "{of_all}");
    for (table, rows) in [
        ("finished_tasks_era_0", 1),
        ("earlier_attempts_era_0", 1),
        ("output_chunks_era_0", 1),
        ("events_era_0", 1),
    ] {
        let sql = format!("SELECT count(*) FROM {table}");
        let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut database).await.unwrap();
        assert_eq!(found, rows, "{table}");
    }

    // Numbers go on: of jobs, tasks and events.
    let next = stage.client.submit(script("true")).await;
    assert_eq!(next, 2);
    let (era, event): (i64, i64) = sqlx::query_as(
        "SELECT j.era, e.id FROM jobs j JOIN events e ON e.job_id = j.id AND e.kind = 'job.submitted' WHERE j.id = 2",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(era == 0 && event > newest, "era {era}, event {event} after {newest}");
    assert_eq!(stage.client.delete("/jobs/1").await.status, reqwest::StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn output_of_an_earlier_version_moves_to_object_storage() {
    let (url, mut database) = database_before(20).await;
    let spec = JobSpec::read(&json!({"command": ["true"], "restart": "on-failure"})).unwrap();
    let spec = format!("'{}'", serde_json::to_string(&spec).unwrap().replace('\'', "''"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(FINISHED.replace("$1", &spec))).execute(&mut database).await.unwrap();
    let mut chunk = ChunkBuilder::new();
    chunk.push(1, Stream::Stdout, b"as it was\n");
    let chunk = chunk.finish(AttemptRef { task: TaskId(1), attempt: 2 }, 0);
    sqlx::query("UPDATE output_chunks SET payload_bytes = 10, encoding = $1, body = $2")
        .bind(chunk.encoding as i16)
        .bind(&chunk.body[..])
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::query("UPDATE finished_tasks SET output_bytes = 10").execute(&mut database).await.unwrap();

    let place = tempfile::tempdir().unwrap();
    let address = OutputStoreAddress::parse(&format!("file://{}", place.path().display()), []).unwrap();
    let stage = Stage::with(url, |config| config.output_store = Some(address.clone())).await;
    assert_eq!(stage.client.output(1).await, b"as it was\n");
    let objects = Arc::new(OutputStore::connect(&address).unwrap());
    let mut mover = OutputMover::new(stage.running.control.store.clone(), objects, Span::from_secs(0));
    while mover.run_once().await.unwrap().again_after.is_some() {}
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM output_chunks").fetch_one(&mut database).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(stage.client.output(1).await, b"as it was\n");
}
