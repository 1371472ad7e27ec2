#![allow(clippy::unwrap_used, clippy::panic)]

use rand::Rng as _;
use rand::rngs::StdRng;

use super::*;
use crate::quantity::Span;
use crate::seeds::each;

fn update(parallel: u32, canary: u32) -> Update {
    Update {
        parallel,
        canary,
        healthy_for: Span::from_secs(1),
        healthy_within: Span::from_secs(600),
        auto_promote: true,
        auto_revert: true,
    }
}

const NONE: Rollout = Rollout {
    count: 3,
    surge: 0,
    can_surge: true,
    is_promoted: false,
    reverts: false,
    has_ended: false,
    idle_millis: 0,
};

fn old(index: u32, condition: Condition) -> Instance {
    Instance { index, is_further: index >= 3, is_new: false, condition, has_failed: false, is_away: false }
}

fn new(index: u32, condition: Condition) -> Instance {
    Instance { is_new: true, ..old(index, condition) }
}

const UP: Condition = Condition::Available(5_000);

#[test]
fn a_further_instance_begins_before_an_old_one_is_stopped() {
    let before = [old(0, UP), old(1, UP), old(2, UP)];
    assert_eq!(next(&update(1, 0), NONE, &before), Next::Surge(1));
    let surging = Rollout { surge: 1, ..NONE };
    let with = |condition| [&before[..], &[new(3, condition)]].concat();
    assert_eq!(next(&update(1, 0), surging, &with(Condition::Waiting(0))), Next::Wait);
    assert_eq!(next(&update(1, 0), surging, &with(Condition::Available(999))), Next::Wait);
    assert_eq!(next(&update(1, 0), surging, &with(UP)), Next::Replace(vec![0]));
}

#[test]
fn without_room_for_a_further_instance_an_old_one_is_stopped_first() {
    let surging = Rollout { surge: 1, ..NONE };
    let stuck = Condition::Waiting(NO_ROOM_AFTER_MILLIS);
    let instances = [old(0, UP), old(1, UP), old(2, UP), new(3, stuck)];
    assert_eq!(next(&update(1, 0), surging, &instances), Next::Replace(vec![0]));
    let first = [old(0, Condition::Ending), old(1, UP), old(2, UP), new(3, stuck)];
    assert_eq!(next(&update(2, 0), Rollout { surge: 2, ..NONE }, &first), Next::Replace(vec![1]));
    assert_eq!(next(&update(1, 0), surging, &first), Next::Wait, "one at once");
    let meanwhile = [new(0, Condition::Starting(0)), old(1, UP), old(2, UP), new(3, stuck)];
    assert_eq!(next(&update(1, 0), surging, &meanwhile), Next::Wait);
    let then = [new(0, UP), old(1, UP), old(2, UP), new(3, stuck)];
    assert_eq!(next(&update(1, 0), surging, &then), Next::Replace(vec![1]));
}

#[test]
fn a_further_instance_that_took_the_place_of_another_gives_it_back_in_the_end() {
    let surging = Rollout { surge: 1, ..NONE };
    let stuck = Condition::Waiting(NO_ROOM_AFTER_MILLIS);
    let instances = [new(0, stuck), old(1, UP), old(2, UP), new(3, UP)];
    assert_eq!(
        next(&update(1, 0), surging, &instances),
        Next::Replace(vec![1]),
        "no more are there to wait for"
    );
    let instances = [new(0, UP), new(1, UP), new(2, stuck), new(3, UP)];
    assert_eq!(next(&update(1, 0), surging, &instances), Next::Surge(0));
}

#[test]
fn an_instance_that_is_not_available_is_replaced_first() {
    let surging = Rollout { surge: 1, ..NONE };
    let instances = [old(0, UP), old(1, UP), old(2, Condition::Starting(9)), new(3, UP)];
    assert_eq!(next(&update(1, 0), surging, &instances), Next::Replace(vec![2]));
}

#[test]
fn canaries_come_alone_until_they_are_good_or_promoted() {
    let canary = Update { auto_promote: false, ..update(2, 1) };
    let before = [old(0, UP), old(1, UP), old(2, UP)];
    assert_eq!(next(&canary, NONE, &before), Next::Surge(1), "not as many as are replaced at once later");
    let surging = Rollout { surge: 1, ..NONE };
    let with = |condition| [&before[..], &[new(3, condition)]].concat();
    assert_eq!(next(&canary, surging, &with(Condition::Starting(0))), Next::Wait);
    assert_eq!(next(&canary, surging, &with(UP)), Next::AwaitPromotion);
    let promoted = Rollout { is_promoted: true, ..surging };
    assert_eq!(next(&canary, promoted, &with(UP)), Next::Surge(2));
    let by_itself = Update { auto_promote: true, ..canary };
    assert_eq!(next(&by_itself, surging, &with(UP)), Next::Surge(2));
}

#[test]
fn further_instances_go_when_all_others_are_new() {
    let surging = Rollout { surge: 1, ..NONE };
    let instances = [new(0, UP), new(1, UP), new(2, UP), new(3, UP)];
    assert_eq!(next(&update(1, 0), surging, &instances), Next::Surge(0));
    assert_eq!(next(&update(1, 0), NONE, &instances), Next::Wait);
    assert_eq!(next(&update(1, 0), NONE, &instances[..3]), Next::Done);
}

#[test]
fn a_new_instance_that_fails_or_takes_too_long_fails_the_update_and_an_old_one_does_not() {
    let surging = Rollout { surge: 1, ..NONE };
    let with = |last| [old(0, UP), old(1, UP), old(2, Condition::Starting(1 << 40)), last];
    let failed = Instance { has_failed: true, ..new(3, Condition::Waiting(0)) };
    assert_eq!(next(&update(1, 0), surging, &with(failed)), Next::Failed(Problem::Failed(3)));
    let slow = new(3, Condition::Starting(600_000));
    assert_eq!(next(&update(1, 0), surging, &with(slow)), Next::Failed(Problem::NotAvailable(3)));
    let without_room = new(3, Condition::Waiting(600_000));
    assert!(matches!(next(&update(1, 0), surging, &with(without_room)), Next::Replace(_)));
    let of_service = [new(0, Condition::Waiting(600_000)), old(1, UP), old(2, UP)];
    assert_eq!(next(&update(1, 0), surging, &of_service), Next::Failed(Problem::NoWorker(0)));
    let ended = Rollout { has_ended: true, ..surging };
    assert_eq!(next(&update(1, 0), ended, &with(new(3, UP))), Next::Failed(Problem::Ended));
    // There is nothing to go to from an earlier version.
    let reverts = Rollout { reverts: true, has_ended: true, idle_millis: u64::MAX, ..surging };
    for last in [failed, slow] {
        assert_eq!(next(&update(1, 0), reverts, &with(last)), Next::Wait);
    }
}

#[test]
fn an_instance_that_was_available_before_does_not_fail_the_update_for_being_interrupted() {
    let surging = Rollout { surge: 1, ..NONE };
    let instances = [new(0, Condition::Interrupted), old(1, UP), old(2, UP), new(3, UP)];
    assert_eq!(next(&update(1, 0), surging, &instances), Next::Wait, "it is waited for");
}

#[test]
fn an_update_without_progress_fails_but_not_while_something_else_limits_what_it_waits_for() {
    let limit = progress_within(&update(1, 0)).as_millis();
    assert_eq!(limit, 1_201_000);
    let idle = Rollout { surge: 1, idle_millis: limit, ..NONE };
    let with = |condition| [new(0, condition), old(1, UP), old(2, UP), new(3, UP)];
    let failed = Next::Failed(Problem::NoProgress(Span::from_millis(limit)));
    assert_eq!(next(&update(1, 0), idle, &with(Condition::Interrupted)), failed);
    let soon = Rollout { idle_millis: limit - 1, ..idle };
    assert_eq!(next(&update(1, 0), soon, &with(Condition::Interrupted)), Next::Wait);
    assert_eq!(next(&update(1, 0), idle, &with(Condition::Ending)), Next::Wait);
    let canary = Update { auto_promote: false, ..update(1, 1) };
    let waits = [old(0, UP), old(1, UP), old(2, UP), new(3, UP)];
    assert_eq!(next(&canary, idle, &waits), Next::AwaitPromotion, "a user takes as long as a user takes");
}

#[test]
fn what_waits_for_other_tasks_is_not_judged_and_holds_nothing_up() {
    let long = Rollout { idle_millis: u64::MAX, ..NONE };
    let blocked = [0, 1, 2].map(|index| new(index, Condition::Blocked));
    assert_eq!(next(&update(1, 0), long, &blocked), Next::Done);
    let old_ones = [0, 1, 2].map(|index| old(index, Condition::Blocked));
    let without = Rollout { can_surge: false, ..NONE };
    assert_eq!(next(&update(1, 0), without, &old_ones), Next::Replace(vec![0]));
    assert_eq!(next(&update(1, 0), NONE, &old_ones), Next::Replace(vec![0]), "none is needed beside them");
    // A further one that waits for a new task takes no other's place, however long that task takes.
    let surging = Rollout { surge: 1, ..long };
    let with = [old(0, UP), old(1, UP), old(2, UP), new(3, Condition::Blocked)];
    assert_eq!(next(&update(1, 0), surging, &with), Next::Wait);
}

#[test]
fn where_there_may_be_no_further_instances_as_many_are_stopped_as_may_be_replaced_at_once() {
    let without = Rollout { can_surge: false, ..NONE };
    let before = [old(0, UP), old(1, UP), old(2, UP)];
    assert_eq!(next(&update(1, 0), without, &before), Next::Replace(vec![0]));
    assert_eq!(next(&update(2, 0), without, &before), Next::Replace(vec![0, 1]));
    let canary = Update { auto_promote: false, ..update(2, 1) };
    assert_eq!(next(&canary, without, &before), Next::Replace(vec![0]));
    let then = [new(0, UP), old(1, UP), old(2, UP)];
    assert_eq!(next(&canary, without, &then), Next::AwaitPromotion);
    let last = [new(0, UP), new(1, UP), new(2, UP)];
    assert_eq!(next(&update(1, 0), without, &last), Next::Done);
}

/// One instance on each worker, of which some take nothing at present.
fn on_workers(count: u32) -> Rollout {
    Rollout { count, can_surge: false, ..NONE }
}

fn away(instance: Instance) -> Instance {
    Instance { is_away: true, is_further: false, ..instance }
}

#[test]
fn an_instance_whose_worker_is_away_gets_the_new_version_and_nobody_waits_for_it() {
    let lost = away(old(0, Condition::Waiting(1 << 40)));
    let before = [lost, old(1, UP), old(2, UP)];
    let first = Next::Replace(vec![1, 0]);
    assert_eq!(next(&update(1, 0), on_workers(2), &before), first, "the one that waits is beside the others");
    let long = Rollout { idle_millis: u64::MAX, ..on_workers(2) };
    let waits = away(new(0, Condition::Waiting(1 << 40)));
    assert_eq!(next(&update(1, 0), long, &[waits, new(1, UP), new(2, UP)]), Next::Done);
    assert_eq!(next(&update(1, 0), on_workers(0), &[waits]), Next::Done);
    // That it waits is no problem of the version, but others are.
    let stuck = [waits, new(1, Condition::Interrupted), new(2, UP)];
    assert!(matches!(next(&update(1, 0), long, &stuck), Next::Failed(Problem::NoProgress(_))));
}

#[test]
fn an_old_instance_on_a_worker_that_takes_nothing_is_left_alone_for_as_long_as_that_is_so() {
    let long = Rollout { idle_millis: u64::MAX, ..on_workers(2) };
    let cordoned = away(old(0, UP));
    let instances = [cordoned, new(1, UP), new(2, UP)];
    assert_eq!(next(&update(1, 0), long, &instances), Next::Wait, "it could not come back");
    let resumed = [old(0, UP), new(1, UP), new(2, UP)];
    assert_eq!(next(&update(1, 0), on_workers(3), &resumed), Next::Replace(vec![0]));
}

#[test]
fn an_instance_whose_worker_is_away_is_no_canary() {
    let canary = Update { auto_promote: false, ..update(1, 1) };
    let lost = away(old(0, Condition::Waiting(0)));
    let before = [lost, old(1, UP), old(2, UP)];
    assert_eq!(next(&canary, on_workers(2), &before), Next::Replace(vec![1]));
    let starting = [lost, new(1, Condition::Starting(0)), old(2, UP)];
    assert_eq!(next(&canary, on_workers(2), &starting), Next::Wait);
    let good = [lost, new(1, UP), old(2, UP)];
    assert_eq!(next(&canary, on_workers(2), &good), Next::AwaitPromotion);
    let promoted = Rollout { is_promoted: true, ..on_workers(2) };
    assert_eq!(next(&canary, promoted, &good), Next::Replace(vec![2, 0]));
}

#[test]
fn an_update_is_undone_unless_it_undoes_another_or_there_is_nothing_to_go_back_to() {
    let update = update(1, 0);
    assert!(is_undone(&update, NONE, (1, 2)));
    assert!(!is_undone(&Update { auto_revert: false, ..update }, NONE, (1, 2)));
    assert!(!is_undone(&update, Rollout { reverts: true, ..NONE }, (1, 2)));
    assert!(!is_undone(&update, NONE, (1, 1)), "an earlier definition was taken up again by hand");
}

/// A service whose instances come, are killed and go, beside its update.
struct World {
    update: Update,
    rollout: Rollout,
    instances: Vec<Instance>,
    /// How many instances have a place.
    room: u32,
    /// Instances above the count that are to go.
    has_fixed_port: bool,
}

impl World {
    fn any(rng: &mut StdRng) -> World {
        let count = rng.random_range(1..7);
        let mut update = update(rng.random_range(1..4), rng.random_range(0..3));
        update.auto_promote = rng.random();
        let room = count + rng.random_range(0..4);
        World {
            update,
            rollout: Rollout { count, can_surge: rng.random_ratio(4, 5), ..NONE },
            instances: (0..count).map(|index| Instance { is_further: false, ..old(index, UP) }).collect(),
            room,
            has_fixed_port: rng.random_ratio(1, 4),
        }
    }

    fn available(&self) -> u32 {
        self.instances.iter().filter(|instance| instance.is_available()).count() as u32
    }

    fn executing(&self) -> u32 {
        let waits = |instance: &&Instance| matches!(instance.condition, Condition::Waiting(_));
        (self.instances.len() - self.instances.iter().filter(waits).count()) as u32
    }

    /// Time passes.
    fn pass(&mut self, rng: &mut StdRng, kills: bool) {
        let millis = rng.random_range(1..3_000);
        let room = if self.has_fixed_port { self.rollout.count.min(self.room) } else { self.room };
        let mut free = room.saturating_sub(self.executing());
        for instance in &mut self.instances {
            let goes_on = rng.random_ratio(3, 4);
            instance.condition = match instance.condition {
                Condition::Waiting(_) if free > 0 && goes_on => {
                    free -= 1;
                    Condition::Starting(0)
                }
                Condition::Waiting(since) => Condition::Waiting(since + millis),
                Condition::Starting(_) if goes_on => Condition::Available(0),
                Condition::Starting(since) => Condition::Starting(since + millis),
                Condition::Available(_) if kills && rng.random_ratio(1, 20) => Condition::Waiting(0),
                Condition::Available(_) if kills && rng.random_ratio(1, 20) => Condition::Interrupted,
                Condition::Interrupted if goes_on => Condition::Available(0),
                Condition::Interrupted => Condition::Interrupted,
                Condition::Blocked => Condition::Blocked,
                Condition::Available(since) => Condition::Available(since + millis),
                Condition::Ending if goes_on && instance.index < self.rollout.count + self.rollout.surge => {
                    instance.is_new = true;
                    Condition::Waiting(0)
                }
                Condition::Ending => Condition::Ending,
            };
        }
        let (all, goes) = (self.rollout.count + self.rollout.surge, rng.random_ratio(3, 4));
        self.instances.retain(|i| i.index < all || i.condition != Condition::Ending || !goes);
    }

    /// Carries a step out. Returns whether the update is done.
    fn step(&mut self) -> bool {
        let (count, floor) =
            (self.rollout.count, self.rollout.count.saturating_sub(most_surge(&self.update)));
        let before = self.available();
        match next(&self.update, self.rollout, &self.instances) {
            Next::Wait => {}
            Next::AwaitPromotion => self.rollout.is_promoted = true,
            Next::Surge(surge) => {
                self.rollout.surge = surge;
                for instance in self.instances.iter_mut().filter(|i| i.index >= count + surge) {
                    instance.condition = Condition::Ending;
                }
                for index in count..count + surge {
                    if !self.instances.iter().any(|instance| instance.index == index) {
                        assert!(self.rollout.can_surge, "there may be no further ones");
                        let further = Instance { is_further: true, ..new(index, Condition::Waiting(0)) };
                        self.instances.push(further);
                    }
                }
            }
            Next::Replace(replaced) => {
                for index in replaced {
                    let instance = self.instances.iter_mut().find(|i| i.index == index).unwrap();
                    assert!(!instance.is_new, "what is new is not replaced");
                    match instance.condition {
                        Condition::Waiting(_) => instance.is_new = true,
                        _ => instance.condition = Condition::Ending,
                    }
                }
                let after = self.available();
                assert!(after == before || after >= floor, "{before} were available, {after} are");
                let lacks_room = self.instances.iter().any(|i| !i.is_further && i.is_without_room());
                let has_surge =
                    !lacks_room && self.instances.iter().any(|i| i.is_further && !i.is_without_room());
                assert!(after == before || !has_surge || after >= count, "{before}, then {after}");
            }
            Next::Done => return true,
            Next::Failed { .. } => panic!("nothing has failed"),
        }
        false
    }
}

#[test]
fn random_updates_end_with_all_instances_new_and_never_have_too_many_or_too_few() {
    each(0..300, |mut rng| {
        let rng = &mut rng;
        let mut world = World::any(rng);
        let (count, most) = (world.rollout.count, world.rollout.count + most_surge(&world.update));
        let mut steps = 0;
        while !world.step() {
            assert!(world.executing() <= most);
            let new = world.instances.iter().filter(|instance| instance.is_new).count() as u32;
            let good = world.instances.iter().filter(|i| i.is_good(&world.update)).count() as u32;
            let awaits = world.update.canary > 0 && !world.rollout.is_promoted;
            if awaits && !world.update.auto_promote && good == 0 {
                assert!(new <= world.update.canary * 2, "{new} new before the canaries are good");
            }
            world.pass(rng, steps < 200);
            steps += 1;
            assert!(steps < 2_000, "it does not end");
        }
        assert_eq!(world.instances.len(), count as usize);
        assert!(world.instances.iter().all(|instance| instance.is_new && instance.index < count));
    });
}
