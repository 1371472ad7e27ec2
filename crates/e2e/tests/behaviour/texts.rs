//! What users wrote is what runs: texts, names and lines, through every door.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Output, Stdio};

use gaffer_e2e::client::{Client, script};
use gaffer_e2e::gaffer::{Dev, data_dir, program};
use gaffer_e2e::stage::Stage;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const YAML: &str = "command: [printenv, A, B, C, discovery.type, 1x]\n\
    env: {A: 1.10, B: 680841e1, C: +4915112345678, discovery.type: 1.0, 1x: 010}\nlabels: {v: 2.0}\n";
const TOML: &str = "command = ['printenv', 'A', 'B', 'C', 'discovery.type', '1x']\nlabels = {v = 2.0}\n[env]\n\
    A = 1.10\nB = 680841e1\nC = '+4915112345678'\n\"discovery.type\" = 1.0\n1x = '010'\n";
const JSON: &str = r#"{"command": ["printenv", "A", "B", "C", "discovery.type", "1x"], "labels": {"v": 2.0},
    "env": {"A": 1.10, "B": 680841e1, "C": "+4915112345678", "discovery.type": 1.0, "1x": "010"}}"#;
const WRITTEN: &str = "1.10\n680841e1\n+4915112345678\n1.0\n010\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Submits a body of a kind.
async fn send(client: &Client, kind: &str, body: &str) -> (StatusCode, Value) {
    let request = client.request(Method::POST, "/jobs").header(CONTENT_TYPE, kind).body(body.to_owned());
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Runs the program with something on its standard input.
async fn fed(mut command: Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    child.wait_with_output().await.unwrap()
}

/// A browser without JavaScript that is signed in.
pub struct Visitor {
    http: reqwest::Client,
    base: String,
    cookie: String,
}

impl Visitor {
    pub async fn of(dev: &Dev) -> Visitor {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let link = dev.client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
        let signed_in = http.get(&link).header(ACCEPT, "text/html").send().await.unwrap();
        let set = signed_in.headers()[SET_COOKIE].to_str().unwrap();
        let cookie = set.split(';').next().unwrap().to_owned();
        Visitor { http, base: link.split("/login").next().unwrap().to_owned(), cookie }
    }

    /// A page of the project; `path` may name it.
    pub async fn page(&self, path: &str) -> String {
        let project = if path.starts_with("/projects/") { "" } else { "/projects/default" };
        let request = self.http.get(format!("{}{project}{path}", self.base)).header(COOKIE, &self.cookie);
        request.header(ACCEPT, "text/html, application/json").send().await.unwrap().text().await.unwrap()
    }

    /// Sends a form, encoded already.
    pub async fn send(&self, path: &str, form: String) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.base)).header(COOKIE, &self.cookie);
        let request =
            request.header(ACCEPT, "text/html").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(form).send().await.unwrap()
    }

    /// Sends the form for a new job; the number of the job, or the page that refuses it.
    async fn submit(&self, fields: &[(&str, &str)]) -> Result<i64, String> {
        let place = self.send_fields("/jobs/new", fields).await?;
        Ok(place.rsplit('/').next().unwrap().parse().unwrap())
    }

    /// Sends a form; the page that follows, or the page that refuses it.
    pub async fn send_fields(&self, path: &str, fields: &[(&str, &str)]) -> Result<String, String> {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let response = self.send(path, body.join("&")).await;
        match response.headers().get(LOCATION) {
            Some(place) => Ok(place.to_str().unwrap().to_owned()),
            None => Err(response.text().await.unwrap()),
        }
    }
}

#[tokio::test]
async fn what_was_written_is_what_runs_at_every_door() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let visitor = Visitor::of(&dev).await;
    let mut jobs = Vec::new();
    for (kind, body, extension) in [
        ("application/yaml", YAML, "yaml"),
        ("application/toml", TOML, "toml"),
        ("application/json", JSON, "json"),
    ] {
        // With what an editor of another system adds.
        let body = format!("\u{feff}{}", body.replace('\n', "\r\n"));
        let (status, job) = send(&dev.client, kind, &body).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        jobs.push(job["id"].as_i64().unwrap());

        let path = dir.path().join(format!("job.{extension}"));
        std::fs::write(&path, &body).unwrap();
        let done = dev.cli(&["submit", path.to_str().unwrap()]).output().await.unwrap();
        jobs.push(text(&done.stdout).trim().parse().unwrap_or_else(|_| panic!("{}", text(&done.stderr))));
        let done = fed(dev.cli(&["submit", "-"]), &body).await;
        jobs.push(text(&done.stdout).trim().parse().unwrap_or_else(|_| panic!("{}", text(&done.stderr))));
        jobs.push(visitor.submit(&[("as", "spec"), ("spec", &body)]).await.unwrap());
    }
    for job in jobs {
        let done = dev.client.finished(job).await;
        assert_eq!(done.state, "completed", "{done:?}");
        assert_eq!(text(&dev.client.output(job).await), WRITTEN, "job {job}");
        assert_eq!(done.labels["v"], "2.0");
    }
    let fields = [("as", "command"), ("command", "printenv A B"), ("env", "A=1.10 \r\nB= x\r\n")];
    let job = visitor.submit(&fields).await.unwrap();
    dev.client.finished(job).await;
    assert_eq!(text(&dev.client.output(job).await), "1.10 \n x\n");
}

#[tokio::test]
async fn a_key_that_is_written_twice_is_refused_with_its_line_at_every_door() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let visitor = Visitor::of(&dev).await;
    let cases = [
        ("application/yaml", "tasks:\n  - name: a\n    command: [a]\n    env:\n      A: 1\n      A: 2\n", 6),
        ("application/toml", "[[tasks]]\nname = 'a'\ncommand = ['a']\n[tasks.env]\nA = 1\nA = 2\n", 6),
        (
            "application/json",
            "{\"tasks\": [{\"name\": \"a\",\n\"command\": [\"a\"], \"env\": {\"A\": 1,\n\"A\": 2}}]}",
            3,
        ),
    ];
    for (kind, body, line) in cases {
        let (status, problem) = send(&dev.client, kind, body).await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(detail.contains(&format!("line {line}, ")), "{detail}");
        let done = fed(dev.cli(&["submit", "-"]), body).await;
        assert_eq!(done.status.code(), Some(2));
        assert!(text(&done.stderr).contains(&format!("standard input:{line}:")), "{}", text(&done.stderr));
        let page = visitor.submit(&[("as", "spec"), ("spec", body)]).await.unwrap_err();
        assert!(page.contains(&format!("line {line}, ")), "{page}");
    }
    let page =
        visitor.submit(&[("as", "script"), ("script", "true"), ("env", "A=1\r\nA=2")]).await.unwrap_err();
    assert!(page.contains("is repeated on line 2"), "{page}");
    // Bodies that only programs send, too.
    let (status, problem) = {
        let request = dev.client.request(Method::POST, "/keys").header(CONTENT_TYPE, "application/json");
        let body = r#"{"kind": "user", "name": "a", "kind": "worker"}"#;
        let response = request.body(body).send().await.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (StatusCode::BAD_REQUEST, Some("/kind")));
}

#[tokio::test]
async fn a_script_of_another_system_runs_whatever_door_it_comes_through() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let visitor = Visitor::of(&dev).await;
    let written = "\u{feff}#!/bin/sh\r\nfor word in one two; do\r\n  echo $word\r\ndone\r\n";
    let mut jobs = vec![dev.client.submit(script(written)).await];
    let path = dir.path().join("x.sh");
    std::fs::write(&path, written).unwrap();
    let done = dev.cli(&["submit", "--script", path.to_str().unwrap()]).output().await.unwrap();
    jobs.push(text(&done.stdout).trim().parse().unwrap_or_else(|_| panic!("{}", text(&done.stderr))));
    let done = fed(dev.cli(&["submit", "--script", "-"]), written).await;
    jobs.push(text(&done.stdout).trim().parse().unwrap_or_else(|_| panic!("{}", text(&done.stderr))));
    jobs.push(visitor.submit(&[("as", "script"), ("script", written)]).await.unwrap());
    let yaml = "script: |\r\n  #!/bin/sh\r\n  for word in one two; do\r\n    echo $word\r\n  done\r\n";
    jobs.push(send(&dev.client, "text/yaml", yaml).await.1["id"].as_i64().unwrap());
    for job in jobs {
        assert_eq!(dev.client.finished(job).await.state, "completed");
        assert_eq!(text(&dev.client.output(job).await), "one\ntwo\n", "job {job}");
    }
}

#[tokio::test]
async fn only_lines_of_the_chosen_stream_count() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    // More of the other stream than is looked through at once, on both sides of what is wanted.
    let flood =
        "i=0; while [ $i -lt 9000 ]; do echo noise that nobody asked for, number $i >&2; i=$((i+1)); done";
    let job = dev
        .client
        .submit(json!({
            "name": "loud",
            "script": format!("echo one; echo two; {flood}; echo three; echo four; {flood}; printf five; {flood}"),
        }))
        .await;
    assert_eq!(dev.client.finished(job).await.state, "completed");
    let get = async |query: &str| dev.client.get(&format!("/jobs/{job}/output?stream={query}")).await.text;
    assert_eq!(get("stdout&tail=1").await, "five");
    assert_eq!(get("stdout&tail=3").await, "three\nfour\nfive");
    assert_eq!(get("stdout&tail=4").await, "two\nthree\nfour\nfive");
    assert_eq!(get("stdout&tail=100000").await, "one\ntwo\nthree\nfour\nfive");
    assert_eq!(get("stdout&tail=0").await, "");
    assert_eq!(get("stdout&lines=2-3").await, "two\nthree\n");
    assert_eq!(get("stdout&lines=4-9").await, "four\nfive");
    assert_eq!(get("stdout&lines=7-9").await, "");
    assert_eq!(get("stderr&tail=1").await, "noise that nobody asked for, number 8999\n");
    assert_eq!(
        get("stderr&lines=9000-9001").await.lines().map(|line| &line[36..]).collect::<Vec<_>>(),
        ["8999", "0"]
    );
    // The viewer's lines keep the numbers that they have among all.
    let visitor = Visitor::of(&dev).await;
    let page = visitor.page(&format!("/jobs/{job}?stream=stdout")).await;
    assert!(
        ["one", "two", "three", "four", "five"].iter().all(|line| page.contains(&format!(">{line}<"))),
        "{page}"
    );
    assert!(!page.contains("noise that nobody"), "{page}");
    let lines = async |query: &str| -> Value {
        let found = visitor.page(&format!("/jobs/{job}/lines?task=main&stream=stdout&{query}")).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["lines"].as_array().unwrap().len(), found["numbers"].as_array().unwrap().len());
        found["numbers"].clone()
    };
    let last = lines("count=2").await;
    assert_eq!(last.as_array().unwrap().len(), 2);
    assert_eq!(lines(&format!("count=1&before={}", last[0])).await.as_array().unwrap().len(), 1);
    assert_eq!(lines(&format!("count=9&from={}", last[0])).await, last);
    let job = job.to_string();
    let shown = dev.cli(&["logs", &job, "--stream", "stdout", "--tail", "3"]).output().await.unwrap();
    assert_eq!(text(&shown.stdout), "three\nfour\nfive");
    let shown = dev.cli(&["logs", &job, "--stream", "stdout", "--lines", "2-3"]).output().await.unwrap();
    assert_eq!(text(&shown.stdout), "two\nthree\n");
}

#[tokio::test]
async fn a_failed_job_shows_the_last_of_its_standard_error_whatever_came_after() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let flood = "i=0; while [ $i -lt 5000 ]; do echo cleaning up; i=$((i+1)); done";
    let text = format!("echo what went wrong >&2; {flood}; exit 3");
    let job = dev.client.submit(json!({"name": "cleans up", "script": text})).await;
    dev.client.finished(job).await;
    let page = Visitor::of(&dev).await.page(&format!("/jobs/{job}?tab=tasks")).await;
    assert!(page.contains("what went wrong"), "{page}");
}

#[tokio::test]
async fn a_line_that_is_shown_has_one_time() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let mixed = "printf a; printf 'b\\n' >&2; printf c; printf d >&2; printf 'e\\r\\n'; printf '\\n\\nf\\n' >&2; printf g";
    let job = dev.client.submit(script(mixed)).await;
    dev.client.finished(job).await;
    let without = text(&dev.client.output(job).await);
    let shown = dev.cli(&["logs", "-t", &job.to_string()]).output().await.unwrap();
    let shown = text(&shown.stdout);
    let behind: Vec<&str> =
        shown.split_inclusive('\n').map(|line| line.split_once("Z ").unwrap().1).collect();
    assert_eq!(behind.concat(), without, "{shown}");
    assert_eq!(shown.matches("Z ").count(), behind.len(), "{shown}");
}

#[tokio::test]
async fn the_link_to_the_next_page_keeps_what_was_asked_for() {
    let stage = Stage::set().await;
    for number in 0..5 {
        let team = if number % 2 == 0 { "a&b" } else { "other" };
        stage
            .client
            .submit(json!({"command": ["true"], "labels": {"team": team}, "name": format!("n{number}")}))
            .await;
    }
    let mut path = "/jobs?label=team%3Da%26b&limit=1&name=n".to_owned();
    let mut names = Vec::new();
    loop {
        let answer = stage.client.get(&path).await;
        names.extend(answer.body["items"].as_array().unwrap().iter().map(|job| job["name"].clone()));
        let Some(link) = answer.headers.get("link") else { break };
        let link = link.to_str().unwrap();
        let next = link.strip_prefix("</api/v1").unwrap().split_once('>').unwrap().0;
        path = next.to_owned();
    }
    assert_eq!(names, ["n4", "n2", "n0"]);
    let array =
        stage.client.submit(json!({"command": ["true"], "count": 3, "resources": {"cpu": 999}})).await;
    for path in [format!("/jobs/{array}/tasks?state=pending&limit=2"), "/events?limit=1".to_owned()] {
        let answer = stage.client.get(&path).await;
        let link = answer.headers["link"].to_str().unwrap().to_owned();
        let cursor = answer.body["next_cursor"].as_str().unwrap();
        assert_eq!(link, format!("</api/v1{path}&cursor={cursor}>; rel=\"next\""));
    }
}

#[tokio::test]
async fn an_argument_that_is_no_text_is_named() {
    let mut command = Command::new(program());
    command.args(["run", "--", "echo"]).arg(OsStr::from_bytes(b"caf\xe9"));
    let done = command.env("GAFFER_URL", "http://127.0.0.1:1").env("GAFFER_KEY", "k").output().await.unwrap();
    assert_eq!(done.status.code(), Some(2));
    let said = text(&done.stderr);
    assert!(
        said.contains("argument 4 is not text in UTF-8: it has the byte 0xe9 after 3 bytes: caf\\xe9"),
        "{said}"
    );
    let mut command = Command::new(program());
    command.args(["run", "-e", "PLACE", "--", "true"]).env("PLACE", OsStr::from_bytes(b"\xff"));
    let done = command.env("GAFFER_URL", "http://127.0.0.1:1").env("GAFFER_KEY", "k").output().await.unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("--env PLACE: its value in this environment is not text"));
}

#[tokio::test]
async fn a_bomb_costs_neither_time_nor_memory() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..10 {
        let nine = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{nine}]\n"));
    }
    let filled =
        |head: &str, part: &str| format!("{head}{}", part.repeat(((1 << 20) - head.len()) / part.len()));
    let bombs = [
        ("yaml", laughs),
        ("yaml", format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("yaml", filled("", "- ")),
        ("yaml", filled("tasks:\n", "- {}\n")),
        ("yaml", filled("tasks: [[", "a,")),
        ("json", filled("{\"tasks\":[{}", ",{}")),
        ("json", filled("", "[")),
        ("toml", filled("", "[[tasks]]\n")),
        ("toml", filled("a = [", "[],")),
        ("toml", filled("", "a.")),
    ];
    let dir = data_dir();
    let stage = Stage::set().await;
    for (language, text_of_bomb) in bombs {
        let (status, problem) = send(&stage.client, &format!("application/{language}"), &text_of_bomb).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        let path = dir.path().join(format!("bomb.{language}"));
        std::fs::write(&path, &text_of_bomb).unwrap();
        // A second of processor time, and 64 MiB for everything that the program makes.
        let limited = format!("ulimit -t 1; ulimit -d {}; exec \"$0\" submit \"$1\"", 64 << 10);
        let done = Command::new("sh")
            .args(["-c", &limited, program().to_str().unwrap(), path.to_str().unwrap()])
            .env("GAFFER_URL", "http://127.0.0.1:1")
            .env("GAFFER_KEY", "k")
            .output()
            .await
            .unwrap();
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{text_of_bomb:.30}: {said}");
        assert!(said.contains("more than") || said.contains("deep"), "{text_of_bomb:.30}: {said}");
    }
    let request = stage.client.request(Method::POST, "/jobs").header(CONTENT_ENCODING, "gzip");
    let refused =
        request.header(CONTENT_TYPE, "application/json").body(vec![0x1f, 0x8b]).send().await.unwrap();
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "header:content-encoding", "{problem}");
}
