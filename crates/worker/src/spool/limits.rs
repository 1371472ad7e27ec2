//! Total limits on output on disk and in memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Maximum output in memory for all attempts, in bytes; the rest is read from disk.
const MEMORY_LIMIT: usize = 64 << 20;

/// A smaller spool could block on records that are already stored.
const MIN_DISK_LIMIT: u64 = 1 << 20;

/// Counts usage, and wakes those who wait for space.
#[derive(Debug)]
pub(crate) struct Limits {
    disk_limit: u64,
    disk_used: AtomicU64,
    memory_used: AtomicUsize,
    freed: Notify,
}

impl Limits {
    pub fn new(disk_limit: u64) -> Limits {
        Limits {
            disk_limit: disk_limit.max(MIN_DISK_LIMIT),
            disk_used: AtomicU64::new(0),
            memory_used: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// Whether another record may go to disk. Each attempt may overshoot by the one that it holds.
    pub fn has_room(&self) -> bool {
        self.disk_used.load(Ordering::Relaxed) < self.disk_limit
    }

    /// Waits until something was freed. To miss nothing, enable it before looking for room.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    pub fn disk_taken(&self, bytes: u64) {
        self.disk_used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn disk_freed(&self, bytes: u64) {
        if bytes > 0 {
            self.disk_used.fetch_sub(bytes, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Bytes on disk.
    #[cfg(test)]
    pub fn disk_used(&self) -> u64 {
        self.disk_used.load(Ordering::Relaxed)
    }

    pub fn memory_taken(&self, bytes: usize) {
        self.memory_used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn memory_freed(&self, bytes: usize) {
        self.memory_used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn is_memory_short(&self) -> bool {
        self.memory_used.load(Ordering::Relaxed) > MEMORY_LIMIT
    }
}
