//! The agent of one worker is killed repeatedly under a hundred running tasks: each new agent finds all of them
//! soon.

use std::time::{Duration, Instant};

use gaffer_protocol::rest::{Event, Page};
use rand::Rng as _;
use serde_json::json;
use tokio::time::sleep;

use super::asking::watched;
use super::figures::Times;
use super::fleet::Setup;
use super::plan::Plan;
use super::scenario::is_chat;
use super::trial::Trial;
use super::verdict::{Verdict, output};

const RESTARTS: usize = 100;
const LIMIT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills the agent up to a hundred times, as time allows.
pub async fn run(plan: &Plan) -> Verdict {
    let plan = Plan { workers: 1, cpu: plan.tasks.div_ceil(10), ..plan.clone() };
    let mut trial = Trial::begin(&plan, Setup::plain()).await;
    let over = trial.fleet.dir().join("over");
    let mut spec = trial.spec(&["chat".to_owned(), over.display().to_string()]);
    spec["count"] = plan.tasks.into();
    spec["resources"] = json!({"cpu": 0.1});
    let job = trial.fleet.submit(&spec, trial.rng.random()).await;
    let count = i64::from(plan.tasks);
    crate::eventually("all tasks run", async || {
        trial.fleet.worker(0).await.filter(|worker| worker.running == count)
    })
    .await;
    let (end, mut times) = (Instant::now() + plan.duration, Times::default());
    let (mut readopted, mut last_event) = (0, newest_event(&trial).await);
    while Instant::now() < end && times.count() < RESTARTS {
        // An agent that lived for less than a second is started again after a pause, which is not what is measured.
        sleep(Duration::from_millis(trial.rng.random_range(1_050..1_400))).await;
        let killed = Instant::now();
        trial.fleet.kill_agent(0);
        trial.faults += 1;
        // Measured from outside: from the kill until the API shows the event of a session that began after it, and,
        // asked after that, the worker online with all its attempts running. Hello and reconciling are committed before
        // the worker gets its welcome; an attempt that was not held would be lost by then.
        let began =
            watched(PATIENCE, "the next agent's session", async || session_since(&trial, last_event).await)
                .await;
        watched(PATIENCE, "all attempts run", async || {
            let worker = trial.fleet.worker(0).await?;
            (worker.state == "online" && worker.running == count).then_some(())
        })
        .await;
        times.push(killed.elapsed());
        last_event = began;
        let tasks = trial.fleet.tasks(job).await;
        readopted += tasks.iter().filter(|task| task.state == "running" && task.attempt == 1).count();
    }
    std::fs::write(&over, "").unwrap();
    let tasks = trial.fleet.settle(&[(job, 0)], PATIENCE).await;
    let mut verdict = trial.judge(&[], &[]).await;
    verdict.tasks = tasks.len();
    for (_, task) in &tasks {
        let [stdout, _] = output(&trial.fleet, task).await;
        let counts = is_chat(&stdout);
        if task.state != "completed" || task.attempt != 1 || !counts {
            verdict.broken(format!(
                "{}/{} is {} in attempt {}, its output counts: {counts}",
                task.job, task.address, task.state, task.attempt
            ));
        }
    }
    let expected = times.count() * plan.tasks as usize;
    verdict.promise(readopted == expected && expected > 0, format!("re-adopted {readopted}/{expected}"));
    verdict.time_limit(times.percentile(99) <= LIMIT, format!("from the kill to re-adopted: {times}"));
    trial.end(verdict).await
}

async fn newest_event(trial: &Trial) -> i64 {
    trial.fleet.history(0).await.last().map_or(0, |event| event.id)
}

/// The event of a session that began after another event.
async fn session_since(trial: &Trial, after: i64) -> Option<i64> {
    let page: Page<Event> = trial.fleet.ask(&format!("/events?limit=500&after={after}")).await?;
    page.items.iter().find(|event| event.kind == "worker.online").map(|event| event.id)
}
