#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::job::JobState;

/// What one task of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Blocked,
    Pending,
    Completed,
    Failed,
    Cancelled,
    Skipped,
}

/// A job of which every task is known, and that is judged by what the documentation says.
#[derive(Debug)]
struct Model {
    spec: JobSpec,
    tasks: Vec<Vec<Fate>>,
    /// Definitions whose tasks may have run.
    released: Vec<bool>,
    stop: StopRequest,
}

impl Model {
    fn of(spec: Value) -> Model {
        let spec = JobSpec::read(&spec).unwrap();
        let fate = |task: &TaskSpec| if task.waits_for_others() { Fate::Blocked } else { Fate::Pending };
        let tasks = spec.tasks.iter().map(|task| vec![fate(task); task.indices.len() as usize]).collect();
        let released = spec.tasks.iter().map(|task| !task.waits_for_others()).collect();
        Model { spec, tasks, released, stop: StopRequest::None }
    }

    fn position(&self, name: &str) -> usize {
        self.spec.tasks.iter().position(|task| task.name == name).unwrap()
    }

    fn has_ended(&self, at: usize) -> bool {
        self.tasks[at].iter().all(|fate| !matches!(fate, Fate::Blocked | Fate::Pending))
    }

    fn has_failures(&self, at: usize) -> bool {
        self.tasks[at].iter().any(|fate| matches!(fate, Fate::Failed | Fate::Cancelled))
    }

    fn failed(&self, at: usize) -> usize {
        self.tasks[at].iter().filter(|fate| **fate == Fate::Failed).count()
    }

    /// The definitions that it waits for.
    fn others(&self, at: usize) -> Vec<usize> {
        let task = &self.spec.tasks[at];
        match task.depends_on.is_empty() && task.when != When::Success {
            true => (0..self.tasks.len()).filter(|at| self.spec.tasks[*at].when == When::Success).collect(),
            false => task.depends_on.iter().map(|other| self.position(&other.task)).collect(),
        }
    }

    fn is_met(&self, dependency: &Dependency) -> bool {
        let at = self.position(&dependency.task);
        match dependency.on {
            On::Completed => self.tasks[at].iter().all(|fate| *fate == Fate::Completed),
            On::Failed => self.has_ended(at) && self.has_failures(at),
            On::Ended => self.has_ended(at),
        }
    }

    fn may_run(&self, at: usize) -> bool {
        let task = &self.spec.tasks[at];
        let others = self.others(at);
        let have_ended = others.iter().all(|at| self.has_ended(*at));
        match task.when {
            When::Success => task.depends_on.iter().all(|dependency| self.is_met(dependency)),
            When::Always => have_ended,
            When::Failure => have_ended && others.iter().any(|at| self.has_failures(*at)),
        }
    }

    /// Whether nothing that can still happen lets it run.
    fn can_never_run(&self, at: usize) -> bool {
        let task = &self.spec.tasks[at];
        let others = self.others(at);
        let is_out = |dependency: &Dependency| {
            let at = self.position(&dependency.task);
            let is_other = |fate: &Fate| !matches!(fate, Fate::Completed | Fate::Blocked | Fate::Pending);
            match dependency.on {
                On::Completed => self.tasks[at].iter().any(is_other),
                On::Failed => self.has_ended(at) && !self.has_failures(at),
                On::Ended => false,
            }
        };
        match task.when {
            When::Success => task.depends_on.iter().any(is_out),
            When::Always => false,
            When::Failure => {
                others.iter().all(|at| self.has_ended(*at)) && !others.iter().any(|at| self.has_failures(*at))
            }
        }
    }

    fn allows_more_failures(&self, at: usize) -> bool {
        let task = &self.spec.tasks[at];
        let allows = |failed: usize, limit: Option<u32>| limit.is_none_or(|limit| failed <= limit as usize);
        let of_job = (0..self.tasks.len()).map(|at| self.failed(at)).sum();
        allows(self.failed(at), task.max_failures)
            && (task.when != When::Success || allows(of_job, self.spec.max_failures))
    }

    fn standing(&self, at: usize) -> Standing {
        let mut standing = Standing::default();
        for fate in &self.tasks[at] {
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

    fn decided(&self) -> Vec<(usize, Verdict)> {
        let standings: Vec<_> = (0..self.tasks.len()).map(|at| self.standing(at)).collect();
        decide(&self.spec, &standings, self.stop)
    }

    fn replace(&mut self, at: usize, is_replaced: impl Fn(Fate) -> bool, by: Fate) {
        self.tasks[at].iter_mut().filter(|fate| is_replaced(**fate)).for_each(|fate| *fate = by);
    }

    fn is_open(fate: Fate) -> bool {
        matches!(fate, Fate::Blocked | Fate::Pending)
    }

    /// Carries out what is decided until nothing is, and compares each decision with the model.
    fn settle(&mut self) {
        for _ in 0..=2 * self.tasks.len() {
            let verdicts = self.decided();
            if verdicts.is_empty() {
                return self.check_that_nothing_is_left_undecided();
            }
            for (at, verdict) in &verdicts {
                let is_blocked = self.tasks[*at].contains(&Fate::Blocked);
                assert!(!self.stop.covers(&self.spec.tasks[*at]), "the stop sees to it");
                match verdict {
                    Verdict::Release => assert!(is_blocked && self.may_run(*at), "{at} {self:?}"),
                    Verdict::CannotRun(_) => assert!(is_blocked && self.can_never_run(*at), "{at} {self:?}"),
                    Verdict::Stop(_) => assert!(!self.allows_more_failures(*at), "{at} {self:?}"),
                }
            }
            for (at, verdict) in verdicts {
                match verdict {
                    Verdict::Release => {
                        self.released[at] = true;
                        self.replace(at, |fate| fate == Fate::Blocked, Fate::Pending);
                    }
                    Verdict::CannotRun(reason) => {
                        let is_skipped = reason.code == ReasonCode::ConditionNotMet;
                        let fate = if is_skipped { Fate::Skipped } else { Fate::Cancelled };
                        self.replace(at, |fate| fate == Fate::Blocked, fate);
                    }
                    Verdict::Stop(_) => self.replace(at, Model::is_open, Fate::Cancelled),
                }
            }
        }
        panic!("it is never settled: {self:?}");
    }

    fn check_that_nothing_is_left_undecided(&self) {
        for at in 0..self.tasks.len() {
            if !self.tasks[at].contains(&Fate::Blocked) {
                continue;
            }
            assert!(!self.may_run(at), "{at} should run: {self:?}");
            assert!(!self.can_never_run(at), "{at} waits for nothing: {self:?}");
            assert!(self.allows_more_failures(at), "{at} should be stopped: {self:?}");
        }
    }

    fn stop(&mut self, request: StopRequest) {
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

    fn state(&self) -> JobState {
        let (mut counts, mut skipped) = (TaskCounts::default(), 0);
        for at in 0..self.tasks.len() {
            counts.merge(&self.standing(at).counts);
            skipped += self.standing(at).skipped;
        }
        JobState::of(&counts, skipped, true, self.stop != StopRequest::None)
    }

    /// The pending tasks.
    fn runnable(&self) -> Vec<(usize, usize)> {
        let of = |(at, fates): (usize, &Vec<Fate>)| {
            let pending = fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Pending);
            pending.map(|(index, _)| (at, index)).collect::<Vec<_>>()
        };
        self.tasks.iter().enumerate().flat_map(of).collect()
    }
}

fn any_spec(rng: &mut StdRng) -> Value {
    let number = rng.random_range(1..8);
    let mut tasks = Vec::new();
    for at in 0..number {
        let when = match rng.random_range(0..6) {
            0 => "always",
            1 => "failure",
            _ => "success",
        };
        let mut depends_on = Vec::new();
        for other in (0..at).filter(|_| rng.random_ratio(1, 3)).collect::<Vec<_>>() {
            let name = format!("t{other}");
            let on = *["completed", "completed", "failed", "ended"].choose(rng).unwrap();
            depends_on.push(if when == "success" { json!({"task": name, "on": on}) } else { json!(name) });
        }
        let mut task = json!({
            "name": format!("t{at}"), "command": ["true"], "count": rng.random_range(1..4), "when": when,
            "depends_on": depends_on,
        });
        if rng.random_ratio(1, 5) {
            task["max_failures"] = json!(rng.random_range(0..2));
        }
        tasks.push(task);
    }
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
                0 if model.stop == StopRequest::None => model.stop(StopRequest::AllButCleanup),
                1 if rng.random_ratio(1, 3) => model.stop(StopRequest::Everything),
                _ => {}
            }
            let runnable = model.runnable();
            let Some((at, index)) = runnable.choose(&mut rng).copied() else { break };
            let fate = if rng.random_ratio(3, 4) { Fate::Completed } else { Fate::Failed };
            model.tasks[at][index] = fate;
            model.settle();
        }
        assert!((0..model.tasks.len()).all(|at| model.has_ended(at)), "it never ends: {model:?}");
        assert!(model.state().is_final());
        for (at, task) in model.spec.tasks.iter().enumerate() {
            let must_run = task.when == When::Always && model.stop != StopRequest::Everything;
            assert!(model.released[at] || !must_run, "{at} did not run: {model:?}");
            cleaned += usize::from(must_run && model.stop != StopRequest::None);
        }
        skipped += model.tasks.iter().flatten().filter(|fate| **fate == Fate::Skipped).count();
    }
    assert!(jobs > 10_000 && skipped > 1_000 && cleaned > 100, "{jobs} {skipped} {cleaned}");
}

/// Definitions `(name, fields)`, each with a command.
fn job(tasks: &[(&str, Value)]) -> Value {
    let task = |(name, fields): &(&str, Value)| {
        let mut task = json!({"name": name, "command": ["true"]});
        task.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        task
    };
    json!({ "tasks": tasks.iter().map(task).collect::<Vec<_>>() })
}

#[test]
fn what_handles_a_failure_runs_after_one_and_is_skipped_without() {
    let spec = || {
        job(&[
            ("build", json!({"count": 2})),
            ("mend", json!({"depends_on": [{"task": "build", "on": "failed"}]})),
            ("tell", json!({"when": "failure"})),
            ("after", json!({"depends_on": [{"task": "build", "on": "ended"}]})),
            ("next", json!({"depends_on": ["mend"]})),
        ])
    };
    let mut well = Model::of(spec());
    well.end("build", &[Fate::Completed; 2]);
    assert_eq!((well.fate("mend"), well.fate("next")), (Fate::Skipped, Fate::Skipped));
    assert_eq!((well.fate("tell"), well.fate("after")), (Fate::Blocked, Fate::Pending));
    well.end("after", &[Fate::Completed]);
    assert_eq!(well.fate("tell"), Fate::Skipped);
    assert_eq!(well.state(), JobState::Completed, "what was not needed says nothing of the job");

    let mut badly = Model::of(spec());
    badly.end("build", &[Fate::Failed, Fate::Pending]);
    assert_eq!(badly.fate("mend"), Fate::Blocked, "the others of the array may use what it would clean up");
    badly.end("build", &[Fate::Failed, Fate::Completed]);
    assert_eq!((badly.fate("mend"), badly.fate("after")), (Fate::Pending, Fate::Pending));
    badly.end("mend", &[Fate::Completed]);
    assert_eq!(badly.fate("next"), Fate::Pending);
    badly.end("next", &[Fate::Completed]);
    badly.end("after", &[Fate::Completed]);
    assert_eq!(badly.fate("tell"), Fate::Pending);
}

#[test]
fn what_cleans_up_runs_after_a_stop_and_a_forced_stop_ends_it() {
    let spec = || {
        job(&[
            ("work", json!({})),
            ("clean", json!({"when": "always"})),
            ("tell", json!({"when": "failure"})),
        ])
    };
    let mut stopped = Model::of(spec());
    stopped.stop(StopRequest::AllButCleanup);
    assert_eq!([stopped.fate("work"), stopped.fate("tell")], [Fate::Cancelled; 2]);
    assert_eq!(stopped.fate("clean"), Fate::Pending);
    assert_eq!(stopped.state(), JobState::Stopping);
    stopped.stop(StopRequest::Everything);
    assert_eq!((stopped.fate("clean"), stopped.state()), (Fate::Cancelled, JobState::Cancelled));

    let mut failed = Model::of(spec());
    failed.stop(StopRequest::AllButCleanup);
    failed.end("clean", &[Fate::Failed]);
    assert_eq!(failed.state(), JobState::Failed, "a cleanup that fails is a failure of the job");
}

#[test]
fn more_failures_than_allowed_stop_the_rest_but_not_what_handles_them() {
    let mut spec = job(&[
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
        let mut verdicts = decide(&spec, standings, StopRequest::None);
        match verdicts.pop().unwrap().1 {
            Verdict::CannotRun(reason) => format!("{}: {}", reason.code, reason.message),
            Verdict::Stop(cause) => cause.message,
            Verdict::Release => "released".to_owned(),
        }
    };
    let standing = |state, skipped| {
        let mut standing = Standing { skipped, ..Standing::default() };
        standing.counts.add(state, 1);
        standing
    };
    let (completed, failed) = (standing(StateName::Completed, 0), standing(StateName::Failed, 0));
    let (skipped, blocked) = (standing(StateName::Cancelled, 1), standing(StateName::Blocked, 0));
    let waiting = |fields| job(&[("a", json!({})), ("b", fields)]);
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
    let limited = job(&[("a", json!({"count": 4, "max_failures": 1}))]);
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
        waits_for(&JobSpec::read(&job(&tasks)).unwrap(), 6)
    };
    assert_eq!(waits(json!({"depends_on": ["a"]})), "waits for a to complete");
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
