//! What health checks say of live attempts, and their results of the last hour.
//!
//! This is memory only. Each result carries the state before it, and a worker repeats its latest one in each session, so
//! a master that has just started knows the states of all attempts as soon as their workers have connected. Writing each
//! result to the database would cost more than the tasks of many a fleet: a thousand tasks that are checked once in ten
//! seconds have 360,000 results an hour, and nothing is decided by old ones. What changes, a state, is an event in the
//! database.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use gaffer_domain::health::{CheckKind, Health, HealthState, Outcome, Thresholds, is_available};
use gaffer_domain::rollout::Checks;
use gaffer_domain::{AttemptRef, JobId, Time, WorkerId};
use gaffer_protocol::health::{CheckResult, Checked};

use crate::records::{AttemptHealth, CheckSummary, HealthResult, Job, TaskPorts};

/// How long results are kept.
const KEPT: TimeDelta = TimeDelta::hours(1);
/// The most bytes of results of all attempts, and of one check of an attempt. Those of attempts that have ended go first.
const MAX_BYTES: usize = 64 << 20;
const MAX_BYTES_PER_CHECK: usize = 256 << 10;
/// The most attempts that have ended and whose results are kept.
const MAX_ENDED: usize = 10_000;

/// A handle on all of it.
#[derive(Debug, Clone, Default)]
pub struct Healths(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    attempts: HashMap<AttemptRef, Entry>,
    /// How many attempts are available, by job and position of their definition; no entry for 0.
    available: HashMap<(JobId, usize), u64>,
    /// When attempts ended, the earliest first.
    ended: VecDeque<(Time, AttemptRef)>,
    bytes: usize,
    checks: usize,
}

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    job: JobId,
    position: usize,
    is_stopping: bool,
    has_ended: bool,
    /// It is available, or was at some time since this master knows it.
    has_been_available: bool,
    checks: BTreeMap<CheckKind, Check>,
}

#[derive(Debug)]
struct Check {
    thresholds: Thresholds,
    health: Health,
    since: Time,
    /// Of the latest result; 0 before the first.
    number: u64,
    /// The state that the latest event reported.
    reported: HealthState,
    results: VecDeque<CheckResult>,
    bytes: usize,
}

/// The attempt of a result, as the database knows it.
#[derive(Debug, Clone)]
pub struct LiveAttempt {
    pub worker: WorkerId,
    pub job: JobId,
    /// Position of its definition in the job.
    pub position: usize,
    /// Whether it has been asked to stop.
    pub is_stopping: bool,
    /// The checks that it has.
    pub health: Option<Thresholds>,
    pub readiness: Option<Thresholds>,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The attempt is not known here: ask the database.
    Unknown,
    /// It says nothing: a later one is known, or its attempt has ended or is another worker's.
    Stale,
    /// It counts.
    Counted {
        /// There is something to do: [`Healths::pending_change`].
        has_change: bool,
    },
}

/// What is to be done about the state of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChange {
    /// The state.
    pub state: HealthState,
    /// Kind and message of the event; none if the state was reported before.
    pub event: Option<(&'static str, String)>,
    /// Why the attempt is to be stopped.
    pub stop: Option<String>,
}

impl Healths {
    /// Records a result. Every result but the latest of its check is stale; the latest may come again, as what followed from it may
    /// have been lost.
    pub fn record(&self, worker: WorkerId, checked: &Checked, now: Time) -> Recorded {
        let mut inner = self.lock();
        let room = (MAX_BYTES / inner.checks.max(1)).min(MAX_BYTES_PER_CHECK);
        let recorded = inner.change(checked.attempt, |entry| {
            if entry.worker != worker || entry.has_ended {
                return (Recorded::Stale, 0, 0);
            }
            let check = entry.checks.get_mut(&checked.check);
            let Some(check) = check.filter(|check| checked.number >= check.number) else {
                return (Recorded::Stale, 0, 0);
            };
            let mut bytes = (0, 0);
            if checked.number > check.number {
                check.judge(checked, now);
                bytes = check.keep(checked.result.clone(), room, now);
            }
            let state = check.health.state;
            let is_failing = checked.check == CheckKind::Health && state == HealthState::Unhealthy;
            let has_change = state != check.reported || (is_failing && !checked.result.passed);
            (Recorded::Counted { has_change }, bytes.0, bytes.1)
        });
        let Some((recorded, bytes_before, bytes_after)) = recorded else { return Recorded::Unknown };
        inner.bytes = (inner.bytes + bytes_after).saturating_sub(bytes_before);
        inner.forget_old(now);
        recorded
    }

    /// Makes an attempt known.
    pub fn open(&self, attempt: AttemptRef, live: LiveAttempt, now: Time) {
        let mut inner = self.lock();
        inner.forget_old(now);
        if inner.attempts.contains_key(&attempt) {
            return;
        }
        let LiveAttempt { worker, job, position, is_stopping, health, readiness } = live;
        let checks = [(CheckKind::Health, health), (CheckKind::Readiness, readiness)];
        let check = |(kind, of): (CheckKind, Option<Thresholds>)| Some((kind, Check::new(of?, now)));
        let checks: BTreeMap<_, _> = checks.into_iter().filter_map(check).collect();
        inner.checks += checks.len();
        let (has_ended, has_been_available) = (false, false);
        let mut entry = Entry { worker, job, position, is_stopping, has_ended, has_been_available, checks };
        entry.has_been_available = entry.is_available();
        inner.count((job, position), false, entry.is_available());
        inner.attempts.insert(attempt, entry);
    }

    /// These attempts have ended; their results are kept for a while.
    pub fn close(&self, attempts: &[AttemptRef], now: Time) {
        let mut inner = self.lock();
        for attempt in attempts {
            if inner.change(*attempt, |entry| std::mem::replace(&mut entry.has_ended, true)) == Some(false) {
                inner.ended.push_back((now, *attempt));
            }
        }
        inner.forget_old(now);
    }

    /// What is to be done about a check of an attempt; none if that is nothing any more.
    pub fn pending_change(&self, attempt: AttemptRef, kind: CheckKind) -> Option<HealthChange> {
        let inner = self.lock();
        let check = inner.attempts.get(&attempt).filter(|entry| !entry.has_ended)?.checks.get(&kind)?;
        let state = check.health.state;
        let message = check.message(kind);
        let event = (state != check.reported && state != HealthState::Starting)
            .then(|| (event_kind(kind, state), message.clone()));
        let stop = (kind == CheckKind::Health && state == HealthState::Unhealthy).then_some(message);
        (event.is_some() || stop.is_some()).then_some(HealthChange { state, event, stop })
    }

    /// The event about a state is stored.
    pub fn reported(&self, attempt: AttemptRef, kind: CheckKind, state: HealthState) {
        let mut inner = self.lock();
        let check = inner.attempts.get_mut(&attempt).and_then(|entry| entry.checks.get_mut(&kind));
        if let Some(check) = check {
            check.reported = state;
        }
    }

    /// What is known of an attempt; none if it has no checks, or none has a result.
    pub fn of(&self, attempt: AttemptRef) -> Option<AttemptHealth> {
        Some(self.lock().attempts.get(&attempt)?.summary())
    }

    /// The results of an attempt of the last hour, oldest first.
    pub fn results(&self, attempt: AttemptRef, now: Time) -> Vec<HealthResult> {
        let inner = self.lock();
        let Some(entry) = inner.attempts.get(&attempt) else { return Vec::new() };
        let of_check = |(kind, check): (&CheckKind, &Check)| {
            let kind = *kind;
            let recent = check.results.iter().filter(|result| result.at > now - KEPT).cloned();
            recent.map(move |result| HealthResult { check: kind, result }).collect::<Vec<_>>()
        };
        let mut results: Vec<HealthResult> = entry.checks.iter().flat_map(of_check).collect();
        drop(inner);
        results.sort_by_key(|found| found.result.at);
        results
    }

    /// What is known of the checks of an attempt.
    pub fn checks(&self, attempt: AttemptRef) -> Checks {
        let inner = self.lock();
        let Some(entry) = inner.attempts.get(&attempt) else { return Checks::default() };
        let since = || entry.checks.values().map(|check| check.since).max();
        Checks {
            available_since: entry.is_available().then(since).flatten(),
            has_been_available: entry.has_been_available,
        }
    }

    /// Adds whether tasks with ports are available.
    pub fn add_readiness<'a>(&self, tasks: impl IntoIterator<Item = &'a mut TaskPorts>) {
        let inner = self.lock();
        for task in tasks {
            let attempt = AttemptRef { task: task.task, attempt: task.attempt };
            task.ready = inner.attempts.get(&attempt).map(Entry::is_available);
        }
    }

    /// Attempts that are asked to stop are not available from then on.
    pub fn stopping(&self, attempts: impl IntoIterator<Item = AttemptRef>) {
        let mut inner = self.lock();
        for attempt in attempts {
            inner.change(attempt, |entry| entry.is_stopping = true);
        }
    }

    /// Adds how many tasks of unfinished services are available. Tasks without checks are, while they run.
    pub fn add_availability<'a>(&self, jobs: impl IntoIterator<Item = &'a mut Job>) {
        let inner = self.lock();
        for job in jobs.into_iter().filter(|job| job.kind.is_kept_running() && !job.is_over()) {
            let definitions = job.running.iter().enumerate();
            let available = definitions.map(|(position, running)| match running.has_checks {
                // What just ended may still be known as healthy.
                true => inner.available(job.id, position).min(running.count),
                false => running.count,
            });
            job.available = Some(available.sum());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How many attempts of a definition are available.
    fn available(&self, job: JobId, position: usize) -> u64 {
        self.available.get(&(job, position)).copied().unwrap_or(0)
    }

    /// Changes an attempt, and the number of available ones with it; none if it is not known.
    fn change<T>(&mut self, attempt: AttemptRef, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let entry = self.attempts.get_mut(&attempt)?;
        let (definition, was_available) = ((entry.job, entry.position), entry.is_available());
        let changed = change(entry);
        let is_available = entry.is_available();
        entry.has_been_available |= is_available;
        self.count(definition, was_available, is_available);
        Some(changed)
    }

    fn count(&mut self, definition: (JobId, usize), was_available: bool, is_available: bool) {
        if was_available == is_available {
            return;
        }
        let count = self.available.entry(definition).or_default();
        *count = if is_available { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.available.remove(&definition);
        }
    }

    /// Forgets attempts that ended long ago, are too many, or take memory that those need which have not ended.
    fn forget_old(&mut self, now: Time) {
        while let Some((ended, attempt)) = self.ended.front().copied()
            && (ended < now - KEPT || self.ended.len() > MAX_ENDED || self.bytes > MAX_BYTES)
        {
            self.ended.pop_front();
            if let Some(entry) = self.attempts.remove(&attempt) {
                self.checks -= entry.checks.len();
                let bytes: usize = entry.checks.values().map(|check| check.bytes).sum();
                self.bytes = self.bytes.saturating_sub(bytes);
            }
        }
    }
}

impl Entry {
    fn summary(&self) -> AttemptHealth {
        let of = |kind: CheckKind| self.checks.get(&kind).map(Check::summary);
        AttemptHealth {
            health: of(CheckKind::Health),
            readiness: of(CheckKind::Readiness),
            available: self.is_available(),
        }
    }

    fn is_available(&self) -> bool {
        let state = |kind: CheckKind| self.checks.get(&kind).map(|check| check.health.state);
        let passes = is_available(state(CheckKind::Health), state(CheckKind::Readiness));
        passes && !self.has_ended && !self.is_stopping
    }
}

impl Check {
    fn new(thresholds: Thresholds, now: Time) -> Check {
        Check {
            thresholds,
            health: Health::default(),
            since: now,
            number: 0,
            reported: HealthState::Starting,
            results: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes what the worker knows of the results before, unless that is less than what is known here.
    fn judge(&mut self, checked: &Checked, now: Time) {
        let state_before = self.health.state;
        if self.number == 0 {
            self.reported = checked.before.state;
        }
        if self.number == 0 || checked.is_whole {
            self.health = checked.before;
        }
        self.number = checked.number;
        let CheckResult { passed, after_millis, .. } = checked.result;
        self.health = self.health.after(self.thresholds, Outcome { passed, after_millis });
        if self.health.state != state_before {
            self.since = now;
        }
    }

    fn summary(&self) -> CheckSummary {
        CheckSummary { state: self.health.state, since: self.since, last: self.results.back().cloned() }
    }

    /// Keeps a result, in as many bytes as there are; gives how many bytes all of them had before and have now.
    fn keep(&mut self, result: CheckResult, room: usize, now: Time) -> (usize, usize) {
        let before = self.bytes;
        self.bytes += bytes_of(&result);
        self.results.push_back(result);
        while self.results.len() > 1
            && (self.bytes > room || self.results.front().is_some_and(|first| first.at < now - KEPT))
        {
            let Some(first) = self.results.pop_front() else { break };
            self.bytes -= bytes_of(&first);
        }
        (before, self.bytes)
    }

    /// `3 health checks in a row failed; the last: status 500`
    fn message(&self, kind: CheckKind) -> String {
        let last = self.results.back().map_or("", |last| last.detail.as_str());
        let name = kind.as_str();
        match self.health.state {
            HealthState::Unhealthy => {
                let checks = match self.health.failed {
                    0 | 1 => format!("a {name} check failed"),
                    failed => format!("{failed} {name} checks in a row failed; the last"),
                };
                format!("{checks}: {last}")
            }
            HealthState::Healthy | HealthState::Starting => format!("the {name} check passed: {last}"),
        }
    }
}

fn event_kind(kind: CheckKind, state: HealthState) -> &'static str {
    match (kind, state) {
        (CheckKind::Health, HealthState::Unhealthy) => "task.unhealthy",
        (CheckKind::Health, _) => "task.healthy",
        (CheckKind::Readiness, HealthState::Unhealthy) => "task.not_ready",
        (CheckKind::Readiness, _) => "task.ready",
    }
}

fn bytes_of(result: &CheckResult) -> usize {
    size_of::<CheckResult>() + result.detail.len()
}

#[cfg(test)]
mod tests;
