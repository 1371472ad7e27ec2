//! Maps the end of a task or job to an exit code.

use gaffer_domain::reason::ReasonCode;
use gaffer_domain::task::StateName;
use gaffer_protocol::rest::Task;

/// The exit code of coreutils `timeout`, used for a task's timeout and for `gaffer wait --timeout`.
pub const TIMED_OUT: u8 = 124;
/// Gaffer itself failed; not the job's doing.
pub const GAFFER_FAILED: u8 = 125;
/// 128 + SIGTERM: the job was stopped.
pub const CANCELLED: u8 = 143;
/// 128 + SIGKILL, which is how the kernel ends what has no memory left, and a worker what writes too much.
const KILLED: u8 = 137;

/// The exit code of a final task, as a shell would have it.
pub fn of_task(task: &Task) -> u8 {
    match task.known_state() {
        Some(StateName::Completed) => 0,
        // Not needed, which says nothing of the job.
        Some(StateName::Cancelled) if StateName::Cancelled.is_skipped(code_of(task)) => 0,
        Some(StateName::Cancelled) => CANCELLED,
        _ => of_failure(task),
    }
}

fn of_failure(task: &Task) -> u8 {
    let own_code = task.exit_code.map(of_code);
    let by_signal = task.signal.map(of_signal);
    match code_of(task) {
        Some(ReasonCode::ExitCode | ReasonCode::StartFailed) => own_code.unwrap_or(GAFFER_FAILED),
        Some(ReasonCode::Signal) => by_signal.unwrap_or(GAFFER_FAILED),
        Some(ReasonCode::Timeout) => TIMED_OUT,
        Some(ReasonCode::OutOfMemory | ReasonCode::OutputLimit) => KILLED,
        Some(ReasonCode::Stopped | ReasonCode::ScaledDown) => CANCELLED,
        Some(ReasonCode::LostWorker | ReasonCode::DependencyFailed | ReasonCode::ConditionNotMet) => {
            GAFFER_FAILED
        }
        Some(ReasonCode::Unhealthy | ReasonCode::Other) | None => {
            by_signal.or(own_code).unwrap_or(GAFFER_FAILED)
        }
    }
}

fn code_of(task: &Task) -> Option<ReasonCode> {
    task.reason.as_ref().map(|reason| reason.code)
}

/// A failure never exits with 0, also when a wider exit code is truncated.
fn of_code(code: i32) -> u8 {
    match (code & 0xff) as u8 {
        0 => GAFFER_FAILED,
        code => code,
    }
}

fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(GAFFER_FAILED)
}

/// The exit code of a job from its final tasks: that of the first failed one, else 143 if one was cancelled. The
/// job's reason names the same task.
pub fn of_tasks(tasks: &[Task]) -> u8 {
    let first_failed = tasks
        .iter()
        .filter(|task| task.known_state() == Some(StateName::Failed))
        .min_by_key(|task| (task.finished_at.is_none(), task.finished_at));
    match first_failed {
        Some(task) => of_task(task),
        None => tasks.iter().map(of_task).max().unwrap_or(0),
    }
}

/// The exit code of several jobs: the highest.
pub fn of_jobs(codes: impl IntoIterator<Item = u8>) -> u8 {
    codes.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use gaffer_domain::JobId;
    use gaffer_domain::reason::Reason;

    use super::*;

    fn task(state: &str, reason: Option<ReasonCode>, exit_code: Option<i32>, signal: Option<i32>) -> Task {
        Task {
            job: JobId(1),
            task: "main".to_owned(),
            index: 0,
            address: "main".to_owned(),
            item: None,
            driver: "host".to_owned(),
            state: state.to_owned(),
            reason: reason.map(|code| Reason { code, message: String::new() }),
            exit_code,
            signal,
            attempt: 1,
            worker: None,
            worker_id: None,
            output_complete: None,
            not_before: None,
            created_at: DateTime::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            waits_for: None,
            ran_seconds: None,
            health: None,
            readiness: None,
            ready: None,
            result_of: None,
        }
    }

    #[test]
    fn each_end_has_the_code_that_a_shell_would_show() {
        use ReasonCode::*;
        let cases = [
            (task("completed", None, Some(0), None), 0),
            (task("failed", Some(ExitCode), Some(3), None), 3),
            (task("failed", Some(ExitCode), Some(255), None), 255),
            (task("failed", Some(ExitCode), Some(256), None), 125),
            (task("failed", Some(Signal), None, Some(9)), 137),
            (task("failed", Some(Signal), None, Some(11)), 139),
            (task("failed", Some(Timeout), Some(0), None), 124),
            (task("failed", Some(Timeout), None, Some(15)), 124),
            (task("failed", Some(OutOfMemory), None, Some(9)), 137),
            (task("failed", Some(LostWorker), None, None), 125),
            (task("failed", Some(StartFailed), Some(126), None), 126),
            (task("failed", Some(StartFailed), Some(127), None), 127),
            (task("failed", Some(StartFailed), None, None), 125),
            (task("failed", Some(Stopped), None, Some(15)), 143),
            (task("cancelled", Some(Stopped), None, Some(15)), 143),
            (task("cancelled", Some(DependencyFailed), None, None), 143),
            (task("cancelled", Some(ConditionNotMet), None, None), 0),
        ];
        for (task, code) in cases {
            assert_eq!(of_task(&task), code, "{task:?}");
        }
    }

    #[test]
    fn a_job_has_the_code_of_its_first_failure() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let mut late = task("failed", Some(ReasonCode::ExitCode), Some(200), None);
        late.finished_at = at(20);
        let mut early = task("failed", Some(ReasonCode::ExitCode), Some(7), None);
        early.finished_at = at(10);
        let cancelled = task("cancelled", Some(ReasonCode::DependencyFailed), None, None);
        let completed = task("completed", None, Some(0), None);
        assert_eq!(of_tasks(&[completed.clone(), late, early, cancelled.clone()]), 7);
        assert_eq!(of_tasks(&[completed.clone(), cancelled]), 143);
        assert_eq!(of_tasks(&[completed]), 0);
    }

    #[test]
    fn the_highest_code_of_several_jobs_counts() {
        assert_eq!(of_jobs([0, 3, 1]), 3);
        assert_eq!(of_jobs([]), 0);
    }
}
