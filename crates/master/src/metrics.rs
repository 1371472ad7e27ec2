//! Metrics of a master for Prometheus. Each part has its own group and counts in it; [`crate::exposition`] adds what is only
//! looked up when somebody reads them.
//!
//! A metric is defined where it is registered, in one of the groups: its name with unit, its labels, its meaning. The table
//! in docs/metrics.md is made of these definitions. Labels are words of the program (see [`registrar::Word`]): no number,
//! name or address of anybody is in one.

pub mod database;
pub mod http;
pub mod leadership;
pub mod loops;
pub mod output;
pub mod process;
pub mod queue;
pub mod registrar;
pub mod sessions;
pub mod text;
pub mod tls;
pub mod transitions;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use database::DatabaseMetrics;
use http::HttpMetrics;
use leadership::LeadershipMetrics;
use loops::{LoopMetrics, SchedulerMetrics};
use output::OutputMetrics;
use process::ProcessMetrics;
use queue::QueueMetrics;
use registrar::{Definition, Registrar};
use sessions::{SessionMetrics, WorkerMetrics};
use text::{Format, to_prometheus};
use tls::TlsMetrics;
use transitions::TransitionMetrics;

/// The groups, each for the part that counts in it.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub queue: QueueMetrics,
    pub transitions: TransitionMetrics,
    pub scheduler: SchedulerMetrics,
    pub output: OutputMetrics,
    pub sessions: SessionMetrics,
    pub workers: WorkerMetrics,
    pub loops: LoopMetrics,
    pub database: DatabaseMetrics,
    pub http: HttpMetrics,
    pub leadership: LeadershipMetrics,
    pub tls: TlsMetrics,
    process: ProcessMetrics,
    registry: Arc<Registry>,
    definitions: Arc<[Definition]>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registrar = Registrar::default();
        let queue = QueueMetrics::register(&mut registrar);
        let transitions = TransitionMetrics::register(&mut registrar);
        let scheduler = SchedulerMetrics::register(&mut registrar);
        let output = OutputMetrics::register(&mut registrar);
        let sessions = SessionMetrics::register(&mut registrar);
        let workers = WorkerMetrics::register(&mut registrar);
        let loops = LoopMetrics::register(&mut registrar);
        let database = DatabaseMetrics::register(&mut registrar);
        let http = HttpMetrics::register(&mut registrar);
        let leadership = LeadershipMetrics::register(&mut registrar);
        let tls = TlsMetrics::register(&mut registrar);
        let process = ProcessMetrics::register(&mut registrar);
        let (registry, definitions) = registrar.finish();
        Metrics {
            queue,
            transitions,
            scheduler,
            output,
            sessions,
            workers,
            loops,
            database,
            http,
            leadership,
            tls,
            process,
            registry: Arc::new(registry),
            definitions: definitions.into(),
        }
    }
}

impl Metrics {
    /// All metrics, in the order in which they are shown.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// All metrics as they are now. Those of the process are looked up here.
    pub fn text(&self, format: Format) -> String {
        self.process.look();
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            // Without its last line, which a reader takes for an error.
            tracing::error!(%error, "cannot encode the metrics");
        }
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => to_prometheus(&text),
        }
    }
}

#[cfg(test)]
mod tests;
