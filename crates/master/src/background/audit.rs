//! Puts entries of the audit log into their chains, and removes the oldest ones.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use gaffer_domain::quantity::Span;
use tokio::time::{Instant, sleep_until};

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

/// How long it waits if nobody changes anything.
const PERIOD: Duration = Duration::from_secs(60);
/// Entries that come so close together are written together.
const GAP: Duration = Duration::from_secs(1);
/// How often it looks whether something under way has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Entries of one run.
const SLICE: u32 = 1_000;
/// How often it looks for entries to remove.
const REMOVE_EVERY: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Audit {
    pub store: Store,
    /// How long entries are kept; none for ever.
    pub retention: Option<Span>,
    /// Something was noted.
    pub wake: Wake,
    linked_at: Option<Instant>,
    removed_at: Option<Instant>,
}

impl Audit {
    /// A loop that has not run yet.
    pub fn new(store: Store, retention: Option<Span>, wake: Wake) -> Audit {
        Audit { store, retention, wake, linked_at: None, removed_at: None }
    }

    /// Removes entries that are old enough, now and then. Returns whether there may be more.
    async fn remove(&mut self) -> Result<(u64, bool), StoreError> {
        let is_early = self.removed_at.is_some_and(|at| at.elapsed() < REMOVE_EVERY);
        let Some(retention) = self.retention.filter(|_| !is_early) else { return Ok((0, false)) };
        let age = TimeDelta::milliseconds(retention.as_millis().min(i64::MAX as u64 / 2) as i64);
        let Some(older_than) = Utc::now().checked_sub_signed(age) else { return Ok((0, false)) };
        let removed = self.store.audit_remove(older_than, SLICE).await?;
        let has_more = removed == u64::from(SLICE);
        self.removed_at = (!has_more).then(Instant::now);
        Ok((removed, has_more))
    }
}

impl Background for Audit {
    const NAME: &'static str = "audit";
    const DESCRIPTION: &'static str =
        "puts entries of the audit log into their chains, and removes those that are old enough";

    fn period(&self) -> Duration {
        PERIOD
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        if let Some(at) = self.linked_at {
            sleep_until(at + GAP).await;
        }
        let (linked, are_others) = self.store.audit_link(SLICE).await?;
        self.linked_at = (linked > 0).then(Instant::now);
        let (removed, has_more) = self.remove().await?;
        let again_after = match (linked == SLICE || has_more, are_others) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(LOOK_AGAIN),
            (false, false) => None,
        };
        Ok(Ran { done: u64::from(linked) + removed, again_after })
    }
}
