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

const NONE: Rollout = Rollout { count: 3, surge: 0, is_promoted: false };

fn old(index: u32, condition: Condition) -> Instance {
    Instance { index, is_new: false, condition, has_failed: false }
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
    let failed_with = |problem| Next::Failed { index: 3, problem };
    assert_eq!(next(&update(1, 0), surging, &with(failed)), failed_with("failed"));
    let slow = new(3, Condition::Starting(600_000));
    assert_eq!(next(&update(1, 0), surging, &with(slow)), failed_with("was not available in time"));
    let without_room = new(3, Condition::Waiting(600_000));
    assert!(matches!(next(&update(1, 0), surging, &with(without_room)), Next::Replace(_)));
}

/// A service whose instances come, are killed and go, beside its update.
struct World {
    update: Update,
    rollout: Rollout,
    instances: Vec<Instance>,
    /// So many instances have a place.
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
            rollout: Rollout { count, surge: 0, is_promoted: false },
            instances: (0..count).map(|index| old(index, UP)).collect(),
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
                        self.instances.push(new(index, Condition::Waiting(0)));
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
                let lacks_room = self.instances.iter().any(|i| i.index < count && i.is_without_room());
                let has_surge =
                    !lacks_room && self.instances.iter().any(|i| i.index >= count && !i.is_without_room());
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
            assert!(steps < 2_000, "it goes on for ever");
        }
        assert_eq!(world.instances.len(), count as usize);
        assert!(world.instances.iter().all(|instance| instance.is_new && instance.index < count));
    });
}
