//! How fast work goes lately, by class and by worker: it decides how far ahead a worker is given work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::WorkerId;
use gaffer_domain::placement::BACKLOG_HORIZON;

/// How much one more run moves the mean.
const WEIGHT: f64 = 0.1;
/// Above this number of classes or workers, all estimates are reset.
const MAX_ENTRIES: usize = 100_000;

/// What was seen lately; rebuilt from experience after a start.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Mean length of the runs of each class, in microseconds.
    means: HashMap<i64, f64>,
    /// Ends of each worker, fading with [`BACKLOG_HORIZON`], and when that was.
    ends: HashMap<WorkerId, (f64, Instant)>,
}

impl Pace {
    /// Takes note of runs that ended at `now`.
    pub fn note(&self, runs: &[crate::store::transitions::Run], now: Instant) {
        let mut seen = self.lock();
        if seen.means.len() + seen.ends.len() > MAX_ENTRIES {
            *seen = Seen::default();
        }
        for run in runs {
            let micros = run.micros as f64;
            seen.means
                .entry(run.class)
                .and_modify(|mean| *mean += WEIGHT * (micros - *mean))
                .or_insert(micros);
            let (ends, at) = seen.ends.entry(run.worker).or_insert((0.0, now));
            (*ends, *at) = (faded(*ends, *at, now) + 1.0, now);
        }
    }

    /// The mean length of a run of this class; none before the first.
    pub fn mean(&self, class: i64) -> Option<Duration> {
        self.lock().means.get(&class).map(|micros| Duration::from_micros(*micros as u64))
    }

    /// About how many attempts a worker has finished within the last [`BACKLOG_HORIZON`].
    pub fn finished_lately(&self, worker: WorkerId, now: Instant) -> u32 {
        self.lock().ends.get(&worker).map_or(0, |(ends, at)| faded(*ends, *at, now) as u32)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decay of a count: a steady rate keeps it at the number within [`BACKLOG_HORIZON`].
fn faded(count: f64, at: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(at).as_secs_f64() / BACKLOG_HORIZON.to_std().as_secs_f64();
    count * (-age).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::transitions::Run;

    #[test]
    fn a_steady_worker_is_credited_with_what_it_does_in_a_second_and_an_idle_one_with_nothing() {
        let (pace, worker, start) = (Pace::default(), WorkerId(1), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        for n in 0..5_000 {
            pace.note(&[Run { class: 1, worker, micros: 2_000 }], after(n * 2));
        }
        let lately = pace.finished_lately(worker, after(10_000));
        assert!((490..=510).contains(&lately), "{lately}");
        assert_eq!(pace.finished_lately(worker, after(20_000)), 0);
        assert_eq!(pace.finished_lately(WorkerId(2), after(10_000)), 0);
        assert_eq!(pace.mean(1), Some(Duration::from_micros(2_000)));
    }
}
