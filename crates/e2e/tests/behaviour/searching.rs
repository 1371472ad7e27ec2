//! The output of an attempt is searched where it is stored.

use std::time::Duration;

use futures::StreamExt;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::search::{LineQuery, Pattern};
use gaffer_domain::{AttemptRef, JobId};
use gaffer_e2e::PATIENCE;
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_master::output::ReadFrom;
use gaffer_master::search::{OutputSearch, SearchPiece, SearchRequest, StopReason};
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::ToWorker;
use reqwest::StatusCode;
use serde_json::{Value, json};

const NDJSON: &str = "application/x-ndjson";

/// A task that a test writes the output of.
struct Writer {
    worker: RawWorker,
    job: i64,
    attempt: AttemptRef,
    written: u64,
}

impl Writer {
    async fn begin(stage: &Stage, spec: Value) -> Writer {
        let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
        let job = stage.client.submit(spec).await;
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        Writer { worker, job, attempt, written: 0 }
    }

    /// Writes one chunk, and waits until it is stored.
    async fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.worker.output(self.attempt, self.written, stream, bytes).await;
        self.written += bytes.len() as u64;
        let all = self.written;
        self.worker
            .hear_until(|message| match message {
                ToWorker::OutputStored { offset, .. } if offset >= all => Some(()),
                _ => None,
            })
            .await;
    }

    async fn out(&mut self, text: &str) {
        self.write(Stream::Stdout, text.as_bytes()).await;
    }

    async fn end(&mut self, stage: &Stage) {
        self.worker.ended(self.attempt, AttemptEnd::Exited { code: 0 }, self.written).await;
        stage.client.finished(self.job).await;
    }
}

/// Asks for an output as NDJSON; its objects by kind.
async fn ask(client: &Client, path: &str) -> Vec<(String, Value)> {
    let response = client.open(path, NDJSON).await;
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    let object = |line: &str| -> (String, Value) {
        let object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        object.into_iter().next().unwrap()
    };
    text.lines().map(object).collect()
}

/// Line numbers and texts of what was found, in their order.
fn found(objects: &[(String, Value)]) -> Vec<(u64, &str)> {
    let matches = objects.iter().filter(|(kind, _)| kind == "match");
    matches
        .map(|(_, line)| (line["line"].as_u64().unwrap(), line["text"].as_str().unwrap_or("(bytes)")))
        .collect()
}

fn only<'a>(objects: &'a [(String, Value)], kind: &str) -> &'a Value {
    let all: Vec<&Value> =
        objects.iter().filter(|(found, _)| found == kind).map(|(_, value)| value).collect();
    assert_eq!(all.len(), 1, "{objects:#?}");
    all[0]
}

#[tokio::test]
async fn lines_are_found_across_chunks_and_streams_by_what_a_reader_sees() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    writer.out("one\nsome err").await;
    writer.out("or here\r\nthree\n").await;
    writer.write(Stream::Stderr, b"\x1b[31merr\x1b[0mor in red\n").await;
    writer.write(Stream::Stdout, b"error \xff bytes\nlast error").await;
    let output = format!("/jobs/{}/output", writer.job);

    for is_over in [false, true] {
        let objects = ask(&stage.client, &format!("{output}?q=error")).await;
        let expected = [
            (2, "some error here\r"),
            (4, "\u{1b}[31merr\u{1b}[0mor in red"),
            (5, "(bytes)"),
            (6, "last error"),
        ];
        assert_eq!(found(&objects), expected);
        let first = &objects[0].1;
        assert_eq!((&first["offset"], &first["end"]), (&json!(4), &json!(21)));
        assert_eq!((&first["matches"], &first["stream"]), (&json!([[5, 10]]), &json!("stdout")));
        assert_eq!(
            (&objects[1].1["matches"], &objects[1].1["stream"]),
            (&json!([[5, 14]]), &json!("stderr"))
        );
        let searched = only(&objects, "searched");
        assert_eq!((&searched["found"], &searched["next_cursor"]), (&json!(4), &Value::Null));
        assert_eq!(searched["searched_bytes"], writer.written);
        assert_eq!(only(&objects, "end")["finished_at"].is_null(), !is_over);

        // Not the two lines between which an anchor stands, nor both streams as one.
        assert_eq!(found(&ask(&stage.client, &format!("{output}?q=^error.in.red$")).await).len(), 1);
        assert!(found(&ask(&stage.client, &format!("{output}?q=here%5Cs%2Bthree")).await).is_empty());
        let of_stderr = ask(&stage.client, &format!("{output}?q=o&stream=stderr")).await;
        assert_eq!(found(&of_stderr).len(), 1);
        assert_eq!(found(&ask(&stage.client, &format!("{output}?q=error&lines=3-5")).await).len(), 2);
        assert_eq!(
            found(&ask(&stage.client, &format!("{output}?q=error&tail=1")).await),
            [(6, "last error")]
        );
        assert_eq!(found(&ask(&stage.client, &format!("{output}?q=e&offset=21")).await)[0], (3, "three"));
        let around = ask(&stage.client, &format!("{output}?q=three&lines_before=1&lines_after=2")).await;
        assert_eq!(found(&around).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5]);
        assert_eq!((&around[0].1["context"], &around[1].1["context"]), (&json!(true), &Value::Null));
        let others = ask(&stage.client, &format!("{output}?q=error&invert=1")).await;
        assert_eq!(found(&others), [(1, "one"), (3, "three")]);

        let raw = stage.client.get(&format!("{output}?q=one|three")).await;
        assert_eq!(raw.text, "one\nthree\n");
        assert_eq!(stage.client.get(&format!("{output}?q=error&count=1")).await.text, "4\n");
        let events =
            stage.client.open(&format!("{output}?q=one"), "text/event-stream").await.text().await.unwrap();
        assert!(events.starts_with("event: match\nid: 1:4\ndata: {\"match\":{"), "{events}");
        assert!(events.contains("\n\nevent: searched\n") && events.contains("\n\nevent: end\n"), "{events}");
        if !is_over {
            writer.end(&stage).await;
        }
    }
}

#[tokio::test]
async fn a_search_follows_an_output_and_sees_each_line_once_it_has_ended() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    writer.out("ready 1\nrea").await;
    let path = format!("/jobs/{}/output?q=^ready&follow=1", writer.job);
    let mut first = stage.client.open(&format!("{path}&limit=2"), NDJSON).await.bytes_stream();
    let mut all = stage.client.open(&path, NDJSON).await.bytes_stream();
    let seen = first.next().await.unwrap().unwrap();
    assert_eq!(seen.iter().filter(|byte| **byte == b'\n').count(), 1, "{seen:?}");
    writer.out("dy 2\nready").await;
    // With enough, it ends, though the job goes on.
    let mut rest = Vec::new();
    while let Some(part) = first.next().await {
        rest.extend_from_slice(&part.unwrap());
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("\"text\":\"ready 2\"") && rest.contains("\"searched\""), "{rest}");
    writer.end(&stage).await;
    let mut text = Vec::new();
    while let Some(part) = all.next().await {
        text.extend_from_slice(&part.unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    let kinds: Vec<&str> = text.lines().map(|line| line.split('"').nth(1).unwrap()).collect();
    assert_eq!(kinds, ["match", "match", "match", "searched", "end"], "{text}");
}

/// A job with the tasks a.0, a.1 and b.0, and the worker that gets them.
async fn job_of_three_tasks(stage: &Stage) -> (RawWorker, i64) {
    let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let spec = json!({ "tasks": [{ "name": "a", "script": "true", "count": 2 }, { "name": "b", "script": "true" }] });
    (worker, stage.client.submit(spec).await)
}

#[tokio::test]
async fn a_search_with_enough_lines_does_not_wait_for_the_next_task() {
    let stage = Stage::set().await;
    let (mut worker, job) = job_of_three_tasks(&stage).await;
    let start = worker.next_start().await;
    worker.started(start.attempt).await;
    worker.output(start.attempt, 0, Stream::Stdout, b"x\n").await;
    worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, 2).await;
    // The line after it, that is wanted as well, does not come; and nobody runs the other tasks.
    let path = format!("/jobs/{job}/output?q=x&limit=1&lines_after=1&follow=1");
    let answer = stage.client.open(&path, "application/x-ndjson").await;
    let text = tokio::time::timeout(*PATIENCE, answer.text()).await.expect("it does not end").unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["searched"]["next_cursor"].is_string(), "{text}");
}

#[tokio::test]
async fn a_search_that_stops_continues_with_its_cursor_through_all_tasks() {
    let stage = Stage::set().await;
    let (mut worker, job) = job_of_three_tasks(&stage).await;
    for _ in 0..3 {
        let start = worker.next_start().await;
        worker.started(start.attempt).await;
        let address = format!("{}.{}", start.definition.task, start.index);
        let text: String = (1..=4).map(|line| format!("{address} line {line}\nnothing\n")).collect();
        worker.output(start.attempt, 0, Stream::Stdout, text.as_bytes()).await;
        worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, text.len() as u64).await;
    }
    stage.client.finished(job).await;
    let whole = ask(&stage.client, &format!("/jobs/{job}/output?q=line")).await;
    let texts = |objects: &[(String, Value)]| -> Vec<String> {
        found(objects).into_iter().map(|(number, text)| format!("{number} {text}")).collect()
    };
    assert_eq!(texts(&whole).len(), 12);
    assert_eq!(whole.iter().filter(|(kind, _)| kind == "searched").count(), 3);

    let (mut cursor, mut parts) = (String::new(), Vec::new());
    loop {
        let part = ask(&stage.client, &format!("/jobs/{job}/output?q=line&limit=5{cursor}")).await;
        parts.extend(texts(&part));
        let searched = part.iter().rev().find(|(kind, _)| kind == "searched").unwrap();
        match searched.1["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(parts, texts(&whole));
    assert_eq!(stage.client.get(&format!("/jobs/{job}/output?q=line&count=1")).await.text, "12\n");
    assert_eq!(stage.client.get(&format!("/jobs/{job}/output?q=line&count=1&limit=7")).await.text, "7\n");

    // A cursor is of one task, and of nothing else.
    let wrong = stage.client.get(&format!("/jobs/{job}/tasks/b/output?q=line{cursor}")).await;
    let other = stage.client.get(&format!("/jobs/{job}/tasks/a.0/output?q=line{cursor}")).await;
    let statuses = [wrong.status, other.status];
    assert!(
        statuses.contains(&StatusCode::OK) && statuses.contains(&StatusCode::BAD_REQUEST),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn a_search_that_stops_says_whether_it_moved_on() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    writer.out("row 1\nrow 2\nrow 3\n").await;
    writer.end(&stage).await;
    let views = &stage.running.views;
    let project = stage.running.control.store.project_default().await.unwrap();
    let task = writer.attempt.task;
    let search = |limit, offset| {
        let query = LineQuery { limit, ..LineQuery::new(Pattern::compile("row").unwrap()) };
        let from = ReadFrom { offset, ..ReadFrom::only(writer.attempt) };
        let request = SearchRequest { query, from, inside: None, until: None, stream: None };
        OutputSearch::new(views.clone(), JobId(writer.job), task, request)
    };
    // After the first lines it may not search more.
    let stops = async |mut search: OutputSearch, time| {
        let mut budget = views.searches.open(project, time).await.unwrap();
        loop {
            match search.next(&mut budget).await.unwrap().expect("it stops") {
                SearchPiece::Lines(..) => budget.spend(u64::MAX),
                SearchPiece::Stopped { at, why, .. } => return (at.offset, why),
                SearchPiece::Complete(_) => panic!("it did not stop"),
            }
        }
    };
    let (no_time, long) = (Duration::ZERO, *PATIENCE);
    assert_eq!(stops(search(None, 0), no_time).await, (0, StopReason::NoProgress));
    assert_eq!(stops(search(None, 6), no_time).await, (6, StopReason::NoProgress));
    let mut turned = search(None, 6);
    turned.turn_to(views.reads.task_by_id(task).await.unwrap().unwrap());
    assert_eq!(stops(turned, no_time).await, (0, StopReason::BudgetUsedUp), "the task before was searched");
    assert_eq!(stops(search(None, 6), long).await, (18, StopReason::BudgetUsedUp));
    assert_eq!(stops(search(Some(1), 6), long).await, (12, StopReason::LimitReached));
}

#[tokio::test]
async fn the_chosen_lines_stay_chosen_when_a_search_continues() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    writer.out("e1\ne2\ne3\ne4\ne5\n").await;
    writer.end(&stage).await;
    let path = format!("/jobs/{}/output?q=e&lines=2-4&limit=2", writer.job);
    let first = ask(&stage.client, &path).await;
    assert_eq!(found(&first), [(2, "e2"), (3, "e3")]);
    let cursor = only(&first, "searched")["next_cursor"].as_str().unwrap().to_owned();
    let rest = ask(&stage.client, &format!("{path}&cursor={cursor}")).await;
    assert_eq!(found(&rest), [(4, "e4")]);
    assert_eq!(only(&rest, "searched")["next_cursor"], Value::Null);
}

#[tokio::test]
async fn a_line_longer_than_memory_is_one_line_wherever_a_search_continues() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    let piece = vec![b'h'; 200_000];
    for _ in 0..8 {
        writer.write(Stream::Stdout, &piece).await;
    }
    writer.write(Stream::Stderr, b"in between\n").await;
    writer.out("hh\nhe\n").await;
    writer.end(&stage).await;
    // Of both streams, the long line ends with what the other stream wrote. It has the number that it has where it is found.
    for (stream, lines) in [("", &[1, 2, 3][..]), ("&stream=stdout", &[1, 3])] {
        let path = format!("/jobs/{}/output?q=^h{stream}", writer.job);
        let whole = ask(&stage.client, &path).await;
        assert_eq!(found(&whole).iter().map(|(line, _)| *line).collect::<Vec<_>>(), lines);
        let first = ask(&stage.client, &format!("{path}&limit=1")).await;
        let cursor = only(&first, "searched")["next_cursor"].as_str().unwrap().to_owned();
        let rest = ask(&stage.client, &format!("{path}&cursor={cursor}")).await;
        let later = ask(&stage.client, &format!("{path}&offset={}", only(&first, "match")["end"])).await;
        for rest in [rest, later] {
            let rest: Vec<u64> = found(&rest).iter().map(|(line, _)| *line).collect();
            assert_eq!(rest, lines[1..], "{stream}");
        }
    }
}

/// The ids of a stream's events, and the texts of its lines.
async fn events_after(stage: &Stage, path: &str, last: &str) -> Vec<(String, String)> {
    let mut request = stage.client.request(reqwest::Method::GET, path).header("accept", "text/event-stream");
    if !last.is_empty() {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{path} after {last}: {text}");
    let event = |event: &str| {
        let id = event.lines().find_map(|line| line.strip_prefix("id: "))?;
        let data = event.lines().find_map(|line| line.strip_prefix("data: "))?;
        let data: Value = serde_json::from_str(data).unwrap();
        let line = data.get("data").or(data.get("match"))?;
        Some((id.to_owned(), line["text"].as_str().unwrap().to_owned()))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test]
async fn a_client_that_reconnects_to_the_output_of_a_job_continues_with_the_task_that_it_saw_last() {
    let stage = Stage::set().await;
    let (mut worker, job) = job_of_three_tasks(&stage).await;
    for _ in 0..3 {
        let start = worker.next_start().await;
        worker.started(start.attempt).await;
        let mut offset = 0;
        for line in 1..=2 {
            let text = format!("{}.{} line {line}\n", start.definition.task, start.index);
            worker.output(start.attempt, offset, Stream::Stdout, text.as_bytes()).await;
            offset += text.len() as u64;
        }
        worker.ended(start.attempt, AttemptEnd::Exited { code: 0 }, offset).await;
    }
    stage.client.finished(job).await;
    for path in [format!("/jobs/{job}/output?q=line"), format!("/jobs/{job}/output?follow=1&q=line")] {
        let all = events_after(&stage, &path, "").await;
        assert_eq!(all.len(), 6, "{all:?}");
        for (seen, (id, _)) in all.iter().enumerate() {
            assert_eq!(events_after(&stage, &path, id).await, all[seen + 1..], "after {id}");
        }
    }
    let all = events_after(&stage, &format!("/jobs/{job}/output"), "").await;
    let (last_of_first, _) = all.iter().rev().find(|(id, _)| id.starts_with("a.0:1:")).unwrap();
    let texts: String = events_after(&stage, &format!("/jobs/{job}/output"), last_of_first)
        .await
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts, "a.1 line 1\na.1 line 2\nb.0 line 1\nb.0 line 2\n");
    // An id that says nothing of the task, or names an attempt that it does not have, is not guessed at.
    let wrong = [
        ("output", "1:11"),
        ("output", "c.0:1:11"),
        ("tasks/b/output", "a.0:1:11"),
        ("tasks/b/output?follow=1", "2:0"),
    ];
    for (path, last) in wrong {
        let request = stage.client.request(reqwest::Method::GET, &format!("/jobs/{job}/{path}"));
        let request = request.header("accept", "text/event-stream").header("last-event-id", last);
        let status = request.send().await.unwrap().status();
        assert!(status.is_client_error(), "{path} after {last}: {status}");
    }
}

#[tokio::test]
async fn a_client_that_reconnects_after_a_retry_gets_the_rest_of_the_attempt_before() {
    let stage = Stage::set().await;
    let spec = json!({ "script": "true", "restart": { "policy": "on-failure", "limit": 1, "delay": "0s" } });
    let mut writer = Writer::begin(&stage, spec).await;
    writer.out("first 1\nfirst 2\n").await;
    writer.worker.ended(writer.attempt, AttemptEnd::Exited { code: 1 }, writer.written).await;
    let attempt = writer.worker.next_start().await.attempt;
    writer.worker.started(attempt).await;
    let mut writer = Writer { attempt, written: 0, ..writer };
    writer.out("second 1\n").await;
    writer.end(&stage).await;
    let path = format!("/jobs/{}/output?follow=1", writer.job);
    for (query, last, expected) in [
        ("", "1:8", "first 2\nsecond 1\n"),
        ("&q=.", "1:8", "first 2second 1"),
        ("&tail=1", "1:8", "first 2\nsecond 1\n"),
        ("", "2:9", ""),
    ] {
        let events = events_after(&stage, &format!("{path}{query}"), last).await;
        let texts: String = events.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, expected, "{query} after {last}");
        let request = stage.client.request(reqwest::Method::GET, &format!("{path}{query}"));
        let request = request.header("accept", "text/event-stream").header("last-event-id", last);
        let headers = request.send().await.unwrap().headers().clone();
        assert_eq!(headers["x-gaffer-attempt"], last[..1], "{query} after {last}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_search_is_said_where_it_is_wrong() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let refused = async |query: &str| {
        let answer = stage.client.get(&format!("/jobs/{job}/output?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}: {}", answer.text);
        let error = &answer.body["errors"][0];
        (answer.body["code"].clone(), error["pointer"].clone(), error["detail"].as_str().unwrap().to_owned())
    };
    let (code, pointer, detail) = refused("q=a(b").await;
    assert_eq!((code, pointer), (json!("invalid_regex"), json!("query:q")));
    assert!(detail.contains("unclosed group") && detail.contains("character 2"), "{detail}");
    assert!(refused("q=%5Cw%7B9000%7D").await.2.contains("too large"));
    assert!(refused(&format!("q={}", "x".repeat(5_000))).await.2.contains("longer than"));
    assert!(refused("q=a%5Cnb").await.2.contains("line end"));
    for (query, pointer) in [
        ("limit=5", "query:limit"),
        ("count=1", "query:count"),
        ("q=x&limit=0", "query:limit"),
        ("q=x&lines_before=101", "query:lines_before"),
        ("q=x&cursor=c1", "query:cursor"),
        ("q=x&cursor=c0.0.0.0&tail=1", "query:cursor"),
    ] {
        assert_eq!(refused(query).await.1, pointer, "{query}");
    }
    assert!(found(&ask(&stage.client, &format!("/jobs/{job}/output?q=x")).await).is_empty());
}

#[tokio::test]
async fn the_page_of_an_output_searches_it_and_leads_to_the_lines() {
    let stage = Stage::set().await;
    let mut writer = Writer::begin(&stage, script("true")).await;
    let text: String = (1..=300).map(|line| format!("<b>row</b> {line}\n")).collect();
    writer.out(&text).await;
    writer.end(&stage).await;
    let cookie = stage.sign_in(&stage.client).await;
    let job = writer.job;
    let page = async |path: String| stage.page(&path, &cookie).await.text().await.unwrap();
    let first = page(format!("/jobs/{job}?q=row")).await;
    assert!(first.contains(&format!("/jobs/{job}?at=90#L100\"")), "{first}");
    assert!(first.contains("&#60;b&#62;<span class=\"hit\">row</span>&#60;/b&#62;"), "{first}");
    assert!(!first.contains("<b>"), "{first}");
    assert!(first.contains("200 lines found") && !first.contains("#L201\""), "{first}");
    let next = first.split("href=\"").find(|link| link.contains("after=")).unwrap();
    let next = next.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
    let second = page(next).await;
    assert!(second.contains("#L300\"") && !second.contains("search further"), "{second}");
    assert!(page(format!("/jobs/{job}/tasks/main?q=row.*+300")).await.contains("1 line found"));
    assert!(page(format!("/jobs/{job}?q=nothing+there")).await.contains("No line matches."));
    let wrong = page(format!("/jobs/{job}?q=%28%22")).await;
    assert!(wrong.contains("unclosed group") && wrong.contains("value=\"(&#34;\""), "{wrong}");
}

#[tokio::test]
async fn logs_grep_shows_lines_as_grep_does() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let job = dev.client.submit(script("seq 1 20; printf 'a.b\\n\\033[31mRED\\033[0m\\n'")).await;
    dev.client.finished(job).await;
    let number = job.to_string();
    let logs = async |more: &[&str]| {
        let output = dev.cli(&[&["logs", &number], more].concat()).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), output.stderr)
    };
    let shown = async |more: &[&str]| {
        let (code, stdout, stderr) = logs(more).await;
        assert_eq!(code, Some(0), "{more:?}: {}", String::from_utf8_lossy(&stderr));
        stdout
    };
    assert_eq!(shown(&["--grep", "^1.?$", "-m", "3"]).await, "1\n10\n11\n");
    assert_eq!(shown(&["--grep", "5", "-n", "-C", "1"]).await, "4-4\n5:5\n6-6\n--\n14-14\n15:15\n16-16\n");
    assert_eq!(shown(&["--grep", "5", "-A1", "-B0"]).await, "5\n6\n--\n15\n16\n");
    assert_eq!(shown(&["--grep", "[0-9]", "-v"]).await, "a.b\n\u{1b}[31mRED\u{1b}[0m\n");
    assert_eq!(shown(&["--grep", "^red$", "-i"]).await, "\u{1b}[31mRED\u{1b}[0m\n");
    assert_eq!(shown(&["--grep", ".b", "-F"]).await, "a.b\n");
    assert_eq!(shown(&["--grep", "[0-9]", "--count"]).await, "20\n");
    assert_eq!(shown(&["--grep", "1", "--lines", "18-30"]).await, "18\n19\n");
    let (code, stdout, _) = logs(&["--grep", "nothing like it"]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(logs(&["--grep", "nothing like it", "-c"]).await.1, "0\n");
    let (code, _, stderr) = logs(&["--grep", "a(b"]).await;
    assert_eq!(code, Some(2));
    assert!(String::from_utf8_lossy(&stderr).contains("unclosed group"), "{stderr:?}");
    assert_eq!(logs(&["-n"]).await.0, Some(2), "without a pattern");

    // It waits for a line and leaves, while the job runs on.
    let spec = json!({ "script": "echo starting; echo listening on 80; sleep 1000", "count": 1 });
    let service = dev.client.submit(spec).await.to_string();
    let waits = dev.cli(&["logs", "-f", &service, "--grep", "listening", "-m", "1"]).output().await.unwrap();
    assert_eq!((waits.status.code(), waits.stdout), (Some(0), b"listening on 80\n".to_vec()));
    assert_eq!(dev.client.job(service.parse().unwrap()).await.state, "running");

    let tasks = dev.client.submit(json!({ "script": "echo it is $GAFFER_TASK_INDEX", "array": "3-4" })).await;
    dev.client.finished(tasks).await;
    let all = dev.cli(&["logs", &tasks.to_string(), "--grep", "it is"]).output().await.unwrap();
    assert_eq!(String::from_utf8(all.stdout).unwrap(), "main.3:it is 3\nmain.4:it is 4\n");
}
