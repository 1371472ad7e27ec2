//! Quotas of projects.

use std::sync::Arc;

use super::*;
use crate::projects::Terms;
use crate::quantity::{Bytes, Cpu};
use crate::quota::{Limited, OverQuota, Quota, Usage};

fn with_quota(quota: Quota) -> InUse {
    let mut in_use = InUse::default();
    in_use.set_terms(Arc::new([(OURS, Terms { quota, ..Terms::default() })].into()));
    in_use
}

#[test]
fn what_exceeds_a_quota_waits_and_holds_up_nothing_that_fits() {
    let (two, half) = (needs(resources(2_000, 0, 0)), needs(resources(500, 0, 0)));
    let mut in_use = with_quota(Quota { cpu: Some(Cpu::from_millis(3_000)), ..Quota::default() });
    in_use.add(OURS, "zoe", &two, 1);
    let urgent = Class { priority: 99, ..class(1, "ana", &two, 5) };
    let theirs = Class { project: THEIRS, ..class(3, "eve", &two, 2) };
    let offers = [offer(1), WorkerSnapshot { project: THEIRS, ..offer(2) }];
    let (decision, order) = decided(&[urgent, class(2, "ana", &half, 9), theirs], &in_use, &offers, &AT_ONCE);
    assert_eq!(order.iter().filter(|id| **id == 2).count(), 2, "{order:?}");
    assert_eq!(order.iter().filter(|id| **id == 3).count(), 2, "another project has no quota");
    let over = |wanted, used| OverQuota { what: Limited::Cpu, wanted, used, limit: 3_000 };
    let mut held: Vec<Deferred> = decision.held;
    held.sort_unstable_by_key(|held| held.class);
    assert_eq!(
        held,
        [
            Deferred { class: 0, hold: WaitReason::Quota(over(2_000, 2_000)) },
            Deferred { class: 1, hold: WaitReason::Quota(over(500, 3_000)) },
        ]
    );
}

#[test]
fn what_ends_makes_room_in_a_quota() {
    let needs = one_cpu();
    let mut in_use = with_quota(Quota { tasks: Some(2), ..Quota::default() });
    in_use.add(OURS, "ana", &needs, 2);
    assert!(matches!(
        in_use.hold(OURS, &needs),
        Some(WaitReason::Quota(OverQuota { what: Limited::Tasks, .. }))
    ));
    in_use.remove(OURS, "ana", &needs, 1);
    assert_eq!(in_use.hold(OURS, &needs), None);
    assert_eq!(in_use.usage(OURS), Usage { cpu_millis: 1_000, memory_bytes: 0, tasks: 1 });
    let (_, order) = decided(&[class(1, "ana", &needs, 9)], &in_use, &[offer(1)], &AT_ONCE);
    assert_eq!(order, [1]);
}

#[test]
fn no_pass_exceeds_a_quota() {
    let mut held_in_all = 0;
    seeds::each(0..200, |mut rng| {
        let (offers, classes) = (any_offers(&mut rng), any_classes(&mut rng));
        let quota = Quota {
            cpu: rng.random_ratio(1, 2).then(|| Cpu::from_millis(rng.random_range(1..8_000))),
            memory: rng.random_ratio(1, 2).then(|| Bytes(rng.random_range(1..16 << 30))),
            tasks: rng.random_ratio(1, 2).then(|| rng.random_range(1..9)),
        };
        let (mut in_use, mut after) = (with_quota(quota), offers);
        let decision = decide(&borrowed(&classes), &mut in_use, &mut after, &mut Turns::default(), &AT_ONCE);
        let Usage { cpu_millis, memory_bytes, tasks } = in_use.usage(OURS);
        assert!(quota.cpu.is_none_or(|cpu| cpu_millis <= u64::from(cpu.millis())), "{quota:?}");
        assert!(quota.memory.is_none_or(|memory| memory_bytes <= memory.get()), "{quota:?}");
        assert!(quota.tasks.is_none_or(|most| tasks <= u64::from(most)), "{quota:?}");
        held_in_all += decision.held.iter().filter(|held| matches!(held.hold, WaitReason::Quota(_))).count();
    });
    assert!(held_in_all > 200, "only {held_in_all}");
}
