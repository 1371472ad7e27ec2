//! Workers and their sessions.

use gaffer_domain::worker::WorkerState;
use gaffer_protocol::wire::GoodbyeCode;

use super::registrar::{Counter, Family, FloatGauge, Gauge, Label, Registrar};

const WORKER: Label = Label::new("worker", "`new`, or `known` when it had a session before");
const REASON: Label = Label::new(
    "reason",
    "`disconnected`, or the code that the worker is told, such as `superseded` or `key_revoked`",
);
const STATE: Label = Label::new("state", "a state of workers");
const OF: Label = Label::new("of", "`capacity` or `reserved`");

#[derive(Debug, Clone)]
pub struct SessionMetrics {
    connected: Gauge,
    started: Family<Counter, 1>,
    refused: Family<Counter, 1>,
    ended: Family<Counter, 1>,
}

impl SessionMetrics {
    pub fn register(registrar: &mut Registrar) -> SessionMetrics {
        let metrics = SessionMetrics {
            connected: registrar.gauge("gaffer_sessions", "Connected workers"),
            started: registrar.counters(
                "gaffer_sessions_started_total",
                [WORKER],
                "Sessions that workers began; those of known workers are reconnections",
            ),
            refused: registrar.counters(
                "gaffer_sessions_refused_total",
                [REASON],
                "Connections with a valid worker key that did not become a session",
            ),
            ended: registrar.counters(
                "gaffer_sessions_ended_total",
                [REASON],
                "Sessions of workers that ended, by why",
            ),
        };
        for worker in ["new", "known"] {
            metrics.started.of([worker]);
        }
        metrics.ended.of([reason(None)]);
        metrics
    }

    pub fn connected(&self, sessions: usize) {
        self.connected.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    pub fn started(&self, is_new: bool) {
        self.started.of([if is_new { "new" } else { "known" }]).inc();
    }

    /// `code`: what the worker was told, if anything.
    pub fn refused(&self, code: Option<GoodbyeCode>) {
        self.refused.of([reason(code)]).inc();
    }

    /// Likewise, for a session that had begun.
    pub fn ended(&self, code: Option<GoodbyeCode>) {
        self.ended.of([reason(code)]).inc();
    }
}

fn reason(code: Option<GoodbyeCode>) -> &'static str {
    match code {
        None => "disconnected",
        Some(GoodbyeCode::Superseded) => "superseded",
        Some(GoodbyeCode::BeginAnew) => "begin_anew",
        Some(GoodbyeCode::Duplicate) => "duplicate",
        Some(GoodbyeCode::KeyRevoked) => "key_revoked",
        Some(GoodbyeCode::NotAllowed) => "not_allowed",
        Some(GoodbyeCode::ProtocolVersion) => "protocol_version",
        Some(GoodbyeCode::ProtocolError) => "protocol_error",
        Some(GoodbyeCode::TooSlow) => "too_slow",
        Some(GoodbyeCode::ShuttingDown) => "shutting_down",
    }
}

/// What all workers together have, and what tasks have reserved of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    pub cpu_millis: u64,
    pub reserved_cpu_millis: u64,
    pub memory_bytes: u64,
    pub reserved_memory_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct WorkerMetrics {
    workers: Family<Gauge, 1>,
    cpus: Family<FloatGauge, 1>,
    memory: Family<FloatGauge, 1>,
}

impl WorkerMetrics {
    pub fn register(registrar: &mut Registrar) -> WorkerMetrics {
        WorkerMetrics {
            workers: registrar.gauges("gaffer_fleet_workers", [STATE], "Known workers, counted every 10 s"),
            cpus: registrar.float_gauges("gaffer_fleet_cpus", [OF], "Processors of connected workers"),
            memory: registrar.float_gauges("gaffer_fleet_memory_bytes", [OF], "Memory of connected workers"),
        }
    }

    /// Shows the workers of all projects.
    pub fn show(&self, states: &[WorkerState], connected: Reserved) {
        for state in WorkerState::ALL {
            let count = states.iter().filter(|known| **known == state).count();
            self.workers.of([state.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let of = |part: u64, whole: u64| [("reserved", part as f64), ("capacity", whole as f64)];
        for (word, millis) in of(connected.reserved_cpu_millis, connected.cpu_millis) {
            self.cpus.of([word]).set(millis / 1_000.0);
        }
        for (word, bytes) in of(connected.reserved_memory_bytes, connected.memory_bytes) {
            self.memory.of([word]).set(bytes);
        }
    }
}
