//! Deletes expired links, invitations, browser sessions and idempotency keys.

use std::time::Duration;

use super::driver::{Background, Ran};
use crate::store::{Store, StoreError};

#[derive(Debug)]
pub struct Expired {
    pub store: Store,
}

impl Background for Expired {
    const NAME: &'static str = "expired";
    const DESCRIPTION: &'static str =
        "deletes expired links, invitations, browser sessions and idempotency keys";

    fn period(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        Ok(Ran { done: self.store.expired_delete().await?, again_after: None })
    }
}
