//! `gaffer bench`: what it measures is told, and nothing of it is left behind. How fast anything was, no test judges.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use gaffer_e2e::gaffer::{Dev, command, data_dir};
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_master::embedded_postgres::url_of_running;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};

/// Little of everything.
const SMALL: [&str; 12] = [
    "--rounds=2",
    "--tasks=20",
    "--jobs=2",
    "--size=100kB",
    "--output-size=100kB",
    "--viewers=3",
    "--lines-per-second=1000",
    "--waiting=10",
    "--sessions=5",
    "--watch=100ms",
    "--timeout=2m",
    "--scratch-dir",
];
/// The last line on standard error of a run that has cleaned up.
const NOTHING_LEFT: &str = "gaffer: nothing of this run is left\n";

/// The command with little of everything, its scratch data in this directory.
fn small(mut bench: Command, scratch: &Path, words: &[&str]) -> Command {
    bench.args(SMALL).arg(scratch).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    bench
}

/// A run that somebody interrupts.
fn started(mut bench: Command) -> (Child, Pid) {
    let child = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap() as i32);
    (child, pid)
}

/// What it says when all has gone well.
async fn said(mut bench: Command) -> String {
    let done = bench.output().await.unwrap();
    let (said, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{told}\n{said}");
    assert!(told.ends_with(NOTHING_LEFT), "{told}");
    said.into_owned()
}

async fn report(mut bench: Command) -> Value {
    bench.args(["-o", "json"]);
    let said = said(bench).await;
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

/// How many browsers are signed in to the dashboard.
async fn sessions(data_dir: &Path) -> i64 {
    let database_url = url_of_running(data_dir).unwrap();
    let mut database = PgConnection::connect(&database_url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM web_sessions").fetch_one(&mut database).await.unwrap()
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
        ["limits", "throughput", "latency", "ingest", "output", "follow", "viewers", "lists", "queue"]
    );
    assert_eq!(report["left"], json!([]));
    for result in results {
        assert_eq!((&result["error"], &result["history_tasks"]), (&Value::Null, &Value::Null), "{result:#}");
        let figures = result["figures"].as_array().unwrap();
        assert!(!figures.is_empty());
        for figure in figures {
            assert_eq!(figure["rounds"].as_array().unwrap().len(), 2, "{figure:#}");
            assert!(figure["median"].is_number() && figure["unit"].is_string(), "{figure:#}");
            assert!(figure["key"].as_str().unwrap().is_ascii(), "{figure:#}");
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
    let keys = |result: &Value| -> BTreeSet<String> {
        let figures = result["figures"].as_array().unwrap();
        figures.iter().map(|figure| figure["key"].as_str().unwrap().to_owned()).collect()
    };
    for (at, key) in [
        (1, "tasks_per_second"),
        (1, "memory_of_the_master_highest_mebibytes"),
        (3, "one_write_per_line_lines_per_second"),
        (4, "last_200_lines_p95_milliseconds"),
        (4, "any_200_lines_p50_milliseconds"),
        (4, "search_first_hit_milliseconds"),
        (4, "search_rate_megabytes_per_second"),
        (6, "memory_of_a_viewer_kibibytes"),
        (7, "get_jobs_label_rare_p95_milliseconds"),
        (7, "get_jobs_driver_docker_rare_p50_milliseconds"),
        (7, "page_of_a_job_p95_milliseconds"),
        (8, "submit_to_final_p99_milliseconds"),
    ] {
        assert!(keys(&results[at]).contains(key), "{key}: {:#}", results[at]);
    }
    let hits = results[4]["figures"].as_array().unwrap().iter().find(|figure| figure["name"] == "hits");
    assert!(hits.unwrap()["median"].as_f64() > Some(0.0), "{:#}", results[4]);
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    assert_eq!(sessions(dir.path()).await, 0);
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
        assert!(result["database_bytes_after"].as_u64().is_some_and(|bytes| bytes > 0), "{result:#}");
        let is_measured = !result["figures"].as_array().unwrap().is_empty();
        // This machine may have no Docker.
        let is_excused = result["notes"].to_string().contains("not measured");
        assert!(is_measured || (result["measurement"] == "containers" && is_excused), "{result:#}");
        let tasks = result["history_tasks"].as_u64().unwrap();
        let has_statistics = result["history_statistics"].as_bool().unwrap();
        let name = result["measurement"].as_str().unwrap();
        match runs.last_mut() {
            Some(run) if (run.0, run.1) == (tasks, has_statistics) => run.2.push(name),
            _ => runs.push((tasks, has_statistics, vec![name])),
        }
    }
    let all = [
        "limits",
        "throughput",
        "latency",
        "ingest",
        "output",
        "follow",
        "viewers",
        "lists",
        "queue",
        "containers",
        "snapshot",
        "dispatch",
        "workers",
    ];
    let expected = [(0, false), (0, true), (30, false), (30, true)];
    assert_eq!(runs, expected.map(|(tasks, has_statistics)| (tasks, has_statistics, all.to_vec())));
    // A history is what there was at that moment: asked for, and left by earlier measurements.
    let finished = |at: usize, when: &str| results[at][format!("finished_tasks_{when}")].as_u64().unwrap();
    let (first, second) = (finished(0, "before"), finished(2 * all.len(), "before"));
    // Two more jobs are like no other.
    assert_eq!(second - first, 32, "{results:#?}");
    for pass in 0..4 {
        let throughput = pass * all.len() + 1;
        assert_eq!(results[throughput]["measurement"], "throughput");
        assert_eq!(finished(throughput, "after") - finished(throughput, "before"), 40);
        assert_eq!(finished(throughput + 1, "before"), finished(throughput, "after"));
    }
    assert_eq!(entries(scratch.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_history_has_as_many_tasks_as_were_asked_for_however_many_a_job_has() {
    let scratch = data_dir();
    let words = ["--history=0,2,7", "--history-job-tasks=3", "--statistics=without"];
    let mut bench = command(&["bench", "limits"]);
    bench.args(words);
    let report = report(small(bench, scratch.path(), &[])).await;
    let results = report["results"].as_array().unwrap();
    let finished: Vec<u64> =
        results.iter().map(|result| result["finished_tasks_before"].as_u64().unwrap()).collect();
    // Two more jobs are like no other.
    let more: Vec<u64> = finished.iter().map(|tasks| tasks - finished[0]).collect();
    assert_eq!(more, [0, 2 + 2, 7 + 2], "{report:#}");
}

#[tokio::test]
async fn a_table_fits_a_terminal_and_a_document_has_a_row_for_each_figure() {
    let (dir, scratch) = (data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let words = ["throughput", "latency", "ingest", "output", "lists", "queue", "--tasks=20,10"];
    let bench = || {
        let mut bench = dev.cli(&["bench"]);
        let small = SMALL.iter().filter(|word| !word.starts_with("--tasks"));
        bench.args(small).arg(scratch.path()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        bench
    };
    let table = said(bench()).await;
    assert!(table.contains("throughput, limit: floor program\n"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("tasks, 20 at once ")), "{table}");
    let long: Vec<&str> = table.lines().filter(|line| line.chars().count() > 80).collect();
    assert_eq!(long, Vec::<&str>::new(), "{table}");
    let mut in_document = bench();
    in_document.args(["-o", "markdown"]);
    let document = said(in_document).await;
    assert!(
        document.contains("| measurement | figure | installation |\n| --- | --- | --- |\n"),
        "{document}"
    );
    for row in ["| throughput | tasks, 10 at once (of floor program) | ", "| output | search, first hit | "] {
        assert!(document.contains(row), "{document}");
    }
    dev.interrupt().await;
}

#[tokio::test]
async fn an_interrupted_measurement_leaves_no_job_behind() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    // For ever, as far as this test is concerned.
    let bench = dev.cli(&["bench", "throughput", "--tasks=5000", "--rounds=100", "--no-floor", "-o", "json"]);
    let (child, pid) = started(bench);
    eventually("tasks are measured", async || (!measured_jobs(&dev).await.is_empty()).then_some(())).await;
    kill(pid, Signal::SIGINT).unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["interrupted"], true, "{report:#}");
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    assert!(String::from_utf8_lossy(&done.stderr).ends_with(NOTHING_LEFT));
    dev.interrupt().await;
}

#[tokio::test]
async fn an_interrupted_measurement_leaves_nobody_signed_in() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    // For ever, as far as this test is concerned.
    let bench = dev.cli(&["bench", "lists", "--jobs=10000", "--rounds=100", "--no-floor"]);
    let (child, pid) = started(bench);
    eventually("it is signed in", async || (sessions(dir.path()).await == 1).then_some(())).await;
    kill(pid, Signal::SIGINT).unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&done.stderr).ends_with(NOTHING_LEFT));
    assert_eq!(sessions(dir.path()).await, 0);
    dev.interrupt().await;
}

#[tokio::test]
async fn what_cannot_be_removed_does_not_keep_the_rest() {
    let (scratch, home) = (data_dir(), data_dir());
    // In the place of a worker's directory is something else: nobody can say whether it is used.
    std::fs::create_dir(scratch.path().join("gaffer-bench-odd")).unwrap();
    std::fs::write(scratch.path().join("gaffer-bench-odd/worker"), "").unwrap();
    std::fs::create_dir(scratch.path().join("gaffer-bench-old")).unwrap();
    let mut bench = command(&["bench", "--clean", "--scratch-dir"]);
    // Nothing leads to an installation of this machine.
    bench.arg(scratch.path()).env("HOME", home.path()).env("GAFFER_DATA_DIR", home.path());
    bench.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let done = bench.output().await.unwrap();
    let (said, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(125), "{told}");
    assert!(told.contains("gaffer-bench-odd: Not a directory"), "{told}");
    assert!(said.contains("/gaffer-bench-old removed\n"), "{said}");
    assert!(said.ends_with("no server configured: no jobs were looked for\n"), "{said}");
    assert_eq!(entries(scratch.path()), ["gaffer-bench-odd"]);
}

#[tokio::test]
async fn an_interrupted_scratch_installation_is_removed() {
    let scratch = data_dir();
    // For ever, as far as this test is concerned.
    let words = ["bench", "latency", "--history=5", "--rounds=100", "--jobs=10000", "--scratch-dir"];
    let mut bench = command(&words);
    bench.arg(scratch.path());
    let (child, pid) = started(bench);
    eventually("the scratch installation is there", async || {
        let made = entries(scratch.path()).into_iter().next()?;
        scratch.path().join(made).join("dev.env").exists().then_some(())
    })
    .await;
    kill(pid, Signal::SIGINT).unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(done.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&done.stderr).ends_with(NOTHING_LEFT));
    assert_eq!(entries(scratch.path()), Vec::<String>::new());
}

#[tokio::test]
async fn who_does_not_wait_for_the_removal_hears_what_is_left() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let bench = dev.cli(&["bench", "throughput", "--tasks=5000", "--rounds=100", "--no-floor"]);
    let (mut child, pid) = started(bench);
    let label = eventually("tasks are measured", async || {
        Some(measured_jobs(&dev).await.first()?["labels"]["gaffer-bench"].as_str()?.to_owned())
    })
    .await;
    // Nothing can be removed any more.
    kill(dev.pid(), Signal::SIGSTOP).unwrap();
    let status = eventually("it has gone", async || {
        kill(pid, Signal::SIGINT).unwrap();
        child.try_wait().unwrap()
    })
    .await;
    kill(dev.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(status.code(), Some(130));
    let done = child.wait_with_output().await.unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    let left = format!(
        "gaffer: left of this run: jobs with the label gaffer-bench={label}; list them with `gaffer jobs -l gaffer-bench={label}`\n"
    );
    assert!(told.ends_with(&left), "{told}");
    assert!(!measured_jobs(&dev).await.is_empty());
    // Nor does a run that was killed remove its directory.
    let scratch = data_dir();
    std::fs::create_dir_all(scratch.path().join("gaffer-bench-killed/postgres")).unwrap();
    std::fs::create_dir(scratch.path().join("other")).unwrap();
    let other = dev.client.submit(json!({"name": "bench of somebody", "script": "true"})).await;
    let cleaned = dev.cli(&["bench", "--clean", "--scratch-dir"]).arg(scratch.path()).output().await.unwrap();
    let said = String::from_utf8_lossy(&cleaned.stdout).into_owned();
    assert_eq!(cleaned.status.code(), Some(0), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert!(said.contains("/gaffer-bench-killed removed\n"), "{said}");
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    assert_eq!(dev.client.job(other).await.name, "bench of somebody");
    assert_eq!(entries(scratch.path()), ["other"]);
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
        (&["snapshot"], 2, "its own database"),
        (&["limits", "--history=1000000000", "--scratch-dir=/proc"], 2, "no room in /proc"),
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
    assert!(String::from_utf8_lossy(&done.stderr).ends_with(NOTHING_LEFT));
    assert_eq!(measured_jobs(&dev).await, Vec::<Value>::new());
    dev.interrupt().await;
    // Nobody can compare with a Docker that is not there.
    let scratch = data_dir();
    let mut no_docker = small(command(&["bench", "containers", "--history=0"]), scratch.path(), &[]);
    no_docker.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let done = no_docker.output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(125), "{said}");
    assert!(said.contains("✗ not measured: no Docker daemon at /nowhere/docker.sock"), "{said}");
    assert_eq!(entries(scratch.path()), Vec::<String>::new());
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
