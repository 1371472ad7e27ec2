//! What decides whether a task runs, runs again, or is skipped: exit codes, and what came of other tasks.

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_protocol::rest::Task;
use serde_json::json;

use crate::texts::Visitor;

async fn dev() -> (Dev, tempfile::TempDir) {
    let dir = data_dir();
    (Dev::start(dir.path()).await, dir)
}

/// A script that exits with each of these codes in turn, one for each attempt.
fn exits(codes: &[u8]) -> String {
    let arms: Vec<String> =
        codes.iter().enumerate().map(|(at, code)| format!("{}) exit {code};;", at + 1)).collect();
    format!("case $GAFFER_ATTEMPT in {} esac; exit 99", arms.join(" "))
}

#[tokio::test]
async fn exit_codes_decide_whether_a_task_is_tried_again() {
    let (dev, _dir) = dev().await;
    let cases = [
        // Codes, restart, then: state, attempts, exit code.
        (&[75, 75, 0][..], json!({"on_exit": [75], "delay": "0s"}), "completed", 3, 0),
        (&[75, 1], json!({"on_exit": [75], "delay": "0s"}), "failed", 2, 1),
        (&[1, 2], json!({"not_on_exit": [2], "delay": "0s"}), "failed", 2, 2),
        (&[3], json!({"success": [3]}), "completed", 1, 3),
        (&[1, 3], json!({"policy": "on-failure", "success": [3], "delay": "0s"}), "completed", 2, 3),
    ];
    for (codes, restart, state, attempts, exit_code) in cases {
        let spec = json!({"script": exits(codes), "restart": restart});
        let job = dev.client.submit(spec.clone()).await;
        let done = dev.client.finished(job).await;
        assert_eq!(done.state, state, "{spec}: {done:?}");
        let task = &dev.client.tasks(job).await[0];
        assert_eq!((task.attempt, task.exit_code), (attempts, Some(exit_code)), "{spec}");
    }
}

#[tokio::test]
async fn an_exit_code_that_counts_as_success_completes_the_task_everywhere() {
    let (dev, _dir) = dev().await;
    let run = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(&["run", "--success-code", "3", "--", "sh", "-c", "exit 3"]).await.0, Some(0));
    assert_eq!(run(&["run", "--success-code", "3", "--", "sh", "-c", "exit 4"]).await.0, Some(4));

    let spec = json!({"tasks": [
        {"name": "look", "script": "exit 3", "restart": {"success": [3]}},
        {"name": "then", "script": "exit 0", "depends_on": ["look"]},
    ]});
    let job = dev.client.submit(spec).await;
    let done = dev.client.finished(job).await;
    assert_eq!((done.state.as_str(), done.reason), ("completed", None));
    let events = run(&["events", &job.to_string()]).await.1;
    assert!(events.contains("exited with code 3, which counts as success"), "{events}");
}

/// State and reason code of each task, by its address.
async fn ends(dev: &Dev, job: i64) -> Vec<String> {
    let tasks = dev.client.tasks(job).await;
    let end = |task: &Task| match &task.reason {
        Some(reason) => format!("{} {} {}", task.address, task.state, reason.code),
        None => format!("{} {}", task.address, task.state),
    };
    tasks.iter().map(end).collect()
}

#[tokio::test]
async fn what_follows_a_failure_and_what_always_follows_run_and_the_rest_does_not() {
    let (dev, _dir) = dev().await;
    let pipeline = |build: &str| {
        json!({"tasks": [
            {"name": "build", "script": build},
            {"name": "test", "script": "true", "depends_on": ["build"]},
            {"name": "repair", "script": "true", "depends_on": [{"task": "build", "on": "failed"}]},
            {"name": "publish", "script": "true", "depends_on": ["repair"]},
            {"name": "report", "script": "true", "depends_on": [{"task": "test", "on": "ended"}]},
            {"name": "tell", "script": "true", "when": "failure"},
            {"name": "clean", "script": "true", "when": "always"},
        ]})
    };
    let well = dev.client.submit(pipeline("true")).await;
    let done = dev.client.finished(well).await;
    assert_eq!((done.state.as_str(), &done.reason), ("completed", &None), "{done:?}");
    assert_eq!(
        ends(&dev, well).await,
        [
            "build completed",
            "test completed",
            "repair cancelled condition_not_met",
            "publish cancelled condition_not_met",
            "report completed",
            "tell cancelled condition_not_met",
            "clean completed",
        ]
    );
    let badly = dev.client.submit(pipeline("exit 4")).await;
    let done = dev.client.finished(badly).await;
    assert_eq!(done.state, "failed");
    assert_eq!(done.reason.unwrap().message, "task build: exited with code 4");
    assert_eq!(
        ends(&dev, badly).await,
        [
            "build failed exit_code",
            "test cancelled dependency_failed",
            "repair completed",
            "publish completed",
            "report completed",
            "tell completed",
            "clean completed",
        ]
    );
    // What was skipped is no failure for a command that waits, either.
    let waited = dev.cli(&["wait", &well.to_string()]).output().await.unwrap();
    assert_eq!(waited.status.code(), Some(0), "{waited:?}");
}

#[tokio::test]
async fn a_cleaning_up_task_outlives_a_stop_but_not_a_forced_one() {
    let (dev, dir) = dev().await;
    let go_on = dir.path().join("go-on");
    let clean = format!("until test -e {}; do sleep 0.05; done", go_on.display());
    let spec = json!({"tasks": [
        {"name": "work", "script": "sleep 600", "stop": {"grace": "1s"}},
        {"name": "clean", "script": clean, "when": "always"},
    ]});
    let job = dev.client.submit(spec.clone()).await;
    dev.client.in_state(job, "running").await;
    assert!(dev.cli(&["stop", &job.to_string()]).output().await.unwrap().status.success());
    eventually("the task that cleans up runs", async || {
        (dev.client.tasks(job).await[1].state == "running").then_some(())
    })
    .await;
    assert_eq!(dev.client.job(job).await.state, "stopping");
    let page = Visitor::of(&dev).await.page(&format!("/jobs/{job}")).await;
    assert!(page.contains(r#"data-f="can_force" data-as="show"><input"#), "{page}");
    // Once more is not harder: a request may be repeated on its way.
    assert!(dev.cli(&["stop", &job.to_string()]).output().await.unwrap().status.success());
    assert_eq!(dev.client.tasks(job).await[1].state, "running");
    std::fs::write(&go_on, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state, "cancelled");
    assert_eq!(ends(&dev, job).await, ["work cancelled stopped", "clean completed"]);

    std::fs::remove_file(&go_on).unwrap();
    let job = dev.client.submit(spec).await;
    dev.client.in_state(job, "running").await;
    assert!(dev.cli(&["stop", &job.to_string()]).output().await.unwrap().status.success());
    assert!(dev.cli(&["stop", "--force", &job.to_string()]).output().await.unwrap().status.success());
    assert_eq!(dev.client.finished(job).await.state, "cancelled");
    assert_eq!(ends(&dev, job).await, ["work cancelled stopped", "clean cancelled stopped"]);
}

#[tokio::test]
async fn a_blocked_task_says_what_it_waits_for_on_every_door() {
    let (dev, _dir) = dev().await;
    let spec = json!({"tasks": [
        {"name": "work", "script": "sleep 600", "stop": {"grace": "1s"}},
        {"name": "repair", "script": "true", "depends_on": [{"task": "work", "on": "failed"}]},
        {"name": "clean", "script": "true", "when": "always"},
    ]});
    let job = dev.client.submit(spec).await;
    dev.client.in_state(job, "running").await;
    let tasks = dev.client.tasks(job).await;
    assert_eq!(tasks[1].waits_for.as_deref(), Some("waits for work to fail"));
    // `clean` waits for `repair`, too.
    let clean = "runs once work and repair have ended, whatever the outcome";
    assert_eq!(tasks[2].waits_for.as_deref(), Some(clean));
    assert_eq!(tasks[0].waits_for, None);
    let said = dev.cli(&["explain", &job.to_string()]).output().await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("repair: waits for work to fail") && said.contains(clean), "{said}");
    let shown = dev.cli(&["job", &job.to_string()]).output().await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("waits for work to fail"), "{shown}");
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{job}/tasks/clean")).await;
    assert!(page.contains(clean), "{page}");
    let page = browser.page(&format!("/jobs/{job}?tab=tasks")).await;
    assert!(page.contains("waits for work to fail"), "{page}");
}

#[tokio::test]
async fn more_failures_than_a_job_allows_stop_the_rest_of_it() {
    let (dev, _dir) = dev().await;
    let job = dev
        .client
        .submit(json!({"max_failures": 1, "tasks": [
            {"name": "fail", "script": "exit 1", "count": 2},
            {"name": "long", "script": "sleep 600", "stop": {"grace": "1s"}},
            {"name": "after", "script": "true", "depends_on": [{"task": "long", "on": "ended"}]},
            {"name": "tell", "script": "true", "when": "failure"},
        ]}))
        .await;
    let done = dev.client.finished(job).await;
    assert_eq!(done.state, "failed");
    assert_eq!(
        ends(&dev, job).await,
        [
            "fail.0 failed exit_code",
            "fail.1 failed exit_code",
            "long cancelled stopped",
            "after cancelled stopped",
            "tell completed",
        ]
    );
    let reason = dev.client.tasks(job).await[2].reason.clone().unwrap();
    assert_eq!(reason.message, "stopped because more than 1 task of the job failed");
}

#[tokio::test]
async fn a_task_that_waits_for_its_own_index_does_not_wait_for_the_others() {
    let (dev, dir) = dev().await;
    let go_on = dir.path().join("go-on");
    let build = format!(
        "case $GAFFER_TASK_INDEX in 10) exit 0;; 11) exit 1;; esac; until test -e {}; do sleep 0.05; done",
        go_on.display()
    );
    let job = dev
        .client
        .submit(json!({"tasks": [
            {"name": "build", "script": build, "array": "10-12"},
            {"name": "test", "script": "true", "array": "10-12", "depends_on": [{"task": "build", "index": "same"}]},
            {"name": "repair", "script": "true", "array": "10-12",
                "depends_on": [{"task": "build", "index": "same", "on": "failed"}]},
            {"name": "report", "script": "true", "depends_on": [{"task": "test", "on": "ended"}]},
        ]}))
        .await;
    let now = async |expected: [&str; 10]| {
        eventually("the tasks are as expected", async || (ends(&dev, job).await == expected).then_some(()))
            .await;
    };
    now([
        "build.10 completed",
        "build.11 failed exit_code",
        "build.12 running",
        "test.10 completed",
        "test.11 cancelled dependency_failed",
        "test.12 blocked",
        "repair.10 cancelled condition_not_met",
        "repair.11 completed",
        "repair.12 blocked",
        "report blocked",
    ])
    .await;
    let said = dev.cli(&["explain", &job.to_string()]).output().await.unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("test: waits for the task of build with its index to complete"), "{said}");
    std::fs::write(&go_on, "").unwrap();
    assert_eq!(dev.client.finished(job).await.state, "failed");
    let ended = ends(&dev, job).await;
    assert_eq!(ended[5], "test.12 completed");
    assert_eq!(ended[8..], ["repair.12 cancelled condition_not_met", "report completed"]);
}

#[tokio::test]
async fn no_more_tasks_of_an_array_run_at_once_than_it_says() {
    let (dev, dir) = dev().await;
    let places = dir.path().join("places");
    std::fs::create_dir(&places).unwrap();
    let go_on = dir.path().join("go-on");
    // Two at most find a place; a third one fails.
    let script = format!(
        "mkdir {0}/1 2>/dev/null && mine=1 || {{ mkdir {0}/2 2>/dev/null && mine=2; }} || exit 9\n\
         until test -e {1}; do sleep 0.05; done; rmdir {0}/$mine",
        places.display(),
        go_on.display()
    );
    let small = json!({"cpu": 0, "memory": 0});
    let job = dev.client.submit(json!({"script": script, "array": "1-8%2", "resources": small})).await;
    eventually("two of them run", async || {
        (dev.client.job(job).await.task_counts.get("running") == Some(&2)).then_some(())
    })
    .await;
    eventually("the others say what they wait for", async || {
        let said = dev.cli(&["explain", &job.to_string()]).output().await.unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        said.contains("2 tasks of the array are live, and at most 2 may be at once").then_some(())
    })
    .await;
    std::fs::write(&go_on, "").unwrap();
    let done = dev.client.finished(job).await;
    assert_eq!(done.state, "completed", "{:?}", ends(&dev, job).await);
}
