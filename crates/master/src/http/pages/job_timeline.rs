//! The tab Timeline of a job: when its tasks waited, started and ran, and which of them are on the critical path.

use std::collections::HashMap;

use askama::Template;
use chrono::{DateTime, Utc};
use gaffer_domain::critical_path::{Part, critical_path};
use gaffer_domain::policy::{self, Repeats};
use gaffer_domain::reason::ReasonCode;
use gaffer_domain::spec::{Awaited, IndexMatch, JobSpec, Restart, all_awaited};
use gaffer_domain::task::StateName;

use super::super::error::Error;
use super::format::{many, moment};
use super::job_graph::definition_address;
use super::timeline::{Outcome, Run, Track, TrackRow, axis, rows};
use super::{Markup, markup};
use crate::records::{AttemptTimes, DefinitionTimes, Job, Task};
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// Of a job with more tasks, those of a definition are one track.
const MAX_TRACKS: u32 = 200;
/// Maximum number of attempts of a task that are shown: its latest ones.
const SHOWN_ATTEMPTS: u32 = 20;
/// Of a job with more, no timeline is drawn: each of them would have to be read.
const MAX_TASKS: i64 = 10_000;

#[derive(Template)]
#[template(path = "job_timeline.html")]
struct Picture<'a> {
    /// Goes before each address.
    base: &'a str,
    rows: Vec<TrackRow>,
    axis: Vec<String>,
    /// When the scale begins.
    begin: String,
    /// Why nothing is drawn.
    problem: Option<String>,
    /// Whether each track is all tasks of a definition.
    is_together: bool,
}

/// The timeline of a job as a part of a page. `base` goes before each address in it.
///
/// # Errors
/// When the database does not answer.
pub async fn picture(views: &Views, job: &Job, base: &str, now: DateTime<Utc>) -> Result<Markup, Error> {
    let total = job.task_counts.total();
    let begin = job.created_at;
    let end = job.finished_at.unwrap_or(now).max(begin);
    let is_together = total > i64::from(MAX_TRACKS);
    let (tracks, problem) = match views.reads.spec(job.id).await? {
        None => (Vec::new(), None),
        Some(_) if total > MAX_TASKS => {
            let tasks = many(total.unsigned_abs());
            let most = many(MAX_TASKS.unsigned_abs());
            (
                Vec::new(),
                Some(format!("No timeline is drawn of more than {most} tasks; this job has {tasks}.")),
            )
        }
        Some(spec) if is_together => (of_definitions(views, job, &spec).await?, None),
        Some(spec) => (of_tasks(views, job, &spec).await?, None),
    };
    let picture = Picture {
        base,
        axis: axis(begin, end),
        begin: moment(&begin.timestamp_millis()),
        rows: rows(tracks, begin, end),
        problem,
        is_together,
    };
    markup(&picture)
}

/// One track for each task.
async fn of_tasks(views: &Views, job: &Job, spec: &JobSpec) -> Result<Vec<Track>, Error> {
    let tasks = views.reads.task_list(job.id, &TaskFilter::default(), MAX_TRACKS).await?;
    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
    let mut attempts: HashMap<_, Vec<AttemptTimes>> = HashMap::new();
    // One more, to see when the first that is shown began to wait.
    for times in views.reads.attempt_times(job.id, &ids, SHOWN_ATTEMPTS + 1).await? {
        attempts.entry(times.task).or_default().push(times);
    }
    let tracks: Vec<Track> = tasks
        .iter()
        .map(|task| Track {
            name: task.address.clone(),
            href: format!("/jobs/{}/tasks/{}", job.id, task.address),
            state: task.state.as_str(),
            runs: runs(restart_of(spec, task), &attempts.remove(&task.id).unwrap_or_default()),
            backoff_until: task.not_before,
            is_over: task.is_final(),
            ..Track::default()
        })
        .collect();
    let ended: Vec<_> = tasks.iter().map(|task| task.finished_at).collect();
    let awaited = all_awaited(&spec.tasks);
    let mut tracks = with_waits(tracks, &ended, job, |at| tasks_awaited(&awaited, &tasks, at));
    for track in &mut tracks {
        if track.runs.len() > SHOWN_ATTEMPTS as usize {
            let before = track.runs.remove(0);
            track.ready_at = before.finished_at;
            track.note = format!("latest {SHOWN_ATTEMPTS} attempts");
        }
    }
    Ok(tracks)
}

/// The restart policy of a task.
fn restart_of<'s>(spec: &'s JobSpec, task: &Task) -> Option<&'s Restart> {
    let position = usize::try_from(task.position).ok()?;
    Some(&spec.tasks.get(position)?.restart)
}

/// The attempts of a task, with the back-off before each, as it follows from the restart policy.
fn runs(restart: Option<&Restart>, attempts: &[AttemptTimes]) -> Vec<Run> {
    // Those before were repeated too.
    let count = attempts.first().map_or(0, |first| first.attempt.saturating_sub(1));
    let mut repeats = Repeats { count, since: None };
    let mut backoff_until = None;
    let mut runs = Vec::with_capacity(attempts.len());
    for (at, times) in attempts.iter().enumerate() {
        let mut outcome = outcome(times);
        let before = backoff_until.take();
        if let Some((ended, restart)) = times.finished_at.zip(restart).filter(|_| outcome != Outcome::Stopped)
        {
            let (until, counted) = policy::repeat(restart, repeats, ended);
            // One that was placed sooner was not waited for: the task was moved, and its worker shut down meanwhile.
            let was_moved = attempts.get(at + 1).is_some_and(|next| next.scheduled_at < until);
            match was_moved {
                true if times.reason == Some(ReasonCode::LostWorker) => outcome = Outcome::Stopped,
                true => {}
                false => (backoff_until, repeats) = (Some(until), counted),
            }
        }
        runs.push(Run {
            backoff_until: before,
            scheduled_at: times.scheduled_at,
            started_at: times.started_at,
            finished_at: times.finished_at,
            outcome,
        });
    }
    runs
}

fn outcome(times: &AttemptTimes) -> Outcome {
    match times.reason {
        Some(code) if code.is_failure() => Outcome::Failed,
        Some(_) => Outcome::Stopped,
        // Its worker gave it back.
        None if times.finished_at.is_some() && times.started_at.is_none() => Outcome::Stopped,
        None => Outcome::Ran,
    }
}

/// Which tasks one task waited for, as places in the list.
fn tasks_awaited(awaited: &[Vec<Awaited>], tasks: &[Task], at: usize) -> Vec<usize> {
    let position = usize::try_from(tasks[at].position).ok();
    let mut found = Vec::new();
    for awaited in position.and_then(|position| awaited.get(position)).into_iter().flatten() {
        let of_it = tasks.iter().enumerate().filter(|(_, task)| {
            usize::try_from(task.position) == Ok(awaited.position)
                && (awaited.index == IndexMatch::All || task.index == tasks[at].index)
        });
        found.extend(of_it.map(|(place, _)| place));
    }
    found
}

/// One track for each definition.
async fn of_definitions(views: &Views, job: &Job, spec: &JobSpec) -> Result<Vec<Track>, Error> {
    let counts = views.reads.definition_counts(job.id).await?;
    let times = views.reads.definition_times(job.id).await?;
    let times: HashMap<usize, DefinitionTimes> =
        times.into_iter().filter_map(|times| Some((usize::try_from(times.position).ok()?, times))).collect();
    let tracks = spec.tasks.iter().zip(&counts).enumerate().map(|(position, (task, counts))| {
        let times = times.get(&position);
        let (failed, cancelled) = (counts.get(StateName::Failed), counts.get(StateName::Cancelled));
        let outcome = match (counts.get(StateName::Completed), failed, cancelled) {
            (0, 1.., _) => Outcome::Failed,
            (0, _, 1..) => Outcome::Stopped,
            _ => Outcome::Ran,
        };
        let run = times.and_then(|times| {
            Some(Run {
                backoff_until: None,
                scheduled_at: times.scheduled_at?,
                started_at: times.started_at,
                finished_at: times.finished_at,
                outcome,
            })
        });
        Track {
            name: format!("{} × {}", many(counts.total().unsigned_abs()), task.name),
            note: match failed {
                0 => String::new(),
                failed => format!("{} failed", many(failed.unsigned_abs())),
            },
            href: definition_address(job, task, position),
            state: counts.most_telling().unwrap_or(StateName::Blocked).as_str(),
            runs: run.into_iter().collect(),
            is_over: counts.unfinished() == 0,
            ..Track::default()
        }
    });
    let ended: Vec<_> =
        (0..counts.len()).map(|at| times.get(&at).and_then(|times| times.finished_at)).collect();
    let awaited = all_awaited(&spec.tasks);
    let awaited = |at: usize| awaited[at].iter().map(|awaited| awaited.position).collect();
    Ok(with_waits(tracks.collect(), &ended, job, awaited))
}

/// Adds from when on each track waited for a worker, and which tracks are on the critical path.
fn with_waits(
    mut tracks: Vec<Track>,
    ended: &[Option<DateTime<Utc>>],
    job: &Job,
    awaited: impl Fn(usize) -> Vec<usize>,
) -> Vec<Track> {
    let parts: Vec<Part> = tracks
        .iter()
        .zip(ended)
        .enumerate()
        .map(|(at, (track, ended))| Part {
            ended: *ended,
            has_run: !track.runs.is_empty(),
            waited_for: awaited(at),
        })
        .collect();
    for (track, part) in tracks.iter_mut().zip(&parts) {
        let ends: Option<Vec<_>> = part.waited_for.iter().map(|other| parts.get(*other)?.ended).collect();
        let ready = ends.map(|ends| ends.into_iter().max().unwrap_or(job.created_at));
        // What was cancelled while it waited for others was never ready.
        track.ready_at = ready.filter(|_| !track.is_over || !track.runs.is_empty());
    }
    if parts.len() > 1 {
        for at in critical_path(&parts) {
            tracks[at].is_critical = true;
        }
    }
    tracks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use chrono::TimeDelta;
    use gaffer_domain::{TaskId, Time};
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    /// Attempts, each with when it was placed, whether it started a second later, when it ended, and why.
    fn drawn(attempts: &[(i64, bool, i64, Option<ReasonCode>)]) -> Vec<(Option<i64>, Outcome)> {
        let restart = json!({"policy": "on-failure", "limit": 9, "delay": "10s", "backoff": "exponential"});
        let spec = JobSpec::read(&json!({"command": ["a"], "restart": restart})).unwrap();
        let attempts: Vec<AttemptTimes> = attempts
            .iter()
            .zip(1..)
            .map(|((placed, has_started, ended, reason), attempt)| AttemptTimes {
                task: TaskId(1),
                attempt,
                scheduled_at: at(*placed),
                started_at: has_started.then(|| at(placed + 1)),
                finished_at: Some(at(*ended)),
                reason: *reason,
            })
            .collect();
        let runs = runs(Some(&spec.tasks[0].restart), &attempts);
        runs.iter().map(|run| (run.backoff_until.map(|until| until.timestamp()), run.outcome)).collect()
    }

    #[test]
    fn an_attempt_that_was_given_back_or_moved_is_no_failure_and_nothing_backs_off_after_it() {
        let failed = Some(ReasonCode::ExitCode);
        let given_back = [(0, false, 5, None), (5, true, 9, failed), (19, true, 30, None)];
        assert_eq!(
            drawn(&given_back),
            [(None, Outcome::Stopped), (None, Outcome::Failed), (Some(19), Outcome::Ran)]
        );
        let (stopped, lost) = (Some(ReasonCode::Stopped), Some(ReasonCode::LostWorker));
        let drained = [(0, true, 5, stopped), (5, true, 9, lost), (10, true, 20, None)];
        assert_eq!(
            drawn(&drained),
            [(None, Outcome::Stopped), (None, Outcome::Stopped), (None, Outcome::Ran)]
        );
        // A worker that was lost is one: the task waits.
        let lost = [(0, true, 5, lost), (15, true, 20, failed), (40, true, 50, None)];
        assert_eq!(
            drawn(&lost),
            [(None, Outcome::Failed), (Some(15), Outcome::Failed), (Some(40), Outcome::Ran)]
        );
    }
}
