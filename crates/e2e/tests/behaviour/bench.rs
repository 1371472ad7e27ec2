//! `gaffer bench`: what it measures is told, and nothing of it is left behind. How fast anything was, no test judges.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::{PATIENCE, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Command;

/// Little of everything.
const SMALL: [&str; 12] = [
    "--rounds=2",
    "--tasks=20",
    "--jobs=2",
    "--size=100kB",
    "--lines-per-second=1000",
    "--waiting=10",
    "--sessions=5",
    "--watch=100ms",
    "--timeout=2m",
    "-o",
    "json",
    "--scratch-dir",
];

/// The command with little of everything, its scratch data in this directory.
fn small(mut bench: Command, scratch: &Path, words: &[&str]) -> Command {
    bench.args(SMALL).arg(scratch).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    bench
}

async fn report(mut bench: Command) -> Value {
    let done = bench.output().await.unwrap();
    let (said, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{told}\n{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn entries(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// All jobs with the label of measurements, finished or not.
async fn measured_jobs(dev: &Dev) -> Vec<Value> {
    let jobs = dev.client.get("/jobs?limit=500").await.body["items"].as_array().unwrap().clone();
    jobs.into_iter().filter(|job| !job["labels"]["gaffer-bench"].is_null()).collect()
}

fn names<'a>(values: &'a [Value], name: &str) -> Vec<&'a str> {
    values.iter().map(|value| value[name].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_installation_is_measured_and_its_jobs_are_deleted() {
    let (dir, scratch) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let report = report(small(dev.cli(&["bench"]), scratch.path(), &[])).await;
    assert_eq!(report["server"], dev.env["GAFFER_URL"].as_str());
    assert_eq!((&report["rounds"], &report["interrupted"]), (&json!(2), &json!(false)));
    let results = report["results"].as_array().unwrap();
    assert_eq!(
        names(results, "measurement"),
        ["limits", "throughput", "latency", "ingest", "follow", "queue"]
    );
    for result in results {
        assert_eq!((&result["error"], &result["history_tasks"]), (&Value::Null, &Value::Null), "{result:#}");
        let figures = result["figures"].as_array().unwrap();
        assert!(!figures.is_empty());
        for figure in figures {
            assert_eq!(figure["rounds"].as_array().unwrap().len(), 2, "{figure:#}");
            assert!(figure["median"].is_number() && figure["unit"].is_string(), "{figure:#}");
            let limit = &figure["limit"];
            assert!(limit.is_null() || limit["rounds"].as_array().unwrap().len() == 2, "{figure:#}");
            assert_eq!(limit.is_null(), figure["ratio"].is_null(), "{figure:#}");
        }
    }
    let throughput = &results[1]["figures"][0];
    assert_eq!(
        (&throughput["name"], &throughput["limit"]["name"]),
        (&json!("tasks"), &json!("floor program"))
    );
    let latency: BTreeSet<&str> =
        names(results[2]["figures"].as_array().unwrap(), "name").into_iter().collect();
    for name in [
        "submit to start, p50",
        "submit to first byte, p90",
        "submit to final, p99",
        "`gaffer run true`, p50",
    ] {
        assert!(latency.contains(name), "{latency:?}");
    }
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    assert_eq!(entries(scratch.path()), Vec::<String>::new());
    dev.interrupt().await;
}

#[tokio::test]
async fn a_scratch_installation_has_history_and_is_removed() {
    let scratch = data_dir();
    let report = report(small(command(&["bench", "--history=0,30"]), scratch.path(), &[])).await;
    assert_eq!(report["server"], Value::Null);
    let results = report["results"].as_array().unwrap();
    let mut runs: Vec<(u64, bool, Vec<&str>)> = Vec::new();
    for result in results {
        assert_eq!(result["error"], Value::Null, "{result:#}");
        assert!(result["database_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{result:#}");
        let tasks = result["history_tasks"].as_u64().unwrap();
        let has_statistics = result["history_statistics"].as_bool().unwrap();
        let name = result["measurement"].as_str().unwrap();
        match runs.last_mut() {
            Some(run) if (run.0, run.1) == (tasks, has_statistics) => run.2.push(name),
            _ => runs.push((tasks, has_statistics, vec![name])),
        }
    }
    let all = ["limits", "throughput", "latency", "ingest", "follow", "queue", "dispatch", "workers"];
    let expected = [(0, false), (0, true), (30, false), (30, true)];
    assert_eq!(runs, expected.map(|(tasks, has_statistics)| (tasks, has_statistics, all.to_vec())));
    assert_eq!(entries(scratch.path()), Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupted_measurement_leaves_no_job_behind() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    // For ever, as far as this test is concerned.
    let mut bench =
        dev.cli(&["bench", "throughput", "--tasks=5000", "--rounds=100", "--no-floor", "-o", "json"]);
    bench.stdout(Stdio::piped());
    let child = bench.spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap() as i32);
    eventually("tasks are measured", async || (!measured_jobs(&dev).await.is_empty()).then_some(())).await;
    kill(pid, Signal::SIGINT).unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["interrupted"], true, "{report:#}");
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    dev.interrupt().await;
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    for (words, code, reason) in [
        (&["workers"][..], 2, "--history 0"),
        (&["--worker", "nobody", "--no-floor"], 2, "no such worker is online"),
        (&["speed"], 2, "possible values"),
    ] {
        let done = dev.cli(&["bench"]).args(words).output().await.unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!((done.status.code(), done.stdout.is_empty()), (Some(code), true), "{words:?}: {told}");
        assert!(told.contains(reason), "{told}");
    }
    let mut stranger = command(&["bench", "--no-floor"]);
    stranger.env("GAFFER_URL", &dev.env["GAFFER_URL"]).env("GAFFER_KEY", "gfu_of_nobody");
    assert_eq!(stranger.output().await.unwrap().status.code(), Some(4));
    let mut nowhere = command(&["bench", "--no-floor"]);
    nowhere.env("GAFFER_URL", "http://127.0.0.1:1").env("GAFFER_KEY", "gfu_of_nobody");
    assert_eq!(nowhere.output().await.unwrap().status.code(), Some(125));
    // Tasks that do not complete are a failed measurement, not a failed command.
    let too_slow = ["throughput", "--no-floor", "--timeout=1ms", "--tasks=10", "-o", "json"];
    let done = dev.cli(&["bench"]).args(too_slow).output().await.unwrap();
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(125), "{report:#}");
    assert!(report["results"][0]["error"].as_str().unwrap().contains("not finished after 1ms"), "{report:#}");
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    dev.interrupt().await;
}

#[tokio::test]
async fn an_installation_of_development_stops_with_what_started_it() {
    let dir = data_dir();
    gaffer_e2e::cluster::give_cluster(dir.path()).await;
    let mut dev = command(&["dev", "--stop-with-stdin", "--data-dir"]);
    dev.arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    for port in ["--dashboard-addr", "--api-addr", "--worker-addr"] {
        dev.args([port, "127.0.0.1:0"]);
    }
    let mut dev = dev.spawn().unwrap();
    let ready = dir.path().join("dev.env");
    eventually("gaffer dev is ready", async || ready.exists().then_some(())).await;
    drop(dev.stdin.take());
    let ended = tokio::time::timeout(*PATIENCE, dev.wait()).await.expect("it stops");
    assert_eq!(ended.unwrap().code(), Some(0));
    assert!(!ready.exists());
}
