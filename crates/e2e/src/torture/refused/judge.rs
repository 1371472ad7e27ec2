//! Judges a run in which the database refused writes.

use std::collections::{BTreeMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{DeadLetter, Page, Task};

use super::super::figures::Times;
use super::super::scenario::{CHATTER, chat_line, is_chat};
use super::super::trial::Trial;
use super::super::verdict::{Verdict, named, output};
use super::faults::Kind;
use super::watch::{Said, Small};

/// A small job beside a fault that concerns one other job takes no longer.
const UNCONCERNED_LIMIT: Duration = Duration::from_secs(5);
/// A small job that a fault holds up is over so long after it.
const RECOVERY_LIMIT: Duration = Duration::from_secs(15);
/// Who waits for so long because something fails is told why.
const SILENCE_LIMIT: Duration = Duration::from_secs(6);
/// A fault of this length is seen in any case by those who look now and then.
const SEEN_FROM: Duration = Duration::from_secs(6);
/// The log has a line for each thing that happens, not for each try.
const LOG_LIMIT_BYTES: usize = 2 << 20;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct Struck {
    pub kind: Kind,
    pub told: String,
    pub began: Instant,
    pub ended: Instant,
    /// Dead letters that were there at its end.
    pub letters: usize,
}

impl Struck {
    fn meets(&self, small: &Small) -> bool {
        self.began <= small.over && small.submitted <= self.ended
    }
}

impl Small {
    fn took(&self) -> Duration {
        self.over - self.submitted
    }
}

/// All that was seen.
pub struct Account {
    pub struck: Vec<Struck>,
    pub said: Vec<Said>,
    pub small: Vec<Small>,
    /// Small jobs that were accepted.
    pub accepted: Vec<i64>,
    /// Tasks of the jobs that chat.
    pub chats: Vec<(u64, Task)>,
    /// Acknowledgements that were compared with the database.
    pub compared: usize,
    /// Those that came too early.
    pub early: Vec<String>,
}

pub async fn judge(trial: &mut Trial, account: Account) -> Verdict {
    let mix = trial.settle().await;
    let accepted: Vec<(i64, u64)> = account.accepted.iter().map(|job| (*job, 0)).collect();
    let small = trial.fleet.settle(&accepted, PATIENCE).await;
    let repeated = trial.repeated(&[mix.clone(), small.clone(), account.chats.clone()].concat()).await;
    let mut verdict = trial.judge(&mix, &repeated).await;
    verdict.tasks += small.len() + account.chats.len();
    let missing = account.accepted.len() - small.len();
    verdict
        .promise(missing == 0, format!("small jobs accepted {}, missing {missing}", account.accepted.len()));
    talkers(trial, &mut verdict, &small, &account.chats).await;
    let repeats = verdict.repeats_for_faults();
    verdict.promise(repeats == 0, format!("attempts that were ended or declared lost: {repeats}"));

    faults(&mut verdict, &account);
    unconcerned(&mut verdict, &account);
    silence(&mut verdict, &account);
    let Account { compared, early, .. } = account;
    let (count, first) = (early.len(), early.first());
    verdict.promise(
        early.is_empty(),
        format!("acknowledgements compared with the database {compared}, too early {count} {first:?}"),
    );
    let errors = trial.fleet.server_errors.load(Ordering::Relaxed);
    let improper = trial.fleet.improper_errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (count, first) = (improper.len(), improper.first());
    verdict.promise(
        improper.is_empty(),
        format!("answers 5xx {errors}, of which other than 503 with Retry-After {count} {first:?}"),
    );
    let letters: Page<DeadLetter> = crate::eventually_within(PATIENCE, "dead letters", async || {
        trial.fleet.ask("/dead-letters?limit=500").await
    })
    .await;
    let left = letters.items.len();
    verdict.promise(left == 0, format!("dead letters left in the end: {left}"));
    log(trial, &mut verdict);
    verdict
}

/// Tasks that chat or say one line completed, and said what they should.
async fn talkers(trial: &Trial, verdict: &mut Verdict, small: &[(u64, Task)], chats: &[(u64, Task)]) {
    let said_once = chat_line(0);
    let small = small.iter().map(|(_, task)| (task, true));
    for (task, is_small) in small.chain(chats.iter().map(|(_, task)| (task, false))) {
        if task.state != "completed" {
            let reason = task.reason.as_ref().map_or("", |reason| reason.message.as_str());
            verdict.lost.push(format!("{} is {}: {reason}", named(task), task.state));
            continue;
        }
        let [stdout, stderr] = output(&trial.fleet, task).await;
        let is_right = if is_small { stdout == said_once.as_bytes() } else { is_chat(&stdout) };
        if !is_right || !stderr.is_empty() {
            let bytes = stdout.len();
            verdict.wrong_outputs.push(format!("{}: {bytes} bytes that are not what it said", named(task)));
        }
        let key = (task.job.0, task.index);
        let seen = trial.witness.seen();
        if !seen.attempts.get(&key).is_some_and(|attempts| attempts.contains_key(&task.attempt)) {
            verdict.unseen.push(format!("{} completed, and never began", named(task)));
        }
    }
}

/// Each kind: how often, how long, how soon it was said, how long small jobs took, and how soon they were over after it.
fn faults(verdict: &mut Verdict, account: &Account) {
    let Account { struck, said, small, .. } = account;
    let mut slowest = Duration::ZERO;
    for kind in Kind::ALL {
        let of_kind: Vec<&Struck> = struck.iter().filter(|fault| fault.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let lengths: Times = of_kind.iter().map(|fault| fault.ended - fault.began).collect();
        let told: Times = of_kind
            .iter()
            .filter_map(|fault| {
                let said = said.iter().find(|said| said.trouble && said.at >= fault.began);
                said.filter(|said| said.at <= fault.ended).map(|said| said.at - fault.began)
            })
            .collect();
        let met = small.iter().filter(|small| of_kind.iter().any(|fault| fault.meets(small)));
        let met: Times = met.map(Small::took).collect();
        // What it held up is what was there when it ended, if nothing else struck meanwhile.
        let after = of_kind.iter().filter_map(|fault| {
            let is_held_up = |small: &&Small| small.submitted <= fault.ended && fault.ended <= small.over;
            let held_up = small.iter().find(is_held_up)?;
            let met = struck.iter().filter(|other| other.meets(held_up)).count();
            (met == 1).then(|| held_up.over - fault.ended)
        });
        let after: Times = after.collect();
        slowest = slowest.max(after.percentile(100));
        let letters: usize = of_kind.iter().map(|fault| fault.letters).sum();
        let letters = if letters > 0 { format!("; dead letters {letters}") } else { String::new() };
        verdict.figure(format!(
            "{}: {} times, {:.1?} to {:.1?}; said in {} of them, after {:.1?} at most; small jobs that met it {met}, over \
             {:.1?} after it at most{letters}",
            kind.name(),
            of_kind.len(),
            lengths.percentile(0),
            lengths.percentile(100),
            told.count(),
            told.percentile(100),
            after.percentile(100),
        ));
    }
    let quiet = small.iter().filter(|small| !struck.iter().any(|fault| fault.meets(small)));
    let quiet: Times = quiet.map(Small::took).collect();
    verdict.figure(format!("small jobs without any fault: {quiet}"));
    verdict.time_limit(
        slowest <= RECOVERY_LIMIT,
        format!("a small job that a fault held up was over {slowest:.1?} after it at most"),
    );
}

/// Small jobs while something was wrong with one other job only.
fn unconcerned(verdict: &mut Verdict, account: &Account) {
    let mut times = BTreeMap::<Kind, Times>::new();
    for small in &account.small {
        let met: Vec<&Struck> = account.struck.iter().filter(|fault| fault.meets(small)).collect();
        if met.iter().all(|fault| fault.kind.concerns_one_job()) {
            met.iter().for_each(|fault| times.entry(fault.kind).or_default().push(small.took()));
        }
    }
    for (kind, times) in times {
        let is_kept = times.percentile(100) <= UNCONCERNED_LIMIT;
        verdict.time_limit(is_kept, format!("small jobs beside \"{}\" alone: {times}", kind.name()));
    }
}

/// What waits because of a failure says why; what concerns a job is said on the job.
fn silence(verdict: &mut Verdict, account: &Account) {
    let spoke = |from: Instant, until: Instant| {
        account.said.iter().any(|said| said.trouble && said.at >= from && said.at <= until)
    };
    let met = |small: &Small| -> Vec<&Struck> {
        account.struck.iter().filter(|fault| fault.meets(small)).collect()
    };
    let is_held_up = |small: &&Small| {
        let met = met(small);
        let is_slow = met.iter().any(|fault| fault.kind.is_slowness());
        small.took() >= SILENCE_LIMIT && !met.is_empty() && !is_slow
    };
    let long: Vec<&Small> = account.small.iter().filter(is_held_up).collect();
    let untold: Vec<&&Small> = long.iter().filter(|small| !spoke(small.submitted, small.over)).collect();
    // What met nothing but moments of a fault may have waited for a busy machine.
    let met_much = |small: &Small| met(small).iter().any(|fault| fault.ended - fault.began >= SEEN_FROM);
    let (untold, unclear): (Vec<&&Small>, Vec<&&Small>) =
        untold.into_iter().partition(|small| met_much(small));
    let jobs = |small: &[&&Small]| small.iter().map(|small| small.job).collect::<Vec<i64>>();
    verdict.promise(
        untold.is_empty(),
        format!(
            "small jobs that a fault held up for long {}, without a word of it {:?}",
            long.len(),
            jobs(&untold)
        ),
    );
    verdict.time_limit(
        unclear.is_empty(),
        format!(
            "small jobs that took long, met moments of a fault, and without a word of it: {:?}",
            jobs(&unclear)
        ),
    );
    let must_show = |fault: &&Struck| {
        // A full disk has room for some rows; a lock may be on a table that nothing needs just then.
        let is_felt = !matches!(fault.kind, Kind::DiskFull | Kind::TableLocked | Kind::Connections);
        is_felt && !fault.kind.is_slowness() && fault.ended - fault.began >= SEEN_FROM
    };
    let long: Vec<&Struck> = account.struck.iter().filter(must_show).collect();
    let silent = long.iter().filter(|fault| !spoke(fault.began, fault.ended));
    let silent: HashSet<&str> = silent.map(|fault| fault.told.as_str()).collect();
    verdict
        .promise(silent.is_empty(), format!("long faults that must show {}, silent {silent:?}", long.len()));
    let unready = account.said.iter().filter(|said| !said.ready).count();
    verdict.figure(format!("looks at the master {}, not ready in {unready}", account.said.len()));
}

/// The master's log tells of no output, and not of each try.
fn log(trial: &Trial, verdict: &mut Verdict) {
    let log = std::fs::read(trial.fleet.dir().join("master.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&log);
    let hex: String = CHATTER.bytes().map(|byte| format!("{byte:02x}")).collect();
    let has_output = text.contains(CHATTER) || text.contains(&hex);
    verdict.promise(!has_output, format!("the master's log has output of tasks: {has_output}"));
    verdict.promise(
        log.len() <= LOG_LIMIT_BYTES,
        format!("the master's log has {} KiB, {} lines", log.len() >> 10, text.lines().count()),
    );
}
