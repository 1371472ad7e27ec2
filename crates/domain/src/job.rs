//! The state of a job, derived from the states of its tasks and from stop requests.

use std::fmt;
use std::str::FromStr;

use crate::task::StateName;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// No task of it has started yet.
    Pending,
    /// At least one task has started, and not all have ended.
    Running,
    /// A stop was requested, and not all tasks have ended.
    Stopping,
    /// Every task completed or was skipped.
    Completed,
    /// All tasks have ended and at least one failed.
    Failed,
    /// All tasks have ended, none failed, at least one was cancelled and not skipped.
    Cancelled,
}

impl JobState {
    /// Every state, in the order of a life.
    pub const ALL: [JobState; 6] = [
        JobState::Pending,
        JobState::Running,
        JobState::Stopping,
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// Name in the API, the CLI, the database and on pages.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Running => "running",
            JobState::Stopping => "stopping",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Completed | JobState::Failed | JobState::Cancelled)
    }

    /// Whether a stop with `force` does more than was asked for already: the job is being stopped, and its tasks that clean up
    /// are left to run.
    pub fn can_force_stop(self, has_cleanup: bool) -> bool {
        self == JobState::Stopping && has_cleanup
    }

    /// The state of a service that was scaled to no instance at all and has no unfinished task: it is kept until somebody stops it.
    pub fn of_idle(counts: &TaskCounts, started: bool, stopping: bool) -> JobState {
        match (stopping, started) {
            (true, _) if counts.get(StateName::Failed) > 0 => JobState::Failed,
            (true, _) => JobState::Cancelled,
            (false, true) => JobState::Running,
            (false, false) => JobState::Pending,
        }
    }

    /// The state that follows from how many tasks are in which state.
    ///
    /// `skipped`: how many of the cancelled ones were skipped, which says nothing of the job. `stopping`: somebody asked the
    /// job to stop. `started`: some attempt of it has started at some time, so that a
    /// job between two attempts of its only task does not look new. That tasks have completed does not say so: their results
    /// may be those of an earlier job.
    pub fn of(counts: &TaskCounts, skipped: i64, started: bool, stopping: bool) -> JobState {
        let some = |state| counts.get(state) > 0;
        if counts.unfinished() > 0 {
            let under_way =
                started || some(StateName::Running) || some(StateName::Stopping) || some(StateName::Failed);
            return match (stopping, under_way) {
                (true, _) => JobState::Stopping,
                (false, true) => JobState::Running,
                (false, false) => JobState::Pending,
            };
        }
        if some(StateName::Failed) {
            JobState::Failed
        } else if counts.get(StateName::Cancelled) > skipped {
            JobState::Cancelled
        } else {
            JobState::Completed
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = UnknownJobState;

    fn from_str(text: &str) -> Result<Self, UnknownJobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownJobState)
    }
}

/// The text is not the name of a job state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job state; expected pending, running, stopping, completed, failed or cancelled")]
pub struct UnknownJobState;

/// How many tasks are in which state. Kept by adding and subtracting, never by counting rows; as differences they may
/// be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskCounts([i64; 8]);

impl TaskCounts {
    /// The number in one state.
    pub fn get(&self, state: StateName) -> i64 {
        self.0[state as usize]
    }

    /// Adds `n` (which may be negative) to one state.
    pub fn add(&mut self, state: StateName, n: i64) {
        self.0[state as usize] += n;
    }

    /// One task went from one state to another.
    pub fn moved(&mut self, from: StateName, to: StateName) {
        self.add(from, -1);
        self.add(to, 1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &TaskCounts) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Tasks that are not in a final state.
    pub fn unfinished(&self) -> i64 {
        self.iter().filter(|(state, _)| !state.is_final()).map(|(_, n)| n).sum()
    }

    /// All tasks.
    pub fn total(&self) -> i64 {
        self.0.iter().sum()
    }

    /// The one state that says most about these tasks: the worst of those that ended badly, else what goes on, else what is still
    /// to come. None without tasks.
    pub fn most_telling(&self) -> Option<StateName> {
        const ORDER: [StateName; 8] = [
            StateName::Failed,
            StateName::Stopping,
            StateName::Running,
            StateName::Scheduled,
            StateName::Pending,
            StateName::Blocked,
            StateName::Completed,
            StateName::Cancelled,
        ];
        ORDER.into_iter().find(|state| self.get(*state) > 0)
    }

    /// State by state, in the order of a life.
    pub fn iter(&self) -> impl Iterator<Item = (StateName, i64)> {
        StateName::ALL.into_iter().zip(self.0)
    }
}

impl From<[i64; 8]> for TaskCounts {
    fn from(counts: [i64; 8]) -> Self {
        TaskCounts(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(entries: &[(StateName, i64)]) -> TaskCounts {
        let mut counts = TaskCounts::default();
        for (state, n) in entries {
            counts.add(*state, *n);
        }
        counts
    }

    #[test]
    fn a_job_is_over_only_when_all_its_tasks_are() {
        let almost = counts(&[(StateName::Completed, 99), (StateName::Pending, 1)]);
        assert_eq!(JobState::of(&almost, 0, true, false), JobState::Running);
        assert_eq!(
            JobState::of(&counts(&[(StateName::Completed, 100)]), 0, true, false),
            JobState::Completed
        );
    }

    #[test]
    fn one_failure_fails_the_job_and_outweighs_a_cancellation() {
        let mixed = counts(&[(StateName::Completed, 5), (StateName::Cancelled, 5), (StateName::Failed, 1)]);
        assert_eq!(JobState::of(&mixed, 0, true, true), JobState::Failed);
        let cancelled = counts(&[(StateName::Completed, 5), (StateName::Cancelled, 1)]);
        assert_eq!(JobState::of(&cancelled, 0, true, true), JobState::Cancelled);
    }

    #[test]
    fn what_was_not_needed_says_nothing_of_the_job() {
        let skipped = counts(&[(StateName::Completed, 1), (StateName::Cancelled, 2)]);
        assert_eq!(JobState::of(&skipped, 2, true, false), JobState::Completed);
        assert_eq!(JobState::of(&skipped, 1, true, false), JobState::Cancelled);
    }

    #[test]
    fn a_job_whose_task_waits_for_its_second_attempt_is_running() {
        let waiting = counts(&[(StateName::Pending, 1)]);
        assert_eq!(JobState::of(&waiting, 0, false, false), JobState::Pending);
        assert_eq!(JobState::of(&waiting, 0, true, false), JobState::Running);
        assert_eq!(JobState::of(&waiting, 0, true, true), JobState::Stopping);
    }

    #[test]
    fn a_service_without_instances_is_kept_until_it_is_stopped() {
        let scaled_down = counts(&[(StateName::Cancelled, 3)]);
        assert_eq!(JobState::of_idle(&scaled_down, true, false), JobState::Running);
        assert_eq!(JobState::of_idle(&scaled_down, false, false), JobState::Pending);
        assert_eq!(JobState::of_idle(&scaled_down, true, true), JobState::Cancelled);
        let with_a_failure = counts(&[(StateName::Cancelled, 2), (StateName::Failed, 1)]);
        assert_eq!(JobState::of_idle(&with_a_failure, true, true), JobState::Failed);
    }

    #[test]
    fn results_of_an_earlier_job_do_not_make_a_job_look_started() {
        let waiting = counts(&[(StateName::Completed, 989), (StateName::Pending, 11)]);
        assert_eq!(JobState::of(&waiting, 0, false, false), JobState::Pending);
    }
}
