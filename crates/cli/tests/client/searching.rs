//! `logs --grep`: what is asked, how it continues, and its exit codes.

use serde_json::{Value, json};

use crate::Outcome;
use crate::fake::{Asked, Fake, Reply, end, job};
use crate::process::{code, finished, gaffer, stderr, stdout};

fn found(task: &str, line: u64, end: u64, text: &str) -> Value {
    json!({"match": {
        "task": task, "attempt": 1, "line": line, "offset": 0, "end": end, "at": "2026-01-01T00:00:00Z",
        "stream": "stdout", "text": text, "matches": [[0, 1]],
    }})
}

fn searched(task: &str, found: u64, next: Option<&str>) -> Value {
    json!({"searched": {"task": task, "attempt": 1, "found": found, "searched_bytes": 9, "next_cursor": next}})
}

#[tokio::test]
async fn a_search_continues_where_the_server_or_the_connection_stopped() -> Outcome {
    let answer = |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1" => Reply::json(200, &job(1, "completed", 1)),
        "GET /jobs/1/output?q=x" => Reply::cut(&[found("main", 2, 10, "x one")]),
        "GET /jobs/1/output?q=x&attempt=1&offset=10" => Reply::lines(&[
            found("main", 2, 10, "x one"),
            found("main", 5, 20, "x two"),
            searched("main", 2, Some("c0.0.1.25")),
        ]),
        "GET /jobs/1/output?q=x&cursor=c0.0.1.25" => Reply::lines(&[
            found("main", 9, 30, "x three"),
            searched("main", 1, None),
            end("main", "completed", 1, json!({})),
        ]),
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "logs 1 --grep x")).await?;
    assert_eq!(
        (stdout(&output).as_str(), code(&output)),
        ("x one\nx two\nx three\n", 0),
        "{}",
        stderr(&output)
    );
    Ok(())
}

#[tokio::test]
async fn the_chosen_lines_stay_chosen_when_a_search_continues() -> Outcome {
    let answer = |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1" => Reply::json(200, &job(1, "completed", 1)),
        "GET /jobs/1/output?q=x&lines=5-9" => {
            Reply::lines(&[found("main", 5, 10, "x one"), searched("main", 1, Some("c0.0.1.25"))])
        }
        "GET /jobs/1/output?q=x&lines=5-9&cursor=c0.0.1.25" => Reply::lines(&[
            found("main", 9, 30, "x two"),
            searched("main", 1, None),
            end("main", "completed", 1, json!({})),
        ]),
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "logs 1 --grep x --lines 5-9")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("x one\nx two\n", 0), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_ends_what_it_follows_with_the_reason() -> Outcome {
    let problem = json!({
        "type": "about:blank", "title": "Unauthorized", "status": 401, "code": "key_revoked",
        "detail": "the key was revoked or has expired", "request_id": "",
    });
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1" => Reply::json(200, &job(1, "running", 1)),
        "GET /jobs/1/output?follow=1&q=x" => {
            Reply::cut(&[found("main", 2, 10, "x one"), json!({ "error": problem })])
        }
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "logs -f 1 --grep x")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("x one\n", 4), "{}", stderr(&output));
    assert!(stderr(&output).contains("the key was revoked or has expired"), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn lines_of_all_parts_and_tasks_are_counted_once() -> Outcome {
    let answer = |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1" => Reply::json(200, &job(1, "completed", 2)),
        "GET /jobs/1/output?q=x&count=1" => {
            Reply::cut(&[searched("main.0", 4, None), end("main.0", "completed", 1, json!({}))])
        }
        "GET /jobs/1/tasks?limit=500" => {
            let task = |address: &str| end(address, "completed", 1, json!({}))["end"].clone();
            Reply::json(200, &json!({"items": [task("main.0"), task("main.1")], "next_cursor": null}))
        }
        "GET /jobs/1/tasks/main.1/output?q=x&count=1" => {
            Reply::lines(&[searched("main.1", 20, Some("c0.1.1.9"))])
        }
        "GET /jobs/1/tasks/main.1/output?q=x&count=1&cursor=c0.1.1.9" => {
            Reply::lines(&[searched("main.1", 300, None), end("main.1", "completed", 1, json!({}))])
        }
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "logs 1 --grep x -c")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("324\n", 0), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn it_stops_when_it_has_enough_and_fails_when_there_is_nothing() -> Outcome {
    let answer = |asked: &Asked| match asked.line.as_str() {
        "GET /jobs/1" => Reply::json(200, &job(1, "running", 1)),
        "GET /jobs/1/output?follow=1&stream=stderr&q=%28%3Fi%29a%5C.b&limit=2&invert=1&lines_after=3" => {
            Reply::lines(&[
                found("main", 1, 2, "x"),
                found("main", 2, 4, "y"),
                searched("main", 2, Some("c0.0.1.4")),
            ])
        }
        "GET /jobs/1/output?q=z" => {
            Reply::lines(&[searched("main", 0, None), end("main", "running", 1, json!({}))])
        }
        other => Reply::problem(400, "unexpected", other, json!([])),
    };
    let fake = Fake::start(answer).await?;
    let output = finished(gaffer(&fake, "logs -f 1 --stream stderr --grep a.b -iFv -m 2 -A 3")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("x\ny\n", 0), "{}", stderr(&output));
    let output = finished(gaffer(&fake, "logs 1 --grep z")).await?;
    assert_eq!((stdout(&output).as_str(), code(&output)), ("", 1), "{}", stderr(&output));
    let output = finished(gaffer(&fake, "logs 1 --verify --grep z")).await?;
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    Ok(())
}
