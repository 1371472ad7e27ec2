//! Changes of tasks: how many, in which batches, and how long a task takes from one state to the next.

use std::time::Duration;

use gaffer_domain::reason::ReasonCode;
use gaffer_domain::task::StateName;

use super::registrar::{Buckets, Counter, Family, Gauge, Histogram, Label, Registrar};
use crate::records::{DispatchStage, TaskChanges};

const STATE: Label = Label::new("state", "the state that the task entered");
const CAUSE: Label =
    Label::new("cause", "`unavailable`, `no_connection`, `timeout`, `lock`, `value`, `unreadable`");
const STAGE: Label = Label::new(
    "stage",
    "`placement` (from when the task may be placed until it is) or `start` (from then until it runs)",
);
const END: Label = Label::new("end", "`success`, or a reason code such as `exit_code` or `lost_worker`");
const LETTER: Label = Label::new("kind", "`output` or `report`");

const BATCH_CHANGES: Buckets = Buckets(&[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
const BATCH_SECONDS: Buckets =
    Buckets(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
const DISPATCH_SECONDS: Buckets = Buckets(&[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0,
]);
const RUN_SECONDS: Buckets =
    Buckets(&[0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0, 604800.0]);

/// The end of an attempt that has no reason.
const SUCCESS: &str = "success";

#[derive(Debug, Clone)]
pub struct TransitionMetrics {
    /// By state.
    transitions: [(StateName, Counter); StateName::ALL.len()],
    placement: Histogram,
    start: Histogram,
    attempts_ended: Family<Counter, 1>,
    run: Histogram,
    batch_changes: Histogram,
    batch_seconds: Histogram,
    batch_failures: Family<Counter, 1>,
    queued: Gauge,
    deferred: Gauge,
    letters_kept: Family<Counter, 1>,
}

impl TransitionMetrics {
    pub fn register(registrar: &mut Registrar) -> TransitionMetrics {
        let dispatch = registrar.histograms(
            "gaffer_dispatch_duration_seconds",
            [STAGE],
            DISPATCH_SECONDS,
            "Dispatch latency of tasks, by stage",
        );
        let transitions =
            registrar.counters("gaffer_transitions_total", [STATE], "Changes of the state of a task");
        let attempts_ended =
            registrar.counters("gaffer_attempts_ended_total", [END], "Attempts that ended, by how");
        // So that a rate has a beginning: of a series that begins with its first event, nobody sees that event.
        attempts_ended.of([SUCCESS]);
        for code in ReasonCode::ALL {
            attempts_ended.of([code.as_str()]);
        }
        TransitionMetrics {
            transitions: StateName::ALL.map(|state| (state, transitions.of([state.as_str()]))),
            placement: dispatch.of(["placement"]),
            start: dispatch.of(["start"]),
            attempts_ended,
            run: registrar.histogram(
                "gaffer_attempt_duration_seconds",
                RUN_SECONDS,
                "How long attempts ran, by their worker's clock",
            ),
            batch_changes: registrar.histogram(
                "gaffer_transition_batch_changes",
                BATCH_CHANGES,
                "Reports, chunks of output and decisions that one transaction of the write batcher committed",
            ),
            batch_seconds: registrar.histogram(
                "gaffer_transition_batch_duration_seconds",
                BATCH_SECONDS,
                "How long such a transaction took",
            ),
            batch_failures: registrar.counters(
                "gaffer_transition_batch_failures_total",
                [CAUSE],
                "Transactions of the write batcher that failed; it tries them again",
            ),
            queued: registrar.gauge(
                "gaffer_transition_queue_bytes",
                "Reports of workers that wait for the write batcher; at 384 MiB sessions are ended",
            ),
            deferred: registrar.gauge(
                "gaffer_transition_deferred_tasks",
                "Tasks with changes that wait because their job is locked or the database refuses them",
            ),
            letters_kept: registrar.counters(
                "gaffer_dead_letters_kept_total",
                [LETTER],
                "Output and reports that the database refused and that were kept as dead letters",
            ),
        }
    }

    /// A batch was committed.
    pub fn committed(&self, changes: usize, took: Duration) {
        self.batch_changes.observe(changes as f64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// A batch was not committed.
    pub fn failed(&self, cause: &'static str) {
        self.batch_failures.of([cause]).inc();
    }

    pub fn changed(&self, changed: &TaskChanges) {
        for (state, counter) in &self.transitions {
            counter.inc_by(changed.entered.get(*state).unsigned_abs());
        }
        for (stage, wait) in &changed.waits {
            match stage {
                DispatchStage::Placement => self.placement.observe(wait.as_secs_f64()),
                DispatchStage::Start => self.start.observe(wait.as_secs_f64()),
            }
        }
        for end in &changed.ends {
            self.attempts_ended.of([end.map_or(SUCCESS, ReasonCode::as_str)]).inc();
        }
    }

    /// An attempt has run for so long.
    pub fn ran(&self, micros: u64) {
        self.run.observe(Duration::from_micros(micros).as_secs_f64());
    }

    pub fn queued(&self, bytes: usize) {
        self.queued.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub fn deferred(&self, tasks: usize) {
        self.deferred.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    }

    pub fn letter_kept(&self, kind: &'static str) {
        self.letters_kept.of([kind]).inc();
    }
}
