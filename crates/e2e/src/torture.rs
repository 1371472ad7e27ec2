//! Long runs under faults, and the witness that judges them: whatever breaks, every accepted task ends once, no two
//! attempts of one overlap, every byte of output is there, and nothing is left.
//!
//! Everything random comes from a seed, which is printed.

mod fleet;
mod network;
pub mod play;
mod verdict;
mod witness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::time::sleep;

use fleet::{Fleet, Part};
use network::Break;
pub use verdict::Verdict;
use witness::Witness;

/// The shortest that a job may ask for: who is out of contact for so long has lost its attempts.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Longer than until the master replaces what a worker runs that it does not hear of.
const FREEZE: Duration = LOST_AFTER.saturating_add(Duration::from_secs(15));
/// The longest that a network is broken within a lease, which runs from the last answer before.
const BLIP_MILLIS: u64 = 4_000;
/// How long all tasks may take to end once the faults are over.
const SETTLING: Duration = Duration::from_secs(180);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The part of a random worker that talks to the master is killed every 2 seconds.
    KillLinks,
    /// All processes of a random worker are killed every 2 seconds, and it is started again.
    KillWorkers,
    /// The master is killed every 5 seconds, and started again.
    KillMaster,
    /// The link or the keeper of a random worker, or the master, stands still for longer than a lease every 30 seconds,
    /// and goes on.
    Freeze,
    /// The network of a random worker breaks every 3 seconds, one way or both or with a reset, for less than a lease.
    Blips,
    /// The same every 10 seconds, for longer than a lease.
    Partitions,
    /// All connections to the database are cut every 3 seconds.
    CutDatabase,
    /// One of these, at random, every 3 seconds.
    All,
}

impl Fault {
    /// Every kind, by the name that it is asked for with.
    pub const ALL: [(&'static str, Fault); 8] = [
        ("links", Fault::KillLinks),
        ("workers", Fault::KillWorkers),
        ("master", Fault::KillMaster),
        ("freeze", Fault::Freeze),
        ("blips", Fault::Blips),
        ("partitions", Fault::Partitions),
        ("database", Fault::CutDatabase),
        ("all", Fault::All),
    ];

    fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Fault::KillLinks | Fault::KillWorkers => 2,
            Fault::KillMaster => 5,
            Fault::Freeze => 30,
            Fault::Partitions => 10,
            Fault::Blips | Fault::CutDatabase | Fault::All => 3,
        })
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What goes wrong.
    pub fault: Fault,
    /// How long.
    pub duration: Duration,
    /// What everything random follows from.
    pub seed: u64,
    /// Tasks of one job; the next is submitted when fewer are left.
    pub tasks_per_job: u32,
    /// Of the time that a task takes in a long run.
    pub percent: u64,
    /// The program of the tasks: this one, with the arguments of [`play`].
    pub player: PathBuf,
    /// The program `gaffer`.
    pub gaffer: PathBuf,
}

/// Carries it out. Submits as long as the faults last, waits until all is over, and judges.
pub async fn run(plan: Plan) -> Verdict {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let witness = Witness::start();
    let mut fleet = Fleet::start(&plan.gaffer).await;
    let end = Instant::now() + plan.duration;
    let mut next_fault = Instant::now() + plan.fault.interval();
    let (mut jobs, mut faults) = (Vec::new(), 0);
    while Instant::now() < end {
        if fleet.waiting(&jobs).await < u64::from(plan.tasks_per_job) {
            let seed = rng.random();
            let spec = spec(&plan, &witness, seed);
            jobs.push((fleet.submit(&spec, seed).await, seed));
        }
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + plan.fault.interval();
            faults += 1;
            strike(&mut fleet, plan.fault, &mut rng).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
    fleet.mend().await;
    let tasks = fleet.settle(&jobs, SETTLING).await;
    let mut verdict = verdict::judge(&fleet, &witness, &tasks).await;
    verdict.faults = faults;
    fleet.stop().await;
    verdict
}

fn spec(plan: &Plan, witness: &Witness, seed: u64) -> serde_json::Value {
    let command = [
        plan.player.display().to_string(),
        "play".to_owned(),
        witness.path().display().to_string(),
        seed.to_string(),
        plan.percent.to_string(),
    ];
    json!({
        "name": "torture", "command": command, "count": plan.tasks_per_job, "resources": {"cpu": 0.25},
        "lost_after": format!("{}s", LOST_AFTER.as_secs()),
        "restart": {"policy": "on-failure", "limit": 10_000, "delay": "100ms", "backoff": "constant", "on_lost": "restart"},
        "stop": {"grace": "500ms"},
    })
}

async fn strike(fleet: &mut Fleet, fault: Fault, rng: &mut StdRng) {
    let fault = match fault {
        Fault::All => {
            let kinds = [
                Fault::KillLinks,
                Fault::KillWorkers,
                Fault::KillMaster,
                Fault::Freeze,
                Fault::Blips,
                Fault::Partitions,
                Fault::CutDatabase,
            ];
            kinds[rng.random_range(0..kinds.len())]
        }
        fault => fault,
    };
    let worker = rng.random_range(0..fleet.workers());
    match fault {
        Fault::KillLinks => fleet.kill_link(worker),
        Fault::KillWorkers => fleet.kill_worker(worker).await,
        Fault::KillMaster => fleet.kill_master().await,
        Fault::Freeze => {
            let part = [Part::Link(worker), Part::Keeper(worker), Part::Master][rng.random_range(0..3)];
            fleet.freeze(part, FREEZE);
        }
        Fault::Blips => {
            let kind = Break::ALL[rng.random_range(0..Break::ALL.len())];
            fleet.cut_network(worker, kind, Duration::from_millis(rng.random_range(100..BLIP_MILLIS)));
        }
        Fault::Partitions => {
            fleet.cut_network(worker, Break::ALL[rng.random_range(0..Break::ALL.len())], FREEZE);
        }
        Fault::CutDatabase => fleet.cut_database().await,
        Fault::All => {}
    }
}
