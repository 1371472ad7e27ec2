//! `gaffer workers`, and `gaffer worker show|drain|cordon|resume|remove`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_domain::quantity::{Bytes, Span};
use gaffer_domain::worker::Intake;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{DrainRequest, Draining, Worker};
use serde_json::json;

use crate::client::{Answer, Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// While one drains, a look is taken so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How to list the workers.
#[derive(Debug, Args)]
pub struct WorkersArgs {
    /// Only workers with this driver
    #[arg(long, value_name = "DRIVER", value_parser = ["host", "docker"])]
    driver: Option<String>,
    /// List all workers, not only the first page
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

/// What to do with one worker.
#[derive(Debug, Subcommand)]
pub enum WorkerAction {
    /// Show one worker
    Show(OneWorker),
    /// Stop placing tasks on a worker and move its services
    Drain(Drain),
    /// Stop placing tasks on a worker
    Cordon(OneWorker),
    /// Place tasks on a cordoned or drained worker again
    Resume(OneWorker),
    /// Remove an offline worker without tasks
    Remove(Remove),
}

/// Which worker to drain, and how.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer worker drain pi4
  gaffer worker drain pi4 --deadline 1h --wait")]
pub struct Drain {
    #[command(flatten)]
    one: OneWorker,
    /// Move the remaining tasks after this time, e.g. 1h
    #[arg(long, value_name = "TIME")]
    deadline: Option<Span>,
    /// Wait until the worker has no tasks left
    #[arg(long)]
    wait: bool,
}

/// Which worker to remove.
#[derive(Debug, Args)]
pub struct Remove {
    /// Worker name or number
    #[arg(value_name = "WORKER")]
    worker: String,
}

/// Which worker.
#[derive(Debug, Args)]
pub struct OneWorker {
    /// Worker name or number
    #[arg(value_name = "WORKER")]
    worker: String,
    #[command(flatten)]
    output: Output,
}

/// Lists the workers.
///
/// # Errors
/// Errors of the API or the network.
pub async fn list(args: WorkersArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let mut query = Query::new();
    query.extend(args.driver.map(|driver| ("driver", driver)));
    let list = List { path: &["workers"], query, all: args.all };
    listing::show::<Worker>(&client, out, list, args.output.format).await?;
    Ok(0)
}

/// Applies an action to one worker and shows its new state.
///
/// # Errors
/// Errors of the API or the network.
pub async fn act(action: WorkerAction, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let (answer, output) = match action {
        WorkerAction::Show(one) => (client.get(&["workers", &one.worker], &Query::new()).await?, one.output),
        WorkerAction::Drain(Drain { one, deadline, wait }) => {
            let path = ["workers", one.worker.as_str(), "drain"];
            let mut answer = client.post(&path, &DrainRequest { deadline }).await?;
            while wait && !is_drained(&answer.read()?) {
                tokio::time::sleep(LOOK_INTERVAL).await;
                answer = client.get(&["workers", &one.worker], &Query::new()).await?;
            }
            (answer, one.output)
        }
        WorkerAction::Cordon(one) => {
            (client.post(&["workers", &one.worker, "cordon"], &json!({})).await?, one.output)
        }
        WorkerAction::Resume(one) => {
            (client.post(&["workers", &one.worker, "resume"], &json!({})).await?, one.output)
        }
        WorkerAction::Remove(Remove { worker }) => {
            client.delete(&["workers", &worker]).await?;
            out.remark(&format!("removed {worker}"));
            return Ok(0);
        }
    };
    show(out, &answer, output.format)?;
    Ok(0)
}

/// The worker is empty, or somebody resumed it in the meantime.
fn is_drained(worker: &Worker) -> bool {
    worker.draining.is_none_or(|draining| draining.drained_at.is_some())
}

fn show(out: &Out, answer: &Answer, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Jsonl => listing::show_answer(out, answer),
        Format::Name => out.line(&style::visible(&answer.read::<Worker>()?.name)),
        Format::Table | Format::Wide => out.print(details(out, &answer.read()?).as_bytes()),
    }
}

fn details(out: &Out, worker: &Worker) -> String {
    let now = timestamp::now();
    let state = out.state(&worker.state, Stream::Stdout);
    let mut text = format!("worker {} {} {state}\n", worker.id, style::visible(&worker.name));
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {} {}\n", out.dim(&format!("{name:<10}")), style::visible(value)));
        }
    };
    field("last seen", &timestamp::ago(worker.last_seen_at, now));
    if worker.intake == Intake::Cordoned.as_str() {
        field("takes", "accepts no new tasks (cordoned)");
    }
    if let Some(draining) = &worker.draining {
        field("drain", &drains(draining, now));
    }
    if !worker.own {
        field("shared", "by another project; counts are of this project");
    } else if worker.shared {
        field("shared", "takes tasks of other projects, too");
    }
    field("datacenter", &worker.datacenter);
    field("labels", &labels(worker));
    field("cpu", &format!("{} of {} reserved", worker.allocated.cpu, worker.capacity.cpu));
    field("memory", &share(worker.allocated.memory_bytes, worker.capacity.memory_bytes));
    field("disk", &share(worker.allocated.disk_bytes, worker.capacity.disk_bytes));
    for (name, all) in &worker.capacity.countables {
        let reserved = worker.allocated.countables.get(name).copied().unwrap_or(0);
        field(name, &format!("{reserved} of {all} reserved"));
    }
    field("attempts", &format!("{} running, {} waiting", worker.running, worker.waiting));
    if let Some(usage) = &worker.usage {
        let cpu = usage.cpu.map(|cpu| format!("{:.0}% cpu, ", cpu * 100.0)).unwrap_or_default();
        let memory = format!("{} of {} memory", size(usage.memory_bytes), size(usage.memory_total_bytes));
        field("in use", &format!("{cpu}{memory}, load {:.2}", usage.load[0]));
    }
    field("drivers", &drivers(worker));
    field("machine", &format!("{} {}, gaffer {}", worker.os, worker.arch, worker.version));
    for warning in &worker.warnings {
        field("warning", warning);
    }
    text
}

fn drains(draining: &Draining, now: DateTime<Utc>) -> String {
    match (draining.drained_at, draining.until) {
        (Some(at), _) => format!("drained since {}", timestamp::ago(at, now)),
        (None, Some(until)) if until > now => format!("until {}", until.format("%Y-%m-%d %H:%M:%S UTC")),
        (None, Some(_)) => "its deadline has passed".to_owned(),
        (None, None) => "without a deadline".to_owned(),
    }
}

fn labels(worker: &Worker) -> String {
    let labels: Vec<_> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

fn drivers(worker: &Worker) -> String {
    let driver = |status: &gaffer_protocol::wire::DriverStatus| {
        let name = status.driver.as_str();
        match (status.healthy, &status.detail) {
            (true, _) => name.to_owned(),
            (false, Some(why)) => format!("{name} (unhealthy: {why})"),
            (false, None) => format!("{name} (unhealthy)"),
        }
    };
    worker.drivers.iter().map(driver).collect::<Vec<_>>().join(", ")
}

/// How far a clock is off, to the tenth of a second.
fn clock(ahead_seconds: f64) -> String {
    match ahead_seconds {
        ahead if ahead >= 0.1 => format!("+{}", timestamp::lasted_seconds(ahead)),
        ahead if ahead <= -0.1 => format!("-{}", timestamp::lasted_seconds(-ahead)),
        _ => "ok".to_owned(),
    }
}

fn share(reserved: u64, capacity: u64) -> String {
    format!("{} of {} reserved", size(reserved), size(capacity))
}

/// Bytes with two or three digits, which is all that people compare.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let number = bytes as f64 / *unit as f64;
            if number < 10.0 { format!("{number:.1}{name}") } else { format!("{number:.0}{name}") }
        }
        None => Bytes(bytes).to_string(),
    }
}

/// Whether other projects use it, or own it.
fn shared(worker: &Worker) -> &'static str {
    match (worker.own, worker.shared) {
        (false, _) => "by another project",
        (true, true) => "yes",
        (true, false) => "no",
    }
}

impl Entry for Worker {
    const HEAD: &'static [&'static str] =
        &["WORKER", "STATE", "CPU", "MEMORY", "RUNNING", "DATACENTER", "LABELS", "SEEN"];
    const WIDE_HEAD: &'static [&'static str] =
        &["ID", "SHARED", "DISK", "WAITING", "DRIVERS", "ARCH", "VERSION", "CLOCK", "WARNINGS"];
    const NONE: &'static str = "no workers yet: create a key with `gaffer keys create NAME --kind \
    worker`, then start `gaffer worker`";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::state(&self.state),
            Cell::text(format!("{}/{}", self.allocated.cpu, self.capacity.cpu)),
            Cell::text(format!("{}/{}", size(self.allocated.memory_bytes), size(self.capacity.memory_bytes))),
            Cell::text(self.running.to_string()),
            Cell::text(&self.datacenter),
            Cell::text(labels(self)),
            Cell::text(timestamp::ago(self.last_seen_at, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.id.to_string()),
            Cell::text(shared(self)),
            Cell::text(format!("{}/{}", size(self.allocated.disk_bytes), size(self.capacity.disk_bytes))),
            Cell::text(self.waiting.to_string()),
            Cell::text(drivers(self)),
            Cell::text(&self.arch),
            Cell::text(&self.version),
            Cell::maybe(self.clock_ahead_seconds.map(clock)),
            Cell::text(self.warnings.join("; ")),
        ]
    }
}
