//! Rolling updates: which instance of a service is replaced next.
//!
//! Instances are replaced where they are: an old one is stopped, and its next attempt is of the new version. Before that, as many
//! further instances as may be replaced at once begin with the new version, so that no fewer are available meanwhile; they go when
//! all others are new. Where there is no room for them, or a fixed port is taken, old instances are stopped first.
//!
//! [`next`] is asked again and again, and remembers nothing: everything follows from the instances. So an update continues where it
//! was after a restart of the master. Times count from that restart at the earliest: what happened while no master ran is no delay
//! of an instance.

use crate::quantity::Span;
use crate::spec::{TaskSpec, Update};

mod observed;

pub use observed::{Checks, Observed, Observer};

/// After this time, a further instance that waits for a worker counts as one for which there is no room.
pub const NO_ROOM_AFTER_MILLIS: u64 = 10_000;

/// What is known of an update beside the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// How many instances the service has, without those that are away.
    pub count: u32,
    /// How many further ones there may be at present.
    pub surge: u32,
    /// Whether there may be further ones at all. Where the indices of instances have a meaning, or other tasks wait for the
    /// instances, there may not.
    pub can_surge: bool,
    /// A user has looked at the canaries and wants the update to continue.
    pub is_promoted: bool,
    /// It takes an earlier version back: there is no other one to go to, so it fails for no reason.
    pub reverts: bool,
    /// An instance of the new version has ended for good since the update began.
    pub has_ended: bool,
    /// For how long no step was taken, in milliseconds.
    pub idle_millis: u64,
}

/// An instance that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Its index.
    pub index: u32,
    /// It is beside the instances that the service has.
    pub is_further: bool,
    /// Whether its attempt, or the next one if it has none, is of the new version.
    pub is_new: bool,
    /// How it is.
    pub condition: Condition,
    /// Whether an attempt of the new version has failed.
    pub has_failed: bool,
    /// Whether it can run on one worker only, and that takes nothing at present. Nothing is expected of it: if it has no attempt, its
    /// next one is of the new version, whenever that is; an old attempt is left alone until its worker takes another one.
    pub is_away: bool,
}

/// How an instance is, and for how long, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It waits for other tasks, for as long as these take.
    Blocked,
    /// It waits for a worker.
    Waiting(u64),
    /// It is placed or runs, and has not been available yet.
    Starting(u64),
    /// It is available.
    Available(u64),
    /// It has been available, and is not at present.
    Interrupted,
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
    /// The canaries are as they should be; a user has to say that the update continues.
    AwaitPromotion,
    /// All instances are new, and there are no further ones.
    Done,
    /// The new version does not work.
    Failed(Problem),
}

/// Why an update fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// An instance of the new version has ended for good.
    Ended,
    /// An attempt of the instance with this index has failed.
    Failed(u32),
    /// The instance with this index was not available in time.
    NotAvailable(u32),
    /// The instance with this index was not placed in time.
    NoWorker(u32),
    /// No step was taken for this long: instances become available, but do not stay so.
    NoProgress(Span),
}

impl Problem {
    /// As an event and the page say it.
    pub fn message(self, version: u32, task: &TaskSpec) -> String {
        let of = |index, what| format!("an instance of version {version} {what}: {}", task.address(index));
        match self {
            Problem::Ended => format!("an instance of version {version} of {} has ended", task.name),
            Problem::Failed(index) => of(index, "failed"),
            Problem::NotAvailable(index) => of(index, "was not available in time"),
            Problem::NoWorker(index) => of(index, "found no worker in time"),
            Problem::NoProgress(span) => {
                format!("the update of {} to version {version} has made no progress for {span}", task.name)
            }
        }
    }
}

impl Instance {
    /// Whether it is new and has been available for long enough. One that waits for other tasks is not judged.
    fn is_good(&self, update: &Update) -> bool {
        let is_long_enough = |millis| millis >= update.healthy_for.as_millis();
        let is_as_it_should_be = match self.condition {
            Condition::Available(millis) => is_long_enough(millis),
            Condition::Blocked => true,
            _ => false,
        };
        self.is_new && (is_as_it_should_be || self.is_away)
    }

    fn is_available(&self) -> bool {
        matches!(self.condition, Condition::Available(_))
    }

    /// Whether it waits for a worker in vain.
    fn is_without_room(&self) -> bool {
        matches!(self.condition, Condition::Waiting(millis) if millis >= NO_ROOM_AFTER_MILLIS)
    }

    /// What is wrong with it, if it is new.
    fn problem(&self, update: &Update) -> Option<Problem> {
        let within = update.healthy_within.as_millis();
        if !self.is_new {
            return None;
        }
        match self.condition {
            _ if self.has_failed => Some(Problem::Failed(self.index)),
            _ if self.is_away => None,
            Condition::Starting(millis) if millis >= within => Some(Problem::NotAvailable(self.index)),
            Condition::Waiting(millis) if millis >= within && !self.is_further => {
                Some(Problem::NoWorker(self.index))
            }
            _ => None,
        }
    }
}

/// How many further instances an update may have at most, if it may have any.
pub fn most_surge(update: &Update) -> u32 {
    update.parallel.max(update.canary)
}

/// An update that takes no step for this long fails: an instance may take `healthy_within` to be placed, as long to become
/// available, and has to stay so for `healthy_for`.
pub fn progress_within(update: &Update) -> Span {
    let millis = update.healthy_within.as_millis();
    Span::from_millis(millis.saturating_mul(2).saturating_add(update.healthy_for.as_millis()))
}

/// Whether an update that has failed is undone. `from` is the version of the job before it, `to` the version of the definition.
pub fn is_undone(update: &Update, rollout: Rollout, (from, to): (u32, u32)) -> bool {
    update.auto_revert && !rollout.reverts && from != to
}

/// Decides the next step of an update.
pub fn next(update: &Update, rollout: Rollout, instances: &[Instance]) -> Next {
    if rollout.reverts {
        return step(update, rollout, instances);
    }
    if rollout.has_ended {
        return Next::Failed(Problem::Ended);
    }
    if let Some(problem) = instances.iter().find_map(|instance| instance.problem(update)) {
        return Next::Failed(problem);
    }
    // What waits for other tasks takes as long as these, a stop as long as its grace period or a lost worker, and who has cordoned a
    // worker decides for how long that is.
    let has_other_limit = |instance: &Instance| match instance.condition {
        Condition::Blocked => instance.is_new,
        Condition::Ending => true,
        _ => instance.is_away && !instance.is_new,
    };
    let limit = progress_within(update);
    match step(update, rollout, instances) {
        Next::Wait if rollout.idle_millis >= limit.as_millis() && !instances.iter().any(has_other_limit) => {
            Next::Failed(Problem::NoProgress(limit))
        }
        next => next,
    }
}

/// The next step of an update of which nothing has failed.
fn step(update: &Update, rollout: Rollout, instances: &[Instance]) -> Next {
    let Rollout { count, surge, can_surge, is_promoted, .. } = rollout;
    let of_service = |instance: &&Instance| !instance.is_further;
    if instances.iter().filter(of_service).all(|instance| instance.is_good(update)) {
        return match (surge, instances.iter().all(|instance| !instance.is_further)) {
            (0, true) => Next::Done,
            (0, false) => Next::Wait,
            _ => Next::Surge(0),
        };
    }

    let (away, instances): (Vec<&Instance>, Vec<&Instance>) =
        instances.iter().partition(|instance| instance.is_away);
    let instances: Vec<Instance> = instances.into_iter().copied().collect();
    let good = instances.iter().filter(|instance| instance.is_good(update)).count() as u32;
    let is_on_the_way =
        |instance: &&Instance| instance.is_new && !instance.is_good(update) && !instance.is_without_room();
    // Those that are being stopped come back as new ones.
    let is_leaving = |instance: &&Instance| !instance.is_new && instance.condition == Condition::Ending;
    let leaving = instances.iter().filter(of_service).filter(is_leaving).count() as u32;
    let on_the_way = instances.iter().filter(is_on_the_way).count() as u32 + leaving;
    let is_stuck = |instance: &&Instance| instance.is_further && instance.is_without_room();
    let stuck = instances.iter().filter(is_stuck).count() as u32;
    let new = instances.iter().filter(|instance| instance.is_new).count() as u32 + leaving;
    let are_canaries_good = good >= update.canary.min(count);
    let continues = update.canary == 0 || is_promoted || (update.auto_promote && are_canaries_good);

    let has_old = instances.iter().filter(of_service).any(|instance| !instance.is_new);
    if !has_old && surge > 0 && instances.iter().filter(of_service).any(Instance::is_without_room) {
        return Next::Surge(0);
    }
    let wanted = match (can_surge, continues) {
        (false, _) => 0,
        (true, true) => most_surge(update),
        (true, false) => update.canary,
    };
    // One that waits for other tasks does nothing that another would have to do for it.
    let is_at_work = |instance: &Instance| !instance.is_new && instance.condition != Condition::Blocked;
    let has_work = instances.iter().filter(of_service).any(is_at_work);
    if has_work && surge < wanted {
        return Next::Surge(wanted);
    }
    let mut budget = match continues {
        true => update.parallel.saturating_sub(on_the_way),
        // Where there was no room for further ones, the canaries are among those of the service.
        false => update.canary.saturating_sub(new.saturating_sub(stuck)),
    };
    // A further instance may have taken the place of one that was replaced: then there is no room for both.
    let lacks_room = instances.iter().filter(of_service).any(Instance::is_without_room);
    let has_surge =
        !lacks_room && instances.iter().any(|instance| instance.is_further && !instance.is_without_room());
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
    if continues {
        let waits =
            |instance: &&Instance| !instance.is_new && matches!(instance.condition, Condition::Waiting(_));
        replaced.extend(away.into_iter().filter(waits).map(|instance| instance.index));
    }
    match replaced.is_empty() {
        false => Next::Replace(replaced),
        true if !continues && are_canaries_good => Next::AwaitPromotion,
        true => Next::Wait,
    }
}

#[cfg(test)]
mod tests;
