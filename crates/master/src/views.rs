//! Read access for pages, lists and viewers. It cannot change anything.

use std::sync::Arc;

use gaffer_domain::clocks::ClockSample;
use gaffer_domain::placement::Strategy;
use gaffer_domain::retention::Retention;
use gaffer_domain::{AttemptRef, Time, WorkerId};
use gaffer_protocol::wire::MachineStats;
use tokio_util::sync::CancellationToken;

use crate::background::driver::Statuses;
use crate::background::sampler::Samples;
use crate::background::scheduler::reservations::Reservations;
use crate::background::scheduler::stats::SchedulerStats;
use crate::certificate::Certificate;
use crate::changes::Changes;
use crate::clocks::Clocks;
use crate::control::Control;
use crate::exposition::Exposition;
use crate::health::Healths;
use crate::hub::Hub;
use crate::live::{LiveOutput, LiveOutputs};
use crate::open_streams::OpenStreams;
use crate::output_store::StoredOutput;
use crate::pauses::Pauses;
use crate::records::Task;
use crate::search_budget::Searches;
use crate::snapshot::Snapshots;
use crate::store::ReadStore;
use crate::troubles::Troubles;
use crate::vault::Vault;

/// What anybody may look at who may look at a project.
#[derive(Debug)]
pub struct Views {
    pub reads: ReadStore,
    /// Output that is not in transit.
    pub output: StoredOutput,
    /// The fleet and the queue, as all who look share them.
    pub snapshots: Snapshots,
    /// Wake-up calls after commits.
    pub changes: Changes,
    /// How the master is doing.
    pub status: Status,
    /// The same in figures, for monitoring.
    pub exposition: Exposition,
    /// Searches of output.
    pub searches: Searches,
    /// Responses that end with the key or session of their reader.
    pub open_streams: OpenStreams,
    /// Cancelled when the master goes down: streams end then.
    pub shutdown: CancellationToken,
    /// What health checks say of live attempts.
    pub healths: Healths,
    live: LiveOutputs,
    hub: Hub,
    clocks: Clocks,
}

/// How the master is doing.
#[derive(Debug)]
pub struct Status {
    /// How workers are chosen for jobs that do not say.
    pub strategy: Strategy,
    /// How long finished jobs are kept that say nothing themselves.
    pub retention: Retention,
    /// How the scheduler's passes go.
    pub scheduler_stats: SchedulerStats,
    /// Which workers the scheduler's last pass reserved.
    pub reservations: Reservations,
    /// What was reserved and used on workers lately.
    pub samples: Samples,
    /// What keeps it from recording, while it lasts.
    pub troubles: Troubles,
    /// How its loops are doing.
    pub loops: Statuses,
    /// With which keys secrets are encrypted.
    pub vault: Arc<Vault>,
    /// With which certificate the ports speak TLS, if they do.
    pub certificate: Option<Arc<Certificate>>,
}

/// State of connected workers.
#[derive(Debug, Clone, Copy)]
pub struct Connected {
    /// When it was last heard of.
    pub heard_at: Time,
    /// What its machine is doing.
    pub stats: Option<MachineStats>,
    /// How far its clock is off.
    pub clock: Option<ClockSample>,
}

impl Views {
    /// Read access to the state of `control`. `pauses`: returned tasks by worker.
    pub fn new(
        reads: ReadStore,
        output: StoredOutput,
        control: &Control,
        pauses: Pauses,
        status: Status,
        exposition: Exposition,
    ) -> Views {
        Views {
            snapshots: Snapshots::new(reads.clone(), pauses),
            reads,
            output,
            changes: control.changes.clone(),
            status,
            exposition,
            searches: Searches::default(),
            open_streams: control.open_streams.clone(),
            shutdown: control.shutdown.clone(),
            healths: control.healths.clone(),
            live: control.live.clone(),
            hub: control.hub.clone(),
            clocks: control.clocks.clone(),
        }
    }

    /// Adds what health checks say of the latest attempts of tasks.
    pub fn add_health(&self, tasks: &mut [Task]) {
        for task in tasks.iter_mut().filter(|task| task.attempt > 0) {
            task.health = self.healths.of(AttemptRef { task: task.id, attempt: task.attempt });
        }
    }

    /// Live output of an attempt.
    pub fn live_output(&self, attempt: AttemptRef) -> Option<Arc<LiveOutput>> {
        self.live.get(attempt)
    }

    /// The session state of a worker; none if it is not connected.
    pub fn connected(&self, worker: WorkerId, now: Time) -> Option<Connected> {
        let session = self.hub.get(worker)?;
        let (heard, stats) = session.last_seen();
        let ago = chrono::TimeDelta::from_std(heard.elapsed()).unwrap_or_default();
        Some(Connected { heard_at: now - ago, stats, clock: self.clocks.of(worker) })
    }
}
