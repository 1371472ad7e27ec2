//! What `/metrics` shows: the counters of all parts, and what is looked up for a reader: in memory, and at most every few
//! seconds in the database. A database that is away does not keep the reader waiting.

mod readings;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::Utc;

use crate::hub::Hub;
use crate::leadership::Leadership;
use crate::live::LiveOutputs;
use crate::metrics::Metrics;
use crate::metrics::text::Format;
use crate::store::{Pools, ReadStore};
use crate::troubles::Troubles;
use readings::Readings;

/// The metrics of a master that leads.
#[derive(Debug)]
pub struct Exposition {
    metrics: Metrics,
    readings: Readings,
    sources: Sources,
}

/// Where figures are looked up that nobody counts.
#[derive(Debug)]
pub struct Sources {
    pub pools: Pools,
    pub hub: Hub,
    pub live: LiveOutputs,
    /// Bytes of reports that wait for the write batcher.
    pub queued: Arc<AtomicUsize>,
    pub troubles: Troubles,
    pub leadership: Leadership,
}

impl Exposition {
    /// The metrics of a master with these parts.
    pub fn new(metrics: Metrics, reads: ReadStore, sources: Sources) -> Exposition {
        let readings = Readings::new(reads, metrics.database.clone());
        Exposition { metrics, readings, sources }
    }

    /// For the parts that count after the start.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All metrics as they are now. What is in the database is as old as the last reading.
    pub async fn text(&self, format: Format) -> String {
        let known = self.readings.recent().await;
        let Metrics { queue, database, leadership, transitions, output, sessions, .. } = &self.metrics;
        if let Some((totals, read_at)) = &known.totals {
            queue.show(&totals.unfinished, Utc::now());
            for (kind, count) in totals.dead_letters {
                queue.show_dead_letters(kind.as_str(), count);
            }
            database.read_at(read_at.timestamp_millis() as f64 / 1_000.0);
        }
        let Sources { pools, hub, live, queued, troubles, leadership: right } = &self.sources;
        database.is(known.is_up, troubles.database().is_none());
        pools.uses().into_iter().for_each(|pool| database.pool(pool));
        for (kind, count) in crate::store::failures() {
            database.errors(kind, count);
        }
        leadership.show(right.is_trusted(), right.term());
        transitions.queued(queued.load(Ordering::Relaxed));
        let connected = hub.all();
        sessions.connected(connected.len());
        let unstored = connected.iter().map(|session| session.output_on_its_way()).sum();
        output.in_memory(unstored, live.kept_bytes());
        self.metrics.text(format)
    }
}
