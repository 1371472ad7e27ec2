//! A running attempt outlives its worker: whichever process of that dies, stands still or is replaced.

use std::path::Path;
use std::time::Duration;

use gaffer_domain::worker::LOST_MARGIN;
use gaffer_e2e::gaffer::{Dev, data_dir, kill_keeper};
use gaffer_e2e::{eventually, eventually_within};
use gaffer_protocol::rest::Task;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

/// A `gaffer dev` whose own worker takes nothing.
async fn master(dir: &Path) -> Dev {
    let dev = Dev::start_with(dir, &[("GAFFER_WORKER_NAME", "own")]).await;
    let drained = dev.client.post("/workers/own/drain", &json!({})).await;
    assert!(drained.status.is_success(), "{}", drained.text);
    dev
}

/// A job that says so when it runs, and ends once the file is there.
async fn begin(dev: &Dev, until: &Path) -> i64 {
    let script = format!(
        "echo up $GAFFER_ATTEMPT; while ! [ -e {} ]; do sleep 0.02; done; echo over",
        until.display()
    );
    let restart = json!({"policy": "on-failure", "limit": 5, "delay": "0s", "on_lost": "restart"});
    let job = dev.client.submit(json!({"script": script, "lost_after": "10s", "restart": restart})).await;
    eventually("the job runs", async || (dev.client.output(job).await == b"up 1\n").then_some(())).await;
    job
}

async fn only_task(dev: &Dev, job: i64) -> Task {
    dev.client.tasks(job).await.remove(0)
}

async fn completes_in_its_first_attempt(dev: &Dev, job: i64) {
    let done = dev.client.finished(job).await;
    assert_eq!(done.state.as_str(), "completed", "{:?}", done.reason);
    assert_eq!(dev.client.output(job).await, b"up 1\nover\n");
    assert_eq!(only_task(dev, job).await.attempt, 1);
}

#[tokio::test]
async fn a_link_that_is_killed_comes_back_by_itself_and_finds_everything() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let (go, keeper) = (worker_dir.path().join("go"), worker.keeper().unwrap());
    let job = begin(&dev, &go).await;
    for _ in 0..3 {
        let link = worker.link().unwrap();
        kill(link, Signal::SIGKILL).unwrap();
        eventually("another link", async || worker.link().filter(|now| *now != link)).await;
    }
    std::fs::write(&go, "").unwrap();
    completes_in_its_first_attempt(&dev, job).await;
    assert_eq!(worker.keeper(), Some(keeper));
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
    assert_eq!(gaffer_e2e::gaffer::keeper(worker_dir.path()), None, "it leaves with its worker");
}

#[tokio::test]
async fn a_worker_that_is_killed_and_started_again_finds_its_jobs() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    worker.end(Signal::SIGKILL).await;
    // Ends while nobody but the keeper is there to see it.
    std::fs::write(&go, "").unwrap();
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    completes_in_its_first_attempt(&dev, job).await;
}

#[tokio::test]
async fn a_worker_set_to_leave_its_jobs_can_be_upgraded_under_them() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker_with("w", worker_dir.path(), &[("GAFFER_ON_STOP", "leave")]).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    let keeper = worker.keeper();
    assert_eq!(worker.end(Signal::SIGTERM).await, Some(0));
    // With other settings, which hold as soon as nothing of the old ones runs.
    let worker = dev.add_worker_with("w", worker_dir.path(), &[("GAFFER_SPOOL_LIMIT", "1MiB")]).await;
    assert_eq!(worker.keeper(), keeper);
    std::fs::write(&go, "").unwrap();
    completes_in_its_first_attempt(&dev, job).await;
    eventually("a keeper with the new settings", async || worker.keeper().filter(|now| Some(*now) != keeper))
        .await;
}

#[tokio::test]
async fn a_keeper_that_is_killed_is_replaced_and_what_it_ran_is_ended_and_begins_anew() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let _worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    kill_keeper(worker_dir.path()).await;
    eventually("another attempt", async || (only_task(&dev, job).await.attempt == 2).then_some(())).await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state.as_str(), "completed");
}

#[tokio::test]
async fn a_keeper_that_stands_still_is_replaced_before_the_master_gives_its_jobs_to_another() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let go = worker_dir.path().join("go");
    let job = begin(&dev, &go).await;
    let keeper = worker.keeper().unwrap();
    kill(keeper, Signal::SIGSTOP).unwrap();
    // What the job asks for as `lost_after`, and what the master waits beyond that.
    let patience = Duration::from_secs(10) + LOST_MARGIN.to_std();
    let replaced = async || worker.keeper().filter(|now| *now != keeper);
    eventually_within(patience, "another keeper", replaced).await;
    eventually_within(Duration::from_secs(40), "another attempt", async || {
        (only_task(&dev, job).await.attempt == 2).then_some(())
    })
    .await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state.as_str(), "completed");
}

#[tokio::test]
async fn a_second_worker_on_the_same_directory_is_refused() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = master(dir.path()).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let second = gaffer_e2e::gaffer::command(&["worker"])
        .env("MASTER_URL", &dev.env["MASTER_URL"])
        .env("API_KEY", "any")
        .env("GAFFER_DATA_DIR", worker_dir.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another worker is using the data directory"), "{said}");
    assert!(worker.link().is_some());
}
