//! Metrics as a monitoring system sees them: reading the text, the names that a query asks for, the table of the
//! documentation, and Prometheus's own checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use gaffer_domain::document::Language;
use gaffer_master::metrics::Metrics;
use gaffer_master::metrics::registrar::{Definition, Kind};
use serde_json::Value;

/// The page with the table.
pub const PAGE: &str = "docs/metrics.md";
/// What monitoring systems load.
pub const DASHBOARD: &str = "docs/monitoring/dashboard.json";
pub const ALERTS: &str = "docs/monitoring/alerts.yaml";

const END: &str = "<!-- end -->";

/// All metrics of a master.
pub fn definitions() -> Vec<Definition> {
    Metrics::default().definitions().to_vec()
}

/// The alert rules of a file.
pub fn alerts(rules: &str) -> Vec<Value> {
    let rules: Value = serde_json::from_str(&Language::Yaml.read(rules).unwrap().to_json()).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The page with its tables as they should be: the metrics, and these alerts.
pub fn with_tables(page: &str, alerts: &[Value]) -> String {
    let mut metrics = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for Definition { name, kind, labels, help } in definitions() {
        let labels: Vec<String> =
            labels.iter().map(|label| format!("`{}`: {}", label.name, label.values)).collect();
        writeln!(metrics, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join("; ")).unwrap();
    }
    let mut rules =
        "| alert | severity | after | what it means | what to do |\n|---|---|---|---|---|\n".to_owned();
    for alert in alerts {
        let text = |pointer: &str| alert.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (name, severity, after) = (text("/alert"), text("/labels/severity"), text("/for"));
        let (meaning, runbook) = (text("/annotations/summary"), text("/annotations/runbook"));
        writeln!(rules, "| `{name}` | {severity} | {after} | {meaning} | {runbook} |").unwrap();
    }
    let page = with_table(page, "metrics", &metrics);
    with_table(&page, "alerts", &rules)
}

fn with_table(page: &str, name: &str, table: &str) -> String {
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = page.split_once(&begin).expect("the page has a place for the table");
    let (_, after) = rest.split_once(END).expect("the table has an end");
    format!("{before}{begin}{table}{END}{after}")
}

/// One line of an exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// What one reading gave.
#[derive(Debug, Clone, Default)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// Reads either format. Panics at a line that is none of it.
    pub fn read(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Scrape(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// The sum of the samples of this name that have these labels; none without any.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let is_meant = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|own| own == value))
        };
        let mut values = self.0.iter().filter(is_meant).map(|sample| sample.value).peekable();
        values.peek().is_some().then(|| values.sum())
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().ok()?,
    };
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels whose values have no quotes in them.
fn labels(mut text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = rest.split_once('"')?;
        labels.insert(name.to_owned(), value.to_owned());
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

/// What a query asks for: the names of metrics, each with the labels that it selects by.
pub fn asked_for(query: &str) -> Vec<(String, Vec<String>)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut asked = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word_at = &rest[at..];
        let end = word_at.find(|c| !is_part(c)).unwrap_or(word_at.len());
        let (word, after) = word_at.split_at(end);
        rest = after;
        if !["gaffer_", "process_"].iter().any(|prefix| word.starts_with(prefix)) {
            continue;
        }
        let selector = after.strip_prefix('{').and_then(|selector| selector.split_once('}'));
        let labels = selector.map_or(Vec::new(), |(selector, after)| {
            rest = after;
            let name = |part: &str| part.split(['=', '!']).next().unwrap_or_default().trim().to_owned();
            selector.split(',').map(name).collect()
        });
        asked.push((word.to_owned(), labels));
    }
    asked
}

/// What is wrong with what a query asks for.
pub fn mistakes(query: &str, definitions: &[Definition]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, labels) in asked_for(query) {
        let is_meant = |definition: &&Definition| match definition.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(definition.name)),
            _ => definition.name == name,
        };
        match definitions.iter().find(is_meant) {
            None => found.push(format!("there is no {name}")),
            Some(definition) => {
                let has = |label: &&String| {
                    ["instance", "job", "le"].contains(&label.as_str())
                        || definition.labels.iter().any(|known| known.name == label.as_str())
                };
                let unknown = labels.iter().filter(|label| !has(label));
                found.extend(unknown.map(|label| format!("{name} has no label {label}")));
            }
        }
    }
    found
}

/// Runs `promtool`, if this machine has it. Gives what it found; none if it found nothing.
pub fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        #[allow(clippy::print_stderr, reason = "a check that is left out must be seen")]
        {
            eprintln!(
                "SKIPPED: promtool {arguments:?}: promtool is not installed (Debian: package prometheus)"
            );
        }
        return None;
    };
    // It may have ended before it has read all.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let ended = child.wait_with_output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // `check metrics` says what it dislikes and ends well, or with 3.
    let is_silent = arguments != ["check", "metrics"] || said.trim().is_empty();
    (!(ended.status.success() && is_silent)).then_some(format!("{}: {said}", ended.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text =
            "# TYPE a counter\na_total{x=\"1\",route=\"/jobs/{job}\"} 3\na_total{x=\"2\"} 4\nb 0.5\n# EOF\n";
        let scrape = Scrape::read(text);
        assert_eq!(scrape.get("a_total", &[]), Some(7.0));
        assert_eq!(scrape.get("a_total", &[("route", "/jobs/{job}")]), Some(3.0));
        assert_eq!((scrape.get("b", &[]), scrape.get("c", &[])), (Some(0.5), None));
    }

    #[test]
    fn a_query_is_held_against_what_there_is() {
        let definitions = definitions();
        let good = "sum by (le) (rate(gaffer_dispatch_duration_seconds_bucket{stage=\"start\"}[5m])) \
                    / (gaffer_leader > 0) and on (instance) gaffer_tasks{state=\"running\",instance=~\"$i\"}";
        assert_eq!(mistakes(good, &definitions), Vec::<String>::new());
        assert_eq!(asked_for(good).len(), 3);
        for bad in
            ["gaffer_tusks", "gaffer_dispatch_duration_seconds", "gaffer_leader{worker=\"a\"}", "process_x"]
        {
            assert_eq!(mistakes(bad, &definitions).len(), 1, "{bad}");
        }
    }
}
