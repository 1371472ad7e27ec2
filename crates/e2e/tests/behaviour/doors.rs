//! Bad input at every door: an error that says what is wrong, and nothing lost or disturbed.

use gaffer_e2e::client::script;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

/// Every answer to bad input is a problem document with a 4xx status.
fn assert_problem(what: &str, answer: &gaffer_e2e::client::Answer) {
    assert!(answer.status.is_client_error(), "{what}: {} {}", answer.status, answer.text);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    let problem: gaffer_protocol::rest::Problem = serde_json::from_value(answer.body.clone()).unwrap();
    assert_eq!(problem.status, answer.status.as_u16());
    assert!(
        !problem.code.is_empty() && !problem.detail.is_empty() && !problem.request_id.is_empty(),
        "{what}"
    );
}

#[tokio::test]
async fn numbers_that_are_none_are_refused_on_every_route() {
    let stage = Stage::set().await;
    let ids =
        ["abc", "-1", "0", "1.5", "99999999999999999999", "%00", "%F0%9F%A6%80", "1%202", "NaN", "'", "%25"];
    for id in ids {
        for path in ["", "/explain", "/events", "/output", "/tasks", "/tasks/main", "/tasks/main/output"] {
            let path = format!("/jobs/{id}{path}");
            assert_problem(&path, &stage.client.get(&path).await);
        }
        for path in ["stop", "rerun", "tasks/main/signal"] {
            let path = format!("/jobs/{id}/{path}");
            assert_problem(&path, &stage.client.post(&path, &json!({"signal": "SIGINT"})).await);
        }
        assert_problem(id, &stage.client.delete(&format!("/jobs/{id}")).await);
        assert_problem(id, &stage.client.delete(&format!("/keys/{id}")).await);
        assert_problem(id, &stage.client.get(&format!("/workers/{id}")).await);
    }
    for address in ["nobody", "main.1", "main.x", "main.99999999999", "%00", "main%00", ".", "main."] {
        let job = stage.client.submit(script("true")).await;
        let path = format!("/jobs/{job}/tasks/{address}");
        assert_problem(&path, &stage.client.get(&path).await);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_what_is_not_allowed_says_so() {
    let stage = Stage::set().await;
    for path in ["/jobs/424242", "/workers/nobody", "/nonsense", "/jobs/424242/output"] {
        let answer = stage.client.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text);
        assert_problem(path, &answer);
    }
    let answer = stage.client.request(Method::PUT, "/jobs").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn queries_with_mistakes_are_refused_with_a_suggestion() {
    let stage = Stage::set().await;
    let unknown = stage.client.get("/jobs?stat=failed").await;
    assert_problem("stat", &unknown);
    assert_eq!(unknown.body["errors"][0]["suggestion"], "did you mean `state`?");
    let job = stage.client.submit(script("true")).await;
    let queries = [
        "/jobs?state=sleeping",
        "/jobs?limit=0",
        "/jobs?limit=501",
        "/jobs?limit=x",
        "/jobs?cursor=x",
        "/jobs?cursor=c99999999999999999999",
        "/jobs?label=x",
        "/jobs?label=%00%3D%00",
        "/jobs?driver=rocket",
        "/jobs?worker=nobody",
        "/jobs?name=a&name=b",
        "/workers?state=happy",
        "/events?after=x",
        "/keys?cursor=1",
        &format!("/jobs/{job}?wait=x"),
        &format!("/jobs/{job}?wait=1s&until=never"),
        &format!("/jobs/{job}/tasks?state=zombie"),
        &format!("/jobs/{job}/tasks?cursor=c1"),
        &format!("/jobs/{job}/output?lines=0-1"),
        &format!("/jobs/{job}/output?lines=2-1"),
        &format!("/jobs/{job}/output?lines=1-2&tail=1"),
        &format!("/jobs/{job}/output?follow=maybe"),
        &format!("/jobs/{job}/output?stream=stdin"),
        &format!("/jobs/{job}/output?attempt=7"),
        &format!("/jobs/{job}/output?offset=-1"),
    ];
    for path in queries {
        assert_problem(path, &stage.client.get(path).await);
    }
}

#[tokio::test]
async fn headers_with_mistakes_are_refused() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let long = "x".repeat(256);
    for (path, name, value) in [
        (format!("/jobs/{job}/output"), "range", "lines=1-2"),
        (format!("/jobs/{job}/output"), "range", "bytes=x-y"),
        ("/events".to_owned(), "last-event-id", "x"),
    ] {
        let request = stage.client.request(Method::GET, &path).header(name, value);
        let request =
            if name == "last-event-id" { request.header("accept", "text/event-stream") } else { request };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name}: {value}");
    }
    let request = stage.client.request(Method::POST, "/jobs").header("idempotency-key", long);
    assert_eq!(request.json(&script("true")).send().await.unwrap().status(), StatusCode::BAD_REQUEST);
    let out_of_range =
        stage.client.request(Method::GET, &format!("/jobs/{job}/output")).header("range", "bytes=5-");
    assert_eq!(out_of_range.send().await.unwrap().status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn specifications_with_mistakes_are_refused_with_all_of_them() {
    let stage = Stage::set().await;
    let answer = stage
        .client
        .post("/jobs", &json!({"comand": ["true"], "priority": 200, "resources": {"memory": "lots"}}))
        .await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors = answer.body["errors"].as_array().unwrap();
    let pointers: Vec<&str> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    for pointer in ["/comand", "/priority", "/resources/memory"] {
        assert!(pointers.contains(&pointer), "{pointer} is not in {pointers:?}");
    }
    assert!(answer.text.contains("did you mean `command`?"), "{}", answer.text);
}

#[tokio::test]
async fn bodies_that_are_no_json_or_too_large_or_too_deep_are_refused() {
    let stage = Stage::set().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("{{\"script\": \"{}\"}}", "x".repeat(3 << 20));
    let medium = format!("{{\"script\": \"{}\"}}", "x".repeat(1 << 20));
    for body in
        ["", "{", "null", "[]", "42", "\"x\"", "\u{0}", "{\"script\": \"\\u0000\"}", &deep, &large, &medium]
    {
        let request = stage.client.request(Method::POST, "/jobs").header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let shown: String = body.chars().take(30).collect();
        assert!(status.is_client_error(), "{shown:?}: {status} {text}");
        assert!(serde_json::from_str::<Value>(&text).unwrap()["code"].is_string(), "{shown:?}: {text}");
    }
    let request = stage.client.request(Method::POST, "/jobs").header("content-type", "text/csv");
    assert_eq!(request.body("script: true").send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn nobody_gets_in_without_a_good_key() {
    let stage = Stage::set().await;
    let worker_key = stage.worker_key.clone();
    for key in ["%", "", "gfu_", "x' OR 1=1 --", &"x".repeat(5_000), &worker_key] {
        let client = stage.client.with_key(key);
        for path in ["/jobs", "/keys", "/workers", "/events"] {
            let answer = client.get(path).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{key}: {}", answer.text);
            assert_problem(key, &answer);
        }
    }
    assert_eq!(stage.client.with_key("%").get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_editor_gets_the_schema_of_a_job_without_a_key() {
    let stage = Stage::set().await;
    let answer = stage.client.with_key("%").get("/schema/job.json").await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (StatusCode::OK, &"application/schema+json".parse().unwrap())
    );
    assert_eq!(answer.body, gaffer_domain::spec::schema::of_job());
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_then_on() {
    let stage = Stage::set().await;
    let created = stage.client.post("/keys", &json!({"kind": "user", "name": "ci"})).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let key = created.body["key"].as_str().unwrap();
    let client = stage.client.with_key(key);
    assert_eq!(client.get("/jobs").await.status, StatusCode::OK);
    let listed = stage.client.get("/keys").await;
    assert!(!listed.text.contains(key), "a listed key shows itself");
    assert!(listed.text.contains(&key[..10]));
    let id = created.body["id"].as_i64().unwrap();
    assert_eq!(stage.client.delete(&format!("/keys/{id}")).await.status, StatusCode::NO_CONTENT);
    let answer = client.get("/jobs").await;
    assert_eq!(
        (answer.status, answer.body["code"].as_str()),
        (StatusCode::UNAUTHORIZED, Some("key_invalid"))
    );
    for bad in
        [json!({"kind": "root", "name": "x"}), json!({"kind": "user", "name": ""}), json!({"kind": "user"})]
    {
        assert_problem("new key", &stage.client.post("/keys", &bad).await);
    }
}

#[tokio::test]
async fn a_key_is_kept_in_no_form_that_lets_anybody_in() {
    let stage = Stage::set().await;
    let created = stage.client.post("/keys", &json!({"kind": "user", "name": "ci"})).await;
    let key = created.body["key"].as_str().unwrap();
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT keys::text FROM keys").fetch_all(&mut database).await.unwrap();
    // All but the beginning, which is there to recognise it by; bytes show as hexadecimal.
    let part = &key[10..20];
    let hex: String = part.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(rows.iter().any(|row| row.contains(&key[..10])));
    assert!(rows.iter().all(|row| !row.contains(part) && !row.contains(&hex)), "{rows:?}");
}

#[tokio::test]
async fn actions_that_do_not_apply_conflict_and_name_the_state() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let rerun = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await;
    assert_eq!((rerun.status, rerun.body["state"].as_str()), (StatusCode::CONFLICT, Some("pending")));
    let delete = stage.client.delete(&format!("/jobs/{job}")).await;
    assert_eq!((delete.status, delete.body["state"].as_str()), (StatusCode::CONFLICT, Some("pending")));
    let stopped = stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!((stopped.status, stopped.body["state"].as_str()), (StatusCode::ACCEPTED, Some("cancelled")));
    let again = stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!((again.status, again.body["state"].as_str()), (StatusCode::CONFLICT, Some("cancelled")));
    let rerun = stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await;
    assert_eq!((rerun.status, rerun.body["rerun_of"].as_i64()), (StatusCode::CREATED, Some(job)));
    assert_eq!(stage.client.delete(&format!("/jobs/{job}")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(stage.client.get(&format!("/jobs/{job}")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_same_request_twice_makes_one_job() {
    let stage = Stage::set().await;
    let send = async |body: Value| {
        let request = stage.client.request(Method::POST, "/jobs").header("idempotency-key", "abc");
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let (first, job) = send(script("true")).await;
    let (second, again) = send(script("true")).await;
    let (other, problem) = send(script("false")).await;
    assert_eq!(
        (first, second, other),
        (StatusCode::CREATED, StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY)
    );
    assert_eq!(job["id"], again["id"]);
    assert_eq!(problem["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn another_site_cannot_make_a_browser_write_here() {
    let stage = Stage::set().await;
    let http = reqwest::Client::new();
    let url = format!("http://{}/api/v1/jobs", stage.running.dashboard);
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let answer = http.post(&url).header(name, value).json(&script("true")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
}

/// What a form of a page sends, and the text of the answer.
async fn press(stage: &Stage, cookie: &str, path: &str, form: &'static str) -> (StatusCode, String) {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let own = format!("http://{}", stage.running.dashboard);
    let request = http.post(format!("{own}{path}")).header("origin", &own).header("cookie", cookie);
    let request = request.header("accept", "text/html");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_page_refuses_what_the_api_refuses_and_in_the_same_words() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let _worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(json!({"script": "true", "resources": {"cpu": 99}})).await;
    let refusals = [
        (
            stage.client.post(&format!("/jobs/{job}/rerun"), &json!({})).await,
            format!("/jobs/{job}/rerun"),
            "",
        ),
        (stage.client.delete(&format!("/jobs/{job}")).await, format!("/jobs/{job}/delete"), ""),
        (stage.client.delete("/workers/w").await, "/workers/w/remove".to_owned(), ""),
        (
            stage.client.post("/workers/w/drain", &json!({"deadline": "30d"})).await,
            "/workers/w/drain".to_owned(),
            "deadline=30d",
        ),
        (
            stage.client.post("/keys", &json!({"kind": "user", "name": " "})).await,
            "/keys".to_owned(),
            "kind=user&name=+",
        ),
        (
            stage.client.post("/dead-letters/7/retry", &json!({})).await,
            "/system/dead-letters/7/retry".to_owned(),
            "",
        ),
    ];
    for (of_api, path, form) in refusals {
        assert_problem(&path, &of_api);
        let (status, page) = press(&stage, &cookie, &path, form).await;
        let detail = of_api.body["detail"].as_str().unwrap();
        // The first letter is a capital one on a page.
        assert!(page.contains(&detail[1..]), "{path}: {detail}: {page}");
        // A form that can be filled in again is shown again.
        assert!(status == of_api.status || path == "/keys", "{path}: {status} {}", of_api.status);
    }
    let own = stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    assert_eq!(own.status, StatusCode::ACCEPTED, "{}", own.text);
}

#[tokio::test]
async fn the_page_of_a_task_says_where_it_runs() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello("w")).await;
    let job = stage.client.submit(json!({"command": ["true"], "workdir": "/srv/nightly"})).await;
    worker.next_start().await;
    let page = stage.page(&format!("/jobs/{job}/tasks/main"), &cookie).await.text().await.unwrap();
    assert!(page.contains("/srv/nightly"), "{page}");
}
