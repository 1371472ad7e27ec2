//! The database refuses valid writes, locks rows and tables, is read-only, full or slow, for less and for more than
//! any timeout: accepted jobs complete once with all output, nothing is acknowledged before it is stored, the
//! master reports the problem, and a problem of one job delays no other job.

mod faults;
mod judge;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{DeadLetter, Job, Page};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::time::sleep;

use self::faults::{Disk, Kind, Strike, Victim};
use self::judge::{Account, Struck};
use super::fleet::{Setup, Ways};
use super::plan::Plan;
use super::server::Server;
use super::tap::Tap;
use super::trial::Trial;
use super::verdict::Verdict;

/// Longer than any fault and what follows it: no lease is to run out.
const LEASE: &str = "180s";
/// The longest fault, beyond any timeout of the master; in short runs a part of the run.
const LONGEST: Duration = Duration::from_secs(40);
const LONGEST_PART: u32 = 6;
/// Of two faults in a round the second comes within so long.
const STAGGER_MILLIS: u64 = 3_000;
const PAUSE_MILLIS: std::ops::Range<u64> = 1_000..4_000;
/// How many tasks a victim has; a crowd of them writes more than the master can try one by one in a moment.
const VICTIMS: u32 = 3;
const CROWD: u32 = 20;
const FEED_INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(90);
/// Beside the period of the loop that puts dead letters back.
const RESTORING: Duration = Duration::from_secs(150);
/// In shorter runs nobody waits for that loop.
const LOOP_FROM: Duration = Duration::from_secs(60);

/// What the parts of a run share.
struct Shared<'a> {
    trial: &'a Trial,
    disk: Option<&'a Disk>,
    done: AtomicBool,
    chats: Mutex<Vec<i64>>,
    struck: Mutex<Vec<Struck>>,
}

/// Strikes with one or two faults at a time.
pub async fn run(plan: &Plan) -> Verdict {
    let tap = Arc::new(Tap::new(plan.seed, &[]));
    let setup = Setup {
        ways: Ways::Tapped(tap.clone()),
        server: Some(Server::start().await),
        is_ordinary: true,
        ..Setup::plain()
    };
    let mut trial = Trial::begin(plan, setup).await;
    let disk = Disk::below(&trial.fleet).await;
    let shared = Shared {
        trial: &trial,
        disk: disk.as_ref().ok(),
        done: AtomicBool::new(false),
        chats: Mutex::default(),
        struck: Mutex::default(),
    };
    let said = Mutex::default();
    let small = small_spec(&trial);
    let over = trial.fleet.dir().join("over");
    let striking = async {
        shared.chat(2 * u32::try_from(plan.workers).unwrap_or(1), &over, 0).await;
        shared.strike_until(Instant::now() + plan.duration).await;
        shared.restore_the_rest().await;
        std::fs::write(&over, "").unwrap();
        let chats = shared.chats.lock().unwrap().clone();
        let jobs: Vec<(i64, u64)> = chats.iter().map(|job| (*job, 0)).collect();
        let tasks = trial.fleet.settle(&jobs, PATIENCE).await;
        shared.done.store(true, Ordering::Relaxed);
        tasks
    };
    let (chats, jobs, (small, accepted), (), (compared, early)) = tokio::join!(
        striking,
        shared.feed(),
        watch::small_jobs(&trial.fleet, &small, plan.seed, &shared.done),
        watch::self_reports(&trial.fleet, &said, &shared.done),
        watch::acknowledgements(&trial.fleet, &tap, &shared.done),
    );
    let struck = shared.struck.into_inner().unwrap();
    let said = said.into_inner().unwrap();
    trial.jobs = jobs;
    trial.faults = u32::try_from(struck.len()).unwrap_or(u32::MAX);
    let account = Account { struck, said, small, accepted, chats, compared, early };
    let mut verdict = judge::judge(&mut trial, account).await;
    if let Err(why) = &disk {
        verdict.figure(format!("SKIPPED, NOT TESTED: a full disk: {why}"));
    }
    let verdict = trial.end(verdict).await;
    drop(disk);
    verdict
}

fn small_spec(trial: &Trial) -> Value {
    let mut spec = trial.spec(&["say".to_owned()]);
    spec["name"] = json!("small");
    spec["resources"] = json!({"cpu": 0.01});
    spec["priority"] = json!(100);
    spec["lost_after"] = json!(LEASE);
    spec
}

impl Shared<'_> {
    /// Submits jobs of the mix; gives them with what they follow from.
    async fn feed(&self) -> Vec<(i64, u64)> {
        let (fleet, plan) = (&self.trial.fleet, &self.trial.plan);
        let (mut rng, mut jobs) = (StdRng::seed_from_u64(!plan.seed), Vec::new());
        while !self.done.load(Ordering::Relaxed) {
            if fleet.waiting(&jobs).await < u64::from(plan.tasks_per_job) {
                let seed: u64 = rng.random();
                let act = ["play".to_owned(), seed.to_string(), plan.percent.to_string()];
                let mut spec = self.trial.spec(&act);
                spec["count"] = plan.tasks_per_job.into();
                spec["lost_after"] = json!(LEASE);
                jobs.push((fleet.submit(&spec, seed).await, seed));
            }
            sleep(FEED_INTERVAL).await;
        }
        jobs
    }

    /// Has so many tasks chat until the file is there, and waits until they do.
    async fn chat(&self, count: u32, until: &Path, key: u64) -> Victim {
        let fleet = &self.trial.fleet;
        let mut spec = self.trial.spec(&["chat".to_owned(), until.display().to_string()]);
        spec["count"] = count.into();
        spec["resources"] = json!({"cpu": 0.01});
        spec["priority"] = json!(90);
        spec["lost_after"] = json!(LEASE);
        let job = fleet.submit(&spec, self.trial.plan.seed.wrapping_mul(31).wrapping_add(key)).await;
        self.chats.lock().unwrap().push(job);
        crate::eventually_within(PATIENCE, "tasks that chat are running", async || {
            let job = fleet.ask::<Job>(&format!("/jobs/{job}")).await?;
            (job.task_counts.get("running") == Some(&i64::from(count))).then_some(())
        })
        .await;
        let mut owner = PgConnection::connect(fleet.database_url()).await.unwrap();
        let tasks = sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1 ORDER BY id");
        let tasks = tasks.bind(job).fetch_all(&mut owner).await.unwrap();
        Victim { job, tasks }
    }

    async fn strike_until(&self, end: Instant) {
        let mut rng = self.trial.rng.clone();
        let (mut deck, mut rounds) = (Vec::new(), 0);
        while Instant::now() < end {
            if deck.is_empty() {
                deck = Kind::ALL.to_vec();
                deck.retain(|kind| *kind != Kind::DiskFull || self.disk.is_some());
                if rounds > 0 {
                    deck.shuffle(&mut rng);
                }
                deck.reverse();
            }
            rounds += 1;
            let mut kinds = vec![deck.pop().unwrap()];
            // Who locks a table keeps constraints from coming and going.
            let is_alone = |kind: Option<&Kind>| kind.is_none_or(|kind| *kind == Kind::TableLocked);
            if rng.random() && !is_alone(kinds.first()) && !is_alone(deck.last()) {
                kinds.extend(deck.pop());
            }
            let mut round = Vec::new();
            for kind in kinds {
                round.push(self.prepare(kind, &mut rng).await);
            }
            futures::future::join_all(round.into_iter().map(|planned| self.strike(planned))).await;
            self.see_that_it_is_ready().await;
            sleep(Duration::from_millis(rng.random_range(PAUSE_MILLIS))).await;
        }
    }

    async fn prepare(&self, kind: Kind, rng: &mut StdRng) -> Planned {
        let longest = LONGEST.min(self.trial.plan.duration / LONGEST_PART).as_secs_f64();
        // As many short as long ones.
        let lasts = Duration::from_secs_f64(match rng.random() {
            true => rng.random_range(longest / 40.0..longest / 8.0),
            false => rng.random_range(longest / 8.0..longest),
        });
        let number: u64 = rng.random();
        let victim = match kind.concerns_one_job() {
            true => {
                let over = self.trial.fleet.dir().join(format!("over-{number}"));
                let is_crowd = kind == Kind::Constraint && rng.random();
                let victim = self.chat(if is_crowd { CROWD } else { VICTIMS }, &over, number).await;
                Some((victim, over, lasts.mul_f64(rng.random_range(0.0..0.6))))
            }
            false => None,
        };
        let strike = Strike::new(kind, lasts, victim.as_ref().map(|(victim, ..)| victim), rng);
        let waits = Duration::from_millis(rng.random_range(0..STAGGER_MILLIS)).min(lasts / 2);
        Planned { strike, waits, victim, is_restored_at_once: rng.random() }
    }

    async fn strike(&self, planned: Planned) {
        let Planned { strike, waits, victim, is_restored_at_once } = planned;
        let fleet = &self.trial.fleet;
        sleep(waits).await;
        let ending = async {
            if let Some((_, over, after)) = &victim {
                sleep(*after).await;
                std::fs::write(over, "").unwrap();
            }
        };
        let ((began, ended), ()) = tokio::join!(strike.run(fleet, self.disk), ending);
        let mut letters = 0;
        if strike.kind == Kind::Constraint {
            letters = self.letters().await.len();
            // Else the master does by itself.
            if is_restored_at_once || self.trial.plan.duration < LOOP_FROM {
                self.restore().await;
            }
        }
        let struck = Struck { kind: strike.kind, told: strike.told(), began, ended, letters };
        self.struck.lock().unwrap().push(struck);
    }

    async fn see_that_it_is_ready(&self) {
        let readyz = format!("http://127.0.0.1:{}/readyz", self.trial.fleet.api_ports()[0]);
        crate::eventually_within(PATIENCE, "the master is ready after a fault", async || {
            reqwest::get(&readyz).await.ok()?.error_for_status().ok().map(drop)
        })
        .await;
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        crate::eventually_within(PATIENCE, "a list of dead letters", async || {
            let page: Page<DeadLetter> = self.trial.fleet.ask("/dead-letters?limit=500").await?;
            Some(page.items)
        })
        .await
    }

    /// Has all dead letters put back.
    async fn restore(&self) {
        let client = self.trial.fleet.client();
        let begun = Instant::now();
        while begun.elapsed() < RESTORING {
            let letters = self.letters().await;
            if letters.is_empty() {
                return;
            }
            for letter in letters {
                client.post(&format!("/dead-letters/{}/retry", letter.id), &json!({})).await;
            }
        }
    }

    /// Waits until the master has put all dead letters back.
    async fn restore_the_rest(&self) {
        if self.trial.plan.duration < LOOP_FROM {
            self.restore().await;
        }
        let begun = Instant::now();
        while begun.elapsed() < RESTORING && !self.letters().await.is_empty() {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A fault with its victim, and when both begin.
struct Planned {
    strike: Strike,
    waits: Duration,
    /// It ends when the file is there: so long after the fault began.
    victim: Option<(Victim, PathBuf, Duration)>,
    is_restored_at_once: bool,
}
