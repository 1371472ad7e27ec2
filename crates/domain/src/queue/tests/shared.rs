//! Several projects on shared workers.

use std::sync::Arc;

use super::*;
use crate::projects::{Terms, Weight};
use crate::worker::Sharing;

fn shared(worker: i64) -> WorkerSnapshot {
    WorkerSnapshot { sharing: Sharing::All, ..offer(worker) }
}

fn theirs<'a>(id: i64, needs: &'a Requirements, pending: usize) -> Class<'a> {
    Class { project: THEIRS, ..class(id, "zoe", needs, pending) }
}

fn counts(order: &[i64]) -> (usize, usize) {
    let of = |id| order.iter().filter(|class| **class == id).count();
    (of(1), of(2))
}

#[test]
fn a_worker_takes_tasks_of_its_project_and_of_those_that_it_is_shared_with() {
    let needs = one_cpu();
    let placed = |sharing: Sharing| {
        let offers = [WorkerSnapshot { sharing, ..offer(1) }];
        counts(
            &decided(
                &[class(1, "ana", &needs, 1), theirs(2, &needs, 1)],
                &InUse::default(),
                &offers,
                &AT_ONCE,
            )
            .1,
        )
    };
    assert_eq!(placed(Sharing::Own), (1, 0));
    assert_eq!(placed(Sharing::All), (1, 1));
    assert_eq!(placed(Sharing::Projects([THEIRS].into())), (1, 1));
    assert_eq!(placed(Sharing::Projects([ProjectId(9)].into())), (1, 0));
    assert_eq!(room(&needs, THEIRS, &[offer(1), shared(2)], None), 4);
}

#[test]
fn projects_get_equal_shares_of_shared_workers_whatever_the_priority_of_their_tasks() {
    let needs = one_cpu();
    let urgent = Class { priority: 99, ..class(1, "ana", &needs, 100) };
    let (_, order) =
        decided(&[urgent, theirs(2, &needs, 100)], &InUse::default(), &[shared(1), shared(2)], &AT_ONCE);
    assert_eq!(counts(&order), (4, 4), "{order:?}");
    // In one project, the priority decides.
    let low = Class { priority: 1, ..class(2, "zoe", &needs, 100) };
    let (_, order) = decided(&[urgent, low], &InUse::default(), &[shared(1), shared(2)], &AT_ONCE);
    assert_eq!(counts(&order), (8, 0));
}

#[test]
fn what_a_project_runs_on_workers_of_its_own_does_not_count_against_it_on_shared_ones() {
    let (needs, gpu) = (one_cpu(), Requirements { countables: [("gpu".to_owned(), 1)].into(), ..one_cpu() });
    let mut in_use = InUse::default();
    in_use.add(OURS, "ana", &needs, 4);
    let mut own = offer(1);
    own.reserve(&needs, 4);
    let pool = WorkerSnapshot { countables: [("gpu".to_owned(), 4)].into(), ..shared(2) };
    let classes = [class(1, "ana", &gpu, 100), theirs(2, &gpu, 100)];
    let (_, order) = decided(&classes, &in_use, &[own.clone(), pool.clone()], &AT_ONCE);
    assert_eq!(counts(&order), (2, 2));
    // What it runs on shared ones does.
    in_use.add_on_shared(OURS, &gpu, 2);
    let mut pool = pool;
    pool.reserve(&gpu, 2);
    let (_, order) = decided(&classes, &in_use, &[own, pool], &AT_ONCE);
    assert_eq!(order, [2, 2]);
    in_use.remove_on_shared(OURS, &gpu, 2);
    assert_eq!(
        in_use.on_shared(OURS),
        Some(&Use { countables: [("gpu".to_owned(), 0)].into(), ..Default::default() })
    );
}

#[test]
fn a_project_with_much_room_of_its_own_leaves_others_their_part_of_a_pass() {
    let nothing = needs(resources(0, 0, 0));
    let own = offer(1);
    let pool =
        WorkerSnapshot { sharing: Sharing::Projects([THEIRS].into()), project: ProjectId(9), ..offer(2) };
    let mut in_use = InUse::default();
    in_use.add_on_shared(THEIRS, &nothing, 3);
    let how = PassOptions { most: 100, ..AT_ONCE };
    let classes = [class(1, "ana", &nothing, 500), theirs(2, &nothing, 500)];
    let (decision, order) = decided(&classes, &in_use, &[own, pool], &how);
    assert_eq!(counts(&order), (50, 50));
    assert!(decision.more);
}

#[test]
fn at_most_a_quarter_of_the_shared_workers_is_kept_for_all_projects_together() {
    let (large, small) = (needs(resources(4_000, 0, 0)), one_cpu());
    let mut offers: Vec<WorkerSnapshot> = (1..=7).map(shared).collect();
    offers.iter_mut().for_each(|offer| offer.reserve(&small, 1));
    let late = Some(Time::UNIX_EPOCH + Span::from_secs(300).to_std());
    let waits = [class(1, "ana", &large, 1), theirs(2, &large, 1)];
    let (decision, _) = decided(&waits, &InUse::default(), &offers, &PassOptions { now: late, ..AT_ONCE });
    assert_eq!(decision.kept.len(), 1);
    offers.push(WorkerSnapshot { reserved: small.resources, ..shared(8) });
    let (decision, _) = decided(&waits, &InUse::default(), &offers, &PassOptions { now: late, ..AT_ONCE });
    assert_eq!(decision.kept.len(), 2);
}

#[test]
fn projects_share_by_their_weights() {
    let needs = one_cpu();
    let offers: Vec<WorkerSnapshot> = (1..=10).map(shared).collect();
    let mut in_use = InUse::default();
    let terms = |weight| Terms { weight: Weight::new(weight).unwrap(), ..Terms::default() };
    in_use.set_terms(Arc::new([(THEIRS, terms(300))].into()));
    let (_, order) =
        decided(&[class(1, "ana", &needs, 99), theirs(2, &needs, 99)], &in_use, &offers, &AT_ONCE);
    assert_eq!(counts(&order), (10, 30));
    // Nobody waits for what the other one does not want.
    let (_, order) =
        decided(&[class(1, "ana", &needs, 99), theirs(2, &needs, 3)], &in_use, &offers, &AT_ONCE);
    assert_eq!(counts(&order), (37, 3));
    assert_eq!((Weight::new(0), Weight::new(1_001)), (None, None));
}

#[test]
fn the_share_of_shared_workers_is_that_of_the_fullest_resource() {
    let mut in_use = InUse::default();
    in_use.add_on_shared(OURS, &needs(resources(1_000, 4, 0)), 1);
    assert_eq!(share_of_shared(&in_use, OURS, &[shared(1), offer(2)]), Some(0.5));
    assert_eq!(share_of_shared(&in_use, OURS, &[offer(2)]), None);
}
