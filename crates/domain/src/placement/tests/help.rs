//! What would let a task run, one change at a time.

use super::*;
use crate::placement::{Change, what_would_help};

fn told(needs: &Requirements, offers: &[WorkerSnapshot]) -> Vec<String> {
    what_would_help(needs, offers).iter().map(ToString::to_string).collect()
}

#[test]
fn each_need_that_stands_in_the_way_alone_is_named_with_who_could_take_it_without() {
    let needs = Requirements {
        constraints: vec!["labels.rack == b".parse().unwrap()],
        ..needs(resources(1_000, 0, 0))
    };
    let named = |worker| WorkerSnapshot {
        labels: BTreeMap::from([("rack".to_owned(), "a".to_owned())]),
        ..offer(worker)
    };
    assert_eq!(
        told(&needs, &[named(1), named(2)]),
        ["without the constraint `labels.rack == b`, it can run on 2 workers now, such as w1"]
    );
    let elsewhere = Requirements { constraints: Vec::new(), datacenters: vec!["edge".to_owned()], ..needs };
    assert_eq!(told(&elsewhere, &[offer(1)]), ["in any datacenter, it can run on w1 now"]);
}

#[test]
fn a_task_that_is_too_large_is_told_how_large_it_may_be() {
    let large = needs(resources(8_000, 2, 0));
    let busy = WorkerSnapshot { reserved: resources(3_000, 0, 0), ..offer(2) };
    assert_eq!(told(&large, &[offer(1), busy]), ["with at most 4 cpu, it can run on w1 now"]);
    let wants_gpu = Requirements { countables: [("gpu".to_owned(), 1)].into(), ..needs(resources(0, 0, 0)) };
    assert_eq!(told(&wants_gpu, &[offer(1)]), ["without any gpu, it can run on w1 now"]);
}

#[test]
fn a_worker_that_is_held_back_is_offered_to_be_resumed() {
    let cordoned = WorkerSnapshot { state: WorkerState::Cordoned, ..offer(1) };
    let away = WorkerSnapshot { state: WorkerState::Offline, ..offer(2) };
    let help = what_would_help(&one_cpu(), &[cordoned, away]);
    assert_eq!(help.len(), 1);
    assert_eq!(help[0].change, Change::Resume("w1".to_owned()));
}

#[test]
fn nothing_is_said_where_somebody_can_take_it_or_two_things_are_in_the_way() {
    assert_eq!(what_would_help(&one_cpu(), &[offer(1)]), []);
    let hopeless = Requirements { datacenters: vec!["edge".to_owned()], ..needs(resources(99_000, 0, 0)) };
    assert_eq!(what_would_help(&hopeless, &[offer(1)]), []);
}
