//! Listings, actions, keys, logins, and what is said when the API refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::Outcome;
use crate::fake::{Asked, Fake, Reply, job};
use crate::process::{bare, code, ended, finished, gaffer, stderr, stdout};

#[tokio::test]
async fn a_refusal_has_its_words_and_its_exit_code() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "POST /jobs/1/stop" => {
            Reply::problem(409, "conflict", "job 1 has already ended: completed", json!([]))
        }
        "POST /jobs/2/stop" => Reply::problem(403, "forbidden", "this key may not", json!([])),
        "POST /jobs/3/stop" => Reply::problem(401, "key_invalid", "the key is not valid", json!([])),
        "POST /jobs/4/stop" => Reply::problem(500, "internal", "something broke", json!([])),
        "POST /jobs/5/stop" => Reply::text(502, "text/html", "<html>Bad Gateway</html>"),
        "POST /jobs/6/stop" => Reply::problem(404, "not_found", "no \u{1b}[2Jjob 6", json!([])),
        _ => Reply::text(200, "text/html", "<html>Welcome to nginx</html>"),
    })
    .await?;
    let cases = [
        ("stop 1", 5, "gaffer: job 1 has already ended: completed\n"),
        ("stop 2", 4, "gaffer: this key may not\n"),
        ("stop 3", 4, "gaffer: the key is not valid: it is not a key of gaffer\n"),
        ("stop 4", 1, "gaffer: something broke (request req-1 in the master's log)\n"),
        ("stop 6", 3, "gaffer: no \u{fffd}[2Jjob 6\n"),
    ];
    for (arguments, expected, told) in cases {
        let output = finished(gaffer(&fake, arguments)).await?;
        assert_eq!((code(&output), stderr(&output).as_str()), (expected, told), "{arguments}");
    }
    for arguments in ["stop 5", "jobs", "job 1"] {
        let output = finished(gaffer(&fake, arguments)).await?;
        assert_eq!((code(&output), stdout(&output).as_str()), (1, ""), "{arguments}");
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_in_a_job_are_told_where_the_user_made_them() -> Outcome {
    let fake = Fake::start(|_| {
        let errors = json!([
            {"pointer": "/resources/cpu", "detail": "`lots` is not a number of processors"},
            {"pointer": "/comand", "detail": "unknown field `comand`", "suggestion": "did you mean `command`?"},
        ]);
        Reply::problem(422, "invalid_spec", "the job has 2 mistakes", errors)
    })
    .await?;
    let output = finished(gaffer(&fake, "run --cpu lots -- x")).await?;
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "gaffer: the job has 2 mistakes\n  --cpu: `lots` is not a number of processors\n  \
         /comand: unknown field `comand` (did you mean `command`?)\n"
    );

    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("job.yaml"), "name: x\ncomand: [a]\nresources:\n  cpu: lots\n")?;
    let mut command = gaffer(&fake, "submit job.yaml");
    command.current_dir(directory.path());
    let errors = stderr(&finished(command).await?);
    assert!(
        errors.contains("  job.yaml:4:3 /resources/cpu: ") && errors.contains("  job.yaml:2:1 /comand: "),
        "{errors}"
    );
    Ok(())
}

#[tokio::test]
async fn standard_input_is_json_or_yaml() -> Outcome {
    let fake = Fake::start(|_| Reply::json(201, &job(7, "pending", 1))).await?;
    for text in ["{\"command\": [\"a\"], \"priority\": 1}", "command: [a]\npriority: 1\n"] {
        let mut child = gaffer(&fake, "submit - --name n").stdin(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no pipe")?;
        stdin.write_all(text.as_bytes()).await?;
        drop(stdin);
        assert_eq!(stdout(&ended(child).await?), "7\n");
    }
    for asked in fake.asked() {
        assert_eq!(asked.json(), json!({"command": ["a"], "priority": 1, "name": "n"}));
    }
    Ok(())
}

/// Two pages of jobs, as text that no JSON library would write.
fn pages(asked: &Asked) -> Reply {
    let items =
        |ids: &[i64]| ids.iter().map(|id| job(*id, "running", 2).to_string()).collect::<Vec<_>>().join(" ,");
    let body = match asked.line.contains("cursor=") {
        false => format!("{{ \"items\":[{}], \"next_cursor\": \"c2\" , \"x\": 1.0}}", items(&[3, 2])),
        true => format!("{{ \"items\":[{}], \"next_cursor\": null }}", items(&[1])),
    };
    Reply::text(200, "application/json", body)
}

#[tokio::test]
async fn json_is_what_the_api_sent() -> Outcome {
    let fake = Fake::start(pages).await?;
    let page = stdout(&finished(gaffer(&fake, "jobs -o json")).await?);
    let body = page.strip_suffix('\n').ok_or("no line end")?;
    assert!(
        body.starts_with("{ \"items\":[") && body.ends_with("\"next_cursor\": \"c2\" , \"x\": 1.0}"),
        "{body}"
    );

    let all = stdout(&finished(gaffer(&fake, "jobs -o json --all --state running -l a=b")).await?);
    let merged: Value = serde_json::from_str(&all)?;
    let ids: Vec<_> = merged["items"].as_array().into_iter().flatten().map(|job| job["id"].clone()).collect();
    assert_eq!((ids, &merged["next_cursor"]), (vec![json!(3), json!(2), json!(1)], &Value::Null));
    assert_eq!(
        all.matches("\"a_later_field\":[1.5,{\"a\":2,\"b\":1}]").count(),
        3,
        "what is not known stays: {all}"
    );
    assert_eq!(
        fake.lines()[1..],
        ["GET /jobs?state=running&label=a%3Db", "GET /jobs?state=running&label=a%3Db&cursor=c2"]
    );

    let lines = stdout(&finished(gaffer(&fake, "jobs -o jsonl --all")).await?);
    assert_eq!(lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).count(), 3);
    assert_eq!(stdout(&finished(gaffer(&fake, "jobs -o name")).await?), "3\n2\n");
    Ok(())
}

#[tokio::test]
async fn an_empty_list_is_no_failure() -> Outcome {
    let fake = Fake::start(|_| Reply::json(200, &json!({"items": [], "next_cursor": null}))).await?;
    for (arguments, expected) in [
        ("jobs", ""),
        ("workers -o wide", ""),
        ("events -o jsonl", ""),
        ("keys list -o json --all", "{\"items\":[],\"next_cursor\":null}\n"),
    ] {
        let output = finished(gaffer(&fake, arguments)).await?;
        assert_eq!(
            (code(&output), stdout(&output).as_str(), stderr(&output).as_str()),
            (0, expected, ""),
            "{arguments}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_table_is_for_people() -> Outcome {
    let fake = Fake::start(|_| {
        let mut hostile = job(12, "failed", 3);
        hostile["name"] = json!("a\u{1b}[31mb");
        hostile["task_counts"] = json!({"completed": 1, "failed": 2});
        hostile["started_at"] = json!("2026-01-01T00:00:00Z");
        hostile["finished_at"] = json!("2026-01-01T00:01:12Z");
        hostile["reason"] = json!({"code": "exit_code", "message": "exited with code 1"});
        Reply::json(200, &json!({"items": [hostile], "next_cursor": null}))
    })
    .await?;
    let table = stdout(&finished(gaffer(&fake, "jobs")).await?);
    let mut lines = table.lines();
    assert_eq!(
        lines.next().map(|line| line.split_whitespace().collect()),
        Some(vec!["JOB", "NAME", "STATE", "TASKS", "SUBMITTED", "DURATION", "REASON"])
    );
    let row = lines.next().unwrap_or_default();
    assert!(
        row.starts_with("12   a\u{fffd}[31mb  ✗ failed  1/3")
            && row.contains("1m12s")
            && row.ends_with("exited with code 1"),
        "{row}"
    );
    Ok(())
}

#[tokio::test]
async fn several_jobs_are_stopped_and_each_is_told() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "POST /jobs/1/stop" | "POST /jobs/4/stop" => Reply::json(202, &job(1, "stopping", 1)),
        "POST /jobs/2/stop" => Reply::problem(409, "conflict", "job 2 has ended", json!([])),
        _ => Reply::problem(404, "not_found", "no such job", json!([])),
    })
    .await?;
    let output = finished(gaffer(&fake, "stop 1-4")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "1\n4\n"), "a range takes what is there");
    let output = finished(gaffer(&fake, "stop 1 2 3 4")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (5, "1\n4\n"), "what is named must be there");
    assert!(stderr(&output).contains("2: job 2 has ended") && stderr(&output).contains("3: no such job"));
    Ok(())
}

#[tokio::test]
async fn the_last_job_is_looked_up() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "GET /jobs?limit=1" => {
            Reply::json(200, &json!({"items": [job(9, "failed", 1)], "next_cursor": "c9"}))
        }
        "POST /jobs/9/rerun" => Reply::json(201, &job(10, "pending", 1)),
        _ => Reply::problem(404, "not_found", "no", json!([])),
    })
    .await?;
    let output = finished(gaffer(&fake, "rerun last")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "10\n"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_would_run_everything_again_is_not_asked_for_a_part() -> Outcome {
    let server = |version: Value| {
        Fake::start(move |asked: &Asked| match asked.line.as_str() {
            "GET /version" => Reply::json(200, &version),
            "POST /jobs/9/rerun" => Reply::json(201, &job(10, "pending", 1)),
            _ => Reply::problem(404, "not_found", "no", json!([])),
        })
    };
    let older = json!({"name": "gaffer", "version": "0.0.9", "worker_protocol": 2});
    let old = server(older.clone()).await?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("job.yaml"), "command: [a]\n")?;
    let cases =
        [("--failed", 1), ("--from a", 1), ("--spec job.yaml", 1), ("--edit", 1), ("--failed -f", 125)];
    for (options, expected) in cases {
        let mut command = gaffer(&old, &format!("rerun 9 {options}"));
        command.current_dir(directory.path());
        let output = finished(command).await?;
        assert_eq!((code(&output), stdout(&output).as_str()), (expected, ""), "{options}");
        let said = stderr(&output);
        assert!(
            said.contains("the server runs gaffer 0.0.9, which can only run a whole job again"),
            "{said}"
        );
    }
    assert!(old.lines().iter().all(|line| line == "GET /version"), "{:?}", old.lines());
    let output = finished(gaffer(&old, "rerun 9")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "10\n"), "{}", stderr(&output));

    let mut newer = older;
    newer["features"] = json!(["rerun_in_part"]);
    let new = server(newer).await?;
    let output = finished(gaffer(&new, "rerun 9 --failed")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "10\n"), "{}", stderr(&output));
    let asked = new.asked().pop().map(|asked| asked.json());
    assert_eq!(asked, Some(json!({"failed": true})));
    Ok(())
}

#[tokio::test]
async fn a_new_key_stands_alone() -> Outcome {
    let fake = Fake::start(|_| {
        Reply::json(
            201,
            &json!({
                "id": 3, "kind": "worker", "name": "lab", "prefix": "gfw_abcdef", "created_at": "2026-01-01T00:00:00Z",
                "last_used_at": null, "expires_at": null, "revoked_at": null, "key": "gfw_secret",
            }),
        )
    })
    .await?;
    let output = finished(gaffer(&fake, "keys create lab --kind worker --expires 30d")).await?;
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "gfw_secret\n"));
    assert!(stderr(&output).contains("not shown again"));
    assert_eq!(
        fake.asked()[0].json(),
        json!({"kind": "worker", "name": "lab", "expires_in_seconds": 2_592_000})
    );
    Ok(())
}

#[tokio::test]
async fn a_login_is_kept_if_it_works() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match (asked.line.as_str(), asked.header("authorization")) {
        ("GET /version", _) => {
            Reply::json(200, &json!({"name": "gaffer", "version": "0.1.0", "worker_protocol": 1}))
        }
        (_, "Bearer good") => Reply::json(200, &json!({"items": [], "next_cursor": null})),
        (_, "Bearer submits") => Reply::problem(403, "scope_missing", "it lacks the scope read", json!([])),
        _ => Reply::problem(401, "key_invalid", "the key is not valid", json!([])),
    })
    .await?;
    let home = tempfile::tempdir()?;
    let path = home.path().join(".config/gaffer/login.toml");
    for (key, expected) in [("bad\n", 4), ("\n", 2), ("submits\n", 0), ("good\n", 0)] {
        if key == "good\n" {
            fs::remove_file(&path)?;
        }
        assert!(!path.exists());
        let mut command = bare("login");
        command.arg(fake.url() + "/api/v1").env("HOME", home.path()).stdin(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().ok_or("no pipe")?;
        stdin.write_all(key.as_bytes()).await?;
        drop(stdin);
        let output = ended(child).await?;
        assert_eq!((code(&output), stdout(&output).as_str()), (expected, ""), "{}", stderr(&output));
    }
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let mut command = bare("jobs");
    command.env("HOME", home.path());
    assert_eq!(code(&finished(command).await?), 0);
    Ok(())
}

#[tokio::test]
async fn a_running_dev_is_found() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.header("authorization") {
        "Bearer dev-key" => Reply::json(200, &json!({"items": [], "next_cursor": null})),
        _ => Reply::problem(401, "key_invalid", "unknown", json!([])),
    })
    .await?;
    let data = tempfile::tempdir()?;
    fs::write(data.path().join("dev.env"), format!("GAFFER_URL={}\nGAFFER_KEY=dev-key\n", fake.url()))?;
    let mut command = bare("jobs");
    command.env("GAFFER_DATA_DIR", data.path());
    assert_eq!(code(&finished(command).await?), 0);
    Ok(())
}

#[tokio::test]
async fn events_are_followed_across_lost_connections() -> Outcome {
    let event = |id: i64, message: &str| {
        let event = json!({
            "id": id, "at": "2026-01-01T00:00:00Z", "kind": "task.running", "job": 1, "task": "main", "attempt": 1,
            "worker": "pi4", "actor": "ana", "message": message,
        });
        format!(": alive\n\nid: {id}\nevent: task.running\ndata: {event}\n\n")
    };
    let fake = Fake::start(move |asked: &Asked| match asked.header("last-event-id") {
        "" => Reply::text(200, "text/event-stream", event(4, "one")),
        "4" => Reply::text(200, "text/event-stream", event(5, "two")),
        _ => Reply::problem(404, "not_found", "the job was deleted", json!([])),
    })
    .await?;
    let output = finished(gaffer(&fake, "events -f 1 -o jsonl")).await?;
    assert_eq!(code(&output), 3);
    let seen: Vec<Value> =
        stdout(&output).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(seen.iter().map(|event| &event["message"]).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(fake.asked()[0].header("accept"), "text/event-stream");
    Ok(())
}
