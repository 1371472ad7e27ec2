//! Writes history: what one transaction changes of one job is one row, however many events that are.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaffer_domain::{JobId, ProjectId, TaskId, Time, WorkerId};
use serde_json::Value;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::unnest::unnest;

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

/// Rows of `events` as columns of a statement, those of one job together.
#[derive(Default)]
pub(super) struct EventColumns<'a> {
    projects: Vec<i64>,
    times: Vec<Time>,
    kinds: Vec<&'a str>,
    jobs: Vec<i64>,
    tasks: Vec<Option<i64>>,
    attempts: Vec<Option<i32>>,
    workers: Vec<Option<i64>>,
    actors: Vec<&'a str>,
    messages: Vec<&'a str>,
    more: Vec<Option<Value>>,
    eras: Vec<i64>,
}

impl<'a> EventColumns<'a> {
    pub fn unnest(next: &mut usize) -> String {
        let columns = [
            ("project_id", "bigint"),
            ("at", "timestamptz"),
            ("kind", "text"),
            ("job_id", "bigint"),
            ("task_id", "bigint"),
            ("attempt", "int"),
            ("worker_id", "bigint"),
            ("actor", "text"),
            ("message", "text"),
            ("more", "jsonb"),
            ("era", "bigint"),
        ];
        unnest(&columns, next)
    }

    pub fn of(events: &'a [EventRow], at: Time) -> EventColumns<'a> {
        let mut by_job: BTreeMap<JobId, Vec<&EventRow>> = BTreeMap::new();
        for event in events {
            by_job.entry(event.job).or_default().push(event);
        }
        let mut columns = EventColumns::default();
        for together in by_job.values().flat_map(|events| events.chunks(EVENTS_PER_ROW)) {
            let Some((first, rest)) = together.split_first() else { continue };
            columns.projects.push(first.project.0);
            columns.times.push(at);
            columns.kinds.push(first.kind.as_str());
            columns.jobs.push(first.job.0);
            columns.tasks.push(first.task.map(|task| task.0));
            columns.attempts.push(first.attempt.map(|attempt| attempt as i32));
            columns.workers.push(first.worker.map(|worker| worker.0));
            columns.actors.push(&*first.actor);
            columns.messages.push(first.message.as_str());
            columns.more.push((!rest.is_empty()).then(|| rest.iter().map(|event| event.further()).collect()));
            columns.eras.push(first.era);
        }
        columns
    }

    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Binds the columns in their order.
    pub fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments>
    where
        'a: 'q,
    {
        query
            .bind(self.projects)
            .bind(self.times)
            .bind(self.kinds)
            .bind(self.jobs)
            .bind(self.tasks)
            .bind(self.attempts)
            .bind(self.workers)
            .bind(self.actors)
            .bind(self.messages)
            .bind(self.more)
            .bind(self.eras)
    }
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
