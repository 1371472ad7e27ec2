//! How much processor time a scheduling decision takes: 1,000 classes, 1,000 workers, and a million waiting tasks beside a thousand.
//!
//! `cargo bench -p gaffer-domain --bench placement`

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use gaffer_domain::constraint::Constraint;
use gaffer_domain::placement::{Feature, Lasting, Measured, Requirements, Strategy, Taken, WorkerSnapshot};
use gaffer_domain::quantity::{Bytes, Cpu, Span};
use gaffer_domain::queue::{Class, InUse, PassOptions, Turns, decide};
use gaffer_domain::spec::{Affinity, DriverKind, Resources};
use gaffer_domain::worker::{Sharing, WorkerState};
use gaffer_domain::{ProjectId, Time, WorkerId};

const WORKERS: i64 = 1_000;
const CLASSES: i64 = 1_000;
const OWNERS: i64 = 50;
/// What the master places in one pass.
const MOST: usize = 512;
const ROUNDS: usize = 50;
const GIB: u64 = 1 << 30;
const PROJECT: ProjectId = ProjectId(1);

fn main() {
    println!(
        "{CLASSES} classes x {WORKERS} workers, {OWNERS} owners, up to {MOST} placements; median of {ROUNDS}"
    );
    println!(
        "{:<12} {:>12} {:>12} {:>7} {:>12} {:>15}",
        "strategy", "1 k waiting", "1 M waiting", "ratio", "fleet full", "1,000 projects"
    );
    let idle = offers(0);
    let full = offers(100);
    // Each class is of another project, and all use the same workers.
    let shared: Vec<WorkerSnapshot> =
        idle.iter().map(|offer| WorkerSnapshot { sharing: Sharing::All, ..offer.clone() }).collect();
    for strategy in Strategy::ALL {
        let thousand = fastest(strategy, 1, &idle, MOST, 1);
        let million = fastest(strategy, 1_000, &idle, MOST, 1);
        // Every class looks at every worker and finds no room.
        let nothing = fastest(strategy, 1_000, &full, 0, 1);
        let projects = fastest(strategy, 1_000, &shared, MOST, CLASSES);
        let ratio = million.as_secs_f64() / thousand.as_secs_f64();
        println!(
            "{:<12} {:>9.2} ms {:>9.2} ms {ratio:>7.2} {:>9.2} ms {:>12.2} ms",
            strategy.as_str(),
            millis(thousand),
            millis(million),
            millis(nothing),
            millis(projects)
        );
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// How long this thread was on a processor so far: unlike the time of day, it does not count what others do meanwhile.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// The processor time of a decision about classes of `pending` tasks each, of which `expected` are placed. The fastest round is
/// the one that others on the machine have disturbed least.
fn fastest(
    strategy: Strategy,
    pending: usize,
    offers: &[WorkerSnapshot],
    expected: usize,
    projects: i64,
) -> Duration {
    let needs: Vec<Requirements> = (0..CLASSES).map(needs).collect();
    let owners: Vec<String> = (0..OWNERS).map(|owner| format!("user {owner}")).collect();
    let classes: Vec<Class<'_>> = (0..CLASSES)
        .map(|id| Class {
            id,
            project: ProjectId(1 + id % projects),
            owner: &owners[(id % OWNERS) as usize],
            priority: 50 + (id % 3) as i16,
            needs: &needs[id as usize],
            pending,
            since: Time::UNIX_EPOCH,
            mean_run: None,
        })
        .collect();
    let how = PassOptions { most: MOST, strategy, now: None };
    let times = (0..ROUNDS).map(|_| {
        let mut offers = offers.to_vec();
        let (mut in_use, mut turns) = (InUse::default(), Turns::default());
        let start = processor_time();
        let decision = decide(&classes, &mut in_use, &mut offers, &mut turns, &how);
        let took = processor_time().saturating_sub(start);
        assert_eq!(decision.placed.len(), expected);
        took
    });
    times.min().unwrap_or_default()
}

/// Requirements of many sizes; a third has constraints, some of them its own, and a tenth has wishes.
fn needs(id: i64) -> Requirements {
    let resources = Resources {
        cpu: Cpu::from_millis(250 + 250 * (id % 8) as u32),
        memory: Bytes(GIB / 4 * (1 + id as u64 % 5)),
        disk: Bytes(GIB * (id as u64 % 3)),
    };
    let constraint = |text: String| text.parse::<Constraint>().unwrap();
    let constraints = match id % 6 {
        0 => vec![constraint(format!("memory >= 8GiB and labels.rack != r{}", id % 40))],
        1 => vec![constraint("arch == amd64 and not labels.spot".to_owned())],
        _ => Vec::new(),
    };
    let affinities = match id % 10 {
        0 => vec![Affinity { when: constraint(format!("labels.rack == r{}", id % 40)), weight: 50 }],
        _ => Vec::new(),
    };
    Requirements { constraints, affinities, ..Requirements::of_resources(DriverKind::Host, resources) }
}

/// Workers of four sizes in forty racks, so many hundredths of them reserved.
fn offers(reserved_percent: u64) -> Vec<WorkerSnapshot> {
    (1..=WORKERS)
        .map(|id| {
            let size = 1 << (id % 4);
            let capacity = Resources {
                cpu: Cpu::from_millis(4_000 * size as u32),
                memory: Bytes(16 * GIB * size),
                disk: Bytes(100 * GIB),
            };
            let part = |bytes: Bytes| Bytes(bytes.get() / 100 * reserved_percent);
            let reserved = Resources {
                cpu: Cpu::from_millis(capacity.cpu.millis() / 100 * reserved_percent as u32),
                memory: part(capacity.memory),
                disk: part(capacity.disk),
            };
            let label = |key: &str, value: String| (key.to_owned(), value);
            WorkerSnapshot {
                worker: WorkerId(id),
                name: format!("worker-{id}"),
                project: PROJECT,
                sharing: Sharing::Own,
                state: WorkerState::Online,
                datacenter: "lab".to_owned(),
                arch: "x86_64".to_owned(),
                os: "linux".to_owned(),
                version: "0.1.0".to_owned(),
                features: Feature::ALL.into(),
                labels: [label("rack", format!("r{}", id % 40)), label("disk", "ssd".to_owned())].into(),
                drivers: vec![DriverKind::Host, DriverKind::Docker],
                broken_drivers: Vec::new(),
                capacity,
                countables: [("gpu".to_owned(), (id % 3) as u32)].into(),
                reserved,
                taken: Taken::default(),
                lasting: Lasting::default(),
                kept: false,
                paused: Default::default(),
                unhealthy: Default::default(),
                running: (reserved_percent / 10) as u32,
                waiting: 0,
                finished_lately: 0,
                measured: Some(Measured {
                    cpu: (id % 100) as f64 / 200.0,
                    memory_used: Bytes(GIB),
                    memory_total: capacity.memory,
                    age: Span::from_secs(1),
                    since: Resources { cpu: Cpu::from_millis(0), memory: Bytes(0), disk: Bytes(0) },
                }),
            }
        })
        .collect()
}
