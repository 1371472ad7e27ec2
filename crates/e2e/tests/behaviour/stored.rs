//! What an earlier version stored, or a later one, or what was damaged: it is read, or it is shown and can be removed.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::client::script;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{HeldAttempt, Hello, ToWorker};
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

async fn change(database_url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(database_url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

async fn worker_on(stage: &Stage, hello: Hello) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await
}

fn holding(hello: &Hello, attempt: gaffer_domain::AttemptRef) -> Hello {
    Hello { held: vec![HeldAttempt { attempt, phase: HeldPhase::Running }], ..hello.clone() }
}

/// Fields that this version does not know, and values that it would refuse if they were submitted today.
#[tokio::test]
async fn a_stored_job_is_not_judged_by_the_rules_for_new_input() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = worker_on(&stage, said.clone()).await;
    let runs = stage.client.submit(script("true")).await;
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    stage.client.in_state(runs, "running").await;
    worker.hang_up();
    let waits = stage.client.submit(json!({"script": "true", "constraints": ["labels.later == yes"]})).await;
    let database = stage.strike().await;
    change(
        &database,
        r#"UPDATE jobs SET spec = jsonb_set(spec || '{"a_later_field": 1, "name": "two\nlines"}',
               '{tasks,0,env}', '{"discovery.type": "single-node"}')"#,
    )
    .await;

    let stage = Stage::on(database).await;
    let mut said = holding(&said, attempt);
    said.labels.insert("later".to_owned(), "yes".to_owned());
    let mut worker = worker_on(&stage, said).await;
    let start = worker.next_start().await;
    assert_eq!(start.definition.env["discovery.type"], "single-node", "what is stored is what runs");
    for (job, attempt) in [(runs, attempt), (waits, start.attempt)] {
        assert_eq!(stage.client.job(job).await.problem, None);
        worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 0).await;
        assert_eq!(stage.client.finished(job).await.state, "completed");
        let again = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await;
        assert_eq!(again.status, StatusCode::CREATED, "{}", again.text);
        assert_eq!(stage.client.delete(&format!("/jobs/{job}")).await.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_read_is_shown_and_ends_and_holds_up_nobody() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = worker_on(&stage, said.clone()).await;
    let spec = json!({"tasks": [
        {"name": "runs", "script": "true", "array": "3-4", "restart": {"policy": "always"}},
        {"name": "waits", "script": "true", "depends_on": ["runs"]},
    ]});
    let unreadable = stage.client.submit(spec).await;
    let attempts = [worker.next_start().await.attempt, worker.next_start().await.attempt];
    worker.started(attempts[0]).await;
    worker.started(attempts[1]).await;
    stage.client.in_state(unreadable, "running").await;
    let pending = stage.client.submit(json!({"script": "true", "count": 40})).await;
    let database = stage.strike().await;
    change(&database, "UPDATE jobs SET spec = jsonb_set(spec, '{tasks,0,driver}', '\"firecracker\"')").await;

    let stage = Stage::on(database).await;
    let held = attempts.map(|attempt| HeldAttempt { attempt, phase: HeldPhase::Running }).to_vec();
    let mut worker = worker_on(&stage, Hello { held, ..said }).await;
    // It is shown, with what is the matter, on every door.
    let shown = stage.client.job(unreadable).await;
    let problem = shown.problem.unwrap();
    assert!(problem.contains("cannot read") && problem.contains("firecracker"), "{problem}");
    let listed = stage.client.get("/jobs").await;
    assert!(listed.body["items"].as_array().unwrap().iter().all(|job| job["problem"] == problem.as_str()));
    let addresses: Vec<String> =
        stage.client.tasks(unreadable).await.into_iter().map(|task| task.address).collect();
    assert_eq!(addresses, ["runs.3", "runs.4", "waits"]);
    for path in ["explain", "events", "output", "tasks/runs.3"] {
        let answer = stage.client.get(&format!("/jobs/{unreadable}/{path}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    }
    let why = stage.client.get(&format!("/jobs/{pending}/explain")).await;
    assert!(why.body["message"].as_str().unwrap().contains(&problem), "{}", why.text);
    let cookie = stage.sign_in(&stage.client).await;
    for path in [format!("/jobs/{unreadable}"), format!("/jobs/{unreadable}?tab=tasks"), "/jobs".to_owned()] {
        let page = stage.page(&path, &cookie).await;
        assert_eq!(page.status(), StatusCode::OK, "{path}");
        assert!(page.text().await.unwrap().contains("firecracker"), "{path} does not say what is the matter");
    }

    // What ran ends, with its output, and is not repeated: nobody knows what it would be.
    worker.output(attempts[0], 0, Stream::Stdout, b"last words\n").await;
    worker.ended(attempts[0], AttemptEnd::Exited { code: 3 }, 11).await;
    worker.hear_until(|message| matches!(message, ToWorker::EndStored { .. }).then_some(())).await;
    let task = stage.client.get(&format!("/jobs/{unreadable}/tasks/runs.3")).await;
    assert_eq!((&task.body["state"], &task.body["exit_code"]), (&json!("failed"), &json!(3)));
    let output = stage.client.open(&format!("/jobs/{unreadable}/tasks/runs.3/output"), "text/plain").await;
    assert_eq!(output.bytes().await.unwrap(), "last words\n");

    // What waits is not started, and those behind it, though alike, are.
    let readable = stage.client.submit(script("true")).await;
    let start = worker.next_start().await;
    assert_eq!(start.definition.job.0, readable);
    worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    assert_eq!(stage.client.finished(readable).await.state, "completed");
    assert_eq!(stage.client.job(pending).await.task_counts["pending"], 40);

    // It can be stopped, by its worker's confirmation or at once, and deleted; not repeated.
    let stopped = stage.client.post(&format!("/jobs/{unreadable}/stop"), &json!({})).await;
    assert_eq!((stopped.status, &stopped.body["problem"]), (StatusCode::ACCEPTED, &json!(problem)));
    let told = worker
        .hear_until(|message| match message {
            ToWorker::Stop { attempt } => Some(attempt),
            _ => None,
        })
        .await;
    assert_eq!(told, attempts[1]);
    let early = stage.client.delete(&format!("/jobs/{unreadable}")).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "{}", early.text);
    worker.ended(attempts[1], AttemptEnd::Stopped { process: None }, 0).await;
    assert_eq!(stage.client.finished(unreadable).await.state, "failed");
    stage.client.post(&format!("/jobs/{pending}/stop"), &json!({})).await;
    assert_eq!(stage.client.finished(pending).await.state, "cancelled");
    for job in [unreadable, pending] {
        let again = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await;
        assert_eq!(again.body["code"], "unreadable_job", "{}", again.text);
        assert!(again.text.contains("firecracker"), "{}", again.text);
        assert_eq!(stage.client.delete(&format!("/jobs/{job}")).await.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn a_job_stored_by_a_later_version_or_without_its_definitions_can_be_stopped_and_deleted() {
    let stage = Stage::set().await;
    let later = stage.client.submit(script("true")).await;
    let two = json!({"tasks": [{"name": "a", "script": "true"}, {"name": "b", "script": "true"}]});
    let damaged = [stage.client.submit(two.clone()).await, stage.client.submit(two).await];
    let database = stage.strike().await;
    // Of the second, the task whose definition is gone is still there.
    change(
        &database,
        "UPDATE jobs SET spec_version = 7 WHERE id = 1; DELETE FROM task_definitions WHERE name = 'b'; \
         DELETE FROM live_tasks WHERE position = 1 AND job_id = 2",
    )
    .await;
    let stage = Stage::on(database).await;
    let problem = stage.client.job(later).await.problem.unwrap();
    assert!(problem.contains("format 7"), "{problem}");
    for job in [later, damaged[0], damaged[1]] {
        let stopped = stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
        assert_eq!(stopped.status, StatusCode::ACCEPTED, "{}", stopped.text);
        assert_eq!(stage.client.finished(job).await.state, "cancelled");
        assert_eq!(stage.client.delete(&format!("/jobs/{job}")).await.status, StatusCode::NO_CONTENT);
    }
}

/// Whatever else is stored as JSON or as a word: what another version has written there takes nobody along.
#[tokio::test]
async fn what_another_version_stored_of_workers_classes_and_attempts_takes_nothing_along() {
    let stage = Stage::set().await;
    let said = hello("w");
    let mut worker = worker_on(&stage, said.clone()).await;
    let mut odd = Vec::new();
    for name in ["labels", "drivers", "intake"] {
        odd.push(worker_on(&stage, hello(name)).await);
    }
    let over = stage.client.submit(json!({"script": "true", "constraints": ["name == w"]})).await;
    let attempt = worker.next_start().await.attempt;
    worker.ended(attempt, AttemptEnd::Exited { code: 4 }, 0).await;
    stage.client.finished(over).await;
    change(
        &stage.database_url,
        r#"UPDATE workers SET labels = '["a", "b"]' WHERE name = 'labels';
           UPDATE workers SET drivers = '[{"driver": "firecracker", "healthy": true}, {"driver": "host", "healthy": true}]',
               countables = '{"gpu": {"model": "x"}, "fpga": 2}' WHERE name = 'drivers';
           ALTER TABLE workers DROP CONSTRAINT workers_intake_check;
           UPDATE workers SET intake = 'nights_only' WHERE name = 'intake';
           UPDATE finished_tasks SET placement = '{"score": "high"}', killed = '7', container = '[]',
               reason_code = 'too_loud', attempt_reason_code = 'too_loud'; UPDATE jobs SET reason_code = 'too_loud'"#,
    )
    .await;
    let detail = stage.client.get(&format!("/jobs/{over}/tasks/main")).await;
    assert_eq!(detail.body["attempts"][0]["reason"]["code"], "other", "{}", detail.text);
    assert_eq!(detail.body["attempts"][0]["placement"], json!(null));
    let listed = stage.client.get("/jobs").await;
    assert_eq!(listed.body["items"][0]["reason"], json!({"code": "other", "message": "exited with code 4"}));

    let workers = stage.client.get("/workers").await;
    let shown = |name: &str| {
        let all = workers.body["items"].as_array().unwrap();
        all.iter().find(|worker| worker["name"] == name).unwrap().clone()
    };
    for (name, state, what) in
        [("labels", "cordoned", "labels"), ("drivers", "online", "drivers"), ("intake", "cordoned", "intake")]
    {
        assert_eq!(shown(name)["state"], state, "{name}");
        assert!(shown(name)["warnings"].to_string().contains(what), "{}", shown(name));
    }
    assert_eq!(shown("drivers")["drivers"][0]["driver"], "host");
    assert_eq!(shown("drivers")["capacity"]["countables"], json!({"fpga": 2}));

    // Nothing is placed on those of which nobody knows what they take; all others go on.
    let job =
        stage.client.submit(json!({"script": "true", "count": 30, "constraints": ["name != drivers"]})).await;
    let mut done = 0;
    while done < 30 {
        let start = worker.next_start().await;
        assert_eq!(start.definition.job.0, job);
        worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
        done += 1;
    }
    assert!(stage.client.tasks(job).await.iter().all(|task| task.worker.as_deref() == Some("w")));
}

#[tokio::test]
async fn a_class_whose_needs_cannot_be_read_has_those_of_its_jobs() {
    let stage = Stage::set().await;
    let big = json!({"script": "true", "resources": {"cpu": 2}});
    let (first, second) = (stage.client.submit(big.clone()).await, stage.client.submit(big).await);
    let small = stage.client.submit(json!({"script": "true", "resources": {"cpu": 1}})).await;
    // A master that has not read them before.
    let database = stage.strike().await;
    change(&database, "UPDATE classes SET needs = '{\"later\": 1}'").await;
    let stage = Stage::on(database).await;
    let mut worker = worker_on(&stage, hello("w")).await;
    let start = worker.next_start().await;
    assert_eq!(start.definition.job.0, first);
    worker.started(start.attempt).await;
    worker.heartbeat(1, vec![HeldAttempt { attempt: start.attempt, phase: HeldPhase::Running }]).await;
    stage.client.in_state(first, "running").await;
    let seen = stage.client.get("/workers/w").await;
    assert_eq!(seen.body["allocated"]["cpu"], json!(2.0), "what runs is accounted for");
    let why = stage.client.get(&format!("/jobs/{small}/explain")).await;
    assert_eq!(why.body["waiting"][0]["workers"][0]["message"], "w has 0 cpu free, 1 requested");
    assert_eq!(stage.client.get("/queue").await.body["classes"].as_array().unwrap().len(), 2);
    worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 0).await;
    let mut next = [worker.next_start().await.definition.job.0, 0];
    next[1] = second;
    assert!(next[0] == second || next[0] == small);
}
