//! Keys, cookies and links that are no good: a client that presents one learns nothing else, neither from the answer nor from its time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use gaffer_e2e::client::Client;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::{Stage, key, key_in};
use gaffer_master::secret::{NewSecret, Purpose};
use reqwest::header::{ACCEPT, AUTHORIZATION, COOKIE, HeaderMap};
use reqwest::redirect::Policy;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

/// An answer without what differs between any two of them: the time, and the number of the request.
async fn comparable(request: reqwest::RequestBuilder) -> (u16, String, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let mut headers: HeaderMap = response.headers().clone();
    for name in ["date", "x-request-id"] {
        headers.remove(name);
    }
    let mut body = response.text().await.unwrap();
    if let Ok(mut problem) = serde_json::from_str::<Value>(&body) {
        let number = problem["request_id"].as_str().unwrap_or_default().to_owned();
        problem["request_id"] = json!("");
        body = if number.is_empty() { body } else { body.replace(&number, "") };
    }
    if let Some((before, after)) = body.split_once("data-now=\"") {
        body = format!("{before}{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    (status, format!("{headers:?}"), body)
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn database(stage: &Stage) -> PgConnection {
    PgConnection::connect(&stage.database_url).await.unwrap()
}

/// A key of a user of another project, with a statement on it or its user.
async fn spoiled(stage: &Stage, user: &str, sql: &str) -> String {
    let control = &stage.running.control;
    let project = control.store.project_default().await.unwrap();
    let key = key_in(control, project, user, Purpose::UserKey).await;
    let spoiled =
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(user).execute(&mut database(stage).await).await;
    assert_eq!(spoiled.unwrap().rows_affected(), 1, "{sql}");
    key
}

const REVOKED: &str =
    "UPDATE keys SET revoked_at = now() WHERE user_id = (SELECT id FROM users WHERE name = $1)";
const EXPIRED: &str =
    "UPDATE keys SET expires_at = now() WHERE user_id = (SELECT id FROM users WHERE name = $1)";
const DISABLED: &str = "UPDATE users SET disabled_at = now() WHERE name = $1";
const REMOVED: &str = "DELETE FROM memberships WHERE user_id = (SELECT id FROM users WHERE name = $1) \
     AND project_id = (SELECT min(id) FROM projects)";

#[tokio::test]
async fn a_key_that_is_no_good_is_refused_in_the_same_way_whatever_is_wrong_with_it() {
    let stage = Stage::set().await;
    let good = stage.client.key().to_owned();
    let unknown = NewSecret::new(Purpose::UserKey).text;
    let refused = [
        ("no key at all", "Bearer %".to_owned()),
        ("empty", "Bearer ".to_owned()),
        ("another scheme", format!("Basic {good}")),
        ("no scheme", good.clone()),
        ("truncated", format!("Bearer {}", &good[..20])),
        ("one character too many", format!("Bearer {good}0")),
        ("unknown", format!("Bearer {unknown}")),
        ("revoked", format!("Bearer {}", spoiled(&stage, "rita", REVOKED).await)),
        ("expired", format!("Bearer {}", spoiled(&stage, "egon", EXPIRED).await)),
        ("of a disabled user", format!("Bearer {}", spoiled(&stage, "dora", DISABLED).await)),
        ("of a former member", format!("Bearer {}", spoiled(&stage, "fred", REMOVED).await)),
    ];
    let (api, workers) = (stage.client.base(), format!("http://{}", stage.running.workers));
    let api = (format!("{api}/api/v1/jobs"), format!("Bearer {}", stage.worker_key));
    let workers = (format!("{workers}/worker"), format!("Bearer {good}"));
    let mut expected = None;
    for (address, of_other_kind) in [&api, &workers] {
        let of_other_kind = ("of another kind", of_other_kind.clone());
        for (what, value) in refused.iter().chain([&of_other_kind]) {
            let answer = comparable(http().get(address).header(AUTHORIZATION, value)).await;
            assert_eq!(answer.0, 401, "{what} at {address}: {answer:?}");
            assert!(answer.2.contains("\"key_invalid\""), "{what} at {address}: {answer:?}");
            let expected = &*expected.get_or_insert_with(|| answer.clone());
            assert_eq!(&answer, expected, "{what} at {address}");
        }
    }
    // Each counts as a guess, and all meet the same limit.
    let (address, of_other_kind) = api;
    for (what, value) in refused.iter().chain([&("of another kind", of_other_kind)]) {
        // Another try may be allowed meanwhile, one every two seconds.
        let mut is_limited = false;
        for _ in 0..20 {
            for _ in 0..100 {
                let guess = NewSecret::new(Purpose::UserKey).text;
                if http().get(&address).bearer_auth(guess).send().await.unwrap().status() == 429 {
                    break;
                }
            }
            let answer = comparable(http().get(&address).header(AUTHORIZATION, value)).await;
            assert!([401, 429].contains(&answer.0), "{what}: {answer:?}");
            is_limited = answer.0 == 429;
            if is_limited {
                break;
            }
        }
        assert!(is_limited, "{what}");
    }
    assert_eq!(stage.client.get("/jobs").await.status, 200);
}

#[tokio::test]
async fn a_cookie_or_a_link_that_is_no_good_is_refused_in_the_same_way_whatever_is_wrong_with_it() {
    let stage = Stage::set().await;
    let mut database = database(&stage).await;
    let cookie = stage.sign_in(&stage.client).await;
    database.execute("UPDATE web_sessions SET expires_at = now()").await.unwrap();
    let unknown = format!("gaffer_session={}", NewSecret::new(Purpose::WebSession).text);
    let page = |path: &str| {
        http().get(format!("http://{}{path}", stage.running.dashboard)).header(ACCEPT, "text/html")
    };
    let expected = comparable(page("/projects/default/jobs").header(COOKIE, &unknown)).await;
    assert_eq!(expected.0, 303, "{expected:?}");
    for cookie in [&cookie, "gaffer_session=%", "gaffer_session=", &cookie[..30]] {
        let answer = comparable(page("/projects/default/jobs").header(COOKIE, cookie)).await;
        assert_eq!(answer, expected, "{cookie}");
    }
    for (path, purpose) in [
        ("/login", Purpose::LoginLink),
        ("/reset", Purpose::PasswordReset),
        ("/invitation", Purpose::Invitation),
    ] {
        let link = |token: &str| format!("{path}?token={token}");
        let unknown = NewSecret::new(purpose).text;
        let expected = comparable(page(&link(&unknown))).await;
        for token in ["%25", "anything-else", &unknown[..20]] {
            let answer = comparable(page(&link(token))).await;
            // The page repeats the token in its form.
            let same = |text: &str, token: &str| text.replace(token, "");
            assert_eq!((answer.0, &answer.1), (expected.0, &expected.1), "{path} {token}");
            assert_eq!(same(&answer.2, token), same(&expected.2, &unknown), "{path} {token}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_key_is_looked_up_like_any_other() {
    let stage = Stage::set().await;
    let cookies = ["gaffer_session=%", "gaffer_session=x"];
    let mut database = database(&stage).await;
    for table in ["keys", "web_sessions", "login_links"] {
        let away = format!("ALTER TABLE {table} RENAME TO {table}_away");
        database.execute(sqlx::AssertSqlSafe(away)).await.unwrap();
    }
    let unknown = NewSecret::new(Purpose::UserKey).text;
    let ask = |request: reqwest::RequestBuilder| async { request.send().await.unwrap().status().as_u16() };
    let jobs = format!("{}/api/v1/jobs", stage.client.base());
    let door = format!("http://{}/worker", stage.running.workers);
    let page = format!("http://{}/projects/default/jobs", stage.running.dashboard);
    let link = format!("http://{}/login?token=x", stage.running.dashboard);
    let of_api = ["", "%", "gfu_", &unknown].map(|key| ask(http().get(&jobs).bearer_auth(key)));
    let of_door = ["", "%", "gfw_", &unknown].map(|key| ask(http().get(&door).bearer_auth(key)));
    let of_pages =
        cookies.map(|cookie| ask(http().get(&page).header(COOKIE, cookie).header(ACCEPT, "text/html")));
    let of_link = [ask(http().get(&link).header(ACCEPT, "text/html"))];
    let (api, door, pages, link) =
        tokio::join!(join_all(of_api), join_all(of_door), join_all(of_pages), join_all(of_link));
    // Each look-up finds no table.
    assert_eq!((api, door), (vec![503; 4], vec![503; 4]));
    assert_eq!((pages, link), (vec![503; 2], vec![503; 1]));
}

#[tokio::test]
async fn a_refused_key_counts_as_unused_and_its_project_learns_why() {
    let stage = Stage::set().await;
    let revoked = stage.client.post("/keys", &json!({"kind": "user", "name": "laptop"})).await.body;
    let lab = stage.client.post("/keys", &json!({"kind": "worker", "name": "lab"})).await.body;
    assert_eq!(stage.client.delete(&format!("/keys/{}", revoked["id"])).await.status, 204);
    for key in [&revoked, &lab] {
        for _ in 0..2 {
            assert_eq!(stage.client.with_key(key["key"].as_str().unwrap()).get("/jobs").await.status, 401);
        }
    }
    let noted = eventually("both are noted", async || {
        let noted = stage.client.get("/audit?action=use_key").await.body["items"].as_array().unwrap().clone();
        (noted.len() >= 2).then_some(noted)
    })
    .await;
    assert_eq!(noted.len(), 2, "{noted:?}");
    let of = |key: &Value| {
        let credential = format!("key {} ({})", key["id"], key["name"].as_str().unwrap());
        noted.iter().find(|entry| entry["credential"] == json!(credential)).unwrap()
    };
    assert_eq!((&of(&revoked)["outcome"], &of(&revoked)["user"]), (&json!("refused"), &json!("admin")));
    assert_eq!(of(&revoked)["address"], "127.0.0.1");
    assert!(of(&revoked)["detail"].as_str().unwrap().contains("revoked"), "{noted:?}");
    assert!(
        of(&lab)["detail"].as_str().unwrap().contains("worker key was used to call the API"),
        "{noted:?}"
    );
    let keys = stage.client.get("/keys").await.body["items"].as_array().unwrap().clone();
    for key in keys.iter().filter(|key| [&revoked["id"], &lab["id"]].contains(&&key["id"])) {
        assert_eq!(key["last_used_at"], Value::Null, "{key}");
    }
    RawWorker::connect(&stage.worker_url(), lab["key"].as_str().unwrap(), hello("w")).await;
}

/// How many tries of each kind are timed. Each round has its own address, because thirty wrong keys of one are answered unseen.
const ROUNDS: usize = 25;

/// The medians of the time that each kind of bad key takes, as a multiple of the median of its round.
async fn times(stage: &Stage, kinds: &[(&'static str, Vec<String>)]) -> BTreeMap<&'static str, f64> {
    let mut ratios: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    for round in 0..ROUNDS {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1 + round as u8));
        let http = reqwest::Client::builder().local_address(from).tcp_nodelay(true).build().unwrap();
        let ask = async |key: Option<&str>| {
            let request = http.get(format!("{}/api/v1/jobs", stage.client.base()));
            let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
            let asked = Instant::now();
            let answer = request.send().await.unwrap();
            let status = answer.status();
            answer.bytes().await.unwrap();
            assert_eq!(status, 401);
            asked.elapsed()
        };
        // The connection is there before anything is measured.
        ask(None).await;
        let mut asked: Vec<(&str, Duration)> = Vec::new();
        // In another order each time: what comes first may pay for the others.
        for (kind, keys) in (0..kinds.len()).map(|at| &kinds[(at + round) % kinds.len()]) {
            asked.push((kind, ask(Some(&keys[round])).await));
        }
        let usual = median(&mut asked.iter().map(|(_, took)| took.as_secs_f64()).collect());
        for (kind, took) in asked {
            ratios.entry(kind).or_default().push(took.as_secs_f64() / usual);
        }
    }
    ratios.into_iter().map(|(kind, mut ratios)| (kind, median(&mut ratios))).collect()
}

async fn keys(stage: &Stage, purpose: Purpose, spoil: Option<&str>) -> Vec<String> {
    let mut made = Vec::new();
    let mut database = database(stage).await;
    for _ in 0..ROUNDS {
        made.push(key(&stage.running.control, purpose).await);
        if let Some(spoil) = spoil {
            let sql = format!("UPDATE keys SET {spoil} WHERE id = (SELECT max(id) FROM keys)");
            database.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        }
    }
    made
}

#[tokio::test]
async fn a_key_that_is_no_good_is_refused_after_the_same_time_whatever_is_wrong_with_it() {
    let mut seen = Vec::new();
    // A real difference shows each time, one that comes from the machine does not.
    for _ in 0..4 {
        let stage = Stage::set().await;
        let kinds = [
            ("malformed", (0..ROUNDS).map(|n| format!("%{n}")).collect()),
            ("empty", vec![String::new(); ROUNDS]),
            ("unknown", (0..ROUNDS).map(|_| NewSecret::new(Purpose::UserKey).text).collect()),
            ("revoked", keys(&stage, Purpose::UserKey, Some("revoked_at = now()")).await),
            ("expired", keys(&stage, Purpose::UserKey, Some("expires_at = now()")).await),
            ("of another kind", keys(&stage, Purpose::WorkerKey, None).await),
        ];
        let times = times(&stage, &kinds).await;
        if times.values().all(|ratio| (0.6..1.67).contains(ratio)) {
            return;
        }
        seen.push(times);
    }
    panic!("{seen:?}");
}

#[tokio::test]
async fn the_sentence_about_a_bad_key_helps_who_mistyped_it() {
    let stage = Stage::set().await;
    let answer = Client::new(stage.client.base(), "gfu_x").get("/jobs").await;
    let detail = answer.body["detail"].as_str().unwrap();
    for word in ["mistyped", "expired", "revoked", "another kind"] {
        assert!(detail.contains(word), "{detail}");
    }
}
