#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

mod help;
mod strategy;

use super::*;
use crate::JobId;
use crate::quantity::{Bytes, Cpu};
use crate::seeds;
use crate::spec::{DriverKind, JobSpec, Resources};
use crate::worker::WorkerState;

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

pub(crate) fn needs(resources: Resources) -> Needs {
    Needs::of_resources(DriverKind::Host, resources)
}

/// An idle worker with 4 processors, 8 GiB of memory and 100 GiB of disk.
pub(crate) fn offer(worker: i64) -> Offer {
    Offer {
        worker: WorkerId(worker),
        name: format!("w{worker}"),
        project: OURS,
        state: WorkerState::Online,
        datacenter: "lab".to_owned(),
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        version: "0.1.0".to_owned(),
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
fn request(needs: &Needs, tasks: usize) -> Request<'_> {
    let strategy = Strategy::Spread;
    Request { needs, project: OURS, tasks, mean_run: None, strategy, last: None, now: None }
}

fn place(
    needs: &Needs,
    project: ProjectId,
    tasks: usize,
    offers: &mut [Offer],
    mean_run: Option<Duration>,
) -> Vec<(WorkerId, Receipt)> {
    super::place(&Request { project, mean_run, ..request(needs, tasks) }, offers)
}

fn score(needs: &Needs, offer: &Offer) -> f64 {
    super::score(Strategy::Spread, needs, offer, &Fleet { machines: 1, max_jobs: 1 })
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
    worker.state = WorkerState::Cordoned;
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
            "is cordoned and takes nothing new",
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
        assert_eq!(serde_json::to_value(&resource).unwrap(), resource.as_str());
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
pub(crate) fn any_offers(rng: &mut StdRng) -> Vec<Offer> {
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
            labels: [("rack".to_owned(), rng.random_range(0..3).to_string())].into(),
            countables: [("gpu".to_owned(), rng.random_range(0..4))].into(),
            capacity,
            ..offer(worker)
        }
    };
    let mut offers: Vec<Offer> = (1..=rng.random_range(1..30)).map(|worker| any_offer(worker, rng)).collect();
    offers.shuffle(rng);
    offers
}

pub(crate) fn any_needs(rng: &mut StdRng) -> Needs {
    let wanted =
        resources(rng.random_range(0..=8) * 250, rng.random_range(0..=3), rng.random_range(0..=1) * 10);
    let datacenters = if rng.random_bool(0.3) { vec!["edge".to_owned()] } else { Vec::new() };
    let countables = rng.random_bool(0.2).then(|| ("gpu".to_owned(), rng.random_range(1..3)));
    let constraints = if rng.random_bool(0.2) { vec!["labels.rack in [0, 1]"] } else { Vec::new() };
    let port = HostPort { port: 80, protocol: crate::spec::PortProtocol::Tcp };
    Needs {
        datacenters,
        countables: countables.into_iter().collect(),
        constraints: constraints.into_iter().map(|text| text.parse().unwrap()).collect(),
        ports: if rng.random_bool(0.1) { vec![port] } else { Vec::new() },
        ..needs(wanted)
    }
}

pub(crate) fn fits(used: &Resources, capacity: &Resources) -> bool {
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
            expected.reserve(&needs, got);
            expected.waiting += got;
            assert_eq!(*offer, expected);
        }
    });
}

fn parts_of(strategy: Strategy, needs: &Needs, offer: &Offer) -> Vec<Part> {
    let terms = terms(strategy, needs, offer, &Fleet { machines: 1, max_jobs: 1 }).named();
    let some = terms.into_iter().filter(|(_, value)| *value != 0.0);
    some.map(|(name, value)| Part { name: name.to_owned(), value }).collect()
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
            let waits = |offer: &Offer| feasible(needs, OURS, offer, 0).is_err();
            let by_score = score(needs, a).partial_cmp(&score(needs, b)).unwrap();
            let by_score = waits(a).cmp(&waits(b)).then(by_score);
            by_score.then(a.waiting.cmp(&b.waiting)).then(a.worker.cmp(&b.worker))
        });
        let candidate = |offer: &&mut Offer| Candidate {
            worker: offer.worker,
            name: offer.name.clone(),
            score: score(needs, offer),
            parts: parts_of(Strategy::Spread, needs, offer),
            unmeasured: false,
            waits: feasible(needs, OURS, offer, 0).is_err(),
            siblings: 0,
        };
        let receipt = Receipt {
            strategy: "spread".to_owned(),
            at: None,
            workers,
            feasible: able.len() as u32,
            unmeasured: 0,
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
    huge.reserve(&needs(most), u32::MAX);
    assert_eq!(huge.reserved, most);
    assert!(score(&needs(most), &huge).is_finite());
    assert!(feasible(&one_cpu(), OURS, &huge, 0).is_err());
    assert_eq!(backlog_limit(&needs(most), &huge, Some(Duration::ZERO)), MAX_BACKLOG);
}

/// The needs of the only task of a job with these fields.
fn needs_of(job: serde_json::Value) -> Needs {
    let job = JobSpec::read(&job).unwrap();
    Needs::of(&job, &job.tasks[0], DefinitionRef { job: JobId(7), position: 0 })
}

#[test]
fn needs_that_say_nothing_new_are_stored_as_they_always_were() {
    let plain = needs_of(serde_json::json!({"command": ["true"], "datacenters": ["lab"]}));
    let stored = serde_json::json!({
        "driver": "host", "resources": {"cpu": 1, "memory": 0, "disk": 0}, "datacenters": ["lab"],
    });
    assert_eq!(serde_json::to_value(&plain).unwrap(), stored);
    assert_eq!(serde_json::from_value::<Needs>(stored).unwrap(), plain);
    let old = r#"{"strategy":"spread","workers":1,"feasible":1,"candidates":[{"worker":1,"name":"a","score":0.5}]}"#;
    let receipt: Receipt = serde_json::from_str(old).unwrap();
    assert_eq!((receipt.at, receipt.unmeasured, receipt.candidates[0].parts.len()), (None, 0, 0));
}

#[test]
fn needs_carry_all_that_job_and_task_say() {
    let needs = needs_of(serde_json::json!({
        "constraints": ["os == linux"], "concurrency": {"group": "g", "limit": 2}, "placement": "binpack",
        "affinities": [{"when": "labels.ssd", "weight": 10}],
        "tasks": [{
            "name": "a", "image": "busybox", "ports": ["8080:80", "0:81", "53:53/udp"], "distinct_workers": true,
            "constraints": ["arch == arm64"], "resources": {"gpu": 2, "fpga": 0}, "spread": "labels.rack",
        }],
    }));
    let stored = serde_json::to_value(&needs).unwrap();
    assert_eq!(
        stored,
        serde_json::json!({
            "driver": "docker", "resources": {"cpu": 1, "memory": 0, "disk": 0}, "datacenters": [],
            "countables": {"gpu": 2},
            "ports": [{"port": 53, "protocol": "udp"}, {"port": 8080, "protocol": "tcp"}],
            "constraints": ["arch == arm64", "os == linux"],
            "affinities": [{"when": "labels.ssd", "weight": 10}],
            "spread": "labels.rack", "distinct_workers": true, "definition": {"job": 7, "position": 0},
            "strategy": "binpack", "concurrency": {"group": "g", "limit": 2},
        })
    );
    assert_eq!(serde_json::from_value::<Needs>(stored).unwrap(), needs);
}

#[test]
fn constraints_countables_ports_and_distinct_workers_keep_a_worker_out_in_words() {
    let mut worker = offer(1);
    worker.labels.insert("gpu".to_owned(), "v100".to_owned());
    worker.countables.insert("gpu".to_owned(), 2);
    let constrained = Needs { constraints: vec!["labels.gpu == a100".parse().unwrap()], ..one_cpu() };
    let says = |needs: &Needs, worker: &Offer| feasible(needs, OURS, worker, 10).unwrap_err().to_string();
    assert_eq!(
        says(&constrained, &worker),
        "does not meet constraint `labels.gpu == a100`: labels.gpu is v100"
    );

    let gpus = |count| Needs { countables: [("gpu".to_owned(), count)].into(), ..one_cpu() };
    assert_eq!(says(&gpus(3), &worker), "has 2 gpu in all, 3 wanted");
    worker.take(&gpus(1));
    assert_eq!(says(&gpus(2), &worker), "has 1 gpu free, 2 wanted");
    assert_eq!(suitable(&gpus(2), OURS, &worker), Ok(()));
    let missing = Needs { countables: [("fpga".to_owned(), 1)].into(), ..one_cpu() };
    assert_eq!(says(&missing, &worker), "has 0 fpga in all, 1 wanted");

    let port = HostPort { port: 8080, protocol: crate::spec::PortProtocol::Tcp };
    let published = Needs { ports: vec![port], ..one_cpu() };
    worker.take(&published);
    assert_eq!(says(&published, &worker), "has another task on its port 8080/tcp");

    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let distinct = Needs { distinct_workers: true, definition, ..one_cpu() };
    worker.take(&distinct);
    assert_eq!(says(&distinct, &worker), "has a task of the same definition, which wants distinct workers");
    let of_another = Needs { definition: Some(DefinitionRef { job: JobId(2), position: 0 }), ..distinct };
    assert_eq!(feasible(&of_another, OURS, &worker, 10), Ok(()));
    for unfit in [
        Unfit::Port { port },
        Unfit::DistinctWorkers,
        Unfit::TooSmall {
            resource: Resource::Countable("gpu".into()),
            wanted: "1".into(),
            capacity: "0".into(),
        },
    ] {
        let json = serde_json::to_value(&unfit).unwrap();
        assert_eq!(serde_json::from_value::<Unfit>(json).unwrap(), unfit);
    }
}

#[test]
fn a_backlog_never_holds_what_cannot_be_shared() {
    let mut worker = offer(1);
    worker.countables.insert("gpu".to_owned(), 2);
    let quick = Some(Duration::from_millis(1));
    let gpu = Needs { countables: [("gpu".to_owned(), 1)].into(), ..needs(resources(0, 0, 0)) };
    assert_eq!(place(&gpu, OURS, 100, &mut [worker.clone()], quick).len(), 2);
    let port = HostPort { port: 80, protocol: crate::spec::PortProtocol::Udp };
    let published = Needs { ports: vec![port], ..needs(resources(0, 0, 0)) };
    assert_eq!(place(&published, OURS, 100, &mut [worker.clone(), offer(2)], quick).len(), 2);
    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let distinct = Needs { distinct_workers: true, definition, ..needs(resources(0, 0, 0)) };
    assert_eq!(chosen(&place(&distinct, OURS, 100, &mut [worker, offer(2)], quick)), [1, 2]);
}

#[test]
fn tasks_are_spread_evenly_over_the_values_of_a_fact_however_many_workers_have_each() {
    let in_rack = |worker, rack: Option<&str>| {
        let labels = rack.map(|rack| ("rack".to_owned(), rack.to_owned())).into_iter().collect();
        Offer { labels, ..offer(worker) }
    };
    let mut offers = [
        in_rack(1, Some("a")),
        in_rack(2, Some("a")),
        in_rack(3, Some("a")),
        in_rack(4, Some("b")),
        in_rack(5, None),
    ];
    let definition = Some(DefinitionRef { job: JobId(1), position: 0 });
    let spread = Needs { spread: Some("labels.rack".parse().unwrap()), definition, ..one_cpu() };
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

#[test]
fn needs_do_not_depend_on_the_order_in_which_datacenters_were_written() {
    let needs_in = |datacenters: &[&str]| {
        let value = serde_json::json!({"command": ["true"], "datacenters": datacenters});
        let job = JobSpec::read(&value).unwrap();
        Needs::of(&job, &job.tasks[0], DefinitionRef { job: JobId(1), position: 0 })
    };
    assert_eq!(needs_in(&["lab", "edge"]), needs_in(&["edge", "lab"]));
}
