//! Rows of workers, and totals of the fleet.

use gaffer_domain::quantity::Bytes;
use gaffer_domain::spec::{DriverKind, Resources};
use serde::{Serialize, Serializer};

use super::format::{bytes, cores};
use super::view::Row;
use crate::operations::workers::WorkerView;

/// How much of something is reserved and used.
#[derive(Debug, Clone, Default)]
pub struct Amount {
    /// In words.
    pub text: String,
    /// What tasks have reserved, in hundredths.
    pub allocated: f64,
    /// What the machine uses in all, in words.
    pub uses: String,
    /// Position of the usage mark, in hundredths.
    pub used: f64,
}

/// How much of a countable resource is reserved.
#[derive(Debug, Clone, Default)]
pub struct Countable {
    /// Names its values on the page.
    pub field: String,
    pub name: String,
    /// An amount without a measured usage.
    pub amount: Amount,
}

/// A worker in a list.
#[derive(Debug, Clone, Default)]
pub struct WorkerRow {
    /// Names it in its list.
    pub key: String,
    pub state: String,
    pub number: i64,
    pub href: String,
    pub name: String,
    pub place: String,
    /// Whether its operator should know something.
    pub warning: bool,
    pub warnings: String,
    /// Attempts that it executes.
    pub running: i64,
    /// Attempts that wait on it.
    pub waiting: i64,
    /// Processors.
    pub cpu: Amount,
    /// Memory.
    pub memory: Amount,
    /// Disk.
    pub disk: Amount,
    /// Countable resources.
    pub countables: Vec<Countable>,
    /// Load averages.
    pub load: String,
    pub labels: Vec<String>,
    /// Drivers of the worker.
    pub drivers: String,
    /// Version of its program.
    pub version: String,
    /// When it was last heard of.
    pub seen: Option<i64>,
}

impl From<&WorkerView> for WorkerRow {
    fn from(view: &WorkerView) -> Self {
        let worker = &view.worker;
        let stats = view.stats();
        let (allocated, capacity) = (view.allocated(), &worker.capacity);
        let drivers =
            worker.drivers.iter().filter(|driver| driver.driver != DriverKind::Scripted || driver.healthy);
        let name = |driver: &gaffer_protocol::wire::DriverStatus| match driver.healthy {
            true => driver.driver.as_str().to_owned(),
            false => format!("{} ✕", driver.driver.as_str()),
        };
        let drivers: Vec<String> = drivers.map(name).collect();
        WorkerRow {
            key: worker.id.to_string(),
            state: view.state.to_string(),
            number: worker.id.0,
            href: format!("/workers/{}", worker.id),
            name: worker.name.clone(),
            place: place(view),
            warning: !view.warnings.is_empty(),
            warnings: view.warnings.join("; "),
            running: worker.running,
            waiting: worker.waiting,
            cpu: Amount {
                text: format!("{} / {}", cores(allocated.cpu.cores()), cores(capacity.cpu.cores())),
                allocated: hundredths(allocated.cpu.cores(), capacity.cpu.cores()),
                uses: stats
                    .and_then(|stats| stats.cpu)
                    .map_or_else(String::new, |busy| format!("{:.0}% busy", busy * 100.0)),
                used: stats.and_then(|stats| stats.cpu).map_or(NOWHERE, |busy| mark(hundredths(busy, 1.0))),
            },
            memory: amount_of(
                (allocated.memory, capacity.memory),
                stats.map(|stats| (stats.memory_used, stats.memory_total)),
            ),
            disk: amount_of(
                (allocated.disk, capacity.disk),
                stats.map(|stats| (stats.disk_used, stats.disk_total)),
            ),
            countables: worker
                .countables
                .iter()
                .map(|(name, all)| {
                    let taken = worker.taken.countables.get(name).copied().unwrap_or(0);
                    let amount = Amount {
                        text: format!("{taken} / {all}"),
                        allocated: hundredths(taken.into(), (*all).into()),
                        uses: String::new(),
                        used: NOWHERE,
                    };
                    Countable { field: format!("countable_{name}"), name: name.clone(), amount }
                })
                .collect(),
            load: stats.map_or_else(|| "—".to_owned(), |stats| format!("{:.2}", stats.load[0])),
            labels: worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            drivers: drivers.join(", "),
            version: worker.version.clone(),
            seen: Some(view.last_seen_at.timestamp_millis()),
        }
    }
}

/// Its datacenter, and whether others use it.
fn place(view: &WorkerView) -> String {
    let shared = match (view.is_own, view.worker.sharing.is_shared()) {
        (false, _) => "shared by another project",
        (true, true) => "shared",
        (true, false) => "",
    };
    let parts = [view.worker.datacenter.as_str(), shared];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

fn amount_of((allocated, capacity): (Bytes, Bytes), used: Option<(Bytes, Bytes)>) -> Amount {
    let (allocated, capacity) = (allocated.get(), capacity.get());
    let used = used.map(|(used, total)| (used.get(), total.get()));
    Amount {
        text: format!("{} / {}", bytes(allocated), bytes(capacity)),
        allocated: hundredths(allocated as f64, capacity as f64),
        uses: used
            .map_or_else(String::new, |(used, total)| format!("{} of {} in use", bytes(used), bytes(total))),
        used: used.map_or(NOWHERE, |(used, total)| mark(hundredths(used as f64, total as f64))),
    }
}

/// Where a mark is put that is not to be seen.
const NOWHERE: f64 = -9.0;

/// Start of the usage mark; inside the bar even at its end.
fn mark(hundredths: f64) -> f64 {
    hundredths.min(99.0)
}

/// A share in hundredths, to one tenth.
fn hundredths(part: f64, whole: f64) -> f64 {
    if whole <= 0.0 { 0.0 } else { (part / whole * 1_000.0).clamp(0.0, 1_000.0).round() / 10.0 }
}

impl Serialize for WorkerRow {
    /// Amounts are sent as separate values, one per part of a bar.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = serde_json::json!({
            "key": self.key, "state": self.state, "href": self.href, "name": self.name, "place": self.place,
            "warning": self.warning, "warnings": self.warnings, "running": self.running, "waiting": self.waiting,
            "cpu_text": self.cpu.text, "cpu_allocated": self.cpu.allocated, "cpu_used": self.cpu.used,
            "cpu_uses": self.cpu.uses,
            "memory_text": self.memory.text, "memory_allocated": self.memory.allocated,
            "memory_used": self.memory.used, "memory_uses": self.memory.uses,
            "disk_text": self.disk.text, "disk_allocated": self.disk.allocated, "disk_used": self.disk.used,
            "disk_uses": self.disk.uses,
            "load": self.load, "labels": self.labels, "drivers": self.drivers, "version": self.version,
            "seen": self.seen,
        });
        for Countable { field, amount, .. } in &self.countables {
            values[format!("{field}_text")] = amount.text.as_str().into();
            values[format!("{field}_allocated")] = amount.allocated.into();
            values[format!("{field}_used")] = amount.used.into();
            values[format!("{field}_uses")] = "".into();
        }
        values.serialize(serializer)
    }
}

impl Row for WorkerRow {
    fn key(&self) -> &str {
        &self.key
    }
}

/// All workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fleet {
    /// Tasks that run.
    pub running_tasks: i64,
    /// Workers that are connected, of all.
    pub online: String,
    /// Processors reserved, of those that are connected.
    pub cpu: String,
    /// Memory reserved, likewise.
    pub memory: String,
}

/// Some of what a worker has.
type Of = fn(&WorkerView) -> Resources;

impl Fleet {
    /// Adds them up.
    pub fn of(workers: &[WorkerView]) -> Fleet {
        let online = || workers.iter().filter(|view| view.state.is_connected());
        let cpu = |of: Of| cores(online().map(|view| of(view).cpu.cores()).sum());
        let memory = |of: Of| bytes(online().map(|view| of(view).memory.get()).sum());
        let (allocated, capacity): (Of, Of) = (WorkerView::allocated, |view| view.worker.capacity);
        Fleet {
            running_tasks: workers.iter().map(|view| view.worker.running).sum(),
            online: format!("{} / {}", online().count(), workers.len()),
            cpu: format!("{} / {}", cpu(allocated), cpu(capacity)),
            memory: format!("{} / {}", memory(allocated), memory(capacity)),
        }
    }
}
