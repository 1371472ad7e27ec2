//! Tasks that run as long as the run, so that faults always have something to lose or duplicate.

use std::path::PathBuf;
use std::time::Duration;

use gaffer_protocol::rest::Task;
use rand::Rng as _;
use serde_json::json;

use super::scenario::is_chat;
use super::trial::Trial;
use super::verdict::{Verdict, output};

const PATIENCE: Duration = Duration::from_secs(60);

/// One job of such tasks.
pub struct Chats {
    jobs: [(i64, u64); 1],
    /// They end when this file is there.
    over: PathBuf,
}

impl Chats {
    /// Begins two for each worker, and waits until all run.
    pub async fn begin(trial: &mut Trial) -> Chats {
        let over = trial.fleet.dir().join("over");
        let mut spec = trial.spec(&["chat".to_owned(), over.display().to_string()]);
        spec["count"] = json!(2 * trial.plan.workers);
        let job = trial.fleet.submit(&spec, trial.rng.random()).await;
        crate::eventually_within(PATIENCE, "every worker has something to do", async || {
            let tasks = trial.fleet.tasks(job).await;
            tasks.iter().all(|task| task.state == "running").then_some(())
        })
        .await;
        Chats { jobs: [(job, 0)], over }
    }

    /// Lets them end.
    pub fn end(&self) {
        std::fs::write(&self.over, "").unwrap();
    }

    /// All of them once they have ended.
    pub async fn settle(&self, trial: &Trial) -> Vec<(u64, Task)> {
        trial.fleet.settle(&self.jobs, PATIENCE).await
    }
}

/// Those that were begun more than once count as tasks of the mix do, and each has said all that it should.
pub async fn judge(trial: &Trial, tasks: &[(u64, Task)], chats: &[(u64, Task)]) -> Verdict {
    let mut repeated = trial.repeated(tasks).await;
    repeated.extend(trial.repeated(chats).await);
    let mut verdict = trial.judge(tasks, &repeated).await;
    for (_, task) in chats {
        let [stdout, _] = output(&trial.fleet, task).await;
        let counts = is_chat(&stdout);
        if task.state != "completed" || !counts {
            verdict.broken(format!("{}/{} is {}, counts: {counts}", task.job, task.address, task.state));
        }
    }
    verdict
}
