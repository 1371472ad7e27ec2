//! Fills a database with history: a finished job of one task, many times over.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Opens further eras of history, each when the one before has been there for a moment, as the master's loop would.
pub async fn open_eras(database_url: &str, more: i64) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    for _ in 0..more {
        sqlx::raw_sql(
            "BEGIN; SELECT pg_advisory_xact_lock(x'67616666657265'::bigint); \
             UPDATE eras SET closed_at = now() WHERE opened_at IS NOT NULL AND closed_at IS NULL; \
             UPDATE eras SET opened_at = now(), first_job = (SELECT last_value + is_called::int FROM jobs_id_seq) \
                 WHERE number = (SELECT min(number) FROM eras WHERE opened_at IS NULL); \
             SELECT make_era(max(number) + 1) FROM eras; \
             SELECT setval('live_tasks_id_seq', first_task(max(number)), false) FROM eras WHERE opened_at IS NOT NULL; \
             COMMIT",
        )
        .execute(&mut database)
        .await
        .unwrap();
    }
    database.close().await.unwrap();
}

/// The tables that a job of one task leaves rows in, with the column that says which rows are its own.
const TABLES: [(&str, &str); 5] = [
    ("jobs", "id"),
    ("task_definitions", "job_id"),
    ("finished_tasks", "job_id"),
    ("events", "job_id"),
    ("output_chunks", "task_id"),
];

/// Copies a finished job of one task `copies` times, each a minute older than the one before, with everything that it left
/// behind. No statistics are gathered.
pub async fn copy_job(database_url: &str, job: i64, copies: i64) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    let task: i64 = sqlx::query_scalar("SELECT id FROM tasks WHERE job_id = $1")
        .bind(job)
        .fetch_one(&mut database)
        .await
        .unwrap();
    for (table, key) in TABLES {
        let columns: Vec<(String, String)> = sqlx::query_as(
            "SELECT column_name::text, data_type::text FROM information_schema.columns \
             WHERE table_name = $1 AND table_schema = 'public' ORDER BY ordinal_position",
        )
        .bind(table)
        .fetch_all(&mut database)
        .await
        .unwrap();
        let value = |(name, kind): &(String, String)| match name.as_str() {
            // Events have several rows of one job.
            "id" if table == "events" => "nextval('events_id_seq')".to_owned(),
            "job_id" => format!("{job} + n"),
            "task_id" => format!("{task} + n"),
            "id" => "id + n".to_owned(),
            _ if kind == "timestamp with time zone" => format!("{name} - n * interval '1 minute'"),
            _ => name.clone(),
        };
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<String> = columns.iter().map(value).collect();
        let of = if key == "task_id" { task } else { job };
        let sql = format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {table}, generate_series(1, {copies}) n \
             WHERE {key} = {of} ORDER BY n",
            names.join(", "),
            values.join(", ")
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
    }
    for (table, sequence) in [("jobs", "jobs_id_seq"), ("finished_tasks", "live_tasks_id_seq")] {
        let sql = format!("SELECT setval('{sequence}', (SELECT max(id) FROM {table}))");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
}
