//! The dashboard in a real browser, and without JavaScript.

use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{DriverKind, PortProtocol};
use gaffer_domain::worker::HeldPhase;
use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_protocol::output::Stream;
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, HeldAttempt, PublishedPort, ToMaster};
use reqwest::header::{ACCEPT, COOKIE, LOCATION, SET_COOKIE};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::pictures;

pub async fn sign_in(browser: &Browser, client: &Client) -> String {
    let link = client.post("/login-links", &json!({})).await;
    let url = link.body["url"].as_str().unwrap().to_owned();
    browser.visit(&url).await;
    eventually("the browser is signed in", async || {
        let here = browser.window.current_url().await.unwrap();
        (!here.path().starts_with("/login")).then_some(())
    })
    .await;
    url.split("/login").next().unwrap().to_owned()
}

/// What went wrong in the page: scripts that failed, policies that were violated.
async fn complaints(browser: &Browser) -> serde_json::Value {
    browser
        .value(
            "performance.getEntriesByType('resource').filter(e => e.responseStatus >= 400).map(e => e.name)",
        )
        .await
}

#[tokio::test]
async fn a_job_is_made_watched_live_and_stopped_in_the_browser() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;

    browser.visit(&format!("{base}/jobs/new")).await;
    browser
        .fill("textarea[name=script]", "echo \"first line\"; while :; do echo tick; sleep 0.1; done")
        .await;
    browser.click("form[action$='/jobs/new'] button.primary").await;
    browser.shows("first line").await;
    browser.shows("running").await;
    let rows = "document.querySelectorAll('[id^=L]').length";
    let before = browser.value(rows).await.as_i64().unwrap();
    eventually("the output grows by itself", async || {
        (browser.value(rows).await.as_i64().unwrap() > before + 3).then_some(())
    })
    .await;
    browser.screenshot("job-live-light-1280").await;

    browser.click("form[action$='/stop'] button").await;
    browser.shows("cancelled").await;
    assert_eq!(complaints(&browser).await, json!([]));
    browser.close().await;
}

#[tokio::test]
async fn every_page_fits_light_and_dark_wide_and_narrow() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let failing =
        dev.client.submit(script("printf '\\033[32mgreen\\033[0m\\n'; echo broken >&2; exit 3")).await;
    dev.client.finished(failing).await;
    let waiting = dev
        .client
        .submit(json!({"name": "far too large", "script": "true", "resources": {"cpu": 512}}))
        .await;
    let array =
        dev.client.submit(json!({"name": "many", "script": "echo $GAFFER_TASK_INDEX", "count": 30})).await;
    dev.client.finished(array).await;
    let pipeline = dev.client.submit(pictures::pipeline("sleep 0.2; test $GAFFER_TASK_INDEX != 7")).await;
    dev.client.finished(pipeline).await;
    let running = dev.client.submit(script("echo on the way; sleep 300")).await;
    dev.client.in_state(running, "running").await;
    let (container, pulling, _docker) = containers(&dev).await;
    let wishing = json!({"name": "wishes for a card", "script": "true", "count": 12, "resources": {"gpu": 8},
        "constraints": ["labels.rack == b or cpu >= 64"], "priority": 80});
    dev.client.submit(wishing).await;
    dev.client.post("/projects", &json!({"name": "lab"})).await;
    for name in ["ana", "somebody-with-a-really-long-name-0123456"] {
        dev.client.post("/users", &json!({"name": name})).await;
        let member = format!("/projects/default/members/{name}");
        dev.client.post(&member, &json!({"role": "operator"})).await;
    }
    dev.client.post("/workers/docker-box/drain", &json!({"deadline": "1h"})).await;

    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    let pages = [
        ("overview", "/".to_owned()),
        ("jobs", "/jobs".to_owned()),
        ("new", "/jobs/new".to_owned()),
        ("failed", format!("/jobs/{failing}")),
        ("waiting", format!("/jobs/{waiting}")),
        ("array", format!("/jobs/{array}?tab=tasks")),
        ("task", format!("/jobs/{failing}/tasks/main")),
        ("running", format!("/jobs/{running}")),
        ("history", format!("/jobs/{failing}?tab=events")),
        ("spec", format!("/jobs/{failing}?tab=spec")),
        ("graph", format!("/jobs/{pipeline}?tab=graph")),
        ("timeline", format!("/jobs/{pipeline}?tab=timeline")),
        ("queue", "/queue".to_owned()),
        ("workers", "/workers".to_owned()),
        ("worker", "/workers/1".to_owned()),
        ("container", format!("/jobs/{container}/tasks/main")),
        ("pulling", format!("/jobs/{pulling}")),
        ("docker-jobs", "/jobs?driver=docker".to_owned()),
        ("docker-away", "/workers/docker-box".to_owned()),
        ("add-worker", "/workers/new".to_owned()),
        ("keys", "/keys".to_owned()),
        ("events", "/events".to_owned()),
        ("members", "/members".to_owned()),
        ("projects", "/projects".to_owned()),
        ("users", "/users".to_owned()),
        ("nothing", "/jobs/424242".to_owned()),
    ];
    for (name, path) in &pages {
        look_at(&browser, &format!("{base}{path}"), name).await;
    }
    browser.close().await;
}

/// The page has one heading, no error and fits, wide and narrow, light and dark; a picture of each stays.
pub async fn look_at(browser: &Browser, url: &str, name: &str) {
    // Loaded once: that takes longer than all the looks at it.
    browser.resize(360, 900).await;
    browser.prefer(Scheme::Light).await;
    browser.visit(url).await;
    for (width, scheme, shade) in [
        (360, Scheme::Light, "light"),
        (1280, Scheme::Light, "light"),
        (1280, Scheme::Dark, "dark"),
        (360, Scheme::Dark, "dark"),
    ] {
        browser.resize(width, 900).await;
        browser.prefer(scheme).await;
        let what = format!("{url} at {width}, {shade}");
        let is_so = json!([width, scheme == Scheme::Dark]);
        eventually(&what, async || {
            let seen =
                browser.value("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]").await;
            (seen == is_so).then_some(())
        })
        .await;
        let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.value(overflow).await, json!(0), "{what} scrolls sideways");
        assert_eq!(browser.value("document.querySelectorAll('h1').length").await, json!(1), "{what}");
        browser.screenshot(&format!("{name}-{shade}-{width}")).await;
    }
    assert_eq!(complaints(browser).await, json!([]), "{url}");
}

#[tokio::test]
async fn the_page_system_fits_and_a_dead_letter_is_deleted_there() {
    let stage = Stage::set().await;
    let reason = "value too long for type character varying(65536): in the third column of the row";
    set_aside(&stage, reason).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &stage.client).await;
    look_at(&browser, &format!("{base}/system"), "system").await;
    browser.shows(reason).await;
    browser.value("window.confirm = () => true").await;
    browser.click("form[action$='/delete'] button").await;
    browser.shows("No dead letters.").await;
    browser.close().await;
}

/// A dead letter of no job that there is.
async fn set_aside(stage: &Stage, reason: &str) {
    let mut connection = PgConnection::connect(&stage.database_url).await.unwrap();
    let sql = "INSERT INTO dead_letters (kind, project_id, job_id, task_id, attempt, worker_id, body, reason)
               SELECT 'report', id, 7, 7, 1, 7, '{}', $1 FROM projects";
    sqlx::query(sql).bind(reason).execute(&mut connection).await.unwrap();
}

/// A job that ran in a container, one whose image is under way, and the worker that says so, whose daemon is away by now.
async fn containers(dev: &Dev) -> (i64, i64, RawWorker) {
    let created = dev.client.post("/keys", &json!({"kind": "worker", "name": "docker"})).await;
    let mut said = hello("docker-box");
    said.datacenter = "boxes".to_owned();
    said.countables = [("gpu".to_owned(), 4), ("licence".to_owned(), 1)].into();
    let docker = |healthy, detail: &str| DriverStatus {
        driver: DriverKind::Docker,
        healthy,
        detail: Some(detail.to_owned()),
    };
    said.drivers.push(docker(true, "Docker 27.1"));
    let url = format!("{}/worker", dev.env["MASTER_URL"]);
    let mut worker = RawWorker::connect(&url, created.body["key"].as_str().unwrap(), said).await;
    let spec =
        json!({"image": "registry.lab:5000/tools/train:v3", "ports": ["0:80"], "datacenters": ["boxes"]});
    let ran = dev.client.submit(spec.clone()).await;
    let attempt = worker.next_start().await.attempt;
    let container = Some(ContainerFacts {
        id: "4f1d2c3b5a69788796a5b4c3d2e1f0".to_owned(),
        image: format!("registry.lab:5000/tools/train@sha256:{}", "0123456789abcdef".repeat(4)),
        ports: vec![PublishedPort { host: 32768, container: 80, protocol: PortProtocol::Tcp }],
    });
    worker.say(&[ToMaster::Started { attempt, at: chrono::Utc::now(), container, ports: Vec::new() }]).await;
    worker.ended(attempt, AttemptEnd::OutOfMemory, 0).await;
    dev.client.finished(ran).await;
    let pulling = dev.client.submit(spec).await;
    let attempt = worker.next_start().await.attempt;
    let message = "pulling registry.lab:5000/tools/train:v3: 120MiB of 480MiB (25 %)".to_owned();
    let host = DriverStatus { driver: DriverKind::Host, healthy: true, detail: None };
    let away =
        docker(false, "the Docker daemon at /var/run/docker.sock is away: Connection refused (os error 111)");
    worker
        .say(&[ToMaster::Noted { attempt, message }, ToMaster::Drivers { drivers: vec![host, away] }])
        .await;
    let held = HeldAttempt { attempt, phase: HeldPhase::Queued };
    worker.heartbeat(1, vec![held]).await;
    (ran, pulling, worker)
}

#[tokio::test]
async fn hostile_text_stays_text_in_every_place_of_every_page() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    let polyglot =
        "'\"></script><svg onload=window.hit=1><img src=x onerror=window.hit=1>{{7*7}}`${window.hit=1}`";
    let job = dev
        .client
        .submit(json!({
            "name": polyglot, "labels": {"a": polyglot}, "env": {"X": polyglot},
            "script": format!("printf '%s\\n' \"$X\"; printf '\\033]8;;javascript:window.hit=1\\033\\\\click\\033]8;;\\033\\\\\\n' >&2; exit 1"),
        }))
        .await;
    dev.client.finished(job).await;
    for path in [
        "/",
        "/jobs",
        &format!("/jobs/{job}"),
        &format!("/jobs/{job}?tab=spec"),
        &format!("/jobs/{job}?tab=events"),
        &format!("/jobs/{job}/tasks/main"),
        "/events",
        &format!("/jobs/new?from={job}"),
        "/jobs?name=%22%3E%3Csvg%20onload%3Dwindow.hit%3D1%3E",
    ] {
        browser.visit(&format!("{base}{path}")).await;
        assert_eq!(browser.value("window.hit === undefined").await, json!(true), "{path}");
        let unsafe_links = "[...document.links].filter(a => !/^https?:/.test(a.href)).length";
        assert_eq!(browser.value(unsafe_links).await, json!(0), "{path}");
    }
    browser.close().await;
}

/// Beside the browser, which the pages' policy protects from what may get through.
#[tokio::test]
async fn hostile_text_is_escaped_in_the_source_of_every_page() {
    let stage = Stage::set().await;
    let hostile = "'\"></pre></script><svg onload=hit><img src=x onerror=hit>";
    let mut said = hello(hostile);
    said.labels.insert("a".to_owned(), hostile.to_owned());
    said.datacenter = hostile.to_owned();
    said.warnings.push(hostile.to_owned());
    said.drivers.push(DriverStatus {
        driver: DriverKind::Docker,
        healthy: false,
        detail: Some(hostile.to_owned()),
    });
    let mut worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, said).await;
    stage.client.post("/keys", &json!({"kind": "worker", "name": hostile})).await;
    let job = stage
        .client
        .submit(json!({"name": hostile, "labels": {"a": hostile}, "env": {"X": hostile}, "script": hostile}))
        .await;
    let attempt = worker.next_start().await.attempt;
    worker.say(&[ToMaster::Noted { attempt, message: hostile.to_owned() }]).await;
    worker.output(attempt, 0, Stream::Stdout, hostile.as_bytes()).await;
    let end = AttemptEnd::StartFailed { exit_code: 1, message: hostile.to_owned() };
    worker.ended(attempt, end, hostile.len() as u64).await;
    stage.client.finished(job).await;
    set_aside(&stage, hostile).await;

    let parameters =
        json!({"x": {"default": hostile, "description": hostile}, "y": {"values": [hostile, "b"]}});
    let template = json!({"command": ["true", "{{ x }}"], "parameters": parameters});
    assert_eq!(stage.client.post("/templates/hostile", &template).await.status, 201);
    let made =
        stage.client.post("/jobs", &json!({"template": "hostile", "parameters": {"y": hostile}})).await;
    let made = made.body["id"].as_i64().unwrap();
    let cookie = stage.sign_in(&stage.client).await;
    let id = worker.welcome.worker;
    for path in [
        "/".to_owned(),
        "/jobs".to_owned(),
        format!("/jobs/{job}"),
        format!("/jobs/{job}?tab=tasks"),
        format!("/jobs/{job}?tab=spec"),
        format!("/jobs/{job}?tab=events"),
        format!("/jobs/{job}/tasks/main"),
        format!("/jobs/new?from={job}"),
        "/jobs?name=%22%3E%3Csvg%20onload%3Dhit%3E".to_owned(),
        "/queue".to_owned(),
        "/workers".to_owned(),
        format!("/workers/{id}"),
        "/keys".to_owned(),
        "/events".to_owned(),
        "/system".to_owned(),
        "/reference".to_owned(),
        "/templates".to_owned(),
        "/templates/hostile".to_owned(),
        format!("/jobs/{made}"),
        format!("/jobs/{made}?tab=spec"),
        format!("/jobs/new?from={made}"),
    ] {
        let page = stage.page(&path, &cookie).await;
        assert_eq!(page.status(), 200, "{path}");
        let source = page.text().await.unwrap();
        assert!(!source.contains("<svg onload") && !source.contains("<img src=x"), "{path}:\n{source}");
    }
}

#[tokio::test]
async fn everything_works_without_javascript() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let link = dev.client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
    let base = link.split("/login").next().unwrap().to_owned();
    let page = async |path: &str, cookie: &str| {
        http.get(format!("{base}{path}"))
            .header(ACCEPT, "text/html")
            .header(COOKIE, cookie)
            .send()
            .await
            .unwrap()
    };

    assert_eq!(page("/jobs", "").await.headers()[LOCATION], "/login?next=%2Fjobs");
    let signed_in = http.get(&link).header(ACCEPT, "text/html").send().await.unwrap();
    let set = signed_in.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    let again = http.get(&link).header(ACCEPT, "text/html").send().await.unwrap();
    assert!(again.headers().get(SET_COOKIE).is_none(), "a link signs in once");

    let form = [("as", "script"), ("script", "echo from a form"), ("name", "formed")];
    let request = http.post(format!("{base}/jobs/new")).header(COOKIE, &cookie).header(ACCEPT, "text/html");
    let body: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", v.replace(' ', "+"))).collect();
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"));
    let made = request.send().await.unwrap();
    assert_eq!(made.status(), 303, "{}", made.text().await.unwrap());
    let job: i64 = made.headers()[LOCATION].to_str().unwrap().rsplit('/').next().unwrap().parse().unwrap();
    dev.client.finished(job).await;
    let shown = page(&format!("/projects/default/jobs/{job}"), &cookie).await.text().await.unwrap();
    assert!(shown.contains("from a form") && shown.contains("completed"), "{shown}");
    let listed = page("/projects/default/jobs", &cookie).await.text().await.unwrap();
    assert!(listed.contains("formed"));

    let foreign = http
        .post(format!("{base}/jobs/{job}/rerun"))
        .header(COOKIE, &cookie)
        .header("origin", "https://evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), 403);
    let policy = page("/projects/default/jobs", &cookie).await.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
}
