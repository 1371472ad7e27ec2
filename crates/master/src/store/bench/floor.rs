//! What a simple careful program keeps of a task: a durable row before it starts, its end and its output in a durable update.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::super::StoreError;
use super::super::pools::PLANNER;

/// A database beside that of gaffer, on the same server: the same log, the same disk.
const DATABASE: &str = "gaffer_bench";

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS floor_tasks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state smallint NOT NULL DEFAULT 0,
    command text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    exit_code integer,
    output bytea
);
CREATE INDEX IF NOT EXISTS floor_tasks_waiting ON floor_tasks (id) WHERE state = 0;
";

/// One connection of the program.
#[derive(Debug)]
pub struct FloorDatabase(PgConnection);

/// How a task ended.
#[derive(Debug)]
pub struct FloorEnd {
    /// Number of its row.
    pub task: i64,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
    pub exit_code: i32,
    pub output: Vec<u8>,
}

impl FloorDatabase {
    /// Makes the database on the server at this URL, if it is missing.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn make(server_url: &str) -> Result<(), StoreError> {
        let mut server = options(server_url)?.connect().await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut server)
            .await?;
        if !exists {
            sqlx::raw_sql("CREATE DATABASE gaffer_bench").execute(&mut server).await?;
        }
        server.close().await?;
        let FloorDatabase(mut database) = FloorDatabase::connect(server_url).await?;
        sqlx::raw_sql(TABLE).execute(&mut database).await?;
        Ok(database.close().await?)
    }

    /// Connects to it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(server_url: &str) -> Result<FloorDatabase, StoreError> {
        let options = options(server_url)?.database(DATABASE).options(PLANNER);
        Ok(FloorDatabase(options.connect().await?))
    }

    /// Forgets all tasks.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn empty(&mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("TRUNCATE floor_tasks").execute(&mut self.0).await?;
        Ok(())
    }

    /// Stores new tasks in one transaction; returns their numbers.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn accept(&mut self, command: &str, tasks: usize) -> Result<Vec<i64>, StoreError> {
        let insert = "INSERT INTO floor_tasks (command) SELECT * FROM UNNEST($1::text[]) RETURNING id";
        Ok(sqlx::query_scalar(insert).bind(vec![command; tasks]).fetch_all(&mut self.0).await?)
    }

    /// Stores ends in one transaction.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn finish(&mut self, ends: &[FloorEnd]) -> Result<(), StoreError> {
        let time = |time: SystemTime| DateTime::<Utc>::from(time);
        let update = "UPDATE floor_tasks t SET state = 2, started_at = e.started_at, finished_at = e.finished_at, \
                 exit_code = e.exit_code, output = e.output \
             FROM UNNEST($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::bytea[]) \
                 e(id, started_at, finished_at, exit_code, output) WHERE t.id = e.id";
        sqlx::query(update)
            .bind(ends.iter().map(|end| end.task).collect::<Vec<_>>())
            .bind(ends.iter().map(|end| time(end.started_at)).collect::<Vec<_>>())
            .bind(ends.iter().map(|end| time(end.finished_at)).collect::<Vec<_>>())
            .bind(ends.iter().map(|end| end.exit_code).collect::<Vec<_>>())
            .bind(ends.iter().map(|end| end.output.as_slice()).collect::<Vec<_>>())
            .execute(&mut self.0)
            .await?;
        Ok(())
    }
}

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    Ok(url.parse::<PgConnectOptions>()?.application_name("gaffer bench").disable_statement_logging())
}
