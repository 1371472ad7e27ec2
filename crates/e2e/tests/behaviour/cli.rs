//! The command line against a running gaffer.

use std::process::Output;

use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

async fn output(dev: &Dev, args: &[&str]) -> Output {
    dev.cli(args).output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn run_passes_on_both_streams_and_the_exit_code() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let done = output(&dev, &["run", "--", "sh", "-c", "printf 'a\\0b\\377'; echo oops >&2; exit 7"]).await;
    assert_eq!((done.status.code(), done.stdout), (Some(7), b"a\0b\xff".to_vec()));
    assert!(text(&done.stderr).contains("oops\n"), "{}", text(&done.stderr));
    for (script, code) in [("exit 0", 0), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(
            output(&dev, &["run", "--", "sh", "-c", script]).await.status.code(),
            Some(code),
            "{script}"
        );
    }
    assert_eq!(
        output(&dev, &["run", "--timeout", "200ms", "--", "sleep", "60"]).await.status.code(),
        Some(124)
    );
    assert_eq!(output(&dev, &["run", "--", "no-such-program"]).await.status.code(), Some(127));
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    assert_eq!(output(&dev, &["run", "--", plain.to_str().unwrap()]).await.status.code(), Some(126));
    assert_eq!(output(&dev, &["job", "424242"]).await.status.code(), Some(3));
    assert_eq!(output(&dev, &["jobs", "--nonsense"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn interrupting_run_interrupts_the_job() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut child =
        dev.cli(&["run", "--", "sh", "-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the job is ready", async || {
        let jobs = dev.client.get("/jobs?name=sh&state=running").await;
        let job = jobs.body["items"][0]["id"].as_i64()?;
        (dev.client.output(job).await == b"ready\n").then_some(())
    })
    .await;
    kill(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGINT).unwrap();
    let mut stdout = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut child.stdout.take().unwrap(), &mut stdout).await.unwrap();
    assert_eq!((child.wait().await.unwrap().code(), stdout.as_str()), (Some(5), "ready\ncaught\n"));
}

#[tokio::test]
async fn a_file_in_any_of_the_three_formats_makes_the_same_job() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let files = [
        ("job.yaml", "name: three\ntasks:\n  - name: a\n    command: [echo, hi]\n    env: {N: 8}\n"),
        (
            "job.toml",
            "name = \"three\"\n[[tasks]]\nname = \"a\"\ncommand = [\"echo\", \"hi\"]\nenv = {N = 8}\n",
        ),
        (
            "job.json",
            r#"{"name": "three", "tasks": [{"name": "a", "command": ["echo", "hi"], "env": {"N": 8}}]}"#,
        ),
    ];
    let mut specs = Vec::new();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let done = output(&dev, &["submit", path.to_str().unwrap()]).await;
        assert!(done.status.success(), "{}", text(&done.stderr));
        let job: i64 = text(&done.stdout).trim().parse().expect("the number alone");
        assert_eq!(output(&dev, &["wait", &job.to_string()]).await.status.code(), Some(0));
        assert_eq!(output(&dev, &["logs", &job.to_string()]).await.stdout, b"hi\n");
        specs.push(dev.client.job(job).await.spec);
    }
    assert!(specs[0] == specs[1] && specs[1] == specs[2], "{specs:?}");

    let bad = dir.path().join("bad.yaml");
    std::fs::write(&bad, "nme: x\ncommand: [\"true\"]\npriority: 1000\n").unwrap();
    let refused = output(&dev, &["submit", bad.to_str().unwrap()]).await;
    let said = text(&refused.stderr);
    assert_ne!(refused.status.code(), Some(0));
    assert!(
        said.contains("nme") && said.contains("did you mean `name`?") && said.contains("priority"),
        "{said}"
    );
}

#[tokio::test]
async fn listings_show_the_apis_own_json_and_a_table() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"name": "shown", "command": ["true"]})).await;
    dev.client.finished(job).await;
    let listed = output(&dev, &["jobs", "--name", "shown", "-o", "json"]).await;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed, dev.client.get("/jobs?name=shown").await.body);
    let table = text(&output(&dev, &["jobs", "--name", "shown"]).await.stdout);
    assert!(table.contains("shown") && table.contains("completed"), "{table}");
    let workers = text(&output(&dev, &["workers"]).await.stdout);
    assert!(workers.contains("online"), "{workers}");
    let created = output(&dev, &["keys", "create", "--kind", "worker", "--name", "lab"]).await;
    assert!(text(&created.stdout).starts_with("gfw_"), "{}", text(&created.stdout));
    assert_eq!(text(&created.stdout).lines().count(), 1);
}

#[tokio::test]
async fn stop_rerun_and_delete_do_what_they_say() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"command": ["sleep", "60"]})).await.to_string();
    dev.client.in_state(job.parse().unwrap(), "running").await;
    assert!(output(&dev, &["stop", &job]).await.status.success());
    assert_eq!(output(&dev, &["wait", &job]).await.status.code(), Some(143));
    let again = output(&dev, &["rerun", &job]).await;
    let again = text(&again.stdout).trim().to_owned();
    assert!(again.parse::<i64>().unwrap() > job.parse().unwrap());
    assert_eq!(output(&dev, &["delete", "-y", &again]).await.status.code(), Some(5), "it has not ended");
    assert!(output(&dev, &["stop", &again]).await.status.success());
    output(&dev, &["wait", &again]).await;
    assert!(output(&dev, &["delete", "-y", &job, &again]).await.status.success());
    assert_eq!(output(&dev, &["job", &job]).await.status.code(), Some(3));
}
