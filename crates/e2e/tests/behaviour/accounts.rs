//! Passwords, browser sessions, invitations and registration.

use std::time::{Duration, Instant};

use gaffer_e2e::browser::{Browser as Chromium, Scheme};
use gaffer_e2e::client::Answer;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::stage::Stage;
use gaffer_master::config::MasterConfig;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE, USER_AGENT};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::pages::look_at;
use super::people::Person;

const PASSWORD: &str = "correct horse battery";

/// A browser, perhaps signed in.
struct Browser<'a> {
    stage: &'a Stage,
    cookie: String,
}

impl<'a> Browser<'a> {
    fn of(stage: &'a Stage) -> Browser<'a> {
        Browser { stage, cookie: String::new() }
    }

    fn signed_in(stage: &'a Stage, person: &Person) -> Browser<'a> {
        Browser { stage, cookie: person.cookie.clone() }
    }

    async fn get(&self, path: &str) -> Response {
        self.stage.page(path, &self.cookie).await
    }

    /// Sends a form, and keeps the cookie of the answer.
    async fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let response = http
            .post(format!("http://{}{path}", self.stage.running.dashboard))
            .header(ACCEPT, "text/html")
            .header(COOKIE, &self.cookie)
            .header(USER_AGENT, "Testbrowser/1.0")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.join("&"))
            .send()
            .await
            .unwrap();
        if let Some(set) = response.headers().get(SET_COOKIE) {
            self.cookie = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        }
        response
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> Response {
        self.send("/login", &[("name", name), ("password", password)]).await
    }

    async fn is_signed_in(&self) -> bool {
        self.get("/jobs").await.status() == StatusCode::OK
    }
}

fn path_of(url: &Value) -> String {
    let url = url.as_str().unwrap();
    url[url.find("//").unwrap() + 2..].split_once('/').map(|(_, path)| format!("/{path}")).unwrap()
}

fn token_of(url: &Value) -> String {
    url.as_str().unwrap().rsplit("token=").next().unwrap().to_owned()
}

/// A user with a password, set with a link of an administrator.
async fn with_password(stage: &Stage, name: &str) -> String {
    stage.client.post("/users", &json!({"name": name})).await;
    let link = stage.client.post(&format!("/users/{name}/reset-password"), &json!({})).await;
    assert_eq!(link.status, 201, "{}", link.text);
    let mut browser = Browser::of(stage);
    let token = token_of(&link.body["url"]);
    let set = browser.send("/reset", &[("token", &token), ("password", PASSWORD)]).await;
    assert_eq!(set.status(), 303, "{}", set.text().await.unwrap());
    assert!(browser.is_signed_in().await);
    browser.cookie
}

#[tokio::test]
async fn a_password_signs_in_and_wrong_names_and_passwords_look_alike() {
    let stage = Stage::set().await;
    with_password(&stage, "ana").await;
    stage.client.post("/users", &json!({"name": "bob"})).await;
    with_password(&stage, "eve").await;
    stage.client.post("/users/eve/disable", &json!({})).await;
    let mut browser = Browser::of(&stage);
    let mut answers = Vec::new();
    for (name, password) in [
        ("ana", "wrong horse battery"),
        ("nobody", PASSWORD),
        ("bob", PASSWORD),
        ("eve", PASSWORD),
        ("ana", ""),
        ("", ""),
        ("ANA", PASSWORD),
    ] {
        let refused = browser.sign_in(name, password).await;
        assert_eq!(refused.status(), 401, "{name}");
        assert!(browser.cookie.is_empty(), "{name}");
        let page = refused.text().await.unwrap();
        assert!(page.contains("Wrong name or password."), "{page}");
        answers.push(page.replace(&format!("value=\"{name}\""), ""));
    }
    let without_time = |page: &String| {
        let (before, after) = page.split_once("data-now=\"").unwrap();
        format!("{before}{}", after.split_once('"').unwrap().1)
    };
    let mut answers: Vec<String> = answers.iter().map(without_time).collect();
    answers.dedup();
    assert_eq!(answers.len(), 1, "nothing tells one from another: {answers:#?}");
    let signed_in = browser.sign_in("ana", PASSWORD).await;
    assert_eq!(
        (signed_in.status().as_u16(), signed_in.headers()[LOCATION].to_str().unwrap()),
        (303, "/jobs")
    );
    let set = signed_in.headers()[SET_COOKIE].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    assert!(browser.is_signed_in().await);
    // A new session each time: the one of before is over.
    let before = browser.cookie.clone();
    let next = browser.send("/login", &[("name", "ana"), ("password", PASSWORD), ("next", "/queue")]).await;
    assert_eq!(next.headers()[LOCATION], "/queue");
    assert_ne!(browser.cookie, before);
    assert!(!Browser { stage: &stage, cookie: before }.is_signed_in().await);
    let away =
        browser.send("/login", &[("name", "ana"), ("password", PASSWORD), ("next", "//evil.example")]).await;
    assert_eq!(away.headers()[LOCATION], "/jobs");
}

#[tokio::test]
async fn who_guesses_passwords_has_to_wait_whether_there_is_such_a_user_or_not() {
    let stage = Stage::set().await;
    with_password(&stage, "ana").await;
    for name in ["ana", "nobody"] {
        let mut browser = Browser::of(&stage);
        let mut tried = 0;
        let slowed = loop {
            let answer = browser.sign_in(name, "wrong horse battery").await;
            if answer.status() != StatusCode::UNAUTHORIZED || tried > 40 {
                break answer;
            }
            tried += 1;
        };
        assert_eq!(slowed.status(), StatusCode::TOO_MANY_REQUESTS, "{name}");
        // A few more have flowed in on a slow machine.
        assert!((10..20).contains(&tried), "{name}: {tried}");
        assert!(slowed.headers().contains_key("retry-after"));
        // Not even with the right one, which could be told from a wrong one else.
        assert_eq!(browser.sign_in(name, PASSWORD).await.status(), StatusCode::TOO_MANY_REQUESTS, "{name}");
    }
    // Others from that address have their own allowance, and links still work.
    let mut other = Browser::of(&stage);
    with_password(&stage, "bob").await;
    assert_eq!(other.sign_in("bob", PASSWORD).await.status(), 303);
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    let stage = Stage::set().await;
    let elsewhere = Browser { stage: &stage, cookie: with_password(&stage, "ana").await };
    let mut browser = Browser::of(&stage);
    browser.sign_in("ana", PASSWORD).await;
    let new = "a quite different horse";
    for (present, new, told) in [
        ("wrong horse battery", new, "this is not the present password"),
        (PASSWORD, "short", "at least 10 characters"),
        (PASSWORD, "ana ana ana ana", "the name of its user"),
    ] {
        let refused = browser.send("/account/password", &[("present", present), ("new", new)]).await;
        let page = refused.text().await.unwrap();
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(elsewhere.is_signed_in().await);
    let events = elsewhere.get("/projects/ana/events/live?after=0").await;
    let changed = browser.send("/account/password", &[("present", PASSWORD), ("new", new)]).await;
    assert!(changed.text().await.unwrap().contains("The password is set."));
    assert!(!elsewhere.is_signed_in().await);
    assert!(events.text().await.unwrap_or_default().contains("session_ended"));
    assert!(browser.is_signed_in().await);
    let mut again = Browser::of(&stage);
    assert_eq!(again.sign_in("ana", PASSWORD).await.status(), 401);
    assert_eq!(again.sign_in("ana", new).await.status(), 303);
    // The hash alone is kept.
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let kept: String = sqlx::query_scalar("SELECT users::text FROM users WHERE name = 'ana'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!(kept.contains("$argon2id$") && !kept.contains(new), "{kept}");
}

#[tokio::test]
async fn a_hash_by_earlier_parameters_is_replaced_at_the_next_sign_in() {
    let stage = Stage::set().await;
    with_password(&stage, "ana").await;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    // Of the same password, with less memory.
    let hash =
        "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$/ur5fLELUb1eXkT9oKHqq6gHGZ9Phwgbj4qyIcCNaYc";
    sqlx::query("UPDATE users SET password = $1 WHERE name = 'ana'")
        .bind(hash)
        .execute(&mut database)
        .await
        .unwrap();
    let mut browser = Browser::of(&stage);
    assert_eq!(browser.sign_in("ana", "wrong horse battery").await.status(), 401);
    assert_eq!(browser.sign_in("ana", PASSWORD).await.status(), 303);
    let now: String = sqlx::query_scalar("SELECT password FROM users WHERE name = 'ana'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!(now.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{now}");
    assert_eq!(browser.sign_in("ana", PASSWORD).await.status(), 303);
}

#[tokio::test]
async fn a_link_resets_a_password_once_and_signs_everything_else_out() {
    let stage = Stage::set().await;
    let before = Browser { stage: &stage, cookie: with_password(&stage, "ana").await };
    let old = stage.client.post("/users/ana/reset-password", &json!({})).await.body["url"].clone();
    let login = stage.client.post("/users/ana/login-link", &json!({})).await.body["url"].clone();
    let link = stage.client.post("/users/ana/reset-password", &json!({})).await.body["url"].clone();
    let mut browser = Browser::of(&stage);
    // To look at it uses nothing up. A later link takes the place of an earlier one.
    for _ in 0..2 {
        let page = browser.get(&path_of(&link)).await;
        assert_eq!(page.status(), 200);
        assert!(page.text().await.unwrap().contains("For the user <strong>ana</strong>"));
    }
    assert_eq!(browser.get(&path_of(&old)).await.status(), 404);
    let token = token_of(&link);
    let weak = browser.send("/reset", &[("token", &token), ("password", "short")]).await;
    assert_eq!(weak.status(), 422);
    assert!(before.is_signed_in().await);
    let new = "another horse battery";
    assert_eq!(browser.send("/reset", &[("token", &token), ("password", new)]).await.status(), 303);
    assert!(browser.is_signed_in().await && !before.is_signed_in().await);
    let again = Browser::of(&stage).send("/reset", &[("token", &token), ("password", new)]).await;
    assert_eq!(again.status(), 404);
    assert!(
        !Browser::of(&stage).get(&path_of(&login)).await.headers().contains_key(SET_COOKIE),
        "nor this one"
    );
    // It is no link that signs in.
    let fresh = stage.client.post("/users/ana/reset-password", &json!({})).await.body["url"].clone();
    let tried = Browser::of(&stage).get(&format!("/login?token={}", token_of(&fresh))).await;
    assert!(!tried.headers().contains_key(SET_COOKIE));
    let expire = "UPDATE login_links SET expires_at = now()";
    sqlx::query(expire)
        .execute(&mut PgConnection::connect(&stage.database_url).await.unwrap())
        .await
        .unwrap();
    assert_eq!(browser.get(&path_of(&fresh)).await.status(), 404);
}

#[tokio::test]
async fn sessions_are_listed_with_where_they_come_from_and_ended_one_by_one_or_all() {
    let stage = Stage::set().await;
    with_password(&stage, "ana").await;
    let mut browsers = [Browser::of(&stage), Browser::of(&stage), Browser::of(&stage)];
    for browser in &mut browsers {
        browser.sign_in("ana", PASSWORD).await;
    }
    let [mut own, one, other] = browsers;
    let page = own.get("/account").await.text().await.unwrap();
    assert!(
        page.contains("Testbrowser/1.0") && page.contains("127.0.0.1") && page.contains("this browser"),
        "{page}"
    );
    let sessions = async |browser: &Browser<'_>| {
        let url = format!("http://{}/api/v1/sessions", stage.running.dashboard);
        let request = reqwest::Client::new().get(url).header(COOKIE, &browser.cookie);
        Answer::of(request.send().await.unwrap()).await.body["items"].as_array().unwrap().clone()
    };
    let listed = sessions(&one).await;
    assert_eq!(listed.len(), 4, "{listed:?}");
    let current = listed.iter().find(|session| session["current"] == true).unwrap();
    assert_eq!((&current["browser"], &current["address"]), (&json!("Testbrowser/1.0"), &json!("127.0.0.1")));
    let ended = own.send(&format!("/account/sessions/{}/end", current["id"]), &[]).await;
    assert_eq!(ended.status(), 303);
    assert!(!one.is_signed_in().await && other.is_signed_in().await);
    // Nobody ends those of others, or learns that there are any.
    let eve = Person::create(&stage, "eve").await;
    let left = sessions(&other).await;
    let mut eve = Browser::signed_in(&stage, &eve);
    let refused = eve.send(&format!("/account/sessions/{}/end", left[0]["id"]), &[]).await;
    assert_eq!(refused.status(), 404);
    assert_eq!(sessions(&eve).await.len(), 1);
    own.send("/account/sessions/end", &[]).await;
    assert!(own.is_signed_in().await && !other.is_signed_in().await && eve.is_signed_in().await);
    assert_eq!(sessions(&own).await.len(), 1);
}

#[tokio::test]
async fn a_session_that_a_key_opened_sets_no_password() {
    let stage = Stage::set().await;
    let ana = Person::join(&stage, "ana", "default", "viewer").await;
    let key = ana.key("default").await;
    let mut limited = Browser { stage: &stage, cookie: stage.sign_in(&key).await };
    let page = limited.get("/account").await.text().await.unwrap();
    assert!(page.contains("for one project only"), "{page}");
    let refused = limited.send("/account/password", &[("new", PASSWORD)]).await.text().await.unwrap();
    assert!(!refused.contains("The password is set."), "{refused}");
    assert_eq!(Browser::of(&stage).sign_in("ana", PASSWORD).await.status(), 401);
    let invited = stage.client.post("/invitations", &json!({"role": "admin"})).await;
    let token = token_of(&invited.body["url"]);
    assert_eq!(limited.send("/invitation", &[("token", &token)]).await.status(), 422);
    let mut whole = Browser::signed_in(&stage, &ana);
    whole.send("/account/password", &[("new", PASSWORD)]).await;
    assert_eq!(Browser::of(&stage).sign_in("ana", PASSWORD).await.status(), 303);
}

#[tokio::test]
async fn an_invitation_makes_a_member_once() {
    let stage = Stage::set().await;
    let made = stage.client.post("/invitations", &json!({"role": "operator", "valid": "1d"})).await;
    assert_eq!((made.status.as_u16(), &made.body["project"]), (201, &json!("default")), "{}", made.text);
    let token = token_of(&made.body["url"]);
    let listed = stage.client.get("/invitations").await.body["items"][0].clone();
    assert_eq!((&listed["state"], &listed["url"]), (&json!("open"), &Value::Null), "{listed}");
    let mut browser = Browser::of(&stage);
    let page = browser.get(&path_of(&made.body["url"])).await.text().await.unwrap();
    assert!(
        page.contains("Join project default") && page.contains("admin invites you as operator"),
        "{page}"
    );
    for (name, password, told) in [
        ("Ana", PASSWORD, "Invalid name"),
        ("admin", PASSWORD, "This name is taken"),
        ("ana", "short", "at least 10 characters"),
    ] {
        let refused =
            browser.send("/invitation", &[("token", &token), ("name", name), ("password", password)]).await;
        assert_eq!(refused.status(), 422, "{name}");
        let page = refused.text().await.unwrap();
        assert!(page.contains(told), "{told}: {page}");
    }
    let joined =
        browser.send("/invitation", &[("token", &token), ("name", "ana"), ("password", PASSWORD)]).await;
    assert_eq!(joined.headers()[LOCATION], "/projects/default/jobs");
    assert!(browser.is_signed_in().await);
    let members = stage.client.get("/projects/default/members").await.body["items"].clone();
    assert_eq!((&members[1]["user"], &members[1]["role"]), (&json!("ana"), &json!("operator")), "{members}");
    let used = stage.client.get("/invitations").await.body["items"][0].clone();
    assert_eq!((&used["state"], &used["used_by"]), (&json!("used"), &json!("ana")), "{used}");
    let again = Browser::of(&stage)
        .send("/invitation", &[("token", &token), ("name", "bob"), ("password", PASSWORD)])
        .await;
    assert_eq!(again.status(), 404);
    // Somebody who is signed in joins as who they are; a lower role takes nothing away.
    for (role, expected) in [("viewer", "operator"), ("admin", "admin")] {
        let made = stage.client.post("/invitations", &json!({"role": role})).await;
        let page = browser.get(&path_of(&made.body["url"])).await.text().await.unwrap();
        assert!(page.contains("Join as ana"), "{page}");
        let token = token_of(&made.body["url"]);
        assert_eq!(browser.send("/invitation", &[("token", &token)]).await.status(), 303);
        let members = stage.client.get("/projects/default/members").await.body["items"].clone();
        assert_eq!(members[1]["role"], expected, "{members}");
    }
}

#[tokio::test]
async fn an_invitation_is_revoked_and_expires() {
    let stage = Stage::set().await;
    let viewer = Person::join(&stage, "olga", "default", "operator").await.key("default").await;
    assert_eq!(viewer.post("/invitations", &json!({"role": "viewer"})).await.status, 403);
    assert_eq!(viewer.get("/invitations").await.status, 403);
    for wrong in [
        json!({"role": "owner"}),
        json!({"role": "viewer", "valid": "31d"}),
        json!({"role": "viewer", "valid": 0}),
    ] {
        assert_eq!(stage.client.post("/invitations", &wrong).await.status, 422, "{wrong}");
    }
    assert_eq!(
        stage.client.post("/invitations", &json!({"role": "viewer", "project": "nowhere"})).await.status,
        404
    );
    let revoked = stage.client.post("/invitations", &json!({"role": "viewer"})).await.body;
    let (path, url) = (format!("/invitations/{}", revoked["id"]), path_of(&revoked["url"]));
    assert_eq!(stage.client.delete(&path).await.status, 204);
    assert_eq!(stage.client.delete(&path).await.status, 404);
    let expired = stage.client.post("/invitations", &json!({"role": "viewer"})).await.body;
    let mut database = PgConnection::connect(&stage.database_url).await.unwrap();
    let expire = "UPDATE invitations SET expires_at = now() WHERE id = $1";
    sqlx::query(expire).bind(expired["id"].as_i64()).execute(&mut database).await.unwrap();
    for url in [url, path_of(&expired["url"]), "/invitation?token=x".to_owned(), "/invitation".to_owned()] {
        assert_eq!(Browser::of(&stage).get(&url).await.status(), 404, "{url}");
    }
    let states = stage.client.get("/invitations").await.body["items"].clone();
    assert_eq!(
        (&states[0]["state"], &states[1]["state"]),
        (&json!("expired"), &json!("revoked")),
        "{states}"
    );
    // Not in the database as it is sent.
    let kept: Vec<String> = sqlx::query_scalar("SELECT invitations::text FROM invitations")
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert!(kept.iter().all(|row| !row.contains(&token_of(&expired["url"]))), "{kept:?}");
}

#[tokio::test]
async fn there_is_no_registration_unless_it_is_open() {
    let stage = Stage::set().await;
    let ana = Person::create(&stage, "ana").await;
    for cookie in ["", &ana.cookie] {
        let mut browser = Browser { stage: &stage, cookie: cookie.to_owned() };
        let none = browser.get("/nothing/here").await.status();
        assert_eq!(browser.get("/register").await.status(), none);
        let sent = browser.send("/register", &[("name", "bob"), ("password", PASSWORD)]).await;
        assert_eq!(sent.status(), 404);
    }
    assert!(!Browser::of(&stage).get("/login").await.text().await.unwrap().contains("/register"));
    assert_eq!(stage.client.get("/users").await.body["items"].as_array().unwrap().len(), 2);

    let stage =
        Stage::with(fresh_database().await, |config| config.registration = "open".parse().unwrap()).await;
    let mut browser = Browser::of(&stage);
    assert!(browser.get("/login").await.text().await.unwrap().contains("/register"));
    let refused = browser.send("/register", &[("name", "admin"), ("password", PASSWORD)]).await;
    assert_eq!(refused.status(), 422);
    let made = browser.send("/register", &[("name", "bob"), ("password", PASSWORD)]).await;
    assert_eq!(made.status(), 303, "{}", made.text().await.unwrap());
    assert_eq!(browser.get("/projects/bob/jobs").await.status(), 200);
    assert_eq!(browser.get("/projects/default/jobs").await.status(), 404);
    assert_eq!(browser.get("/users").await.status(), 403);
    // An address makes a few users, not thousands.
    let mut made = 0;
    while made < 30 {
        let answer = Browser::of(&stage)
            .send("/register", &[("name", &format!("u{made}")), ("password", PASSWORD)])
            .await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(answer.status(), 303);
        made += 1;
    }
    assert!(made < 20, "{made}");
}

#[tokio::test]
async fn hashing_passwords_holds_up_nobody() {
    let stage = Stage::set().await;
    with_password(&stage, "ana").await;
    let crowd = (0..60).map(|n| {
        let stage = &stage;
        async move { Browser::of(stage).sign_in(&format!("u{n}"), PASSWORD).await.status() }
    });
    let crowd = futures::future::join_all(crowd);
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let began = Instant::now();
            assert_eq!(stage.client.get("/jobs").await.status, 200);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let (statuses, slowest) = tokio::join!(crowd, others);
    let known = [401, 429, 503];
    assert!(statuses.iter().all(|status| known.contains(&status.as_u16())), "{statuses:?}");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
}

#[tokio::test]
async fn somebody_is_invited_signs_in_and_changes_the_password_in_a_real_browser() {
    let open = |config: &mut MasterConfig| config.registration = "open".parse().unwrap();
    let stage = Stage::with(fresh_database().await, open).await;
    let Some(chromium) = Chromium::open(1280, 900, Scheme::Light).await else { return };
    let base = format!("http://{}", stage.running.dashboard);
    stage.client.post("/users", &json!({"name": "bob"})).await;
    let invited = stage.client.post("/invitations", &json!({"role": "admin"})).await.body;
    let reset = stage.client.post("/users/bob/reset-password", &json!({})).await.body;
    let [invitation, reset] = [&invited["url"], &reset["url"]].map(|url| format!("{base}{}", path_of(url)));
    for (name, url) in [
        ("login", format!("{base}/login")),
        ("register", format!("{base}/register")),
        ("reset", reset),
        ("reset-used", format!("{base}/reset?token=gfr_x")),
        ("invitation", invitation),
    ] {
        look_at(&chromium, &url, name).await;
    }
    // The page of the invitation is open.
    chromium.fill("#name", "ana").await;
    chromium.fill("#password", PASSWORD).await;
    chromium.click("form[action$='/invitation'] button.primary").await;
    chromium.shows("New job").await;
    chromium.visit(&format!("{base}/account")).await;
    chromium.fill("#present", PASSWORD).await;
    chromium.fill("#new", "another horse battery").await;
    chromium.click("form[action$='/account/password'] button.primary").await;
    chromium.shows("The password is set.").await;
    look_at(&chromium, &format!("{base}/projects/default/account"), "account").await;
    chromium.click("header .menu summary[aria-label='Menu of ana']").await;
    chromium.screenshot("menu-of-user").await;
    chromium.visit(&format!("{base}/projects/default/members")).await;
    chromium.click("form[action$='/members/invitations'] button").await;
    chromium.shows("Send this link to one person.").await;
    chromium.click("details.project summary").await;
    chromium.screenshot("members-with-invitation").await;
    look_at(&chromium, &format!("{base}/projects/default/members"), "members-and-invitations").await;
    chromium.visit(&format!("{base}/projects/ana/jobs")).await;
    chromium.click("header .menu summary[aria-label='Menu of ana']").await;
    chromium.click("form[action$='/logout'] button").await;
    chromium.shows("Sign in with a link").await;
    chromium.fill("#name", "ana").await;
    chromium.fill("#password", "another horse battery").await;
    chromium.click("form[action$='/login'] button.primary").await;
    chromium.shows("New job").await;
    chromium.close().await;
}

#[tokio::test]
async fn invitations_sessions_and_new_passwords_have_commands() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let run = async |args: &[&str]| {
        let output = dev.cli(args).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (code, link, said) = run(&["invitations", "create", "operator", "--valid", "1d"]).await;
    assert!(code == 0 && link.contains("/invitation?token=gfi_") && said.contains("invitation 1"), "{said}");
    assert!(run(&["invitations"]).await.1.contains("open"));
    assert_eq!(run(&["invitations", "revoke", "1"]).await.0, 0);
    assert_eq!(run(&["invitations", "revoke", "1"]).await.0, 3);
    let (_, link, _) = run(&["users", "reset-password", "admin"]).await;
    assert!(link.contains("/reset?token=gfr_"), "{link}");
    let (_, link, _) = run(&["dashboard"]).await;
    reqwest::get(&link).await.unwrap();
    let (code, listed, _) = run(&["sessions", "-o", "name"]).await;
    assert!(code == 0 && !listed.is_empty(), "{listed}");
    assert_eq!(run(&["sessions", "end", listed.lines().next().unwrap()]).await.0, 0);
    assert_eq!(run(&["sessions", "end", "--all"]).await.0, 0);
    assert_eq!(run(&["sessions", "-o", "name"]).await.1, "");
}
