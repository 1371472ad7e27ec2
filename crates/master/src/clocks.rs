//! Clock offsets of connected workers, measured with each heartbeat, in memory only.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::clocks::{ClockOffset, ClockSample};
use gaffer_domain::{Time, WorkerId};
use gaffer_protocol::wire::ClockReading;

/// Number of remembered heartbeat responses: a worker names the last one that it received.
const MAX_ANSWERS: usize = 8;

/// The clocks of all workers.
#[derive(Debug, Clone, Default)]
pub struct Clocks(Arc<Mutex<HashMap<WorkerId, Clock>>>);

#[derive(Debug, Default)]
struct Clock {
    offset: ClockOffset,
    /// When which heartbeat was answered; 0 is the welcome.
    answers: VecDeque<(u64, Instant)>,
}

impl Clocks {
    /// A session begins: the welcome goes out.
    pub fn welcomed(&self, worker: WorkerId) {
        let mut clocks = self.lock();
        let clock = clocks.entry(worker).or_default();
        clock.answers.clear();
        clock.answers.push_back((0, Instant::now()));
    }

    /// A heartbeat arrived, and its answer goes out.
    pub fn heartbeat(&self, worker: WorkerId, sequence: u64, reading: Option<ClockReading>, arrived: Time) {
        let mut clocks = self.lock();
        let clock = clocks.entry(worker).or_default();
        if let Some(ClockReading { answer, since_micros, at }) = reading
            && let Some((_, answered)) = clock.answers.iter().find(|(sequence, _)| *sequence == answer)
        {
            let since = Duration::from_micros(since_micros);
            clock.offset.take(ClockSample::new(at, since, arrived, answered.elapsed()));
        }
        if clock.answers.len() == MAX_ANSWERS {
            clock.answers.pop_front();
        }
        clock.answers.push_back((sequence, Instant::now()));
    }

    /// A worker's time, converted to this machine's clock.
    pub fn ours(&self, worker: WorkerId, theirs: Time) -> Time {
        self.lock().get(&worker).map_or(theirs, |clock| clock.offset.ours(theirs))
    }

    /// The best that is known of a worker's clock.
    pub fn of(&self, worker: WorkerId) -> Option<ClockSample> {
        self.lock().get(&worker).and_then(|clock| clock.offset.best().copied())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Clock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
