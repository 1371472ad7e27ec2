//! Tasks that try to outlive their end: none of their processes survives, and a stop takes little longer than the
//! grace period.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use gaffer_protocol::rest::{Event, Job, Page};
use rand::Rng as _;
use serde_json::{Value, json};

use super::asking::watched;
use super::figures::Times;
use super::fleet::Setup;
use super::plan::Plan;
use super::trial::Trial;
use super::verdict::Verdict;
use crate::eventually_within;

/// What a task does. `$P` is the player, whose descendants are known by `$W`, the witness, among their arguments.
const ESCAPES: [(&str, &str); 6] = [
    ("leaves its session", "setsid $P linger $W >/dev/null 2>&1 </dev/null &"),
    ("forks twice", "(sh -c '$P linger $W >/dev/null 2>&1 & $P linger $W >/dev/null 2>&1 &' sh $W &)"),
    ("ignores the request to end", "trap '' TERM INT HUP; $P linger $W & "),
    ("leaves its pipes to a daemon", "setsid sh -c '$P linger $W & exit 0' sh $W &"),
    ("does all of that", "trap '' TERM; (setsid setsid $P linger $W &) ; setsid $P linger $W & "),
    ("hides its environment", "env -i setsid $P linger $W >/dev/null 2>&1 &"),
];
/// Forks without end, as far as its limit of processes lets it.
const BOMB_NAME: &str = "forks without end";
const BOMB: &str = "b() { b | b & }; b; exec $P linger $W";
/// So many tasks of a run are bombs.
const BOMBS: usize = 2;
/// A bomb is stopped once it has so many processes; its limit is 4,096.
const BOMB_SIZE: usize = 1_000;
/// So many tasks run at the same time.
const AT_ONCE: usize = 8;
const GRACE: Duration = Duration::from_millis(500);
/// What is promised beyond the grace.
const STOP_LIMIT: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(60);

struct Ending {
    what: &'static str,
    /// From the answer to the stop until the API showed the end; none if it ended by itself.
    seen: Option<Duration>,
    /// From the event of the stop to that of the end, both by the master's clock.
    recorded: Option<Duration>,
    state: String,
    finding: Option<String>,
}

/// Submits all of them, a few at a time, until the time is up.
pub async fn run(plan: &Plan) -> Verdict {
    let mut trial = Trial::begin(plan, Setup::plain()).await;
    let seeds: Vec<u64> = (0..plan.tasks).map(|_| trial.rng.random()).collect();
    let end = Instant::now() + plan.duration;
    let (bombs, tame) = seeds.split_at(BOMBS.min(plan.tasks as usize / 100));
    let endings = futures::stream::iter(tame)
        .take_while(|_| std::future::ready(Instant::now() < end))
        .map(|seed| try_one(&trial, true, *seed))
        .buffer_unordered(AT_ONCE);
    // Bombs come last, one by one: what takes all of the machine says nothing about the others.
    let mut endings: Vec<Ending> = endings.collect().await;
    for seed in bombs {
        endings.push(try_one(&trial, false, *seed).await);
    }
    trial.faults = u32::try_from(endings.len()).unwrap();
    let mut verdict = trial.judge(&[], &[]).await;
    verdict.tasks = endings.len();
    let stopped = endings.iter().filter(|ending| ending.seen.is_some()).count();
    verdict.figure(format!("stopped {stopped}, ended by themselves {}", endings.len() - stopped));
    verdict.broken.extend(endings.iter().filter_map(|ending| ending.finding.clone()));
    let cancelled = endings.iter().filter(|ending| ending.state == "cancelled").count();
    verdict.figure(format!("cancelled {cancelled}"));
    let recorded: Times = endings.iter().filter_map(|ending| ending.recorded).collect();
    let seen: Times = endings.iter().filter_map(|ending| ending.seen).collect();
    verdict.figure(format!("from the stop to the end, as recorded: {recorded}"));
    for what in ESCAPES.iter().map(|(what, _)| *what).chain([BOMB_NAME]) {
        let of_kind = endings.iter().filter(|ending| ending.what == what);
        let times: Times = of_kind.filter_map(|ending| ending.seen).collect();
        verdict.figure(format!("  {what}: {times}"));
    }
    verdict.time_limit(
        seen.percentile(99) <= GRACE + STOP_LIMIT,
        format!("from the answer to the stop to the end, as seen: {seen}"),
    );
    trial.end(verdict).await
}

async fn try_one(trial: &Trial, is_tame: bool, seed: u64) -> Ending {
    let (what, escape) = match is_tame {
        true => ESCAPES[usize::try_from(seed % ESCAPES.len() as u64).unwrap()],
        false => (BOMB_NAME, BOMB),
    };
    // Every other one ends by itself once its descendants are out, the rest is stopped.
    let is_stopped = !is_tame || (seed / 8).is_multiple_of(2);
    let last = if is_stopped { "exec $P linger $W" } else { "exit 0" };
    let script = format!("{escape}\necho out; {last}");
    let mut spec: Value = trial.spec(&["linger".to_owned()]);
    spec["command"] = json!(["sh", "-c", script, "sh", trial.witness.path()]);
    spec["env"] = json!({"P": trial.plan.player, "W": trial.witness.path()});
    spec["restart"] = json!({"policy": "never"});
    let job = trial.fleet.submit(&spec, seed).await;
    let path = format!("/jobs/{job}");
    // Answers as soon as it is over.
    let wait = format!("{path}?wait=30s");
    let is_over = async || trial.fleet.ask::<Job>(&wait).await.filter(|job| job.finished_at.is_some());
    let mut ending = Ending { what, seen: None, recorded: None, state: String::new(), finding: None };
    if is_stopped {
        let output = format!("{path}/output");
        eventually_within(PATIENCE, "a task has begun", async || {
            if !is_tame {
                return (trial.witness.survivors().len() >= BOMB_SIZE).then_some(());
            }
            let answer = trial.fleet.client().open(&output, "text/plain").await;
            let has_begun = answer.text().await.is_ok_and(|text| text.starts_with("out"));
            has_begun.then_some(())
        })
        .await;
        let answer = trial.fleet.client().post(&format!("{path}/stop"), &json!({})).await;
        let asked = Instant::now();
        if !answer.status.is_success() {
            ending.finding = Some(format!("job {job} ({what}) cannot be stopped: {}", answer.text));
        }
        ending.state = watched(PATIENCE, "a stopped task is over", is_over).await.state;
        ending.seen = Some(asked.elapsed());
        let events: Option<Page<Event>> = trial.fleet.ask(&format!("{path}/events?limit=500&after=0")).await;
        let events = events.map_or_else(Vec::new, |page| page.items);
        let at = |kind: &str| -> Option<DateTime<Utc>> {
            events.iter().find(|event| event.kind == kind).map(|event| event.at)
        };
        let took = at("task.stopping").zip(at("task.cancelled")).map(|(from, to)| to - from);
        ending.recorded = took.and_then(|took| took.to_std().ok());
    } else {
        ending.state = watched(PATIENCE, "a task that ends is over", is_over).await.state;
    }
    let expected = if is_stopped { "cancelled" } else { "completed" };
    if ending.state != expected && ending.finding.is_none() {
        ending.finding = Some(format!("job {job} ({what}) is {}, not {expected}", ending.state));
    }
    ending
}
