//! Output in object storage: it moves there, is read from there as if it had not moved, and is never lost on the way.

mod moving;
mod objects;
mod scene;

use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::client::{Answer, Client};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::command;
use gaffer_e2e::raw_worker::hello;
use gaffer_master::background::driver::Background as _;
use gaffer_master::store::StoreError;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::ToWorker;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, RANGE, RETRY_AFTER};
use serde_json::json;

use scene::{Kind, Scene};

/// Both streams, text and bytes that are none, lines that are long, and no line end at the end.
fn some_output() -> Vec<(Stream, Vec<u8>)> {
    let mut parts = Vec::new();
    for n in 0..40_u32 {
        let line = |m: u32| format!("line {n}.{m}: {}\n", (n * 7_919 + m * 104_729) % 65_537);
        parts.push((Stream::Stdout, (0..600).map(line).collect::<String>().into_bytes()));
        parts.push((Stream::Stderr, format!("error {n}\n").into_bytes()));
    }
    parts.push((Stream::Stdout, (0..70_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect()));
    parts.push((Stream::Stderr, [b'x'; 100_000].to_vec()));
    parts.push((Stream::Stdout, b"\n\nthe end".to_vec()));
    parts
}

/// All ways to read the output of a job.
async fn read_by_every_route(client: &Client, job: i64) -> Vec<(String, String, Vec<u8>)> {
    let queries = [
        "",
        "?offset=0",
        "?offset=300001",
        "?offset=99999999",
        "?stream=stderr",
        "?stream=stdout&offset=4096",
        "?tail=0",
        "?tail=3",
        "?tail=30000",
        "?tail=5&stream=stderr",
        "?lines=1-3",
        "?lines=17-17",
        "?lines=12000-12100",
        "?lines=20000-99999",
        "?lines=3-5&stream=stderr",
        "?follow=1",
        "?follow=1&tail=4",
        "?attempt=1&offset=100000",
        "?q=39%5C.599",
        "?q=error&count=1",
        "?q=error&invert=1&limit=50",
        "?q=error%201%24&lines_before=2&lines_after=1",
        "?q=line&offset=500000&limit=3",
        "?q=never",
    ];
    let mut answers = Vec::new();
    for query in queries {
        for accept in ["text/plain", "application/x-ndjson", "text/event-stream"] {
            let path = format!("/jobs/{job}/output{query}");
            let response = client.open(&path, accept).await;
            let (status, headers) = (response.status(), response.headers().clone());
            let complete = headers.get("x-gaffer-complete").cloned();
            let mut body = response.bytes().await.unwrap().to_vec();
            if query.contains("limit=") {
                // A search that has found enough may have looked at more or less of what follows.
                let text = String::from_utf8(body).unwrap();
                let parts = text.split("\"searched_bytes\":");
                let kept = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
                body = kept.collect::<String>().into_bytes();
            }
            answers.push((format!("{accept} {query}"), format!("{status} {complete:?}"), body));
        }
    }
    for range in ["bytes=0-0", "bytes=262100-262200", "bytes=500000-", "bytes=-17", "bytes=99999999-"] {
        let request = client.request(reqwest::Method::GET, &format!("/jobs/{job}/tasks/main/output"));
        let response = request.header(RANGE, range).send().await.unwrap();
        let head = format!("{} {:?}", response.status(), response.headers().get("content-range"));
        // An error has a number of its request.
        let body = match response.status().is_success() {
            true => response.bytes().await.unwrap().to_vec(),
            false => Vec::new(),
        };
        answers.push((range.to_owned(), head, body));
    }
    // How much there is, and its checksum.
    let task = client.get(&format!("/jobs/{job}/tasks/main")).await;
    answers.push(("task".to_owned(), task.status.to_string(), task.text.into_bytes()));
    answers
}

/// The same in the dashboard: lines of the viewer.
async fn seen_on_pages(scene: &Scene, cookie: &str, job: i64) -> Vec<String> {
    let mut seen = Vec::new();
    for query in ["?from=1", "?from=11990&count=20", "?before=500", "?from=1&stream=stderr", "?from=23000"] {
        let page = scene.stage.page(&format!("/jobs/{job}/lines{query}&task=main"), cookie).await;
        assert_eq!(page.status(), StatusCode::OK, "{query}");
        seen.push(page.text().await.unwrap());
    }
    for query in ["?q=error%2017", "?at=9000"] {
        let page = scene.stage.page(&format!("/jobs/{job}{query}"), cookie).await;
        assert_eq!(page.status(), StatusCode::OK, "{query}");
        let text = page.text().await.unwrap();
        let from = text.find("<div class=\"rows\"").expect("the page has rows");
        seen.push(text[from..].split("</section>").next().unwrap().to_owned());
    }
    seen
}

async fn moved_output_is_read_as_before(kind: Kind) {
    let mut scene = Scene::set(kind).await;
    let output = some_output();
    let job = scene.run(&output).await;
    let cookie = scene.stage.sign_in(&scene.stage.client).await;
    let before = read_by_every_route(&scene.stage.client, job).await;
    let pages_before = seen_on_pages(&scene, &cookie, job).await;
    let chunks = scene.count("output_chunks").await;
    assert!(chunks > 1);

    scene.move_all().await;
    assert_eq!(scene.count("output_chunks").await, 0, "all of it has moved");
    assert_eq!(scene.count("output_objects").await, 1);
    assert_eq!(scene.objects().len(), 1);
    let after = read_by_every_route(&scene.stage.client, job).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.0, &before.1), (&after.0, &after.1));
        assert!(before.2 == after.2, "{}: the content differs", before.0);
    }
    assert_eq!(seen_on_pages(&scene, &cookie, job).await, pages_before);
    let whole: Vec<u8> = output.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(scene.stage.client.output(job).await == whole);

    // A master that was started anew has nothing in memory.
    let mut scene = Box::pin(scene.restart()).await;
    assert!(scene.stage.client.output(job).await == whole);
    assert_eq!(scene.mover().run_once().await.unwrap().done, 0, "nothing is moved twice");
    assert_eq!(scene.count("output_objects").await, 1);
}

#[tokio::test]
async fn output_moved_to_a_directory_is_read_as_before_by_every_route() {
    Box::pin(moved_output_is_read_as_before(Kind::Directory)).await;
}

#[tokio::test]
async fn output_moved_to_s3_is_read_as_before_by_every_route() {
    Box::pin(moved_output_is_read_as_before(Kind::S3)).await;
}

/// Bytes that cannot be compressed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

#[tokio::test]
async fn large_output_moves_in_parts_and_is_whole_also_while_only_some_have_moved() {
    let mut scene = Scene::set(Kind::S3).await;
    let whole = noise(10 << 20);
    let job = scene.run(&[(Stream::Stdout, whole.clone())]).await;
    scene
        .sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.start_offset > 0 THEN RAISE 'not now'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON output_objects FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    scene.mover().run_once().await.unwrap_err();
    assert_eq!(scene.count("output_objects").await, 1);
    assert!(scene.count("output_chunks").await > 0);
    assert!(scene.stage.client.output(job).await == whole);
    let across = scene.stage.client.open(&format!("/jobs/{job}/output?offset=4000000"), "text/plain").await;
    assert!(across.bytes().await.unwrap() == whole[4_000_000..]);
    scene.sql("DROP TRIGGER refuse ON output_objects").await;

    scene.move_all().await;
    assert_eq!(scene.count("output_chunks").await, 0);
    let objects = scene.count("output_objects").await;
    assert!((2..=5).contains(&objects), "{objects} objects of about 4 MiB");
    let largest: i64 = scene.number("SELECT max(object_bytes) FROM output_objects").await;
    assert!(largest < 5 << 20, "{largest}");
    assert!(scene.stage.client.output(job).await == whole);
    assert_eq!(scene.number("SELECT sum(objects)::bigint FROM output_object_eras").await, objects);
}

/// Every way to read fails in the same way while the store is away or an object is lost; returns one of the answers.
async fn all_fail(client: &Client, job: i64, status: StatusCode, code: &str) -> Answer {
    for query in
        ["", "?tail=2", "?lines=1-2", "?offset=3", "?follow=1", "?q=one", "?q=one&count=1", "?stream=stderr"]
    {
        for accept in ["text/plain", "application/x-ndjson", "text/event-stream"] {
            let request = client.request(reqwest::Method::GET, &format!("/jobs/{job}/output{query}"));
            let response = request.header(ACCEPT, accept).send().await.unwrap();
            let (got, retry) = (response.status(), response.headers().get(RETRY_AFTER).cloned());
            let text = response.text().await.unwrap();
            assert_eq!(got, status, "{query} {accept}: {text}");
            assert!(text.contains(code), "{query} {accept}: {text}");
            assert_eq!(retry.is_some(), status == StatusCode::SERVICE_UNAVAILABLE, "{query} {accept}");
        }
    }
    let request = client.request(reqwest::Method::GET, &format!("/jobs/{job}/output"));
    let ranged = request.header(RANGE, "bytes=1-2").send().await.unwrap();
    assert_eq!(ranged.status(), status);
    client.get(&format!("/jobs/{job}/output")).await
}

async fn a_store_that_is_away_is_an_error(kind: Kind) {
    let mut scene = Scene::set(kind).await;
    let job =
        scene.run(&[(Stream::Stdout, b"one\ntwo\n".to_vec()), (Stream::Stderr, b"three\n".to_vec())]).await;
    scene.move_all().await;
    let waiting = scene.run(&[(Stream::Stdout, b"still here\n".to_vec())]).await;
    let mut scene = Box::pin(scene.restart()).await;
    scene.take_store_away().await;

    let answer =
        all_fail(&scene.stage.client, job, StatusCode::SERVICE_UNAVAILABLE, "output_unavailable").await;
    let told = answer.body["detail"].as_str().unwrap();
    assert!(told.contains("object storage") && told.contains("try again"), "{told}");
    let cookie = scene.stage.sign_in(&scene.stage.client).await;
    for path in [format!("/jobs/{job}"), format!("/jobs/{job}?q=one")] {
        let page = scene.stage.page(&path, &cookie).await;
        assert_eq!(page.status(), StatusCode::OK, "the rest of the page is shown");
        let text = page.text().await.unwrap();
        assert!(text.contains("The output cannot be read") && text.contains("not available"), "{text}");
    }
    // Nothing is moved to nowhere, and what is in the database is read from there.
    assert!(matches!(scene.mover().run_once().await, Err(StoreError::ObjectsUnavailable { .. })));
    assert_eq!(scene.stage.client.output(waiting).await, b"still here\n");
    let check = scene.stage.client.post("/system/output-store/check", &json!({})).await;
    assert!(check.body["problem"].as_str().unwrap().contains("not available"), "{}", check.text);

    scene.bring_store_back().await;
    assert_eq!(scene.stage.client.output(job).await, b"one\ntwo\nthree\n");
    scene.move_all().await;
    assert_eq!(scene.stage.client.output(waiting).await, b"still here\n");
    let check = scene.stage.client.post("/system/output-store/check", &json!({})).await;
    assert_eq!((&check.body["problem"], &check.body["objects"]), (&json!(null), &json!(2)), "{}", check.text);
}

#[tokio::test]
async fn while_s3_is_away_output_is_unavailable_and_afterwards_it_is_there() {
    Box::pin(a_store_that_is_away_is_an_error(Kind::S3)).await;
}

#[tokio::test]
async fn while_a_directory_is_not_mounted_output_is_unavailable_and_afterwards_it_is_there() {
    Box::pin(a_store_that_is_away_is_an_error(Kind::Directory)).await;
}

#[tokio::test]
async fn a_master_without_the_setting_says_where_the_output_is() {
    let mut scene = Scene::set(Kind::Directory).await;
    let job = scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    scene.move_all().await;
    let scene = Box::pin(scene.restart_without_store()).await;
    let answer = scene.stage.client.get(&format!("/jobs/{job}/output")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text.contains("GAFFER_OUTPUT_STORE"), "{}", answer.text);
    assert!(!answer.text.contains("try again"), "nothing changes until it is set: {}", answer.text);
    let check = scene.stage.client.post("/system/output-store/check", &json!({})).await;
    assert!(check.body["problem"].as_str().unwrap().contains("GAFFER_OUTPUT_STORE"), "{}", check.text);
}

#[tokio::test]
async fn an_object_that_is_damaged_or_missing_is_named() {
    let mut scene = Scene::set(Kind::S3).await;
    let job = scene.run(&[(Stream::Stdout, b"one\ntwo\n".to_vec())]).await;
    let other = scene.run(&[(Stream::Stdout, b"intact\n".to_vec())]).await;
    scene.move_all().await;
    let name: String = scene.text("SELECT name FROM output_objects ORDER BY task_id LIMIT 1").await;
    let file = scene.objects().into_iter().find(|path| path.ends_with(&name)).unwrap();

    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() - 2;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let scene = Box::pin(scene.restart()).await;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let answer = all_fail(&scene.stage.client, job, status, "output_lost").await;
    assert!(answer.text.contains(&name) && answer.text.contains("is damaged"), "{}", answer.text);

    std::fs::remove_file(&file).unwrap();
    let answer = all_fail(&scene.stage.client, job, status, "output_lost").await;
    assert!(answer.text.contains(&name) && answer.text.contains("is missing"), "{}", answer.text);
    assert_eq!(scene.stage.client.output(other).await, b"intact\n");
    assert_eq!(scene.mover().run_once().await.unwrap().done, 0);
}

#[tokio::test]
async fn output_that_is_not_complete_is_never_moved() {
    let mut scene = Scene::set(Kind::Directory).await;
    // It runs.
    let small = json!({"cpu": 0.1});
    let live = scene.stage.client.submit(json!({"script": "true", "resources": small})).await;
    let running = scene.worker.next_start().await.attempt;
    scene.worker.started(running).await;
    scene.worker.output(running, 0, Stream::Stdout, b"live\n").await;
    scene.stage.client.in_state(live, "running").await;
    // Its job runs on, though its own attempt is over.
    let restart = json!({"policy": "on-failure", "limit": 1, "delay": "0s"});
    let again =
        scene.stage.client.submit(json!({"script": "true", "restart": restart, "resources": small})).await;
    let first = scene.worker.next_start().await.attempt;
    scene.worker.output(first, 0, Stream::Stdout, b"first\n").await;
    scene.worker.ended(first, AttemptEnd::Exited { code: 1 }, 6).await;
    let second = scene.worker.next_start().await.attempt;
    // A part of it was refused and may still be put back.
    let refused = scene.run(&[(Stream::Stdout, b"refused\n".to_vec())]).await;
    scene.set_aside_output_of(refused).await;
    scene.move_all().await;
    assert_eq!(scene.count("output_objects").await, 0);
    assert_eq!(scene.stage.client.output(refused).await, b"refused\n");

    scene.sql("DELETE FROM dead_letters").await;
    scene.worker.output(second, 0, Stream::Stdout, b"second\n").await;
    scene.worker.ended(second, AttemptEnd::Exited { code: 0 }, 7).await;
    scene.stage.client.finished(again).await;
    scene.move_all().await;
    assert_eq!(scene.count("output_objects").await, 3, "of both attempts, and what was refused before");
    let earlier = scene.stage.client.get(&format!("/jobs/{again}/output?attempt=1")).await;
    assert_eq!(earlier.text, "first\n");
    let unmoved: i64 = scene.number("SELECT count(*) FROM jobs WHERE NOT output_moved").await;
    assert_eq!(unmoved, 1, "the one that runs");

    scene.worker.output(running, 5, Stream::Stdout, b"more\n").await;
    eventually("output of a live attempt goes on", async || {
        (scene.stage.client.output(live).await == b"live\nmore\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn output_of_an_attempt_whose_end_was_never_reported_stays_in_the_database() {
    let mut scene = Scene::set(Kind::Directory).await;
    let job = scene.run(&[(Stream::Stdout, b"lost\n".to_vec())]).await;
    scene.sql("UPDATE finished_tasks SET output_bytes = NULL").await;
    scene.move_all().await;
    assert_eq!(scene.count("output_objects").await, 0);
    assert_eq!(scene.stage.client.output(job).await, b"lost\n");
    assert_eq!(
        scene.number("SELECT count(*) FROM jobs WHERE output_moved").await,
        1,
        "it is not looked at again"
    );
}

#[tokio::test]
async fn a_worker_that_repeats_moved_output_is_told_that_it_is_stored() {
    let mut scene = Scene::set(Kind::Directory).await;
    let job = scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    let attempt = scene.last.unwrap();
    scene.move_all().await;
    let mut scene = Box::pin(scene.restart_with_worker(hello("w"))).await;
    scene.worker.output(attempt, 0, Stream::Stdout, b"one\n").await;
    scene.worker.ended(attempt, AttemptEnd::Exited { code: 0 }, 4).await;
    let (mut is_output_stored, mut is_end_stored) = (false, false);
    scene
        .worker
        .hear_until(|said| {
            match said {
                ToWorker::OutputStored { attempt: stored, offset } if stored == attempt => {
                    assert_eq!(offset, 4);
                    is_output_stored = true;
                }
                ToWorker::EndStored { attempt: ended } if ended == attempt => is_end_stored = true,
                _ => {}
            }
            (is_output_stored && is_end_stored).then_some(())
        })
        .await;
    assert_eq!(scene.stage.client.output(job).await, b"one\n");
    assert_eq!(scene.count("output_chunks").await, 0, "nothing is stored twice");
}

#[tokio::test]
async fn output_stays_in_the_database_for_as_long_as_it_was_told_to() {
    let mut scene = Scene::set(Kind::Directory).await;
    scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    let mut mover = scene.mover_after("1h");
    while mover.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("output_objects").await, 0);
    scene.sql("UPDATE jobs SET finished_at = finished_at - interval '61 minutes'").await;
    while mover.run_once().await.unwrap().again_after.is_some() {}
    assert_eq!(scene.count("output_objects").await, 1);
}

#[tokio::test]
async fn a_master_that_leads_no_more_moves_nothing() {
    let mut scene = Scene::set(Kind::Directory).await;
    scene.run(&[(Stream::Stdout, b"one\n".to_vec())]).await;
    let mut mover = scene.mover();
    scene.sql("UPDATE leadership SET term = term + 1").await;
    assert!(matches!(mover.run_once().await, Err(StoreError::NotLeader)));
    assert_eq!((scene.count("output_objects").await, scene.count("output_chunks").await), (0, 1));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_the_start_with_what_to_write() {
    for (address, told) in [
        ("s3//bucket", "not a URL"),
        ("ftp://host/place", "ftp:// is not supported"),
        ("file:///nonexistent/place", "Create it"),
        ("az://container", "docs/operations.md"),
    ] {
        let args = ["master", "--api-addr", "127.0.0.1:0", "--dashboard-addr", "127.0.0.1:0"];
        let mut master = command(&[&args[..], &["--worker-addr", "127.0.0.1:0"]].concat());
        master.env("DATABASE_URL", "postgres://127.0.0.1:1/none").env("GAFFER_OUTPUT_STORE", address);
        let output = master.output().await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success());
        assert!(said.contains(told), "{address}: {said}");
    }
}
