//! Begins a new era of history when the present one is old or large, and makes the partitions of the next one ahead.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::retention::Retention;

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};

#[derive(Debug)]
pub struct Eras {
    pub store: Store,
    /// How long jobs are kept, of which an era is a small part.
    pub retention: Retention,
}

impl Background for Eras {
    const NAME: &'static str = "eras";
    const DESCRIPTION: &'static str = "begins a new era of history when the present one is old or large";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let present = self.store.era_present().await?;
        if !self.retention.is_new_era_due(present.opened_at, present.tasks, Utc::now()) {
            return Ok(Ran::default());
        }
        match self.store.era_open_next(present.number).await {
            Ok(()) => Ok(Ran { done: 1, again_after: Some(Duration::ZERO) }),
            // A submission takes long. Nobody waits for this, so it waits for the next period.
            Err(StoreError::Locked(_)) => Ok(Ran::default()),
            Err(error) => Err(error),
        }
    }
}
