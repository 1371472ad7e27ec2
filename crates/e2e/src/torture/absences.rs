//! Whole workers are killed. Some return at once and report what they lost, some stay away until the master
//! declares it lost, each within its bound.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use gaffer_domain::worker::{CLOCK_DRIFT, LOST_MARGIN};
use gaffer_protocol::rest::{Event, TaskDetail};
use rand::Rng as _;
use tokio::time::sleep;

use super::figures::Times;
use super::fleet::{Fleet, Setup};
use super::plan::{LOST_AFTER, Plan};
use super::trial::Trial;
use super::verdict::Verdict;

const INTERVAL: Duration = Duration::from_secs(2);
/// One of so many workers stays away.
const LONG_RARITY: u32 = 5;
/// Longer than until what it ran is called lost.
const LONG: Duration = LOST_AFTER.saturating_add(Duration::from_secs(8));
const TOLERANCE: TimeDelta = TimeDelta::seconds(2);
const TICK: Duration = Duration::from_millis(100);

/// From a kill to the return.
struct Absence {
    number: usize,
    killed_at: DateTime<Utc>,
    until: Instant,
    is_over: bool,
    /// When the master last heard of the worker, as it says itself.
    last_seen: Option<DateTime<Utc>>,
}

/// Kills every two seconds, as long as somebody is left.
pub async fn run(plan: &Plan) -> Verdict {
    let mut trial = Trial::begin(plan, Setup::plain()).await;
    let (end, mut absences) = (Instant::now() + plan.duration, Vec::new());
    let mut next = Instant::now() + INTERVAL;
    while Instant::now() < end {
        trial.feed().await;
        if Instant::now() >= next {
            next = Instant::now() + INTERVAL;
            absences.extend(strike(&mut trial, &absences).await);
        }
        see_to(&mut trial, &mut absences, false).await;
        sleep(TICK).await;
    }
    see_to(&mut trial, &mut absences, true).await;
    let tasks = trial.settle().await;
    let repeated = trial.repeated(&tasks).await;
    let mut verdict = trial.judge(&tasks, &repeated).await;
    let history = trial.fleet.history(0).await;
    judge(&mut verdict, &absences, &repeated, &history);
    trial.end(verdict).await
}

async fn strike(trial: &mut Trial, absences: &[Absence]) -> Option<Absence> {
    let is_away = |number| absences.iter().any(|absence| absence.number == number && !absence.is_over);
    let number = trial.rng.random_range(0..trial.fleet.workers());
    let stays_away = trial.rng.random_ratio(1, LONG_RARITY) && !(0..trial.fleet.workers()).any(is_away);
    if is_away(number) {
        return None;
    }
    trial.faults += 1;
    let killed_at = Utc::now();
    trial.fleet.kill_worker(number).await;
    if !stays_away {
        trial.fleet.revive_worker(number);
    }
    let until = Instant::now() + if stays_away { LONG } else { Duration::ZERO };
    Some(Absence { number, killed_at, until, is_over: !stays_away, last_seen: None })
}

/// Asks about those who are away, and brings back those whose time has come.
async fn see_to(trial: &mut Trial, absences: &mut [Absence], is_end: bool) {
    for absence in absences.iter_mut().filter(|absence| !absence.is_over) {
        // Known once the master has noticed that the connection is gone; it does not change then.
        if absence.last_seen.is_none()
            && let Some(worker) = trial.fleet.worker(absence.number).await
            && worker.state == "offline"
        {
            absence.last_seen = Some(worker.last_seen_at);
        }
        if is_end || Instant::now() >= absence.until {
            absence.is_over = true;
            trial.fleet.revive_worker(absence.number);
        }
    }
}

fn judge(verdict: &mut Verdict, absences: &[Absence], repeated: &[TaskDetail], history: &[Event]) {
    let bound = TimeDelta::from_std(LOST_AFTER.mul_f64(1.0 + CLOCK_DRIFT) + LOST_MARGIN.to_std()).unwrap();
    // By whom it was declared, and how much later than it was due.
    let (mut by_worker, mut by_master) = (Vec::new(), Vec::new());
    for TaskDetail { task, attempts } in repeated {
        for attempt in attempts {
            let is_lost = attempt.reason.as_ref().is_some_and(|reason| reason.code.as_str() == "lost_worker");
            let Some(at) = attempt.finished_at.filter(|_| is_lost) else { continue };
            let of_worker = |absence: &&Absence| Fleet::name(absence.number) == attempt.worker;
            let name =
                format!("{}/{} attempt {} on {}", task.job, task.address, attempt.attempt, attempt.worker);
            let Some(absence) = absences.iter().filter(of_worker).rfind(|absence| absence.killed_at <= at)
            else {
                verdict.broken(format!("{name} was lost, and nobody had killed its worker"));
                continue;
            };
            let online = history.iter().find(|event| {
                event.kind == "worker.online"
                    && event.worker.as_ref() == Some(&attempt.worker)
                    && event.at > absence.killed_at
            });
            let due_on_return = online.map(|event| event.at);
            let due_while_away = absence.last_seen.map(|seen| seen + bound);
            let (deviations, due) = match (due_on_return, due_while_away) {
                (Some(back), Some(away)) if away < back => (&mut by_master, away),
                (Some(back), _) => (&mut by_worker, back),
                (None, Some(away)) => (&mut by_master, away),
                (None, None) => {
                    verdict.broken(format!("{name} was lost, and it is not known when that was due"));
                    continue;
                }
            };
            let late = at - due;
            deviations.push(late);
            if late.abs() > TOLERANCE {
                let millis = late.num_milliseconds();
                verdict
                    .slow
                    .push(format!("{name} was declared lost at {at}, {millis} ms after that was due"));
            }
        }
    }
    for (who, deviations) in [("workers that came back", by_worker), ("the master", by_master)] {
        let times: Times = deviations.iter().map(|late| late.abs().to_std().unwrap_or_default()).collect();
        let (first, last) = (deviations.iter().min(), deviations.iter().max());
        let [first, last] = [first, last].map(|late| late.map_or(0, TimeDelta::num_milliseconds));
        verdict
            .figure(format!("losses declared by {who}, off their bound: {times}, from {first} to {last} ms"));
    }
}
