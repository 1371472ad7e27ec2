//! Health checks of a task.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::container::Port;
use super::field::{Field, Kind, Most};
use super::node::{Node, Object};
use super::program::{MAX_COMMAND_BYTES, arguments};
use crate::as_text::as_text;
use crate::quantity::{Span, shown};

/// The most results in a row that a check may ask for.
pub const MAX_IN_A_ROW: u32 = 10;
const MAX_PATH_BYTES: usize = 2_048;
const MAX_HEADERS: usize = 16;
const MAX_HEADER_BYTES: usize = 1_024;

/// A check that the worker repeats beside the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From one check to the next.
    pub interval: Span,
    /// How long an answer may take.
    pub timeout: Span,
    /// After the start of an attempt, failures do not count until it has passed once.
    pub start_period: Span,
    /// Failures in a row that make it unhealthy; at least 1.
    pub failures: u32,
    /// Passes in a row that make it healthy; at least 1.
    pub successes: u32,
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request: the status has to be in the range.
    Http {
        /// Path and query, beginning with `/`.
        path: String,
        /// A named port, or the number of a port of the task.
        port: String,
        /// Which answers are good.
        status: StatusRange,
        /// Sent with the request.
        headers: BTreeMap<String, String>,
    },
    /// A connection that is accepted.
    Tcp {
        /// A named port, or the number of a port of the task.
        port: String,
    },
    /// A program that exits with 0, run in the directory and environment of the task.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// Statuses of HTTP. Written `200-399` or `204`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest.
    pub first: u16,
    /// The highest, which is included.
    pub last: u16,
}

/// A text that is not a range of statuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text} is not a range of HTTP statuses: write first-last such as 200-399, or one such as 204, from 100 to 599"
)]
pub struct InvalidStatusRange {
    text: String,
}

/// The form in which a check is written.
#[derive(Serialize, Deserialize)]
struct Flat {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<StatusRange>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    interval: Span,
    timeout: Span,
    start_period: Span,
    failures: u32,
    successes: u32,
}

const HEADER_NAME: Kind =
    Kind::Text { what: "a name", pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", most: Most::Any };
const HEADER_VALUE: Kind = Kind::text("a text", Most::Bytes(MAX_HEADER_BYTES));
const PORT: Kind = Kind::text("the name or number of a port", Most::Bytes(32));

/// The fields of `health`.
pub const HEALTH: &[Field] = &fields(&Options {
    http: Some("health-http"),
    http_label: Some("Health: HTTP path"),
    http_example: "/health",
    port: Some("health-port"),
    tcp: Some("health-tcp"),
    command: Some("health-command"),
    command_label: Some("Health: command"),
    interval: Some("health-interval"),
    timeout: Some("health-timeout"),
    start_period: Some("health-start-period"),
    failures: Some("health-failures"),
    after_failures: "Failures in a row that make the task unhealthy",
    after_successes: "Passes in a row that make the task healthy",
});

/// The fields of `readiness`.
pub const READINESS: &[Field] = &fields(&Options {
    http: Some("readiness-http"),
    http_label: Some("Readiness: HTTP path"),
    http_example: "/ready",
    port: Some("readiness-port"),
    tcp: Some("readiness-tcp"),
    command: Some("readiness-command"),
    command_label: None,
    interval: Some("readiness-interval"),
    timeout: None,
    start_period: None,
    failures: None,
    after_failures: "Failures in a row after which the task is not ready",
    after_successes: "Passes in a row that make the task ready",
});

/// What differs between the fields of the two checks: options of the command line, labels of the page *New job*,
/// an example and two summaries.
struct Options {
    http: Option<&'static str>,
    http_label: Option<&'static str>,
    http_example: &'static str,
    port: Option<&'static str>,
    tcp: Option<&'static str>,
    command: Option<&'static str>,
    command_label: Option<&'static str>,
    interval: Option<&'static str>,
    timeout: Option<&'static str>,
    start_period: Option<&'static str>,
    failures: Option<&'static str>,
    after_failures: &'static str,
    after_successes: &'static str,
}

const fn fields(options: &Options) -> [Field; 11] {
    [
        Field::new(
            "http",
            Kind::Text { what: "a path such as /health", pattern: "^/", most: Most::Bytes(MAX_PATH_BYTES) },
            "Path of an HTTP request",
        )
        .not_with(&["tcp", "command"])
        .example(options.http_example)
        .maybe_flag(options.http, "PATH")
        .maybe_on_page(options.http_label),
        Field::new("port", PORT, "Port of the HTTP request: a name, or a number in the task")
            .limits("needs `http`")
            .otherwise("the first named TCP port")
            .example("http")
            .maybe_flag(options.port, "PORT"),
        Field::new(
            "status",
            Kind::Text {
                what: "HTTP statuses such as 200-399",
                pattern: "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
                most: Most::Any,
            },
            "HTTP statuses that pass",
        )
        .limits("needs `http`; redirects are not followed")
        .default("200-399")
        .example("200-299"),
        Field::new(
            "headers",
            Kind::Map { noun: "headers", max: MAX_HEADERS, key: &HEADER_NAME, value: &HEADER_VALUE },
            "Headers of the HTTP request",
        )
        .limits("needs `http`")
        .example("{Host: example.org}"),
        Field::new("tcp", PORT, "Port that has to accept a TCP connection: a name or number")
            .not_with(&["http", "command"])
            .example("http")
            .maybe_flag(options.tcp, "PORT"),
        Field::new("command", Kind::Arguments(MAX_COMMAND_BYTES), "Program that has to exit with 0")
            .details("It runs in the directory and the environment of the task.")
            .not_with(&["http", "tcp"])
            .example("[./check.sh]")
            .maybe_flag(options.command, "COMMAND")
            .maybe_on_page(options.command_label),
        Field::new(
            "interval",
            Kind::Time(Span::from_secs(1)..=Span::from_secs(3600)),
            "Time between two checks",
        )
        .details("During `start_period`, a task that has not passed yet is checked every second.")
        .default("10s")
        .example("5s")
        .maybe_flag(options.interval, "TIME"),
        Field::new(
            "timeout",
            Kind::Time(Span::from_millis(100)..=Span::from_secs(60)),
            "Maximum time of one check",
        )
        .default("2s")
        .example("1s")
        .maybe_flag(options.timeout, "TIME"),
        Field::new(
            "start_period",
            Kind::Time(Span::from_millis(0)..=Span::from_secs(3600)),
            "Time in which failures do not count until a check passes",
        )
        .default("30s")
        .example("1m")
        .maybe_flag(options.start_period, "TIME"),
        Field::new("failures", Kind::Whole(1..=MAX_IN_A_ROW as i64), options.after_failures)
            .default("3")
            .example("5")
            .maybe_flag(options.failures, "N"),
        Field::new("successes", Kind::Whole(1..=MAX_IN_A_ROW as i64), options.after_successes)
            .default("1")
            .example("2"),
    ]
}

impl Display for StatusRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for StatusRange {
    type Err = InvalidStatusRange;

    fn from_str(text: &str) -> Result<StatusRange, InvalidStatusRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let is_number = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|status| is_number && (100..=599).contains(status))
        };
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(StatusRange { first, last }),
            _ => Err(InvalidStatusRange { text: shown(text) }),
        }
    }
}

as_text!(StatusRange);

impl From<HealthCheck> for Flat {
    fn from(check: HealthCheck) -> Flat {
        let HealthCheck { probe, interval, timeout, start_period, failures, successes } = check;
        let mut flat = Flat {
            http: None,
            port: None,
            status: None,
            headers: BTreeMap::new(),
            tcp: None,
            command: None,
            interval,
            timeout,
            start_period,
            failures,
            successes,
        };
        match probe {
            Probe::Http { path, port, status, headers } => {
                (flat.http, flat.port, flat.status, flat.headers) =
                    (Some(path), Some(port), Some(status), headers);
            }
            Probe::Tcp { port } => flat.tcp = Some(port),
            Probe::Command { command } => flat.command = Some(command),
        }
        flat
    }
}

impl TryFrom<Flat> for HealthCheck {
    type Error = &'static str;

    fn try_from(flat: Flat) -> Result<HealthCheck, &'static str> {
        let Flat { http, port, status, headers, tcp, command, .. } = flat;
        let probe = match (http, tcp, command) {
            (Some(path), None, None) => Probe::Http {
                path,
                port: port.ok_or("an HTTP check has no port")?,
                status: status.ok_or("an HTTP check has no status")?,
                headers,
            },
            (None, Some(port), None) => Probe::Tcp { port },
            (None, None, Some(command)) => Probe::Command { command },
            _ => return Err("a check has not exactly one of `http`, `tcp` and `command`"),
        };
        Ok(HealthCheck {
            probe,
            interval: flat.interval,
            timeout: flat.timeout,
            start_period: flat.start_period,
            failures: flat.failures,
            successes: flat.successes,
        })
    }
}

/// Reads `health` or `readiness` of a task with these ports. `shared`: it has the network of its worker.
pub(super) fn read(
    task: &Object<'_>,
    name: &'static str,
    ports: &[Port],
    shared: bool,
) -> Option<HealthCheck> {
    let object = task.nested(name)?;
    let check = HealthCheck {
        // The stand-in is never seen: where there is no probe, a mistake was reported.
        probe: probe(&object, ports, shared).unwrap_or(Probe::Command { command: Vec::new() }),
        interval: object.value("interval"),
        timeout: object.value("timeout"),
        start_period: object.value("start_period"),
        failures: object.value("failures"),
        successes: object.value("successes"),
    };
    object.finish();
    Some(check)
}

fn probe(object: &Object<'_>, ports: &[Port], shared: bool) -> Option<Probe> {
    let kinds = ["http", "tcp", "command"];
    let mut given = kinds.into_iter().filter_map(|name| Some((name, object.field(name)?)));
    let Some((kind, node)) = given.next() else {
        return object.node().wrong("a check needs `http`, `tcp` or `command`");
    };
    if let Some((other, node)) = given.next() {
        return node.wrong(format!("a check has `{kind}` or `{other}`, not both"));
    }
    let status = object.value_as("status", status);
    let headers = object.read("headers", headers).unwrap_or_default();
    let port = object.read("port", |node| port(node, ports, shared));
    if kind != "http" {
        for name in ["port", "status", "headers"] {
            if let Some(node) = object.field(name) {
                node.wrong::<()>(format!("`{name}` belongs to a check with `http`"));
            }
        }
    }
    match kind {
        "http" => {
            let path = path(&node)?;
            let port = match object.field("port") {
                Some(_) => port?,
                None => default_port(&node, ports)?,
            };
            Some(Probe::Http { path, port, status, headers })
        }
        "tcp" => Some(Probe::Tcp { port: self::port(&node, ports, shared)? }),
        _ => {
            let advice = r#"write a list such as ["./check.sh", "--quick"]"#;
            Some(Probe::Command { command: arguments(&node, "command", advice)? })
        }
    }
}

fn default_port(node: &Node<'_>, ports: &[Port]) -> Option<String> {
    let named = ports.iter().filter(|port| port.protocol == super::PortProtocol::Tcp);
    match named.filter_map(|port| port.name.clone()).next() {
        Some(name) => Some(name),
        None => node.wrong("the task has no named TCP port: write one in `ports`, such as `ports: [http]`"),
    }
}

/// A port that the task has.
fn port(node: &Node<'_>, ports: &[Port], shared: bool) -> Option<String> {
    let text = node.own_text()?;
    let is_tcp = |port: &&Port| port.protocol == super::PortProtocol::Tcp;
    if let Ok(number) = text.parse::<u16>() {
        let is_published = ports.iter().filter(is_tcp).any(|port| port.container == number);
        return match number > 0 && (shared || is_published) {
            true => Some(number.to_string()),
            false => node.wrong(format!("the container publishes no TCP port {number}: write it in `ports`")),
        };
    }
    if ports.iter().filter(is_tcp).any(|port| port.name.as_deref() == Some(text)) {
        return Some(text.to_owned());
    }
    let names = ports.iter().filter(is_tcp).filter_map(|port| port.name.as_deref());
    node.wrong_with(format!("the task has no TCP port named {}: write it in `ports`", shown(text)), || {
        crate::spelling::did_you_mean(text, names)
    })
}

fn path(node: &Node<'_>) -> Option<String> {
    let path = node.own_text()?;
    let is_plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || path.len() > MAX_PATH_BYTES {
        return node.wrong(format!(
            "{} is not a path of an HTTP request: it begins with /, has at most {MAX_PATH_BYTES} bytes, and characters beyond \
             printable ASCII are written as in %20",
            shown(path)
        ));
    }
    Some(path.to_owned())
}

fn status(node: &Node<'_>) -> Option<StatusRange> {
    node.own_text()?.parse().map_or_else(|why: InvalidStatusRange| node.wrong(why.to_string()), Some)
}

fn headers(node: &Node<'_>) -> Option<BTreeMap<String, String>> {
    let entries = node.entries()?;
    if entries.len() > MAX_HEADERS {
        return node.wrong(format!(
            "there are {} headers, more than the {MAX_HEADERS} that are allowed",
            entries.len()
        ));
    }
    let read = |(name, node): (&str, Node<'_>)| {
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte));
        if !is_name || name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("connection")
        {
            return node.wrong(format!("{} cannot be a header of a check", shown(name)));
        }
        let value = node.text("a text")?;
        if value.len() > MAX_HEADER_BYTES || value.chars().any(char::is_control) {
            return node.wrong(format!(
                "the header has more than the {MAX_HEADER_BYTES} bytes that are allowed, or a control character in it"
            ));
        }
        Some((name.to_owned(), value.to_owned()))
    };
    Some(entries.filter_map(read).collect())
}
