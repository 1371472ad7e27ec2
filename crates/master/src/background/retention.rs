//! Removes what has expired: jobs at once, what they leave behind with their era.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::retention::Retention;

use super::driver::{Background, Ran};
use crate::store::retention::Dropped;
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

/// The pause between batches, in which others have the disk.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause after somebody used history for too long while an era was to be dropped.
const PAUSE_WHEN_LOCKED: Duration = Duration::from_secs(5);

/// Lets jobs expire and drops eras.
#[derive(Debug)]
pub struct Expiry {
    pub store: Store,
    /// What this server says.
    pub retention: Retention,
    /// Signals deletions that do not wait for an era any more.
    pub deletion: Wake,
}

impl Background for Expiry {
    const NAME: &'static str = "retention";
    const DESCRIPTION: &'static str = "removes expired jobs, and drops eras of history";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let now = Utc::now();
        let expired = self.store.jobs_expire(&self.retention, now).await?;
        if expired > 0 {
            return Ok(Ran { done: expired, again_after: Some(PAUSE) });
        }
        if let Some(cutoff) = self.retention.events_cutoff(now) {
            let events = self.store.events_expire(cutoff).await?;
            if events > 0 {
                return Ok(Ran { done: events, again_after: Some(PAUSE) });
            }
        }
        let forgotten = self.store.deletions_forget().await?;
        if forgotten > 0 {
            return Ok(Ran { done: forgotten, again_after: Some(PAUSE) });
        }
        let (mut dropped, mut released) = (0, 0);
        for era in self.store.eras_closed().await? {
            match self.store.era_drop(era).await {
                Ok(Dropped::Yes) => {
                    tracing::info!(era = era.number, "dropped an era of history");
                    dropped += 1;
                }
                Ok(Dropped::NotYet(_)) => {
                    let until = self.retention.no_longer_waits(now);
                    released += self.store.deletions_release(era.number, until).await?;
                }
                Err(StoreError::Locked(_)) => {
                    return Ok(Ran { done: dropped, again_after: Some(PAUSE_WHEN_LOCKED) });
                }
                Err(error) => return Err(error),
            }
        }
        if released > 0 {
            self.deletion.call();
        }
        let again = dropped + released > 0;
        Ok(Ran { done: dropped + released, again_after: again.then_some(PAUSE) })
    }
}
