//! Clients that guess keys, links and cookies are slowed down; clients with a good one are not.

use gaffer_e2e::client::Answer;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, dial, hello};
use gaffer_e2e::stage::{Stage, key};
use gaffer_master::secret::{NewSecret, Purpose};
use reqwest::StatusCode;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

/// Tries keys that nobody has until one is refused unseen; returns that refusal.
async fn slowed_down(stage: &Stage) -> Answer {
    for _ in 0..300 {
        let guess = NewSecret::new(Purpose::UserKey).text;
        let answer = stage.client.with_key(&guess).get("/jobs").await;
        if answer.status != StatusCode::UNAUTHORIZED {
            return answer;
        }
        assert_eq!(answer.body["code"], "key_invalid");
    }
    panic!("300 keys that nobody has were looked up");
}

#[tokio::test]
async fn a_client_that_guesses_keys_has_to_wait() {
    let stage = Stage::set().await;
    let answer = slowed_down(&stage).await;
    assert_eq!(
        (answer.status, answer.body["code"].as_str()),
        (StatusCode::TOO_MANY_REQUESTS, Some("too_many_attempts"))
    );
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    let guess = NewSecret::new(Purpose::WorkerKey).text;
    let Err(Error::Http(response)) = dial(&stage.worker_url(), &guess).await else { panic!("it was let in") };
    assert_eq!(response.status(), 429);
    let page = stage.page(&format!("/login?token={}", NewSecret::new(Purpose::LoginLink).text), "").await;
    assert_eq!(page.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(page.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn a_good_key_passes_from_an_address_that_guesses() {
    let stage = Stage::set().await;
    let master = &stage.running.control;
    // None of these was seen by the master before.
    let (user_key, worker_key) = (key(master, Purpose::UserKey).await, key(master, Purpose::WorkerKey).await);
    let link = stage.running.sign_in_url(60).await.unwrap();
    slowed_down(&stage).await;
    assert_eq!(stage.client.with_key(&user_key).get("/jobs").await.status, StatusCode::OK);
    RawWorker::connect(&stage.worker_url(), &worker_key, hello("w")).await;
    let signed_in = stage.page(&link[link.find("/login").unwrap()..], "").await;
    assert_eq!(signed_in.status(), StatusCode::OK);
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(stage.page("/jobs", &cookie).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_crowd_with_one_key_that_the_master_has_not_seen_yet_gets_in_at_once() {
    let stage = Stage::set().await;
    let client = stage.client.with_key(&key(&stage.running.control, Purpose::UserKey).await);
    // A master that is too busy to look says so, and is asked again.
    let looked_up = async || {
        let answer = client.get("/jobs").await;
        (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer.status)
    };
    let asking = (0..300).map(|_| eventually("an answer", looked_up));
    let answers = futures::future::join_all(asking).await;
    assert!(answers.iter().all(|status| *status == StatusCode::OK), "{answers:?}");
}

#[tokio::test]
async fn a_key_that_was_good_is_looked_up_again() {
    let stage = Stage::set().await;
    let created = stage.client.post("/keys", &json!({"kind": "user", "name": "ci"})).await;
    let client = stage.client.with_key(created.body["key"].as_str().unwrap());
    assert_eq!(client.get("/jobs").await.status, StatusCode::OK);
    slowed_down(&stage).await;
    stage.client.delete(&format!("/keys/{}", created.body["id"])).await;
    // It meets the limit of those that nobody has.
    assert_eq!(client.get("/jobs").await.status, StatusCode::TOO_MANY_REQUESTS);
}
