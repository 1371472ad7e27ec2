//! Workers that are to be left: what leaves them when, what stays, and who comes back. And services that go where they are
//! better off.

use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, ProcessEnd};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::background::drain::Drain;
use gaffer_master::background::moves::Moves;
use gaffer_protocol::wire::{Hello, ToWorker};
use serde_json::{Value, json};

async fn worker(stage: &Stage, name: &str) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello(name)).await
}

/// The next attempt of this worker, which starts at once.
async fn starts(worker: &mut RawWorker) -> AttemptRef {
    let attempt = worker.next_start().await.attempt;
    worker.started(attempt).await;
    attempt
}

/// Does as it is told.
async fn stops(worker: &mut RawWorker) -> AttemptRef {
    let attempt = worker
        .hear_until(|message| match message {
            ToWorker::Stop { attempt, .. } => Some(attempt),
            _ => None,
        })
        .await;
    worker.ended(attempt, AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(15)) }, 0).await;
    attempt
}

async fn show(stage: &Stage, worker: &str) -> Value {
    stage.client.get(&format!("/workers/{worker}")).await.body
}

async fn is_running(stage: &Stage, job: i64) {
    eventually("all of it runs", async || {
        stage.client.tasks(job).await.iter().all(|task| task.state == "running").then_some(())
    })
    .await;
}

async fn is_drained(stage: &Stage, worker: &str) {
    eventually("it has nothing left", async || {
        show(stage, worker).await["draining"]["drained_at"].is_string().then_some(())
    })
    .await;
}

/// One that takes a look when it is told to.
fn drain(stage: &Stage) -> Drain {
    let master = &stage.running.control;
    Drain {
        moves: Moves {
            store: master.store.clone(),
            hub: master.hub.clone(),
            write_batcher: master.write_batcher.clone(),
            reservations: stage.running.views.status.reservations.clone(),
        },
        changes: master.changes.clone(),
        wake: master.wakes.drain.clone(),
    }
}

fn service() -> Value {
    json!({"type": "service", "script": "serve", "resources": {"cpu": 1}})
}

#[tokio::test]
async fn services_leave_a_draining_worker_as_soon_as_there_is_room_and_no_restart_is_counted() {
    let stage = Stage::set().await;
    let mut old = worker(&stage, "old").await;
    let job = stage.client.submit(service()).await;
    let first = starts(&mut old).await;
    is_running(&stage, job).await;
    let drained = stage.client.post("/workers/old/drain", &json!({})).await;
    assert_eq!(drained.body["state"], "draining");
    assert_eq!(drained.body["draining"], json!({"until": null, "drained_at": null}));

    // There is no room anywhere yet: it goes on.
    let mut new = worker(&stage, "new").await;
    assert_eq!(stops(&mut old).await, first);
    let second = starts(&mut new).await;
    assert_eq!((second.task, second.attempt), (first.task, 2));
    is_running(&stage, job).await;
    is_drained(&stage, "old").await;

    let task = stage.client.get(&format!("/jobs/{job}/tasks/main")).await.body;
    assert_eq!(task["attempts"][0]["worker"], "new");
    let events = stage.client.get(&format!("/jobs/{job}/events")).await.text;
    assert!(events.contains("moved from old, which is draining"), "{events}");
    let history = stage.client.get("/events").await.text;
    assert!(history.contains("worker.drained"), "{history}");
}

#[tokio::test]
async fn batch_tasks_finish_on_a_draining_worker_unless_their_job_says_that_they_move() {
    let stage = Stage::set().await;
    let mut old = worker(&stage, "old").await;
    let stays = stage.client.submit(json!({"script": "true", "resources": {"cpu": 1}})).await;
    let staying = starts(&mut old).await;
    let goes = json!({"script": "true", "resources": {"cpu": 1}, "placement": {"on_drain": "move"}});
    let goes = stage.client.submit(goes).await;
    let going = starts(&mut old).await;
    is_running(&stage, stays).await;
    is_running(&stage, goes).await;
    let mut new = worker(&stage, "new").await;
    stage.client.post("/workers/old/drain", &json!({})).await;
    assert_eq!(stops(&mut old).await, going);
    let again = starts(&mut new).await;
    assert_eq!(again.task, going.task);
    old.ended(staying, AttemptEnd::Exited { code: 0 }, 0).await;
    new.ended(again, AttemptEnd::Exited { code: 0 }, 0).await;
    for job in [stays, goes] {
        assert_eq!(stage.client.finished(job).await.state, "completed");
    }
    is_drained(&stage, "old").await;
}

#[tokio::test]
async fn one_free_place_is_for_one_service_however_long_its_stop_takes() {
    let stage = Stage::set().await;
    let mut old = worker(&stage, "old").await;
    let jobs = [stage.client.submit(service()).await, stage.client.submit(service()).await];
    for job in jobs {
        starts(&mut old).await;
        is_running(&stage, job).await;
    }
    let mut said = hello("new");
    said.capacity.cpu = gaffer_domain::quantity::Cpu::from_millis(1_000);
    let mut new = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    stage.client.post("/workers/old/drain", &json!({})).await;
    let next_stop = |message| match message {
        ToWorker::Stop { attempt, .. } => Some(attempt),
        _ => None,
    };
    let first = old.hear_until(next_stop).await;
    // Several looks are taken while it stops: each would be an occasion to stop the other one for the same place.
    let drain = drain(&stage);
    for _ in 0..3 {
        assert!(drain.drain_once(chrono::Utc::now()).await.unwrap().is_draining, "it drains");
        let told = stage.client.get("/events?limit=500").await.body["items"].clone();
        let stopping =
            told.as_array().unwrap().iter().filter(|event| event["kind"] == "task.stopping").count();
        assert_eq!(stopping, 1, "only the first one is on its way");
    }
    old.ended(first, AttemptEnd::Stopped { process: None }, 0).await;
    assert_eq!(starts(&mut new).await.task, first.task);
    let states = async |job| stage.client.tasks(job).await[0].state.clone();
    eventually("both serve", async || {
        (states(jobs[0]).await == "running" && states(jobs[1]).await == "running").then_some(())
    })
    .await;
}

#[tokio::test]
async fn at_the_deadline_everything_leaves_wherever_it_may_land() {
    let stage = Stage::set().await;
    let mut old = worker(&stage, "old").await;
    let job = stage.client.submit(json!({"script": "true", "resources": {"cpu": 1}})).await;
    let first = starts(&mut old).await;
    is_running(&stage, job).await;
    let drained = stage.client.post("/workers/old/drain", &json!({"deadline": "1s"})).await;
    assert!(drained.body["draining"]["until"].is_string(), "{}", drained.text);
    assert_eq!(stops(&mut old).await, first);
    is_drained(&stage, "old").await;
    let told = eventually("it waits", async || {
        let told = stage.client.get(&format!("/jobs/{job}/explain")).await.body;
        (told["waiting"][0]["count"] == 1).then_some(told)
    })
    .await;
    assert_eq!(told["waiting"][0]["would_help"][0], "if old is resumed, it can run there", "{told}");
    stage.client.post("/workers/old/resume", &json!({})).await;
    assert_eq!(starts(&mut old).await.attempt, 2);

    for wrong in [json!({"deadline": "soon"}), json!({"deadline": "400d"}), json!({"dedline": "1h"})] {
        let refused = stage.client.post("/workers/old/drain", &wrong).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
    }
}

#[tokio::test]
async fn who_stops_a_task_on_its_way_elsewhere_ends_it() {
    let stage = Stage::set().await;
    let mut old = worker(&stage, "old").await;
    let job = stage.client.submit(service()).await;
    let attempt = starts(&mut old).await;
    is_running(&stage, job).await;
    let _new = worker(&stage, "new").await;
    stage.client.post("/workers/old/drain", &json!({})).await;
    let told = old
        .hear_until(|message| match message {
            ToWorker::Stop { attempt, .. } => Some(attempt),
            _ => None,
        })
        .await;
    assert_eq!(told, attempt);
    stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    stage.client.in_state(job, "stopping").await;
    old.ended(attempt, AttemptEnd::Stopped { process: None }, 0).await;
    let over = stage.client.finished(job).await;
    assert_eq!(over.state, "cancelled");
    assert_eq!(stage.client.tasks(job).await[0].attempt, 1);
}

#[tokio::test]
async fn a_cordoned_worker_keeps_what_it_has_and_takes_nothing_new() {
    let stage = Stage::set().await;
    let mut only = worker(&stage, "only").await;
    let job = stage.client.submit(service()).await;
    starts(&mut only).await;
    is_running(&stage, job).await;
    let cordoned = stage.client.post("/workers/only/cordon", &json!({})).await;
    assert_eq!((&cordoned.body["state"], &cordoned.body["draining"]), (&json!("cordoned"), &Value::Null));
    assert_eq!(cordoned.body["intake"], "cordoned");
    let waits = stage.client.submit(json!({"script": "true", "resources": {"cpu": 0.5}})).await;
    let told = eventually("it waits", async || {
        let told = stage.client.get(&format!("/jobs/{waits}/explain")).await.body;
        (told["waiting"][0]["workers"][0]["unfit"]["code"] == "cordoned").then_some(told)
    })
    .await;
    assert_eq!(told["message"], "main: all connected workers are cordoned or draining");
    is_running(&stage, job).await;
    stage.client.post("/workers/only/resume", &json!({})).await;
    starts(&mut only).await;
}

#[tokio::test]
async fn a_removed_worker_is_in_no_list_until_it_connects_again() {
    let stage = Stage::set().await;
    let said = Hello { name: "gone".to_owned(), ..hello("gone") };
    let connected = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said.clone()).await;
    let number = connected.welcome.worker;
    let refused = stage.client.delete("/workers/gone").await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    drop(connected);
    eventually("it is removed", async || {
        (stage.client.delete("/workers/gone").await.status == 204).then_some(())
    })
    .await;
    assert_eq!(stage.client.get("/workers/gone").await.status, 404);
    assert_eq!(stage.client.get("/workers").await.body["items"], json!([]));
    // Its name is free.
    let other = worker(&stage, "gone").await;
    assert_ne!(other.welcome.worker, number);
    assert_eq!(show(&stage, "gone").await["id"], json!(other.welcome.worker));
    let back = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    assert_eq!(back.welcome.worker, number);
    assert_eq!(show(&stage, &number.to_string()).await["name"], "gone-2");
}

#[tokio::test]
async fn a_service_moves_to_a_worker_that_has_joined_and_settled_and_stays_there() {
    let stage = Stage::with(fresh_database().await, |config| config.rebalance = "1s".parse().unwrap()).await;
    let mut old = worker(&stage, "old").await;
    let jobs = [stage.client.submit(service()).await, stage.client.submit(service()).await];
    for job in jobs {
        starts(&mut old).await;
        is_running(&stage, job).await;
    }
    let mut new = worker(&stage, "new").await;
    // Of 2/2 against 1/2 of the processors, half a worker is gained.
    let moved = stops(&mut old).await;
    let again = starts(&mut new).await;
    assert_eq!(again.task, moved.task);
    for job in jobs {
        is_running(&stage, job).await;
    }
    let events = stage.client.get("/events").await.text;
    assert!(events.contains("moved from old for balance: new is better by 50% of a worker"), "{events}");
    assert_eq!(events.matches("task.stopping").count(), 1, "{events}");
}
