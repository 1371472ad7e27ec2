//! Random fleets and needs: what holds of every decision.

use super::*;

/// Workers of all kinds, none over its capacity.
pub(crate) fn any_offers(rng: &mut StdRng) -> Vec<WorkerSnapshot> {
    let states = [WorkerState::Online, WorkerState::Draining, WorkerState::Offline, WorkerState::Lost];
    let any_offer = |worker, rng: &mut StdRng| {
        let capacity =
            resources(rng.random_range(1..=16) * 500, rng.random_range(1..=16), rng.random_range(0..=4) * 50);
        WorkerSnapshot {
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
    let mut offers: Vec<WorkerSnapshot> =
        (1..=rng.random_range(1..30)).map(|worker| any_offer(worker, rng)).collect();
    offers.shuffle(rng);
    offers
}

pub(crate) fn any_needs(rng: &mut StdRng) -> Requirements {
    let wanted =
        resources(rng.random_range(0..=8) * 250, rng.random_range(0..=3), rng.random_range(0..=1) * 10);
    let datacenters = if rng.random_bool(0.3) { vec!["edge".to_owned()] } else { Vec::new() };
    let countables = rng.random_bool(0.2).then(|| ("gpu".to_owned(), rng.random_range(1..3)));
    let constraints = if rng.random_bool(0.2) { vec!["labels.rack in [0, 1]"] } else { Vec::new() };
    let port = HostPort { port: 80, protocol: crate::spec::PortProtocol::Tcp };
    Requirements {
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
        let room = |offer: &WorkerSnapshot| {
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
        let before: BTreeMap<WorkerId, WorkerSnapshot> =
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

fn parts_of(strategy: Strategy, needs: &Requirements, offer: &WorkerSnapshot) -> Vec<Part> {
    let terms = terms(strategy, needs, offer, &Fleet { machines: 1, max_jobs: 1 }).named();
    let some = terms.into_iter().filter(|(_, value)| *value != 0.0);
    some.map(|(name, value)| Part { name: name.to_owned(), value }).collect()
}

/// The same decisions, each made from scratch over all workers.
fn place_simply(
    needs: &Requirements,
    tasks: usize,
    offers: &mut [WorkerSnapshot],
    mean_run: Option<Duration>,
) -> Vec<(WorkerId, Receipt)> {
    let mut placed = Vec::new();
    for _ in 0..tasks {
        let takes_it = |offer: &&mut WorkerSnapshot| {
            feasible(needs, OURS, offer, backlog_limit(needs, offer, mean_run)).is_ok()
        };
        let workers = offers.iter().filter(|offer| offer.project == OURS).count() as u32;
        let suitable = suitable_at(needs, OURS, offers).len() as u32;
        let mut able: Vec<&mut WorkerSnapshot> = offers.iter_mut().filter(takes_it).collect();
        able.sort_by(|a, b| {
            let waits = |offer: &WorkerSnapshot| feasible(needs, OURS, offer, 0).is_err();
            let by_score = score(needs, a).partial_cmp(&score(needs, b)).unwrap();
            let by_score = waits(a).cmp(&waits(b)).then(by_score);
            by_score.then(a.waiting.cmp(&b.waiting)).then(a.worker.cmp(&b.worker))
        });
        let candidate = |offer: &&mut WorkerSnapshot| Candidate {
            worker: offer.worker,
            name: offer.name.clone(),
            score: score(needs, offer),
            parts: parts_of(Strategy::Spread, needs, offer),
            unmeasured: false,
            waits: feasible(needs, OURS, offer, 0).is_err(),
            siblings: 0,
            unhealthy: 0,
        };
        let receipt = Receipt {
            strategy: "spread".to_owned(),
            at: None,
            workers,
            suitable: Some(suitable),
            feasible: able.len() as u32,
            unmeasured: 0,
            candidates: able.iter().take(Receipt::MAX_CANDIDATES).map(candidate).collect(),
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
    let mut huge = WorkerSnapshot { capacity: most, ..offer(1) };
    huge.reserve(&needs(most), u32::MAX);
    assert_eq!(huge.reserved, most);
    assert!(score(&needs(most), &huge).is_finite());
    assert!(feasible(&one_cpu(), OURS, &huge, 0).is_err());
    assert_eq!(backlog_limit(&needs(most), &huge, Some(Duration::ZERO)), MAX_BACKLOG);
}
