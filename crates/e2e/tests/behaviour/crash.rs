//! Crashes: what is accepted stays, nothing runs twice, nothing is left behind.

use std::collections::BTreeMap;
use std::path::Path;

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::json;

#[tokio::test]
async fn a_killed_gaffer_dev_comes_back_with_everything_and_runs_nothing_twice() {
    let dir = data_dir();
    let journal = dir.path().join("witness");
    std::fs::write(&journal, "").unwrap();
    let dev = Dev::start_from_nothing(dir.path(), &[]).await;
    // Each run leaves a line. Every tenth takes long enough to be caught running.
    let script = format!(
        "echo \"$GAFFER_TASK_INDEX.$GAFFER_ATTEMPT\" >> {}; echo out $GAFFER_TASK_INDEX; \
         [ $((GAFFER_TASK_INDEX % 10)) -ne 0 ] || sleep 0.5",
        journal.display()
    );
    let job = dev.client.submit(json!({"script": script, "count": 400, "resources": {"cpu": 0.1}})).await;
    eventually("some tasks have run", async || {
        let counts = dev.client.job(job).await.task_counts;
        (counts.get("completed").copied().unwrap_or(0) >= 50).then_some(())
    })
    .await;
    dev.kill().await;

    let dev = Dev::start(dir.path()).await;
    let done = dev.client.finished(job).await;
    let tasks = dev.client.tasks(job).await;
    assert_eq!(tasks.len(), 400);
    let mut runs: BTreeMap<String, u32> = BTreeMap::new();
    for line in std::fs::read_to_string(&journal).unwrap().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = runs.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "started twice: {twice:?}");
    assert_eq!(done.task_counts, BTreeMap::from([("completed".to_owned(), 400)]));
    for task in &tasks {
        assert_eq!((task.attempt, runs.get(&format!("{}.1", task.index))), (1, Some(&1)), "{task:?}");
        let path = format!("/jobs/{job}/tasks/{}/output", task.address);
        if task.index % 20 == 0 {
            assert_eq!(dev.client.get(&path).await.text, format!("out {}\n", task.index));
        }
    }
    assert_eq!(dev.interrupt().await, Some(0));
}

#[tokio::test]
async fn nothing_that_a_wholly_killed_worker_ran_lives_on_after_its_return() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let marker = format!("5{}", std::process::id());
    let job = dev
        .client
        .submit(json!({"script": format!("echo up; setsid sleep {marker} & sleep {marker}")}))
        .await;
    eventually("the job is up", async || (dev.client.output(job).await == b"up\n").then_some(())).await;
    dev.kill_with_executor().await;
    let dev = Dev::start(dir.path()).await;
    let done = dev.client.finished(job).await;
    assert_eq!((done.state.as_str(), done.reason.unwrap().code.as_str()), ("failed", "lost_worker"));
    assert_eq!(dev.client.output(job).await, b"up\n");
    eventually("its processes are gone", async || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let left = processes
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .any(|line| line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes()));
        (!left).then_some(())
    })
    .await;
    dev.interrupt().await;
}

/// Ends the private Postgres of an installation as the kernel would.
fn kill_postgres(dir: &Path) {
    let pid_file = dir.join("postgres/cluster/postmaster.pid");
    let postmaster: i32 = std::fs::read_to_string(pid_file).unwrap().lines().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(postmaster), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[tokio::test]
async fn an_accepted_job_is_there_although_postgres_is_killed_right_after_the_answer() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    // The first of several commits may reach the disk at once even where nobody waits for that.
    let mut jobs = Vec::new();
    for _ in 0..50 {
        jobs.push(dev.client.submit(json!({"script": "echo here"})).await);
    }
    kill_postgres(dir.path());
    for job in jobs {
        let answer = eventually("the database is back", async || {
            let answer = dev.client.get(&format!("/jobs/{job}")).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "job {job}: {}", answer.text);
    }
    dev.interrupt().await;
}

#[tokio::test]
async fn postgres_going_away_for_a_moment_loses_nothing() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"script": "for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"})).await;
    eventually("it has begun", async || (!dev.client.output(job).await.is_empty()).then_some(())).await;
    kill_postgres(dir.path());
    let output = eventually("the job is over", async || {
        let answer = dev.client.get(&format!("/jobs/{job}")).await;
        if answer.body["state"] != "completed" {
            assert!(answer.status == 200 || answer.status == 503, "{}", answer.text);
            return None;
        }
        Some(dev.client.output(job).await)
    })
    .await;
    assert_eq!(output, b"1\n2\n3\n4\n5\n6\n");
    dev.interrupt().await;
}
