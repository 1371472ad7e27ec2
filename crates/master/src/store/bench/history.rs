//! Fills a database with history: a finished job of one task, many times over, and decides when statistics are gathered.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::super::StoreError;

/// Copies that one statement writes.
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

    /// Copies the latest job, a finished one of one task, with everything that it left behind: `copies` times, each a minute
    /// older than the one before. No statistics are gathered. `progress` is told how many there are.
    ///
    /// # Errors
    /// When the database does not answer, or the job is not such a one.
    pub async fn copy_job(
        &mut self,
        job: i64,
        copies: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<(), StoreError> {
        let database = &mut self.0;
        let task: i64 = sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1")
            .bind(job)
            .fetch_one(&mut *database)
            .await?;
        let tables = tables(database).await?;
        let mut done = 0;
        while done < copies {
            let until = copies.min(done + SLICE);
            for table in &tables {
                if let Some(sql) = table.copies(job, task, done + 1, until) {
                    sqlx::query(AssertSqlSafe(sql)).execute(&mut *database).await?;
                }
            }
            done = until;
            progress(done);
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

impl Table {
    /// The statement that writes copies `first` to `last` of what a job has in this table; none if it has nothing to do with
    /// jobs.
    fn copies(&self, job: i64, task: i64, first: u64, last: u64) -> Option<String> {
        let has = |name: &str| self.columns.iter().any(|column| column.name == name);
        let is_of_job = match self.name.as_str() {
            "jobs" => format!("id = {job}"),
            _ if has("job_id") => format!("job_id = {job}"),
            _ if has("task_id") => format!("task_id = {task}"),
            _ => return None,
        };
        // Other tables number their rows themselves.
        let keeps_numbers = self.name == "jobs";
        let written = self.columns.iter().filter(|column| keeps_numbers || !column.is_numbered);
        let (names, values): (Vec<&str>, Vec<String>) = written
            .map(|column| {
                let name = column.name.as_str();
                let value = match name {
                    "id" | "job_id" | "task_id" => format!("{name} + n"),
                    _ if column.is_time => format!("{name} - n * interval '1 minute'"),
                    _ => name.to_owned(),
                };
                (name, value)
            })
            .unzip();
        Some(format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}, generate_series({first}, {last}) n \
             WHERE {is_of_job} ORDER BY n",
            self.name,
            names.join(", "),
            values.join(", "),
            self.name,
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
        let jobs = table("jobs", &[("id", false, true), ("name", false, false), ("created_at", true, false)]);
        assert_eq!(
            jobs.copies(7, 9, 1, 3).unwrap(),
            "INSERT INTO jobs (id, name, created_at) OVERRIDING SYSTEM VALUE \
             SELECT id + n, name, created_at - n * interval '1 minute' FROM jobs, generate_series(1, 3) n \
             WHERE id = 7 ORDER BY n"
        );
        let events =
            table("events", &[("id", false, true), ("job_id", false, false), ("task_id", false, false)]);
        assert_eq!(
            events.copies(7, 9, 4, 5).unwrap(),
            "INSERT INTO events (job_id, task_id) OVERRIDING SYSTEM VALUE SELECT job_id + n, task_id + n \
             FROM events, generate_series(4, 5) n WHERE job_id = 7 ORDER BY n"
        );
        let chunks = table("chunks", &[("task_id", false, false)]);
        assert!(chunks.copies(7, 9, 1, 1).unwrap().contains("WHERE task_id = 9"));
        assert_eq!(table("workers", &[("id", false, true)]).copies(7, 9, 1, 1), None);
    }
}
