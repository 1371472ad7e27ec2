#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::*;
use crate::seeds;

const OURS: ProjectId = ProjectId(1);
const THEIRS: ProjectId = ProjectId(2);
const GIB: u64 = 1 << 30;

fn resources(cpu_millis: u32, memory_gib: u64, disk_gib: u64) -> Resources {
    Resources {
        cpu: Cpu::from_millis(cpu_millis),
        memory: Bytes(memory_gib * GIB),
        disk: Bytes(disk_gib * GIB),
    }
}

fn needs(resources: Resources) -> Needs {
    Needs { driver: DriverKind::Host, resources, datacenters: Vec::new() }
}

/// An idle worker with 4 processors, 8 GiB of memory and 100 GiB of disk.
fn offer(worker: i64) -> Offer {
    Offer {
        worker: WorkerId(worker),
        name: format!("w{worker}"),
        project: OURS,
        state: WorkerState::Online,
        datacenter: "lab".to_owned(),
        drivers: vec![DriverKind::Host],
        broken_drivers: Vec::new(),
        capacity: resources(4_000, 8, 100),
        reserved: resources(0, 0, 0),
        waiting: 0,
        finished_lately: u32::MAX,
    }
}

fn one_cpu() -> Needs {
    needs(resources(1_000, 1, 0))
}

/// Who got the tasks, in order.
fn chosen(placed: &[(WorkerId, Receipt)]) -> Vec<i64> {
    placed.iter().map(|(worker, _)| worker.0).collect()
}

#[test]
fn a_worker_is_kept_out_by_the_first_need_that_it_does_not_meet() {
    let mut worker = Offer {
        project: THEIRS,
        state: WorkerState::Lost,
        drivers: vec![DriverKind::Docker],
        capacity: resources(500, 8, 100),
        reserved: resources(500, 8, 0),
        ..offer(1)
    };
    let needs = Needs { datacenters: vec!["edge".to_owned()], ..one_cpu() };
    let mut verdicts = Vec::new();
    let mut judge = |worker: &Offer| {
        let verdict = feasible(&needs, OURS, worker, 0);
        verdicts.push(verdict.err().map_or("takes it".to_owned(), |unfit| unfit.to_string()));
    };
    judge(&worker);
    worker.project = OURS;
    judge(&worker);
    worker.state = WorkerState::Offline;
    judge(&worker);
    worker.state = WorkerState::Draining;
    judge(&worker);
    worker.state = WorkerState::Online;
    judge(&worker);
    worker.drivers.push(DriverKind::Host);
    judge(&worker);
    worker.datacenter = "edge".to_owned();
    judge(&worker);
    worker.capacity.cpu = Cpu::from_millis(1_200);
    judge(&worker);
    worker.reserved.cpu = Cpu::from_millis(0);
    judge(&worker);
    worker.reserved.memory = Bytes(7 * GIB);
    judge(&worker);
    assert_eq!(
        verdicts,
        [
            "belongs to another project",
            "is lost",
            "is offline",
            "is draining and takes nothing new",
            "has no working host driver",
            "is in datacenter lab",
            "has 0.5 cpu in all, 1 wanted",
            "has 0.7 cpu free, 1 wanted",
            "has 0B memory free, 1GiB wanted",
            "takes it",
        ]
    );
}

#[test]
fn a_verdict_has_a_stable_code_and_the_same_words_as_everywhere() {
    let json = |unfit: Unfit| serde_json::to_value(unfit).unwrap();
    assert_eq!(
        json(Unfit::Away { state: WorkerState::Lost }),
        serde_json::json!({"code": "away", "state": "lost"})
    );
    let (wanted, capacity) = ("8GiB".to_owned(), "4GiB".to_owned());
    assert_eq!(
        json(Unfit::TooSmall { resource: Resource::Memory, wanted, capacity }),
        serde_json::json!({"code": "too_small", "resource": "memory", "wanted": "8GiB", "capacity": "4GiB"})
    );
    for resource in [Resource::Cpu, Resource::Memory, Resource::Disk] {
        assert_eq!(serde_json::to_value(resource).unwrap(), resource.as_str());
    }
}

#[test]
fn what_is_too_large_for_every_worker_is_said_to_be_and_not_placed() {
    let needs = needs(resources(0, 0, 200));
    let mut offers = [offer(1), offer(2)];
    for offer in &offers {
        assert!(matches!(
            suitable(&needs, OURS, offer),
            Err(Unfit::TooSmall { resource: Resource::Disk, .. })
        ));
    }
    assert_eq!(place(&needs, OURS, 5, &mut offers, Some(Duration::from_millis(1))), []);
}

#[test]
fn a_busy_worker_is_suitable_but_not_feasible() {
    let busy = Offer { reserved: resources(4_000, 0, 0), ..offer(1) };
    assert_eq!(suitable(&one_cpu(), OURS, &busy), Ok(()));
    assert!(matches!(feasible(&one_cpu(), OURS, &busy, 0), Err(Unfit::Busy { resource: Resource::Cpu, .. })));
}

#[test]
fn a_task_that_fills_what_is_left_to_the_last_byte_fits() {
    let almost_full = Offer { reserved: resources(3_000, 7, 100), ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &almost_full, 0), Ok(()));
    let all_of_it = needs(offer(1).capacity);
    assert_eq!(feasible(&all_of_it, OURS, &offer(1), 0), Ok(()));
}

#[test]
fn a_full_worker_takes_as_many_more_as_its_backlog_may_hold() {
    let full = |waiting| Offer { reserved: resources(4_000, 8, 0), waiting, ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &full(2), 3), Ok(()));
    assert!(feasible(&one_cpu(), OURS, &full(3), 3).is_err());
    // Room counts as well.
    let roomy = Offer { waiting: 3, ..offer(1) };
    assert_eq!(feasible(&one_cpu(), OURS, &roomy, 3), Ok(()));
}

#[test]
fn the_score_is_the_share_of_the_fullest_resource_with_the_task_on_it() {
    let score = |wanted, reserved| score(&needs(wanted), &Offer { reserved, ..offer(1) });
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
    let diskless = Offer { capacity: resources(4_000, 8, 0), ..offer(1) };
    assert_eq!(score(&one_cpu(), &diskless), 0.25);
}

#[test]
fn the_backlog_is_what_a_worker_gets_through_in_a_second() {
    let limit = |wanted, mean_millis| {
        let mean_run = Some(Duration::from_millis(mean_millis));
        backlog_limit(&needs(wanted), &offer(1), mean_run)
    };
    assert_eq!(limit(resources(1_000, 0, 0), 100), 40); // 4 side by side, 10 turns
    assert_eq!(limit(resources(500, 0, 0), 100), 80);
    assert_eq!(limit(resources(1_000, 4, 0), 100), 20); // memory for 2
    assert_eq!(limit(resources(1_000, 0, 100), 100), 10); // disk for 1
    assert_eq!(limit(resources(1_000, 0, 0), 2_000), 2); // half a turn
    assert_eq!(limit(resources(1_000, 0, 0), 5_000), 0);
    assert_eq!(limit(resources(1_000, 0, 0), 0), MAX_BACKLOG);
    assert_eq!(limit(resources(0, 0, 0), 1_000), MAX_BACKLOG); // as many side by side as one likes
    assert_eq!(limit(resources(0, 0, 0), 4_000), MAX_BACKLOG / 4);
}

#[test]
fn tasks_of_unknown_length_never_wait_on_a_worker() {
    assert_eq!(backlog_limit(&one_cpu(), &offer(1), None), 0);
}

#[test]
fn a_worker_that_is_held_up_gets_no_backlog_however_short_the_tasks_are() {
    let limit = |finished_lately| {
        let worker = Offer { finished_lately, ..offer(1) };
        backlog_limit(&one_cpu(), &worker, Some(Duration::from_millis(1)))
    };
    assert_eq!([limit(0), limit(3), limit(1_000_000)], [0, 3, MAX_BACKLOG]);
}

#[test]
fn nine_equal_tasks_on_three_equal_workers_go_three_to_each_in_turn() {
    let mut offers = [offer(1), offer(2), offer(3)];
    let placed = place(&one_cpu(), OURS, 9, &mut offers, None);
    assert_eq!(chosen(&placed), [1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn the_least_loaded_worker_goes_first_until_it_is_as_loaded_as_the_others() {
    let loaded = Offer { reserved: resources(2_000, 0, 0), ..offer(1) };
    let mut offers = [loaded, offer(2)];
    let placed = place(&one_cpu(), OURS, 6, &mut offers, None);
    assert_eq!(chosen(&placed), [2, 2, 1, 2, 1, 2]);
    assert!(offers.iter().all(|offer| offer.reserved.cpu == offer.capacity.cpu));
}

#[test]
fn a_large_worker_gets_its_share() {
    let large = Offer { capacity: resources(8_000, 80, 100), ..offer(2) };
    let mut offers = [offer(1), large];
    let placed = place(&needs(resources(1_000, 0, 0)), OURS, 12, &mut offers, None);
    let on_large = chosen(&placed).iter().filter(|worker| **worker == 2).count();
    assert_eq!((placed.len(), on_large), (12, 8));
}

#[test]
fn tasks_that_need_nothing_are_spread_and_bounded_all_the_same() {
    let nothing = needs(resources(0, 0, 0));
    let mut offers = [offer(1), Offer { waiting: 2, ..offer(2) }];
    assert_eq!(chosen(&place(&nothing, OURS, 5, &mut offers, None)), [1, 1, 1, 2, 1]);
    let placed = place(&nothing, OURS, 10_000, &mut offers, None);
    assert!(offers.iter().all(|offer| offer.waiting == MAX_BACKLOG), "{}", placed.len());
    let full = feasible(&nothing, OURS, &offers[0], MAX_BACKLOG).unwrap_err();
    assert_eq!(full.to_string(), "has 512 tasks that it has yet to start");
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
    let mut offers = [Offer { reserved: resources(4_000, 8, 0), ..offer(1) }];
    let placed = place(&one_cpu(), OURS, 100, &mut offers, Some(Duration::from_millis(400)));
    assert_eq!(placed.len(), 10); // 4 side by side, 2.5 turns
    assert_eq!(offers[0].waiting, 10);
}

#[test]
fn a_receipt_names_the_chosen_one_first_and_at_most_four_more() {
    let mut offers: Vec<Offer> = (1..=8).map(offer).collect();
    offers[2].reserved = resources(3_500, 0, 0);
    offers[5].state = WorkerState::Draining;
    offers[6].project = THEIRS;
    let placed = place(&one_cpu(), OURS, 1, &mut offers, None);
    let (worker, receipt) = &placed[0];
    let names: Vec<&str> = receipt.candidates.iter().map(|candidate| candidate.name.as_str()).collect();
    assert_eq!(*worker, WorkerId(1));
    assert_eq!(names, ["w1", "w2", "w4", "w5", "w8"]);
    assert_eq!(receipt.strategy, "spread");
    assert_eq!((receipt.workers, receipt.feasible), (7, 5), "another project's workers are not even counted");
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

/// Workers of all kinds, none over its capacity.
fn any_offers(rng: &mut StdRng) -> Vec<Offer> {
    let states = [WorkerState::Online, WorkerState::Draining, WorkerState::Offline, WorkerState::Lost];
    let any_offer = |worker, rng: &mut StdRng| {
        let capacity =
            resources(rng.random_range(1..=16) * 500, rng.random_range(1..=16), rng.random_range(0..=4) * 50);
        Offer {
            project: if rng.random_ratio(1, 5) { THEIRS } else { OURS },
            state: if rng.random_ratio(1, 3) { *states.choose(rng).unwrap() } else { WorkerState::Online },
            datacenter: (*["lab", "edge"].choose(rng).unwrap()).to_owned(),
            drivers: if rng.random_ratio(1, 5) { vec![DriverKind::Docker] } else { vec![DriverKind::Host] },
            broken_drivers: Vec::new(),
            reserved: Resources {
                cpu: Cpu::from_millis(rng.random_range(0..=capacity.cpu.millis())),
                memory: Bytes(rng.random_range(0..=capacity.memory.get())),
                disk: Bytes(rng.random_range(0..=capacity.disk.get())),
            },
            waiting: rng.random_range(0..4),
            capacity,
            ..offer(worker)
        }
    };
    let mut offers: Vec<Offer> = (1..=rng.random_range(1..30)).map(|worker| any_offer(worker, rng)).collect();
    offers.shuffle(rng);
    offers
}

fn any_needs(rng: &mut StdRng) -> Needs {
    let wanted =
        resources(rng.random_range(0..=8) * 250, rng.random_range(0..=3), rng.random_range(0..=1) * 10);
    let datacenters = if rng.random_bool(0.3) { vec!["edge".to_owned()] } else { Vec::new() };
    Needs { datacenters, ..needs(wanted) }
}

fn fits(used: &Resources, capacity: &Resources) -> bool {
    used.cpu <= capacity.cpu && used.memory <= capacity.memory && used.disk <= capacity.disk
}

#[test]
fn without_a_backlog_as_much_is_placed_as_fits_and_nothing_is_ever_overfull() {
    let mut placed_in_all = 0;
    seeds::each(0..300, |mut rng| {
        let (mut offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let tasks = rng.random_range(0..100);
        // How much fits does not depend on who gets it first.
        let room = |offer: &Offer| {
            let mut offer = offer.clone();
            (0..tasks)
                .take_while(|_| feasible(&needs, OURS, &offer, 0).map(|()| offer.take(&needs)).is_ok())
                .count()
        };
        let room: usize = offers.iter().map(room).sum();
        let placed = place(&needs, OURS, tasks, &mut offers, None);
        assert_eq!(placed.len(), room.min(tasks));
        assert!(offers.iter().all(|offer| fits(&offer.reserved, &offer.capacity)));
        placed_in_all += placed.len();
    });
    assert!(placed_in_all > 1_000, "only {placed_in_all}");
}

#[test]
fn room_is_what_would_be_placed_if_there_were_enough_tasks() {
    seeds::each(0..300, |mut rng| {
        let (mut offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let mean_run = rng.random_bool(0.5).then(|| Duration::from_millis(rng.random_range(1..3_000)));
        let room = room(&needs, OURS, &offers, mean_run);
        assert_eq!(place(&needs, OURS, usize::MAX, &mut offers, mean_run).len(), room);
    });
}

#[test]
fn with_a_backlog_a_worker_is_within_its_capacity_or_within_its_backlog() {
    seeds::each(0..300, |mut rng| {
        let (mut offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let before = offers.clone();
        let mean_run = Some(Duration::from_millis(rng.random_range(1..3_000)));
        place(&needs, OURS, 2_000, &mut offers, mean_run);
        for (offer, before) in offers.iter().zip(before) {
            let limit = backlog_limit(&needs, offer, mean_run);
            let is_untouched = offer.waiting == before.waiting;
            assert!(is_untouched || fits(&offer.reserved, &offer.capacity) || offer.waiting <= limit);
            assert!(limit <= MAX_BACKLOG && offer.waiting <= MAX_BACKLOG);
        }
    });
}

#[test]
fn only_suitable_workers_are_ever_chosen_and_the_count_is_kept_in_their_offers() {
    seeds::each(0..300, |mut rng| {
        let (mut offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let before: BTreeMap<WorkerId, Offer> =
            offers.iter().map(|offer| (offer.worker, offer.clone())).collect();
        let placed = place(&needs, OURS, 50, &mut offers, Some(Duration::from_millis(500)));
        for (worker, _) in &placed {
            let offer = &before[worker];
            assert_eq!(suitable(&needs, OURS, offer), Ok(()));
            assert_eq!((offer.state, offer.project), (WorkerState::Online, OURS));
        }
        for offer in &offers {
            let got = placed.iter().filter(|(worker, _)| *worker == offer.worker).count() as u32;
            let mut expected = before[&offer.worker].clone();
            expected.reserve(&needs.resources, got);
            expected.waiting += got;
            assert_eq!(*offer, expected);
        }
    });
}

/// The same decisions, each made from scratch over all workers.
fn place_simply(
    needs: &Needs,
    tasks: usize,
    offers: &mut [Offer],
    mean_run: Option<Duration>,
) -> Vec<(WorkerId, Receipt)> {
    let mut placed = Vec::new();
    for _ in 0..tasks {
        let takes_it =
            |offer: &&mut Offer| feasible(needs, OURS, offer, backlog_limit(needs, offer, mean_run)).is_ok();
        let workers = offers.iter().filter(|offer| offer.project == OURS).count() as u32;
        let mut able: Vec<&mut Offer> = offers.iter_mut().filter(takes_it).collect();
        able.sort_by(|a, b| {
            let by_score = score(needs, a).partial_cmp(&score(needs, b)).unwrap();
            by_score.then(a.waiting.cmp(&b.waiting)).then(a.worker.cmp(&b.worker))
        });
        let candidate = |offer: &&mut Offer| Candidate {
            worker: offer.worker,
            name: offer.name.clone(),
            score: score(needs, offer),
        };
        let receipt = Receipt {
            strategy: "spread".to_owned(),
            workers,
            feasible: able.len() as u32,
            candidates: able.iter().take(5).map(candidate).collect(),
        };
        let Some(best) = able.first_mut() else { break };
        best.take(needs);
        placed.push((best.worker, receipt));
    }
    placed
}

#[test]
fn decisions_and_receipts_are_those_of_looking_at_every_worker_each_time() {
    seeds::each(0..200, |mut rng| {
        let (mut offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let mean_run = rng.random_bool(0.5).then(|| Duration::from_millis(rng.random_range(1..2_000)));
        let mut shuffled = offers.clone();
        shuffled.shuffle(&mut rng);
        let simply = place_simply(&needs, 60, &mut shuffled, mean_run);
        assert_eq!(place(&needs, OURS, 60, &mut offers, mean_run), simply);
    });
}

#[test]
fn amounts_that_no_machine_has_do_not_overflow() {
    let most = Resources { cpu: Cpu::from_millis(u32::MAX), memory: Bytes(u64::MAX), disk: Bytes(u64::MAX) };
    let mut huge = Offer { capacity: most, ..offer(1) };
    huge.reserve(&most, u32::MAX);
    assert_eq!(huge.reserved, most);
    assert!(score(&needs(most), &huge).is_finite());
    assert!(feasible(&one_cpu(), OURS, &huge, 0).is_err());
    assert_eq!(backlog_limit(&needs(most), &huge, Some(Duration::ZERO)), MAX_BACKLOG);
}

#[test]
fn needs_do_not_depend_on_the_order_in_which_datacenters_were_written() {
    let needs_in = |datacenters: &[&str]| {
        let value = serde_json::json!({"command": ["true"], "datacenters": datacenters});
        let job = JobSpec::read(&value).unwrap();
        Needs::of(&job, &job.tasks[0])
    };
    assert_eq!(needs_in(&["lab", "edge"]), needs_in(&["edge", "lab"]));
}
