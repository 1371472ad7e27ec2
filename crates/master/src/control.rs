//! What worker sessions use: the store that changes tasks, and in-memory state about workers. Handlers have no
//! access to it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::absences::Absences;
use crate::arrivals::Arrivals;
use crate::changes::Changes;
use crate::clocks::Clocks;
use crate::health::Healths;
use crate::hub::Hub;
use crate::input::Inputs;
use crate::large_jobs::LargeJobs;
use crate::live::LiveOutputs;
use crate::metrics::sessions::SessionMetrics;
use crate::open_streams::OpenStreams;
use crate::scheduling_state::SchedulingState;
use crate::store::Store;
use crate::vault::Vault;
use crate::wakes::Wakes;
use crate::write_batcher::WriteBatcherHandle;

/// The parts of the master that talk to workers.
#[derive(Debug)]
pub struct Control {
    pub store: Store,
    /// The way to `store/transitions`.
    pub write_batcher: WriteBatcherHandle,
    pub hub: Hub,
    /// Hellos in progress.
    pub arrivals: Arrivals,
    /// How long workers have been away.
    pub absences: Absences,
    /// Pending writes to standard input.
    pub inputs: Inputs,
    /// How far the clocks of workers are off.
    pub clocks: Clocks,
    /// What health checks say of live attempts.
    pub healths: Healths,
    /// Live output.
    pub live: LiveOutputs,
    /// Responses that end with the key or session of their reader.
    pub open_streams: OpenStreams,
    /// Wake-up calls for viewers, after commits.
    pub changes: Changes,
    /// Wake-up calls for loops.
    pub wakes: Wakes,
    /// Jobs that are continued in slices.
    pub large_jobs: LargeJobs,
    /// What waits and what is live, as far as that is known in memory.
    pub scheduling: SchedulingState,
    /// Decrypts the secrets of attempts.
    pub vault: Arc<Vault>,
    pub metrics: SessionMetrics,
    /// Cancelled when the master goes down.
    pub shutdown: CancellationToken,
}
