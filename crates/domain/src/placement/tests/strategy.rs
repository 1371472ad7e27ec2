//! The strategies, against figures worked out by hand.

use super::*;

/// A reading that was made just now.
fn reading(cpu: f64, memory_used_gib: u64) -> Option<Measured> {
    Some(Measured {
        cpu,
        memory_used: Bytes(memory_used_gib * GIB),
        memory_total: Bytes(8 * GIB),
        age: Span::from_secs(1),
        since: resources(0, 0, 0),
    })
}

/// An idle worker that says so.
fn idle(worker: i64) -> WorkerSnapshot {
    WorkerSnapshot { measured: reading(0.0, 0), ..offer(worker) }
}

fn by(
    strategy: Strategy,
    needs: &Requirements,
    tasks: usize,
    offers: &mut [WorkerSnapshot],
) -> Vec<(WorkerId, Receipt)> {
    super::super::place(&Request { strategy, ..request(needs, tasks) }, offers)
}

fn assert_near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn each_strategy_has_the_same_word_everywhere() {
    for strategy in Strategy::ALL {
        assert_eq!(serde_json::to_value(strategy).unwrap(), strategy.as_str());
    }
}

#[test]
fn nine_equal_tasks_on_three_workers_give_three_to_each_in_turns() {
    for strategy in [Strategy::RoundRobin, Strategy::Spread, Strategy::Epvm, Strategy::Greedy] {
        let mut offers = [idle(1), idle(2), idle(3)];
        let placed = by(strategy, &one_cpu(), 9, &mut offers);
        assert_eq!(chosen(&placed), [1, 2, 3, 1, 2, 3, 1, 2, 3], "{}", strategy.as_str());
    }
}

#[test]
fn round_robin_goes_on_after_the_last_one_chosen_and_passes_over_who_cannot() {
    let mut offers = [offer(1), offer(2), offer(3), offer(4)];
    offers[2].state = WorkerState::Offline;
    let after = |last, offers: &mut [WorkerSnapshot]| {
        let strategy = Strategy::RoundRobin;
        let last = Some(WorkerId(last));
        chosen(&super::super::place(&Request { strategy, last, ..request(&one_cpu(), 5) }, offers))
    };
    assert_eq!(after(2, &mut offers.clone()), [4, 1, 2, 4, 1]);
    // The last one may be gone.
    assert_eq!(after(3, &mut offers.clone()), [4, 1, 2, 4, 1]);
    assert_eq!(after(99, &mut offers.clone()), [1, 2, 4, 1, 2]);
    offers[0].reserved = offers[0].capacity;
    assert_eq!(after(4, &mut offers), [2, 4, 2, 4, 2]);
}

#[test]
fn round_robin_takes_turns_among_the_most_wished_for() {
    let mut offers = [offer(1), offer(2), offer(3)];
    for offer in &mut offers[1..] {
        offer.labels.insert("ssd".to_owned(), String::new());
    }
    let affinity = crate::spec::Affinity { when: "labels.ssd".parse().unwrap(), weight: 1 };
    let needs = Requirements { affinities: vec![affinity], ..one_cpu() };
    let placed = by(Strategy::RoundRobin, &needs, 10, &mut offers);
    assert_eq!(chosen(&placed), [2, 3, 2, 3, 2, 3, 2, 3, 1, 1]);
    let best = &placed[0].1.candidates[0];
    let parts: Vec<(&str, f64)> = best.parts.iter().map(|part| (part.name.as_str(), part.value)).collect();
    assert_eq!((best.score, parts), (1.0, vec![("turn", 1.0), ("affinity", -0.01)]));
}

#[test]
fn binpack_adds_up_powers_of_ten_of_what_stays_free() {
    // 1 of 4 processors, 1 of 8 GiB, nothing of 100 GiB:
    // (10^0.75 − 1 + 10^0.875 − 1 + 10^1 − 1) / 9 / 3
    let expected = (4.623_413_251_903_491 + 6.498_942_093_324_558 + 9.0) / 27.0;
    let fleet = Fleet { machines: 3, max_jobs: 1 };
    let score = |worker: &WorkerSnapshot| super::super::score(Strategy::Binpack, &one_cpu(), worker, &fleet);
    assert_near(score(&offer(1)), expected);
    // What fills it costs nothing, and an idle worker that would stay idle costs 1.
    let full = needs(offer(1).capacity);
    assert_near(super::super::score(Strategy::Binpack, &full, &offer(1), &fleet), 0.0);
    assert_near(super::super::score(Strategy::Binpack, &needs(resources(0, 0, 0)), &offer(1), &fleet), 1.0);
    // A resource of which there is none does not count.
    let diskless = WorkerSnapshot { capacity: resources(4_000, 8, 0), ..offer(1) };
    assert_near(score(&diskless), (4.623_413_251_903_491 + 6.498_942_093_324_558) / 18.0);
}

#[test]
fn binpack_fills_one_worker_before_it_begins_the_next_and_lets_none_wait_before_all_are_full() {
    let mut offers = [offer(1), offer(2)];
    offers[1].reserved = resources(1_000, 0, 0);
    let quick = Some(Duration::from_millis(100));
    let needs = one_cpu();
    let request = Request { strategy: Strategy::Binpack, mean_run: quick, ..request(&needs, 8) };
    let placed = super::super::place(&request, &mut offers);
    assert_eq!(chosen(&placed)[..7], [2, 2, 2, 1, 1, 1, 1]);
    assert!(placed[7].1.candidates[0].waits);
}

#[test]
fn greedy_takes_the_least_busy_processors() {
    let busy = |worker, cpu| WorkerSnapshot { measured: reading(cpu, 0), ..offer(worker) };
    let fleet = Fleet { machines: 3, max_jobs: 1 };
    let score = |worker: &WorkerSnapshot| super::super::score(Strategy::Greedy, &one_cpu(), worker, &fleet);
    assert_near(score(&busy(1, 1.0)), 0.574_349_177_498_517_5); // 2^-0.8
    assert_near(score(&busy(1, 0.5)), 0.287_174_588_749_258_7);
    let mut offers = [busy(1, 0.5), busy(2, 0.2), busy(3, 0.9)];
    // What was placed since the reading counts a quarter of a worker each.
    assert_eq!(chosen(&by(Strategy::Greedy, &one_cpu(), 4, &mut offers)), [2, 2, 1, 2]);
}

#[test]
fn epvm_is_the_marginal_cost_summed_over_all_resources() {
    // n = 4; 2 of 4 processors measured busy, 2 of 8 GiB and 25 of 100 GiB reserved, one job of two at most.
    let worker = WorkerSnapshot {
        reserved: resources(1_000, 2, 25),
        measured: reading(0.5, 1),
        running: 1,
        ..offer(1)
    };
    let wanted = needs(resources(2_000, 2, 25));
    let fleet = Fleet { machines: 4, max_jobs: 2 };
    let parts = terms(Strategy::Epvm, &wanted, &worker, &fleet);
    assert_near(parts.cpu, 4.0 - 2.0); // 4^1 − 4^0.5: measured is more than reserved
    assert_near(parts.memory, 2.0 - 2_f64.sqrt()); // 4^0.5 − 4^0.25: reserved is more than measured
    assert_near(parts.disk, 2.0 - 2_f64.sqrt());
    assert_near(parts.jobs, 4.0 - 2.0); // 4^(2/2) − 4^(1/2)
    let score = super::super::score(Strategy::Epvm, &wanted, &worker, &fleet);
    assert_near(score, 8.0 - 2.0 * 2_f64.sqrt());
}

#[test]
fn epvm_counts_what_was_placed_since_the_reading_on_top_of_it() {
    let mut worker = WorkerSnapshot { measured: reading(0.5, 0), ..offer(1) };
    worker.take(&needs(resources(1_000, 0, 0)));
    let fleet = Fleet { machines: 16, max_jobs: 1 };
    let parts = terms(Strategy::Epvm, &needs(resources(1_000, 0, 0)), &worker, &fleet);
    assert_near(parts.cpu, 16.0 - 8.0); // 16^1 − 16^0.75
}

#[test]
fn a_worker_whose_processors_are_busy_scores_worse_with_epvm() {
    let busy = WorkerSnapshot { measured: reading(0.9, 0), ..offer(1) };
    let mut offers = [busy, idle(2)];
    let placed = by(Strategy::Epvm, &one_cpu(), 1, &mut offers);
    assert_eq!(chosen(&placed), [2]);
    let scores: Vec<f64> = placed[0].1.candidates.iter().map(|candidate| candidate.score).collect();
    assert!(scores[0] < scores[1], "{scores:?}");
    let parts: Vec<&str> = placed[0].1.candidates[1].parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(parts, ["cpu", "memory", "jobs"]);
    // The books' version does not see it: its processor terms cancel out.
    let fleet = Fleet { machines: 2, max_jobs: 1 };
    let lieb = |cpu| {
        let worker = WorkerSnapshot { measured: reading(cpu, 0), ..offer(1) };
        super::super::score(Strategy::EpvmLieb, &one_cpu(), &worker, &fleet)
    };
    assert_near(lieb(0.0), lieb(0.9));
}

#[test]
fn who_was_not_measured_or_is_away_is_never_chosen_while_somebody_else_can_take_the_task() {
    for strategy in [Strategy::Greedy, Strategy::Epvm, Strategy::EpvmLieb] {
        let never = offer(1);
        let mut long_ago = idle(2);
        long_ago.measured.as_mut().unwrap().age = Span::from_secs(60);
        let away = WorkerSnapshot { state: WorkerState::Offline, ..idle(3) };
        let busy = WorkerSnapshot { measured: reading(1.0, 7), ..offer(4) };
        let mut offers = [never, long_ago, away, busy];
        let placed = by(strategy, &one_cpu(), 4, &mut offers);
        assert_eq!(chosen(&placed), [4, 4, 4, 4], "{}", strategy.as_str());
        let receipt = &placed[0].1;
        assert_eq!((receipt.workers, receipt.feasible, receipt.unmeasured), (4, 3, 2));
        let unmeasured: Vec<bool> = receipt.candidates.iter().map(|candidate| candidate.unmeasured).collect();
        assert_eq!(unmeasured, [false, true]);
        // Better an unknown machine than none.
        let placed = by(strategy, &one_cpu(), 1, &mut offers);
        assert!(placed[0].1.candidates[0].unmeasured);
    }
}

#[test]
fn the_most_jobs_double_whenever_a_chosen_machine_has_more() {
    let mut fleet = Fleet::of(OURS, &[offer(1), WorkerSnapshot { running: 3, ..offer(2) }]);
    assert_eq!(fleet, Fleet { machines: 2, max_jobs: 4 });
    assert!(!fleet.note(4));
    assert!(fleet.note(5));
    assert_eq!(fleet.max_jobs, 8);
    let away = WorkerSnapshot { state: WorkerState::Lost, running: 900, ..offer(3) };
    assert_eq!(Fleet::of(OURS, &[away]), Fleet { machines: 0, max_jobs: 1 });
}

#[test]
fn epvm_of_the_books_has_their_constant_and_four_jobs() {
    // One job, 2 GiB used and 1 GiB reserved of 8 GiB, 1 GiB wanted.
    let worker =
        WorkerSnapshot { reserved: resources(0, 1, 0), measured: reading(0.4, 2), running: 1, ..offer(1) };
    let fleet = Fleet { machines: 2, max_jobs: 1 };
    let parts = terms(Strategy::EpvmLieb, &one_cpu(), &worker, &fleet);
    let l: f64 = 1.539_600_717_839_002;
    let jobs = l.powf(0.5) - l.powf(0.25);
    assert_near(parts.memory, l.powf(0.5) - l.powf(0.375) + jobs);
    assert_near(parts.cpu, jobs);
    assert_near(LIEB, (4.0_f64 / 3.0).powf(1.5));
}

#[test]
fn an_affinity_of_a_hundred_makes_up_for_a_whole_load_in_every_strategy() {
    let wish = |weight| {
        let affinity = crate::spec::Affinity { when: "labels.ssd".parse().unwrap(), weight };
        Requirements { affinities: vec![affinity], ..needs(resources(500, 0, 0)) }
    };
    for strategy in Strategy::ALL {
        let mut loaded =
            WorkerSnapshot { reserved: resources(3_000, 0, 0), measured: reading(0.75, 0), ..offer(9) };
        loaded.labels.insert("ssd".to_owned(), "yes".to_owned());
        let first = |weight| chosen(&by(strategy, &wish(weight), 1, &mut [idle(1), loaded.clone()]))[0];
        assert_eq!(first(100), 9, "{}", strategy.as_str());
        assert_eq!(first(-100), 1, "{}", strategy.as_str());
    }
}

#[test]
fn scores_stay_numbers_far_beyond_what_is_full() {
    let most = Resources { cpu: Cpu::from_millis(u32::MAX), memory: Bytes(u64::MAX), disk: Bytes(u64::MAX) };
    let tiny = Resources { cpu: Cpu::from_millis(1), memory: Bytes(1), disk: Bytes(1) };
    let worker = WorkerSnapshot {
        capacity: tiny,
        reserved: most,
        running: u32::MAX,
        countables: [("gpu".to_owned(), 0)].into(),
        measured: Some(Measured { memory_total: Bytes(0), ..reading(5.0, 9).unwrap() }),
        ..offer(1)
    };
    for strategy in Strategy::ALL {
        let fleet = Fleet { machines: u32::MAX, max_jobs: 1 };
        let score = super::super::score(strategy, &needs(most), &worker, &fleet);
        assert!(score.is_finite(), "{}: {score}", strategy.as_str());
    }
}

#[test]
fn every_strategy_places_as_much_as_fits_and_keeps_every_need_whatever_the_fleet() {
    seeds::each(0..150, |mut rng| {
        let (offers, needs) = (any_offers(&mut rng), any_needs(&mut rng));
        let tasks = rng.random_range(0..60);
        let mut counts = Vec::new();
        for strategy in Strategy::ALL {
            let mut after = offers.clone();
            let placed = by(strategy, &needs, tasks, &mut after);
            assert!(after.iter().all(|offer| fits(&offer.reserved, &offer.capacity)));
            for (worker, _) in &placed {
                let offer = offers.iter().find(|offer| offer.worker == *worker).unwrap();
                assert_eq!(feasible(&needs, OURS, offer, 0), Ok(()));
            }
            let mut again = offers.clone();
            again.shuffle(&mut rng);
            assert_eq!(by(strategy, &needs, tasks, &mut again), placed, "{}", strategy.as_str());
            counts.push(placed.len());
        }
        assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    });
}
