//! `gaffer doctor`: diagnoses the client and the worker side, with a fix for each problem.

mod local;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::{OutputStoreCheck, Page, Problem, System, Worker};
use gaffer_protocol::server_url::ServerUrl;
use gaffer_worker::{Found, Tried, try_master};
use reqwest::header::DATE;
use reqwest::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::access;
use crate::client::{self, Client, Query};
use crate::commands::dev::WorkerFromEnvironment;
use crate::config;
use crate::failure::Failure;
use crate::listing::{Format, Output};
use crate::out::Out;
use crate::style;
use crate::timestamp;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clocks that differ by more than this make times confusing.
const CLOCK_TOLERANCE: chrono::TimeDelta = chrono::TimeDelta::seconds(5);
const DEFAULT_DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// What to look at.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer doctor            check the client and, where MASTER_URL is set, the worker side
  gaffer doctor master     health check of the master on this machine
  gaffer doctor worker     health check of the worker on this machine

Exit codes: 0 if there is no problem, otherwise 1.")]
pub struct DoctorArgs {
    #[command(subcommand)]
    patient: Option<Patient>,
    #[command(flatten)]
    output: Output,
}

/// A server on this machine.
#[derive(Debug, Subcommand)]
pub enum Patient {
    /// Check whether the local master is ready
    Master,
    /// Check whether the local worker is alive
    Worker,
}

/// What came of one look.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    /// `ok`, `problem` or `skipped`.
    result: &'static str,
    message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, result: "ok", message: message.into(), fix: None }
    }

    fn problem(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, result: "problem", message: message.into(), fix: Some(fix.into()) }
    }

    fn skipped(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, result: "skipped", message: message.into(), fix: None }
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure::Output`].
pub async fn run(args: DoctorArgs, out: &Out) -> Result<u8, Failure> {
    let findings = match args.patient {
        Some(Patient::Master) => vec![local::master().await],
        Some(Patient::Worker) => vec![local::worker()],
        None => {
            let mut findings = api().await;
            findings.push(worker_door().await);
            findings.push(docker().await);
            findings
        }
    };
    for finding in &findings {
        match args.output.format {
            Format::Json | Format::Jsonl => {}
            Format::Name => out.line(finding.check)?,
            Format::Table | Format::Wide => out.line(&in_a_line(finding))?,
        }
    }
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    match args.output.format {
        Format::Json => out.line(&json(serde_json::to_string(&findings)))?,
        Format::Jsonl => {
            for finding in &findings {
                out.line(&json(serde_json::to_string(finding)))?;
            }
        }
        Format::Name | Format::Table | Format::Wide => {}
    }
    Ok(u8::from(findings.iter().any(|finding| finding.result == "problem")))
}

fn in_a_line(finding: &Finding) -> String {
    let mark = match finding.result {
        "ok" => "✓",
        "problem" => "✗",
        _ => "-",
    };
    let line = format!("{mark} {}: {}", finding.check, style::visible(&finding.message));
    match &finding.fix {
        Some(fix) => format!("{line}\n  → {}", style::visible(fix)),
        None => line,
    }
}

/// Whether a not-ready response comes from a standby.
async fn stands_by(answer: Response) -> bool {
    answer.json::<Problem>().await.is_ok_and(|problem| problem.code == "standby")
}

/// The way to the API: address, key, clocks.
async fn api() -> Vec<Finding> {
    let access = match config::access() {
        Ok(access) => access,
        Err(failure) => {
            let fix = "set GAFFER_URL and GAFFER_KEY, or run `gaffer login URL`";
            return vec![Finding::problem("address", failure.to_string(), fix)];
        }
    };
    let detour = match config::route(&access.url) {
        Ok(route) => route.detour(),
        Err(failure) => {
            let fix = "fix the variable that the message names";
            return vec![Finding::problem("address", failure.to_string(), fix)];
        }
    };
    let url = format!("{}/readyz", access.url.api());
    let mut findings = Vec::new();
    match readyz(&access.url).await {
        Ok(answer) if answer.status().is_success() => {
            findings.push(Finding::ok("address", format!("{} answers and is ready{detour}", access.url)));
            findings.extend(clock(&answer));
            findings.extend(held_back(answer).await);
        }
        Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
            let fix = match stands_by(answer).await {
                true => {
                    "another master leads: set GAFFER_URL to it, or to a load balancer that checks /readyz"
                }
                false => "check the master's log; usually the database is unavailable",
            };
            let message = format!("{} answers, but is not ready", access.url);
            findings.push(Finding::problem("address", message, fix));
        }
        Ok(answer) => findings.push(Finding::problem(
            "address",
            format!("{url} answers {}: not a gaffer server", answer.status()),
            "check the address, and the reverse proxy in front of it",
        )),
        Err(why) => {
            let fix = "check GAFFER_URL, the network, and that the master is running";
            return vec![Finding::problem("address", format!("{url}{detour}: {why}"), fix)];
        }
    }
    let asked = async {
        let query = Query::from([("limit", "1".to_owned())]);
        Client::new(&access)?.get(&["jobs"], &query).await.map(drop)
    };
    match asked.await {
        Ok(()) => {
            findings.push(Finding::ok("key", format!("the key from {} is valid", access.source)));
            findings.extend(workers_clocks(&access).await);
            findings.extend(output_store(&access).await);
        }
        Err(failure) => findings.push(Finding::problem(
            "key",
            format!("the key from {}: {failure}", access.source),
            "create a new key on the dashboard's page Keys",
        )),
    }
    if let Some(state) = system(&access).await {
        findings.push(secrets(&state));
        findings.extend(certificate(&state));
        findings.push(records(state));
    }
    findings
}

/// The state of the master; none if it does not tell.
async fn system(access: &access::Access) -> Option<System> {
    Client::new(access).ok()?.read(&["system"], &Query::new()).await.ok()
}

/// Whether secrets can be used.
fn secrets(state: &System) -> Finding {
    const CHECK: &str = "secrets";
    let secrets = &state.secrets;
    match (&secrets.problem, &secrets.key, secrets.on_old_keys) {
        (Some(problem), ..) => Finding::problem(
            CHECK,
            problem.clone(),
            "set GAFFER_SECRETS_KEY_FILE on the master to the file with the right keys, and restart it",
        ),
        (None, None, _) => Finding::skipped(CHECK, "the master has no master key, and nobody uses secrets"),
        (None, Some(key), 0) => Finding::ok(CHECK, format!("encrypted with the master key {key}")),
        (None, Some(key), old) => Finding::ok(
            CHECK,
            format!(
                "encrypted with the master key {key}; {old} are still on an old key, which must stay in the list"
            ),
        ),
    }
}

/// Whether the master's certificate is good for a while; nothing if it speaks no TLS itself.
fn certificate(state: &System) -> Option<Finding> {
    const CHECK: &str = "TLS certificate";
    let tls = state.tls.as_ref()?;
    Some(match (&tls.problem, tls.expires_at) {
        (Some(problem), _) => Finding::problem(
            CHECK,
            problem.clone(),
            "write the new certificate and its key to the files of GAFFER_TLS_CERT and GAFFER_TLS_KEY; the master loads them itself",
        ),
        (None, Some(at)) => Finding::ok(CHECK, format!("valid until {}", at.format("%Y-%m-%d"))),
        (None, None) => Finding::ok(CHECK, "in use"),
    })
}

/// Whether the master can record what happens, and whether the database has refused anything.
fn records(mut state: System) -> Finding {
    const CHECK: &str = "database";
    // These have a check of their own.
    state.loops.retain(|one| !["output_mover", "unused_objects"].contains(&one.name.as_str()));
    let troubles = super::system::troubles(&state, Utc::now());
    match (troubles.first(), state.has_dead_letters) {
        (Some(trouble), _) => Finding::problem(
            CHECK,
            trouble.clone(),
            "fix the database; `gaffer system` has the details. Nothing is lost meanwhile",
        ),
        (None, true) => Finding::problem(
            CHECK,
            "the database refused output or reports; they are kept as dead letters",
            "`gaffer dead-letters list` shows the reasons",
        ),
        (None, false) => Finding::ok(CHECK, "accepts writes"),
    }
}

/// Whether the master's object storage works; nothing if it has none and needs none.
async fn output_store(access: &access::Access) -> Option<Finding> {
    const CHECK: &str = "object storage";
    let client = Client::new(access).ok()?;
    let answer = client.post(&["system", "output-store", "check"], &json!({})).await;
    let check: OutputStoreCheck = match answer.and_then(|answer| answer.read()) {
        Ok(check) => check,
        // An earlier master knows no object storage.
        Err(failure) if failure.is_not_found() => return None,
        Err(failure) => {
            let problem = format!("the master could not check it: {failure}");
            let fix = "look for the reason in the master's log, then run `gaffer doctor` again";
            return Some(Finding::problem(CHECK, problem, fix));
        }
    };
    match (check.problem, check.address) {
        (Some(problem), _) => Some(Finding::problem(
            CHECK,
            problem,
            "check GAFFER_OUTPUT_STORE and the credentials on the master, and that the store can be reached from there",
        )),
        (None, Some(address)) => Some(Finding::ok(
            CHECK,
            format!("{address} can be written, read and deleted from; {} objects", check.objects),
        )),
        (None, None) => None,
    }
}

/// Warnings of a ready master.
async fn held_back(answer: Response) -> Option<Finding> {
    let text = answer.text().await.ok()?;
    let warning = text.lines().find_map(|line| line.strip_prefix("warning: "))?;
    let fix = "end that transaction: SELECT pg_terminate_backend(PROCESS) on the database";
    Some(Finding::problem("live events", warning, fix))
}

fn clock(answer: &Response) -> Option<Finding> {
    let date = answer.headers().get(DATE)?.to_str().ok()?;
    let theirs = DateTime::parse_from_rfc2822(date).ok()?.with_timezone(&Utc);
    let difference = (Utc::now() - theirs).abs();
    Some(if difference <= CLOCK_TOLERANCE {
        Finding::ok("clock", "agrees with the master's")
    } else {
        Finding::problem(
            "clock",
            format!("differs from the master's by {} s", difference.num_seconds()),
            "synchronise both clocks with NTP; nothing breaks, but displayed times are off",
        )
    })
}

/// Workers whose clocks are off, as the master measures it.
async fn workers_clocks(access: &access::Access) -> Option<Finding> {
    const CHECK: &str = "workers' clocks";
    let mut query = Query::from([("limit", "500".to_owned())]);
    let client = Client::new(access).ok()?;
    let (mut off, mut measured) = (Vec::new(), 0);
    loop {
        let page: Page<Worker> = client.read(&["workers"], &query).await.ok()?;
        for worker in page.items {
            let Some(ahead) = worker.clock_ahead_seconds else { continue };
            measured += 1;
            if ahead.abs() > gaffer_domain::clocks::CLOCK_TOLERANCE.as_secs_f64() {
                let direction = if ahead < 0.0 { "behind" } else { "ahead" };
                off.push(format!(
                    "{} is {} {direction}",
                    worker.name,
                    timestamp::lasted_seconds(ahead.abs())
                ));
            }
        }
        query.retain(|(name, _)| *name != "cursor");
        match page.next_cursor {
            Some(cursor) => query.push(("cursor", cursor)),
            None => break,
        }
    }
    match (measured, off.is_empty()) {
        (0, _) => None,
        (_, true) => Some(Finding::ok(CHECK, "agree with the master's")),
        (_, false) => Some(Finding::problem(
            CHECK,
            off.join(", "),
            "synchronise them with NTP; nothing breaks, but timestamps of output lines are off",
        )),
    }
}

/// Whether a worker with the settings of this environment would reach its master, tried with its own dialer.
async fn worker_door() -> Finding {
    const CHECK: &str = "worker port";
    let is_worker = ["MASTER_URL", "MASTER_URL_FILE"].iter().any(|name| config::variable(name).is_some());
    if !is_worker {
        return Finding::skipped(CHECK, "skipped: MASTER_URL is not set");
    }
    let config = match WorkerFromEnvironment::read() {
        Ok(config) => config,
        Err(why) => return Finding::problem(CHECK, why, "fix the variable that the message names"),
    };
    let Tried { door, detour, found } = match try_master(config, PATIENCE).await {
        Ok(tried) => tried,
        Err(error) => {
            return Finding::problem(CHECK, format!("{error:#}"), "fix the variable that the message names");
        }
    };
    match found {
        Found::LetsIn => Finding::ok(CHECK, format!("{door}{detour} accepts the worker key")),
        Found::AsksForKey => Finding::ok(
            CHECK,
            format!("{door}{detour} is reachable; API_KEY is not set, so the key is not checked"),
        ),
        Found::Refuses(why) => Finding::problem(
            CHECK,
            format!("{door}{detour} {why}"),
            "check API_KEY and the path in MASTER_URL; `gaffer keys create NAME --kind worker` creates a key",
        ),
        Found::Blocked(why) => Finding::problem(
            CHECK,
            format!("{door}: {why}"),
            "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY",
        ),
        Found::Unreachable(why) => Finding::problem(
            CHECK,
            format!("{door}{detour}: {why}"),
            "check MASTER_URL, the network, and that the reverse proxy passes WebSockets (headers \
            Connection and Upgrade)",
        ),
    }
}

async fn docker() -> Finding {
    const CHECK: &str = "docker";
    let named = config::variable("DOCKER_HOST");
    let address = named.clone().unwrap_or_else(|| format!("unix://{DEFAULT_DOCKER_SOCKET}"));
    let Some(socket) = address.strip_prefix("unix://") else {
        return Finding::skipped(CHECK, format!("{address} is on another machine"));
    };
    if named.is_none() && !Path::new(socket).exists() {
        return Finding::skipped(
            CHECK,
            format!("no Docker daemon at {socket}: a worker on this machine runs host tasks only"),
        );
    }
    let pinged = timeout(PATIENCE, ping(socket)).await.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()));
    match pinged {
        Ok(true) => Finding::ok(CHECK, format!("the daemon at {socket} responds")),
        Ok(false) => Finding::problem(
            CHECK,
            format!("the service at {socket} is not a Docker daemon"),
            "check DOCKER_HOST",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Finding::problem(
            CHECK,
            format!("{socket}: permission denied"),
            "add the user of the worker to the group docker (note: this is equivalent to root access)",
        ),
        Err(error) => {
            Finding::problem(CHECK, format!("{socket}: {error}"), "start the daemon, or check DOCKER_HOST")
        }
    }
}

async fn ping(socket: &str) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.") && answer.contains(" 200 "))
}

/// Asks a server whether it is ready, with the very client of the commands.
async fn readyz(server: &ServerUrl) -> Result<Response, String> {
    let http = config::route(server)
        .and_then(|route| client::http(&route))
        .map_err(|failure| failure.to_string())?;
    let url = format!("{}/readyz", server.api());
    http.get(&url).timeout(PATIENCE).send().await.map_err(|error| client::root(&error))
}
