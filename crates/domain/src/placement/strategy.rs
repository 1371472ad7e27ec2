//! The placement strategies, each with its formula and source; a lower score is better.
//!
//! | strategy | score |
//! |---|---|
//! | `spread` | the share of its fullest resource with the task on it; 0 is idle, 1 is full |
//! | `binpack` | Σ (10^free − 1) / 9, averaged over its resources; 1 is idle, 0 is full |
//! | `round_robin` | how many steps it is after the last one chosen |
//! | `greedy` | cpu use / 2^0.8 |
//! | `epvm` | Σ n^(use with the job) − n^(use now) |
//! | `epvm_lieb` | the same with one constant instead of n, for comparison |
//!
//! Sources: *binpack* is Nomad's 20 − Σ 10^(free share) (`ScoreFitBinPack` in its `structs/funcs.go`, after Google's
//! "BestFit v3"), turned around and scaled to 0..1 so that workers with more kinds of resources compare. *greedy* and
//! *epvm_lieb* are as the books had them that this program descends from: Lieb's square ice constant, 4 as the most
//! jobs, and processor terms that cancel out. *epvm* is the algorithm of Amir, Awerbuch, Barak, Borgstrom, Keren, *An
//! Opportunity Cost Approach for Job Assignment in a Scalable Computing Cluster*, IEEE TPDS 11(7):760–768, 2000.
//!
//! # Use
//!
//! The use of a resource is the larger of what is *reserved* and what was *measured* plus what was reserved since that
//! reading: who reserves much and uses little has a right to it, and who uses more than it reserved is in the way. It is
//! a share: of what the worker offers for what is reserved, of the machine for what was measured. With the job, it is more
//! by what the job reserves. Only processors and memory are measured.
//!
//! Strategies that need readings rank a worker behind all others while it has no fresh one
//! ([`READING_GOOD_FOR`](super::READING_GOOD_FOR)): it gets a task only where nobody else can take it.
//!
//! # Affinities
//!
//! Σ weight / 100 over the affinities that the worker meets, times what a whole worker's load is worth in the strategy's
//! score ([`Strategy::whole`]), is taken off the score. So 100 makes up for a full worker against an idle one, whichever
//! the strategy. In `round_robin`, the more wished for come first, and workers take turns among their equals.

use std::f64::consts::LOG2_10;

use super::requirements::Requirements;
use super::worker_snapshot::WorkerSnapshot;
use crate::ProjectId;
use crate::resources::Resources;
use crate::spec::Strategy;
use crate::worker::WorkerState;

/// Lieb's square ice constant, (4/3)^(3/2).
#[expect(clippy::excessive_precision, reason = "as it stands in the books")]
pub const LIEB: f64 = 1.539_600_717_839_002_038_69;
/// The most jobs of a worker, as the books had it.
const LIEB_MAX_JOBS: f64 = 4.0;
/// 2^0.8, by which the books divide the use of a processor.
const CPU_SCALE: f64 = 1.741_101_126_592_248_2;

impl Strategy {
    /// Whether its scores mean something only with a fresh reading of the machine.
    pub fn needs_readings(self) -> bool {
        matches!(self, Strategy::Greedy | Strategy::Epvm | Strategy::EpvmLieb)
    }

    /// What the whole load of a worker is worth in this strategy's score: a full resource against an idle one.
    pub fn whole(self, fleet: &Fleet) -> f64 {
        match self {
            Strategy::Spread | Strategy::Binpack | Strategy::RoundRobin => 1.0,
            Strategy::Greedy => 1.0 / CPU_SCALE,
            Strategy::Epvm => fleet.base() - 1.0,
            Strategy::EpvmLieb => LIEB - 1.0,
        }
    }
}

/// What a score depends on beside the worker itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    /// n: the machines among which is chosen.
    pub machines: u32,
    /// The most jobs that a machine is thought to have: a power of two.
    pub max_jobs: u32,
}

impl Fleet {
    /// The connected workers that a project may use. The paper begins with `max_jobs` = 1 and doubles it whenever the chosen machine
    /// has more; that is the smallest power of two not below the jobs of any machine, which needs no memory and
    /// goes down again with them.
    pub fn of(project: ProjectId, offers: &[WorkerSnapshot]) -> Fleet {
        let connected =
            offers.iter().filter(|offer| offer.is_for(project) && offer.state == WorkerState::Online);
        let mut fleet = Fleet { machines: 0, max_jobs: 1 };
        for offer in connected {
            fleet.machines += 1;
            fleet.note(offer.jobs());
        }
        fleet
    }

    /// Updates the number of jobs of a machine. Returns whether `max_jobs` doubled.
    pub fn note(&mut self, jobs: u32) -> bool {
        let before = self.max_jobs;
        while self.max_jobs < jobs {
            self.max_jobs = self.max_jobs.saturating_mul(2);
        }
        self.max_jobs > before
    }

    /// n as the base of a power: with one machine there is nothing to choose, and 1^x would say nothing.
    fn base(&self) -> f64 {
        f64::from(self.machines.max(2))
    }
}

/// The parts of a score, by what they come from. What a strategy does not look at is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Terms {
    pub cpu: f64,
    pub memory: f64,
    pub disk: f64,
    /// All countable resources together.
    pub countables: f64,
    pub jobs: f64,
    /// Below 0 where the worker is wished for.
    pub affinity: f64,
}

impl Terms {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("cpu", self.cpu),
            ("memory", self.memory),
            ("disk", self.disk),
            ("countables", self.countables),
            ("jobs", self.jobs),
            ("affinity", self.affinity),
        ]
    }

    /// The score that they make: the largest share for *spread*, else their sum; and the affinity's part on top. Always
    /// finite.
    pub fn score(&self, strategy: Strategy) -> f64 {
        let Terms { cpu, memory, disk, countables, jobs, affinity } = *self;
        let load = match strategy {
            Strategy::Spread => cpu.max(memory).max(disk).max(countables),
            _ => cpu + memory + disk + countables + jobs,
        };
        (load + affinity).clamp(f64::MIN, f64::MAX)
    }
}

/// The score of a worker for a task, but for *round_robin*, whose turns depend on who was last.
pub fn score(strategy: Strategy, needs: &Requirements, offer: &WorkerSnapshot, fleet: &Fleet) -> f64 {
    terms(strategy, needs, offer, fleet).score(strategy)
}

/// The parts of [`score`].
pub fn terms(strategy: Strategy, needs: &Requirements, offer: &WorkerSnapshot, fleet: &Fleet) -> Terms {
    let load = match strategy {
        Strategy::Spread => spread(needs, offer),
        Strategy::Binpack => binpack(needs, offer),
        Strategy::RoundRobin => Terms::default(),
        Strategy::Greedy => greedy(offer),
        Strategy::Epvm => epvm(needs, offer, fleet),
        Strategy::EpvmLieb => epvm_lieb(needs, offer),
    };
    if needs.affinities.is_empty() {
        return load;
    }
    let facts = offer.facts();
    let met = needs.affinities.iter().filter(|affinity| affinity.when.holds(&facts));
    let weight: f64 = met.map(|affinity| f64::from(affinity.weight)).sum();
    Terms { affinity: -weight / 100.0 * strategy.whole(fleet), ..load }
}

/// A part of a whole; nothing of nothing is nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The shares of a worker's processors, memory and disk.
fn shares(part: &Resources, whole: &Resources) -> [f64; 3] {
    [
        share(u64::from(part.cpu.millis()), u64::from(whole.cpu.millis())),
        share(part.memory.get(), whole.memory.get()),
        share(part.disk.get(), whole.disk.get()),
    ]
}

/// For each countable resource of a worker: the share that is taken, and the share that the task wants.
fn countable_shares<'a>(
    needs: &'a Requirements,
    offer: &'a WorkerSnapshot,
) -> impl Iterator<Item = (f64, f64)> {
    let has_some = offer.countables.iter().filter(|(_, all)| **all > 0);
    has_some.map(|(name, all)| {
        let taken = offer.taken.countables.get(name).copied().unwrap_or(0);
        let wanted = needs.countables.get(name).copied().unwrap_or(0);
        (share(taken.into(), (*all).into()), share(wanted.into(), (*all).into()))
    })
}

fn spread(needs: &Requirements, offer: &WorkerSnapshot) -> Terms {
    let reserved = super::worker_snapshot::sum(&offer.reserved, &needs.resources, 1);
    let [cpu, memory, disk] = shares(&reserved, &offer.capacity);
    let countables = countable_shares(needs, offer).map(|(taken, wanted)| taken + wanted).fold(0.0, f64::max);
    Terms { cpu, memory, disk, countables, ..Terms::default() }
}

fn binpack(needs: &Requirements, offer: &WorkerSnapshot) -> Terms {
    let reserved = super::worker_snapshot::sum(&offer.reserved, &needs.resources, 1);
    let [cpu, memory, disk] = shares(&reserved, &offer.capacity);
    let has =
        [offer.capacity.cpu.millis() > 0, offer.capacity.memory.get() > 0, offer.capacity.disk.get() > 0];
    let kinds = has.iter().filter(|has| **has).count() + countable_shares(needs, offer).count();
    let emptiness = |used: f64| ((LOG2_10 * (1.0 - used)).exp2() - 1.0) / 9.0 / kinds as f64;
    let of = |has: bool, used: f64| if has { emptiness(used) } else { 0.0 };
    Terms {
        cpu: of(has[0], cpu),
        memory: of(has[1], memory),
        disk: of(has[2], disk),
        countables: countable_shares(needs, offer).map(|(taken, wanted)| emptiness(taken + wanted)).sum(),
        ..Terms::default()
    }
}

/// How much of the processors is busy: as measured, and by what was placed since; as reserved where nothing was measured.
fn cpu_use(offer: &WorkerSnapshot) -> f64 {
    let [reserved, ..] = shares(&offer.reserved, &offer.capacity);
    match offer.fresh() {
        None => reserved,
        Some(measured) => {
            let [since, ..] = shares(&measured.since, &offer.capacity);
            measured.cpu.clamp(0.0, 1.0) + since
        }
    }
}

fn greedy(offer: &WorkerSnapshot) -> Terms {
    Terms { cpu: cpu_use(offer) / CPU_SCALE, ..Terms::default() }
}

fn epvm(needs: &Requirements, offer: &WorkerSnapshot, fleet: &Fleet) -> Terms {
    let mut now = shares(&offer.reserved, &offer.capacity);
    if let Some(measured) = offer.fresh() {
        let [_, since_memory, _] = shares(&measured.since, &offer.capacity);
        let memory = share(measured.memory_used.get(), measured.memory_total.get());
        now[0] = now[0].max(cpu_use(offer));
        now[1] = now[1].max(memory + since_memory);
    }
    let [cpu, memory, disk] = shares(&needs.resources, &offer.capacity);
    let base = fleet.base().log2();
    let max_jobs = f64::from(fleet.max_jobs.max(1));
    Terms {
        cpu: marginal(base, now[0], cpu),
        memory: marginal(base, now[1], memory),
        disk: marginal(base, now[2], disk),
        countables: countable_shares(needs, offer).map(|(taken, wanted)| marginal(base, taken, wanted)).sum(),
        jobs: marginal(base, f64::from(offer.jobs()) / max_jobs, 1.0 / max_jobs),
        affinity: 0.0,
    }
}

/// base^(now + more) − base^now, as base^now · (base^more − 1).
fn marginal(log2_base: f64, now: f64, more: f64) -> f64 {
    if more == 0.0 {
        return 0.0;
    }
    let cost = (now * log2_base).exp2() * ((more * log2_base).exp2() - 1.0);
    // Far beyond full it is infinite, and nothing is worse.
    if cost.is_nan() { f64::MAX } else { cost.min(f64::MAX) }
}

fn epvm_lieb(needs: &Requirements, offer: &WorkerSnapshot) -> Terms {
    let log2_lieb = LIEB.log2();
    let cost = |exponent: f64| (exponent * log2_lieb).exp2();
    let jobs = f64::from(offer.jobs());
    let jobs = cost((jobs + 1.0) / LIEB_MAX_JOBS) - cost(jobs / LIEB_MAX_JOBS);
    let (used, total) = match offer.fresh() {
        Some(measured) => (measured.memory_used.get(), measured.memory_total.get()),
        None => (0, offer.capacity.memory.get()),
    };
    let used = used.saturating_add(offer.reserved.memory.get());
    let with_job = used.saturating_add(needs.resources.memory.get());
    let memory = cost(share(with_job, total)) + jobs - cost(share(used, total));
    // As in the books: the load with the job equals the load without it.
    let load = cost(cpu_use(offer) / CPU_SCALE);
    let cpu = load + jobs - load;
    let finite = |cost: f64| if cost.is_finite() { cost } else { f64::MAX };
    Terms { cpu: finite(cpu), memory: finite(memory), ..Terms::default() }
}
