//! What sessions with workers need: the store that moves tasks, and what is known of workers in memory. No door has it.

use tokio_util::sync::CancellationToken;

use crate::absences::Absences;
use crate::arrivals::Arrivals;
use crate::changes::Changes;
use crate::clocks::Clocks;
use crate::hub::Hub;
use crate::input::Inputs;
use crate::live::LiveOutputs;
use crate::store::Store;
use crate::wakes::Wakes;
use crate::write_batcher::WriteBatcherHandle;

/// The parts of the master that talk to workers.
#[derive(Debug)]
pub struct Control {
    /// What is remembered.
    pub store: Store,
    /// The way to `store/transitions`.
    pub write_batcher: WriteBatcherHandle,
    /// Who is connected.
    pub hub: Hub,
    /// Who says hello just now.
    pub arrivals: Arrivals,
    /// How long workers have been away.
    pub absences: Absences,
    /// Standard input that is under way.
    pub inputs: Inputs,
    /// How far the clocks of workers are off.
    pub clocks: Clocks,
    /// Output that is under way.
    pub live: LiveOutputs,
    /// Wake-up calls for viewers, after commits.
    pub changes: Changes,
    /// Wake-up calls for loops.
    pub wakes: Wakes,
    /// Cancelled when the master goes down.
    pub shutdown: CancellationToken,
}
