//! The networks of workers break: both ways, one way, or with resets, for less or for more than a lease. No attempt
//! is lost in a short partition, no two overlap after a long one, and work resumes soon afterwards.

use std::ops::Range;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use gaffer_protocol::rest::TaskDetail;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::time::sleep;

use super::asking::{watched, worker};
use super::figures::Times;
use super::fleet::{Fleet, Setup, Ways};
use super::namespaces::{Ground, Namespace};
use super::network::Break;
use super::plan::{Fault, LOST_AFTER, Plan};
use super::scenario::is_chat;
use super::strikes;
use super::trial::Trial;
use super::verdict::{Verdict, output};
use crate::client::Client;

/// How long a short break takes: a lease runs from the last answer before it, which may be 5 s ago.
const SHORT_MILLIS: Range<u64> = 100..4_000;
/// A long break takes longer than until the master replaces what a worker runs that it does not hear of.
const LONG_MILLIS: Range<u64> = LOST_AFTER.as_millis() as u64 + 6_000..LOST_AFTER.as_millis() as u64 + 22_000;
/// One of so many breaks is long, in a run that is long enough for that.
const LONG_RARITY: u32 = 4;
/// What is promised for work to go on.
const RESUME_LIMIT: Duration = Duration::from_secs(1);
/// After a long break an attempt may be called lost for so long: the worker reports what it ended meanwhile.
const AFTERMATH: TimeDelta = TimeDelta::seconds(10);
/// How long a worker may stay away from a network that is whole.
const PATIENCE: Duration = Duration::from_secs(60);
/// Breaks that are shown one by one.
const MAX_SHOWN: usize = 10;
const TICK: Duration = Duration::from_millis(100);

/// One break, from its beginning to the sign that it is over.
#[derive(Debug, Clone)]
struct Cut {
    worker: String,
    kind: Break,
    is_long: bool,
    began: DateTime<Utc>,
    length: Duration,
    resumed: DateTime<Utc>,
    /// From the heal to the first thing that the master hears after it.
    resume: Duration,
}

/// In namespaces, or through a proxy where there can be none.
pub async fn run(plan: &Plan) -> Verdict {
    match Ground::make(plan.workers) {
        Ok(ground) => in_namespaces(plan, ground).await,
        Err(reason) => {
            let mut verdict = strikes::run(plan, Fault::Partitions).await;
            verdict.figure(format!(
                "SKIPPED, NOT TESTED: real networks, resets, short breaks, time to resume: {reason}\n\
                 (connections were broken inside of this process instead)"
            ));
            verdict
        }
    }
}

async fn in_namespaces(plan: &Plan, ground: Ground) -> Verdict {
    let setup = Setup { ways: Ways::Namespaces(ground), ..Setup::plain() };
    let mut trial = Trial::begin(plan, setup).await;
    let (end, over) = (Instant::now() + plan.duration, trial.fleet.dir().join("over"));
    // So that there is always something to be said: else a worker's next heartbeat would be what is waited for.
    let mut chats = Vec::new();
    for number in 0..plan.workers {
        let mut spec = trial.spec(&["chat".to_owned(), over.display().to_string()]);
        spec["datacenters"] = json!([Fleet::name(number)]);
        chats.push(trial.fleet.submit(&spec, trial.rng.random()).await);
    }
    let has_long = plan.duration >= Duration::from_millis(LONG_MILLIS.end);
    let breaking = (0..plan.workers).map(|number| {
        let (name, space) = (Fleet::name(number), trial.fleet.space(number).unwrap());
        let rng = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64));
        break_again_and_again(trial.fleet.client().clone(), name, space, rng, end, has_long)
    });
    let breaking = join_all(breaking);
    let feeding = async {
        while Instant::now() < end {
            trial.feed().await;
            sleep(TICK).await;
        }
    };
    let (cuts, ()) = tokio::join!(breaking, feeding);
    let cuts = cuts.concat();
    trial.faults = u32::try_from(cuts.len()).unwrap();
    std::fs::write(&over, "").unwrap();
    let tasks = trial.settle().await;
    let chats: Vec<(i64, u64)> = chats.into_iter().map(|job| (job, 0)).collect();
    let chats = trial.fleet.settle(&chats, PATIENCE).await;
    let mut repeated = trial.repeated(&tasks).await;
    repeated.extend(trial.repeated(&chats).await);
    let mut verdict = trial.judge(&tasks, &repeated).await;
    for (_, task) in &chats {
        let [stdout, _] = output(&trial.fleet, task).await;
        let counted = is_chat(&stdout);
        if task.state != "completed" || !counted {
            verdict.broken(format!(
                "{}/{} is {}, its output counts: {counted}",
                task.job, task.address, task.state
            ));
        }
    }
    judge(&mut verdict, &cuts, &repeated);
    let history = trial.fleet.history(0).await;
    let late = history.iter().filter(|event| event.kind == "task.late_report").count();
    verdict.figure(format!("reports that came too late and changed nothing: {late}"));
    trial.end(verdict).await
}

async fn break_again_and_again(
    client: Client,
    name: String,
    space: Namespace,
    mut rng: StdRng,
    end: Instant,
    has_long: bool,
) -> Vec<Cut> {
    let mut cuts = Vec::new();
    // Contact is as fresh as a heartbeat makes it before the next break: a lease is what a short one may use up.
    let rest = |rng: &mut StdRng| Duration::from_millis(rng.random_range(5_500..8_000));
    sleep(Duration::from_millis(rng.random_range(500..2_000))).await;
    while Instant::now() < end {
        let kind = Break::ALL[rng.random_range(0..Break::ALL.len())];
        let is_long = has_long && rng.random_ratio(1, LONG_RARITY);
        let millis = rng.random_range(if is_long { LONG_MILLIS } else { SHORT_MILLIS });
        let began = Utc::now();
        space.break_off(kind);
        let length = Duration::from_millis(millis);
        sleep(length).await;
        space.heal();
        let (healed, healed_at) = (Instant::now(), Utc::now());
        // The worker chats all the time, so that something arrives as soon as anything can. That is the sign: the
        // master has heard it since, in the old session or in a new one.
        watched(PATIENCE, "a worker is heard again", async || {
            worker(&client, &name)
                .await
                .filter(|worker| worker.state == "online" && worker.last_seen_at > healed_at)
        })
        .await;
        let (resume, resumed, worker) = (healed.elapsed(), Utc::now(), name.clone());
        cuts.push(Cut { worker, kind, is_long, began, length, resumed, resume });
        sleep(rest(&mut rng)).await;
    }
    cuts
}

fn judge(verdict: &mut Verdict, cuts: &[Cut], repeated: &[TaskDetail]) {
    let losses = repeated.iter().flat_map(|detail| {
        let lost = detail.attempts.iter().filter(|attempt| {
            attempt.reason.as_ref().is_some_and(|reason| reason.code.as_str() == "lost_worker")
        });
        lost.map(move |attempt| (&detail.task, attempt))
    });
    let (mut false_losses, mut true_losses) = (0, 0);
    for (task, attempt) in losses {
        let at = attempt.finished_at.unwrap_or_default();
        let is_explained = cuts.iter().any(|cut| {
            cut.is_long && cut.worker == attempt.worker && cut.began < at && at < cut.resumed + AFTERMATH
        });
        if is_explained {
            true_losses += 1;
            continue;
        }
        false_losses += 1;
        let reason = attempt.reason.as_ref().map_or("", |reason| reason.message.as_str());
        verdict.broken(format!(
            "{}/{} attempt {} on {} was lost at {at}: {reason}",
            task.job, task.address, attempt.attempt, attempt.worker
        ));
    }
    verdict.figure(format!("false losses {false_losses}, losses to long breaks {true_losses}"));
    for is_long in [false, true] {
        for kind in Break::ALL {
            let of_kind = cuts.iter().filter(|cut| cut.is_long == is_long && cut.kind == kind);
            let times: Times = of_kind.map(|cut| cut.resume).collect();
            let length = if is_long { "long" } else { "short" };
            verdict.figure(format!("heard again after a {length} break ({kind:?}): {times}"));
        }
    }
    let mut slowest: Vec<&Cut> = cuts.iter().filter(|cut| cut.resume > RESUME_LIMIT).collect();
    slowest.sort_by_key(|cut| std::cmp::Reverse(cut.resume));
    for Cut { worker, kind, began, length, resume, .. } in slowest.into_iter().take(MAX_SHOWN) {
        verdict.figure(format!(
            "  {worker}, broken ({kind:?}) at {} for {length:?}: heard again after {resume:?}",
            began.format("%T%.3f")
        ));
    }
    let times: Times = cuts.iter().map(|cut| cut.resume).collect();
    verdict.time_limit(times.percentile(99) <= RESUME_LIMIT, format!("heard again after the heal: {times}"));
}
