//! Fills a database with history: a few finished jobs, many times over, and decides when statistics are gathered.

use std::ops::RangeInclusive;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::super::StoreError;

/// Jobs that one statement writes, about.
const SLICE: u64 = 20_000;
/// Tables that are about jobs, but not history.
const NOT_HISTORY: [&str; 3] = ["idempotency_keys", "deletions", "dead_letters"];

/// All tables with rows of jobs, with the columns that can be written: `table`, `column`, whether it is a time, whether the
/// database numbers it. Rows find their partitions by themselves.
const COLUMNS: &str = "
SELECT c.relname::text, a.attname::text, a.atttypid = 'timestamptz'::regtype,
    a.attidentity <> '' OR COALESCE(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY c.relname, a.attnum";

/// A connection that writes history.
#[derive(Debug)]
pub struct History(PgConnection);

/// A table that a job leaves rows in.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<Column>,
}

/// Jobs that are copied together, and their tasks: everything from the first number to the last one is theirs.
#[derive(Debug, Clone)]
struct Originals {
    jobs: RangeInclusive<i64>,
    tasks: RangeInclusive<i64>,
}

#[derive(Debug)]
struct Column {
    name: String,
    is_time: bool,
    is_numbered: bool,
}

impl History {
    /// Connects as a user who may do everything.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn connect(database_url: &str) -> Result<History, StoreError> {
        let mut database = PgConnection::connect(database_url).await?;
        // References are right because they are copied, the fill need not be durable, and what is copied has a key.
        let settings =
            "SET session_replication_role = replica; SET synchronous_commit = off; SET enable_seqscan = off";
        sqlx::raw_sql(settings).execute(&mut database).await?;
        Ok(History(database))
    }

    /// Copies finished jobs with everything that they left behind until there are `total` of them, the originals included; each
    /// copy a minute older than the one before. Nobody else may have submitted anything since the first of them. No statistics are
    /// gathered. `progress` is told how many jobs there are.
    ///
    /// # Errors
    /// When the database does not answer, or the jobs have no tasks.
    pub async fn copy_jobs(
        &mut self,
        jobs: RangeInclusive<i64>,
        total: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<(), StoreError> {
        let database = &mut self.0;
        let all = originals(database, jobs).await?;
        let step = all.step();
        let each = step.jobs.unsigned_abs();
        let (copies, rest) = ((total / each).saturating_sub(1), if total > each { total % each } else { 0 });
        let tables = tables(database).await?;
        let at_once = (SLICE / each).max(1);
        let mut done = 0;
        while done < copies {
            let until = copies.min(done + at_once);
            copy(database, &tables, &all, step, done + 1..=until).await?;
            done = until;
            progress((done + 1) * each);
        }
        if let Some(last) = i64::try_from(rest).ok().filter(|rest| *rest > 0) {
            let first = *all.jobs.start();
            let some = originals(database, first..=first + last - 1).await?;
            copy(database, &tables, &some, step, copies + 1..=copies + 1).await?;
        }
        for (numbers, all) in [("jobs", "jobs"), ("live_tasks", "tasks")] {
            // Never back: the next task may have its number from a later era.
            let sql = format!(
                "SELECT setval('{numbers}_id_seq', greatest(last_value, (SELECT max(id) FROM {all}))) \
                 FROM {numbers}_id_seq"
            );
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *database).await?;
        }
        Ok(())
    }

    /// From now on the server gathers no statistics by itself, as in the first minute of an installation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn hold_statistics(&mut self) -> Result<(), StoreError> {
        self.all(&["ALTER SYSTEM SET autovacuum_naptime = '1d'", "SELECT pg_reload_conf()"]).await
    }

    /// Writes to disk what is in memory only, so that it is not written while something is measured.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn write_out(&mut self) -> Result<(), StoreError> {
        self.all(&["CHECKPOINT"]).await
    }

    /// Gathers statistics, as a server does after a minute, and lets it do so again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn gather_statistics(&mut self) -> Result<(), StoreError> {
        let reset = "ALTER SYSTEM RESET autovacuum_naptime";
        self.all(&["VACUUM (ANALYZE)", reset, "SELECT pg_reload_conf()"]).await
    }

    /// Whether nothing of a deleted job is left.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_deletion_done(&mut self) -> Result<bool, StoreError> {
        let sql = "SELECT NOT EXISTS (SELECT FROM deletions WHERE NOT waits_for_era)";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.0).await?)
    }

    /// The latest finished task.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn latest_finished_task(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(max(id), 0) FROM finished_tasks";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.0).await?)
    }

    /// How many finished tasks have a higher number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn finished_tasks_after(&mut self, task: i64) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM finished_tasks WHERE id > $1";
        let count: i64 = sqlx::query_scalar(sql).bind(task).fetch_one(&mut self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// Bytes of the database on disk.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn size_bytes(&mut self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut self.0).await?)
    }

    async fn all(&mut self, statements: &[&'static str]) -> Result<(), StoreError> {
        for statement in statements {
            sqlx::raw_sql(*statement).execute(&mut self.0).await?;
        }
        Ok(())
    }
}

/// Transactions that a database has ended since its server started. The question itself is asked in another database.
///
/// # Errors
/// When the server does not answer.
pub async fn transactions(database_url: &str) -> Result<i64, StoreError> {
    let options: PgConnectOptions = database_url.parse()?;
    let name = options.get_database().unwrap_or_default().to_owned();
    let mut server = options.database("postgres").connect().await?;
    let count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    let count = sqlx::query_scalar(count).bind(name).fetch_one(&mut server).await?;
    server.close().await?;
    Ok(count)
}

async fn tables(database: &mut PgConnection) -> Result<Vec<Table>, StoreError> {
    let columns: Vec<(String, String, bool, bool)> = sqlx::query_as(COLUMNS).fetch_all(database).await?;
    let mut tables: Vec<Table> = Vec::new();
    for (table, name, is_time, is_numbered) in columns {
        let column = Column { name, is_time, is_numbered };
        match tables.last_mut().filter(|last| last.name == table) {
            Some(last) => last.columns.push(column),
            None => tables.push(Table { name: table, columns: vec![column] }),
        }
    }
    tables.retain(|table| !NOT_HISTORY.contains(&table.name.as_str()));
    Ok(tables)
}

/// How far the numbers of one copy are from those of the next.
#[derive(Debug, Clone, Copy)]
struct Step {
    jobs: i64,
    tasks: i64,
}

impl Originals {
    fn step(&self) -> Step {
        let count = |numbers: &RangeInclusive<i64>| numbers.end() - numbers.start() + 1;
        Step { jobs: count(&self.jobs), tasks: count(&self.tasks) }
    }
}

async fn originals(database: &mut PgConnection, jobs: RangeInclusive<i64>) -> Result<Originals, StoreError> {
    let sql = "SELECT min(id), max(id) FROM tasks WHERE job_id BETWEEN $1 AND $2 HAVING count(*) > 0";
    let (first, last): (i64, i64) =
        sqlx::query_as(sql).bind(jobs.start()).bind(jobs.end()).fetch_one(database).await?;
    Ok(Originals { jobs, tasks: first..=last })
}

async fn copy(
    database: &mut PgConnection,
    tables: &[Table],
    originals: &Originals,
    step: Step,
    copies: RangeInclusive<u64>,
) -> Result<(), StoreError> {
    for table in tables {
        if let Some(sql) = table.copies(originals, step, &copies) {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *database).await?;
        }
    }
    Ok(())
}

impl Table {
    /// The statement that writes copies of what jobs have in this table; none if it has nothing to do with jobs.
    fn copies(&self, originals: &Originals, step: Step, copies: &RangeInclusive<u64>) -> Option<String> {
        let has = |name: &str| self.columns.iter().any(|column| column.name == name);
        let Originals { jobs, tasks } = originals;
        let of_jobs = |column: &str| format!("{column} BETWEEN {} AND {}", jobs.start(), jobs.end());
        let is_original = match self.name.as_str() {
            "jobs" => of_jobs("id"),
            _ if has("job_id") => of_jobs("job_id"),
            _ if has("task_id") => format!("task_id BETWEEN {} AND {}", tasks.start(), tasks.end()),
            _ => return None,
        };
        // Rows of jobs and of finished tasks have the numbers of what they are about; others are numbered by their tables.
        let id = match self.name.as_str() {
            "jobs" => Some(step.jobs),
            "finished_tasks" => Some(step.tasks),
            _ => None,
        };
        let written = self.columns.iter().filter(|column| id.is_some() || !column.is_numbered);
        let (names, values): (Vec<&str>, Vec<String>) = written
            .map(|column| {
                let name = column.name.as_str();
                let value = match (name, id) {
                    ("id", Some(by)) => format!("id + n * {by}"),
                    ("job_id", _) => format!("job_id + n * {}", step.jobs),
                    ("task_id", _) => format!("task_id + n * {}", step.tasks),
                    _ if column.is_time => format!("{name} - n * interval '1 minute'"),
                    _ => name.to_owned(),
                };
                (name, value)
            })
            .unzip();
        Some(format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}, generate_series({}, {}) n \
             WHERE {is_original} ORDER BY n",
            self.name,
            names.join(", "),
            values.join(", "),
            self.name,
            copies.start(),
            copies.end(),
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(name: &str, columns: &[(&str, bool, bool)]) -> Table {
        let column = |(name, is_time, is_numbered): &(&str, bool, bool)| Column {
            name: (*name).to_owned(),
            is_time: *is_time,
            is_numbered: *is_numbered,
        };
        Table { name: name.to_owned(), columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn a_copy_has_numbers_and_times_of_its_own() {
        let originals = Originals { jobs: 7..=8, tasks: 9..=12 };
        let step = originals.step();
        let jobs = table("jobs", &[("id", false, true), ("name", false, false), ("created_at", true, false)]);
        assert_eq!(
            jobs.copies(&originals, step, &(1..=3)).unwrap(),
            "INSERT INTO jobs (id, name, created_at) OVERRIDING SYSTEM VALUE \
             SELECT id + n * 2, name, created_at - n * interval '1 minute' FROM jobs, generate_series(1, 3) n \
             WHERE id BETWEEN 7 AND 8 ORDER BY n"
        );
        let tasks = table("finished_tasks", &[("id", false, false), ("job_id", false, false)]);
        assert_eq!(
            tasks.copies(&originals, step, &(1..=1)).unwrap(),
            "INSERT INTO finished_tasks (id, job_id) OVERRIDING SYSTEM VALUE SELECT id + n * 4, job_id + n * 2 \
             FROM finished_tasks, generate_series(1, 1) n WHERE job_id BETWEEN 7 AND 8 ORDER BY n"
        );
        let events =
            table("events", &[("id", false, true), ("job_id", false, false), ("task_id", false, false)]);
        assert_eq!(
            events.copies(&originals, step, &(4..=5)).unwrap(),
            "INSERT INTO events (job_id, task_id) OVERRIDING SYSTEM VALUE SELECT job_id + n * 2, task_id + n * 4 \
             FROM events, generate_series(4, 5) n WHERE job_id BETWEEN 7 AND 8 ORDER BY n"
        );
        let chunks = table("chunks", &[("task_id", false, false)]);
        assert!(
            chunks.copies(&originals, step, &(1..=1)).unwrap().contains("WHERE task_id BETWEEN 9 AND 12")
        );
        let workers = table("workers", &[("id", false, true)]);
        assert_eq!(workers.copies(&originals, step, &(1..=1)), None);
    }
}
