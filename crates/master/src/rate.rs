//! Token buckets: a burst, then a rate per second.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub at_once: f64,
    pub per_second: f64,
}

/// State of a token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, left: rate.at_once, at: now }
    }

    /// Takes a token, or returns how long to wait for it.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.flow(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / self.rate.per_second))
    }

    /// Puts one back.
    pub fn give_back(&mut self) {
        self.left = (self.left + 1.0).min(self.rate.at_once);
    }

    /// Whether nothing was taken that has not flowed in again.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.flow(now);
        self.left >= self.rate.at_once
    }

    fn flow(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.per_second;
        self.left = (self.left + earned).min(self.rate.at_once);
        self.at = self.at.max(now);
    }
}

/// A bucket per key, with a maximum number of keys.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    most: usize,
    of: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    /// All of them full.
    pub fn new(rate: Rate, most: usize) -> Buckets<K> {
        Buckets { rate, most, of: HashMap::new() }
    }

    /// Takes a token of one key's bucket, or returns how long to wait for it.
    ///
    /// # Errors
    /// The wait.
    pub fn take(&mut self, whose: K, now: Instant) -> Result<(), Duration> {
        if self.of.len() >= self.most && !self.of.contains_key(&whose) {
            self.forget_some(now);
        }
        self.of.entry(whose).or_insert_with(|| Bucket::new(self.rate, now)).take(now)
    }

    /// Puts one back.
    pub fn give_back(&mut self, whose: &K) {
        if let Some(bucket) = self.of.get_mut(whose) {
            bucket.give_back();
        }
    }

    /// Forgets full buckets, and then others until half of the room is free: memory is bounded, and so is the work.
    fn forget_some(&mut self, now: Instant) {
        let mut room = self.most / 2;
        self.of.retain(|_, bucket| {
            let stays = room > 0 && !bucket.is_full(now);
            room -= usize::from(stays);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_what_flows_in() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { at_once: 10.0, per_second: 2.0 }, start);
        let taken = |bucket: &mut Bucket, at| (0..1_000).filter(|_| bucket.take(at).is_ok()).count();
        assert_eq!(taken(&mut bucket, start), 10);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(500)));
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3)), 6);
        bucket.give_back();
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3)), 1);
        assert!(!bucket.is_full(start + Duration::from_secs(4)));
        assert!(bucket.is_full(start + Duration::from_secs(3_600)));
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600)), 10);
    }

    #[test]
    fn each_has_a_bucket_and_memory_stays_bounded() {
        let now = Instant::now();
        let mut buckets = Buckets::new(Rate { at_once: 2.0, per_second: 1.0 }, 100);
        let taken = (0..10).filter(|_| buckets.take(7, now).is_ok()).count();
        assert_eq!(taken, 2);
        for whose in 1_000..200_000 {
            assert!(buckets.take(whose, now).is_ok());
        }
        assert!(buckets.of.len() <= 100);
    }
}
