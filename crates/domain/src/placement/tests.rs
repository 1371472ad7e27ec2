#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

mod feasible;
mod help;
mod random;
mod requirements;
mod strategy;

pub(crate) use random::{any_needs, any_offers, fits};

use super::*;
use crate::JobId;
use crate::quantity::{Bytes, Cpu};
use crate::seeds;
use crate::spec::{DriverKind, JobSpec, Resources};
use crate::worker::{Sharing, WorkerState};

pub(crate) const OURS: ProjectId = ProjectId(1);
pub(crate) const THEIRS: ProjectId = ProjectId(2);
const GIB: u64 = 1 << 30;

pub(crate) fn resources(cpu_millis: u32, memory_gib: u64, disk_gib: u64) -> Resources {
    Resources {
        cpu: Cpu::from_millis(cpu_millis),
        memory: Bytes(memory_gib * GIB),
        disk: Bytes(disk_gib * GIB),
    }
}

pub(crate) fn needs(resources: Resources) -> Requirements {
    Requirements::of_resources(DriverKind::Host, resources)
}

/// An idle worker with 4 processors, 8 GiB of memory and 100 GiB of disk.
pub(crate) fn offer(worker: i64) -> WorkerSnapshot {
    WorkerSnapshot {
        paused: Default::default(),
        unhealthy: Default::default(),
        worker: WorkerId(worker),
        name: format!("w{worker}"),
        project: OURS,
        sharing: Sharing::Own,
        state: WorkerState::Online,
        datacenter: "lab".to_owned(),
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        version: "0.1.0".to_owned(),
        features: Feature::ALL.into(),
        labels: BTreeMap::new(),
        drivers: vec![DriverKind::Host],
        broken_drivers: Vec::new(),
        capacity: resources(4_000, 8, 100),
        countables: BTreeMap::new(),
        reserved: resources(0, 0, 0),
        taken: Taken::default(),
        lasting: Lasting::default(),
        kept: false,
        running: 0,
        waiting: 0,
        finished_lately: u32::MAX,
        measured: None,
    }
}

/// A request for tasks of our project, by the strategy *spread*.
fn request(needs: &Requirements, tasks: usize) -> Request<'_> {
    let strategy = Strategy::Spread;
    Request { needs, project: OURS, tasks, mean_run: None, strategy, last: None, now: None }
}

fn place(
    needs: &Requirements,
    project: ProjectId,
    tasks: usize,
    offers: &mut [WorkerSnapshot],
    mean_run: Option<Duration>,
) -> Vec<(WorkerId, Receipt)> {
    super::place(&Request { project, mean_run, ..request(needs, tasks) }, offers)
}

fn score(needs: &Requirements, offer: &WorkerSnapshot) -> f64 {
    super::score(Strategy::Spread, needs, offer, &Fleet { machines: 1, max_jobs: 1 })
}

fn one_cpu() -> Requirements {
    needs(resources(1_000, 1, 0))
}

/// Who got the tasks, in order.
fn chosen(placed: &[(WorkerId, Receipt)]) -> Vec<i64> {
    placed.iter().map(|(worker, _)| worker.0).collect()
}

#[test]
fn the_score_is_the_share_of_the_fullest_resource_with_the_task_on_it() {
    let score = |wanted, reserved| score(&needs(wanted), &WorkerSnapshot { reserved, ..offer(1) });
    let nothing = resources(0, 0, 0);
    for (wanted, reserved, expected) in [
        (nothing, nothing, 0.0),
        (resources(1_000, 1, 0), nothing, 0.25), // 1/4, 1/8, 0
        (resources(1_000, 1, 0), resources(1_000, 6, 0), 0.875), // 2/4, 7/8, 0
        (resources(1_000, 1, 5), resources(0, 0, 45), 0.5), // 1/4, 1/8, 50/100
        (nothing, resources(0, 0, 100), 1.0),    // full of what the task does not want
        (resources(1_000, 0, 0), resources(4_500, 0, 0), 1.375), // 5.5/4: in the backlog
    ] {
        assert_eq!(score(wanted, reserved), expected, "{wanted:?} on {reserved:?}");
    }
}

#[test]
fn a_resource_that_a_worker_has_none_of_does_not_count() {
    let diskless = WorkerSnapshot { capacity: resources(4_000, 8, 0), ..offer(1) };
    assert_eq!(score(&one_cpu(), &diskless), 0.25);
}

#[test]
fn nine_equal_tasks_on_three_equal_workers_go_three_to_each_in_turn() {
    let mut offers = [offer(1), offer(2), offer(3)];
    let placed = place(&one_cpu(), OURS, 9, &mut offers, None);
    assert_eq!(chosen(&placed), [1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn the_least_loaded_worker_goes_first_until_it_is_as_loaded_as_the_others() {
    let loaded = WorkerSnapshot { reserved: resources(2_000, 0, 0), ..offer(1) };
    let mut offers = [loaded, offer(2)];
    let placed = place(&one_cpu(), OURS, 6, &mut offers, None);
    assert_eq!(chosen(&placed), [2, 2, 1, 2, 1, 2]);
    assert!(offers.iter().all(|offer| offer.reserved.cpu == offer.capacity.cpu));
}

#[test]
fn a_large_worker_gets_its_share() {
    let large = WorkerSnapshot { capacity: resources(8_000, 80, 100), ..offer(2) };
    let mut offers = [offer(1), large];
    let placed = place(&needs(resources(1_000, 0, 0)), OURS, 12, &mut offers, None);
    let on_large = chosen(&placed).iter().filter(|worker| **worker == 2).count();
    assert_eq!((placed.len(), on_large), (12, 8));
}

#[test]
fn tasks_that_need_nothing_are_spread_and_bounded_all_the_same() {
    let nothing = needs(resources(0, 0, 0));
    let mut offers = [offer(1), WorkerSnapshot { waiting: 2, ..offer(2) }];
    assert_eq!(chosen(&place(&nothing, OURS, 5, &mut offers, None)), [1, 1, 1, 2, 1]);
    let placed = place(&nothing, OURS, 10_000, &mut offers, None);
    assert!(offers.iter().all(|offer| offer.waiting == MAX_BACKLOG), "{}", placed.len());
    let full = feasible(&nothing, OURS, &offers[0], MAX_BACKLOG).unwrap_err();
    assert_eq!(full.to_string(), "has 512 queued tasks that have not started");
}

#[test]
fn equal_scores_go_to_the_lowest_id_in_whatever_order_the_offers_stand() {
    let mut offers = [offer(30), offer(4), offer(5)];
    assert_eq!(chosen(&place(&one_cpu(), OURS, 3, &mut offers, None)), [4, 5, 30]);
}

#[test]
fn placing_stops_where_nothing_fits_any_more() {
    let mut offers = [offer(1), offer(2)];
    assert_eq!(place(&one_cpu(), OURS, 100, &mut offers, None).len(), 8);
    assert_eq!(place(&one_cpu(), OURS, 100, &mut offers, None), []);
    assert_eq!(place(&one_cpu(), OURS, 100, &mut [], None), []);
}

#[test]
fn short_tasks_go_to_a_full_worker_up_to_its_backlog() {
    let mut offers = [WorkerSnapshot { reserved: resources(4_000, 8, 0), ..offer(1) }];
    let placed = place(&one_cpu(), OURS, 100, &mut offers, Some(Duration::from_millis(400)));
    assert_eq!(placed.len(), 10); // 4 side by side, 2.5 turns
    assert_eq!(offers[0].waiting, 10);
}

#[test]
fn a_receipt_names_the_chosen_one_and_the_next_best_and_counts_the_others() {
    let mut offers: Vec<WorkerSnapshot> = (1..=8).map(offer).collect();
    offers[2].reserved = resources(3_500, 0, 0);
    offers[5].state = WorkerState::Draining;
    offers[6].project = THEIRS;
    let placed = place(&one_cpu(), OURS, 1, &mut offers, None);
    let (worker, receipt) = &placed[0];
    let names: Vec<&str> = receipt.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
    assert_eq!(*worker, WorkerId(1));
    assert_eq!(names, ["w1", "w2"]);
    assert_eq!(receipt.strategy, "spread");
    assert_eq!(
        (receipt.workers, receipt.suitable, receipt.feasible),
        (7, Some(6), 5),
        "another project's workers are not even counted"
    );
}

#[test]
fn a_receipt_has_the_scores_of_its_own_decision() {
    let mut offers = [offer(1), offer(2)];
    let placed = place(&one_cpu(), OURS, 2, &mut offers, None);
    let scores = |at: usize| -> Vec<(i64, f64)> {
        let candidates = &placed[at].1.candidates;
        candidates.iter().map(|candidate| (candidate.worker.0, candidate.score)).collect()
    };
    assert_eq!(scores(0), [(1, 0.25), (2, 0.25)]);
    assert_eq!(scores(1), [(2, 0.25), (1, 0.5)]);
}

#[test]
fn tasks_are_spread_evenly_over_the_values_of_a_fact_however_many_workers_have_each() {
    let in_rack = |worker, rack: Option<&str>| {
        let labels = rack.map(|rack| ("rack".to_owned(), rack.to_owned())).into_iter().collect();
        WorkerSnapshot { labels, ..offer(worker) }
    };
    let mut offers = [
        in_rack(1, Some("a")),
        in_rack(2, Some("a")),
        in_rack(3, Some("a")),
        in_rack(4, Some("b")),
        in_rack(5, None),
    ];
    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let spread = Requirements { spread: Some("labels.rack".parse().unwrap()), definition, ..one_cpu() };
    offers[0].take(&spread);
    let placed = place(&spread, OURS, 8, &mut offers, None);
    let mut by_rack = BTreeMap::new();
    for worker in chosen(&placed) {
        *by_rack
            .entry(match worker {
                4 => "b",
                5 => "none",
                _ => "a",
            })
            .or_insert(0) += 1;
    }
    assert_eq!(by_rack, [("a", 2), ("b", 3), ("none", 3)].into());
    assert_eq!(placed[0].1.candidates[0].siblings, 0);
    // When some are full, the others go on.
    assert_eq!(place(&spread, OURS, 100, &mut offers, None).len(), 20 - 9);
}
