//! What an instance is to an update, from what is stored of it and what its checks say.

use super::{Condition, Instance};
use crate::Time;
use crate::scale::Instances;
use crate::spec::TaskSpec;
use crate::task::StateName;

/// An instance as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Its index.
    pub index: u32,
    /// Its state.
    pub state: StateName,
    /// Since when.
    pub since: Time,
    /// When its attempt started.
    pub started_at: Option<Time>,
    /// Which version its attempt is of.
    pub version: u32,
    /// Which version its next attempt is of, or the present one if it is not to be replaced.
    pub wanted_version: u32,
    /// Whether an attempt of the new version has failed since the update began.
    pub has_failed: bool,
    /// Whether it can run on one worker only, and that takes nothing at present.
    pub is_away: bool,
}

/// What the checks of an attempt say, as far as the present master knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checks {
    /// Since when it has been available; none if it is not.
    pub available_since: Option<Time>,
    /// It is available, or was before.
    pub has_been_available: bool,
}

/// With what instances are compared, and when.
#[derive(Debug, Clone, Copy)]
pub struct Observer {
    /// The version that they are to have.
    pub version: u32,
    /// Those that the service has.
    pub instances: Instances,
    /// The present time.
    pub now: Time,
    /// Since when this master has watched them.
    pub began: Time,
}

impl Observer {
    /// Judges an instance. `task` is the definition of its attempt, `checks` what is known of it if it has checks.
    pub fn judge(&self, observed: &Observed, task: Option<&TaskSpec>, checks: Checks) -> Instance {
        // While there was no master, nothing was placed or reported.
        let waited = |since: Time| self.millis_since(since.max(self.began));
        let limits_at_once = task.is_some_and(|task| task.indices.at_once().is_some());
        let (condition, version) = match observed.state {
            StateName::Blocked => (Condition::Blocked, observed.wanted_version),
            // It may wait for the others of its definition as well.
            StateName::Pending if limits_at_once => (Condition::Blocked, observed.wanted_version),
            StateName::Pending => (Condition::Waiting(waited(observed.since)), observed.wanted_version),
            StateName::Running => {
                let started = observed.started_at.unwrap_or(observed.since);
                let checks = match task.is_some_and(TaskSpec::has_checks) {
                    true => checks,
                    false => Checks { available_since: Some(started), has_been_available: true },
                };
                let condition = match checks {
                    Checks { available_since: Some(since), .. } => {
                        Condition::Available(self.millis_since(since))
                    }
                    Checks { has_been_available: true, .. } => Condition::Interrupted,
                    _ => Condition::Starting(waited(started)),
                };
                (condition, observed.version)
            }
            StateName::Stopping => (Condition::Ending, observed.version),
            _ => (Condition::Starting(waited(observed.since)), observed.version),
        };
        let Observed { index, has_failed, is_away, .. } = *observed;
        let is_further = index >= self.instances.end();
        Instance { index, is_further, is_new: version == self.version, condition, has_failed, is_away }
    }

    fn millis_since(&self, at: Time) -> u64 {
        (self.now - at).num_milliseconds().max(0).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::spec::JobSpec;

    fn at(secs: i64) -> Time {
        Time::from_timestamp(secs, 0).unwrap()
    }

    fn task(more: &serde_json::Value) -> TaskSpec {
        let mut spec = json!({"type": "service", "command": ["x"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        JobSpec::read(&spec).unwrap().tasks.remove(0)
    }

    fn observer() -> Observer {
        let instances = Instances { first: 0, count: 3 };
        Observer { version: 2, instances, now: at(1_000), began: at(900) }
    }

    fn observed(state: StateName, since: i64) -> Observed {
        let started_at = (state == StateName::Running).then(|| at(since));
        Observed {
            index: 0,
            state,
            since: at(since),
            started_at,
            version: 2,
            wanted_version: 2,
            has_failed: false,
            is_away: false,
        }
    }

    fn condition(observed: &Observed, task: &TaskSpec, checks: Checks) -> Condition {
        observer().judge(observed, Some(task), checks).condition
    }

    #[test]
    fn nothing_waits_while_no_master_runs() {
        let plain = task(&json!({}));
        let of = |state, since| condition(&observed(state, since), &plain, Checks::default());
        assert_eq!(of(StateName::Pending, 990), Condition::Waiting(10_000));
        assert_eq!(of(StateName::Pending, 100), Condition::Waiting(100_000));
        assert_eq!(of(StateName::Scheduled, 100), Condition::Starting(100_000));
        let checked = task(&json!({"readiness": {"command": ["x"]}}));
        let running = observed(StateName::Running, 100);
        assert_eq!(condition(&running, &checked, Checks::default()), Condition::Starting(100_000));
    }

    #[test]
    fn an_instance_without_checks_is_available_from_its_start_on() {
        let running = observed(StateName::Running, 100);
        let available = Condition::Available(900_000);
        assert_eq!(condition(&running, &task(&json!({})), Checks::default()), available);
    }

    #[test]
    fn an_instance_that_was_available_before_is_interrupted_and_starts_no_more() {
        let checked = task(&json!({"readiness": {"command": ["x"]}}));
        let running = observed(StateName::Running, 950);
        let of = |available_since, has_been_available| {
            condition(&running, &checked, Checks { available_since, has_been_available })
        };
        assert_eq!(of(None, false), Condition::Starting(50_000));
        assert_eq!(of(Some(at(960)), true), Condition::Available(40_000));
        assert_eq!(of(None, true), Condition::Interrupted);
    }

    #[test]
    fn what_waits_for_other_tasks_is_blocked_also_where_these_are_of_its_own_definition() {
        let plain = task(&json!({}));
        let blocked = observed(StateName::Blocked, 100);
        assert_eq!(condition(&blocked, &plain, Checks::default()), Condition::Blocked);
        let one_by_one = task(&json!({"array": "0-2%1"}));
        let pending = observed(StateName::Pending, 100);
        assert_eq!(condition(&pending, &one_by_one, Checks::default()), Condition::Blocked);
    }

    #[test]
    fn an_instance_is_of_the_version_of_its_attempt_or_of_the_next_one_and_further_behind_the_others() {
        let plain = task(&json!({}));
        let replaced = |state| {
            let old = Observed { version: 1, index: 7, ..observed(state, 950) };
            let instances = Instances { first: 5, count: 3 };
            Observer { instances, ..observer() }.judge(&old, Some(&plain), Checks::default())
        };
        assert!(replaced(StateName::Pending).is_new && !replaced(StateName::Stopping).is_new);
        assert!(!replaced(StateName::Running).is_further);
        let further = Observed { index: 3, ..observed(StateName::Running, 950) };
        assert!(observer().judge(&further, Some(&plain), Checks::default()).is_further);
    }
}
