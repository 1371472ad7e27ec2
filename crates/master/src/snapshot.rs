//! Fleet and queue of a project, read once and shared by all viewers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::placement::WorkerSnapshot;
use gaffer_domain::queue::InUse;
use gaffer_domain::{ProjectId, Time};
use tokio::time::Instant;

use crate::background::scheduler::candidates::worker_snapshot;
use crate::pauses::Pauses;
use crate::records::{QueueClass, Worker};
use crate::store::placement::QueuedClass;
use crate::store::{ReadStore, StoreError};

/// What pages that change by themselves are content with.
pub const RECENT: Duration = Duration::from_secs(1);
/// What those who ask once get: nothing older than their question.
pub const NOW: Duration = Duration::ZERO;
/// Pause after a read, as a multiple of its duration. Requests in the pause wait for the next read.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Above this number of projects, unused ones are evicted.
const SWEEP_FROM: usize = 64;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// The workers that a project may use and what waits there, as they were at one time.
#[derive(Debug)]
pub struct Snapshot {
    pub project: ProjectId,
    pub at: Time,
    /// The workers that the project may use, in the order of their numbers.
    pub workers: Vec<Worker>,
    /// The same as the rules look at them, in the same order.
    pub offers: Vec<WorkerSnapshot>,
    /// What everybody has in use of them.
    pub in_use: InUse,
    pub queue: Vec<QueuedClass>,
    /// What waits, in words: made for the first who asks.
    pub told: OnceLock<Vec<QueueClass>>,
}

/// Reads snapshots for all who look.
#[derive(Debug)]
pub struct Snapshots {
    reads: ReadStore,
    pauses: Pauses,
    projects: Mutex<HashMap<ProjectId, Arc<tokio::sync::Mutex<Latest>>>>,
}

#[derive(Debug, Default)]
struct Latest {
    /// With the time at which reading began: nothing that was committed before is missing.
    snapshot: Option<(Instant, Arc<Snapshot>)>,
    /// When an attempt began that failed.
    failed: Option<Instant>,
    rest_until: Option<Instant>,
}

impl Snapshots {
    /// Reads through this store; `pauses` lists workers that are temporarily skipped for some classes.
    pub fn new(reads: ReadStore, pauses: Pauses) -> Snapshots {
        Snapshots { reads, pauses, projects: Mutex::default() }
    }

    /// The state of a project, at most `max_age` old. Concurrent callers share the next read.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn of(&self, project: ProjectId, max_age: Duration) -> Result<Arc<Snapshot>, StoreError> {
        let asked = Instant::now();
        let latest = self.latest(project);
        let mut latest = latest.lock().await;
        let is_good = |began: Instant| began + max_age >= asked;
        if let Some((began, snapshot)) = &latest.snapshot
            && is_good(*began)
        {
            return Ok(snapshot.clone());
        }
        if latest.failed.is_some_and(is_good) {
            return Err(StoreError::too_busy());
        }
        if let Some(until) = latest.rest_until {
            tokio::time::sleep_until(until).await;
        }
        let began = Instant::now();
        let read = self.read(project).await;
        latest.rest_until = Some(Instant::now() + (began.elapsed() * REST).min(LONGEST_REST));
        match read {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                latest.snapshot = Some((began, snapshot.clone()));
                Ok(snapshot)
            }
            Err(error) => {
                latest.failed = Some(began);
                Err(error)
            }
        }
    }

    fn latest(&self, project: ProjectId) -> Arc<tokio::sync::Mutex<Latest>> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if projects.len() >= SWEEP_FROM {
            let is_recent = |latest: &Latest| {
                latest.snapshot.as_ref().is_some_and(|(began, _)| began.elapsed() < FORGOTTEN_AFTER)
            };
            projects.retain(|_, latest| latest.try_lock().map_or(true, |latest| is_recent(&latest)));
        }
        projects.entry(project).or_default().clone()
    }

    async fn read(&self, project: ProjectId) -> Result<Snapshot, StoreError> {
        let at = Utc::now();
        let (workers, mut in_use) = self.reads.worker_fleet(Some(project)).await?;
        in_use.set_terms(self.reads.project_terms().await?);
        let queue = self.reads.queue(project).await?;
        let offer = |worker: &Worker| WorkerSnapshot {
            paused: self.pauses.of(worker.id, at),
            ..worker_snapshot(worker, at)
        };
        let offers = workers.iter().map(offer).collect();
        Ok(Snapshot { project, at, workers, offers, in_use, queue, told: OnceLock::new() })
    }
}
