//! Which task goes where, and which one first.

use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::wire::{ToMaster, ToWorker};
use serde_json::json;

async fn worker(stage: &Stage) -> RawWorker {
    RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await
}

#[tokio::test]
async fn the_higher_priority_goes_first_even_if_it_came_later() {
    let stage = Stage::set().await;
    let job = |priority| json!({"script": "true", "priority": priority, "resources": {"cpu": 2}});
    let mut jobs = Vec::new();
    for priority in [10, 90, 50] {
        jobs.push(stage.client.submit(job(priority)).await);
    }
    // There is room for one.
    assert_eq!(worker(&stage).await.next_start().await.definition.job.0, jobs[1]);
}

#[tokio::test]
async fn what_is_placed_takes_its_room_before_it_has_started() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage).await;
    let first = stage.client.submit(json!({"script": "true", "count": 2})).await;
    for _ in 0..2 {
        assert_eq!(worker.next_start().await.definition.job.0, first);
    }
    // Of the next pass the worker hears of what needs no room, but not of what was there before that.
    stage.client.submit(json!({"script": "true", "resources": {"memory": "1GiB"}})).await;
    let needs_nothing = stage.client.submit(json!({"script": "true", "resources": {"cpu": 0}})).await;
    assert_eq!(worker.next_start().await.definition.job.0, needs_nothing);
}

#[tokio::test]
async fn what_a_worker_does_not_start_in_time_is_asked_back_and_placed_again() {
    let stage = Stage::set().await;
    let mut worker = worker(&stage).await;
    let job = stage.client.submit(json!({"script": "true"})).await;
    let first = worker.next_start().await.attempt;
    let asked = worker
        .hear_until(|message| match message {
            ToWorker::TakeBack { attempt } => Some(attempt),
            _ => None,
        })
        .await;
    assert_eq!(asked, first);
    worker.say(&[ToMaster::Returned { attempt: first }]).await;
    let again = worker.next_start().await;
    assert_eq!((again.definition.job.0, again.attempt.task, again.attempt.attempt), (job, first.task, 2));
}
