//! The tab Timeline of a job: when its tasks waited, started and ran, and which of them are on the critical path.

use std::collections::HashMap;

use askama::Template;
use chrono::{DateTime, Utc};
use gaffer_domain::critical_path::{Part, critical_path};
use gaffer_domain::policy::{self, Repeats};
use gaffer_domain::spec::{Awaited, IndexMatch, JobSpec, all_awaited};
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
            runs: runs(spec, task, &attempts.remove(&task.id).unwrap_or_default()),
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

/// The attempts of a task, with the back-off before each, as it follows from the restart policy.
fn runs(spec: &JobSpec, task: &Task, attempts: &[AttemptTimes]) -> Vec<Run> {
    let definition = usize::try_from(task.position).ok().and_then(|position| spec.tasks.get(position));
    // Those before were repeated too.
    let count = attempts.first().map_or(0, |first| first.attempt.saturating_sub(1));
    let mut repeats = Repeats { count, since: None };
    let mut backoff_until = None;
    let run = |times: &AttemptTimes| {
        let outcome = match times.reason {
            None => Outcome::Ran,
            Some(code) if code.is_failure() => Outcome::Failed,
            Some(_) => Outcome::Stopped,
        };
        let next = times.finished_at.zip(definition).filter(|_| outcome != Outcome::Stopped);
        let next = next.map(|(ended, definition)| policy::repeat(&definition.restart, repeats, ended));
        let before = std::mem::replace(&mut backoff_until, next.map(|(not_before, _)| not_before));
        repeats = next.map_or(repeats, |(_, repeats)| repeats);
        Run {
            backoff_until: before,
            scheduled_at: times.scheduled_at,
            started_at: times.started_at,
            finished_at: times.finished_at,
            outcome,
        }
    };
    attempts.iter().map(run).collect()
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
            name: format!("{} × {}", many(u64::from(task.indices.len())), task.name),
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
