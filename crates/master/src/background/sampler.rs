//! Samples reserved and used resources of each worker for one hour, in memory, for plots.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::worker::WorkerState;
use gaffer_domain::{Time, WorkerId};

use super::driver::{Background, Ran};
use crate::hub::Hub;
use crate::metrics::sessions::{Reserved, WorkerMetrics};
use crate::records::Worker;
use crate::store::{Store, StoreError};

/// So often a sample is taken.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
const MAX_SAMPLES: usize = 360;

/// A sample of a worker: shares of its capacity and of its machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: Time,
    /// Reserved by tasks.
    pub cpu_allocated: f64,
    /// CPU usage of all processes.
    pub cpu_used: Option<f64>,
    /// Reserved by tasks.
    pub memory_allocated: f64,
    /// In use, by whomever.
    pub memory_used: f64,
    /// Attempts that it executed.
    pub running: i64,
}

/// A shared handle on the samples.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<HashMap<WorkerId, VecDeque<Sample>>>>);

impl Samples {
    /// The last hour of a worker, oldest first.
    pub fn of(&self, worker: WorkerId) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(&worker).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }

    /// Notes one of each; workers that are not among them are forgotten.
    fn note(&self, taken: Vec<(WorkerId, Option<Sample>)>) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|known, _| taken.iter().any(|(worker, _)| worker == known));
        for (worker, sample) in taken {
            let of_worker = samples.entry(worker).or_default();
            while of_worker.len() >= MAX_SAMPLES {
                of_worker.pop_front();
            }
            of_worker.extend(sample);
        }
    }
}

/// Takes samples.
#[derive(Debug)]
pub struct Sampler {
    pub store: Store,
    pub hub: Hub,
    pub samples: Samples,
    pub metrics: WorkerMetrics,
}

impl Background for Sampler {
    const NAME: &'static str = "sampler";
    const DESCRIPTION: &'static str = "samples reserved and used resources for the plots of workers";

    fn period(&self) -> Duration {
        SAMPLE_INTERVAL
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let workers = self.sample_once(Utc::now()).await?;
        Ok(Ran { done: workers, again_after: None })
    }
}

impl Sampler {
    /// Takes one sample of each connected worker; returns of how many.
    ///
    /// # Errors
    /// When the database does not answer: the plots have a gap then.
    pub async fn sample_once(&self, now: Time) -> Result<u64, StoreError> {
        let workers = self.store.worker_list(None).await?;
        let states: Vec<WorkerState> = workers.iter().map(|worker| worker.state(now)).collect();
        self.metrics.show(&states, reserved_of(&workers));
        let taken: Vec<_> = workers.iter().map(|worker| (worker.id, self.sample(worker, now))).collect();
        let sampled = taken.iter().filter(|(_, sample)| sample.is_some()).count();
        self.samples.note(taken);
        Ok(sampled as u64)
    }

    fn sample(&self, worker: &Worker, now: Time) -> Option<Sample> {
        let (_, stats) = self.hub.get(worker.id)?.reading()?;
        let share =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) };
        let (reserved, capacity) = (&worker.reserved, &worker.capacity);
        Some(Sample {
            at: now,
            cpu_allocated: share(reserved.cpu.millis().into(), capacity.cpu.millis().into()),
            cpu_used: stats.cpu,
            memory_allocated: share(reserved.memory.get(), capacity.memory.get()),
            memory_used: share(stats.memory_used.get(), stats.memory_total.get()),
            running: worker.running,
        })
    }
}

/// What connected workers have, and what is reserved of it.
fn reserved_of(workers: &[Worker]) -> Reserved {
    let mut all = Reserved::default();
    for worker in workers.iter().filter(|worker| worker.offline_since.is_none()) {
        all.cpu_millis += u64::from(worker.capacity.cpu.millis());
        all.reserved_cpu_millis += u64::from(worker.reserved.cpu.millis());
        all.memory_bytes += worker.capacity.memory.get();
        all.reserved_memory_bytes += worker.reserved.memory.get();
    }
    all
}
