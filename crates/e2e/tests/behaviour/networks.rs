//! Networks as they are: reverse proxies that replace headers or serve a path, proxies on the way out, certificates of
//! one's own.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::client::{Client, script};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{command, data_dir, executor};
use gaffer_e2e::proxies::{ForwardProxy, Passing, Proxying, ReverseProxy, TLS_NAME, certificate};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use nix::sys::signal::{Signal, kill};
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

/// A master behind a plain reverse proxy that replaces `Host`, and knows its public address.
async fn behind_a_proxy(host: &str, path: &'static str, strips: bool) -> (Stage, Proxying, String) {
    let proxy = ReverseProxy::plain().await;
    let public = format!("http://{host}:{}{path}", proxy.address().port());
    let url = public.clone();
    let stage = Stage::with(fresh_database().await, |config| config.public_url = Some(url)).await;
    let passing = Passing { path, strips, keeps_host: false, to: stage.running.dashboard };
    (stage, proxy.pass(passing), public)
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

/// Signs in at a public address; gives the cookie as it was set.
async fn sign_in(stage: &Stage, public: &str) -> String {
    let link = stage.client.post("/login-links", &json!({})).await;
    let url = link.body["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{public}/login?token=")), "{url}");
    let answer = http().get(url).header(ACCEPT, "text/html").send().await.unwrap();
    answer.headers()[SET_COOKIE].to_str().unwrap().to_owned()
}

fn pair(set_cookie: &str) -> String {
    set_cookie.split(';').next().unwrap().to_owned()
}

async fn submit_form(url: &str, cookie: &str, headers: &[(&'static str, &str)]) -> Response {
    let mut request = http().request(Method::POST, url).header(COOKIE, cookie).header(ACCEPT, "text/html");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body("as=script&script=echo+hi&name=formed").send().await.unwrap()
}

#[tokio::test]
async fn forms_work_behind_a_proxy_that_replaces_host_and_for_nobody_else() {
    let (stage, _proxy, public) = behind_a_proxy("127.0.0.1", "", true).await;
    let cookie = pair(&sign_in(&stage, &public).await);
    let form = format!("{public}/jobs/new");
    let direct = format!("http://{}/jobs/new", stage.running.dashboard);
    let own = format!("http://{}", stage.running.dashboard);
    let foreign = public.replace("http://127.0.0.1", "http://evil.example");

    let made = submit_form(&form, &cookie, &[("origin", &public)]).await;
    assert_eq!(made.status(), StatusCode::SEE_OTHER, "{}", made.text().await.unwrap());
    assert_eq!(submit_form(&direct, &cookie, &[("origin", &own)]).await.status(), StatusCode::SEE_OTHER);
    for origin in [&foreign, &public.replace("http:", "https:"), "null", &own.replace("http:", "https:")] {
        for url in [&form, &direct] {
            let refused = submit_form(url, &cookie, &[("origin", origin)]).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{origin} to {url}");
        }
    }
    for site in ["cross-site", "same-site"] {
        let refused = submit_form(&form, &cookie, &[("origin", &public), ("sec-fetch-site", site)]).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{site}");
    }
    let api = format!("{public}/api/v1/jobs");
    let request = http().post(&api).header(COOKIE, &cookie).header(ORIGIN, &foreign).json(&script("true"));
    assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_master_that_does_not_know_its_public_address_says_which_header_the_proxy_changes() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    let direct = format!("http://{}/jobs/new", stage.running.dashboard);
    let refused = submit_form(&direct, &cookie, &[("origin", "http://gaffer.lab")]).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let text = refused.text().await.unwrap();
    for part in
        ["GAFFER_PUBLIC_URL=http://gaffer.lab", "proxy_set_header Host", &stage.running.dashboard.to_string()]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let tls =
        submit_form(&direct, &cookie, &[("origin", "https://gaffer.lab"), ("host", "gaffer.lab")]).await;
    assert!(tls.text().await.unwrap().contains("X-Forwarded-Proto"));
    let headers = [("origin", "https://gaffer.lab"), ("host", "gaffer.lab"), ("x-forwarded-proto", "https")];
    assert_eq!(submit_form(&direct, &cookie, &headers).await.status(), StatusCode::SEE_OTHER);
}

/// The addresses that a page leads to, as they stand in it, and whether a plain `GET` reads them: a form that posts and a
/// stream of events are left alone.
fn addresses(html: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for element in html.split('<').skip(1) {
        let can_be_got = !element.contains("method=\"post\"");
        for name in ["href", "action", "src", "data-live", "data-lines"] {
            if let Some((_, rest)) = element.split_once(&format!(" {name}=\"")) {
                let address = rest.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&");
                found.push((address, can_be_got && name != "data-live"));
            }
        }
    }
    found
}

#[tokio::test]
async fn below_a_path_every_address_is_below_it_whether_the_proxy_strips_it_or_not() {
    for strips in [true, false] {
        let (stage, proxy, public) = behind_a_proxy("127.0.0.1", "/tools/gaffer", strips).await;
        let (origin, path) =
            public.split_once("/tools").map(|(origin, _)| (origin, "/tools/gaffer")).unwrap();
        let set = sign_in(&stage, &public).await;
        assert!(set.contains("; Path=/tools/gaffer;"), "{set}");
        let cookie = pair(&set);
        let get = async |address: &str| {
            let request = http().get(format!("{origin}{address}")).header(ACCEPT, "text/html");
            request.header(COOKIE, &cookie).send().await.unwrap()
        };

        // The API below it, and a worker.
        let client = Client::new(&public, stage.client.key());
        let url = format!("{}/worker", public.replace("http:", "ws:"));
        let mut worker = RawWorker::connect(&url, &stage.worker_key, hello("pi")).await;
        let answer =
            client.post("/jobs", &json!({"name": "below", "labels": {"a": "b"}, "script": "true"})).await;
        let job = answer.body["id"].as_i64().unwrap();
        assert_eq!(answer.headers[LOCATION], format!("{path}/api/v1/jobs/{job}"));
        let link = answer.headers["link"].to_str().unwrap();
        assert!(link.starts_with(&format!("<{public}/jobs/{job}>")), "{link}");
        let attempt = worker.next_start().await.attempt;
        worker.started(attempt).await;
        worker.output(attempt, 0, gaffer_protocol::output::Stream::Stderr, b"one\ntwo\n").await;
        worker.ended(attempt, gaffer_domain::reason::AttemptEnd::Exited { code: 3 }, 8).await;
        client.finished(job).await;
        client.post("/jobs", &json!({"script": "true", "resources": {"cpu": 512}})).await;
        let listed = client.get("/jobs?limit=1").await;
        let next =
            listed.headers["link"].to_str().unwrap().trim_start_matches('<').split('>').next().unwrap();
        assert!(next.starts_with(path), "{next}");
        let request = http().get(format!("{origin}{next}")).bearer_auth(client.key());
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "{next}");

        // Every page that can be reached from the first one, and all that they are made of.
        let mut seen = BTreeSet::new();
        let mut left = vec![format!("{path}/"), path.to_owned(), format!("{path}/nothing/here")];
        while let Some(address) = left.pop() {
            if !seen.insert(address.clone()) {
                continue;
            }
            let page = get(&address).await;
            if let Some(place) = page.headers().get(LOCATION).filter(|_| page.status().is_redirection()) {
                left.push(place.to_str().unwrap().to_owned());
                continue;
            }
            let is_page =
                page.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/html; charset=utf-8");
            assert!(
                page.status().is_success() || address.ends_with("/nothing/here"),
                "{address}: {}",
                page.status()
            );
            if !is_page {
                continue;
            }
            for (found, can_be_got) in addresses(&page.text().await.unwrap()) {
                let found = found.split('#').next().unwrap();
                let is_here = found.is_empty() || found == path || found.starts_with(&format!("{path}/"));
                assert!(is_here, "{address} leads to {found}");
                if !found.is_empty() && can_be_got {
                    left.push(found.to_owned());
                }
            }
        }
        assert!(seen.len() > 25, "{seen:?}");
        assert!(seen.iter().any(|address| address.contains("/static/app-")), "{seen:?}");

        // What is live.
        let live = http().get(format!("{public}/jobs/{job}/live")).header(COOKIE, &cookie);
        let mut live = live.header(ACCEPT, "text/event-stream").send().await.unwrap();
        let first = live.chunk().await.unwrap().unwrap();
        assert!(first.starts_with(b"event: "), "{first:?}");

        // Redirects after forms and to the login page.
        let rerun =
            http().post(format!("{public}/jobs/{job}/rerun")).header(COOKIE, &cookie).header(ORIGIN, origin);
        let rerun =
            rerun.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body("").send().await.unwrap();
        let to = rerun.headers()[LOCATION].to_str().unwrap().to_owned();
        assert!(rerun.status() == StatusCode::SEE_OTHER && to.starts_with(&format!("{path}/jobs/")), "{to}");
        let theme = http().post(format!("{public}/theme")).header(COOKIE, &cookie).header(ORIGIN, origin);
        let theme =
            theme.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body("theme=dark&back=/queue");
        let theme = theme.send().await.unwrap();
        assert_eq!(theme.headers()[LOCATION], format!("{path}/queue"));
        assert!(theme.headers()[SET_COOKIE].to_str().unwrap().contains("; Path=/tools/gaffer;"));
        let stranger = http().get(format!("{public}/jobs?state=failed")).header(ACCEPT, "text/html");
        let stranger = stranger.send().await.unwrap();
        assert_eq!(stranger.headers()[LOCATION], format!("{path}/login?next=%2Fjobs%3Fstate%3Dfailed"));

        assert_eq!(*proxy.strays.lock().unwrap(), Vec::<String>::new());
        // Without the proxy it works, too.
        assert_eq!(stage.page("/jobs", &cookie).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_public_address_that_cannot_be_served_is_refused_at_the_start() {
    for (url, expected) in [
        ("gaffer.lab", "write http://gaffer.lab"),
        ("https://gaffer.lab/?x=1", "query"),
        ("https://gaffer.lab/jobs", "a path of gaffer itself"),
    ] {
        let dir = data_dir();
        let output = command(&["master"])
            .env("GAFFER_PUBLIC_URL", url)
            .env("GAFFER_DATA_DIR", dir.path())
            .env("DATABASE_URL", fresh_database().await)
            .envs(["DASHBOARD", "API", "WORKER"].map(|door| (format!("GAFFER_{door}_ADDR"), "127.0.0.1:0")))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("GAFFER_PUBLIC_URL") && said.contains(expected),
            "{said}"
        );
    }
}

#[tokio::test]
async fn the_dashboard_works_below_a_path_in_a_browser_that_sends_no_fetch_metadata() {
    for strips in [true, false] {
        // By plain HTTP to a name that is not this machine's, browsers send no Sec-Fetch-Site.
        let (stage, proxy, public) = behind_a_proxy(TLS_NAME, "/gaffer", strips).await;
        let rules = format!("--host-resolver-rules=MAP {TLS_NAME} 127.0.0.1");
        let Some(browser) = Browser::open_with(1280, 900, Scheme::Light, &[&rules]).await else { return };
        let by_address = public.replace(TLS_NAME, "127.0.0.1");
        let _worker = Worker::start(&stage, "pi", &[("MASTER_URL", by_address)]).await;
        let link = stage.client.post("/login-links", &json!({})).await;
        browser.visit(link.body["url"].as_str().unwrap()).await;
        eventually("the browser is signed in", async || {
            let here = browser.window.current_url().await.unwrap();
            (here.as_str() == format!("{public}/projects/default/jobs")).then_some(())
        })
        .await;

        browser.visit(&format!("{public}/jobs/new")).await;
        browser.fill("textarea[name=script]", "echo live below a path; exec sleep 1000").await;
        browser.click("form[action='/gaffer/projects/default/jobs/new'] button.primary").await;
        browser.shows("running").await;
        browser.shows("live below a path").await;
        let job = browser.window.current_url().await.unwrap().path().rsplit('/').next().unwrap().to_owned();
        let stopped = stage.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
        assert!(stopped.status.is_success(), "{}", stopped.text);
        browser.shows("cancelled").await;
        // What the stream put into the page leads below the path, too.
        let bad = "[...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href')) \
             .filter(h => !h.startsWith('/gaffer/') && !h.startsWith('#'))";
        assert_eq!(browser.value(bad).await, json!([]));
        browser.visit(&format!("{public}/jobs")).await;
        let job =
            stage.client.submit(json!({"name": "comes later", "labels": {"x": "y"}, "script": "true"})).await;
        eventually("the new job waits above the list", async || {
            browser.text().await.contains("1 new").then_some(())
        })
        .await;
        browser.click("[data-waiting=jobs] button").await;
        browser.shows("comes later").await;
        assert_eq!(browser.value(bad).await, json!([]));
        browser.click(&format!("a[href='/gaffer/projects/default/jobs/{job}']")).await;
        browser.shows("comes later").await;
        browser
            .value("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'g', bubbles: true}))")
            .await;
        browser
            .value("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'w', bubbles: true}))")
            .await;
        eventually("g w leads to the workers", async || {
            let here = browser.window.current_url().await.unwrap();
            (here.path() == "/gaffer/projects/default/workers").then_some(())
        })
        .await;
        let complaints =
            "performance.getEntriesByType('resource').filter(e => e.responseStatus >= 400).map(e => e.name)";
        assert_eq!(browser.value(complaints).await, json!([]));
        let strays: Vec<String> = proxy.strays.lock().unwrap().clone();
        assert!(strays.iter().all(|stray| stray == "GET /favicon.ico"), "{strays:?}");
        browser.close().await;
    }
}

/// A master behind a reverse proxy that speaks TLS, only to be found through a proxy that wants a password.
struct FarAway {
    stage: Stage,
    forward: ForwardProxy,
    _reverse: Proxying,
    _dir: tempfile::TempDir,
}

impl FarAway {
    async fn set() -> FarAway {
        let stage = Stage::set().await;
        let reverse = ReverseProxy::tls().await;
        let name = (format!("{TLS_NAME}:443"), reverse.address());
        let plain = (format!("{TLS_NAME}:80"), stage.running.dashboard);
        let passing =
            Passing { path: "/gaffer", strips: true, keeps_host: true, to: stage.running.dashboard };
        // ana:s3cret@
        let forward = ForwardProxy::start("Basic YW5hOnMzY3JldEA=", &[name, plain]).await;
        FarAway { stage, forward, _reverse: reverse.pass(passing), _dir: data_dir() }
    }

    fn proxy(&self) -> String {
        format!("http://ana:s3cret%40@{}", self.forward.address)
    }

    /// What a program there has in its environment.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let base = format!("https://{TLS_NAME}/gaffer/");
        vec![
            ("GAFFER_URL", base.clone()),
            ("GAFFER_KEY", self.stage.client.key().to_owned()),
            ("MASTER_URL", base),
            ("API_KEY", self.stage.worker_key.clone()),
            ("GAFFER_TLS_CA", certificate("ca.pem").display().to_string()),
            ("HTTPS_PROXY", self.proxy()),
        ]
    }

    async fn run(&self, args: &[&str], changes: &[(&'static str, &str)]) -> Output {
        let mut command = command(args);
        command.envs(self.environment()).envs(changes.iter().copied());
        command.output().await.unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A real worker, which ends with this.
struct Worker {
    _child: tokio::process::Child,
    dir: tempfile::TempDir,
}

impl Worker {
    /// Starts one with these variables and waits until it is online.
    async fn start(stage: &Stage, name: &str, variables: &[(&'static str, String)]) -> Worker {
        let dir = data_dir();
        let child = command(&["worker"])
            .env("API_KEY", &stage.worker_key)
            .env("GAFFER_WORKER_NAME", name)
            .env("GAFFER_DATA_DIR", dir.path())
            .envs(variables.iter().cloned())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("worker.log")).unwrap())
            .spawn()
            .unwrap();
        let worker = Worker { _child: child, dir };
        eventually(&format!("worker {name} is online"), async || {
            (stage.client.get(&format!("/workers/{name}")).await.body["state"] == "online").then_some(())
        })
        .await;
        worker
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(pid) = executor(self.dir.path()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn workers_commands_and_doctor_go_the_same_way_through_proxies_and_with_certificates_of_ones_own() {
    let far = FarAway::set().await;
    let worker = Worker::start(&far.stage, "far", &far.environment()).await;
    let ran = far.run(&["run", "--", "sh", "-c", "echo through; env | grep -i proxy; exit 7"], &[]).await;
    assert_eq!(
        (ran.status.code(), String::from_utf8_lossy(&ran.stdout).as_ref()),
        (Some(7), "through\n"),
        "{ran:?}"
    );

    let doctor = far.run(&["doctor"], &[]).await;
    let text = said(&doctor);
    assert!(doctor.status.success(), "{text}");
    let through = format!("(through the proxy http://{}, from HTTPS_PROXY)", far.forward.address);
    assert_eq!(text.matches(&through).count(), 2, "{text}");
    assert!(
        text.contains(&format!("wss://{TLS_NAME}/gaffer/worker")) && text.contains("accepts the worker key"),
        "{text}"
    );

    let asked = far.forward.asked.lock().unwrap().clone();
    assert!(
        asked.iter().all(|asked| asked.what == format!("CONNECT {TLS_NAME}:443") && asked.let_through),
        "{asked:?}"
    );
    drop(worker);

    // Each thing that can be wrong is told by both.
    let wrong = far.proxy().replace("s3cret", "wrong");
    let ca = certificate("server.pem").display().to_string();
    let none = String::new();
    for (changes, expected) in [
        ([("HTTPS_PROXY", wrong.as_str())], ["proxy", "password"]),
        ([("GAFFER_TLS_CA", ca.as_str())], ["certificate", "certificate"]),
        ([("GAFFER_TLS_CA", none.as_str())], ["certificate", "certificate"]),
        ([("NO_PROXY", ".test")], [TLS_NAME, TLS_NAME]),
        ([("HTTPS_PROXY", "socks5://127.0.0.1:1080")], ["socks5", "socks5"]),
        ([("GAFFER_TLS_CA", "/no/such")], ["/no/such", "/no/such"]),
    ] {
        let doctor = far.run(&["doctor"], &changes).await;
        let text = said(&doctor);
        assert_eq!(doctor.status.code(), Some(1), "{changes:?}: {text}");
        for (check, part) in ["address", "worker port"].into_iter().zip(expected) {
            let line = text.lines().find(|line| line.starts_with(&format!("✗ {check}"))).unwrap_or_default();
            assert!(line.contains(part), "{changes:?}, {check}: {text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }
    // Plain HTTP goes through its own proxy, and this machine is always reached directly.
    let plain = format!("http://{TLS_NAME}");
    let jobs = far.run(&["jobs"], &[("GAFFER_URL", &plain), ("HTTP_PROXY", &far.proxy())]).await;
    assert!(jobs.status.success(), "{}", said(&jobs));
    let here = format!("http://{}", far.stage.running.api);
    let jobs = far.run(&["jobs"], &[("GAFFER_URL", &here), ("HTTP_PROXY", "http://127.0.0.1:9")]).await;
    assert!(jobs.status.success(), "{}", said(&jobs));
}

#[tokio::test]
async fn an_address_is_read_the_same_way_by_commands_and_workers() {
    let dir = data_dir();
    for (url, expected) in [
        ("gaffer.lab:8000", "write http://gaffer.lab:8000"),
        ("http://gaffer.lab:99999", "port"),
        ("ftp://gaffer.lab", "scheme"),
        ("http://ana:geheim@gaffer.lab", "user or password"),
        ("http://gaffer.lab/?key=geheim", "query"),
    ] {
        let jobs = command(&["jobs"]).env("GAFFER_URL", url).env("GAFFER_KEY", "k").output().await.unwrap();
        assert_eq!(jobs.status.code(), Some(2), "{url}");
        let worker = command(&["worker"])
            .env("MASTER_URL", url)
            .env("API_KEY", "k")
            .env("GAFFER_DATA_DIR", dir.path())
            .output()
            .await
            .unwrap();
        assert_eq!(worker.status.code(), Some(1), "{url}");
        for text in [said(&jobs), said(&worker)] {
            assert!(text.contains(expected) && !text.contains("geheim"), "{url}: {text}");
        }
    }
}
