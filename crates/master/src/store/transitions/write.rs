//! Writes the changes of a batch in a constant number of statements.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use gaffer_domain::conditions::Standing;
use gaffer_domain::{AttemptRef, JobId, Time};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _};

use super::super::StoreError;
use super::super::event_rows::EventColumns;
use super::super::output::{ChunkColumns, ChunkRow, chunks_insert};
use super::super::unnest::unnest;
use super::count_columns::{CountColumns, sums};
use super::known::{Expected, IF_KNOWN, answer_of, comparison};
use super::task_columns::{EarlierColumns, TaskColumns, finish, keep_earlier, keep_finished, update_live};
use super::{JobWork, Work};

/// What a batch writes; the order in which [`statement`] takes parameters.
#[derive(Clone, Copy)]
struct Written {
    /// First of all, whether what it was decided by is stored so: see [`super::known`].
    is_compared: bool,
    earlier: bool,
    live: bool,
    finished: bool,
    counts: bool,
    jobs: bool,
    chunks: bool,
    events: bool,
}

impl Written {
    fn all(self) -> [bool; 8] {
        let Written { is_compared, earlier, live, finished, counts, jobs, chunks, events } = self;
        [is_compared, earlier, live, finished, counts, jobs, chunks, events]
    }

    fn is_nothing(self) -> bool {
        let [_, parts @ ..] = self.all();
        !parts.contains(&true)
    }

    fn number(self) -> usize {
        self.all().into_iter().fold(0, |number, part| number * 2 + usize::from(part))
    }

    /// The statement that writes these parts, made when it is first needed.
    fn statement(self) -> &'static str {
        static STATEMENTS: [OnceLock<String>; 256] = [const { OnceLock::new() }; 256];
        STATEMENTS.get(self.number()).map_or("", |made| made.get_or_init(|| statement(self)))
    }
}

/// Keeps on which workers a job was ever placed.
const PLACED: &str = "INSERT INTO job_workers (job_id, worker_id) \
     SELECT DISTINCT job_id, placed_on FROM live WHERE placed_on IS NOT NULL ON CONFLICT DO NOTHING";

/// All that a batch changes, in one statement: one answer to wait for, however much it is. Tables of which it changes nothing are
/// not named in it, so that a lock on one of these does not delay it.
fn statement(parts: Written) -> String {
    let mut next = 1;
    let mut steps = Vec::new();
    let mut written = vec!["0::bigint"];
    let gate = if parts.is_compared { IF_KNOWN } else { "" };
    if parts.is_compared {
        steps.extend(comparison(&mut next));
    }
    if parts.earlier {
        steps.push(format!("earlier AS ({})", keep_earlier(gate, &mut next)));
    }
    if parts.live {
        steps.push(format!("live AS ({})", update_live(gate, &mut next)));
        steps.push(format!("placed AS ({PLACED})"));
        written.push("(SELECT count(*) FROM live)");
    }
    if parts.finished {
        steps.push(format!("over AS ({})", finish(gate, &mut next)));
        steps.push(format!("finished AS ({})", keep_finished("over")));
        written.push("(SELECT count(*) FROM over)");
    }
    if parts.counts {
        let counted = format!(
            "UPDATE task_definitions d SET {} FROM {} WHERE d.job_id = u.job_id AND d.position = u.position{gate}",
            sums(),
            CountColumns::unnest(&mut next)
        );
        steps.push(format!("counted AS ({counted})"));
    }
    if parts.jobs {
        let changed = format!(
            "UPDATE jobs j SET state = u.state::job_state, started_at = GREATEST(u.started_at, \
                     CASE WHEN u.started_at IS NOT NULL THEN j.created_at END), \
                 finished_at = CASE WHEN u.finished_at IS NOT NULL \
                     THEN GREATEST(u.finished_at, u.started_at, j.created_at) END, \
                 stop_message = u.stop_message, stops_everything = u.stops_everything, reason_code = u.reason_code, reason_message = u.reason_message \
             FROM {} WHERE j.id = u.id{gate}",
            JobColumns::unnest(&mut next)
        );
        steps.push(format!("changed AS ({changed})"));
    }
    if parts.chunks {
        steps.push(format!("stored AS ({})", chunks_insert(gate, &mut next)));
    }
    if parts.events {
        let told = format!(
            "INSERT INTO events (project_id, at, kind, job_id, task_id, attempt, worker_id, actor, message, more, era) \
             SELECT u.project_id, u.at, u.kind, u.job_id, u.task_id, u.attempt, u.worker_id, u.actor, u.message, u.more, \
                 u.era FROM {} WHERE true{gate} ORDER BY u.place",
            EventColumns::unnest(&mut next)
        );
        steps.push(format!("told AS ({told})"));
    }
    let written = written.join(" + ");
    let answer = match parts.is_compared {
        true => answer_of(&written, &mut next),
        false => format!("SELECT {written}"),
    };
    format!("WITH {} {}", steps.join(", "), answer)
}

impl Work {
    /// Writes all that is dirty, and output.
    pub(super) async fn write(
        &self,
        tx: &mut PgConnection,
        chunks: &[ChunkRow],
        now: Time,
    ) -> Result<(), StoreError> {
        self.write_all(tx, None, chunks, now).await.map(|_| ())
    }

    /// Writes the same in one transaction, unless what is stored differs from `expected`. Says whether it was written.
    pub(super) async fn write_if(
        &self,
        connection: &mut PgConnection,
        expected: Expected,
        chunks: &[ChunkRow],
        now: Time,
    ) -> Result<bool, StoreError> {
        self.write_all(connection, Some(expected), chunks, now).await
    }

    async fn write_all(
        &self,
        connection: &mut PgConnection,
        expected: Option<Expected>,
        chunks: &[ChunkRow],
        now: Time,
    ) -> Result<bool, StoreError> {
        let (mut live, mut finished) = (TaskColumns::default(), TaskColumns::default());
        let mut earlier = EarlierColumns::default();
        // What is known is not over.
        if expected.is_none() {
            self.revive(connection).await?;
        }
        for (id, work) in self.tasks.iter().filter(|(_, work)| work.dirty) {
            let attempt = |number| AttemptRef { task: *id, attempt: number };
            let update = |number| self.attempts.0.get(&attempt(number));
            let (stored, latest) = (work.stored_attempt, work.task.attempt);
            if stored < latest {
                // Numbers may be left out: see `Unseen`.
                let opened = self.attempts.0.range(attempt(stored + 1)..attempt(latest));
                let known = (stored > 0).then(|| (attempt(stored), update(stored)));
                for (passed, update) in
                    known.into_iter().chain(opened.map(|(at, update)| (*at, Some(update))))
                {
                    earlier.push(passed, update);
                }
            }
            let columns = if work.task.state.name().is_final() { &mut finished } else { &mut live };
            columns.push(id.0, work, update(latest));
        }
        let (counts, jobs) = (changed_counts(&self.jobs), JobColumns::of(&self.jobs));
        let events = EventColumns::of(&self.events, now);
        let wanted = live.len() + finished.len();
        let parts = Written {
            is_compared: expected.is_some(),
            earlier: !earlier.is_empty(),
            live: live.len() > 0,
            finished: finished.len() > 0,
            counts: !counts.is_empty(),
            jobs: !jobs.is_empty(),
            chunks: !chunks.is_empty(),
            events: !events.is_empty(),
        };
        if parts.is_nothing() {
            return Ok(true);
        }
        let mut query = sqlx::query(parts.statement());
        if let Some(expected) = expected {
            query = expected.bind(query);
        }
        if parts.earlier {
            query = earlier.bind(query);
        }
        if parts.live {
            query = live.bind(query);
        }
        if parts.finished {
            query = finished.bind(query);
        }
        if parts.counts {
            query = counts.bind(query);
        }
        if parts.jobs {
            query = jobs.bind(query);
        }
        if parts.chunks {
            query = ChunkColumns::of(chunks).bind(query);
        }
        if parts.events {
            query = events.bind(query);
        }
        if parts.is_compared {
            let row = query.bind(wanted as i64).fetch_one(connection).await?;
            return Ok(row.try_get("is_known")?);
        }
        let written: i64 = query.fetch_one(connection).await?.try_get(0)?;
        // The counts and the history of the batch are about all of them, or it is not written at all.
        if usize::try_from(written) != Ok(wanted) {
            let problem = format!("{written} of {wanted} tasks are as they were when they were read");
            return Err(StoreError::Unreadable(problem));
        }
        Ok(true)
    }
}

/// By how much the counts of definitions change.
fn changed_counts(jobs: &BTreeMap<JobId, JobWork>) -> CountColumns {
    let mut columns = CountColumns::default();
    for (id, job) in jobs {
        for (position, definition) in job.definitions.iter().enumerate() {
            if definition.change != Standing::default() {
                columns.push(*id, position, &definition.change);
            }
        }
    }
    columns
}

/// The jobs whose own rows change.
#[derive(Default)]
struct JobColumns<'a> {
    ids: Vec<i64>,
    states: Vec<&'static str>,
    started: Vec<Option<Time>>,
    finished: Vec<Option<Time>>,
    stops: Vec<Option<&'a str>>,
    force: Vec<bool>,
    codes: Vec<Option<&'static str>>,
    messages: Vec<Option<&'a str>>,
}

impl<'a> JobColumns<'a> {
    fn unnest(next: &mut usize) -> String {
        let columns = [
            ("id", "bigint"),
            ("state", "text"),
            ("started_at", "timestamptz"),
            ("finished_at", "timestamptz"),
            ("stop_message", "text"),
            ("stops_everything", "boolean"),
            ("reason_code", "text"),
            ("reason_message", "text"),
        ];
        unnest(&columns, next)
    }

    fn of(jobs: &'a BTreeMap<JobId, JobWork>) -> JobColumns<'a> {
        let mut columns = JobColumns::default();
        for (id, job) in jobs.iter().filter(|(_, job)| job.is_changed()) {
            columns.ids.push(id.0);
            columns.states.push(job.row.state.as_str());
            columns.started.push(job.row.started_at);
            columns.finished.push(job.finished_at);
            columns.stops.push(job.row.stop_message.as_deref());
            columns.force.push(job.row.force);
            // A reason is shown once the job is over; until then it is only remembered.
            columns.codes.push(job.row.reason.as_ref().map(|reason| reason.code.as_str()));
            columns.messages.push(job.row.reason.as_ref().map(|reason| reason.message.as_str()));
        }
        columns
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn bind<'q>(self, query: Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments>
    where
        'a: 'q,
    {
        query
            .bind(self.ids)
            .bind(self.states)
            .bind(self.started)
            .bind(self.finished)
            .bind(self.stops)
            .bind(self.force)
            .bind(self.codes)
            .bind(self.messages)
    }
}
