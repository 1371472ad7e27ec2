#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::slice;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::*;
use crate::placement::tests::{OURS, needs, offer, resources};
use crate::seeds::each;
use crate::spec::DriverKind;

const CPU: u32 = 1_000;

fn wanted() -> Requirements {
    needs(resources(CPU, 0, 0))
}

fn worker(number: i64, state: WorkerState) -> WorkerSnapshot {
    WorkerSnapshot { name: format!("w{number}"), state, ..offer(number) }
}

fn small(offer: WorkerSnapshot) -> WorkerSnapshot {
    WorkerSnapshot { capacity: resources(CPU / 2, 0, 0), ..offer }
}

fn instance(number: i64, state: InstanceState) -> Instance {
    Instance { task: TaskId(number + 100), worker: WorkerId(number), name: format!("w{number}"), state }
}

fn decided(offers: &[WorkerSnapshot], instances: &[Instance]) -> Plan {
    decide(&wanted(), OURS, offers, instances)
}

fn started(plan: &Plan) -> Vec<&str> {
    plan.start.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn every_worker_that_matches_gets_an_instance_in_the_order_of_names() {
    let stranger = WorkerSnapshot { project: ProjectId(OURS.0 + 1), ..worker(4, WorkerState::Online) };
    let offers = [
        worker(3, WorkerState::Online),
        worker(1, WorkerState::Online),
        small(worker(2, WorkerState::Online)),
        stranger,
        worker(5, WorkerState::Cordoned),
        worker(6, WorkerState::Draining),
        worker(7, WorkerState::Lost),
    ];
    let plan = decided(&offers, &[]);
    assert_eq!(started(&plan), ["w1", "w3"]);
    assert_eq!(plan.len(), 2);
    let there = [instance(1, InstanceState::Live), instance(3, InstanceState::Live)];
    assert!(decided(&offers, &there).is_empty());
}

#[test]
fn an_instance_is_scaled_down_when_its_worker_does_not_match_drains_or_is_removed_and_runs_again_after_that()
{
    let live = [
        instance(1, InstanceState::Live),
        instance(2, InstanceState::Live),
        instance(3, InstanceState::Live),
    ];
    let offers = [small(worker(1, WorkerState::Online)), worker(2, WorkerState::Draining)];
    let why: Vec<(i64, String)> =
        decided(&offers, &live).stop.into_iter().map(|(task, why)| (task.0, why)).collect();
    let expected = [
        (101, "scaled down: w1 has 0.5 cpu in total, 1 requested".to_owned()),
        (102, "scaled down: w2 is draining and accepts no new tasks".to_owned()),
        (103, "scaled down: its worker w3 was removed".to_owned()),
    ];
    assert_eq!(why, expected);
    for state in [InstanceState::Leaving, InstanceState::Away] {
        let away = [1, 2, 3].map(|number| instance(number, state));
        assert!(decided(&offers, &away).is_empty(), "it is done");
        let back = [1, 2, 3].map(|number| worker(number, WorkerState::Online));
        let plan = decided(&back, &away);
        assert_eq!(plan, Plan { resume: vec![TaskId(101), TaskId(102), TaskId(103)], ..Plan::default() });
    }
}

#[test]
fn a_worker_that_is_lost_or_cordoned_or_whose_driver_fails_keeps_what_it_has_and_gets_nothing() {
    let broken = WorkerSnapshot {
        drivers: Vec::new(),
        broken_drivers: vec![(DriverKind::Host, "no daemon".to_owned())],
        ..worker(1, WorkerState::Online)
    };
    for there in [broken, worker(1, WorkerState::Lost), worker(1, WorkerState::Cordoned)] {
        for state in [InstanceState::Live, InstanceState::Away, InstanceState::Leaving] {
            assert!(decided(slice::from_ref(&there), &[instance(1, state)]).is_empty(), "{state:?}");
        }
        assert!(decided(&[there], &[]).is_empty());
    }
    let without = WorkerSnapshot { drivers: Vec::new(), ..worker(1, WorkerState::Online) };
    assert_eq!(decided(&[without], &[instance(1, InstanceState::Live)]).stop.len(), 1);
}

#[test]
fn what_its_operator_wants_counts_while_a_worker_is_out_of_contact() {
    let of = |state, intake| expected(worker(1, state), intake).state;
    assert_eq!(of(WorkerState::Offline, Intake::Open), WorkerState::Online);
    assert_eq!(of(WorkerState::Offline, Intake::Cordoned), WorkerState::Cordoned);
    for state in [WorkerState::Offline, WorkerState::Lost, WorkerState::Draining] {
        assert_eq!(of(state, Intake::Draining), WorkerState::Draining);
    }
    assert_eq!(of(WorkerState::Lost, Intake::Open), WorkerState::Lost);
}

#[test]
fn an_instance_that_ended_by_itself_runs_again_only_with_another_version() {
    let here = [worker(1, WorkerState::Online)];
    let ended = |is_present| [instance(1, InstanceState::Ended { is_present })];
    assert!(decided(&here, &ended(true)).is_empty());
    assert_eq!(decided(&here, &ended(false)).resume, [TaskId(101)]);
    assert_eq!(decided(&[], &ended(true)).stop.len(), 1, "nobody waits for a worker that there is not");
    assert!(decided(&here, &[instance(1, InstanceState::Stopped)]).is_empty());
}

#[test]
fn a_plan_that_is_cut_short_stops_first() {
    let mut plan = Plan {
        start: vec![(WorkerId(1), "a".to_owned()), (WorkerId(2), "b".to_owned())],
        resume: vec![TaskId(3)],
        stop: vec![(TaskId(4), String::new())],
    };
    plan.truncate(9);
    assert_eq!(plan.len(), 4);
    plan.truncate(3);
    assert_eq!((plan.stop.len(), plan.resume.len(), started(&plan)), (1, 1, vec!["a"]));
    plan.truncate(1);
    assert_eq!((plan.stop.len(), plan.len()), (1, 1));
}

/// Carries a plan out as the store does.
fn carry_out(plan: &Plan, instances: &mut Vec<Instance>) {
    for instance in instances.iter_mut() {
        if plan.stop.iter().any(|(task, _)| *task == instance.task) {
            instance.state = InstanceState::Leaving;
        }
        if plan.resume.contains(&instance.task) {
            instance.state = InstanceState::Live;
        }
    }
    for (worker, _) in &plan.start {
        instances.push(instance(worker.0, InstanceState::Live));
    }
}

fn any_worker(number: i64, rng: &mut StdRng) -> WorkerSnapshot {
    let offer = worker(number, *WorkerState::ALL.choose(rng).unwrap());
    let intake = *Intake::ALL.choose(rng).unwrap();
    expected(if rng.random_ratio(1, 4) { small(offer) } else { offer }, intake)
}

#[test]
fn whatever_happens_there_is_one_instance_on_each_worker_that_matches_and_a_second_look_finds_nothing_to_do()
{
    each(0..300, |mut rng| {
        let rng = &mut rng;
        let mut instances: Vec<Instance> = Vec::new();
        for _ in 0..20 {
            let numbers: Vec<i64> = (1..12).filter(|_| rng.random_ratio(3, 4)).collect();
            let offers: Vec<WorkerSnapshot> = numbers.iter().map(|number| any_worker(*number, rng)).collect();
            for instance in &mut instances {
                instance.state = match instance.state {
                    InstanceState::Leaving if rng.random() => InstanceState::Away,
                    InstanceState::Live if rng.random_ratio(1, 9) => {
                        InstanceState::Ended { is_present: rng.random() }
                    }
                    state => state,
                };
            }
            let plan = decided(&offers, &instances);
            let is_running = |instance: &&Instance| instance.state == InstanceState::Live;
            let before: Vec<WorkerId> =
                instances.iter().filter(is_running).map(|instance| instance.worker).collect();
            carry_out(&plan, &mut instances);

            let mut of_worker: BTreeMap<WorkerId, Vec<&Instance>> = BTreeMap::new();
            for instance in &instances {
                of_worker.entry(instance.worker).or_default().push(instance);
            }
            assert!(of_worker.values().all(|of| of.len() == 1), "an instance keeps its worker");
            for (worker, of) in of_worker {
                let offer = offers.iter().find(|offer| offer.worker == worker);
                let is_live = of[0].state == InstanceState::Live;
                match offer.map(|offer| judge(&wanted(), OURS, offer)) {
                    Some(Verdict::Yes) => {
                        assert!(is_live || of[0].state == InstanceState::Ended { is_present: true });
                    }
                    Some(Verdict::KeepsOnly(_)) => assert_eq!(is_live, before.contains(&worker)),
                    Some(Verdict::No(_)) | None => assert!(!is_live),
                }
            }
            let is_covered = |offer: &WorkerSnapshot| instances.iter().any(|i| i.worker == offer.worker);
            let uncovered = offers.iter().filter(|offer| !is_covered(offer));
            assert!(uncovered.into_iter().all(|offer| judge(&wanted(), OURS, offer) != Verdict::Yes));
            assert!(decided(&offers, &instances).is_empty());
        }
    });
}
