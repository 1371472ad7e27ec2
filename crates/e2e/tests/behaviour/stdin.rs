//! Standard input of tasks: through the command line and the API to the process, byte for byte.

use std::process::Stdio;

use gaffer_e2e::client::{Answer, Client};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, agent, data_dir};
use nix::sys::signal::{Signal, kill};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const WRITER: &str = "11111111-1111-4111-8111-111111111111";
const OTHER: &str = "22222222-2222-4222-8222-222222222222";

/// Bytes of every kind, in no order that anything could get right by accident.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs a command with this at its standard input; gives its exit code and both its streams.
async fn run_with(mut command: Command, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let write = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let done = child.wait_with_output().await.unwrap();
    write.abort();
    (done.status.code(), done.stdout, String::from_utf8(done.stderr).unwrap())
}

async fn write(client: &Client, job: i64, query: &str, body: &[u8]) -> Answer {
    let request = client.request(Method::POST, &format!("/jobs/{job}/tasks/main/stdin?{query}"));
    let response = request.body(body.to_vec()).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or_default(), text }
}

/// The same until it is more than an invitation to try again.
async fn write_patiently(client: &Client, job: i64, query: &str, body: &[u8]) -> Answer {
    eventually("the input is taken", async || {
        let answer = write(client, job, query, body).await;
        (answer.body["state"] != "waiting").then_some(answer)
    })
    .await
}

#[tokio::test]
async fn run_passes_on_every_byte_of_its_input_and_the_end() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    for length in [0, 1, 64 << 10, 1_500_000] {
        let input = bytes(length);
        let (code, output, stderr) = run_with(dev.cli(&["run", "-i", "--", "cat"]), &input).await;
        assert!(output == input, "{length} bytes went in, {} came out: {stderr}", output.len());
        assert_eq!(code, Some(0), "{stderr}");
    }
    // A process that reads no more is not waited for.
    let (code, output, _) =
        run_with(dev.cli(&["run", "-i", "--", "head", "-c", "3"]), &b"abc".repeat(1_000_000)).await;
    assert_eq!((code, output), (Some(0), b"abc".to_vec()));
    let (code, output, _) =
        run_with(dev.cli(&["run", "-i", "--", "sh", "-c", "exit 4"]), &bytes(300_000)).await;
    assert_eq!((code, output), (Some(4), Vec::new()));
}

#[tokio::test]
async fn run_says_when_it_does_not_pass_on_what_is_piped_in() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let advice = "gaffer: standard input is not passed to the command; use `gaffer run -i`\n";
    let (code, output, stderr) = run_with(dev.cli(&["run", "--", "cat"]), b"hello\n").await;
    assert_eq!((code, output, stderr.as_str()), (Some(0), Vec::new(), advice));
    let (_, _, stderr) = run_with(dev.cli(&["run", "--", "true"]), b"").await;
    assert_eq!(stderr, "", "nothing is missing");
    let (_, _, stderr) = run_with(dev.cli(&["run", "-q", "--", "true"]), b"hello\n").await;
    assert_eq!(stderr, "");
    let (code, output, stderr) = run_with(dev.cli(&["run", "--script", "-"]), b"echo from a script").await;
    assert_eq!((code, output, stderr.as_str()), (Some(0), b"from a script\n".to_vec(), ""));

    // What a loop reads from is not taken away by what it runs.
    let program = gaffer_e2e::gaffer::program().display().to_string();
    let text = format!("while read line; do {program} run -- echo $line; done");
    let mut shell = dev.cli(&[]);
    let mut looped = Command::new("sh");
    looped.arg("-c").arg(text).kill_on_drop(true);
    looped.envs(shell.as_std_mut().get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (_, output, _) = run_with(looped, b"one\ntwo\n").await;
    assert_eq!(String::from_utf8(output).unwrap(), "one\ntwo\n");
}

#[tokio::test]
async fn input_goes_on_where_it_was_when_a_link_dies() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let dev = Dev::start_with(dir.path(), &[("GAFFER_WORKER_NAME", "own")]).await;
    dev.client.post("/workers/own/drain", &json!({})).await;
    let worker = dev.add_worker("w", worker_dir.path()).await;
    let go = dir.path().join("go");
    let script = format!(
        "head -c 100000 | sha256sum; while ! [ -e {} ]; do sleep 0.02; done; sha256sum",
        go.display()
    );
    let input = bytes(700_000);
    let mut child = dev
        .cli(&["run", "-i", "--name", "cut", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let (mut stdin, written) = (child.stdin.take().unwrap(), input.clone());
    tokio::spawn(async move { stdin.write_all(&written).await });
    let job = eventually("the first part was read", async || {
        let job = dev.client.get("/jobs?name=cut").await.body["items"][0]["id"].as_i64()?;
        (!dev.client.output(job).await.is_empty()).then_some(job)
    })
    .await;
    let old = agent(worker.pid()).unwrap();
    kill(old, Signal::SIGKILL).unwrap();
    eventually("another agent", async || agent(worker.pid()).filter(|now| *now != old)).await;
    std::fs::write(&go, "").unwrap();
    let done = child.wait_with_output().await.unwrap();
    let expected = async |part: &[u8]| {
        let mut sum = Command::new("sha256sum");
        String::from_utf8(
            run_with(
                {
                    sum.kill_on_drop(true);
                    sum
                },
                part,
            )
            .await
            .1,
        )
        .unwrap()
    };
    let all = format!("{}{}", expected(&input[..100_000]).await, expected(&input[100_000..]).await);
    assert_eq!(String::from_utf8(done.stdout).unwrap(), all, "job {job}");
}

#[tokio::test]
async fn one_writer_writes_each_byte_once() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(json!({"command": ["cat"], "stdin": true})).await;
    let open = async |query: &str, body: &[u8]| {
        let answer = write_patiently(&dev.client, job, &format!("writer={WRITER}&{query}"), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        (answer.body["offset"].as_u64().unwrap(), answer.body["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(open("offset=0", b"hello ").await, (6, "open".to_owned()));
    assert_eq!(open("offset=0", b"hello ").await, (6, "open".to_owned()), "an answer that was lost");
    assert_eq!(open("offset=2", b"llo wor").await, (9, "open".to_owned()), "an overlap");
    assert_eq!(open("offset=20", b"x").await, (9, "open".to_owned()), "a gap is told");
    assert_eq!(open("offset=9", b"").await, (9, "open".to_owned()), "a sign of life");
    let other = write(&dev.client, job, &format!("writer={OTHER}&offset=9"), b"!").await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.text);
    assert!(other.text.contains("another writer"), "{}", other.text);
    for (query, body) in [("offset=9", vec![0]), ("writer=me", vec![0])] {
        let answer = write(&dev.client, job, query, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
    }
    let large = write(&dev.client, job, &format!("writer={WRITER}&offset=9"), &vec![0; (64 << 10) + 1]).await;
    assert!(large.status.is_client_error(), "{}", large.text);
    assert_eq!(open("offset=9&last=true", b"ld").await, (11, "closed".to_owned()));
    dev.client.finished(job).await;
    assert_eq!(dev.client.output(job).await, b"hello world");
    let late = write(&dev.client, job, &format!("writer={WRITER}&offset=11"), b"!").await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.text);

    // A task of a job that asked for none reads an empty input.
    let job = dev.client.submit(json!({"script": "cat; sleep 1000"})).await;
    dev.client.in_state(job, "running").await;
    let answer = write_patiently(&dev.client, job, &format!("writer={WRITER}"), b"x").await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.text.contains("no standard input"), "{}", answer.text);
}

#[tokio::test]
async fn a_process_that_does_not_read_holds_up_nobody() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let resources = json!({"cpu": 0.01});
    let spec = json!({"command": ["sleep", "1000"], "stdin": true, "count": 20, "resources": resources});
    let job = dev.client.submit(spec).await;
    eventually("all of them run", async || {
        (dev.client.job(job).await.task_counts.get("running") == Some(&20)).then_some(())
    })
    .await;
    // More than a pipe holds, for more tasks than a worker is sent input for at once.
    let writers = (0..20).map(|index| {
        let client = dev.client.clone();
        tokio::spawn(async move {
            let mut offset = 0;
            for _ in 0..3 {
                let path = format!("/jobs/{job}/tasks/main.{index}/stdin?writer={WRITER}&offset={offset}");
                let request = client.request(Method::POST, &path).body(vec![7; 64 << 10]);
                let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
                offset = answer["offset"].as_u64().unwrap_or(offset);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let short = dev.client.submit(json!({"command": ["echo", "hi"], "resources": {"cpu": 0.01}})).await;
    let done = dev.client.finished(short).await;
    assert_eq!(done.state.as_str(), "completed");
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(dev.client.finished(job).await.state.as_str(), "cancelled");
    writers.iter().for_each(|writer| writer.abort());
    eventually("the worker is well", async || {
        (dev.client.get("/workers").await.body["items"][0]["state"] == "online").then_some(())
    })
    .await;
}
