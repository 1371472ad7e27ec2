//! How long attempts of each class run lately: it decides how far ahead a worker is given work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much one more run moves the mean.
const WEIGHT: f64 = 0.1;
/// With more classes than this, all is forgotten and learned anew: it is only a help.
const MAX_CLASSES: usize = 100_000;

/// Mean length of the runs of each class; rebuilt from experience after a start.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Mutex<HashMap<i64, f64>>>);

impl Pace {
    /// Takes note of runs, as class and microseconds.
    pub fn note(&self, runs: &[(i64, u64)]) {
        let mut means = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if means.len() > MAX_CLASSES {
            means.clear();
        }
        for (class, micros) in runs {
            let micros = *micros as f64;
            means.entry(*class).and_modify(|mean| *mean += WEIGHT * (micros - *mean)).or_insert(micros);
        }
    }

    /// The mean length of a run of this class; none before the first.
    pub fn mean(&self, class: i64) -> Option<Duration> {
        let means = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        means.get(&class).map(|micros| Duration::from_micros(*micros as u64))
    }
}
