//! Device ids of countable resources: which GPU or licence each attempt holds.

use std::collections::{BTreeMap, BTreeSet};

/// Free device ids by resource, numbered from 0.
#[derive(Debug)]
pub(super) struct Pieces {
    all: BTreeMap<String, u32>,
    free: BTreeMap<String, BTreeSet<u32>>,
}

impl Pieces {
    pub fn new(all: BTreeMap<String, u32>) -> Pieces {
        let free = all.iter().map(|(name, count)| (name.clone(), (0..*count).collect())).collect();
        Pieces { all, free }
    }

    /// Sets the number of devices. Attempts keep ids beyond it until they end.
    pub fn set_all(&mut self, all: BTreeMap<String, u32>) {
        for (name, count) in &all {
            let before = self.all.get(name).copied().unwrap_or(0);
            let free = self.free.entry(name.clone()).or_default();
            free.retain(|piece| piece < count);
            free.extend(before..*count);
        }
        self.free.retain(|name, _| all.contains_key(name));
        self.all = all;
    }

    /// A request that exceeds the worker's total; none if it fits.
    pub fn misfit(&self, wanted: &BTreeMap<String, u32>) -> Option<String> {
        let has = |name: &String| self.all.get(name).copied().unwrap_or(0);
        let (name, wanted) = wanted.iter().find(|(name, wanted)| **wanted > has(name))?;
        Some(format!("it needs {wanted} {name}, this worker has {}", has(name)))
    }

    pub fn has(&self, wanted: &BTreeMap<String, u32>) -> bool {
        let free = |name: &String| self.free.get(name).map_or(0, BTreeSet::len);
        wanted.iter().all(|(name, wanted)| *wanted as usize <= free(name))
    }

    /// Takes the lowest ones, of which there are [enough](Self::has).
    pub fn take(&mut self, wanted: &BTreeMap<String, u32>) -> BTreeMap<String, Vec<u32>> {
        let mut taken = BTreeMap::new();
        for (name, wanted) in wanted {
            let Some(free) = self.free.get_mut(name) else { continue };
            let pieces: Vec<u32> = free.iter().take(*wanted as usize).copied().collect();
            free.retain(|piece| !pieces.contains(piece));
            taken.insert(name.clone(), pieces);
        }
        taken
    }

    /// Takes exactly these, which an attempt of an earlier process has.
    pub fn take_again(&mut self, taken: &BTreeMap<String, Vec<u32>>) {
        for (name, pieces) in taken {
            if let Some(free) = self.free.get_mut(name) {
                free.retain(|piece| !pieces.contains(piece));
            }
        }
    }

    /// Only existing ids; a restarted worker may have fewer.
    pub fn give_back(&mut self, taken: &BTreeMap<String, Vec<u32>>) {
        for (name, pieces) in taken {
            let count = self.all.get(name).copied().unwrap_or(0);
            if let Some(free) = self.free.get_mut(name) {
                free.extend(pieces.iter().filter(|piece| **piece < count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(count: u32) -> BTreeMap<String, u32> {
        BTreeMap::from([("gpu".to_owned(), count)])
    }

    #[test]
    fn each_piece_is_somebodys_alone_until_it_is_given_back() {
        let mut pieces = Pieces::new(wanted(3));
        let first = pieces.take(&wanted(2));
        assert_eq!(first["gpu"], [0, 1]);
        assert!(pieces.has(&wanted(1)) && !pieces.has(&wanted(2)));
        let second = pieces.take(&wanted(1));
        assert_eq!(second["gpu"], [2]);
        pieces.give_back(&first);
        pieces.take_again(&BTreeMap::from([("gpu".to_owned(), vec![0])]));
        assert_eq!(pieces.take(&wanted(1))["gpu"], [1]);
    }

    #[test]
    fn there_may_be_more_or_fewer_while_some_are_taken() {
        let mut pieces = Pieces::new(wanted(2));
        let both = pieces.take(&wanted(2));
        pieces.set_all(wanted(3));
        assert_eq!(pieces.take(&wanted(1))["gpu"], [2], "the new one");
        pieces.set_all(wanted(1));
        pieces.give_back(&both);
        assert_eq!(pieces.take(&wanted(1))["gpu"], [0], "of the two that came back, one there is no more");
        assert!(!pieces.has(&wanted(1)));
        pieces.set_all(BTreeMap::from([("licence".to_owned(), 1)]));
        assert!(pieces.has(&BTreeMap::from([("licence".to_owned(), 1)])) && !pieces.has(&wanted(1)));
    }

    #[test]
    fn what_there_is_not_is_said() {
        let pieces = Pieces::new(wanted(1));
        let message = pieces.misfit(&wanted(2));
        assert_eq!(message.as_deref(), Some("it needs 2 gpu, this worker has 1"));
        assert_eq!(pieces.misfit(&wanted(1)), None);
        assert!(pieces.has(&BTreeMap::new()));
    }
}
