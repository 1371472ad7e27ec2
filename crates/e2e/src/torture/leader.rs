//! Several masters on one database. The leader is cut off from it, frozen, killed or stopped, for less and for more
//! than its lease, while workers still reach it: another one leads soon, and nothing runs twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gaffer_protocol::rest::Task;
use rand::Rng as _;
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use super::chats::{self, Chats};
use super::figures::Times;
use super::fleet::{Part, Setup};
use super::network::first_ready;
use super::plan::{LOST_AFTER, Plan};
use super::trial::Trial;
use super::verdict::Verdict;

const MASTERS: usize = 3;
/// Of the masters; short, so that much happens.
const LEASE: Duration = Duration::from_secs(6);
/// Longer than until another master leads and has declared lost what the workers of the first one ran.
const LONG: Duration = LEASE.saturating_add(LOST_AFTER).saturating_add(Duration::from_secs(14));
/// One of so many cuts and stalls is that long.
const LONG_RARITY: u32 = 3;
const PAUSE_MILLIS: std::ops::Range<u64> = 1_000..6_000;
/// Another master leads after the lease, a look at the row, and a second for transactions under way.
const TAKEOVER_LIMIT: Duration = LEASE.saturating_add(Duration::from_secs(4));
/// A master that comes back, or is started again, needs some time until it knows who leads: it counts silence from then on.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(50);

/// What happens to the master that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Cut(Duration),
    Freeze(Duration),
    Kill,
    End,
    /// All connections to the database are cut, of every master.
    Storm,
}

#[derive(Default)]
struct Log {
    /// From a strike after which somebody else has to lead, until somebody else is ready.
    takeovers: Times,
    /// The longest of them, and after what.
    slowest: Option<(Duration, Strike)>,
    cuts: u32,
    stalls: u32,
    kills: u32,
    ends: u32,
    storms: u32,
    /// Until when masters cannot be expected to take over: they are cut off, stand still, or have just come back.
    away_until: HashMap<usize, Instant>,
    /// Masters that went down by themselves.
    replaced: u32,
}

/// Strikes the leader again and again; first of all by a long cut.
pub async fn run(plan: &Plan) -> Verdict {
    let setup = Setup { masters: Some((MASTERS, LEASE)), ..Setup::plain() };
    let mut trial = Trial::begin(plan, setup).await;
    let chats = Chats::begin(&mut trial).await;
    let (end, mut log) = (Instant::now() + plan.duration, Log::default());
    while Instant::now() < end {
        strike(&mut trial, &mut log).await;
        let pause = Duration::from_millis(trial.rng.random_range(PAUSE_MILLIS));
        let next = Instant::now() + pause;
        while Instant::now() < next {
            trial.feed().await;
            see_to(&mut trial, &mut log);
            sleep(TICK).await;
        }
    }
    // The last one may not have run its course.
    let masters = trial.fleet.api_ports().len();
    crate::eventually_within(PATIENCE, "the last fault is over", async || {
        see_to(&mut trial, &mut log);
        (0..masters).all(|master| trial.fleet.way(master).is_none_or(|way| !way.is_cut())).then_some(())
    })
    .await;
    chats.end();
    trial.fleet.restore().await;
    crate::eventually_within(PATIENCE, "a master leads in the end", async || {
        see_to(&mut trial, &mut log);
        first_ready(&trial.fleet.api_ports()).await
    })
    .await;
    let (tasks, chats) = (trial.settle().await, chats.settle(&trial).await);
    let verdict = judge(&trial, log, &tasks, &chats).await;
    trial.end(verdict).await
}

/// Does something to the master that leads, and waits until one does again.
async fn strike(trial: &mut Trial, log: &mut Log) {
    let ports = trial.fleet.api_ports();
    let leader = crate::eventually_within(PATIENCE, "a master leads", async || {
        see_to(trial, log);
        first_ready(&ports).await
    })
    .await;
    let leader = ports.iter().position(|port| *port == leader).unwrap();
    let now = Instant::now();
    let is_well = |master: &usize| log.away_until.get(master).is_none_or(|until| *until < now);
    if !(0..MASTERS).filter(|master| *master != leader).any(|master| is_well(&master)) {
        // Somebody must be there to take over.
        return;
    }
    let strike = choose(trial);
    trial.faults += 1;
    let struck = Instant::now();
    match strike {
        Strike::Cut(duration) => {
            log.cuts += 1;
            log.away_until.insert(leader, struck + duration + SETTLED_AFTER);
            trial.fleet.way(leader).unwrap().cut_for(duration);
        }
        Strike::Freeze(duration) => {
            log.stalls += 1;
            log.away_until.insert(leader, struck + duration + SETTLED_AFTER);
            trial.fleet.freeze(Part::Master(leader), duration);
        }
        Strike::Kill => {
            log.kills += 1;
            log.away_until.insert(leader, struck + SETTLED_AFTER);
            trial.fleet.kill_master(leader).await;
        }
        Strike::End => {
            log.ends += 1;
            trial.fleet.tell_master_to_end(leader);
        }
        Strike::Storm => {
            log.storms += 1;
            trial.fleet.cut_database().await;
            return;
        }
    }
    // What is shorter than a lease may pass without anybody else leading.
    if matches!(strike, Strike::Cut(duration) | Strike::Freeze(duration) if duration < LONG) {
        return;
    }
    let others: Vec<u16> = ports.iter().copied().filter(|port| *port != ports[leader]).collect();
    match strike {
        // Started again at once, it may be the first to lead again.
        Strike::Kill | Strike::End => {
            crate::eventually_within(PATIENCE, "a master leads again", async || {
                see_to(trial, log);
                first_ready(&ports).await
            })
            .await;
        }
        _ => {
            crate::eventually_within(PATIENCE, "another master leads", async || {
                see_to(trial, log);
                first_ready(&others).await
            })
            .await;
        }
    }
    let took = struck.elapsed();
    log.takeovers.push(took);
    if log.slowest.is_none_or(|(slowest, _)| slowest < took) {
        log.slowest = Some((took, strike));
    }
}

/// The first is what was seen to break the promise.
fn choose(trial: &mut Trial) -> Strike {
    let is_long = trial.faults == 0 || trial.rng.random_ratio(1, LONG_RARITY);
    let short = Duration::from_millis(trial.rng.random_range(500..2 * LEASE.as_millis() as u64));
    let duration = if is_long { LONG } else { short };
    match trial.rng.random_range(0..8) {
        _ if trial.faults == 0 => Strike::Cut(LONG),
        _ if trial.faults == 1 => Strike::Freeze(LONG),
        0..3 => Strike::Cut(duration),
        3..5 => Strike::Freeze(duration),
        5 => Strike::Kill,
        6 => Strike::End,
        _ => Strike::Storm,
    }
}

/// Starts again what has gone down, and notes why that was.
fn see_to(trial: &mut Trial, log: &mut Log) {
    for (master, status) in trial.fleet.revive_ended_masters() {
        let settled = Instant::now() + SETTLED_AFTER;
        let until = log.away_until.entry(master).or_insert(settled);
        *until = settled.max(*until);
        match status.code() {
            // Killed, or told to end.
            None | Some(0) => {}
            Some(_) => log.replaced += 1,
        }
    }
}

async fn judge(trial: &Trial, log: Log, tasks: &[(u64, Task)], chats: &[(u64, Task)]) -> Verdict {
    let mut verdict = chats::judge(trial, tasks, chats).await;
    let mut database = PgConnection::connect(trial.fleet.database_url()).await.unwrap();
    let terms: i64 =
        sqlx::query_scalar("SELECT term FROM leadership").fetch_one(&mut database).await.unwrap();
    let Log { takeovers, slowest, cuts, stalls, kills, ends, storms, replaced, .. } = log;
    verdict.figure(format!(
        "leaders cut off {cuts}, stalled {stalls}, killed {kills}, told to end {ends}; storms {storms}; terms {terms}, \
         masters that went down because they were replaced {replaced}"
    ));
    verdict.promise(terms > 1, format!("masters led one after the other: {terms}"));
    let (longest, after) =
        slowest.map_or_else(Default::default, |(took, strike)| (took, format!("{strike:?}")));
    verdict.time_limit(
        longest <= TAKEOVER_LIMIT,
        format!("from a fault until a master leads: {takeovers}, the longest after {after}"),
    );
    let history = trial.fleet.history(0).await;
    let late = history.iter().filter(|event| event.kind == "task.late_report").count();
    verdict.figure(format!("reports that came too late and changed nothing: {late}"));
    verdict
}
