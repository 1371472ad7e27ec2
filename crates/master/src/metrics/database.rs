//! The database as the master finds it: whether it answers, what fails, how its connections are used.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::registrar::{Buckets, Counter, Family, FloatGauge, Gauge, Histogram, Label, Registrar};
use crate::records::PoolUse;

const POOL: Label = Label::new("pool", "`transitions`, `control`, `writes` or `reads`");
const USE: Label = Label::new("use", "`busy` or `idle`");
const KIND: Label = Label::new(
    "kind",
    "`unavailable`, `no_connection`, `timeout`, `lock`, `value`, `not_leader`, `unreadable`",
);

const READING_SECONDS: Buckets = Buckets(&[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0]);

#[derive(Debug, Clone)]
pub struct DatabaseMetrics {
    up: Gauge,
    writable: Gauge,
    read_at: FloatGauge,
    reading: Histogram,
    errors: Family<Counter, 1>,
    connections: Family<Gauge, 2>,
    most_connections: Family<Gauge, 1>,
}

impl DatabaseMetrics {
    pub fn register(registrar: &mut Registrar) -> DatabaseMetrics {
        DatabaseMetrics {
            up: registrar.gauge(
                "gaffer_database_up",
                "1 if the database answered when the figures of this page were last to be read, else 0",
            ),
            writable: registrar.gauge(
                "gaffer_database_writable",
                "0 while the database commits nothing of the write batcher, else 1",
            ),
            read_at: registrar.float_gauge(
                "gaffer_database_reading_timestamp_seconds",
                "When the shown queue, tasks and dead letters were read; 0 before the first time",
            ),
            reading: registrar.histogram(
                "gaffer_database_reading_duration_seconds",
                READING_SECONDS,
                "How long that took, with the wait for a connection of the pool `reads`",
            ),
            errors: registrar.counters(
                "gaffer_database_errors_total",
                [KIND],
                "Errors of all calls to the database; the write batcher, loops and sessions wait and try again",
            ),
            connections: registrar.gauges(
                "gaffer_database_pool_connections",
                [POOL, USE],
                "Open connections to the database",
            ),
            most_connections: registrar.gauges(
                "gaffer_database_pool_max_connections",
                [POOL],
                "Size of the pool; who needs more connections waits",
            ),
        }
    }

    pub fn is(&self, up: bool, writable: bool) {
        self.up.set(up.into());
        self.writable.set(writable.into());
    }

    /// What is read for the metrics was read.
    pub fn read(&self, took: Duration) {
        self.reading.observe(took.as_secs_f64());
    }

    pub fn read_at(&self, unix_seconds: f64) {
        self.read_at.set(unix_seconds);
    }

    /// How many errors of this kind there have been.
    pub fn errors(&self, kind: &'static str, count: u64) {
        self.errors.of([kind]).inner().fetch_max(count, Ordering::Relaxed);
    }

    pub fn pool(&self, pool: PoolUse) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let name = pool.pool;
        self.connections.of([name, "busy"]).set(number(pool.open.saturating_sub(pool.idle)));
        self.connections.of([name, "idle"]).set(number(pool.idle));
        self.most_connections.of([name]).set(pool.most.into());
    }
}
