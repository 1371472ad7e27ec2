#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod line;
mod quotas;
mod shared;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::*;
use crate::JobId;
use crate::placement::tests::{OURS, THEIRS, any_needs, any_offers, fits, needs, offer, resources};
use crate::placement::{DefinitionRef, HostPort, backlog_limit, feasible, room, suitable};
use crate::quantity::Span;
use crate::seeds;
use crate::spec::{Concurrency, PortProtocol};

const AT_ONCE: PassOptions = PassOptions { most: 1_000, strategy: Strategy::Spread, now: None };

/// Tasks of one processor each, of our project.
fn class<'a>(id: i64, owner: &'a str, needs: &'a Requirements, pending: usize) -> Class<'a> {
    let since = Time::UNIX_EPOCH;
    Class { id, project: OURS, owner, priority: 50, needs, pending, since, mean_run: None }
}

/// The decision, and the numbers of the classes in the order in which their tasks were placed.
fn decided(
    classes: &[Class<'_>],
    in_use: &InUse,
    offers: &[WorkerSnapshot],
    how: &PassOptions,
) -> (Decision, Vec<i64>) {
    let (mut in_use, mut offers) = (in_use.clone(), offers.to_vec());
    let decision = decide(classes, &mut in_use, &mut offers, &mut Turns::default(), how);
    let order = decision.placed.iter().map(|placed| classes[placed.class].id).collect();
    (decision, order)
}

fn one_cpu() -> Requirements {
    needs(resources(1_000, 0, 0))
}

#[test]
fn the_highest_priority_goes_first_however_long_others_wait() {
    let needs = one_cpu();
    let low = Class { priority: 10, ..class(1, "ana", &needs, 3) };
    let high = Class {
        priority: 90,
        since: Time::UNIX_EPOCH + Span::from_secs(9).to_std(),
        ..class(2, "ana", &needs, 3)
    };
    let (decision, order) = decided(&[low, high], &InUse::default(), &[offer(1)], &AT_ONCE);
    assert_eq!(order, [2, 2, 2, 1]);
    assert_eq!(decision.held, [Deferred { class: 0, hold: WaitReason::NoWorker }]);
    assert!(!decision.more);
}

#[test]
fn of_one_owner_the_class_that_has_waited_longest_goes_first() {
    let needs = one_cpu();
    let later = Class { since: Time::UNIX_EPOCH + Span::from_secs(1).to_std(), ..class(1, "ana", &needs, 2) };
    let (_, order) = decided(&[later, class(9, "ana", &needs, 2)], &InUse::default(), &[offer(1)], &AT_ONCE);
    assert_eq!(order, [9, 9, 1, 1]);
}

#[test]
fn a_class_is_not_placed_where_it_was_given_back_while_the_pause_lasts() {
    let needs = one_cpu();
    let shy = WorkerSnapshot { paused: [(1, Time::UNIX_EPOCH)].into(), ..offer(1) };
    let classes = [class(1, "ana", &needs, 1), class(2, "ana", &needs, 1)];
    let (decision, order) = decided(&classes, &InUse::default(), std::slice::from_ref(&shy), &AT_ONCE);
    assert_eq!(order, [2]);
    assert_eq!(decision.held, [Deferred { class: 0, hold: WaitReason::NoWorker }]);
    let (_, elsewhere) = decided(&classes, &InUse::default(), &[shy, offer(2)], &AT_ONCE);
    assert_eq!(elsewhere.len(), 2);
}

#[test]
fn a_hundred_thousand_tasks_of_one_do_not_starve_the_only_task_of_another() {
    let needs = one_cpu();
    let classes = [class(1, "ana", &needs, 100_000), class(2, "zoe", &needs, 1)];
    let (_, order) = decided(&classes, &InUse::default(), &[offer(1)], &AT_ONCE);
    assert_eq!(order, [1, 2, 1, 1]);
    // Who has nothing running goes first, even where there is place for one task only.
    let mut in_use = InUse::default();
    in_use.add(OURS, "ana", &needs, 3);
    let mut almost_full = offer(1);
    almost_full.reserve(&needs, 3);
    let (decision, order) = decided(&classes, &in_use, &[almost_full], &AT_ONCE);
    assert_eq!((order, decision.held.len()), (vec![2], 1));
}

#[test]
fn where_there_is_place_for_one_task_only_owners_take_turns() {
    let needs = needs(resources(4_000, 0, 0));
    let classes = [class(1, "ana", &needs, 100), class(2, "zoe", &needs, 100), class(3, "mia", &needs, 1)];
    let mut turns = Turns::default();
    // Whatever was placed is over before the next pass.
    let mut pass = || {
        let decision = decide(&classes, &mut InUse::default(), &mut [offer(1)], &mut turns, &AT_ONCE);
        decision.placed.iter().map(|placed| classes[placed.class].id).collect::<Vec<_>>()
    };
    assert_eq!([pass(), pass(), pass(), pass(), pass()], [[1], [3], [2], [1], [3]]);
}

#[test]
fn tasks_that_reserve_nothing_are_shared_fairly_as_well() {
    let nothing = needs(resources(0, 0, 0));
    let classes = [class(1, "ana", &nothing, 500), class(2, "zoe", &nothing, 500)];
    let how = PassOptions { most: 7, ..AT_ONCE };
    let (decision, order) = decided(&classes, &InUse::default(), &[offer(1)], &how);
    assert_eq!(order, [1, 2, 1, 2, 1, 2, 1]);
    assert!(decision.more);
}

#[test]
fn for_a_large_task_that_has_waited_for_long_a_worker_is_kept_until_it_fits() {
    let (large, small) = (needs(resources(4_000, 0, 0)), one_cpu());
    let waits = [class(1, "ana", &large, 1), Class { priority: 10, ..class(2, "zoe", &small, 100) }];
    // One processor is in use on the first worker, and two on the second.
    let mut offers = [offer(1), offer(2)];
    (1..).zip(&mut offers).for_each(|(count, offer)| offer.reserve(&small, count));
    let after =
        |secs| PassOptions { now: Some(Time::UNIX_EPOCH + Span::from_secs(secs).to_std()), ..AT_ONCE };

    let (early, order) = decided(&waits, &InUse::default(), &offers, &after(299));
    assert_eq!((order.len(), early.kept), (5, Vec::new()), "small tasks fill both");
    let (late, order) = decided(&waits, &InUse::default(), &offers, &after(300));
    assert_eq!(late.kept, [Reservation { class: 0, worker: WorkerId(1) }], "it lacks a processor less");
    assert_eq!(order, [2, 2]);
    assert!(late.placed.iter().all(|placed| placed.worker == WorkerId(2)));

    // When the last small task has ended there, the large one fits, and the rest is for the others again.
    let idle = [offer(1), offers[1].clone()];
    let (last, order) = decided(&waits, &InUse::default(), &idle, &after(301));
    assert_eq!((order, last.kept), (vec![1, 2, 2], Vec::new()));
}

#[test]
fn beside_what_is_kept_others_go_on_and_for_what_services_have_nobody_waits() {
    let gpu =
        |cpu| Requirements { countables: [("gpu".to_owned(), 1)].into(), ..needs(resources(cpu, 0, 0)) };
    let how = PassOptions { now: Some(Time::UNIX_EPOCH + Span::from_secs(600).to_std()), ..AT_ONCE };
    let machine = WorkerSnapshot { countables: [("gpu".to_owned(), 1)].into(), ..offer(1) };
    let (training, small) = (gpu(2_000), one_cpu());
    let waits = [class(1, "ana", &training, 1), Class { priority: 10, ..class(2, "zoe", &small, 100) }];

    // The card is in use: of the four processors, two are kept for the next training, and one is in use.
    let mut busy = machine.clone();
    busy.reserve(&gpu(1_000), 1);
    let (decision, order) = decided(&waits, &InUse::default(), &[busy], &how);
    assert_eq!((decision.kept.len(), order), (1, vec![2]));

    // A service has it, and does not end.
    let mut serving = machine;
    serving.reserve(&Requirements { service: true, ..gpu(1_000) }, 1);
    let (decision, order) = decided(&waits, &InUse::default(), &[serving], &how);
    assert_eq!((decision.kept.len(), order.len()), (0, 3));
}

#[test]
fn no_more_than_a_quarter_of_the_workers_is_kept_and_none_for_what_lacks_no_room() {
    let (large, small) = (needs(resources(4_000, 0, 0)), one_cpu());
    let mut offers: Vec<WorkerSnapshot> = (1..=8).map(offer).collect();
    offers.iter_mut().for_each(|offer| offer.reserve(&small, 1));
    let how = PassOptions { now: Some(Time::UNIX_EPOCH + Span::from_secs(600).to_std()), ..AT_ONCE };
    let classes: Vec<Class<'_>> = ["a", "b", "c", "d"].map(|owner| class(1, owner, &large, 5)).to_vec();
    let (decision, _) = decided(&classes, &InUse::default(), &offers, &how);
    let kept: Vec<_> = decision.kept.iter().map(|kept| kept.worker).collect();
    assert_eq!(kept, [WorkerId(1), WorkerId(2)]);

    let port = HostPort { port: 80, protocol: PortProtocol::Tcp };
    let wants_port = Requirements { ports: vec![port], ..small.clone() };
    offers.iter_mut().for_each(|offer| offer.taken.ports.extend([port]));
    let (decision, _) = decided(&[class(1, "a", &wants_port, 1)], &InUse::default(), &offers, &how);
    assert_eq!((decision.held.len(), decision.kept), (1, Vec::new()));
}

#[test]
fn owners_get_equal_dominant_shares_as_in_the_paper() {
    // Ghodsi et al., §4.1: 9 processors and 18 GiB; A's tasks take 1 and 4 GiB, B's 3 and 1 GiB: A runs 3, B runs 2.
    let (a, b) = (needs(resources(1_000, 4, 0)), needs(resources(3_000, 1, 0)));
    let machine = WorkerSnapshot { capacity: resources(9_000, 18, 0), ..offer(1) };
    let classes = [class(1, "a", &a, 100), class(2, "b", &b, 100)];
    let (_, order) = decided(&classes, &InUse::default(), &[machine], &AT_ONCE);
    let count = |id| order.iter().filter(|class| **class == id).count();
    assert_eq!((count(1), count(2)), (3, 2));
}

#[test]
fn a_full_concurrency_group_holds_its_tasks_and_nobody_elses() {
    let concurrency = |limit| Some(Concurrency { group: "nightly".to_owned(), limit });
    let two = Requirements { concurrency: concurrency(2), ..one_cpu() };
    let three = Requirements { concurrency: concurrency(3), ..one_cpu() };
    let free = one_cpu();
    let mut in_use = InUse::default();
    in_use.add(OURS, "ana", &two, 1);
    in_use.add(THEIRS, "ana", &two, 5);
    let classes = [class(1, "ana", &two, 9), class(2, "ana", &three, 9), class(3, "ana", &free, 1)];
    let (decision, order) = decided(&classes, &in_use, &[offer(1)], &AT_ONCE);
    assert_eq!(order, [1, 2, 3]);
    assert_eq!(
        decision.held,
        [
            Deferred { class: 0, hold: WaitReason::Concurrency { live: 2, limit: 2 } },
            Deferred { class: 1, hold: WaitReason::Concurrency { live: 3, limit: 3 } },
        ]
    );
}

#[test]
fn no_more_tasks_of_an_array_are_live_than_it_says() {
    let of = |position| Some(DefinitionRef { job: JobId(7), position });
    let two = Requirements { at_once: Some(2), definition: of(0), ..one_cpu() };
    let other = Requirements { at_once: Some(1), definition: of(1), ..one_cpu() };
    let mut in_use = InUse::default();
    in_use.add(OURS, "ana", &two, 2);
    in_use.remove(OURS, "ana", &two, 1);
    let classes = [class(1, "ana", &two, 9), class(2, "ana", &other, 9)];
    let (decision, order) = decided(&classes, &in_use, &[offer(1)], &AT_ONCE);
    assert_eq!(order, [1, 2]);
    assert_eq!(
        decision.held,
        [
            Deferred { class: 0, hold: WaitReason::AtOnce { live: 2, limit: 2 } },
            Deferred { class: 1, hold: WaitReason::AtOnce { live: 1, limit: 1 } },
        ]
    );
}

#[test]
fn what_fits_nowhere_does_not_hold_up_those_behind_it() {
    let (huge, small) = (needs(resources(64_000, 0, 0)), one_cpu());
    let classes = [Class { priority: 99, ..class(1, "ana", &huge, 1) }, class(2, "ana", &small, 1)];
    let (decision, order) = decided(&classes, &InUse::default(), &[offer(1)], &AT_ONCE);
    assert_eq!(order, [2]);
    assert_eq!(decision.held, [Deferred { class: 0, hold: WaitReason::NoWorker }]);
}

#[test]
fn round_robin_goes_on_where_the_last_pass_ended() {
    let needs = one_cpu();
    let classes = [class(1, "ana", &needs, 2)];
    let mut turns = Turns::default();
    let mut offers = [offer(1), offer(2), offer(3)];
    let how = PassOptions { strategy: Strategy::RoundRobin, ..AT_ONCE };
    let mut pass = || {
        let decision = decide(&classes, &mut InUse::default(), &mut offers, &mut turns, &how);
        decision.placed.iter().map(|placed| placed.worker.0).collect::<Vec<_>>()
    };
    assert_eq!([pass(), pass()], [[1, 2], [3, 1]]);
}

#[test]
fn the_needs_name_a_strategy_of_their_own() {
    let packed = Requirements { strategy: Some(Strategy::Binpack), ..one_cpu() };
    let (decision, _) =
        decided(&[class(1, "ana", &packed, 3)], &InUse::default(), &[offer(1), offer(2)], &AT_ONCE);
    assert!(decision.placed.iter().all(|placed| placed.worker == WorkerId(1)));
    assert_eq!(decision.placed[0].receipt.strategy, "binpack");
}

/// Requirements of several classes with their projects, owners and priorities.
fn any_classes(rng: &mut StdRng) -> Vec<(Requirements, ProjectId, String, i16, usize)> {
    (0..rng.random_range(1..12))
        .map(|_| {
            let group =
                |rng: &mut StdRng| Concurrency { group: "g".to_owned(), limit: rng.random_range(1..9) };
            let concurrency = rng.random_ratio(1, 4).then(|| group(rng));
            let strategy = rng.random_ratio(1, 4).then_some(Strategy::RoundRobin);
            let needs = Requirements { concurrency, strategy, ..any_needs(rng) };
            let project = if rng.random_ratio(1, 5) { THEIRS } else { OURS };
            let owner = format!("user {}", rng.random_range(0..3));
            (needs, project, owner, rng.random_range(0..3), rng.random_range(0..40))
        })
        .collect()
}

fn borrowed(classes: &[(Requirements, ProjectId, String, i16, usize)]) -> Vec<Class<'_>> {
    classes
        .iter()
        .enumerate()
        .map(|(id, (needs, project, owner, priority, pending))| Class {
            id: id as i64,
            project: *project,
            owner,
            priority: *priority,
            needs,
            pending: *pending,
            since: Time::UNIX_EPOCH + Span::from_secs(id as u64 % 3).to_std(),
            mean_run: None,
        })
        .collect()
}

#[test]
fn nothing_is_ever_overfull_and_all_needs_are_kept() {
    let mut placed_in_all = 0;
    seeds::each(0..300, |mut rng| {
        let (offers, classes) = (any_offers(&mut rng), any_classes(&mut rng));
        let classes = borrowed(&classes);
        let mut after = offers.clone();
        let mut in_use = InUse::default();
        let decision = decide(&classes, &mut in_use, &mut after, &mut Turns::default(), &AT_ONCE);
        assert!(after.iter().all(|offer| fits(&offer.reserved, &offer.capacity)));
        for placed in &decision.placed {
            let class = &classes[placed.class];
            let before = offers.iter().find(|offer| offer.worker == placed.worker).unwrap();
            assert_eq!(suitable(class.needs, class.project, before), Ok(()));
        }
        for (position, class) in classes.iter().enumerate() {
            let placed = decision.placed.iter().filter(|placed| placed.class == position).count();
            assert!(placed <= class.pending);
            let held = decision.held.iter().find(|held| held.class == position);
            match held.map(|held| held.hold) {
                None => assert_eq!(placed, class.pending),
                Some(WaitReason::Concurrency { live, limit } | WaitReason::AtOnce { live, limit }) => {
                    assert!(live >= limit);
                }
                Some(WaitReason::Quota(_)) => panic!("no project has a quota"),
                // What is held back in the end can really not be placed.
                Some(WaitReason::NoWorker) => {
                    assert!(
                        after.iter().all(|offer| feasible(class.needs, class.project, offer, 0).is_err())
                    );
                }
            }
            if let Some(concurrency) = &class.needs.concurrency
                && placed > 0
            {
                let most = classes
                    .iter()
                    .filter_map(|class| class.needs.concurrency.as_ref())
                    .map(|c| c.limit)
                    .max();
                assert!(in_use.live_in_group(class.project, &concurrency.group) <= most.unwrap());
            }
        }
        placed_in_all += decision.placed.len();
    });
    assert!(placed_in_all > 3_000, "only {placed_in_all}");
}

#[test]
fn a_decision_does_not_depend_on_the_order_of_classes_and_offers() {
    seeds::each(0..150, |mut rng| {
        let (offers, classes) = (any_offers(&mut rng), any_classes(&mut rng));
        let classes = borrowed(&classes);
        let how = PassOptions { most: rng.random_range(1..60), ..AT_ONCE };
        let told = |classes: &[Class<'_>], offers: &[WorkerSnapshot]| -> Vec<(i64, WorkerId, Receipt)> {
            let (decision, order) = decided(classes, &InUse::default(), offers, &how);
            let placed = decision.placed.into_iter().map(|placed| (placed.worker, placed.receipt));
            order.into_iter().zip(placed).map(|(class, (worker, receipt))| (class, worker, receipt)).collect()
        };
        let once = told(&classes, &offers);
        let (mut shuffled, mut others) = (classes.clone(), offers.clone());
        shuffled.shuffle(&mut rng);
        others.shuffle(&mut rng);
        assert_eq!(told(&shuffled, &others), once);
    });
}

#[test]
fn no_task_goes_before_one_of_its_project_with_a_higher_priority_that_would_have_fitted_in_its_place() {
    seeds::each(0..200, |mut rng| {
        let (offers, classes) = (any_offers(&mut rng), any_classes(&mut rng));
        let classes = borrowed(&classes);
        let (decision, _) = decided(&classes, &InUse::default(), &offers, &AT_ONCE);
        for project in [OURS, THEIRS] {
            let placed = decision.placed.iter().map(|placed| &classes[placed.class]);
            let priorities: Vec<i16> =
                placed.filter(|class| class.project == project).map(|class| class.priority).collect();
            assert!(priorities.is_sorted_by(|one, next| one >= next), "{priorities:?}");
        }
    });
}

#[test]
fn owners_with_equal_needs_stay_within_one_task_of_each_other() {
    seeds::each(0..100, |mut rng| {
        let needs = one_cpu();
        let owners: Vec<String> = (0..rng.random_range(2..6)).map(|n| format!("user {n}")).collect();
        let classes: Vec<Class<'_>> = owners
            .iter()
            .enumerate()
            .map(|(id, owner)| class(id as i64, owner, &needs, rng.random_range(50..500)))
            .collect();
        let offers: Vec<WorkerSnapshot> = (1..=rng.random_range(1..8)).map(offer).collect();
        let (_, order) = decided(&classes, &InUse::default(), &offers, &AT_ONCE);
        let counts: Vec<usize> =
            (0..owners.len() as i64).map(|id| order.iter().filter(|class| **class == id).count()).collect();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    });
}

#[test]
fn short_tasks_may_wait_on_full_workers_up_to_their_backlog() {
    let needs = one_cpu();
    let quick = Class { mean_run: Some(Duration::from_millis(400)), ..class(1, "ana", &needs, 100) };
    let mut full = offer(1);
    full.reserve(&needs, 4);
    let limit = backlog_limit(&needs, &full, quick.mean_run);
    let (decision, order) = decided(&[quick], &InUse::default(), &[full], &AT_ONCE);
    assert_eq!((order.len(), limit), (10, 10));
    assert!(decision.placed[0].receipt.candidates[0].waits);
}

#[test]
fn a_class_goes_last_to_where_its_tasks_became_unhealthy() {
    let needs = one_cpu();
    let mut offers = [offer(1), offer(2), offer(3)];
    offers[0].unhealthy.insert(7, 2);
    offers[1].unhealthy.insert(7, 1);
    let placed = |id: i64, offers: &[WorkerSnapshot]| {
        let (decision, _) = decided(&[class(id, "ana", &needs, 1)], &InUse::default(), offers, &AT_ONCE);
        decision.placed[0].worker
    };
    assert_eq!(placed(7, &offers), WorkerId(3));
    assert_eq!(placed(8, &offers), WorkerId(1), "another class is not concerned");
    assert_eq!(placed(7, &offers[..2]), WorkerId(2), "one failure is better than two");
    assert_eq!(placed(7, &offers[..1]), WorkerId(1), "and any worker is better than none");
}

#[test]
fn a_task_that_is_for_one_worker_goes_to_no_other_one() {
    let needs = one_cpu();
    let own: Vec<Requirements> = (1..=3).map(|worker| needs.for_worker(WorkerId(worker))).collect();
    let classes: Vec<Class<'_>> =
        own.iter().enumerate().map(|(at, needs)| class(at as i64 + 1, "ana", needs, 1)).collect();
    // The first has no room, and the third is away.
    let full = WorkerSnapshot { reserved: resources(4_000, 0, 0), ..offer(1) };
    let offers = [offer(4), full, offer(2)];
    let (decision, order) = decided(&classes, &InUse::default(), &offers, &AT_ONCE);
    let placed: Vec<WorkerId> = decision.placed.iter().map(|placed| placed.worker).collect();
    assert_eq!((order, placed), (vec![2], vec![WorkerId(2)]));
    let receipt = &decision.placed[0].receipt;
    assert_eq!((receipt.suitable, receipt.feasible, receipt.candidates.len()), (Some(1), 1, 1));
    let mut waiting: Vec<usize> = decision.held.iter().map(|held| held.class).collect();
    waiting.sort_unstable();
    assert_eq!(waiting, [0, 2]);
    assert_eq!(room(&own[1], OURS, &[offer(1), offer(2)], None), 4);
    assert_eq!(room(&own[2], OURS, &[offer(1), offer(2)], None), 0);
}

#[test]
fn a_task_for_each_worker_of_which_nobody_knows_for_which_one_goes_nowhere() {
    let unknown = Requirements { each_worker: true, ..one_cpu() };
    let classes = [class(1, "ana", &unknown, 2)];
    let (decision, order) = decided(&classes, &InUse::default(), &[offer(1)], &AT_ONCE);
    assert_eq!((order, decision.held.len()), (vec![], 1));
    assert_eq!(room(&unknown, OURS, &[offer(1)], None), 0);
    let known = unknown.for_worker(WorkerId(1));
    assert_eq!(decided(&[class(1, "ana", &known, 1)], &InUse::default(), &[offer(1)], &AT_ONCE).1, [1]);
    assert_eq!(room(&known, OURS, &[offer(1)], None), 4);
}
