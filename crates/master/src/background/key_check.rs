//! Ends worker sessions whose key was revoked or expired.

use std::time::Duration;

use gaffer_protocol::wire::GoodbyeCode;

use super::driver::{Background, Ran};
use crate::hub::Hub;
use crate::store::{Store, StoreError};
use crate::wakes::Wake;

#[derive(Debug)]
pub struct KeyCheck {
    pub store: Store,
    pub hub: Hub,
    /// Asks for a check.
    pub wake: Wake,
}

impl Background for KeyCheck {
    const NAME: &'static str = "key_check";
    const DESCRIPTION: &'static str = "ends worker sessions whose key was revoked or expired";

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let sessions = self.hub.all();
        if sessions.is_empty() {
            return Ok(Ran::default());
        }
        let mut keys: Vec<i64> = sessions.iter().map(|session| session.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let refused = self.store.keys_refused(&keys).await?;
        let mut ended = 0;
        for session in sessions.iter().filter(|session| refused.contains(&session.key)) {
            session.end(GoodbyeCode::KeyRevoked, "the key was revoked or has expired");
            ended += 1;
        }
        Ok(Ran { done: ended, again_after: None })
    }
}
