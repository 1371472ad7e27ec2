//! Retention: how long a finished job is kept, when history begins a new era, and when an old era can go.

use chrono::TimeDelta;

use crate::Time;
use crate::job::JobState;
use crate::quantity::Span;
pub use crate::spec::Retention;

/// An era is closed after so many tasks, however young it is.
const ERA_TASKS: i64 = 2_000_000;
/// The longest and the shortest time for which an era is open.
const LONGEST_ERA: Span = Span::from_secs(30 * 24 * 60 * 60);
const SHORTEST_ERA: Span = Span::from_secs(60 * 60);
/// The shortest period has so many eras, so history waits for no more than this part of it until it is dropped.
const ERAS_PER_PERIOD: u64 = 30;
/// The most tasks of an era that are put aside when the rest of it is dropped, and their part of all.
pub const MOST_KEPT_TASKS: i64 = 10_000;
const KEPT_ONE_OF: i64 = 20;
/// The most output that is put aside: it is copied while nobody can write history.
pub const MOST_KEPT_BYTES: i64 = 16 << 20;

/// What is known of a job when its end is to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished<'a> {
    /// How it ended. A job without a final state never expires.
    pub state: JobState,
    /// When.
    pub at: Time,
    /// What its own specification says.
    pub own: &'a Retention,
    /// Somebody wants to keep it.
    pub is_pinned: bool,
}

impl Retention {
    /// What it says about a final state.
    pub fn of(&self, state: JobState) -> Option<Span> {
        match state {
            JobState::Completed => self.completed,
            JobState::Failed => self.failed,
            JobState::Cancelled => self.cancelled,
            JobState::Pending | JobState::Running | JobState::Stopping => None,
        }
    }

    /// How long a job that ended like this is kept: as its own specification says, else as this server does; none for ever.
    pub fn period(&self, state: JobState, own: &Retention) -> Option<Span> {
        own.of(state).or(self.of(state))
    }

    /// When a job expires on this server; none if it never does.
    pub fn expires_at(&self, job: &Finished<'_>) -> Option<Time> {
        if job.is_pinned {
            return None;
        }
        Some(job.at + delta(self.period(job.state, job.own)?))
    }

    /// Jobs that ended like this and no later than then have expired by now; none if they are kept for ever.
    pub fn cutoff(&self, state: JobState, own: &Retention, now: Time) -> Option<Time> {
        Some(now - delta(self.period(state, own)?))
    }

    /// Events of no job are kept for as long as the longest period, those before then not; all of them if jobs of any state are
    /// kept for ever.
    pub fn events_cutoff(&self, now: Time) -> Option<Time> {
        let longest = self.completed?.max(self.failed?).max(self.cancelled?);
        Some(now - delta(longest))
    }

    /// For how long an era of history is open: a small part of the shortest period.
    pub fn era_length(&self) -> Span {
        let shortest = [self.completed, self.failed, self.cancelled].into_iter().flatten().min();
        let part = shortest.map(|period| Span::from_millis(period.as_millis() / ERAS_PER_PERIOD));
        part.unwrap_or(LONGEST_ERA).clamp(SHORTEST_ERA, LONGEST_ERA)
    }

    /// Whether a new era is to be opened: the present one is old, or has many tasks. An empty one stays as it is.
    pub fn is_new_era_due(&self, opened_at: Time, tasks: i64, now: Time) -> bool {
        let is_old = now - opened_at >= delta(self.era_length());
        tasks > 0 && (is_old || tasks >= ERA_TASKS)
    }

    /// Jobs that expired no later than then do not wait for their era any more: too much of it is kept.
    pub fn no_longer_waits(&self, now: Time) -> Time {
        now - delta(self.era_length())
    }
}

/// What is left of a closed era.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EraRest {
    /// Tasks of jobs that have expired.
    pub expired_tasks: i64,
    /// Jobs that are kept: unfinished, pinned, or not expired; and their tasks.
    pub kept_jobs: i64,
    /// See `kept_jobs`.
    pub kept_tasks: i64,
    /// Stored output of these.
    pub kept_bytes: i64,
}

impl EraRest {
    /// Whether the era is dropped: nothing of it is kept, or so little that it is put aside first.
    pub fn can_go(&self) -> bool {
        if self.kept_jobs == 0 {
            return true;
        }
        let all = self.expired_tasks.saturating_add(self.kept_tasks);
        self.kept_tasks <= MOST_KEPT_TASKS
            && self.kept_bytes <= MOST_KEPT_BYTES
            && self.expired_tasks > 0
            && self.kept_tasks.saturating_mul(KEPT_ONE_OF) <= all
    }
}

fn delta(span: Span) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
