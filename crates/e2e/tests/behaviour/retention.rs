//! Finished jobs expire and eras of history are dropped, while everything else continues.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::retention::Retention;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::background::driver::Background as _;
use gaffer_master::background::retention::Expiry;
use gaffer_master::store::StoreError;
use gaffer_protocol::output::Stream;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// A master, a worker that does what the test says, and a look into the database.
struct Scene {
    stage: Stage,
    worker: RawWorker,
    database: PgConnection,
}

impl Scene {
    async fn set() -> Scene {
        let stage = Stage::set().await;
        let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
        let database = PgConnection::connect(&stage.database_url).await.unwrap();
        Scene { stage, worker, database }
    }

    /// Runs all tasks of a job to their end, each with a line of output.
    async fn run(&mut self, spec: Value, tasks: usize, code: i32) -> i64 {
        let job = self.stage.client.submit(spec).await;
        for _ in 0..tasks {
            let attempt = self.worker.next_start().await.attempt;
            let said = format!("task {} says {code}\n", attempt.task.0);
            self.worker.output(attempt, 0, Stream::Stdout, said.as_bytes()).await;
            self.worker.ended(attempt, AttemptEnd::Exited { code }, said.len() as u64).await;
        }
        self.stage.client.finished(job).await;
        job
    }

    /// Starts a job, which runs until the test ends it.
    async fn begin(&mut self, said: &str) -> (i64, AttemptRef) {
        let job = self.stage.client.submit(script("true")).await;
        let attempt = self.worker.next_start().await.attempt;
        self.worker.started(attempt).await;
        self.worker.output(attempt, 0, Stream::Stdout, said.as_bytes()).await;
        self.stage.client.in_state(job, "running").await;
        eventually("its output is there", async || {
            (self.stage.client.output(job).await == said.as_bytes()).then_some(())
        })
        .await;
        (job, attempt)
    }

    /// Makes these jobs older.
    async fn age(&mut self, jobs: &[i64], days: i32) {
        let sql = "UPDATE jobs SET created_at = created_at - make_interval(days => $2), \
                   started_at = started_at - make_interval(days => $2), \
                   finished_at = finished_at - make_interval(days => $2) WHERE id = ANY($1)";
        sqlx::query(sql).bind(jobs).bind(days).execute(&mut self.database).await.unwrap();
    }

    async fn open_era(&self) {
        let store = &self.stage.running.control.store;
        let present = store.era_present().await.unwrap();
        store.era_open_next(present.number).await.unwrap();
    }

    fn expiry(&self, retention: &str) -> Expiry {
        Expiry {
            store: self.stage.running.control.store.clone(),
            retention: retention.parse::<Retention>().unwrap(),
            deletion: Default::default(),
        }
    }

    /// Lets everything expire and go that this retention lets go.
    async fn expire(&self, retention: &str) {
        let mut expiry = self.expiry(retention);
        while expiry.run_once().await.unwrap().again_after.is_some() {}
    }

    async fn count(&mut self, of: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {of}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut self.database).await.unwrap()
    }

    async fn partitions_of(&mut self, era: i64) -> i64 {
        self.count(&format!("pg_class WHERE relkind = 'r' AND relname LIKE '%\\_era\\_{era}'")).await
    }

    async fn is_gone(&self, job: i64) -> bool {
        self.stage.client.get(&format!("/jobs/{job}")).await.status == StatusCode::NOT_FOUND
    }
}

/// Everything that is shown of a finished job.
async fn seen(client: &Client, job: i64) -> Vec<String> {
    let mut seen = Vec::new();
    for path in ["", "/tasks", "/tasks/main", "/events", "/output", "/tasks/main/output"] {
        let answer = client.get(&format!("/jobs/{job}{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        seen.push(answer.text);
    }
    seen
}

async fn pin(scene: &mut Scene, job: i64) {
    let pinned = scene.stage.client.post(&format!("/jobs/{job}/pin"), &json!({})).await;
    assert_eq!((pinned.status, &pinned.body["pinned"]), (StatusCode::OK, &json!(true)), "{}", pinned.text);
}

#[tokio::test]
async fn an_era_is_dropped_and_what_is_kept_of_it_stays_byte_for_byte() {
    let mut scene = Scene::set().await;
    let many = scene.run(json!({"script": "true", "count": 80}), 80, 0).await;
    let again = json!({"script": "true", "restart": {"policy": "on-failure", "limit": 1, "delay": "0s"}});
    let pinned = scene.run(again, 2, 7).await;
    pin(&mut scene, pinned).await;
    let (running, attempt) = scene.begin("before\n").await;
    scene.age(&[many, pinned], 40).await;
    scene.open_era().await;
    let later = scene.run(script("true"), 1, 0).await;
    let kept = [pinned, later];
    let mut before = Vec::new();
    for job in kept {
        before.push(seen(&scene.stage.client, job).await);
    }
    let events = scene.stage.client.get(&format!("/jobs/{running}/events")).await.text;

    scene.expire("30d").await;
    assert!(scene.is_gone(many).await);
    assert_eq!(scene.partitions_of(0).await, 0);
    assert_eq!(scene.partitions_of(1).await, 4);
    assert_eq!(scene.count("finished_tasks").await, 2, "of the pinned job and of the later one");
    assert_eq!(scene.count("earlier_attempts").await, 1);
    assert_eq!(scene.count("output_chunks").await, 2 + 1 + 1);
    assert_eq!(scene.count("deletions").await, 0);
    for (job, before) in kept.into_iter().zip(before) {
        assert_eq!(seen(&scene.stage.client, job).await, before, "job {job}");
    }
    assert_eq!(scene.stage.client.get(&format!("/jobs/{running}/events")).await.text, events);

    // What runs goes on, and ends where its era was.
    scene.worker.output(attempt, 7, Stream::Stdout, b"after\n").await;
    scene.worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 13).await;
    assert_eq!(scene.stage.client.finished(running).await.state, "completed");
    assert_eq!(scene.stage.client.output(running).await, b"before\nafter\n");
    let told = scene.stage.client.get("/events").await.text;
    assert!(told.contains("1 completed job has expired"), "{told}");
    // What was put aside can still be deleted, and leaves nothing.
    for job in [pinned, running, later] {
        scene.stage.client.delete(&format!("/jobs/{job}")).await;
    }
    let nothing_left = async || {
        let mut database = PgConnection::connect(&scene.stage.database_url).await.unwrap();
        let sql = "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM output_chunks) \
                   + (SELECT count(*) FROM earlier_attempts) + (SELECT count(*) FROM events WHERE job_id IS NOT NULL)";
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap();
        (left == 0).then_some(())
    };
    eventually("nothing is left", nothing_left).await;
}

#[tokio::test]
async fn jobs_expire_by_their_state_and_not_before_their_time() {
    let mut scene = Scene::set().await;
    let completed = scene.run(script("true"), 1, 0).await;
    let failed = scene.run(script("false"), 1, 1).await;
    let young = scene.run(script("true"), 1, 0).await;
    scene.age(&[completed, failed], 40).await;
    scene.age(&[young], 29).await;
    scene.expire("forever").await;
    assert!(!scene.is_gone(completed).await);
    scene.expire("completed=30d,failed=90d").await;
    assert!(scene.is_gone(completed).await);
    assert!(!scene.is_gone(failed).await && !scene.is_gone(young).await);
    scene.expire("completed=30d,failed=35d").await;
    assert!(scene.is_gone(failed).await && !scene.is_gone(young).await);
}

#[tokio::test]
async fn a_job_expires_by_what_its_own_specification_says_and_never_while_it_is_pinned() {
    let mut scene = Scene::set().await;
    let short = scene.run(json!({"script": "true", "retention": "10d"}), 1, 0).await;
    let by_state = json!({"script": "true", "retention": {"all": "100d", "failed": "1d"}});
    let completed = scene.run(by_state.clone(), 1, 0).await;
    let failed = scene.run(by_state, 1, 1).await;
    let pinned = scene.run(json!({"script": "true", "retention": "10d", "pin": true}), 1, 0).await;
    let silent = scene.run(script("true"), 1, 0).await;
    scene.age(&[short, completed, failed, pinned, silent], 20).await;
    scene.expire("forever").await;
    let mut gone = Vec::new();
    for job in [short, completed, failed, pinned, silent] {
        gone.push(scene.is_gone(job).await);
    }
    assert_eq!(gone, [true, false, true, false, false]);
    assert!(scene.stage.client.job(pinned).await.pinned);
    let unpinned = scene.stage.client.post(&format!("/jobs/{pinned}/unpin"), &json!({})).await;
    assert_eq!(unpinned.body["pinned"], json!(false), "{}", unpinned.text);
    let events = scene.stage.client.get(&format!("/jobs/{pinned}/events")).await.text;
    assert!(events.contains("job.unpinned"), "{events}");
    scene.expire("19d").await;
    assert!(scene.is_gone(pinned).await && scene.is_gone(silent).await && !scene.is_gone(completed).await);
    let nobody = scene.stage.client.post("/jobs/999/pin", &json!({})).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_preview_says_what_then_happens() {
    let mut scene = Scene::set().await;
    let many = scene.run(json!({"script": "true", "count": 40, "retention": "30d"}), 40, 0).await;
    let pinned = scene.run(json!({"script": "true", "pin": true}), 1, 0).await;
    scene.age(&[many, pinned], 40).await;
    scene.open_era().await;
    let unlimited = scene.run(script("true"), 1, 0).await;
    let preview = scene.stage.client.get("/retention").await;
    assert_eq!(preview.status, StatusCode::OK, "{}", preview.text);
    assert_eq!(preview.body["retention"], "forever");
    let eras = preview.body["eras"].as_array().unwrap();
    let of = |number: Value| eras.iter().find(|era| era["era"] == number).unwrap();
    let old = of(json!(0));
    // The master's own loop may have come by.
    let sum = |names: [&str; 2]| names.into_iter().filter_map(|name| old[name].as_i64()).sum::<i64>();
    assert_eq!(sum(["expiring_jobs", "waiting_jobs"]), 1, "{old}");
    assert_eq!(sum(["expiring_tasks", "waiting_tasks"]), 40, "{old}");
    assert_eq!((&old["pinned_jobs"], &old["kept_tasks"]), (&json!(1), &json!(1)));
    assert_eq!(old["is_dropped"], true);
    assert!(old["bytes"].as_u64() > Some(0) && old["closed_at"].is_string());
    assert_eq!((&of(json!(1))["unlimited_jobs"], &of(json!(1))["closed_at"]), (&json!(1), &Value::Null));
    let cookie = scene.stage.sign_in(&scene.stage.client).await;
    let page = scene.stage.page("/retention", &cookie).await.text().await.unwrap();
    assert!(page.contains("1 jobs with 40 tasks, as a whole") && page.contains("1 pinned"), "{page}");

    scene.expire("forever").await;
    assert_eq!(scene.partitions_of(0).await, 0);
    assert!(scene.is_gone(many).await && !scene.is_gone(pinned).await && !scene.is_gone(unlimited).await);
    let after = scene.stage.client.get("/retention").await;
    let eras = after.body["eras"].as_array().unwrap();
    assert_eq!((&eras[0]["era"], &eras[0]["pinned_jobs"]), (&Value::Null, &json!(1)), "{}", after.text);
}

#[tokio::test]
async fn an_era_of_which_much_is_kept_stays_and_its_expired_jobs_are_deleted_in_batches() {
    let mut scene = Scene::set().await;
    let expired = scene.run(json!({"script": "true", "count": 6}), 6, 0).await;
    let pinned = scene.run(script("true"), 1, 0).await;
    pin(&mut scene, pinned).await;
    scene.age(&[expired, pinned], 40).await;
    scene.open_era().await;
    scene.expire("30d").await;
    assert!(scene.is_gone(expired).await);
    assert_eq!(scene.partitions_of(0).await, 4, "one of seven tasks is kept");
    assert_eq!(scene.count("finished_tasks").await, 7, "it waits for its era");
    let before = seen(&scene.stage.client, pinned).await;
    // It has waited for long enough.
    sqlx::query("UPDATE deletions SET at = at - interval '2 days'")
        .execute(&mut scene.database)
        .await
        .unwrap();
    let mut expiry = scene.expiry("30d");
    let deletion = scene.stage.running.control.store.clone();
    while expiry.run_once().await.unwrap().again_after.is_some() {}
    while deletion.deletion_slice().await.unwrap().is_some() {}
    assert_eq!(scene.count("finished_tasks").await, 1);
    assert_eq!(scene.count("output_chunks").await, 1);
    assert_eq!(scene.count("deletions").await, 0);
    assert_eq!(seen(&scene.stage.client, pinned).await, before);
}

#[tokio::test]
async fn events_of_no_job_go_after_the_longest_period() {
    let mut scene = Scene::set().await;
    let job = scene.run(script("true"), 1, 0).await;
    let before = scene.count("events WHERE era IS NULL").await;
    assert!(before > 0, "the worker has joined");
    sqlx::query("UPDATE events SET at = at - interval '10 days'").execute(&mut scene.database).await.unwrap();
    scene.expire("completed=1d,failed=1d").await;
    scene.expire("completed=forever,failed=1d,cancelled=30d").await;
    assert_eq!(scene.count("events WHERE era IS NULL").await, before);
    scene.expire("completed=9d,failed=1d,cancelled=1d").await;
    assert_eq!(scene.count("events WHERE era IS NULL").await, 0);
    let of_job = scene.stage.client.get(&format!("/jobs/{job}/events")).await.text;
    assert!(of_job.contains("job.submitted"), "{of_job}");
}

#[tokio::test]
async fn somebody_who_reads_history_for_long_delays_the_drop_and_nobody_else() {
    let mut scene = Scene::set().await;
    let old = scene.run(script("true"), 1, 0).await;
    scene.age(&[old], 40).await;
    scene.open_era().await;
    let mut reader = PgConnection::connect(&scene.stage.database_url).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM output_chunks").execute(&mut *reading).await.unwrap();
    let mut expiry = scene.expiry("30d");
    assert_eq!(expiry.run_once().await.unwrap().done, 1, "the job disappears");
    let waits = expiry.run_once().await.unwrap();
    assert_eq!((waits.done, waits.again_after.is_some()), (0, true), "it tries again later");
    assert_eq!(scene.partitions_of(0).await, 4);
    let beside = scene.run(script("true"), 1, 0).await;
    assert_eq!(scene.stage.client.job(beside).await.state, "completed");
    reading.rollback().await.unwrap();
    scene.expire("30d").await;
    assert_eq!(scene.partitions_of(0).await, 0);
}

#[tokio::test]
async fn a_master_that_dies_in_between_is_followed_by_one_that_completes_it() {
    let mut scene = Scene::set().await;
    let old = scene.run(script("true"), 1, 0).await;
    scene.age(&[old], 40).await;
    let store = scene.stage.running.control.store.clone();
    assert_eq!(store.jobs_expire(&"30d".parse().unwrap(), chrono::Utc::now()).await.unwrap(), 1);
    // Numbers of tasks have changed eras, and nothing else: a transaction undoes no sequence.
    sqlx::query("SELECT setval('live_tasks_id_seq', first_task(1), false)")
        .execute(&mut scene.database)
        .await
        .unwrap();
    let Scene { stage, mut database, .. } = scene;
    let in_between = stage.client.submit(script("true")).await;
    let database_url = stage.strike().await;
    let stage = Stage::with(database_url, |config| config.retention = "30d".parse().unwrap()).await;
    eventually("the era is gone", async || {
        let eras: Vec<(i64, bool)> =
            sqlx::query_as("SELECT number, opened_at IS NOT NULL FROM eras ORDER BY number")
                .fetch_all(&mut database)
                .await
                .unwrap();
        (eras == [(1, true), (2, false)]).then_some(())
    })
    .await;
    let first: i64 = sqlx::query_scalar("SELECT first_job FROM eras WHERE number = 1")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(first, in_between);
    stage.client.submit(script("true")).await;
}

#[tokio::test]
async fn a_job_is_accepted_although_the_partitions_of_its_era_are_made_while_it_waits_for_the_era() {
    let mut scene = Scene::set().await;
    // What its tasks need is known, so one statement waits, reads the era and writes into its partitions.
    scene.stage.client.submit(script("true")).await;
    let era = scene.stage.running.control.store.era_present().await.unwrap().number + 2;
    let mut holder = PgConnection::connect(&scene.stage.database_url).await.unwrap();
    let mut opening = holder.begin().await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(x'67616666657265'::bigint)";
    sqlx::query(lock).execute(&mut *opening).await.unwrap();
    let client = scene.stage.client.clone();
    let submitting = tokio::spawn(async move { client.submit(script("true")).await });
    eventually("the submission waits", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                   AND query LIKE 'WITH led%present_era()%' AND datname = current_database()";
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut scene.database).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    sqlx::query("SELECT make_era($1)").bind(era).execute(&mut *opening).await.unwrap();
    let opened = "UPDATE eras SET opened_at = now(), first_job = (SELECT last_value + 1 FROM jobs_id_seq) \
                  WHERE opened_at IS NULL";
    sqlx::query(opened).execute(&mut *opening).await.unwrap();
    let present = "SELECT setval('live_tasks_id_seq', first_task($1), false)";
    sqlx::query(present).bind(era).execute(&mut *opening).await.unwrap();
    opening.commit().await.unwrap();
    let job = submitting.await.unwrap();
    let found: i64 = sqlx::query_scalar("SELECT era FROM jobs WHERE id = $1")
        .bind(job)
        .fetch_one(&mut scene.database)
        .await
        .unwrap();
    assert_eq!(found, era);
}

#[tokio::test]
async fn all_tasks_of_a_job_are_of_one_era_however_often_it_changes() {
    let mut scene = Scene::set().await;
    let store = scene.stage.running.control.store.clone();
    let submitting: Vec<_> = (0..4)
        .map(|_| {
            let client = scene.stage.client.clone();
            tokio::spawn(async move {
                for _ in 0..12 {
                    let task = |name: &str| json!({"name": name, "script": "true", "count": 30});
                    client.submit(json!({"tasks": [task("a"), task("b"), task("c")]})).await;
                }
            })
        })
        .collect();
    let mut opened = 0;
    while submitting.iter().any(|task| !task.is_finished()) {
        let present = store.era_present().await.unwrap();
        match store.era_open_next(present.number).await {
            Ok(()) => opened += 1,
            Err(StoreError::Locked(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for task in submitting {
        task.await.unwrap();
    }
    assert!(opened > 0);
    let astray = "jobs j JOIN live_tasks t ON t.job_id = j.id WHERE era_of_task(t.id) <> j.era";
    assert_eq!(scene.count(astray).await, 0);
    let elsewhere = "jobs j JOIN eras e ON e.number = j.era LEFT JOIN eras n ON n.number = j.era + 1 \
                     WHERE j.id < e.first_job OR j.id >= n.first_job";
    assert_eq!(scene.count(elsewhere).await, 0);
    assert_eq!(scene.count("jobs").await, 48);
    let task: i64 =
        sqlx::query_scalar("SELECT max(id) FROM live_tasks").fetch_one(&mut scene.database).await.unwrap();
    assert!(store.task_by_id(TaskId(task)).await.unwrap().is_some());
}
