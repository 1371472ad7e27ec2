//! The shared budget of committed output in memory; the oldest is evicted first, viewed output last.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::LiveOutput;

/// Committed output kept for viewers, of all attempts.
const MAX_BYTES: usize = 64 << 20;
/// Number of viewed outputs skipped in search of one that is not viewed.
const MAX_PASSED_OVER: usize = 64;

/// Kept tails in eviction order.
#[derive(Debug)]
pub(super) struct Tails {
    limit: usize,
    bytes: AtomicUsize,
    /// An entry for each commit of an output.
    oldest_first: Mutex<VecDeque<Weak<LiveOutput>>>,
}

impl Default for Tails {
    fn default() -> Tails {
        Tails::new(MAX_BYTES)
    }
}

impl Tails {
    pub(super) fn new(limit: usize) -> Tails {
        Tails { limit, bytes: AtomicUsize::new(0), oldest_first: Mutex::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Records a commit of this output, and evicts to stay within the budget.
    pub(super) fn shrink(&self, newest: &Arc<LiveOutput>) {
        let mut order = self.oldest_first.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(Arc::downgrade(newest));
        let mut passed_over = 0;
        // The queue itself is bounded, too: an output that is committed again and again has many entries.
        while self.bytes() > self.limit || order.len() > self.limit / 512 {
            let Some(oldest) = order.pop_front() else { return };
            let Some(oldest) = oldest.upgrade() else { continue };
            if passed_over < MAX_PASSED_OVER && order.len() < self.limit / 512 && oldest.is_viewed() {
                passed_over += 1;
                order.push_back(Arc::downgrade(&oldest));
                continue;
            }
            let mut inner = oldest.lock();
            oldest.drop_first(&mut inner);
        }
    }
}
