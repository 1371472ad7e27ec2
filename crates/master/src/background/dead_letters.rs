//! Stores refused output again once the database accepts it.

use std::time::Duration;

use super::driver::{Background, Ran};
use crate::changes::Changes;
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

/// How many dead letters a run tries, those that were tried longest ago first.
const TRIED_AT_ONCE: u32 = 200;

#[derive(Debug)]
pub struct DeadLetters {
    pub store: Store,
    /// Tells viewers of what was put back.
    pub changes: Changes,
    /// Asks for a run.
    pub wake: Wake,
}

impl Background for DeadLetters {
    const NAME: &'static str = "dead_letters";
    const DESCRIPTION: &'static str = "stores refused output again once the database accepts it";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let mut restored = Vec::new();
        let letters = self.store.dead_letters_to_try(TRIED_AT_ONCE).await?;
        let more = letters.len() == TRIED_AT_ONCE as usize;
        for id in letters {
            match self.store.dead_letter_retry(id).await {
                Ok(job) => restored.extend(job),
                // It has its turn again later; the others need not wait for it.
                Err(error) if error.may_be_partial() => {
                    tracing::debug!(dead_letter = id, %error, "cannot restore a dead letter");
                }
                Err(error) => {
                    self.changes.announce(&restored);
                    return Err(error);
                }
            }
        }
        self.changes.announce(&restored);
        // Continues while letters are accepted; refused ones are retried after the period.
        let again_after = (more && !restored.is_empty()).then_some(Duration::ZERO);
        Ok(Ran { done: restored.len() as u64, again_after })
    }
}
