//! Injects random faults of one kind, or of all, under a mix of tasks.

use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::chats::{self, Chats};
use super::fleet::{Fleet, Part, Setup};
use super::network::Break;
use super::plan::{Fault, LOST_AFTER, Plan};
use super::trial::Trial;
use super::verdict::Verdict;

/// Longer than until the master replaces what a worker runs that it does not hear of.
const FREEZE: Duration = LOST_AFTER.saturating_add(Duration::from_secs(15));
/// The longest that a network is broken within a lease, which runs from the last answer before.
const BLIP_MILLIS: u64 = 4_000;
const TICK: Duration = Duration::from_millis(100);

impl Fault {
    const EACH: [Fault; 7] = [
        Fault::KillAgents,
        Fault::KillWorkers,
        Fault::KillMaster,
        Fault::Freeze,
        Fault::Blips,
        Fault::Partitions,
        Fault::CutDatabase,
    ];

    fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Fault::KillAgents | Fault::KillWorkers => 2,
            Fault::KillMaster => 5,
            Fault::Freeze => 30,
            Fault::Blips | Fault::Partitions | Fault::CutDatabase | Fault::All => 3,
        })
    }

    /// Whether every attempt outlives it.
    fn spares_attempts(self) -> bool {
        matches!(self, Fault::KillAgents | Fault::KillMaster | Fault::Blips | Fault::CutDatabase)
    }
}

/// Submits as long as the faults last, waits until all is over, and judges.
pub async fn run(plan: &Plan, fault: Fault) -> Verdict {
    let mut trial = Trial::begin(plan, Setup::plain()).await;
    let chats = match fault.spares_attempts() {
        true => None,
        false => Some(Chats::begin(&mut trial).await),
    };
    let end = Instant::now() + plan.duration;
    let mut next_fault = Instant::now() + fault.interval();
    while Instant::now() < end {
        trial.feed().await;
        if Instant::now() >= next_fault {
            next_fault = Instant::now() + fault.interval();
            trial.faults += 1;
            let kind = match fault {
                Fault::All => Fault::EACH[trial.rng.random_range(0..Fault::EACH.len())],
                fault => fault,
            };
            strike(&mut trial.fleet, kind, &mut trial.rng).await;
        }
        sleep(TICK).await;
    }
    if let Some(chats) = &chats {
        chats.end();
    }
    let tasks = trial.settle().await;
    let chats = match chats {
        Some(chats) => chats.settle(&trial).await,
        None => Vec::new(),
    };
    let mut verdict = chats::judge(&trial, &tasks, &chats).await;
    if fault.spares_attempts() {
        let repeats = verdict.repeats_for_faults();
        verdict.promise(repeats == 0, format!("attempts that were ended or declared lost: {repeats}"));
    } else {
        let history = trial.fleet.history(0).await;
        let late = history.iter().filter(|event| event.kind == "task.late_report").count();
        verdict.figure(format!("reports that came too late and changed nothing: {late}"));
    }
    trial.end(verdict).await
}

async fn strike(fleet: &mut Fleet, fault: Fault, rng: &mut StdRng) {
    let worker = rng.random_range(0..fleet.workers());
    match fault {
        Fault::KillAgents => fleet.kill_agent(worker),
        Fault::KillWorkers => {
            fleet.kill_worker(worker).await;
            fleet.revive_worker(worker);
        }
        Fault::KillMaster => {
            fleet.kill_master(0).await;
            fleet.revive_master(0);
        }
        Fault::Freeze => {
            fleet.freeze(Part::Agent(worker), FREEZE);
            // Not of the same worker: that is the one thing which is not promised.
            let other = (worker + rng.random_range(1..fleet.workers().max(2))) % fleet.workers();
            if other != worker {
                fleet.freeze(Part::Executor(other), FREEZE);
            }
            if rng.random_ratio(1, 3) {
                fleet.freeze(Part::Master(0), FREEZE);
            }
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
