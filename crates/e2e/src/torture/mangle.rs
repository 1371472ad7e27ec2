//! Frames between workers and master are duplicated, reordered, truncated, or replayed in a later session; states
//! must stay correct.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::fleet::{Setup, Ways};
use super::plan::Plan;
use super::tap::Tap;
use super::trial::Trial;
use super::verdict::Verdict;

const TICK: Duration = Duration::from_millis(100);

/// Plays tricks for as long as the plan says, then lets the fleet settle in peace.
pub async fn run(plan: &Plan) -> Verdict {
    let tap = Arc::new(Tap::new(plan.seed, &plan.tricks));
    let mut trial = Trial::begin(plan, Setup { ways: Ways::Tapped(tap.clone()), ..Setup::plain() }).await;
    let end = Instant::now() + plan.duration;
    while Instant::now() < end {
        trial.feed().await;
        sleep(TICK).await;
    }
    tap.behave();
    let tasks = trial.settle().await;
    let repeated = trial.repeated(&tasks).await;
    let mut verdict = trial.judge(&tasks, &repeated).await;
    let played = tap.played();
    trial.faults = u32::try_from(played.iter().map(|(_, count)| count).sum::<u64>()).unwrap_or(u32::MAX);
    let played: Vec<String> = played.iter().map(|(name, count)| format!("{name} {count}")).collect();
    verdict.figure(format!("frames: {}", played.join(", ")));
    let errors = trial.fleet.server_errors.load(Ordering::Relaxed);
    verdict.promise(errors == 0, format!("answers that put the blame on the master (5xx): {errors}"));
    trial.end(verdict).await
}
