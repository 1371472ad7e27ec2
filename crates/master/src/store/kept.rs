//! A cache limited in bytes; the oldest entry is evicted first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Values by key, and the size of each.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    max_bytes: usize,
    values: HashMap<K, (V, usize)>,
    oldest_first: VecDeque<K>,
    bytes: usize,
}

impl<K: Copy + Eq + Hash, V> Kept<K, V> {
    pub fn new(max_bytes: usize) -> Kept<K, V> {
        Kept { max_bytes, values: HashMap::new(), oldest_first: VecDeque::new(), bytes: 0 }
    }

    pub fn get(&self, key: K) -> Option<&V> {
        self.values.get(&key).map(|(value, _)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.values.iter().map(|(key, (value, _))| (*key, value))
    }

    /// Inserts a value of about this many bytes; replaces an existing one.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        match self.values.insert(key, (value, bytes)) {
            Some((_, before)) => self.bytes -= before,
            None => self.oldest_first.push_back(key),
        }
        self.bytes += bytes;
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            let removed = self.values.remove(&oldest);
            self.bytes -= removed.map_or(0, |(_, bytes)| bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kept: &Kept<i64, ()>) -> Vec<i64> {
        let mut keys: Vec<i64> = kept.iter().map(|(key, ())| key).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn values_are_kept_up_to_a_size_and_the_oldest_go_first() {
        let mut kept = Kept::new(100);
        for key in 1..=5 {
            kept.put(key, (), 25);
        }
        assert_eq!(keys(&kept), [2, 3, 4, 5]);
        kept.put(4, (), 70);
        assert_eq!(keys(&kept), [4, 5], "one that is put again counts once, with its new size");
        kept.put(6, (), 101);
        assert_eq!((keys(&kept), kept.bytes), (vec![], 0), "one that is too large is not kept");
    }
}
