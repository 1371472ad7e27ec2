//! The master: remembers jobs, workers and keys in Postgres, places tasks, talks to workers, and serves API and pages.
//!
//! Postgres remembers, the domain decides, `store` writes, the scheduler places, `hub` delivers, the workers'
//! heartbeats repair. Nothing in this process's memory is needed to go on after its end.

pub mod absences;
pub mod arrivals;
pub mod background;
pub mod boot_clock;
pub mod changes;
pub mod clocks;
pub mod config;
pub mod embedded_postgres;
pub mod explain;
pub mod guesses;
pub mod http;
pub mod hub;
pub mod input;
pub mod leadership;
pub mod listener;
pub mod live;
mod look_rate;
pub mod output;
pub mod pace;
pub mod queue;
pub mod rate;
pub mod render;
pub mod secret;
pub mod serve;
mod session;
pub mod snapshot;
mod standby;
pub mod store;
pub mod submit;
pub mod troubles;
pub mod write_batcher;

pub use serve::{Running, run, start};

use tokio_util::sync::CancellationToken;

/// What the parts of a running master share.
#[derive(Debug)]
pub struct Master {
    /// What is remembered, for sessions and loops. Doors use the other two: `http` knows no statement that moves a task.
    pub store: store::Store,
    /// What users change.
    pub writes: store::WriteStore,
    /// What anybody looks at.
    pub reads: store::ReadStore,
    /// The fleet and the queue, as all who look share them.
    pub snapshots: snapshot::Snapshots,
    /// What pages that are open show.
    pub feeds: http::Feeds,
    /// Who is connected.
    pub hub: hub::Hub,
    /// Who says hello just now.
    pub arrivals: arrivals::Arrivals,
    /// How long workers have been away.
    pub absences: absences::Absences,
    /// Standard input that is under way.
    pub inputs: input::Inputs,
    /// How far their clocks are off.
    pub clocks: clocks::Clocks,
    /// Output that is under way.
    pub live: live::LiveOutputs,
    /// Wake-up calls after commits.
    pub changes: changes::Changes,
    /// The way to `store/transitions`.
    pub write_batcher: write_batcher::WriteBatcherHandle,
    /// Wakes background loops.
    pub wakes: background::wakes::Wakes,
    /// How workers are chosen for jobs that do not say.
    pub strategy: gaffer_domain::placement::Strategy,
    /// Which workers have given what back.
    pub pauses: background::scheduler::pauses::Pauses,
    /// How the scheduler's passes go.
    pub scheduler_stats: background::scheduler::stats::SchedulerStats,
    /// Which workers the last pass kept.
    pub reservations: background::scheduler::reservations::Reservations,
    /// What was reserved and used on workers lately.
    pub samples: background::sampler::Samples,
    /// What keeps it from recording, while it lasts.
    pub troubles: troubles::Troubles,
    /// How the background loops are doing.
    pub loops: background::driver::Statuses,
    /// Who tries keys that nobody has.
    pub guesses: guesses::Guesses,
    /// Where browsers find the dashboard, without a slash at the end.
    pub public_url: String,
    /// Scheme, host and port of that, as browsers state their origin.
    pub public_origin: String,
    /// The path of that.
    pub base_path: http::BasePath,
    /// Where workers dial in, as far as the master can tell.
    pub worker_url: String,
    /// Cancelled when the master goes down.
    pub shutdown: CancellationToken,
}
