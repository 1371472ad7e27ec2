//! What happened a short time ago, so that what is repeated again and again is noted once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is repeated again and again fills no table: it is noted once in this time.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// What is remembered of that.
const MAX_RECENT: usize = 10_000;

/// What was noted a short time ago, and need not be noted again.
#[derive(Debug)]
pub(super) struct Recent<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Recent<K> {
    fn default() -> Recent<K> {
        Recent(Mutex::default())
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Whether this is to be noted.
    pub fn is_news(&self, what: K, now: Instant) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_RECENT {
            noted.retain(|_, at| now.duration_since(*at) < NOTED_EVERY);
        }
        let has_room = noted.len() < MAX_RECENT;
        match noted.entry(what) {
            Entry::Occupied(mut at) if now.duration_since(*at.get()) >= NOTED_EVERY => drop(at.insert(now)),
            Entry::Vacant(free) if has_room => drop(free.insert(now)),
            Entry::Occupied(_) | Entry::Vacant(_) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_noted_once_a_minute() {
        let (recent, now) = (Recent::default(), Instant::now());
        assert!(recent.is_news(("key 1", "stop"), now));
        assert!(!recent.is_news(("key 1", "stop"), now + NOTED_EVERY / 2));
        assert!(recent.is_news(("key 1", "delete"), now));
        assert!(recent.is_news(("key 2", "stop"), now));
        assert!(recent.is_news(("key 1", "stop"), now + NOTED_EVERY));
    }

    #[test]
    fn a_crowd_does_not_grow_the_memory() {
        let (recent, now) = (Recent::default(), Instant::now());
        for key in 0..MAX_RECENT + 10 {
            recent.is_news(key, now);
        }
        let len = || recent.0.lock().map(|noted| noted.len());
        assert_eq!(len().ok(), Some(MAX_RECENT));
        assert!(recent.is_news(usize::MAX, now + NOTED_EVERY));
        assert_eq!(len().ok(), Some(1));
    }
}
