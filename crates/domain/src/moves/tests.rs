#![allow(clippy::unwrap_used)]

use super::*;
use crate::JobId;
use crate::constraint::Constraint;
use crate::placement::tests::{OURS, needs, offer, resources};
use crate::spec::Affinity;
use crate::worker::WorkerState;

fn at(secs: i64) -> Time {
    Time::from_timestamp(secs, 0).unwrap()
}

fn of_job(job: i64) -> DefinitionRef {
    DefinitionRef { job: JobId(job), position: 0 }
}

/// A task of a service, one for each job, on this worker.
fn tenant(task: i64, worker: i64, needs: &Requirements) -> Tenant<'_> {
    Tenant {
        task: TaskId(task),
        attempt: 1,
        definition: of_job(task),
        project: OURS,
        worker: WorkerId(worker),
        since: at(0),
        needs,
        kind: JobKind::Service,
        on_drain: OnDrain::Finish,
        may_rebalance: true,
    }
}

fn batch(task: i64, on_drain: OnDrain, needs: &Requirements) -> Tenant<'_> {
    Tenant { kind: JobKind::Batch, on_drain, ..tenant(task, 1, needs) }
}

/// Worker 1, which drains and has `cpu_millis` in use, and an idle worker 2 with 4 processors.
fn draining(cpu_millis: u32) -> [WorkerSnapshot; 2] {
    let reserved = resources(cpu_millis, 0, 0);
    [WorkerSnapshot { state: WorkerState::Draining, reserved, ..offer(1) }, offer(2)]
}

fn drains(deadline: Option<Time>) -> BTreeMap<WorkerId, Option<Time>> {
    BTreeMap::from([(WorkerId(1), deadline)])
}

fn leaving(
    tenants: &[Tenant<'_>],
    deadline: Option<Time>,
    offers: &mut [WorkerSnapshot],
    now: Time,
) -> Vec<i64> {
    let moves = leave(tenants, &drains(deadline), &UnderWay::default(), offers, now);
    moves.into_iter().map(|one| one.task.0).collect()
}

#[test]
fn services_leave_a_draining_worker_first_then_batch_tasks_that_are_to_move() {
    let one = needs(resources(1_000, 0, 0));
    let tenants = [
        batch(1, OnDrain::Finish, &one),
        batch(2, OnDrain::Move, &one),
        tenant(3, 1, &one),
        tenant(4, 2, &one),
    ];
    assert_eq!(leaving(&tenants, None, &mut draining(3_000), at(9)), [3, 2]);
}

#[test]
fn a_task_that_is_for_its_worker_stays_until_the_deadline_and_takes_no_room_elsewhere() {
    let own = Requirements { each_worker: true, ..needs(resources(4_000, 0, 0)) };
    let other = needs(resources(4_000, 0, 0));
    let tenants = [batch(1, OnDrain::Move, &own), batch(2, OnDrain::Move, &other)];
    assert_eq!(leaving(&tenants, None, &mut draining(4_000), at(9)), [2]);
    assert_eq!(leaving(&tenants, Some(at(10)), &mut draining(4_000), at(10)), [1, 2]);
    let under_way = UnderWay { unplaced: vec![(OURS, &own)], ..UnderWay::default() };
    let moves = leave(&tenants, &drains(None), &under_way, &mut draining(4_000), at(9));
    assert_eq!(moves.len(), 1, "what waits for its worker takes no room");
}

#[test]
fn nothing_leaves_before_there_is_room_for_it_elsewhere() {
    let large = needs(resources(3_000, 0, 0));
    let tenants = [tenant(1, 1, &large), tenant(2, 1, &large), batch(3, OnDrain::Move, &large)];
    let mut offers = draining(4_000);
    assert_eq!(leaving(&tenants, None, &mut offers, at(9)), [1], "the other worker is full with the first");
    assert!(leaving(&tenants, None, &mut offers, at(9)).is_empty());
    // A second later the first has stopped and is placed nowhere yet: its place is nobody else's.
    let under_way = UnderWay { unplaced: vec![(OURS, &large)], ..UnderWay::default() };
    assert_eq!(leave(&tenants[1..], &drains(None), &under_way, &mut draining(4_000), at(10)), []);
}

#[test]
fn of_one_service_one_task_leaves_after_the_other() {
    let one = needs(resources(1_000, 0, 0));
    let both = [tenant(1, 1, &one), Tenant { definition: of_job(1), ..tenant(2, 1, &one) }];
    assert_eq!(leaving(&both, None, &mut draining(2_000), at(9)), [1]);
    let under_way = UnderWay { definitions: BTreeSet::from([of_job(1)]), ..UnderWay::default() };
    assert_eq!(leave(&both, &drains(None), &under_way, &mut draining(2_000), at(9)), []);
}

#[test]
fn at_the_deadline_all_leaves_whether_there_is_room_or_not() {
    let large = needs(resources(4_000, 0, 0));
    let same = |task| Tenant { definition: of_job(1), ..tenant(task, 1, &large) };
    let tenants = [same(1), same(2), batch(3, OnDrain::Finish, &large)];
    assert_eq!(leaving(&tenants, Some(at(10)), &mut draining(4_000), at(9)), [1]);
    let moves = leave(&tenants, &drains(Some(at(10))), &UnderWay::default(), &mut draining(4_000), at(10));
    assert!(moves.iter().all(|one| one.why == Why::Deadline));
    assert_eq!(moves.len(), 3);
}

fn all(offers: &[WorkerSnapshot]) -> BTreeSet<WorkerId> {
    offers.iter().map(|offer| offer.worker).collect()
}

fn best(tenants: &[Tenant<'_>], offers: &[WorkerSnapshot]) -> Option<Move> {
    let mut after = offers.to_vec();
    let best = rebalance(tenants, &all(offers), &mut after, Strategy::Spread, at(100));
    assert_eq!(after, offers, "nothing has happened yet");
    best
}

#[test]
fn a_service_goes_to_an_idle_worker_that_has_joined_and_does_not_come_back() {
    let one = needs(resources(1_000, 0, 0));
    let full = WorkerSnapshot { reserved: resources(4_000, 0, 0), running: 4, ..offer(1) };
    let tenants = [tenant(1, 1, &one), tenant(2, 1, &one)];
    let offers = [full, offer(2)];
    let moved = best(&tenants, &offers).unwrap();
    assert_eq!((moved.task, moved.from), (TaskId(1), WorkerId(1)));
    // The full worker's share is 4/4, the other one's would be 1/4.
    assert_eq!(moved.why, Why::Gain { to: WorkerId(2), gain: 0.75 });

    let after = [
        offers[0].without(&one),
        WorkerSnapshot { reserved: resources(1_000, 0, 0), running: 1, ..offer(2) },
    ];
    assert_eq!(best(&[tenant(1, 2, &one)], &after), None);
    // 3/4 against 2/4 is a quarter still; then they are even.
    let next = best(&tenants[1..], &after).unwrap();
    assert_eq!(next.why, Why::Gain { to: WorkerId(2), gain: 0.25 });
    let even = [2_000, 2_000].map(|cpu| resources(cpu, 0, 0));
    let even = [
        WorkerSnapshot { reserved: even[0], running: 2, ..offer(1) },
        WorkerSnapshot { reserved: even[1], ..offer(2) },
    ];
    assert_eq!(best(&tenants, &even), None);
}

#[test]
fn who_has_not_settled_who_does_not_want_to_and_who_runs_to_completion_stays() {
    let one = needs(resources(1_000, 0, 0));
    let offers = [WorkerSnapshot { reserved: resources(4_000, 0, 0), running: 4, ..offer(1) }, offer(2)];
    let young = Tenant { since: at(101), ..tenant(1, 1, &one) };
    let fixed = Tenant { may_rebalance: false, ..tenant(2, 1, &one) };
    let finishes = batch(3, OnDrain::Move, &one);
    assert_eq!(best(&[young, fixed, finishes], &offers), None);
    let only_first = BTreeSet::from([WorkerId(1)]);
    let settles =
        rebalance(&[tenant(1, 1, &one)], &only_first, &mut offers.clone(), Strategy::Spread, at(100));
    assert_eq!(settles, None, "the other worker has just come");
    for state in [WorkerState::Cordoned, WorkerState::Offline] {
        let held = [WorkerSnapshot { state, ..offers[0].clone() }, offer(2)];
        assert_eq!(best(&[tenant(1, 1, &one)], &held), None, "what it has stays");
    }
}

#[test]
fn full_workers_are_what_binpack_wants() {
    let one = Requirements { strategy: Some(Strategy::Binpack), ..needs(resources(1_000, 0, 0)) };
    let offers = [WorkerSnapshot { reserved: resources(4_000, 0, 0), running: 4, ..offer(1) }, offer(2)];
    assert_eq!(best(&[tenant(1, 1, &one)], &offers), None);
    let when: Constraint = "name == w2".parse().unwrap();
    let wishing = Requirements { affinities: vec![Affinity { when, weight: 100 }], ..one };
    let moved = best(&[tenant(1, 1, &wishing)], &offers).unwrap();
    assert_eq!(moved.why, Why::Gain { to: WorkerId(2), gain: 1.0 });
}

#[test]
fn an_imbalance_of_two_tasks_is_evened_out_and_one_of_one_is_left() {
    let spread = |job| Requirements {
        spread: Some("labels.rack".parse().unwrap()),
        definition: Some(of_job(job)),
        ..needs(resources(100, 0, 0))
    };
    let rack = |worker, rack: &str, tasks: u32| {
        let mut offer =
            WorkerSnapshot { labels: [("rack".to_owned(), rack.to_owned())].into(), ..offer(worker) };
        offer.reserve(&spread(1), tasks);
        offer.running = tasks;
        offer
    };
    let needs = spread(1);
    let tenants = [Tenant { definition: of_job(1), ..tenant(7, 1, &needs) }];
    let moved = best(&tenants, &[rack(1, "a", 2), rack(2, "b", 0)]).unwrap();
    assert_eq!(moved.why, Why::Spread { to: WorkerId(2), here: 2, there: 0 });
    assert_eq!(best(&tenants, &[rack(1, "a", 2), rack(2, "b", 1)]), None);
    assert_eq!(best(&tenants, &[rack(1, "a", 1), rack(2, "a", 0)]), None, "it is the same rack");
}
