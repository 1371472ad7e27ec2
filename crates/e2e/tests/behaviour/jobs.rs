//! Jobs on a real worker: real processes, their output, their ends.

use std::path::Path;

use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::{client::script, eventually};
use serde_json::{Value, json};

struct Lab {
    dev: Dev,
    dir: tempfile::TempDir,
}

async fn lab() -> Lab {
    let dir = data_dir();
    Lab { dev: Dev::start(dir.path()).await, dir }
}

async fn run(lab: &Lab, spec: Value) -> (gaffer_protocol::rest::Job, String) {
    let job = lab.dev.client.submit(spec).await;
    let done = lab.dev.client.finished(job).await;
    (done, String::from_utf8(lab.dev.client.output(job).await).unwrap())
}

#[tokio::test]
async fn every_end_has_its_cause() {
    let lab = lab().await;
    let cases = [
        (script("exit 0"), "completed", None),
        (script("exit 3"), "failed", Some(("exit_code", "exited with code 3"))),
        (script("kill -SEGV $$"), "failed", Some(("signal", "killed by SIGSEGV (11)"))),
        (json!({"command": ["no-such-program"]}), "failed", Some(("start_failed", "no-such-program"))),
        (
            json!({"script": "sleep 60", "timeout": "200ms", "stop": {"grace": "1s"}}),
            "failed",
            Some(("timeout", "ran longer than its timeout of 200ms")),
        ),
        (
            json!({"script": "trap '' TERM; while :; do sleep 0.1; done", "timeout": "200ms", "stop": {"grace": "300ms"}}),
            "failed",
            Some(("timeout", "ran longer")),
        ),
    ];
    for (spec, state, cause) in cases {
        let (job, _) = run(&lab, spec.clone()).await;
        assert_eq!(job.state, state, "{spec}: {job:?}");
        match cause {
            None => assert_eq!(job.reason, None),
            Some((code, message)) => {
                let reason = job.reason.unwrap();
                assert_eq!(reason.code.as_str(), code, "{spec}");
                assert!(reason.message.contains(message), "{spec}: {}", reason.message);
            }
        }
    }
}

#[tokio::test]
async fn a_job_finds_its_environment_and_nothing_of_the_workers() {
    let lab = lab().await;
    let spec = json!({
        "tasks": [{"name": "show", "script": "env; pwd; ls -A; test -t 0 || echo no terminal; cat; echo end", "env": {"MODE": "full"}, "array": "5-5"}]
    });
    let (job, text) = run(&lab, spec).await;
    let line =
        |wanted: &str| assert!(text.lines().any(|line| line == wanted), "{wanted} is missing in:\n{text}");
    line(&format!("GAFFER_JOB_ID={}", job.id));
    line("GAFFER_TASK=show");
    line("GAFFER_TASK_INDEX=5");
    line("GAFFER_ATTEMPT=1");
    line("MODE=full");
    line("no terminal");
    line("end");
    assert!(text.contains("GAFFER_WORKER="), "{text}");
    for secret in ["API_KEY", "gfw_", "gfu_", "GAFFER_DATA_DIR", "MASTER_URL", "DATABASE_URL", "GAFFER_KEY"] {
        assert!(!text.contains(secret), "{secret} shows in:\n{text}");
    }
}

#[tokio::test]
async fn the_scratch_directory_is_private_and_gone_afterwards() {
    let lab = lab().await;
    let (_, text) =
        run(&lab, script("mkdir -p a/b && echo x > a/b/c && chmod 500 a/b a && stat -c %a . && pwd")).await;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("700"), "{text}");
    let scratch = Path::new(lines.next().unwrap());
    assert!(scratch.starts_with(lab.dir.path()));
    eventually("the scratch directory is gone", async || (!scratch.exists()).then_some(())).await;
}

#[tokio::test]
async fn stopping_ends_everything_that_the_job_started() {
    let lab = lab().await;
    let marker = format!("3{}", std::process::id());
    let text = format!(
        "sleep {marker} & setsid sleep {marker} & (setsid sh -c 'trap \"\" TERM; sleep {marker}; sleep {marker}' &) ; echo up; wait; sleep {marker}"
    );
    let job = lab.dev.client.submit(json!({"script": text, "stop": {"grace": "500ms"}})).await;
    eventually("the job is up", async || (lab.dev.client.output(job).await == b"up\n").then_some(())).await;
    eventually("all of it is up", async || (processes_with(&marker) >= 3).then_some(())).await;
    let stopped = lab.dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(stopped.status, 202);
    let done = lab.dev.client.finished(job).await;
    assert_eq!(
        (done.state.as_str(), done.reason.unwrap().message.as_str()),
        ("cancelled", "stopped by admin")
    );
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn a_background_process_that_keeps_the_pipes_does_not_keep_the_job() {
    let lab = lab().await;
    let marker = format!("4{}", std::process::id());
    let (job, text) = run(&lab, script(&format!("(setsid sleep {marker} &); echo done"))).await;
    assert_eq!((job.state.as_str(), text.as_str()), ("completed", "done\n"));
    eventually("the leftover is gone", async || (processes_with(&marker) == 0).then_some(())).await;
}

/// How many processes have this word as an argument.
fn processes_with(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
        .count()
}

#[tokio::test]
async fn a_failing_task_is_tried_again_as_its_policy_says() {
    let lab = lab().await;
    let go = lab.dir.path().join("go");
    let text = format!(
        "echo try $GAFFER_ATTEMPT; while ! [ -e {} ]; do sleep 0.02; done; test $GAFFER_ATTEMPT -ge 3",
        go.display()
    );
    let restart = json!({"policy": "on-failure", "limit": 5, "delay": "10ms"});
    let job = lab.dev.client.submit(json!({"script": text, "restart": restart})).await;
    let has_begun = async || (lab.dev.client.output(job).await == b"try 1\n").then_some(());
    eventually("the first attempt runs", has_begun).await;
    // Following continues with the next attempt.
    let followed = lab.dev.client.open(&format!("/jobs/{job}/output?follow=1"), "text/plain").await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(followed.text().await.unwrap(), "try 1\ntry 2\ntry 3\n");
    assert_eq!(lab.dev.client.job(job).await.state, "completed");
    let detail = lab.dev.client.get(&format!("/jobs/{job}/tasks/main")).await;
    assert_eq!(detail.body["attempts"].as_array().unwrap().len(), 3);
    let first = lab.dev.client.get(&format!("/jobs/{job}/output?attempt=1")).await;
    assert_eq!(first.text, "try 1\n");
}

#[tokio::test]
async fn output_can_be_asked_for_by_line_by_byte_by_stream_and_from_its_end() {
    let lab = lab().await;
    // Of two streams, what was read first comes first.
    let go = lab.dir.path().join("go");
    let text = format!(
        "echo first >&2; while ! [ -e {} ]; do sleep 0.02; done; \
         i=2; while [ $i -le 2000 ]; do echo line $i; i=$((i+1)); done; printf 'no end'",
        go.display()
    );
    let job = lab.dev.client.submit(script(&text)).await;
    let has_begun = async || (lab.dev.client.output(job).await == b"first\n").then_some(());
    eventually("the first line is there", has_begun).await;
    std::fs::write(&go, "").unwrap();
    lab.dev.client.finished(job).await;
    let all = String::from_utf8(lab.dev.client.output(job).await).unwrap();
    let get = async |query: &str| lab.dev.client.get(&format!("/jobs/{job}/output?{query}")).await.text;
    assert_eq!(get("lines=1-2").await, "first\nline 2\n");
    assert_eq!(get("lines=1999-5000").await, "line 1999\nline 2000\nno end");
    assert_eq!(get("lines=777").await, "line 777\n");
    assert_eq!(get("tail=1").await, "no end");
    assert_eq!(get("tail=2").await, "line 2000\nno end");
    assert_eq!(get("tail=100000").await, all);
    assert_eq!(get("tail=0").await, "");
    assert_eq!(get("stream=stderr").await, "first\n");
    assert_eq!(get(&format!("offset={}", all.len() - 3)).await, "end");
    let range = async |value: &str| {
        let request = lab.dev.client.request(reqwest::Method::GET, &format!("/jobs/{job}/output"));
        let response = request.header("range", value).send().await.unwrap();
        let described = response.headers()["content-range"].to_str().unwrap().to_owned();
        (response.status().as_u16(), described, response.text().await.unwrap())
    };
    let total = all.len();
    assert_eq!(range("bytes=5-8").await, (206, format!("bytes 5-8/{total}"), all[5..9].to_owned()));
    assert_eq!(range("bytes=-6").await.2, "no end");
    assert_eq!(range(&format!("bytes={}-", total - 1)).await.2, "d");
}

#[tokio::test]
async fn several_tasks_of_a_job_run_in_the_order_of_their_dependencies() {
    let lab = lab().await;
    let spec = json!({"name": "chain", "tasks": [
        {"name": "first", "script": "echo one"},
        {"name": "second", "array": "1-3", "script": "echo two $GAFFER_TASK_INDEX", "depends_on": ["first"]},
        {"name": "third", "script": "echo three", "depends_on": ["second"]}
    ]});
    let (job, text) = run(&lab, spec).await;
    assert_eq!(job.state, "completed");
    assert_eq!(text, "one\ntwo 1\ntwo 2\ntwo 3\nthree\n");
    let one = lab.dev.client.get(&format!("/jobs/{}/tasks/second.2/output", job.id)).await;
    assert_eq!(one.text, "two 2\n");
}

#[tokio::test]
async fn who_follows_a_job_of_many_tasks_is_told_all_output_and_each_end_once_and_in_order() {
    const TASKS: usize = 120;
    let lab = lab().await;
    // Most write nothing, some a line, and some write it in the second attempt as well.
    let text = "case $((GAFFER_TASK_INDEX % 10)) in 0) sleep 0.02;; 3) echo $GAFFER_TASK_INDEX;; \
         7) echo $GAFFER_TASK_INDEX try $GAFFER_ATTEMPT; test $GAFFER_ATTEMPT = 2;; esac";
    let spec = json!({
        "script": text,
        "array": format!("0-{}", TASKS - 1),
        "restart": {"policy": "on-failure", "limit": 1, "delay": "0s"},
    });
    let job = lab.dev.client.submit(spec).await;
    let followed = lab.dev.client.open(&format!("/jobs/{job}/output?follow=1"), "application/x-ndjson").await;
    let followed = followed.text().await.unwrap();
    let after = lab.dev.client.open(&format!("/jobs/{job}/output"), "application/x-ndjson").await;
    for told in [followed, after.text().await.unwrap()] {
        let (mut ends, mut texts) = (Vec::new(), Vec::new());
        for line in told.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            match line.get("end") {
                Some(end) => {
                    assert_eq!(end["state"], "completed", "{end}");
                    ends.push(end["address"].as_str().unwrap().to_owned());
                }
                None => texts.push((ends.len(), line["data"]["text"].as_str().unwrap().to_owned())),
            }
        }
        let all: Vec<_> = (0..TASKS).map(|index| format!("main.{index}")).collect();
        assert_eq!(ends, all);
        let is_last = |text: &&(usize, String)| !text.1.ends_with("try 1\n");
        let last: Vec<_> = texts.iter().filter(is_last).cloned().collect();
        let expected = (0..TASKS).filter_map(|index| match index % 10 {
            3 => Some((index, format!("{index}\n"))),
            7 => Some((index, format!("{index} try 2\n"))),
            _ => None,
        });
        assert_eq!(last, expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn the_specification_of_a_job_is_in_each_answer_about_it_however_large_it_is() {
    let lab = lab().await;
    for kilobytes in [1, 14] {
        // Text that does not get smaller when it is compressed.
        let digits = (0..kilobytes * 1_000u64).map(|at| format!("{:x}", at.wrapping_mul(at) ^ (at << 7)));
        let data: String = digits.collect();
        let spec = json!({"name": "n", "command": ["true"], "env": {"DATA": data}});
        let accepted = lab.dev.client.post("/jobs", &spec).await;
        assert_eq!(accepted.status, 201, "{}", accepted.text);
        let job = accepted.body["id"].as_u64().unwrap();
        let waited = lab.dev.client.get(&format!("/jobs/{job}?wait=10s")).await;
        let listed = lab.dev.client.get("/jobs?spec=1&limit=1").await;
        for answer in [&accepted.body, &waited.body, &listed.body["items"][0]] {
            assert_eq!(answer["spec"]["tasks"][0]["env"]["DATA"], data.as_str(), "{kilobytes} kB");
        }
    }
}
