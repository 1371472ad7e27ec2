//! Metrics: their names and labels keep to the rules, and what is asked for in the dashboard and the alerts exists.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;

use gaffer_e2e::metrics::{self, ALERTS, DASHBOARD, PAGE, asked_for, definitions, mistakes, promtool};
use gaffer_master::metrics::Metrics;
use gaffer_master::metrics::registrar::Kind;
use gaffer_master::metrics::text::Format;
use serde_json::{Value, json};

use super::root;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// All texts below this key, wherever it is.
fn texts_at(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => texts_at(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts_at(item, key, found)),
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

fn alerts() -> Vec<Value> {
    metrics::alerts(&read(ALERTS))
}

#[test]
fn metrics_are_named_as_prometheus_recommends() {
    let definitions = definitions();
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for definition in &definitions {
        let name = definition.name;
        let mut must = |is_kept: bool, rule: &str| {
            if !is_kept {
                found.push(format!("{name}: {rule}"));
            }
        };
        let is_snake = |text: &str| {
            text.split('_').all(|word| {
                !word.is_empty()
                    && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            })
        };
        must(is_snake(name), "snake case");
        must(["gaffer_", "process_"].iter().any(|prefix| name.starts_with(prefix)), "a prefix");
        must((definition.kind == Kind::Counter) == name.ends_with("_total"), "_total is for counters");
        must((definition.kind == Kind::Info) == name.ends_with("_info"), "_info is for info metrics");
        must(!["_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix)), "a reserved suffix");
        let words: Vec<&str> = name.split('_').collect();
        let small = [
            "ms",
            "millis",
            "milliseconds",
            "micros",
            "us",
            "ns",
            "minutes",
            "hours",
            "days",
            "kb",
            "kib",
            "mib",
            "percent",
        ];
        must(!words.iter().any(|word| small.contains(word)), "base units");
        must(
            !words.iter().any(|word| ["counter", "gauge", "histogram", "metric"].contains(word)),
            "no types",
        );
        let durations = ["duration", "wait", "period", "timestamp"];
        must(!durations.iter().any(|word| words.contains(word)) || words.contains(&"seconds"), "seconds");
        must(names.insert(name), "once");
        must(definition.help.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit()), "a sentence");
        must(
            !definition.help.ends_with('.') && !definition.help.contains(['\n', '\\', '|']),
            "one plain sentence",
        );
        // Whatever there may be a million of.
        let ids = [
            "id",
            "job",
            "task",
            "attempt",
            "worker_id",
            "user",
            "key",
            "project",
            "name",
            "address",
            "host",
            "session",
        ];
        for label in &definition.labels {
            must(is_snake(label.name) && !["le", "quantile"].contains(&label.name), "label names");
            must(!ids.contains(&label.name) && !label.name.ends_with("_id"), "no ids");
            must(!label.values.is_empty(), "values of labels are listed");
        }
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(definitions.len() >= 40);
}

#[test]
fn values_of_labels_are_words_of_the_program() {
    // The type of a label's value can be made of a word in the source, and of a route's template.
    let registrar = read("crates/master/src/metrics/registrar.rs");
    let made: Vec<&str> = registrar.lines().filter(|line| line.contains("for Word {")).collect();
    assert_eq!(
        made,
        [
            "impl From<&'static str> for Word {",
            "impl From<&MatchedPath> for Word {",
            "impl EncodeLabelValue for Word {",
        ]
    );
    assert!(registrar.contains("pub struct Word(Cow<'static, str>);"));
    let leaks = super::in_master(|_| true, &["Box::leak", ".leak()"]);
    assert_eq!(leaks, Vec::<String>::new(), "a text that is leaked could be a label");
}

#[test]
fn the_documentation_has_all_metrics_and_alerts() {
    let page = read(PAGE);
    assert!(
        metrics::with_tables(&page, &alerts()) == page,
        "run `cargo run -p gaffer-e2e --bin generate-docs`"
    );
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let (dashboard, definitions) = (dashboard(), definitions());
    let mut queries = Vec::new();
    texts_at(&dashboard, "expr", &mut queries);
    texts_at(&dashboard, "query", &mut queries);
    assert!(queries.len() >= 20);
    let wrong: Vec<String> = queries.iter().flat_map(|query| mistakes(query, &definitions)).collect();
    assert_eq!(wrong, Vec::<String>::new());
    // It shows most of what there is: one that nobody looks at is no metric.
    let shown: BTreeSet<String> =
        queries.iter().flat_map(|query| asked_for(query)).map(|(name, _)| name).collect();
    let alerts: BTreeSet<String> = alerts()
        .iter()
        .flat_map(|alert| asked_for(alert["expr"].as_str().unwrap()))
        .map(|(name, _)| name)
        .collect();
    let is_shown = |name: &str| shown.iter().chain(&alerts).any(|shown| shown.starts_with(name));
    let unseen: Vec<&str> =
        definitions.iter().map(|definition| definition.name).filter(|name| !is_shown(name)).collect();
    assert_eq!(unseen, Vec::<&str>::new(), "neither in the dashboard nor in an alert");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let is_row = panel["type"] == "row";
        assert!(
            is_row || panel["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{}",
            panel["title"]
        );
    }
}

#[test]
fn each_alert_asks_for_metrics_that_there_are_and_says_what_to_do() {
    let definitions = definitions();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(name.starts_with("Gaffer") && names.insert(name.to_owned()), "{name}");
        let query = alert["expr"].as_str().unwrap();
        assert_eq!(mistakes(query, &definitions), Vec::<String>::new(), "{name}");
        assert!(!asked_for(query).is_empty(), "{name}");
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
        for annotation in ["summary", "runbook"] {
            let text = alert["annotations"][annotation].as_str().unwrap_or_default();
            assert!(text.ends_with('.') && text.len() > 30, "{name}: {annotation}: {text}");
        }
        assert!(alert["for"].as_str().is_some(), "{name}");
    }
    assert!(names.len() >= 10);
}

#[test]
fn prometheus_itself_has_no_objection() {
    let text = Metrics::default().text(Format::Prometheus);
    assert_eq!(promtool(&["check", "metrics"], &text), None);
    let alerts = root().join(ALERTS);
    assert_eq!(promtool(&["check", "rules", alerts.to_str().unwrap()], ""), None);
    let tests = root().join("docs/monitoring/alerts-test.yaml");
    assert_eq!(promtool(&["test", "rules", tests.to_str().unwrap()], ""), None);
    // The queries of the dashboard, as rules.
    let mut queries = Vec::new();
    texts_at(&dashboard(), "expr", &mut queries);
    let queries: BTreeSet<String> = queries
        .iter()
        .map(|query| query.replace("$__rate_interval", "5m").replace("$instance", ".*"))
        .collect();
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| json!({"record": format!("query:{number}"), "expr": query}))
        .collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{}", json!({"groups": [{"name": "dashboard", "rules": rules}]})).unwrap();
    assert_eq!(promtool(&["check", "rules", file.path().to_str().unwrap()], ""), None);
}
