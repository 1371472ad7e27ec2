//! Writes history: what one transaction changes of one job is one row, however many events that are.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreError;

/// How many events one row can hold, and how far apart the numbers of rows are at least.
pub(super) const EVENTS_PER_ROW: usize = 1_024;

/// One line of history, to be written.
#[derive(Debug)]
pub(super) struct EventRow {
    pub project: ProjectId,
    pub kind: String,
    pub job: JobId,
    /// That of the job: its events are kept there, whenever they happen.
    pub era: i64,
    pub task: Option<TaskId>,
    pub attempt: Option<u32>,
    pub worker: Option<WorkerId>,
    pub actor: Arc<str>,
    pub message: String,
}

/// Writes events, those of one job together.
pub(super) async fn write_events(
    tx: &mut PgConnection,
    events: &[EventRow],
    now: Time,
) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let mut by_job: BTreeMap<JobId, Vec<&EventRow>> = BTreeMap::new();
    for event in events {
        by_job.entry(event.job).or_default().push(event);
    }
    let (mut projects, mut kinds, mut jobs, mut tasks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut attempts, mut workers, mut actors, mut messages) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut more, mut eras): (Vec<Option<Value>>, Vec<i64>) = (Vec::new(), Vec::new());
    for together in by_job.values().flat_map(|events| events.chunks(EVENTS_PER_ROW)) {
        let Some((first, rest)) = together.split_first() else { continue };
        projects.push(first.project.0);
        kinds.push(first.kind.as_str());
        jobs.push(first.job.0);
        eras.push(first.era);
        tasks.push(first.task.map(|task| task.0));
        attempts.push(first.attempt.map(|attempt| attempt as i32));
        workers.push(first.worker.map(|worker| worker.0));
        actors.push(&*first.actor);
        messages.push(first.message.as_str());
        more.push((!rest.is_empty()).then(|| rest.iter().map(|event| event.further()).collect()));
    }
    sqlx::query(
        "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, more, era) \
         SELECT u.project_id, $1, u.kind, u.job_id, u.task_id, u.attempt, u.worker_id, u.actor, u.message, u.more, u.era \
         FROM UNNEST($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::bigint[], $8::text[], \
             $9::text[], $10::jsonb[], $11::bigint[]) \
             WITH ORDINALITY AS u(project_id, kind, job_id, task_id, attempt, worker_id, actor, message, more, era, place) \
         ORDER BY u.place",
    )
    .bind(now)
    .bind(projects)
    .bind(kinds)
    .bind(jobs)
    .bind(tasks)
    .bind(attempts)
    .bind(workers)
    .bind(actors)
    .bind(messages)
    .bind(more)
    .bind(eras)
    .execute(tx)
    .await?;
    Ok(())
}

impl EventRow {
    /// As one of the further events of a row; what it does not have is left out.
    fn further(&self) -> Value {
        let mut fields = serde_json::Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("kind", self.kind.as_str().into());
        put("actor", (*self.actor).into());
        put("message", self.message.as_str().into());
        if let Some(task) = self.task {
            put("task_id", task.0.into());
        }
        if let Some(attempt) = self.attempt {
            put("attempt", attempt.into());
        }
        if let Some(worker) = self.worker {
            put("worker_id", worker.0.into());
        }
        Value::Object(fields)
    }
}
