//! Declares attempts of disconnected workers lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_domain::lease::lost_due;
use gaffer_domain::reason::LostCause;
use gaffer_domain::task::Rejected;
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::GoodbyeCode;
use uuid::Uuid;

use super::driver::{Background, Ran};
use crate::absences::Absences;
use crate::hub::Hub;
use crate::store::{Store, StoreError};
use crate::wakes::Wake;
use crate::write_batcher::{WriteBatcherHandle, lost};

/// The most attempts that are called lost together.
const MAX_LOST_AT_ONCE: u32 = 1_000;
/// Without anything that is due sooner, a pass is made so often.
const PERIOD: Duration = Duration::from_secs(60);
/// Attempts of locked jobs are declared lost after this time.
const BUSY_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Sweeper {
    /// Where tasks and workers are read.
    pub store: Store,
    /// Absences of workers by the boot clock.
    pub absences: Absences,
    /// Takes losses to the database.
    pub write_batcher: WriteBatcherHandle,
    /// Where sessions are.
    pub hub: Hub,
    /// Signals disconnected workers.
    pub wake: Wake,
    /// What was found of sessions.
    pub strays: Strays,
}

/// Sessions that the database has and this master does not, and since when: their connection ended while they were recorded.
#[derive(Debug, Default)]
pub struct Strays {
    found: HashMap<(WorkerId, Uuid), Instant>,
    looked_at: Option<Instant>,
}

impl Background for Sweeper {
    const NAME: &'static str = "sweeper";
    const DESCRIPTION: &'static str = "declares attempts of disconnected workers lost";

    fn period(&self) -> Duration {
        PERIOD
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        if self.strays.looked_at.is_none_or(|at| at.elapsed() >= PERIOD) {
            self.end_strays_once().await?;
            self.strays.looked_at = Some(Instant::now());
        }
        self.sweep_once().await
    }
}

impl Sweeper {
    /// Ends in the database what was no session here twice in a row. A worker that disconnects while its hello is recorded would else
    /// count as connected for as long as this master leads, and its attempts would never be called lost. Should the worker have
    /// another session here, that is to be recorded anew.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_strays_once(&mut self) -> Result<(), StoreError> {
        let is_stray = |(worker, session): &(WorkerId, Uuid)| {
            self.hub.get(*worker).is_none_or(|here| here.id != *session)
        };
        let strays: Vec<_> = self.store.worker_sessions().await?.into_iter().filter(is_stray).collect();
        let mut found = HashMap::new();
        for stray @ (worker, session) in strays {
            let Some(since) = self.strays.found.get(&stray).copied() else {
                found.insert(stray, Instant::now());
                continue;
            };
            tracing::warn!(%worker, "a worker disconnected while its hello was recorded");
            if let Some(here) = self.hub.get(worker) {
                found.insert(stray, since);
                here.end(
                    GoodbyeCode::ProtocolError,
                    "a later hello of this worker was recorded; connect again",
                );
                continue;
            }
            let why = "it disconnected while its hello was recorded";
            self.store.worker_goodbye(worker, session, since.elapsed().as_secs_f64(), why).await?;
        }
        self.strays.found = found;
        Ok(())
    }

    /// One pass: calls lost what has been out of contact for too long, by the database's clock and by this machine's.
    ///
    /// # Errors
    /// When the database does not answer: nothing is called lost then.
    pub async fn sweep_once(&self) -> Result<Ran, StoreError> {
        let (mut due, mut next) = self.store.tasks_out_of_contact(MAX_LOST_AT_ONCE).await?;
        let more = due.len() == MAX_LOST_AT_ONCE as usize;
        let now = BootTime::now();
        due.retain(|overdue| {
            let silent_for = self.absences.silent_for(overdue.worker, now);
            let left = lost_due(overdue.lost_after).to_std().saturating_sub(silent_for);
            if !left.is_zero() {
                next = Some(next.map_or(left.as_secs_f64(), |next| next.min(left.as_secs_f64())));
            }
            left.is_zero()
        });
        let (mut is_busy, mut done) = (false, 0);
        if !due.is_empty() {
            tracing::warn!(attempts = due.len(), "declaring attempts of disconnected workers lost");
            let inputs = due
                .iter()
                .map(|overdue| lost(overdue.worker, overdue.attempt, LostCause::OutOfContact))
                .collect();
            let results = self.write_batcher.events(inputs).await.unwrap_or_default();
            is_busy = results.contains(&Err(Rejected::Busy));
            done = results.iter().filter(|result| result.is_ok()).count() as u64;
        }
        let again_after = match (is_busy, more && !due.is_empty()) {
            // Another transaction holds a job of theirs.
            (true, _) => Some(BUSY_WAIT),
            (false, true) => Some(Duration::ZERO),
            (false, false) => next.map(|secs| Duration::from_secs_f64(secs.max(0.001)).min(PERIOD)),
        };
        Ok(Ran { done, again_after })
    }
}
