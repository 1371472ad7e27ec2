//! The tab Timeline of a job: when its tasks waited, started and ran, and which of them its duration came of.

use std::collections::HashMap;

use askama::Template;
use chrono::{DateTime, Utc};
use gaffer_domain::conditions::awaited;
use gaffer_domain::critical_path::{Part, critical_path};
use gaffer_domain::spec::{IndexMatch, JobSpec};
use gaffer_domain::task::StateName;

use super::super::error::Error;
use super::format::{many, moment};
use super::job_graph::definition_address;
use super::timeline::{Run, Track, TrackRow, axis, rows};
use super::{Markup, markup};
use crate::records::{DefinitionTimes, Job, Task};
use crate::store::tasks::TaskFilter;
use crate::views::Views;

/// Of a job with more tasks, those of a definition are one track.
const MAX_TRACKS: u32 = 200;
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
    let mut runs: HashMap<_, Vec<Run>> = HashMap::new();
    for times in views.reads.attempt_times(job.id, &ids).await? {
        runs.entry(times.task).or_default().push(Run {
            scheduled_at: times.scheduled_at,
            started_at: times.started_at,
            finished_at: times.finished_at,
            has_failed: times.has_reason,
        });
    }
    let tracks = tasks.iter().map(|task| Track {
        name: task.address.clone(),
        href: format!("/jobs/{}/tasks/{}", job.id, task.address),
        state: task.state.as_str(),
        runs: runs.remove(&task.id).unwrap_or_default(),
        is_over: task.is_final(),
        ..Track::default()
    });
    let ended: Vec<_> = tasks.iter().map(|task| task.finished_at).collect();
    Ok(with_waits(tracks.collect(), &ended, job, |at| tasks_awaited(spec, &tasks, at)))
}

/// Which tasks one task waited for, as places in the list.
fn tasks_awaited(spec: &JobSpec, tasks: &[Task], at: usize) -> Vec<usize> {
    let Ok(position) = usize::try_from(tasks[at].position) else { return Vec::new() };
    let mut found = Vec::new();
    for awaited in awaited(spec, position) {
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
        let run = times.and_then(|times| {
            Some(Run {
                scheduled_at: times.scheduled_at?,
                started_at: times.started_at,
                finished_at: times.finished_at,
                has_failed: counts.get(StateName::Failed) > 0,
            })
        });
        Track {
            name: format!("{} × {}", many(u64::from(task.indices.len())), task.name),
            href: definition_address(job, task, position),
            state: counts.most_telling().unwrap_or(StateName::Blocked).as_str(),
            runs: run.into_iter().collect(),
            is_over: counts.unfinished() == 0,
            ..Track::default()
        }
    });
    let ended: Vec<_> =
        (0..counts.len()).map(|at| times.get(&at).and_then(|times| times.finished_at)).collect();
    Ok(with_waits(tracks.collect(), &ended, job, |at| {
        awaited(spec, at).into_iter().map(|awaited| awaited.position).collect()
    }))
}

/// Adds from when on each track waited for a worker, and which tracks the duration of the job came of.
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
