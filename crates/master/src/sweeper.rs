//! Finds what nobody reports: attempts of workers that stay away, keys that were revoked, leftovers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gaffer_domain::lease::lost_due;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::LostCause;
use gaffer_domain::task::Rejected;
use gaffer_protocol::wire::GoodbyeCode;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::absences::Absences;
use crate::boot_clock::BootTime;
use crate::hub::Hub;
use crate::store::{Store, StoreError};
use crate::write_batcher::{WriteBatcherHandle, lost};

/// The most attempts that are called lost together.
const MAX_LOST_AT_ONCE: u32 = 1_000;
/// Without anything to wait for, a pass is made so often.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// Keys of open sessions are checked so often; revoking one here ends its sessions at once.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Attempts whose jobs are held by somebody else are called lost after this.
const BUSY_WAIT: Duration = Duration::from_millis(500);
const CLEANING_INTERVAL: Duration = Duration::from_secs(3_600);

/// The sweeper.
#[derive(Debug)]
pub struct Sweeper {
    /// Where tasks and workers are read.
    pub store: Store,
    /// Whose sessions to end.
    pub hub: Hub,
    /// For how long workers have been away by a clock that nobody sets.
    pub absences: Absences,
    /// Takes losses to the database.
    pub write_batcher: WriteBatcherHandle,
    /// Asks for a pass.
    pub wake: Arc<Notify>,
    /// Lost workers that have run nothing for so long are forgotten.
    pub forget_workers_after: Option<Span>,
}

/// How often lost workers are looked for: exactly enough, and rarely.
fn forgetting_interval(after: Span) -> Duration {
    (after.to_std() / 100).clamp(KEY_CHECK_INTERVAL, CLEANING_INTERVAL)
}

impl Sweeper {
    /// Makes a pass whenever a worker goes away, whenever something is due, and now and then.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut cleaned: Option<Instant> = None;
        let mut forgot: Option<Instant> = None;
        let mut failing = false;
        loop {
            let wait = match self.sweep_once().await {
                Ok(next) => {
                    failing = false;
                    next.map_or(IDLE_INTERVAL, |due| due.min(IDLE_INTERVAL))
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "a sweep failed; it is tried again");
                    }
                    Duration::from_secs(1)
                }
            };
            if cleaned.is_none_or(|at| at.elapsed() >= CLEANING_INTERVAL)
                && self.store.leftovers_delete().await.is_ok()
            {
                cleaned = Some(Instant::now());
            }
            if let Some(after) = self.forget_workers_after
                && forgot.is_none_or(|at| at.elapsed() >= forgetting_interval(after))
            {
                match self.store.workers_forget(after).await {
                    Ok(0) => forgot = Some(Instant::now()),
                    Ok(workers) => {
                        tracing::info!(workers, "lost workers were forgotten");
                        forgot = Some(Instant::now());
                    }
                    Err(error) => tracing::debug!(%error, "lost workers could not be forgotten"),
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait.min(KEY_CHECK_INTERVAL)) => {}
            }
        }
    }

    /// One pass: calls lost what has been out of contact for too long, by the database's clock and by this machine's, and
    /// ends sessions whose key is not good any more. Returns when the next attempt will be due, if any is waiting.
    ///
    /// # Errors
    /// When the database does not answer: nothing is called lost then.
    pub async fn sweep_once(&self) -> Result<Option<Duration>, StoreError> {
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
        let mut is_busy = false;
        if !due.is_empty() {
            tracing::warn!(attempts = due.len(), "calling attempts of absent workers lost");
            let inputs = due
                .iter()
                .map(|overdue| lost(overdue.worker, overdue.attempt, LostCause::OutOfContact))
                .collect();
            let results = self.write_batcher.events(inputs).await.unwrap_or_default();
            is_busy = results.contains(&Err(Rejected::Busy));
        }
        self.end_refused_sessions().await?;
        Ok(match (is_busy, more && !due.is_empty()) {
            // Somebody else holds a job of theirs.
            (true, _) => Some(BUSY_WAIT),
            (false, true) => Some(Duration::ZERO),
            (false, false) => next.map(|secs| Duration::from_secs_f64(secs.max(0.001))),
        })
    }

    async fn end_refused_sessions(&self) -> Result<(), StoreError> {
        let sessions = self.hub.all();
        if sessions.is_empty() {
            return Ok(());
        }
        let mut keys: Vec<i64> = sessions.iter().map(|session| session.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let refused = self.store.keys_refused(&keys).await?;
        for session in sessions.iter().filter(|session| refused.contains(&session.key)) {
            session.end(GoodbyeCode::KeyRevoked, "the key was revoked or has expired");
        }
        Ok(())
    }
}
