//! `gaffer login` without a key: a user allows it in the dashboard.

use std::process::Stdio;

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::Client;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{command, data_dir};
use gaffer_e2e::stage::Stage;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::pages::look_at;
use super::people::Person;

/// A client without a key.
fn stranger(stage: &Stage) -> Client {
    stage.client.with_key("none")
}

async fn begin(stage: &Stage) -> Value {
    let begun = stranger(stage).post("/device/authorization", &json!({"client": "laptop\u{202e}\n"})).await;
    assert_eq!(begun.status, 200, "{}", begun.text);
    begun.body
}

async fn poll(stage: &Stage, begun: &Value) -> (StatusCode, Value) {
    let answer = stranger(stage).post("/device/token", &json!({"device_code": begun["device_code"]})).await;
    (answer.status, if answer.status.is_success() { answer.body } else { answer.body["code"].clone() })
}

async fn send(stage: &Stage, project: &str, cookie: &str, form: &str) -> Response {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = http.post(format!("http://{}/projects/{project}/device", stage.running.dashboard));
    let request = request.header(ACCEPT, "text/html").header(COOKIE, cookie);
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body(form.to_owned()).send().await.unwrap()
}

/// Allows a login as the administrator.
pub async fn allow(stage: &Stage, code: &str) {
    let cookie = stage.sign_in(&stage.client).await;
    let allowed = send(stage, "default", &cookie, &format!("code={code}&decision=allow&read=1")).await;
    assert_eq!(allowed.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_command_gets_the_key_that_its_user_allows_once_and_nothing_before() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "operator").await;
    let begun = begin(&stage).await;
    assert_eq!((&begun["interval"], &begun["expires_in"]), (&json!(5), &json!(600)));
    let code = begun["user_code"].as_str().unwrap();
    let link = begun["verification_uri_complete"].as_str().unwrap();
    assert!(link.ends_with(&format!("/device?code={code}")), "{link}");
    assert_eq!(poll(&stage, &begun).await, (StatusCode::BAD_REQUEST, json!("authorization_pending")));
    assert_eq!(poll(&stage, &begun).await, (StatusCode::BAD_REQUEST, json!("slow_down")));

    // The page says who asks, and from where. Who is not signed in signs in first.
    let page = stage.page_at(&format!("/device?code={code}"), "").await;
    assert_eq!(page.headers()["location"], format!("/login?next=%2Fdevice%3Fcode%3D{code}"));
    let page = stage
        .page_at(&format!("/projects/default/device?code={code}"), &ana.cookie)
        .await
        .text()
        .await
        .unwrap();
    for part in ["laptop", "127.0.0.1", code, "only if you ran", "project <strong>default</strong>"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains('\u{202e}'), "{page}");

    let allow = format!("code={code}&decision=allow&read=1&submit=1&expires=3600");
    let allowed = send(&stage, "default", &ana.cookie, &allow).await;
    assert!(allowed.text().await.unwrap().contains("The command is logged in"));
    let (status, key) = poll(&stage, &begun).await;
    assert_eq!(status, StatusCode::OK, "{key}");
    assert_eq!((&key["user"], &key["project"]), (&json!("ana"), &json!("default")));
    let client = stage.client.with_key(key["key"].as_str().unwrap());
    assert!(client.get("/jobs").await.status.is_success());
    assert_eq!(client.get("/secrets").await.status, 403, "only what was ticked");
    let keys = stage.client.get("/keys").await;
    let own = keys.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["name"] == "gaffer login on laptop")
        .cloned();
    let own = own.unwrap_or_else(|| panic!("{}", keys.text));
    assert_eq!(own["scopes"], json!(["read", "submit"]));
    assert!(own["expires_at"].is_string(), "{own}");
    let log = stage.client.get("/audit").await;
    assert!(log.text.contains("user key gaffer login on laptop"), "{}", log.text);

    // Once.
    assert_eq!(poll(&stage, &begun).await, (StatusCode::BAD_REQUEST, json!("expired_token")));
    let again = send(&stage, "default", &ana.cookie, &allow).await;
    assert_eq!(again.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_refused_login_gives_no_key_and_codes_cannot_be_guessed() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "viewer").await;
    let begun = begin(&stage).await;
    let code = begun["user_code"].as_str().unwrap();
    // Another site, somebody without a session, a key: none of them decides.
    let url = format!("http://{}/projects/default/device", stage.running.dashboard);
    let form = format!("code={code}&decision=allow&read=1");
    let request =
        reqwest::Client::new().post(&url).header(COOKIE, &ana.cookie).header("origin", "http://evil.example");
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    assert_eq!(request.body(form.clone()).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(send(&stage, "default", "", &form).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(poll(&stage, &begun).await.1, "authorization_pending");
    // Without a scope there is no key, and the login can still be decided.
    let none = send(&stage, "default", &ana.cookie, &format!("code={code}&decision=allow")).await;
    assert_eq!(none.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let refused = send(&stage, "default", &ana.cookie, &format!("code={code}&decision=deny")).await;
    assert!(refused.text().await.unwrap().contains("The login was refused"));
    assert_eq!(poll(&stage, &begun).await, (StatusCode::BAD_REQUEST, json!("access_denied")));
    assert_eq!(poll(&stage, &begun).await.1, "expired_token");
    let nonsense = json!({"device_code": "gfd_nonsense"});
    assert_eq!(stranger(&stage).post("/device/token", &nonsense).await.body["code"], "expired_token");

    // Guesses are limited by user, and waiting logins by address.
    let mut guesses = 0;
    loop {
        let page = stage.page_at("/projects/default/device?code=BBBB-BBBB", &ana.cookie).await;
        if page.status() != StatusCode::UNPROCESSABLE_ENTITY {
            assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
            break;
        }
        guesses += 1;
        assert!(guesses < 100, "nobody limits guesses");
    }
    let mut begun = 0;
    while stranger(&stage).post("/device/authorization", &json!({})).await.status.is_success() {
        begun += 1;
        assert!(begun < 100, "nobody limits logins");
    }
}

#[tokio::test]
async fn gaffer_login_waits_for_its_user_in_the_browser_and_stores_the_key() {
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let stage = Stage::set().await;
    let home = data_dir();
    let url = format!("http://{}", stage.running.api);
    let mut login = command(&["login", &url, "--device"]);
    let mut login = login.env("XDG_CONFIG_HOME", home.path()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(login.stderr.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let link = first.strip_prefix("Open ").unwrap().to_owned();
    let second = lines.next_line().await.unwrap().unwrap();
    let code = second.rsplit(' ').next().unwrap().to_owned();

    let signs_in =
        stage.client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
    browser.visit(&signs_in).await;
    eventually("the browser is signed in", async || {
        browser.window.current_url().await.unwrap().path().contains("/projects/").then_some(())
    })
    .await;
    let page = format!("http://{}/projects/default/device", stage.running.dashboard);
    look_at(&browser, &page, "device-code").await;
    look_at(&browser, &format!("{page}?code={code}"), "device").await;
    browser.resize(1280, 900).await;
    browser.visit(&link).await;
    browser.shows(&code).await;
    browser.click("button[value=allow]").await;
    browser.shows("The command is logged in").await;
    let status = login.wait().await.unwrap();
    assert!(status.success());
    let jobs = command(&["jobs"]).env("XDG_CONFIG_HOME", home.path()).output().await.unwrap();
    assert!(jobs.status.success(), "{jobs:?}");
    browser.close().await;
}
