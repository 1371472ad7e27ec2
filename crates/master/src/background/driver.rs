//! Runs a background loop: waits, retries, logs, and keeps its status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::Time;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::loops::LoopMetrics;
use crate::store::StoreError;
use crate::wakes::Wake;

/// The waits after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// A background loop. It takes no input and reads the database, or a source given at construction.
pub trait Background: Send + 'static {
    /// Its name, unique among all.
    const NAME: &'static str;
    /// Its purpose, as a sentence without a full stop.
    const DESCRIPTION: &'static str;
    /// How long it waits after a run that left nothing to do.
    fn period(&self) -> Duration;

    /// Wakes it before its period ends; none without a signal.
    fn wake(&self) -> Option<Wake> {
        None
    }

    /// One run. A run with much to do returns early and is called again.
    fn run_once(&mut self) -> impl Future<Output = Result<Ran, StoreError>> + Send;
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// How many things it dealt with.
    pub done: u64,
    /// When to run again, if earlier than after a period.
    pub again_after: Option<Duration>,
}

/// How a loop is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub description: &'static str,
    /// How long it waits when there is nothing to do.
    pub period: Duration,
    pub runs: u64,
    /// Start of the current run.
    pub running_since: Option<Time>,
    /// When the first of the runs began that have failed without one between them that did not.
    pub failing_since: Option<Time>,
    /// The last finished run.
    pub last: Option<LastRun>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    pub at: Time,
    pub took: Duration,
    /// How many things it dealt with, or what went wrong.
    pub result: Result<u64, String>,
}

/// How the loops of this master are doing.
#[derive(Debug, Clone)]
pub struct Statuses {
    by_name: Arc<Mutex<BTreeMap<&'static str, Status>>>,
    metrics: LoopMetrics,
}

impl Statuses {
    /// Of no loops yet. Each has metrics from its start on.
    pub fn new(metrics: LoopMetrics) -> Statuses {
        Statuses { by_name: Arc::default(), metrics }
    }

    /// Starts a loop; it ends after `shutdown`.
    pub fn start<B: Background>(&self, background: B, shutdown: CancellationToken) -> JoinHandle<()> {
        let status = Status {
            description: B::DESCRIPTION,
            period: background.period(),
            runs: 0,
            running_since: None,
            failing_since: None,
            last: None,
        };
        self.metrics.starts(B::NAME, status.period);
        self.lock().insert(B::NAME, status);
        tokio::spawn(run(background, self.clone(), shutdown))
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(&'static str, Status)> {
        self.lock().iter().map(|(name, status)| (*name, status.clone())).collect()
    }

    fn begins(&self, name: &'static str, at: Time) {
        if let Some(status) = self.lock().get_mut(name) {
            status.running_since = Some(at);
        }
    }

    fn is_over(&self, name: &'static str, last: LastRun) {
        self.metrics.ran(name, last.took, last.result.as_ref().ok().copied());
        if let Some(status) = self.lock().get_mut(name) {
            status.runs += 1;
            status.running_since = None;
            status.failing_since = last.result.is_err().then(|| status.failing_since.unwrap_or(last.at));
            status.last = Some(last);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Status>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run<B: Background>(mut background: B, statuses: Statuses, shutdown: CancellationToken) {
    let wake = background.wake().unwrap_or_default();
    let mut retry = FIRST_RETRY;
    let mut failing = false;
    loop {
        let (at, begun) = (Utc::now(), Instant::now());
        statuses.begins(B::NAME, at);
        let result = tokio::select! {
            () = shutdown.cancelled() => return,
            result = background.run_once() => result,
        };
        let wait = match &result {
            Ok(ran) => {
                if failing {
                    tracing::info!(name = B::NAME, "a background loop has recovered");
                }
                (failing, retry) = (false, FIRST_RETRY);
                ran.again_after.unwrap_or_else(|| background.period())
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(name = B::NAME, %error, "a background loop failed; retrying");
                }
                failing = true;
                retry = (retry * 2).min(LONGEST_RETRY);
                retry
            }
        };
        let result = result.map(|ran| ran.done).map_err(|error| error.to_string());
        statuses.is_over(B::NAME, LastRun { at, took: begun.elapsed(), result });
        if wait.is_zero() {
            // A timer would take a millisecond.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wake.called() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests;
