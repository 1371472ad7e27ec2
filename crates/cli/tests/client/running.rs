//! `run`, `submit`, `logs` and `wait`: output, exit codes, lost connections, signals.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::Outcome;
use crate::fake::{Asked, Fake, Reply, end, job, text};
use crate::process::{bare, code, ended, finished, gaffer, stderr, stdout};

/// Accepts a job and answers its output with the given replies, one after the other, the last one again and again.
fn accepting(tasks: i64, outputs: Vec<fn() -> Reply>) -> impl Fn(&Asked) -> Reply + Send + Sync {
    let next = AtomicUsize::new(0);
    move |asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(1, "pending", tasks)),
        line if line.contains("/output") => {
            let at = next.fetch_add(1, Ordering::SeqCst).min(outputs.len() - 1);
            outputs[at]()
        }
        line if line.starts_with("GET /jobs/1?") || line == "GET /jobs/1" => {
            Reply::json(200, &job(1, "running", tasks))
        }
        line if line.ends_with("/stop") => Reply::json(202, &job(1, "stopping", tasks)),
        _ => Reply::problem(404, "not_found", "no such thing", json!([])),
    }
}

#[tokio::test]
async fn a_command_runs_as_if_it_ran_here() -> Outcome {
    let fake = Fake::start(accepting(1, vec![|| {
        let bytes = STANDARD.encode(b"\xff\x00\x1b]0;t\x07");
        Reply::lines(&[
            text("main", 1, 0, "stdout", "one\n"),
            text("main", 1, 4, "stderr", "two\n"),
            json!({"data": {"task": "main", "attempt": 1, "offset": 8, "at": "2026-01-01T00:00:02Z", "stream": "stdout", "base64": bytes}}),
            end("main", "failed", 1, json!({"reason": {"code": "exit_code", "message": "exited with code 3"}, "exit_code": 3})),
        ])
    }]))
    .await?;
    let output = finished(gaffer(&fake, "run --cpu 2 --env A=b -- prog -x")).await?;
    assert_eq!(output.stdout, b"one\n\xff\x00\x1b]0;t\x07");
    assert_eq!(stderr(&output), "two\n");
    assert_eq!(code(&output), 3);

    let asked = fake.asked();
    assert_eq!(fake.lines(), ["POST /jobs", "GET /jobs/1/output?follow=1"], "no needless requests");
    assert_eq!(
        asked[0].json(),
        json!({"command": ["prog", "-x"], "resources": {"cpu": "2"}, "env": {"A": "b"}})
    );
    assert_eq!(asked[0].header("authorization"), "Bearer secret-key");
    assert_eq!(asked[0].header("idempotency-key").len(), 36);
    assert_eq!(asked[1].header("accept"), "application/x-ndjson");
    Ok(())
}

#[tokio::test]
async fn each_end_has_its_exit_code() -> Outcome {
    type Case = (fn() -> Value, i32, &'static str);
    let ends: [Case; 7] = [
        (|| end("main", "completed", 1, json!({"exit_code": 0})), 0, ""),
        (
            || {
                end(
                    "main",
                    "failed",
                    1,
                    json!({"reason": {"code": "signal", "message": "killed by SIGKILL (9)"}, "signal": 9}),
                )
            },
            137,
            "killed by SIGKILL (9)",
        ),
        (
            || {
                end(
                    "main",
                    "failed",
                    1,
                    json!({"reason": {"code": "timeout", "message": "took too long"}, "signal": 15}),
                )
            },
            124,
            "took too long",
        ),
        (
            || end("main", "failed", 1, json!({"reason": {"code": "lost_worker", "message": "it is gone"}})),
            125,
            "it is gone",
        ),
        (
            || {
                end(
                    "main",
                    "failed",
                    1,
                    json!({"reason": {"code": "start_failed", "message": "no such program"}, "exit_code": 127}),
                )
            },
            127,
            "no such program",
        ),
        (
            || {
                end(
                    "main",
                    "cancelled",
                    1,
                    json!({"reason": {"code": "stopped", "message": "stopped by ana"}, "signal": 15}),
                )
            },
            143,
            "stopped by ana",
        ),
        (
            || {
                end(
                    "main",
                    "failed",
                    1,
                    json!({"reason": {"code": "exit_code", "message": "exited with code 77"}, "exit_code": 77}),
                )
            },
            77,
            "",
        ),
    ];
    for (ending, expected, told) in ends {
        let answer = move |asked: &Asked| match asked.line.as_str() {
            "POST /jobs" => Reply::json(201, &job(1, "pending", 1)),
            _ => Reply::lines(&[ending()]),
        };
        let fake = Fake::start(answer).await?;
        let output = finished(gaffer(&fake, "run -- x")).await?;
        assert_eq!(code(&output), expected);
        assert!(
            stderr(&output).contains(told) && stderr(&output).is_empty() == told.is_empty(),
            "{}",
            stderr(&output)
        );
        let quiet = finished(gaffer(&fake, "run -q -- x")).await?;
        assert_eq!((code(&quiet), stderr(&quiet).as_str()), (expected, ""));
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_connection_costs_no_byte_and_doubles_none() -> Outcome {
    let fake = Fake::start(accepting(
        1,
        vec![
            || Reply::problem(503, "unavailable", "the database is away", json!([])),
            || Reply::cut(&[text("main", 1, 0, "stdout", "0123"), text("main", 1, 4, "stderr", "45")]),
            // It may begin earlier than it was asked to.
            || {
                Reply::cut(&[
                    text("main", 1, 2, "stdout", "23"),
                    text("main", 1, 4, "stderr", "4567"),
                    text("main", 1, 8, "stdout", "8"),
                ])
            },
            // A regular end without the task's end is a server that goes down.
            || Reply::lines(&[]),
            || {
                Reply::lines(&[
                    text("main", 1, 9, "stdout", "9\n"),
                    end("main", "completed", 1, json!({"exit_code": 0})),
                ])
            },
        ],
    ))
    .await?;
    let output = finished(gaffer(&fake, "run -- x")).await?;
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), "012389\n");
    let errors = stderr(&output);
    let own: Vec<_> = errors.lines().filter(|line| line.contains("job 1 continues")).collect();
    assert_eq!(own.len(), 3, "one line for each trouble, of which the last comes twice: {errors}");
    let of_job: String =
        errors.split_inclusive('\n').map(|line| line.split("gaffer: ").next().unwrap_or(line)).collect();
    assert_eq!(of_job, "4567");
    assert_eq!(
        fake.lines()[1..],
        [
            "GET /jobs/1/output?follow=1",
            "GET /jobs/1/output?follow=1",
            "GET /jobs/1/output?follow=1&attempt=1&offset=6",
            "GET /jobs/1/output?follow=1&attempt=1&offset=9",
            "GET /jobs/1/output?follow=1&attempt=1&offset=9",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_repeated_task_is_followed_into_its_next_attempt() -> Outcome {
    let fake = Fake::start(accepting(
        1,
        vec![
            || Reply::cut(&[text("main", 1, 0, "stdout", "first ")]),
            // Asked for from attempt 1 on, the API gives that attempt alone.
            || Reply::lines(&[text("main", 1, 6, "stdout", "try\n"), end("main", "running", 3, json!({}))]),
            || Reply::lines(&[end("main", "running", 3, json!({}))]),
            || {
                Reply::lines(&[
                    text("main", 3, 0, "stdout", "third try\n"),
                    end("main", "completed", 3, json!({})),
                ])
            },
        ],
    ))
    .await?;
    let output = finished(gaffer(&fake, "run --retries 3 -- x")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "first try\nthird try\n"));
    assert_eq!(
        fake.lines()[2..],
        [
            "GET /jobs/1/output?follow=1&attempt=1&offset=6",
            "GET /jobs/1/output?follow=1&attempt=2&offset=0",
            "GET /jobs/1/output?follow=1&attempt=3&offset=0",
        ]
    );
    Ok(())
}

#[tokio::test]
async fn a_job_of_several_tasks_is_resumed_task_by_task() -> Outcome {
    let answer = |asked: &Asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(1, "pending", 3)),
        "GET /jobs/1/output?follow=1" => Reply::cut(&[
            text("main.0", 1, 0, "stdout", "a\n"),
            end("main.0", "completed", 1, json!({})),
            text("main.1", 1, 0, "stdout", "b"),
        ]),
        "GET /jobs/1/tasks?limit=500" => {
            let task = |address: &str| end(address, "running", 1, json!({}))["end"].clone();
            Reply::json(200, &json!({"items": [task("main.0"), task("main.1")], "next_cursor": "c0.1"}))
        }
        "GET /jobs/1/tasks?limit=500&cursor=c0.1" => {
            let task = end("main.2", "running", 1, json!({}))["end"].clone();
            Reply::json(200, &json!({"items": [task], "next_cursor": null}))
        }
        "GET /jobs/1/tasks/main.1/output?follow=1&attempt=1&offset=1" => Reply::lines(&[
            text("main.1", 1, 1, "stdout", "b\n"),
            end(
                "main.1",
                "failed",
                1,
                json!({"reason": {"code": "exit_code", "message": ""}, "exit_code": 9}),
            ),
        ]),
        "GET /jobs/1/tasks/main.2/output?follow=1" => {
            Reply::lines(&[text("main.2", 1, 0, "stdout", "c\n"), end("main.2", "completed", 1, json!({}))])
        }
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "run --count 3 -- x")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("a\nbb\nc\n", 9), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn a_job_is_submitted_once_however_often_it_is_sent() -> Outcome {
    let tries = AtomicUsize::new(0);
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "POST /jobs" if tries.fetch_add(1, Ordering::SeqCst) < 2 => {
            Reply::problem(503, "unavailable", "the database is away", json!([]))
        }
        _ => Reply::json(200, &job(42, "pending", 1)),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "submit -- x")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "42\n"));
    assert_eq!(stderr(&output).matches("retrying").count(), 1, "{}", stderr(&output));
    let keys: Vec<_> = fake.asked().iter().map(|asked| asked.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys.len(), 3);
    assert!(!keys[0].is_empty() && keys.iter().all(|key| *key == keys[0]));

    let other = finished(gaffer(&fake, "submit -- x")).await?;
    assert_eq!(code(&other), 0);
    assert_ne!(fake.asked()[3].header("idempotency-key"), keys[0]);
    Ok(())
}

#[tokio::test]
async fn when_nobody_is_there_it_says_so_in_time() -> Outcome {
    let fake = Fake::start(|_| Reply::json(200, &json!({}))).await?;
    // A port that was free a moment ago and that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    drop(listener);
    for (arguments, expected) in [("run -- x", 125), ("wait 1", 125), ("jobs", 1), ("submit -- x", 1)] {
        let mut command = gaffer(&fake, arguments);
        command.env("GAFFER_URL", &url).env("GAFFER_RETRY_FOR", "0s");
        let output = finished(command).await?;
        assert_eq!(code(&output), expected, "{arguments}");
        assert!(stderr(&output).contains(&format!("cannot reach {url}: ")), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    Ok(())
}

#[tokio::test]
async fn a_closed_pipe_ends_quietly_and_stops_what_runs_for_it() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(1, "pending", 1)),
        "GET /jobs/1" => Reply::json(200, &job(1, "completed", 1)),
        "POST /jobs/1/stop" => Reply::json(202, &job(1, "stopping", 1)),
        _ => {
            let line = "y".repeat(1023) + "\n";
            let lines: Vec<_> = (0..4096).map(|at| text("main", 1, at * 1024, "stdout", &line)).collect();
            Reply::lines(&lines)
        }
    })
    .await?;
    for (arguments, stops) in [("logs 1", false), ("run -- yes", true)] {
        let mut child = gaffer(&fake, arguments).spawn()?;
        let mut pipe = child.stdout.take().ok_or("no pipe")?;
        let mut first = [0; 100];
        pipe.read_exact(&mut first).await?;
        assert_eq!(first, [b'y'; 100]);
        drop(pipe);
        let output = ended(child).await?;
        assert_eq!((code(&output), stderr(&output).as_str()), (141, ""), "{arguments}");
        assert_eq!(fake.lines().contains(&"POST /jobs/1/stop".to_owned()), stops, "{arguments}");
    }

    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = gaffer(&fake, "completion bash");
    command.stdout(writer);
    let output = ended(command.spawn()?).await?;
    assert_eq!((code(&output), stderr(&output).as_str()), (141, ""));
    Ok(())
}

/// A job that writes a line and then waits for `go`; a task list with it running.
fn attached(go: watch::Receiver<bool>, ending: Value) -> impl Fn(&Asked) -> Reply + Send + Sync {
    move |asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(1, "pending", 1)),
        "GET /jobs/1/tasks?state=running&limit=500" => {
            let task = end("main", "running", 1, json!({}))["end"].clone();
            Reply::json(200, &json!({"items": [task], "next_cursor": null}))
        }
        "POST /jobs/1/tasks/main/signal" => Reply::text(202, "application/json", ""),
        "POST /jobs/1/stop" => Reply::json(202, &job(1, "stopping", 1)),
        line if line.ends_with("/explain") => {
            Reply::json(200, &json!({"job": 1, "message": "", "waiting": []}))
        }
        _ => Reply::lines_when(
            &[text("main", 1, 0, "stdout", "up\n")],
            go.clone(),
            std::slice::from_ref(&ending),
        ),
    }
}

#[tokio::test]
async fn signals_reach_the_job_one_step_at_a_time() -> Outcome {
    let (go, waiting) = watch::channel(false);
    let stopped =
        end("main", "cancelled", 1, json!({"reason": {"code": "stopped", "message": "stopped by ana"}}));
    let fake = Fake::start(attached(waiting, stopped)).await?;
    let child = gaffer(&fake, "run -- server").spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("no process")?)?);
    fake.until_asked("GET /jobs/1/output").await;
    kill(pid, Signal::SIGINT)?;
    fake.until_asked("POST /jobs/1/tasks/main/signal").await;
    assert!(!fake.lines().contains(&"POST /jobs/1/stop".to_owned()));
    kill(pid, Signal::SIGINT)?;
    fake.until_asked("POST /jobs/1/stop").await;
    go.send(true)?;
    let output = ended(child).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (143, "up\n"));
    let signal = fake.asked().into_iter().find(|asked| asked.line.ends_with("/signal"));
    assert_eq!(signal.map(|asked| asked.json()), Some(json!({"signal": "SIGINT"})));
    Ok(())
}

#[tokio::test]
async fn a_third_interrupt_or_a_hangup_leaves_the_job_running() -> Outcome {
    let (_go, waiting) = watch::channel(false);
    let fake = Fake::start(attached(waiting, json!({}))).await?;
    let mut child = gaffer(&fake, "run -- server").spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("no process")?)?);
    let mut pipe = child.stdout.take().ok_or("no pipe")?;
    pipe.read_exact(&mut [0; 3]).await?;
    kill(pid, Signal::SIGHUP)?;
    let output = ended(child).await?;
    assert_eq!(code(&output), 129);
    assert!(stderr(&output).contains("gaffer logs -f 1"), "{}", stderr(&output));
    assert!(!fake.lines().iter().any(|line| line.ends_with("/stop")));

    let mut child = gaffer(&fake, "run -- server").spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("no process")?)?);
    let mut pipe = child.stdout.take().ok_or("no pipe")?;
    pipe.read_exact(&mut [0; 3]).await?;
    for step in ["POST /jobs/1/tasks/main/signal", "POST /jobs/1/stop"] {
        kill(pid, Signal::SIGINT)?;
        fake.until_asked(step).await;
    }
    kill(pid, Signal::SIGINT)?;
    assert_eq!(code(&ended(child).await?), 130);
    Ok(())
}

#[tokio::test]
async fn a_term_stops_the_job() -> Outcome {
    let (go, waiting) = watch::channel(false);
    let stopped =
        end("main", "cancelled", 1, json!({"reason": {"code": "stopped", "message": "stopped by ana"}}));
    let fake = Fake::start(attached(waiting, stopped)).await?;
    let child = gaffer(&fake, "run -- server").spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("no process")?)?);
    fake.until_asked("GET /jobs/1/output").await;
    kill(pid, Signal::SIGTERM)?;
    fake.until_asked("POST /jobs/1/stop").await;
    go.send(true)?;
    assert_eq!(code(&ended(child).await?), 143);
    Ok(())
}

#[tokio::test]
async fn waiting_asks_until_it_is_over() -> Outcome {
    let asked_first = AtomicUsize::new(0);
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1?wait=60s&until=final" => match asked_first.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::json(200, &job(1, "running", 2)),
            1 => Reply::problem(503, "unavailable", "the database is away", json!([])),
            _ => Reply::json(200, &job(1, "failed", 2)),
        },
        "GET /jobs/2?wait=60s&until=final" => Reply::json(200, &job(2, "completed", 1)),
        "GET /jobs/1/tasks?limit=500&state=failed" => {
            let failed = |at: &str, code: i32| {
                let more = json!({"reason": {"code": "exit_code", "message": "exited"}, "exit_code": code, "finished_at": at});
                end("main.0", "failed", 1, more)["end"].clone()
            };
            let items = [failed("2026-01-01T00:00:09Z", 200), failed("2026-01-01T00:00:05Z", 7)];
            Reply::json(200, &json!({"items": items, "next_cursor": null}))
        }
        line if line.contains("/tasks") => Reply::json(200, &json!({"items": [], "next_cursor": null})),
        _ => Reply::problem(404, "not_found", "no such job", json!([])),
    };
    let fake = Fake::start(answer).await?;
    assert_eq!(code(&finished(gaffer(&fake, "wait 2 1")).await?), 7);
    assert_eq!(
        code(&finished(gaffer(&fake, "wait 2-5")).await?),
        0,
        "of a range, what is not there does not count"
    );
    assert_eq!(code(&finished(gaffer(&fake, "wait 5")).await?), 3);
    Ok(())
}

#[tokio::test]
async fn waiting_has_a_limit() -> Outcome {
    let (_go, waiting) = watch::channel(false);
    let fake = Fake::start(move |_| Reply::lines_when(&[], waiting.clone(), &[])).await?;
    let output = finished(gaffer(&fake, "wait 1 --timeout 50ms")).await?;
    assert_eq!(code(&output), 124);
    assert!(stderr(&output).contains("not finished after 50ms"), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn logs_are_both_streams_on_standard_output() -> Outcome {
    let fake = Fake::start(accepting(
        1,
        vec![|| {
            Reply::lines(&[
                text("main", 2, 0, "stdout", "one\n"),
                text("main", 2, 4, "stderr", "tw"),
                text("main", 2, 6, "stderr", "o\nthree"),
                end("main", "running", 2, json!({})),
            ])
        }],
    ))
    .await?;
    let output = finished(gaffer(&fake, "logs 1")).await?;
    assert_eq!(
        (code(&output), stdout(&output).as_str(), stderr(&output).as_str()),
        (0, "one\ntwo\nthree", "")
    );
    let output = finished(gaffer(&fake, "logs 1 -t")).await?;
    let at = "2026-01-01T00:00:02Z";
    assert_eq!(stdout(&output), format!("{at} one\n{at} two\n{at} three"));
    finished(gaffer(&fake, "logs 1.train.7 --attempt 2 --tail 5 --stream stderr")).await?;
    finished(gaffer(&fake, "logs 1 --task build --lines 3-9")).await?;
    let lines = fake.lines();
    assert!(
        lines.contains(&"GET /jobs/1/tasks/train.7/output?stream=stderr&attempt=2&tail=5".to_owned()),
        "{lines:?}"
    );
    assert!(lines.contains(&"GET /jobs/1/tasks/build/output?lines=3-9".to_owned()), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn output_that_nobody_takes_does_not_keep_the_command_from_signals() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(1, "pending", 1)),
        _ => {
            let line = "y".repeat(64 << 10);
            let lines: Vec<_> = (0..64).map(|at| text("main", 1, at * (64 << 10), "stdout", &line)).collect();
            Reply::lines(&lines)
        }
    })
    .await?;
    let mut command = gaffer(&fake, "run -- yes");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id().ok_or("no process")?)?);
    // Some has arrived, so the pipe is about to be full; the rest is never read.
    let mut pipe = child.stdout.take().ok_or("no pipe")?;
    pipe.read_exact(&mut [0; 10]).await?;
    kill(pid, Signal::SIGHUP)?;
    assert_eq!(code(&ended(child).await?), 129);
    Ok(())
}

#[tokio::test]
async fn nothing_is_guessed_without_an_address() -> Outcome {
    let output = finished(bare("jobs")).await?;
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("GAFFER_URL"), "{}", stderr(&output));
    Ok(())
}
