#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::job::JobState;
use crate::spec::Dependency;
use crate::spec::tests::tasks_with;

/// What one task of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Blocked,
    Pending,
    Completed,
    Failed,
    Cancelled,
    Skipped,
}

fn have_ended(fates: &[Fate]) -> bool {
    fates.iter().all(|fate| !matches!(fate, Fate::Blocked | Fate::Pending))
}

fn have_failures(fates: &[Fate]) -> bool {
    fates.iter().any(|fate| matches!(fate, Fate::Failed | Fate::Cancelled))
}

fn have_ended_with(fates: &[Fate], failures: bool) -> bool {
    have_ended(fates) && have_failures(fates) == failures
}

/// A job of which every task is known, and that is judged by what the documentation says.
#[derive(Debug)]
pub(crate) struct Model {
    pub spec: JobSpec,
    pub tasks: Vec<Vec<Fate>>,
    /// Definitions whose tasks may have run.
    released: Vec<bool>,
    pub stop: StopScope,
}

impl Model {
    pub fn of(spec: Value) -> Model {
        let spec = JobSpec::read(&spec).unwrap();
        let fate = |task: &TaskSpec| if task.waits_for_others() { Fate::Blocked } else { Fate::Pending };
        let tasks = spec.tasks.iter().map(|task| vec![fate(task); task.indices.len() as usize]).collect();
        let released = spec.tasks.iter().map(|task| !task.waits_for_others()).collect();
        Model { spec, tasks, released, stop: StopScope::None }
    }

    fn position(&self, name: &str) -> usize {
        self.spec.tasks.iter().position(|task| task.name == name).unwrap()
    }

    fn failed(&self, at: usize) -> usize {
        self.tasks[at].iter().filter(|fate| **fate == Fate::Failed).count()
    }

    /// The tasks of a dependency that a task waits for.
    fn fates(&self, dependency: &Dependency, index: usize) -> &[Fate] {
        let fates = &self.tasks[self.position(&dependency.task)];
        match dependency.index {
            IndexMatch::All => fates,
            IndexMatch::Same => &fates[index..=index],
        }
    }

    /// All that a task waits for, one slice for each definition.
    fn others(&self, at: usize, index: usize) -> Vec<&[Fate]> {
        let task = &self.spec.tasks[at];
        match task.depends_on.is_empty() && task.when != When::Success {
            true => {
                let others = self.spec.tasks.iter().zip(&self.tasks);
                others.filter(|(task, _)| task.when == When::Success).map(|(_, fates)| &fates[..]).collect()
            }
            false => task.depends_on.iter().map(|dependency| self.fates(dependency, index)).collect(),
        }
    }

    pub fn may_run(&self, at: usize, index: usize) -> bool {
        let task = &self.spec.tasks[at];
        let others = self.others(at, index);
        let have_ended = others.iter().all(|fates| have_ended(fates));
        let is_met = |dependency: &Dependency| {
            let fates = self.fates(dependency, index);
            match dependency.on {
                On::Completed => fates.iter().all(|fate| *fate == Fate::Completed),
                On::Failed => have_ended_with(fates, true),
                On::Ended => self::have_ended(fates),
            }
        };
        match task.when {
            When::Success => task.depends_on.iter().all(is_met),
            When::Always => have_ended,
            When::Failure => have_ended && others.iter().any(|fates| have_failures(fates)),
        }
    }

    /// Whether nothing that can still happen lets it run.
    pub fn can_never_run(&self, at: usize, index: usize) -> bool {
        let task = &self.spec.tasks[at];
        let others = self.others(at, index);
        let is_out = |dependency: &Dependency| {
            let is_other = |fate: &Fate| !matches!(fate, Fate::Completed | Fate::Blocked | Fate::Pending);
            let fates = self.fates(dependency, index);
            match dependency.on {
                On::Completed => fates.iter().any(is_other),
                On::Failed => have_ended_with(fates, false),
                On::Ended => false,
            }
        };
        match task.when {
            When::Success => task.depends_on.iter().any(is_out),
            When::Always => false,
            When::Failure => {
                others.iter().all(|fates| have_ended(fates))
                    && !others.iter().any(|fates| have_failures(fates))
            }
        }
    }

    /// Whether its tasks are judged: what all of them wait for has come, or they wait for nothing by their index.
    fn is_judged(&self, at: usize) -> bool {
        let (by_index, all): (Vec<&Dependency>, Vec<&Dependency>) = self.spec.tasks[at]
            .depends_on
            .iter()
            .partition(|dependency| dependency.index == IndexMatch::Same);
        let has_come = |dependency: &&Dependency| {
            let fates = &self.tasks[self.position(&dependency.task)];
            have_ended(fates)
        };
        by_index.is_empty() || all.iter().all(has_come)
    }

    fn allows_more_failures(&self, at: usize) -> bool {
        let task = &self.spec.tasks[at];
        let allows = |failed: usize, limit: Option<u32>| limit.is_none_or(|limit| failed <= limit as usize);
        let of_job = (0..self.tasks.len()).map(|at| self.failed(at)).sum();
        allows(self.failed(at), task.max_failures)
            && (task.when != When::Success || allows(of_job, self.spec.max_failures))
    }

    fn standing(&self, at: usize) -> Standing {
        Model::standing_of(&self.tasks[at])
    }

    fn standing_of(fates: &[Fate]) -> Standing {
        let mut standing = Standing::default();
        for fate in fates {
            let state = match fate {
                Fate::Blocked => StateName::Blocked,
                Fate::Pending => StateName::Pending,
                Fate::Completed => StateName::Completed,
                Fate::Failed => StateName::Failed,
                Fate::Cancelled | Fate::Skipped => StateName::Cancelled,
            };
            standing.counts.add(state, 1);
            standing.skipped += i64::from(*fate == Fate::Skipped);
        }
        standing
    }

    fn replace(&mut self, at: usize, is_replaced: impl Fn(Fate) -> bool, by: Fate) {
        self.tasks[at].iter_mut().filter(|fate| is_replaced(**fate)).for_each(|fate| *fate = by);
    }

    fn is_open(fate: Fate) -> bool {
        matches!(fate, Fate::Blocked | Fate::Pending)
    }

    /// What is decided for each blocked or open task, by position and index.
    fn verdicts(&self) -> Vec<(usize, usize, Verdict)> {
        let standings: Vec<_> = (0..self.tasks.len()).map(|at| self.standing(at)).collect();
        let mut verdicts = Vec::new();
        for (at, verdict) in decide(&self.spec, &standings, self.stop) {
            let is_meant = |fate: Fate| match &verdict {
                Verdict::Stop(_) => Model::is_open(fate),
                _ => fate == Fate::Blocked,
            };
            let meant = (0..self.tasks[at].len()).filter(|index| is_meant(self.tasks[at][*index]));
            if let Verdict::EachByIndex(others) = &verdict {
                let one =
                    |at: &usize, index: usize| (*at, Model::standing_of(&self.tasks[*at][index..=index]));
                let with_others =
                    meant.map(|index| (index, others.iter().map(|at| one(at, index)).collect()));
                let judged = judge_each(&self.spec, at, &standings, with_others);
                verdicts.extend(judged.into_iter().map(|(index, verdict)| (at, index, verdict)));
            } else {
                verdicts.extend(meant.map(|index| (at, index, verdict.clone())));
            }
        }
        verdicts
    }

    /// Carries out what is decided until nothing is, and compares each decision with the model.
    pub fn settle(&mut self) {
        for _ in 0..=4 * self.tasks.len() {
            let verdicts = self.verdicts();
            if verdicts.is_empty() {
                return self.check_that_nothing_is_left_undecided();
            }
            for (at, index, verdict) in &verdicts {
                let (at, index) = (*at, *index);
                assert!(!self.stop.covers(&self.spec.tasks[at]), "the stop sees to it");
                match verdict {
                    Verdict::Release => assert!(self.may_run(at, index), "{at}.{index} {self:?}"),
                    Verdict::CannotRun(_) => assert!(self.can_never_run(at, index), "{at}.{index} {self:?}"),
                    Verdict::Stop(_) => assert!(!self.allows_more_failures(at), "{at} {self:?}"),
                    Verdict::EachByIndex(_) => unreachable!(),
                }
            }
            for (at, index, verdict) in verdicts {
                self.tasks[at][index] = match verdict {
                    Verdict::Release => Fate::Pending,
                    Verdict::CannotRun(reason) if reason.code == ReasonCode::ConditionNotMet => Fate::Skipped,
                    _ => Fate::Cancelled,
                };
                self.released[at] |= self.tasks[at][index] == Fate::Pending;
            }
        }
        panic!("it is never settled: {self:?}");
    }

    fn check_that_nothing_is_left_undecided(&self) {
        for at in 0..self.tasks.len() {
            for index in (0..self.tasks[at].len()).filter(|index| self.tasks[at][*index] == Fate::Blocked) {
                assert!(!self.may_run(at, index), "{at}.{index} should run: {self:?}");
                let is_out = self.is_judged(at) && self.can_never_run(at, index);
                assert!(!is_out, "{at}.{index} waits for nothing: {self:?}");
                assert!(self.allows_more_failures(at), "{at} should be stopped: {self:?}");
            }
        }
    }

    pub fn stop(&mut self, request: StopScope) {
        self.stop = request;
        for at in 0..self.tasks.len() {
            if request.covers(&self.spec.tasks[at]) {
                self.replace(at, Model::is_open, Fate::Cancelled);
            }
        }
        self.settle();
    }

    fn end(&mut self, name: &str, fates: &[Fate]) {
        let at = self.position(name);
        assert_eq!(self.tasks[at].len(), fates.len());
        self.tasks[at] = fates.to_vec();
        self.settle();
    }

    fn fate(&self, name: &str) -> Fate {
        self.tasks[self.position(name)][0]
    }

    pub fn state(&self) -> JobState {
        let (mut counts, mut skipped) = (TaskCounts::default(), 0);
        for at in 0..self.tasks.len() {
            counts.merge(&self.standing(at).counts);
            skipped += self.standing(at).skipped;
        }
        JobState::of(&counts, skipped, true, self.stop != StopScope::None)
    }

    /// The pending tasks.
    pub fn runnable(&self) -> Vec<(usize, usize)> {
        let of = |(at, fates): (usize, &Vec<Fate>)| {
            let pending = fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Pending);
            pending.map(|(index, _)| (at, index)).collect::<Vec<_>>()
        };
        self.tasks.iter().enumerate().flat_map(of).collect()
    }
}

pub(crate) fn any_spec(rng: &mut StdRng) -> Value {
    let number = rng.random_range(1..8);
    let (mut tasks, mut counts) = (Vec::new(), Vec::<u32>::new());
    for at in 0..number {
        let when = match rng.random_range(0..6) {
            0 => "always",
            1 => "failure",
            _ => "success",
        };
        let mut depends_on = Vec::new();
        let mut count = rng.random_range(1..4);
        for other in (0..at).filter(|_| rng.random_ratio(1, 3)).collect::<Vec<_>>() {
            let name = format!("t{other}");
            let on = *["completed", "completed", "failed", "ended"].choose(rng).unwrap();
            let mut dependency = json!({ "task": name });
            if when == "success" {
                dependency["on"] = json!(on);
            }
            // Where several are to match and have other numbers, the specification is refused.
            if rng.random_ratio(1, 3) {
                dependency["index"] = json!("same");
                count = counts[other];
            }
            depends_on.push(dependency);
        }
        let mut task = json!({
            "name": format!("t{at}"), "command": ["true"], "count": count, "when": when,
            "depends_on": depends_on,
        });
        counts.push(count);
        if rng.random_ratio(1, 5) {
            task["max_failures"] = json!(rng.random_range(0..2));
        }
        tasks.push(task);
    }
    // What waits may be listed before what it waits for.
    tasks.shuffle(rng);
    let mut job = json!({ "tasks": tasks });
    if rng.random_ratio(1, 5) {
        job["max_failures"] = json!(rng.random_range(0..3));
    }
    job
}

#[test]
fn random_jobs_end_with_what_must_run_having_run_and_nothing_else() {
    let mut rng = StdRng::seed_from_u64(16);
    let (mut jobs, mut skipped, mut cleaned) = (0, 0, 0);
    for _ in 0..20_000 {
        let spec = any_spec(&mut rng);
        // Some wait in a circle, or for nothing.
        if JobSpec::read(&spec).is_err() {
            continue;
        }
        jobs += 1;
        let mut model = Model::of(spec);
        model.settle();
        loop {
            match rng.random_range(0..60) {
                0 if model.stop == StopScope::None => model.stop(StopScope::AllButCleanup),
                1 if rng.random_ratio(1, 3) => model.stop(StopScope::All),
                _ => {}
            }
            let runnable = model.runnable();
            let Some((at, index)) = runnable.choose(&mut rng).copied() else { break };
            let fate = if rng.random_ratio(3, 4) { Fate::Completed } else { Fate::Failed };
            model.tasks[at][index] = fate;
            model.settle();
        }
        assert!(model.tasks.iter().all(|fates| have_ended(fates)), "it never ends: {model:?}");
        assert!(model.state().is_final());
        for (at, task) in model.spec.tasks.iter().enumerate() {
            let must_run = task.when == When::Always && model.stop != StopScope::All;
            assert!(model.released[at] || !must_run, "{at} did not run: {model:?}");
            cleaned += usize::from(must_run && model.stop != StopScope::None);
        }
        skipped += model.tasks.iter().flatten().filter(|fate| **fate == Fate::Skipped).count();
    }
    assert!(jobs > 10_000 && skipped > 1_000 && cleaned > 100, "{jobs} {skipped} {cleaned}");
}

#[test]
fn what_handles_a_failure_runs_after_one_and_is_skipped_without() {
    let spec = || {
        tasks_with(&[
            ("build", json!({"count": 2})),
            ("repair", json!({"depends_on": [{"task": "build", "on": "failed"}]})),
            ("tell", json!({"when": "failure"})),
            ("after", json!({"depends_on": [{"task": "build", "on": "ended"}]})),
            ("next", json!({"depends_on": ["repair"]})),
        ])
    };
    let mut well = Model::of(spec());
    well.end("build", &[Fate::Completed; 2]);
    assert_eq!((well.fate("repair"), well.fate("next")), (Fate::Skipped, Fate::Skipped));
    assert_eq!((well.fate("tell"), well.fate("after")), (Fate::Blocked, Fate::Pending));
    well.end("after", &[Fate::Completed]);
    assert_eq!(well.fate("tell"), Fate::Skipped);
    assert_eq!(well.state(), JobState::Completed, "what was skipped says nothing of the job");

    let mut badly = Model::of(spec());
    badly.end("build", &[Fate::Failed, Fate::Pending]);
    assert_eq!(badly.fate("repair"), Fate::Blocked, "the others of the array may use what it would clean up");
    badly.end("build", &[Fate::Failed, Fate::Completed]);
    assert_eq!((badly.fate("repair"), badly.fate("after")), (Fate::Pending, Fate::Pending));
    badly.end("repair", &[Fate::Completed]);
    assert_eq!(badly.fate("next"), Fate::Pending);
    badly.end("next", &[Fate::Completed]);
    badly.end("after", &[Fate::Completed]);
    assert_eq!(badly.fate("tell"), Fate::Pending);
}

#[test]
fn what_cleans_up_runs_after_a_stop_and_a_forced_stop_ends_it() {
    let spec = || {
        tasks_with(&[
            ("work", json!({})),
            ("clean", json!({"when": "always"})),
            ("tell", json!({"when": "failure"})),
        ])
    };
    let mut stopped = Model::of(spec());
    stopped.stop(StopScope::AllButCleanup);
    assert_eq!([stopped.fate("work"), stopped.fate("tell")], [Fate::Cancelled; 2]);
    assert_eq!(stopped.fate("clean"), Fate::Pending);
    assert_eq!(stopped.state(), JobState::Stopping);
    stopped.stop(StopScope::All);
    assert_eq!((stopped.fate("clean"), stopped.state()), (Fate::Cancelled, JobState::Cancelled));

    let mut failed = Model::of(spec());
    failed.stop(StopScope::AllButCleanup);
    failed.end("clean", &[Fate::Failed]);
    assert_eq!(failed.state(), JobState::Failed, "a cleanup that fails is a failure of the job");
}

#[test]
fn more_failures_than_allowed_stop_the_rest_but_not_what_handles_them() {
    let mut spec = tasks_with(&[
        ("many", json!({"count": 4})),
        ("then", json!({"depends_on": ["many"]})),
        ("tell", json!({"when": "failure"})),
    ]);
    spec["max_failures"] = json!(1);
    let mut model = Model::of(spec);
    model.end("many", &[Fate::Failed, Fate::Completed, Fate::Pending, Fate::Pending]);
    assert_eq!(model.tasks[0][2], Fate::Pending, "one failure is allowed");
    model.end("many", &[Fate::Failed, Fate::Completed, Fate::Failed, Fate::Pending]);
    assert_eq!((model.tasks[0][3], model.fate("then")), (Fate::Cancelled, Fate::Cancelled));
    assert_eq!(model.fate("tell"), Fate::Pending);
}

#[test]
fn a_reason_names_the_condition_and_what_came_instead() {
    let reason = |spec: Value, standings: &[Standing]| {
        let spec = JobSpec::read(&spec).unwrap();
        let mut verdicts = decide(&spec, standings, StopScope::None);
        match verdicts.pop().unwrap().1 {
            Verdict::CannotRun(reason) => format!("{}: {}", reason.code, reason.message),
            Verdict::Stop(cause) => cause.message,
            Verdict::Release | Verdict::EachByIndex(_) => "released".to_owned(),
        }
    };
    let standing = |state, skipped| {
        let mut standing = Standing { skipped, ..Standing::default() };
        standing.counts.add(state, 1);
        standing
    };
    let (completed, failed) = (standing(StateName::Completed, 0), standing(StateName::Failed, 0));
    let (skipped, blocked) = (standing(StateName::Cancelled, 1), standing(StateName::Blocked, 0));
    let waiting = |fields| tasks_with(&[("a", json!({})), ("b", fields)]);
    let on = |on: &str| waiting(json!({"depends_on": [{"task": "a", "on": on}]}));
    assert_eq!(
        reason(on("completed"), &[failed, blocked]),
        "dependency_failed: task a, which it depends on, did not complete"
    );
    assert_eq!(
        reason(on("completed"), &[skipped, blocked]),
        "condition_not_met: runs once a has completed, and a did not run: its condition was not met"
    );
    assert_eq!(
        reason(on("failed"), &[completed, blocked]),
        "condition_not_met: runs only if a fails, and no task of it failed"
    );
    assert_eq!(
        reason(waiting(json!({"when": "failure"})), &[completed, blocked]),
        "condition_not_met: runs only after a failure, and no task of the job failed"
    );
    assert_eq!(
        reason(waiting(json!({"when": "failure", "depends_on": ["a"]})), &[completed, blocked]),
        "condition_not_met: runs only after a failure, and no task of a failed"
    );
    let mut limited = waiting(json!({}));
    limited["max_failures"] = json!(0);
    assert_eq!(
        reason(limited, &[failed, standing(StateName::Running, 0)]),
        "stopped because a task of the job failed and max_failures is 0"
    );
    let limited = tasks_with(&[("a", json!({"count": 4, "max_failures": 1}))]);
    let mut standing = standing(StateName::Running, 0);
    standing.counts.add(StateName::Failed, 2);
    assert_eq!(reason(limited, &[standing]), "stopped because more than 1 task of a failed");
}

#[test]
fn what_a_task_waits_for_is_said_in_the_words_of_its_specification() {
    let waits = |fields: Value| {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut tasks: Vec<_> = names.iter().map(|name| (*name, json!({}))).collect();
        tasks.push(("last", fields));
        let spec = JobSpec::read(&tasks_with(&tasks)).unwrap();
        waits_for(&spec, &all_awaited(&spec.tasks), 6)
    };
    assert_eq!(waits(json!({"depends_on": ["a"]})), "waits for a to complete");
    let same = json!({"depends_on": ["a", {"task": "b", "index": "same"}]});
    assert_eq!(waits(same), "waits for a and the task of b with its index to complete");
    assert_eq!(waits(json!({"depends_on": ["a", "b", "c"]})), "waits for a, b and c to complete");
    let mixed = json!({"depends_on": ["a", {"task": "b", "on": "failed"}, {"task": "c", "on": "ended"}]});
    assert_eq!(waits(mixed), "waits for a to complete, b to fail and c to end");
    assert_eq!(
        waits(json!({"when": "always"})),
        "runs once a, b, c, d and 2 others have ended, whatever the outcome"
    );
    assert_eq!(
        waits(json!({"when": "failure", "depends_on": ["a"]})),
        "runs once a has ended, if there was a failure"
    );
}
