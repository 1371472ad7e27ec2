//! Decides which blocked tasks run, from the states of the tasks they depend on: `depends_on`, `when` and `max_failures`.
//!
//! Everything follows from how many tasks of each definition are in which state, so a job of 100,000 tasks costs no more
//! than one of ten. The decisions are made anew after every change; what was decided stays decided, as the counts of
//! final states only grow.

use crate::job::TaskCounts;
use crate::quantity::listed;
use crate::reason::{Reason, ReasonCode};
use crate::spec::{Awaited, IndexMatch, JobSpec, On, TaskSpec, When, all_awaited};
use crate::task::{AfterStop, StateName, StopCause};

/// Task counts of one definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Tasks by state.
    pub counts: TaskCounts,
    /// The cancelled ones that were skipped: see [`StateName::is_skipped`]. They are no failures.
    pub skipped: i64,
}

/// Which tasks of a job are to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopScope {
    /// None: the job is not being stopped.
    None,
    /// All but those that clean up.
    AllButCleanup,
    /// All, by a stop with `force`.
    All,
}

/// What is to be done about the tasks of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its blocked tasks may run.
    Release,
    /// Its blocked tasks will never run.
    CannotRun(Reason),
    /// All of its tasks that have not ended are to be stopped.
    Stop(StopCause),
    /// Each blocked task is judged by what came of the tasks with its index in these definitions: see [`judge_each`]. That is so
    /// from when all else that the definition waits for has come.
    EachByIndex(Vec<usize>),
}

impl StopScope {
    /// Of a job that is being stopped, or is not.
    pub fn of(is_stopping: bool, force: bool) -> StopScope {
        match (is_stopping, force) {
            (false, _) => StopScope::None,
            (true, false) => StopScope::AllButCleanup,
            (true, true) => StopScope::All,
        }
    }

    /// Whether the tasks of a definition are to stop.
    pub fn covers(self, definition: &TaskSpec) -> bool {
        match self {
            StopScope::None => false,
            StopScope::AllButCleanup => !definition.is_cleanup(),
            StopScope::All => true,
        }
    }
}

impl Standing {
    /// Of a single task.
    pub fn of_task(state: StateName, is_skipped: bool) -> Standing {
        let mut standing = Standing { skipped: is_skipped.into(), ..Standing::default() };
        standing.counts.add(state, 1);
        standing
    }

    /// Whether all of its tasks have ended.
    fn has_ended(&self) -> bool {
        self.counts.unfinished() == 0
    }

    /// Whether a task of it failed, or was cancelled and not skipped.
    fn has_failures(&self) -> bool {
        self.counts.get(StateName::Failed) > 0 || self.counts.get(StateName::Cancelled) > self.skipped
    }

    fn has_anything_to_stop(&self) -> bool {
        let states = [StateName::Blocked, StateName::Pending, StateName::Scheduled, StateName::Running];
        states.into_iter().any(|state| self.counts.get(state) > 0)
    }
}

/// Decides for each definition what is to be done about its tasks now, by its position; nothing for most of them.
/// `standings` are those of all definitions, in their order.
pub fn decide(spec: &JobSpec, standings: &[Standing], stop: StopScope) -> Vec<(usize, Verdict)> {
    let failed: i64 = standings.iter().map(|standing| standing.counts.get(StateName::Failed)).sum();
    let mut awaited = None;
    let mut verdicts = Vec::new();
    for (position, (definition, standing)) in spec.tasks.iter().zip(standings).enumerate() {
        // The tasks that a stop covers are cancelled by it.
        if stop.covers(definition) {
            continue;
        }
        let verdict = if let Some(cause) = too_many_failures(spec, definition, standing, failed) {
            standing.has_anything_to_stop().then_some(Verdict::Stop(cause))
        } else if standing.counts.get(StateName::Blocked) > 0 {
            let awaited = awaited.get_or_insert_with(|| all_awaited(&spec.tasks));
            judge_definition(spec, definition, &awaited[position], standings)
        } else {
            None
        };
        verdicts.extend(verdict.map(|verdict| (position, verdict)));
    }
    verdicts
}

/// Decides what becomes of blocked tasks of a definition for which [`decide`] has said [`Verdict::EachByIndex`], as far as that is
/// decided. Each comes with the tasks of its index in the definitions that this names: each of these counts as a definition
/// of one task.
pub fn judge_each<T>(
    spec: &JobSpec,
    position: usize,
    standings: &[Standing],
    tasks: impl IntoIterator<Item = (T, Vec<(usize, Standing)>)>,
) -> Vec<(T, Verdict)> {
    let Some(definition) = spec.tasks.get(position) else { return Vec::new() };
    let awaited = &all_awaited(&spec.tasks)[position];
    let verdict = |others: &[(usize, Standing)]| {
        judge(spec, definition, awaited, |awaited| {
            let of_index = others.iter().find(|(position, _)| *position == awaited.position);
            let of_index =
                of_index.filter(|_| awaited.index == IndexMatch::Same).map(|(_, standing)| *standing);
            of_index.or(standings.get(awaited.position).copied()).unwrap_or_default()
        })
    };
    tasks.into_iter().filter_map(|(task, others)| Some((task, verdict(&others)?))).collect()
}

/// What the blocked tasks of a definition wait for, as a sentence without its subject: `waits for prepare to complete`. Empty if
/// that is nothing. `all` is what [`all_awaited`] gives for the specification.
pub fn waits_for(spec: &JobSpec, all: &[Vec<Awaited>], position: usize) -> String {
    let (Some(definition), Some(awaited)) = (spec.tasks.get(position), all.get(position)) else {
        return String::new();
    };
    if awaited.is_empty() {
        return String::new();
    }
    let name = |awaited: &Awaited| match awaited.index {
        IndexMatch::All => spec.tasks[awaited.position].name.clone(),
        IndexMatch::Same => format!("the task of {} with its index", spec.tasks[awaited.position].name),
    };
    let names: Vec<String> = awaited.iter().map(name).collect();
    let all = listed(&names);
    let have = if names.len() == 1 { "has" } else { "have" };
    match definition.when {
        When::Always => format!("runs once {all} {have} ended, whatever the outcome"),
        When::Failure => format!("runs once {all} {have} ended, if there was a failure"),
        When::Success => {
            let each = |awaited: &Awaited| match awaited.on {
                On::Completed => format!("{} to complete", name(awaited)),
                On::Failed => format!("{} to fail", name(awaited)),
                On::Ended => format!("{} to end", name(awaited)),
            };
            match awaited.iter().all(|awaited| awaited.on == On::Completed) {
                true => format!("waits for {all} to complete"),
                false => format!("waits for {}", listed(&awaited.iter().map(each).collect::<Vec<_>>())),
            }
        }
    }
}

/// What is to be done about the blocked tasks of a definition.
fn judge_definition(
    spec: &JobSpec,
    definition: &TaskSpec,
    awaited: &[Awaited],
    standings: &[Standing],
) -> Option<Verdict> {
    let standing = |awaited: &Awaited| standings.get(awaited.position).copied().unwrap_or_default();
    let (by_index, all): (Vec<Awaited>, Vec<Awaited>) =
        awaited.iter().partition(|awaited| awaited.index == IndexMatch::Same);
    // Where all the others have ended, it makes no difference which of them each waits for, if they came to the same.
    let are_alike = |awaited: &Awaited| {
        let counts = standing(awaited).counts;
        counts.get(StateName::Completed) == counts.total()
    };
    if by_index.iter().all(are_alike) {
        return judge(spec, definition, awaited, standing);
    }
    // With `when: failure`, a failure in any of what it waits for counts.
    let is_open = |awaited: &Awaited| {
        matches!(outcome(&spec.tasks[awaited.position].name, &standing(awaited), awaited.on), Outcome::Open)
    };
    match definition.when {
        When::Success => match judge(spec, definition, &all, standing) {
            Some(Verdict::Release) => {}
            None if all.is_empty() => {}
            verdict => return verdict,
        },
        When::Always | When::Failure if all.iter().any(is_open) => return None,
        When::Always | When::Failure => {}
    }
    Some(Verdict::EachByIndex(by_index.iter().map(|awaited| awaited.position).collect()))
}

/// Whether the dependencies are met, pending, or impossible.
fn judge(
    spec: &JobSpec,
    definition: &TaskSpec,
    awaited: &[Awaited],
    standing: impl Fn(&Awaited) -> Standing,
) -> Option<Verdict> {
    // Also the stand-in of a specification that cannot be read: its tasks stay as they are.
    if awaited.is_empty() && definition.when == When::Success {
        return None;
    }
    let mut is_open = false;
    for other in awaited {
        match outcome(&spec.tasks[other.position].name, &standing(other), other.on) {
            Outcome::Met => {}
            Outcome::Open => is_open = true,
            Outcome::Never(reason) => return Some(Verdict::CannotRun(reason)),
        }
    }
    if is_open {
        return None;
    }
    if definition.when == When::Failure && !awaited.iter().any(|other| standing(other).has_failures()) {
        let names: Vec<&str> = awaited.iter().map(|other| spec.tasks[other.position].name.as_str()).collect();
        let message = match definition.depends_on.is_empty() {
            true => "runs only after a failure, and no task of the job failed".to_owned(),
            false => format!("runs only after a failure, and no task of {} failed", listed(&names)),
        };
        return Some(Verdict::CannotRun(Reason { code: ReasonCode::ConditionNotMet, message }));
    }
    Some(Verdict::Release)
}

/// What came of one dependency.
enum Outcome {
    /// What it was waited for to come to.
    Met,
    /// Nothing yet.
    Open,
    /// Something else.
    Never(Reason),
}

fn outcome(name: &str, standing: &Standing, on: On) -> Outcome {
    let not_met = |message| Outcome::Never(Reason { code: ReasonCode::ConditionNotMet, message });
    match on {
        // One task that did not complete decides, whatever the others do.
        On::Completed if standing.has_failures() => {
            let message = format!("task {name}, which it depends on, did not complete");
            Outcome::Never(Reason { code: ReasonCode::DependencyFailed, message })
        }
        On::Completed if standing.skipped > 0 => not_met(format!(
            "runs once {name} has completed, and {name} did not run: its condition was not met"
        )),
        On::Failed if standing.has_ended() && !standing.has_failures() => {
            not_met(format!("runs only if {name} fails, and no task of it failed"))
        }
        On::Completed | On::Failed | On::Ended if standing.has_ended() => Outcome::Met,
        On::Completed | On::Failed | On::Ended => Outcome::Open,
    }
}

/// Why the tasks of a definition are to be stopped, if more have failed than it or its job allows.
fn too_many_failures(
    spec: &JobSpec,
    definition: &TaskSpec,
    standing: &Standing,
    failed_of_job: i64,
) -> Option<StopCause> {
    let exceeds = |failed: i64, limit: Option<u32>| limit.filter(|limit| failed > i64::from(*limit));
    let of_definition = exceeds(standing.counts.get(StateName::Failed), definition.max_failures);
    // What handles failures runs on.
    let of_job = exceeds(failed_of_job, spec.max_failures).filter(|_| definition.when == When::Success);
    let (limit, whose) = match (of_definition, of_job) {
        (Some(limit), _) => (limit, definition.name.as_str()),
        (None, Some(limit)) => (limit, "the job"),
        (None, None) => return None,
    };
    let message = match limit {
        0 => format!("stopped because a task of {whose} failed and max_failures is 0"),
        1 => format!("stopped because more than 1 task of {whose} failed"),
        limit => format!("stopped because more than {limit} tasks of {whose} failed"),
    };
    Some(StopCause { message, then: AfterStop::Cancel })
}

#[cfg(test)]
pub(crate) mod tests;
