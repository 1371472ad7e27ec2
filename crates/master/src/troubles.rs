//! Problems that currently prevent writes, for readyz, pages, API and explanations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{TimeDelta, Utc};
use gaffer_domain::{JobId, Time};

use crate::store::StoreError;

/// What waits is tried again more often than this.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::seconds(15);
/// With more locked jobs than this, further ones are not listed.
const MAX_LISTED: usize = 1_000;

/// The troubles of this master.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    database: Option<Trouble>,
    change: Option<Trouble>,
    /// Since when, and when seen last.
    locked: BTreeMap<JobId, (Time, Time)>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub since: Time,
    /// When it was seen last.
    pub seen: Time,
    pub message: String,
}

impl Troubles {
    /// The database refuses writes.
    pub fn database_fails(&self, error: &StoreError) {
        let mut known = self.lock();
        if note(&mut known.database, error) {
            tracing::warn!(%error, "the database fails; nothing is acknowledged until it recovers");
        }
    }

    /// The database has committed something.
    pub fn database_answers(&self) {
        let mut known = self.lock();
        if let Some(trouble) = known.database.take() {
            let seconds = (Utc::now() - trouble.since).num_seconds();
            tracing::info!(seconds, "the database has recovered");
        }
    }

    /// A single change can't be written at present and waits.
    pub fn change_waits(&self, error: &StoreError) {
        let mut known = self.lock();
        let is_new = known.change.as_ref().is_none_or(|trouble| Utc::now() - trouble.seen > FORGOTTEN_AFTER);
        if is_new {
            known.change = None;
            tracing::warn!(%error, "a write is refused and waits; others continue");
        }
        note(&mut known.change, error);
    }

    /// Another transaction has locked these jobs; their changes wait.
    pub fn jobs_locked(&self, jobs: &[JobId]) {
        if jobs.is_empty() {
            return;
        }
        let now = Utc::now();
        let mut known = self.lock();
        known.locked.retain(|_, (_, seen)| now - *seen <= FORGOTTEN_AFTER);
        for job in jobs {
            if known.locked.len() < MAX_LISTED || known.locked.contains_key(job) {
                known.locked.entry(*job).or_insert((now, now)).1 = now;
            }
        }
    }

    /// These jobs were written.
    pub fn jobs_written(&self, jobs: &[JobId]) {
        let mut known = self.lock();
        if known.locked.is_empty() {
            return;
        }
        for job in jobs {
            known.locked.remove(job);
        }
    }

    /// Why nothing can be recorded, if that is so.
    pub fn database(&self) -> Option<Trouble> {
        self.lock().database.clone()
    }

    /// What single changes wait for, if any did lately.
    pub fn change(&self) -> Option<Trouble> {
        self.lock().change.clone().filter(|trouble| Utc::now() - trouble.seen <= FORGOTTEN_AFTER)
    }

    /// Since when another transaction has locked a job.
    pub fn locked_since(&self, job: JobId) -> Option<Time> {
        self.locked().into_iter().find(|(locked, _)| *locked == job).map(|(_, since)| since)
    }

    /// Locked jobs, and since when.
    pub fn locked(&self) -> Vec<(JobId, Time)> {
        let now = Utc::now();
        let known = self.lock();
        let fresh = known.locked.iter().filter(|(_, (_, seen))| now - *seen <= FORGOTTEN_AFTER);
        fresh.map(|(job, (since, _))| (*job, *since)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that it is seen; true if it is new.
fn note(trouble: &mut Option<Trouble>, error: &StoreError) -> bool {
    let now = Utc::now();
    let is_new = trouble.is_none();
    let since = trouble.as_ref().map_or(now, |known| known.since);
    *trouble = Some(Trouble { since, seen: now, message: error.to_string() });
    is_new
}
