//! Templates: specifications that are saved under a name, and the jobs that are made from them.

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::stage::Stage;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::pages::{look_at, sign_in};
use crate::tenants::neighbour;
use crate::texts::Visitor;

const TRAIN: &str = r#"# Which data, and how fast.
name: train {{ data }}
command: [echo, "{{ lr }}", "{{ data }}"]
parameters:
  lr: {type: number, default: 0.10, min: 0, description: Learning rate}
  data: {values: [cats, dogs], description: Name of the data set}
"#;

async fn said(dev: &Dev, args: &[&str]) -> (Option<i32>, String, String) {
    let output = dev.cli(args).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_template_is_saved_in_versions_and_jobs_are_made_from_each() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("train.yaml");
    std::fs::write(&file, TRAIN).unwrap();
    let file = file.to_str().unwrap();
    let (code, version, why) = said(&dev, &["template", "save", "train", file]).await;
    assert_eq!((code, version.as_str()), (Some(0), "1\n"), "{why}");
    // The same again is the same version.
    assert_eq!(said(&dev, &["templates", "save", "train", file]).await.1, "1\n");
    std::fs::write(file, TRAIN.replace("default: 0.10", "default: 2e-3")).unwrap();
    assert_eq!(said(&dev, &["templates", "save", "train", file]).await.1, "2\n");

    let submit = async |args: &[&str]| -> i64 {
        let args = [&["submit", "--template", "train", "-p", "data=dogs"], args].concat();
        let (code, number, why) = said(&dev, &args).await;
        assert_eq!(code, Some(0), "{why}");
        number.trim().parse().unwrap()
    };
    let (latest, first) = (submit(&[]).await, submit(&["--version", "1"]).await);
    for (job, version, output) in [(latest, 2, "2e-3 dogs\n"), (first, 1, "0.10 dogs\n")] {
        assert_eq!(dev.client.finished(job).await.state, "completed");
        assert_eq!(String::from_utf8(dev.client.output(job).await).unwrap(), output);
        let shown = dev.client.get(&format!("/jobs/{job}")).await.body;
        assert_eq!(shown["template"], json!({"name": "train", "version": version}));
        assert_eq!(shown["name"], "train dogs");
    }
    let (_, text, _) = said(&dev, &["job", &first.to_string()]).await;
    assert!(text.contains("template train, version 1"), "{text}");
    let (_, text, _) = said(&dev, &["templates", "show", "train", "--version", "1", "--text"]).await;
    assert_eq!(text, TRAIN, "with its comments");
    let (_, text, _) = said(&dev, &["templates", "show", "train"]).await;
    assert!(text.contains("lr: a number of at least 0, default 2e-3; Learning rate"), "{text}");
    let (_, text, _) = said(&dev, &["templates", "list"]).await;
    assert!(text.lines().any(|line| line.starts_with("train ")), "{text}");
    assert_eq!(said(&dev, &["templates", "versions", "train", "-o", "name"]).await.1, "2\n1\n");

    // A rerun is of the same version, with the same values but for those that are given.
    let (_, again, why) = said(&dev, &["rerun", &first.to_string(), "-p", "lr=5"]).await;
    let again: i64 = again.trim().parse().unwrap_or_else(|_| panic!("{why}"));
    dev.client.finished(again).await;
    assert_eq!(dev.client.output(again).await, b"5 dogs\n");
    let shown = dev.client.get(&format!("/jobs/{again}")).await.body;
    assert_eq!(shown["template"], json!({"name": "train", "version": 1}));
    let spec = json!({"spec": {"command": ["true"]}});
    let edited = dev.client.post(&format!("/jobs/{again}/rerun"), &spec).await.body;
    assert_eq!(edited["template"], Value::Null, "it is no job of the template any more");

    // Jobs stay when it is deleted, and no other version gets its numbers.
    assert_eq!(said(&dev, &["templates", "delete", "train"]).await.0, Some(0));
    assert_eq!(said(&dev, &["templates", "show", "train"]).await.0, Some(3));
    assert_eq!(said(&dev, &["submit", "--template", "train", "-p", "data=cats"]).await.0, Some(3));
    let shown = dev.client.get(&format!("/jobs/{first}")).await.body;
    assert_eq!(shown["template"]["version"], 1);
    let (code, again, why) = said(&dev, &["rerun", &first.to_string()]).await;
    assert_eq!(code, Some(0), "{why}");
    assert_eq!(dev.client.job(again.trim().parse().unwrap()).await.parameters["data"], "dogs");
    assert_eq!(said(&dev, &["templates", "save", "train", file]).await.1, "3\n");
    // Of one that no job names, nothing stays.
    for _ in 0..2 {
        assert_eq!(said(&dev, &["templates", "save", "unused", file]).await.1, "1\n");
        assert_eq!(said(&dev, &["templates", "delete", "unused"]).await.0, Some(0));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_template_or_its_values_is_told_where_it_is() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, "command: []\nparameters:\n  lr: {type: numbr}\n").unwrap();
    let (code, _, why) = said(&dev, &["templates", "save", "bad", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(2), "{why}");
    assert!(
        why.contains("bad.yaml:1:1 /command") && why.contains("bad.yaml:3:8 /parameters/lr/type"),
        "{why}"
    );
    std::fs::write(&file, TRAIN).unwrap();
    let (code, _, why) = said(&dev, &["templates", "save", "a b", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(2), "{why}");
    assert!(why.contains("cannot be the name of a template"), "{why}");
    said(&dev, &["templates", "save", "train", file.to_str().unwrap()]).await;

    let (_, _, why) = said(&dev, &["submit", "--template", "train", "-p", "lr=-1"]).await;
    assert!(why.contains("-p lr: expected a number of at least 0, found `-1`"), "{why}");
    assert!(why.contains("/parameters/data: the parameter `data` has no default"), "{why}");
    let (_, _, why) = said(&dev, &["submit", "--template", "train", "--cpu", "2"]).await;
    assert!(why.contains("--template takes values for parameters"), "{why}");
    let pointers = async |body: Value| -> Vec<String> {
        let answer = dev.client.post("/jobs", &body).await;
        assert_eq!(answer.status, 422, "{}", answer.text);
        let errors = answer.body["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    };
    let spec = json!({"command": ["true"]});
    assert_eq!(pointers(json!({"template": "train", "spec": spec})).await, ["/template"]);
    assert_eq!(pointers(json!({"template": "train", "versions": 1})).await, ["/versions"]);
    assert_eq!(pointers(json!({"spec": spec, "version": 1})).await, ["/version"]);
    assert_eq!(
        pointers(json!({"template": "train", "parameters": {"data": "birds"}})).await,
        ["/parameters/data"]
    );
    let missing = json!({"template": "train", "version": 7, "parameters": {"data": "cats"}});
    assert_eq!(dev.client.post("/jobs", &missing).await.status, 404);

    // A repeated request gets the same job, although there is a newer version.
    let send = async || {
        let body = json!({"template": "train", "parameters": {"data": "cats"}});
        let request = dev.client.request(Method::POST, "/jobs").header("idempotency-key", "k").json(&body);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap()["id"].clone())
    };
    let (created, job) = send().await;
    std::fs::write(&file, TRAIN.replace("0.10", "0.2")).unwrap();
    assert_eq!(said(&dev, &["templates", "save", "train", file.to_str().unwrap()]).await.1, "2\n");
    assert_eq!((created, send().await), (StatusCode::CREATED, (StatusCode::OK, job.clone())));
    // Nor does a version that would not take its values any more, or a template that is gone.
    std::fs::write(&file, TRAIN.replace("[cats, dogs]", "[birds]")).unwrap();
    assert_eq!(said(&dev, &["templates", "save", "train", file.to_str().unwrap()]).await.1, "3\n");
    assert_eq!(send().await, (StatusCode::OK, job.clone()));
    assert_eq!(said(&dev, &["templates", "delete", "train"]).await.0, Some(0));
    assert_eq!(send().await, (StatusCode::OK, job));
    let body = json!({"template": "train", "parameters": {"data": "dogs"}});
    let request = dev.client.request(Method::POST, "/jobs").header("idempotency-key", "k").json(&body);
    assert_eq!(request.send().await.unwrap().status(), 422, "another request with the same key");
}

#[tokio::test]
async fn the_page_of_a_template_is_a_form_of_its_parameters() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let browser = Visitor::of(&dev).await;
    assert!(browser.page("/templates").await.contains("No templates yet"));
    let save = async |text: String| {
        let request =
            dev.client.request(Method::POST, "/templates/train").header(CONTENT_TYPE, "application/yaml");
        request.body(text).send().await.unwrap().status()
    };
    assert_eq!(save(TRAIN.to_owned()).await, StatusCode::CREATED);
    assert_eq!(save(TRAIN.to_owned()).await, StatusCode::OK);
    assert_eq!(save(TRAIN.replace("0.10", "0.2")).await, StatusCode::CREATED);
    assert!(browser.page("/templates").await.contains("href=\"/projects/default/templates/train\""));

    let page = browser.page("/templates/train").await;
    for words in
        ["Learning rate", "a number of at least 0", "value=\"0.2\"", "<option value=\"dogs\"", "Which data"]
    {
        assert!(page.contains(words), "{words}: {page}");
    }
    let old = browser.page("/templates/train?version=1").await;
    assert!(old.contains("value=\"0.10\"") && old.contains("not the latest version"), "{old}");

    let fields = [("version", "1"), ("parameter.lr", "fast"), ("parameter.data", "")];
    let refused = browser.send_fields("/templates/train", &fields).await.unwrap_err();
    assert!(refused.contains("id=\"parameter.lr-error\">expected a number of at least 0"), "{refused}");
    assert!(refused.contains("id=\"parameter.data-error\">the parameter"), "{refused}");
    assert!(refused.contains("value=\"fast\""), "what was written is not lost: {refused}");
    let fields = [("version", "1"), ("parameter.lr", ""), ("parameter.data", "dogs")];
    let place = browser.send_fields("/templates/train", &fields).await.unwrap();
    let job: i64 = place.rsplit('/').next().unwrap().parse().unwrap();
    dev.client.finished(job).await;
    assert_eq!(dev.client.output(job).await, b"0.10 dogs\n");
    let page = browser.page(&format!("/jobs/{job}")).await;
    assert!(
        page.contains("href=\"/projects/default/templates/train?version=1\">template train, version 1</a>"),
        "{page}"
    );
    browser.send_fields("/templates/train/delete", &[]).await.unwrap();
    assert!(browser.page("/templates").await.contains("No templates yet"));
}

#[tokio::test]
async fn a_template_belongs_to_its_project_and_keeps_its_latest_versions() {
    let stage = Stage::set().await;
    let save = async |n: u32| {
        let spec = json!({"command": ["echo", n.to_string()]});
        stage.client.post("/templates/t", &spec).await.status
    };
    for n in 1..=102 {
        assert_eq!(save(n).await, StatusCode::CREATED);
    }
    let versions = stage.client.get("/templates/t/versions").await.body;
    let versions: Vec<i64> = versions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["version"].as_i64().unwrap())
        .collect();
    assert_eq!((versions.len(), versions[0], versions[99]), (100, 102, 3));
    assert_eq!(stage.client.get("/templates/t?version=2").await.status, 404);

    let (other, _) = neighbour(&stage).await;
    for path in ["/templates/t", "/templates/t/versions"] {
        assert_eq!(other.get(path).await.status, 404, "{path}");
    }
    assert_eq!(other.delete("/templates/t").await.status, 404);
    assert_eq!(other.post("/jobs", &json!({"template": "t"})).await.status, 404);
    assert_eq!(other.get("/templates").await.body["items"], json!([]));
    // The same name is another template there.
    let theirs = other.post("/templates/t", &json!({"command": ["theirs"]})).await;
    assert_eq!((theirs.status, theirs.body["version"].clone()), (StatusCode::CREATED, json!(1)));
}

#[tokio::test]
async fn a_job_is_submitted_from_a_template_in_the_browser() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let Some(browser) = Browser::open(1280, 900, Scheme::Light).await else { return };
    let base = sign_in(&browser, &dev.client).await;
    look_at(&browser, &format!("{base}/templates"), "templates-none").await;
    let long = "s3://a-bucket-with-a-long-name/and/a/long/path/to/the/data/of/the/third/experiment/2026-11-30.tar.zst";
    let parameters = json!({
        "lr": {"type": "number", "default": 0.1, "min": 0, "description": "Learning rate"},
        "data": {"default": long, "description": "Where the data set is, as an address that every worker can read"},
        "size": {"values": ["small", "large"], "description": "Size of the model"},
        "steps": {"type": "integer", "default": 100, "min": 1, "max": 100_000},
        "limit": {"type": "duration", "default": "2h", "max": "24h", "description": "Maximum run time"},
        "dry": {"type": "boolean", "default": false, "description": "Only check the data"},
        "tag": {"pattern": "[a-z][a-z0-9-]*", "max_length": 20, "description": "Tag of the result"},
    });
    let template = json!({
        "name": "train {{ size }}",
        "command": ["echo", "--lr={{ lr }}", "--data={{ data }}", "--steps={{ steps }}", "--tag={{ tag }}"],
        "timeout": "{{ limit }}",
        "parameters": parameters,
    });
    for name in ["train", "train", "a-template-with-a-name-that-is-nearly-as-long-as-one-may-be"] {
        assert!(dev.client.post(&format!("/templates/{name}"), &template).await.status.is_success());
    }
    look_at(&browser, &format!("{base}/templates"), "templates").await;
    look_at(&browser, &format!("{base}/templates/train"), "template").await;

    browser.resize(1280, 900).await;
    browser.visit(&format!("{base}/templates/train")).await;
    browser.fill("[name='parameter.lr']", "-1").await;
    browser.fill("[name='parameter.tag']", "v1").await;
    browser.click("form.card button.primary").await;
    browser.shows("expected a number of at least 0, found `-1`").await;
    browser.shows("the parameter `size` has no default and needs a value").await;
    browser.screenshot("template-refused-dark-1280").await;
    browser.fill("[name='parameter.lr']", "1e-3").await;
    browser.value("document.querySelector('[name=\"parameter.size\"]').value = 'large'").await;
    browser.click("form.card button.primary").await;
    browser.shows("template train, version 1").await;
    let job = dev.client.get("/jobs").await.body["items"][0]["id"].as_i64().unwrap();
    let values = dev.client.job(job).await.parameters;
    assert_eq!(
        (values["lr"].as_str(), values["size"].as_str(), values["tag"].as_str()),
        ("1e-3", "large", "v1")
    );
    dev.client.finished(job).await;
    for (name, path) in [("parameters-job", ""), ("parameters-spec", "?tab=spec")]
        .map(|(name, tab)| (name, format!("/jobs/{job}{tab}")))
    {
        look_at(&browser, &format!("{base}{path}"), name).await;
    }
    look_at(&browser, &format!("{base}/jobs/new?from={job}"), "parameters-new").await;
    browser.close().await;
}
