//! What all runs share: a fleet, a witness, a stream of tasks, and the judgement.

use std::path::Path;
use std::time::Duration;

use gaffer_protocol::rest::{Task, TaskDetail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::fleet::{Fleet, Setup};
use super::plan::Plan;
use super::verdict::{self, Verdict};
use super::witness::Witness;

/// How long all tasks may take to end once the faults are over.
const SETTLING: Duration = Duration::from_secs(180);
/// What a thread says that breaks down.
const PANIC: &str = "panicked at";

pub struct Trial {
    pub plan: Plan,
    pub rng: StdRng,
    pub witness: Witness,
    pub fleet: Fleet,
    /// Jobs of the mix, with what they follow from.
    pub jobs: Vec<(i64, u64)>,
    /// Faults that struck.
    pub faults: u32,
}

impl Trial {
    /// Starts everything and waits until it stands.
    pub async fn begin(plan: &Plan, setup: Setup) -> Trial {
        let fleet = Fleet::start(plan, setup).await;
        fleet.assemble().await;
        Trial {
            plan: plan.clone(),
            rng: StdRng::seed_from_u64(plan.seed),
            witness: Witness::start(),
            fleet,
            jobs: Vec::new(),
            faults: 0,
        }
    }

    /// Submits a job of the mix if few of the last one's tasks are left.
    pub async fn feed(&mut self) {
        if self.fleet.waiting(&self.jobs).await < u64::from(self.plan.tasks_per_job) {
            let seed: u64 = self.rng.random();
            let act = ["play".to_owned(), seed.to_string(), self.plan.percent.to_string()];
            let mut spec = self.spec(&act);
            spec["count"] = self.plan.tasks_per_job.into();
            self.jobs.push((self.fleet.submit(&spec, seed).await, seed));
        }
    }

    /// A job whose task does this, see [`super::scenario::act`].
    pub fn spec(&self, act: &[String]) -> Value {
        let player = self.plan.player.display().to_string();
        let witness = self.witness.path().display().to_string();
        let command = [&[player, act[0].clone(), witness], &act[1..]].concat();
        json!({
            "name": "torture", "command": command, "resources": {"cpu": 0.25},
            "lost_after": format!("{}s", self.plan.lost_after.as_secs()),
            "restart": {"policy": "on-failure", "limit": 10_000, "delay": "100ms", "backoff": "constant",
                "on_lost": "restart"},
            "stop": {"grace": "500ms"},
        })
    }

    /// Mends everything and waits until the tasks of the mix are over, or until patience ends.
    pub async fn settle(&mut self) -> Vec<(u64, Task)> {
        self.fleet.restore().await;
        self.fleet.settle(&self.jobs, SETTLING).await
    }

    /// Tasks that were begun more than once, with all their attempts.
    pub async fn repeated(&self, tasks: &[(u64, Task)]) -> Vec<TaskDetail> {
        let mut repeated = Vec::new();
        for (_, task) in tasks.iter().filter(|(_, task)| task.attempt > 1) {
            repeated.push(self.fleet.detail(task).await);
        }
        repeated
    }

    /// What became of the mix.
    pub async fn judge(&self, tasks: &[(u64, Task)], repeated: &[TaskDetail]) -> Verdict {
        self.judge_with(0, tasks, repeated).await
    }

    /// The same with more tasks than those of the mix.
    pub async fn judge_with(&self, more: usize, tasks: &[(u64, Task)], repeated: &[TaskDetail]) -> Verdict {
        let mut verdict = verdict::judge(&self.fleet, &self.witness, tasks).await;
        verdict::audit(&mut verdict, repeated);
        let accepted = self.jobs.len() * self.plan.tasks_per_job as usize + more;
        if tasks.len() != accepted {
            verdict.broken(format!("{accepted} tasks were accepted, and {} are there", tasks.len()));
        }
        verdict
    }

    /// Takes everything down and reads what was logged.
    pub async fn end(self, mut verdict: Verdict) -> Verdict {
        verdict.faults = self.faults;
        let logs = self.fleet.stop().await;
        verdict.panics = panics(logs.path());
        if self.plan.keep {
            verdict.figure(format!("logs in {}", logs.keep().display()));
        }
        verdict
    }
}

/// Lines of the logs that say that something broke down.
fn panics(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(panics(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let log = std::fs::read(&path).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let lines = String::from_utf8_lossy(&log).into_owned();
            found.extend(
                lines.lines().filter(|line| line.contains(PANIC)).map(|line| format!("{name}: {line}")),
            );
        }
    }
    found
}
