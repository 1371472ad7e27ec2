//! Wakes loops before their period ends; a missed wake-up costs time, not correctness.

use std::sync::Arc;

use tokio::sync::Notify;

/// Wakes one loop. Calls before its next run are one call.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Asks for a run.
    pub fn call(&self) {
        self.0.notify_one();
    }

    /// Asks for a run when the returned guard is dropped, also if the work in between fails or is cancelled.
    pub fn call_on_drop(&self) -> CallOnDrop {
        CallOnDrop(self.clone())
    }

    /// Waits for a call.
    pub async fn called(&self) {
        self.0.notified().await;
    }
}

/// See [`Wake::call_on_drop`].
#[derive(Debug)]
pub struct CallOnDrop(Wake);

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        self.0.call();
    }
}

/// The loops that others wake.
#[derive(Debug, Clone, Default)]
pub struct Wakes {
    /// A task may be placed, or a worker has room.
    pub scheduler: Wake,
    /// A worker drains, or does not any more.
    pub drain: Wake,
    pub sweeper: Wake,
    /// A worker was removed.
    pub removed_workers: Wake,
    /// Sessions may have lost their key.
    pub key_check: Wake,
    pub deletion: Wake,
    /// A service is updated.
    pub updates: Wake,
    /// There is another system job, or a worker matches others than before.
    pub system_jobs: Wake,
    /// Something was noted in the audit log.
    pub audit: Wake,
    /// Dead letters are to be tried again.
    pub dead_letters: Wake,
}
