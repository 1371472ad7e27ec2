//! Rolling updates: which instance of a service is replaced next.
//!
//! Instances are replaced where they are: an old one is stopped, and its next attempt is of the new version. Before that, as many
//! further instances as may be replaced at once begin with the new version, so that no fewer are available meanwhile; they go when
//! all others are new. Where there is no room for them, or a fixed port is taken, old instances are stopped first.
//!
//! [`next`] is asked again and again, and remembers nothing: everything follows from the instances. So an update continues where it
//! was after a restart of the master.

use crate::spec::Update;

/// After this time, a further instance that waits for a worker counts as one for which there is no room.
pub const NO_ROOM_AFTER_MILLIS: u64 = 10_000;

/// What is kept of an update beside the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// How many instances the service has.
    pub count: u32,
    /// How many further ones there may be at present.
    pub surge: u32,
    /// A user has promoted the update after looking at its canaries.
    pub is_promoted: bool,
}

/// An instance that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// From `count` on, it is a further one.
    pub index: u32,
    /// Whether its attempt, or the next one if it has none, is of the new version.
    pub is_new: bool,
    /// How it is.
    pub condition: Condition,
    /// Whether an attempt of the new version has failed.
    pub has_failed: bool,
}

/// How an instance is, and for how long, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It waits for a worker.
    Waiting(u64),
    /// It is placed or runs, and is not available.
    Starting(u64),
    /// It is available.
    Available(u64),
    /// Its attempt is being stopped.
    Ending,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing before something else happens.
    Wait,
    /// Keep this number of further instances, of the new version.
    Surge(u32),
    /// Replace these instances.
    Replace(Vec<u32>),
    /// The canaries are healthy; a user has to promote the update.
    AwaitPromotion,
    /// All instances are new, and there are no further ones.
    Done,
    /// The new version does not work: this instance failed, or was not available in time.
    Failed {
        /// Its index.
        index: u32,
        /// What is wrong with it, without a subject.
        problem: &'static str,
    },
}

impl Instance {
    /// Whether it is new and has been available for long enough.
    fn is_good(&self, update: &Update) -> bool {
        let is_long_enough = |millis| millis >= update.healthy_for.as_millis();
        self.is_new && matches!(self.condition, Condition::Available(millis) if is_long_enough(millis))
    }

    fn is_available(&self) -> bool {
        matches!(self.condition, Condition::Available(_))
    }

    /// Whether it waits for a worker in vain.
    fn is_without_room(&self) -> bool {
        matches!(self.condition, Condition::Waiting(millis) if millis >= NO_ROOM_AFTER_MILLIS)
    }

    /// What is wrong with it, if it is new.
    fn problem(&self, update: &Update, count: u32) -> Option<&'static str> {
        let within = update.healthy_within.as_millis();
        if !self.is_new {
            return None;
        }
        match self.condition {
            _ if self.has_failed => Some("failed"),
            Condition::Starting(millis) if millis >= within => Some("was not available in time"),
            Condition::Waiting(millis) if millis >= within && self.index < count => {
                Some("found no worker in time")
            }
            _ => None,
        }
    }
}

/// How many further instances an update may have at most.
pub fn most_surge(update: &Update) -> u32 {
    update.parallel.max(update.canary)
}

/// Decides the next step of an update.
pub fn next(update: &Update, rollout: Rollout, instances: &[Instance]) -> Next {
    let Rollout { count, surge, is_promoted } = rollout;
    let of_service = |instance: &&Instance| instance.index < count;
    if let Some((index, problem)) =
        instances.iter().find_map(|instance| Some((instance.index, instance.problem(update, count)?)))
    {
        return Next::Failed { index, problem };
    }
    if instances.iter().filter(of_service).all(|instance| instance.is_good(update)) {
        return match (surge, instances.iter().all(|instance| instance.index < count)) {
            (0, true) => Next::Done,
            (0, false) => Next::Wait,
            _ => Next::Surge(0),
        };
    }

    let good = instances.iter().filter(|instance| instance.is_good(update)).count() as u32;
    let is_on_the_way =
        |instance: &&Instance| instance.is_new && !instance.is_good(update) && !instance.is_without_room();
    // Those that are being stopped come back as new ones.
    let is_leaving = |instance: &&Instance| !instance.is_new && instance.condition == Condition::Ending;
    let leaving = instances.iter().filter(of_service).filter(is_leaving).count() as u32;
    let on_the_way = instances.iter().filter(is_on_the_way).count() as u32 + leaving;
    let is_stuck = |instance: &&Instance| instance.index >= count && instance.is_without_room();
    let stuck = instances.iter().filter(is_stuck).count() as u32;
    let new = instances.iter().filter(|instance| instance.is_new).count() as u32 + leaving;
    let are_canaries_good = good >= update.canary.min(count);
    let goes_on = update.canary == 0 || is_promoted || (update.auto_promote && are_canaries_good);

    let has_old = instances.iter().filter(of_service).any(|instance| !instance.is_new);
    if !has_old && surge > 0 && instances.iter().filter(of_service).any(Instance::is_without_room) {
        return Next::Surge(0);
    }
    let wanted = if goes_on { most_surge(update) } else { update.canary };
    if has_old && surge < wanted {
        return Next::Surge(wanted);
    }
    let mut budget = match goes_on {
        true => update.parallel.saturating_sub(on_the_way),
        // Where there was no room for further ones, the canaries are among those of the service.
        false => update.canary.saturating_sub(new.saturating_sub(stuck)),
    };
    // A further instance may have taken the place of one that was replaced: then there is no room for both.
    let lacks_room = instances.iter().filter(of_service).any(Instance::is_without_room);
    let has_surge = !lacks_room
        && instances.iter().any(|instance| instance.index >= count && !instance.is_without_room());
    let floor = if has_surge { count } else { count.saturating_sub(most_surge(update)) };
    let mut available = instances.iter().filter(|instance| instance.is_available()).count() as u32;
    let mut old: Vec<&Instance> = instances.iter().filter(of_service).filter(|i| !i.is_new).collect();
    old.retain(|instance| instance.condition != Condition::Ending);
    // What is not available is no loss.
    old.sort_by_key(|instance| (instance.is_available(), instance.index));
    let mut replaced = Vec::new();
    for instance in old {
        let cost = u32::from(instance.is_available());
        if budget == 0 || (cost > 0 && available - cost < floor) {
            break;
        }
        (budget, available) = (budget - 1, available - cost);
        replaced.push(instance.index);
    }
    match replaced.is_empty() {
        false => Next::Replace(replaced),
        true if !goes_on && are_canaries_good => Next::AwaitPromotion,
        true => Next::Wait,
    }
}

#[cfg(test)]
mod tests;
