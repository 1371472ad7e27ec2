//! Holds a running API against its description, with requests that schemathesis makes up: `scripts/fuzz-api`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a run that cannot go on should fail")]

use std::path::Path;
use std::process::ExitCode;

use gaffer_e2e::client::script;
use gaffer_e2e::gaffer::{Dev, data_dir};
use gaffer_e2e::openapi;
use serde_json::{Value, json};
use tokio::process::Command;

/// A full run sends so many requests at least.
const FULL_RUN: u64 = 10_000;
/// What answers are held against.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,missing_required_header,unsupported_method,ignored_auth,use_after_free,\
    ensure_resource_availability";

#[tokio::main]
async fn main() -> ExitCode {
    gaffer_e2e::cluster::as_for_users();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(schemathesis), examples, seed) = (
        arguments.first(),
        arguments.get(1).map_or(Ok(400), |text| text.parse::<u32>()),
        arguments.get(2).map_or(Ok(1), |text| text.parse::<u32>()),
    ) else {
        eprintln!("usage: fuzz-api SCHEMATHESIS [REQUESTS-PER-OPERATION [SEED]]");
        return ExitCode::from(2);
    };
    let (Ok(examples), Ok(seed)) = (examples, seed) else {
        eprintln!("expected numbers of requests per operation and of a seed");
        return ExitCode::from(2);
    };
    let dir = data_dir();
    let dev = Dev::start(dir.path()).await;
    let over = dev.client.submit(script("echo hello; exit 3")).await;
    dev.client.finished(over).await;
    let runs = dev.client.submit(json!({ "script": "sleep 3600", "stdin": true })).await;
    let waits =
        dev.client.submit(json!({ "script": "true", "count": 2, "constraints": ["arch == none"] })).await;
    let worker = dev.client.get("/workers").await.body["items"][0]["name"].clone();
    let known = [
        ("job", json!([over, runs, waits])),
        ("task", json!(["main", "main.0", "main.1"])),
        ("worker", json!([worker, "1"])),
    ];

    let schema = dir.path().join("openapi.json");
    std::fs::write(&schema, to_be_tried(openapi::present(), &known).to_string()).unwrap();
    let report = dir.path().join("report.ndjson");
    let status = run(Path::new(schemathesis), &dev, &schema, &report, examples, seed).await;

    let sent = std::fs::read_to_string(&report).unwrap_or_default();
    let (requests, server_errors) = counted(&sent);
    let is_alive = dev.client.get("/readyz").await.status == 200;
    let log = std::fs::read_to_string(dir.path().join("dev.log")).unwrap_or_default();
    let panics = log.lines().filter(|line| line.contains("panicked")).count();
    println!("{requests} requests, {server_errors} server errors, {panics} panics, seed {seed}");
    let is_full = examples < 400 || requests >= FULL_RUN;
    if status && is_alive && is_full && server_errors == 0 && panics == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(schemathesis: &Path, dev: &Dev, schema: &Path, report: &Path, examples: u32, seed: u32) -> bool {
    let url = format!("{}/api/v1", dev.env["GAFFER_URL"].trim_end_matches("/api/v1"));
    let mut command = Command::new(schemathesis);
    command.arg("run").arg(schema).args(["--url", &url, "--checks", CHECKS]);
    command.args(["--header", &format!("Authorization: Bearer {}", dev.env["GAFFER_KEY"])]);
    command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string()]);
    command.args(["--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "60"]);
    command.args(["--report", "ndjson", "--report-ndjson-path"]).arg(report);
    command.current_dir(report.parent().unwrap()).kill_on_drop(true);
    command.status().await.unwrap().success()
}

/// The description with what makes a run safe, quick and strict; its paths often lead to what exists.
fn to_be_tried(mut document: Value, known: &[(&str, Value)]) -> Value {
    // What is not described must not be answered.
    for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
        if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
            schema["unevaluatedProperties"] = json!(false);
        }
    }
    // Made-up jobs run on this machine: they do nothing.
    document["components"]["schemas"]["JobSpecification"] = json!({
        "type": "object",
        "required": ["command"],
        "additionalProperties": false,
        "properties": {
            "command": { "enum": [["true"], ["false"], ["echo", "hello"], ["sleep", "0.1"]] },
            "name": { "enum": ["one", "two"] },
            "labels": { "type": "object", "additionalProperties": { "enum": ["a", "b"] }, "maxProperties": 2 },
            "count": { "type": "integer", "minimum": 1, "maximum": 3 },
            "priority": { "type": "integer", "minimum": 0, "maximum": 100 },
            "stdin": { "type": "boolean" },
        },
    });
    for methods in document["paths"].as_object_mut().unwrap().values_mut() {
        for operation in methods.as_object_mut().unwrap().values_mut() {
            if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
                // These make requests that end when a job does, if it does.
                parameters.retain(|parameter| {
                    !["follow", "wait", "until"].contains(&parameter["name"].as_str().unwrap())
                });
                for parameter in parameters.iter_mut().filter(|parameter| parameter["in"] == "path") {
                    let exist = known.iter().find(|(name, _)| parameter["name"] == *name);
                    if let Some((_, exist)) = exist {
                        let any = parameter["schema"].take();
                        parameter["schema"] = json!({ "anyOf": [{ "enum": exist }, any] });
                    }
                }
            }
            // There is no writer for it.
            if let Some(content) =
                operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut)
            {
                content.remove("application/toml");
            }
        }
    }
    // The run must not revoke or replace its own key.
    for (path, method) in [("/keys/{key}", "delete"), ("/keys/{key}/rotate", "post")] {
        for parameter in document["paths"][path][method]["parameters"].as_array_mut().unwrap() {
            parameter["schema"]["minimum"] = json!(100);
        }
    }
    document
}

/// How many requests a report tells of, and how many of them ended with a server's error.
fn counted(report: &str) -> (u64, u64) {
    let (mut requests, mut server_errors) = (0, 0);
    for line in report.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        visit(&event, &mut |response| {
            requests += 1;
            server_errors += u64::from(response["status_code"].as_u64().is_some_and(|status| status >= 500));
        });
    }
    (requests, server_errors)
}

/// Calls for each response in an event of a report.
fn visit(value: &Value, found: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("status_code") {
                found(value);
            }
            fields.values().for_each(|value| visit(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| visit(value, found)),
        _ => {}
    }
}
