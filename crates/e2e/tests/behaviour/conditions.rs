//! What decides whether a task runs, runs again, or is not needed: exit codes, and what came of other tasks.

use gaffer_e2e::gaffer::{Dev, data_dir};
use serde_json::json;

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
