//! Background loops, and the passes of the scheduler.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::registrar::{
    Buckets, Counter, Family, FloatGauge, Gauge, Histogram, Histograms, Label, Registrar,
};

const LOOP: Label = Label::new("loop", "a [loop](operations.md#system-page)");
const RESULT: Label = Label::new("result", "`ok` or `error`");

const LOOP_SECONDS: Buckets = Buckets(&[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0]);
const PASS_SECONDS: Buckets =
    Buckets(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);

/// Of each loop, by its name. A loop gets them with its status, from the driver.
#[derive(Debug, Clone)]
pub struct LoopMetrics {
    runs: Family<Counter, 2>,
    seconds: Histograms<1>,
    processed: Family<Counter, 1>,
    failing: Family<Gauge, 1>,
    last_success: Family<FloatGauge, 1>,
    period: Family<FloatGauge, 1>,
}

impl LoopMetrics {
    pub fn register(registrar: &mut Registrar) -> LoopMetrics {
        LoopMetrics {
            runs: registrar.counters("gaffer_loop_runs_total", [LOOP, RESULT], "Runs of a background loop"),
            seconds: registrar.histograms(
                "gaffer_loop_run_duration_seconds",
                [LOOP],
                LOOP_SECONDS,
                "How long the runs took",
            ),
            processed: registrar.counters(
                "gaffer_loop_processed_total",
                [LOOP],
                "What the runs dealt with: tasks, workers, jobs, rows",
            ),
            failing: registrar.gauges(
                "gaffer_loop_failing",
                [LOOP],
                "1 if the last run of the loop failed, else 0",
            ),
            last_success: registrar.float_gauges(
                "gaffer_loop_last_success_timestamp_seconds",
                [LOOP],
                "When the loop last succeeded; when it was started, if it has not yet",
            ),
            period: registrar.float_gauges(
                "gaffer_loop_period_seconds",
                [LOOP],
                "How long the loop waits for something to do before it looks by itself",
            ),
        }
    }

    /// A loop begins.
    pub fn starts(&self, name: &'static str, period: Duration) {
        self.period.of([name]).set(period.as_secs_f64());
        for result in ["ok", "error"] {
            self.runs.of([name, result]);
        }
        self.processed.of([name]);
        self.failing.of([name]).set(0);
        self.last_success.of([name]).set(now());
    }

    /// A run of a loop ended. `processed`: what it dealt with; none if it failed.
    pub fn ran(&self, name: &'static str, took: Duration, processed: Option<u64>) {
        let result = if processed.is_some() { "ok" } else { "error" };
        self.runs.of([name, result]).inc();
        self.seconds.of([name]).observe(took.as_secs_f64());
        self.failing.of([name]).set(processed.is_none().into());
        if let Some(processed) = processed {
            self.processed.of([name]).inc_by(processed);
            self.last_success.of([name]).set(now());
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[derive(Debug, Clone)]
pub struct SchedulerMetrics {
    pass: Histogram,
    decision: Histogram,
}

impl SchedulerMetrics {
    pub fn register(registrar: &mut Registrar) -> SchedulerMetrics {
        SchedulerMetrics {
            pass: registrar.histogram(
                "gaffer_scheduler_pass_duration_seconds",
                PASS_SECONDS,
                "How long a pass of the scheduler took that had tasks to place, with the database",
            ),
            decision: registrar.histogram(
                "gaffer_scheduler_decision_duration_seconds",
                PASS_SECONDS,
                "How long the decision alone took in such a pass",
            ),
        }
    }

    pub fn passed(&self, whole: Duration, decision: Duration) {
        self.pass.observe(whole.as_secs_f64());
        self.decision.observe(decision.as_secs_f64());
    }
}
