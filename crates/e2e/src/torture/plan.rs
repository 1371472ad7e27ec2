//! The parameters of a run.

use std::path::PathBuf;
use std::time::Duration;

use super::tap::Trick;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The part of a random worker that talks to the master is killed every 2 seconds.
    KillAgents,
    /// All processes of a random worker are killed, and it is started again.
    KillWorkers,
    /// The master is killed every 5 seconds, and started again.
    KillMaster,
    /// The agent of a random worker, the executor of another one and now and then the master stand still for longer than a
    /// lease every 30 seconds, and go on.
    Freeze,
    /// The connections of a random worker break every 3 seconds, one way or both or with a reset, for less than a lease.
    Blips,
    /// The same for longer than a lease.
    Partitions,
    /// All connections to the database are cut every 3 seconds.
    CutDatabase,
    /// One of these, at random, every 3 seconds.
    All,
}

/// The shortest that a job may ask for: who is out of contact for so long has lost its attempts.
pub const LOST_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Random faults of one kind, at intervals, under a mix of tasks.
    Strikes(Fault),
    /// Whole workers are killed; some come back at once, some stay away until their attempts are lost.
    Workers,
    /// The agent of a worker is killed again and again under a hundred running tasks.
    Readopt,
    /// Its own database server is killed, restarted and cut off under a mix of tasks.
    Postgres,
    /// The database server of the run refuses valid writes, holds locks, is full or slow, under a mix of tasks.
    Refused,
    /// The networks of workers break, for less or for more than a lease.
    Partitions,
    /// Tasks that do all they can to outlive their end.
    Escape,
    /// Many submit many different tasks to many workers, without any fault.
    Crowd,
    /// Several masters on one database are cut off from it, stand still, are killed and told to end.
    Leader,
    /// Large definitions, and large jobs that are stopped and deleted, beside small jobs.
    Large,
    /// More output than a worker's disk and network can take.
    Disk,
    /// Frames between workers and master come twice, in another order, cut in half, or again.
    Mangle,
    /// A service is updated and scaled, under kills of all kinds.
    Services,
}

impl Run {
    /// Every run, by the name that it is asked for with.
    pub const ALL: [(&'static str, Run); 18] = [
        ("agents", Run::Strikes(Fault::KillAgents)),
        ("workers", Run::Workers),
        ("readopt", Run::Readopt),
        ("master", Run::Strikes(Fault::KillMaster)),
        ("leader", Run::Leader),
        ("postgres", Run::Postgres),
        ("refused", Run::Refused),
        ("database", Run::Strikes(Fault::CutDatabase)),
        ("freeze", Run::Strikes(Fault::Freeze)),
        ("blips", Run::Strikes(Fault::Blips)),
        ("partitions", Run::Partitions),
        ("escape", Run::Escape),
        ("crowd", Run::Crowd),
        ("large", Run::Large),
        ("disk", Run::Disk),
        ("mangle", Run::Mangle),
        ("services", Run::Services),
        ("all", Run::Strikes(Fault::All)),
    ];

    /// The run of that name.
    pub fn named(name: &str) -> Option<Run> {
        Run::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, run)| run)
    }
}

/// What to do, and with what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub run: Run,
    /// How long faults strike. Runs with a fixed number of them may be over earlier.
    pub duration: Duration,
    /// What everything random follows from.
    pub seed: u64,
    /// `lost_after` of the tasks of the mix.
    pub lost_after: Duration,
    /// How many workers there are.
    pub workers: usize,
    /// Processors that each worker offers; a task of the mix reserves a quarter of one.
    pub cpu: u32,
    /// Tasks of one job of the mix, at most 500; the next is submitted when fewer are left.
    pub tasks_per_job: u32,
    /// Of the time that a task of the mix takes.
    pub percent: u64,
    /// How many tasks there are, where their number is fixed: in `readopt`, `escape` and `crowd`; in `large`, of the
    /// largest job.
    pub tasks: u32,
    /// What `mangle` does to frames.
    pub tricks: Vec<Trick>,
    /// Whether the directory with the logs stays.
    pub keep: bool,
    /// The program of the tasks: this one, with the arguments of [`super::scenario`].
    pub player: PathBuf,
    /// The program `gaffer`.
    pub gaffer: PathBuf,
}

impl Plan {
    /// With what suits a long run.
    pub fn new(run: Run, duration: Duration, seed: u64, player: PathBuf) -> Plan {
        Plan {
            run,
            duration,
            seed,
            lost_after: LOST_AFTER,
            workers: if run == Run::Crowd { 20 } else { 4 },
            cpu: 8,
            tasks_per_job: 250,
            percent: 100,
            tasks: match run {
                Run::Crowd => 10_000,
                Run::Escape => 1_000,
                Run::Large => 100_000,
                _ => 100,
            },
            tricks: Trick::ALL.map(|(_, trick)| trick).to_vec(),
            keep: false,
            gaffer: player.with_file_name("gaffer"),
            player,
        }
    }
}
