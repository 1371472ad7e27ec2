//! The background loops of a master. [`driver`] runs them and keeps their status.

pub mod audit;
pub mod dead_letters;
pub mod deletion;
pub mod drain;
pub mod driver;
pub mod eras;
pub mod expired;
pub mod forget_workers;
pub mod key_check;
pub mod large_jobs;
pub mod moves;
pub mod orphans;
pub mod output_mover;
pub mod rebalance;
pub mod removed_workers;
pub mod retention;
pub mod sampler;
pub mod scheduler;
pub mod secret_keys;
pub mod sweeper;
pub mod system_jobs;
pub mod unused_objects;
pub mod updates;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use driver::Statuses;

/// All loops of a master.
#[derive(Debug)]
pub struct Loops {
    /// Places tasks.
    pub scheduler: scheduler::Scheduler,
    /// Moves tasks away from draining workers.
    pub drain: drain::Drain,
    /// Moves services; none if its operator wants them to stay.
    pub rebalance: Option<rebalance::Rebalance>,
    /// Declares attempts lost.
    pub sweeper: sweeper::Sweeper,
    /// Ends tasks for removed workers.
    pub removed_workers: removed_workers::RemovedWorkers,
    /// Ends sessions of refused keys.
    pub key_check: key_check::KeyCheck,
    /// Stops large jobs.
    pub large_jobs: large_jobs::LargeJobsLoop,
    /// Replaces instances of services.
    pub updates: updates::Updates,
    /// Keeps instances of system jobs on all workers that match.
    pub system_jobs: system_jobs::SystemJobs,
    /// Removes what belonged to deleted jobs.
    pub deletion: deletion::Deletion,
    /// Puts refused output back.
    pub dead_letters: dead_letters::DeadLetters,
    /// Keeps the chains of the audit log.
    pub audit: audit::Audit,
    /// Takes samples for plots.
    pub sampler: sampler::Sampler,
    /// Begins new eras of history.
    pub eras: eras::Eras,
    /// Lets jobs expire and drops eras.
    pub expiry: retention::Expiry,
    /// Deletes what has expired.
    pub expired: expired::Expired,
    /// Forgets lost workers; none if its operator wants them to stay.
    pub forget_workers: Option<forget_workers::ForgetWorkers>,
    /// Deletes output of tasks that no longer exist.
    pub orphans: orphans::Orphans,
    /// Applies a new master key to secrets.
    pub secret_keys: secret_keys::SecretKeys,
    /// Moves output, and deletes what is unused; none without object storage.
    pub output_store: Option<(output_mover::OutputMover, unused_objects::UnusedObjects)>,
}

impl Loops {
    /// Starts all of them; they end after `shutdown`.
    pub fn start(self, statuses: &Statuses, shutdown: &CancellationToken) -> Vec<JoinHandle<()>> {
        // Taken apart, so that a loop that is not started does not compile.
        let Loops {
            scheduler,
            drain,
            rebalance,
            sweeper,
            removed_workers,
            key_check,
            large_jobs,
            updates,
            system_jobs,
            deletion,
            dead_letters,
            audit,
            sampler,
            eras,
            expiry,
            expired,
            forget_workers,
            orphans,
            secret_keys,
            output_store,
        } = self;
        let mut running = vec![
            statuses.start(scheduler, shutdown.clone()),
            statuses.start(drain, shutdown.clone()),
            statuses.start(sweeper, shutdown.clone()),
            statuses.start(removed_workers, shutdown.clone()),
            statuses.start(key_check, shutdown.clone()),
            statuses.start(large_jobs, shutdown.clone()),
            statuses.start(updates, shutdown.clone()),
            statuses.start(system_jobs, shutdown.clone()),
            statuses.start(deletion, shutdown.clone()),
            statuses.start(dead_letters, shutdown.clone()),
            statuses.start(audit, shutdown.clone()),
            statuses.start(sampler, shutdown.clone()),
            statuses.start(eras, shutdown.clone()),
            statuses.start(expiry, shutdown.clone()),
            statuses.start(expired, shutdown.clone()),
            statuses.start(orphans, shutdown.clone()),
            statuses.start(secret_keys, shutdown.clone()),
        ];
        running.extend(rebalance.map(|rebalance| statuses.start(rebalance, shutdown.clone())));
        running.extend(forget_workers.map(|forgets| statuses.start(forgets, shutdown.clone())));
        if let Some((mover, unused)) = output_store {
            running.push(statuses.start(mover, shutdown.clone()));
            running.push(statuses.start(unused, shutdown.clone()));
        }
        running
    }
}
