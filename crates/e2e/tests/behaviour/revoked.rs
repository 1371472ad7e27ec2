//! What ends with a key or a session in a browser: connections of workers, and responses that go on.

use futures::StreamExt;
use gaffer_e2e::client::script;
use gaffer_e2e::raw_worker::{RawWorker, dial, goodbye, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_protocol::wire::GoodbyeCode;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

#[tokio::test]
async fn revoking_a_key_ends_the_sessions_that_it_opened() {
    let stage = Stage::set().await;
    let created = stage.client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await;
    let key = created.body["key"].as_str().unwrap();
    let mut worker = RawWorker::connect(&stage.worker_url(), key, hello("w")).await;
    let id = created.body["id"].as_i64().unwrap();
    let revoked = std::time::Instant::now();
    assert_eq!(stage.client.delete(&format!("/keys/{id}")).await.status, 204);
    let (code, _) = goodbye(worker.hear().await);
    assert_eq!(code, GoodbyeCode::KeyRevoked);
    // Keys are looked at every half minute, too; the first look was taken when the master started.
    assert!(revoked.elapsed().as_secs() < 20, "at once, not when somebody looks");
    assert!(dial(&stage.worker_url(), key).await.is_err());
}

/// What comes at the end of a response, and whether it breaks off.
async fn rest_of(response: reqwest::Response) -> (String, bool) {
    let (mut pieces, mut text) = (response.bytes_stream(), Vec::new());
    let is_broken = loop {
        match tokio::time::timeout(*PATIENCE, pieces.next()).await.expect("it does not end") {
            Some(Ok(piece)) => text.extend_from_slice(&piece),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    (String::from_utf8(text).unwrap(), is_broken)
}

#[tokio::test]
async fn what_the_holder_of_a_key_follows_ends_with_the_key() {
    let stage = Stage::set().await;
    let job = stage.client.submit(script("true")).await;
    let other = stage.client.open("/events", "text/event-stream").await;
    for is_revoked in [true, false] {
        let new = json!({"kind": "user", "name": "ci", "expires_in_seconds": 600});
        let created = stage.client.post("/keys", &new).await;
        let client = stage.client.with_key(created.body["key"].as_str().unwrap());
        let output = format!("/jobs/{job}/output?follow=1");
        let events = client.open("/events", "text/event-stream").await;
        let followed = client.open(&output, "text/event-stream").await;
        let lines = client.open(&output, "application/x-ndjson").await;
        let found = client.open(&format!("{output}&q=x"), "application/x-ndjson").await;
        let raw = client.open(&output, "*/*").await;
        if is_revoked {
            let answer = stage.client.delete(&format!("/keys/{}", created.body["id"])).await;
            assert_eq!(answer.status, 204);
        } else {
            // Ten minutes pass, and it looks now and then.
            let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
            let pass = "UPDATE keys SET expires_at = now() WHERE id = $1";
            let id = created.body["id"].as_i64().unwrap();
            sqlx::query(pass).bind(id).execute(&mut database).await.unwrap();
            stage.running.control.wakes.key_check.call();
        }
        for stream in [events, followed] {
            let (text, is_broken) = rest_of(stream).await;
            let last = text.rsplit("event: ").next().unwrap();
            assert!(last.starts_with("error\ndata: {") && last.contains("\"key_revoked\""), "{text}");
            assert!(!is_broken, "{text}");
        }
        for stream in [lines, found] {
            let (text, is_broken) = rest_of(stream).await;
            assert!(
                is_broken && text.starts_with("{\"error\":{") && text.contains("\"key_revoked\""),
                "{text}"
            );
        }
        assert_eq!(rest_of(raw).await, (String::new(), true));
    }
    // Somebody else's goes on.
    let number = stage.client.submit(script("true")).await;
    let mut pieces = other.bytes_stream();
    let mut text = String::new();
    while !text.contains(&format!("\"job\":{number}")) {
        text.push_str(std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap());
    }
}

#[tokio::test]
async fn what_a_browser_follows_ends_with_its_session() {
    let stage = Stage::set().await;
    for has_signed_out in [true, false] {
        let cookie = stage.sign_in(&stage.client).await;
        let page = stage.page("/events/live?after=0", &cookie).await;
        let events = reqwest::Client::new()
            .get(format!("http://{}/api/v1/events", stage.running.dashboard))
            .header("accept", "text/event-stream")
            .header("cookie", &cookie)
            .send()
            .await
            .unwrap();
        assert_eq!((page.status().as_u16(), events.status().as_u16()), (200, 200));
        if has_signed_out {
            let out = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
            let out = out.post(format!("http://{}/logout", stage.running.dashboard));
            assert!(out.header("cookie", &cookie).send().await.unwrap().status().is_redirection());
        } else {
            let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
            let pass = "UPDATE web_sessions SET expires_at = now()";
            sqlx::query(pass).execute(&mut database).await.unwrap();
            stage.running.control.wakes.key_check.call();
        }
        for stream in [page, events] {
            let (text, is_broken) = rest_of(stream).await;
            assert!(!is_broken && text.contains("event: error\ndata: {"), "{text}");
            assert!(text.contains("\"session_ended\""), "{text}");
        }
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_before_the_hello_opens_no_session() {
    let stage = Stage::set().await;
    let created = stage.client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await;
    let socket = dial(&stage.worker_url(), created.body["key"].as_str().unwrap()).await.unwrap();
    assert_eq!(stage.client.delete(&format!("/keys/{}", created.body["id"])).await.status, 204);
    let (code, _) = goodbye(RawWorker::begin(socket, hello("w")).await.err().unwrap());
    assert_eq!(code, GoodbyeCode::KeyRevoked);
}

#[tokio::test]
async fn a_key_that_expires_ends_the_sessions_that_it_opened_and_opens_no_more() {
    let stage = Stage::set().await;
    let new = json!({"kind": "worker", "name": "guest", "expires_in_seconds": 600});
    let created = stage.client.post("/keys", &new).await;
    let key = created.body["key"].as_str().unwrap();
    let mut worker = RawWorker::connect(&stage.worker_url(), key, hello("w")).await;
    // Ten minutes pass.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let pass = "UPDATE keys SET expires_at = now() WHERE expires_at > now() + interval '8 minutes'";
    let passed = sqlx::query(pass).execute(&mut database).await.unwrap();
    assert_eq!(passed.rows_affected(), 1);
    eventually("the key has expired", async || dial(&stage.worker_url(), key).await.is_err().then_some(()))
        .await;
    // It looks now and then.
    stage.running.control.wakes.key_check.call();
    let (code, _) = goodbye(worker.hear().await);
    assert_eq!(code, GoodbyeCode::KeyRevoked);
}
