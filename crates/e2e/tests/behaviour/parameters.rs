//! Parameters of specifications: their values on every door, and reruns with other ones.

use gaffer_e2e::gaffer::{Dev, data_dir};
use reqwest::Method;
use serde_json::{Value, json};

use crate::texts::Visitor;

const TRAIN: &str = r#"# A comment, so that lines are counted from the file.
name: train
command: [printf, "%s %s %s", "{{ lr }}", "{{ data }}", "{{ .Names }}"]
count: "{{ n }}"
parameters:
  lr: {type: number, default: 1e-3, min: 0, description: Learning rate}
  data: {description: Name of the data set}
  n: {type: integer, default: 1, min: 1, max: 4}
"#;

async fn said(dev: &Dev, args: &[&str]) -> (Option<i32>, String, String) {
    let output = dev.cli(args).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn submitted(dev: &Dev, args: &[&str]) -> i64 {
    let (code, number, why) = said(dev, args).await;
    assert_eq!(code, Some(0), "{why}");
    number.trim().parse().unwrap()
}

#[tokio::test]
async fn values_reach_the_command_and_the_environment_and_every_door_shows_them() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let file = dir.path().join("train.yaml");
    std::fs::write(&file, TRAIN).unwrap();
    let file = file.to_str().unwrap();
    let job = submitted(&dev, &["submit", file, "-p", "data=a; $(id) \"b\""]).await;
    assert_eq!(dev.client.finished(job).await.state, "completed");
    assert_eq!(dev.client.output(job).await, b"1e-3 a; $(id) \"b\" {{ .Names }}");

    let shown = dev.client.job(job).await;
    let values: Vec<_> = shown.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(values, ["data=a; $(id) \"b\"", "lr=1e-3", "n=1"]);
    let (_, text, _) = said(&dev, &["job", &job.to_string()]).await;
    assert!(text.contains("lr=1e-3"), "{text}");
    let browser = Visitor::of(&dev).await;
    let page = browser.page(&format!("/jobs/{job}?tab=spec")).await;
    for words in ["Learning rate", "1e-3", "a number of at least 0", "As submitted", "{{ lr }}"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let source = dev.client.get(&format!("/jobs/{job}/source")).await.body;
    assert_eq!(source["spec"]["command"][2], "{{ lr }}");
    assert_eq!(source["spec"]["parameters"]["lr"]["default"], "1e-3");

    // The answer submits the same job, and so does the job's own specification.
    let again = dev.client.post("/jobs", &source).await;
    assert_eq!(again.status, 201, "{}", again.text);
    assert_eq!(again.body["spec"], shown.spec);
    let normal = dev.client.post("/jobs", &shown.spec).await;
    assert_eq!(normal.body["spec"], shown.spec, "{}", normal.text);
    // What was submitted with its values has no placeholders; its source submits the same job, too.
    let normal = dev.client.get(&format!("/jobs/{}/source", normal.body["id"])).await.body;
    assert_eq!(normal["parameters"], json!({}));
    let again = dev.client.post("/jobs", &normal).await;
    assert_eq!((again.status.as_u16(), &again.body["spec"]), (201, &shown.spec), "{}", again.text);

    let env = json!({
        "spec": {
            "script": "echo \"$GAFFER_PARAM_BATCH_SIZE $GAFFER_PARAM_NAME $GAFFER_PARAM_ON\"",
            "parameters": {"batch-size": {"type": "integer"}, "name": {}, "on": {"type": "boolean"}},
        },
        "parameters": {"batch-size": "0x10", "name": "$(id)", "on": true},
    });
    let answer = dev.client.post("/jobs", &env).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let job = answer.body["id"].as_i64().unwrap();
    assert_eq!(dev.client.finished(job).await.state, "completed");
    assert_eq!(dev.client.output(job).await, b"16 $(id) true\n");
}

#[tokio::test]
async fn a_mistake_in_a_value_is_told_where_it_was_given() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let (file, values) = (dir.path().join("train.yaml"), dir.path().join("values.yaml"));
    std::fs::write(&file, TRAIN).unwrap();
    std::fs::write(&values, "data: x\nlr: -1\n").unwrap();
    let (file, values) = (file.to_str().unwrap(), values.to_str().unwrap());

    let (code, _, why) = said(&dev, &["submit", file]).await;
    assert_eq!(code, Some(2));
    assert!(
        why.contains(&format!("{file}:7:3 /parameters/data: the parameter `data` has no default")),
        "{why}"
    );
    let (_, _, why) = said(&dev, &["submit", file, "--params", values, "-p", "n=9"]).await;
    assert!(why.contains(&format!("{values}:2:1: expected a number of at least 0")), "{why}");
    assert!(why.contains("-p n: expected a whole number from 1 to 4, found `9`"), "{why}");
    let (_, _, why) = said(&dev, &["submit", file, "-p", "dat=x"]).await;
    assert!(why.contains("-p dat: the specification has no parameter `dat` (did you mean `data`?)"), "{why}");
    assert!(why.contains("/parameters/data: the parameter `data` has no default"), "{why}");
    // -p overrides the file.
    let job = submitted(&dev, &["submit", file, "--params", values, "-p", "lr=2"]).await;
    assert_eq!(dev.client.job(job).await.parameters["lr"], "2");

    // A name that resembles a parameter is no mistake, and is told.
    let hinted = dir.path().join("hinted.yaml");
    std::fs::write(&hinted, "command: [echo, '{{ datas }}']\nparameters: {data: {default: x}}\n").unwrap();
    let (code, _, why) = said(&dev, &["submit", hinted.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{why}");
    assert!(why.contains("hinted.yaml:1:17 /command/1: `{{ datas }}` stays as it is"), "{why}");

    let quoted = dir.path().join("quoted.yaml");
    std::fs::write(&quoted, "command: [a]\ncount: {{ n }}\n").unwrap();
    let (_, _, why) = said(&dev, &["submit", quoted.to_str().unwrap()]).await;
    assert!(why.contains("a value that begins with `{{` has to be in quotes"), "{why}");
}

#[tokio::test]
async fn a_rerun_keeps_the_values_and_changes_those_that_are_given() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let body = |lr: &str| {
        let spec = json!({
            "command": ["echo", "{{ lr }}", "{{ data }}"],
            "parameters": {"lr": {"type": "number"}, "data": {"default": "cats"}},
        });
        json!({"spec": spec, "parameters": {"lr": lr, "data": "dogs"}})
    };
    let first = dev.client.post("/jobs", &body("0.10")).await.body["id"].as_i64().unwrap();
    dev.client.finished(first).await;

    let plain = submitted(&dev, &["rerun", &first.to_string()]).await;
    dev.client.finished(plain).await;
    assert_eq!(dev.client.output(plain).await, b"0.10 dogs\n");
    // A rerun of a rerun still knows the placeholders.
    let changed = submitted(&dev, &["rerun", &plain.to_string(), "-p", "lr=1e-4"]).await;
    dev.client.finished(changed).await;
    assert_eq!(dev.client.output(changed).await, b"1e-4 dogs\n");
    assert_eq!(dev.client.job(changed).await.rerun_of.map(|of| of.0), Some(plain));
    // An edited specification keeps the values, too.
    let spec = json!({"command": ["echo", "{{ data }}"], "parameters": {"data": {"default": "cats"}}});
    let answer = dev.client.post(&format!("/jobs/{changed}/rerun"), &json!({"spec": spec})).await;
    assert_eq!(answer.body["parameters"], json!({"data": "dogs"}), "{}", answer.text);

    // Hints are shown, whatever the way to rerun.
    let hinted = json!({"command": ["echo", "{{ datas }}"], "parameters": {"data": {"default": "x"}}});
    let hinted = dev.client.submit(hinted).await;
    dev.client.finished(hinted).await;
    let (code, _, why) = said(&dev, &["rerun", &hinted.to_string(), "-p", "data=y"]).await;
    assert_eq!(code, Some(0), "{why}");
    assert!(why.contains("hint: /command/1: `{{ datas }}` stays as it is"), "{why}");
    // A command that repeats a failed one has its values.
    let args = ["rerun", &first.to_string(), "--edit", "-p", "lr=two words", "--failed"];
    let edited = dev.cli(&args).env("VISUAL", "sed -i 's/^command:/comand:/'").output().await.unwrap();
    let why = String::from_utf8(edited.stderr).unwrap();
    assert!(why.contains(&format!("gaffer rerun {first} --failed -p 'lr=two words' --spec ")), "{why}");

    let (code, _, why) = said(&dev, &["rerun", &first.to_string(), "-p", "lr=x"]).await;
    assert_ne!(code, Some(0));
    assert!(why.contains("-p lr: expected a number, found `x`"), "{why}");
    let without = dev.client.submit(json!({"command": ["true"]})).await;
    dev.client.finished(without).await;
    let answer = dev.client.post(&format!("/jobs/{without}/rerun"), &json!({"parameters": {"lr": 1}})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.body["errors"][0]["pointer"].clone()),
        (422, json!("/parameters/lr"))
    );

    // The same key with another value is another request.
    let send = async |lr: &str| {
        let request =
            dev.client.request(Method::POST, "/jobs").header("idempotency-key", "k").json(&body(lr));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (created, again, other) = (send("1").await, send("1").await, send("2").await);
    assert_eq!((created.0, again.0, other.0), (201, 200, 422));
    assert_eq!(created.1["id"], again.1["id"]);
}

#[tokio::test]
async fn the_page_asks_for_values_and_says_what_is_wrong_beside_the_field() {
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let browser = Visitor::of(&dev).await;
    let form = [("as", "spec"), ("spec", TRAIN)];
    let page = browser.send_fields("/jobs/new", &form).await.unwrap_err();
    assert!(
        page.contains("name=\"parameter.data\"") && page.contains("has no default and needs a value"),
        "{page}"
    );
    assert!(page.contains("Learning rate") && page.contains("value=\"1e-3\""), "{page}");
    let form = [form[0], form[1], ("parameter.data", "two words"), ("parameter.n", "9")];
    let page = browser.send_fields("/jobs/new", &form).await.unwrap_err();
    assert!(page.contains("id=\"parameter.n-error\">expected a whole number from 1 to 4, found"), "{page}");
    assert!(page.contains("value=\"two words\""), "{page}");
    let form = [form[0], form[1], form[2], ("parameter.n", "2"), ("parameter.lr", "0.5")];
    let job = browser.send_fields("/jobs/new", &form).await.unwrap();
    let job: i64 = job.rsplit('/').next().unwrap().parse().unwrap();
    let values = dev.client.job(job).await.parameters;
    assert_eq!(
        (values["data"].as_str(), values["n"].as_str(), values["lr"].as_str()),
        ("two words", "2", "0.5")
    );
    // Its form has the specification as it was submitted, and its values.
    let page = browser.page(&format!("/jobs/new?from={job}")).await;
    assert!(
        page.contains("{{ lr }}") && page.contains("value=\"two words\"") && page.contains("value=\"0.5\""),
        "{page}"
    );
}
