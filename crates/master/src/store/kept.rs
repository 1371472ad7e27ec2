//! A cache limited in bytes; the oldest entry is evicted first.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key, and the size of each.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    max_bytes: usize,
    values: HashMap<K, Entry<V>>,
    /// The keys by the places of their entries: the oldest first.
    places: BTreeMap<u64, K>,
    next_place: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: usize,
    place: u64,
}

impl<K: Copy + Eq + Hash, V> Kept<K, V> {
    pub fn new(max_bytes: usize) -> Kept<K, V> {
        Kept { max_bytes, values: HashMap::new(), places: BTreeMap::new(), next_place: 0, bytes: 0 }
    }

    pub fn get(&self, key: K) -> Option<&V> {
        self.values.get(&key).map(|entry| &entry.value)
    }

    /// A value to be changed. Its size counts as before, until it is put again.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.values.get_mut(&key).map(|entry| &mut entry.value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.values.iter().map(|(key, entry)| (*key, &entry.value))
    }

    /// Inserts a value of about this many bytes; replaces an existing one, in its place. Returns what is evicted.
    pub fn put(&mut self, key: K, value: V, bytes: usize) -> Vec<V> {
        self.bytes += bytes;
        match self.values.get_mut(&key) {
            Some(entry) => {
                self.bytes -= entry.bytes;
                (entry.value, entry.bytes) = (value, bytes);
            }
            None => {
                let place = self.next_place;
                self.next_place += 1;
                self.places.insert(place, key);
                self.values.insert(key, Entry { value, bytes, place });
            }
        }
        let mut evicted = Vec::new();
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.places.first_key_value().map(|(_, key)| *key) else { break };
            evicted.extend(self.remove(oldest));
        }
        evicted
    }

    /// Takes a value out. One that is put again is the newest.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let entry = self.values.remove(&key)?;
        self.places.remove(&entry.place);
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        *self = Kept { next_place: self.next_place, ..Kept::new(self.max_bytes) };
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

    #[test]
    fn what_is_taken_out_and_put_again_is_the_newest() {
        let mut kept = Kept::new(100);
        for key in 1..=4 {
            kept.put(key, (), 25);
        }
        assert_eq!(kept.remove(1), Some(()));
        assert_eq!(kept.put(1, (), 25).len(), 0);
        assert_eq!(kept.put(5, (), 30).len(), 2, "those that went are returned");
        assert_eq!((keys(&kept), kept.bytes), (vec![1, 4, 5], 80));
        kept.clear();
        assert_eq!((keys(&kept), kept.bytes, kept.places.len()), (vec![], 0, 0));
    }
}
