//! A master with object storage, a worker that does what the test says, and a look into database and store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::AttemptEnd;
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::s3::S3Server;
use gaffer_e2e::stage::Stage;
use gaffer_master::background::driver::{Background as _, Ran};
use gaffer_master::background::output_mover::OutputMover;
use gaffer_master::background::unused_objects::UnusedObjects;
use gaffer_master::output_store::{OutputStore, OutputStoreAddress, named_part};
use gaffer_master::store::StoreError;
use gaffer_protocol::output::{EncodedChunk, Stream};
use gaffer_protocol::wire::{Hello, ToWorker};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

/// So much of an output is sent at once.
const PIECE: usize = 128 << 10;
/// The loops of the master itself move nothing: tests do, when they want to.
const NEVER: Span = Span::from_secs(1_000_000_000);

/// What kind of store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    S3,
}

/// Where objects are put.
pub struct Place {
    pub dir: tempfile::TempDir,
    server: Option<S3Server>,
}

impl Place {
    pub async fn new(kind: Kind) -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let server = match kind {
            Kind::Directory => None,
            Kind::S3 => Some(S3Server::start(&dir.path().join("root")).await),
        };
        Place { dir, server }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn address(&self) -> OutputStoreAddress {
        match &self.server {
            Some(server) => server.address(),
            None => OutputStoreAddress::parse(&format!("file://{}", self.root().display()), []).unwrap(),
        }
    }

    /// The files with objects.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.root(), &mut found);
        found.retain(|path| named_part(&path.file_name().unwrap().to_string_lossy()).is_some());
        found.sort();
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// Makes an object older.
pub fn age(object: &Path, hours: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3_600);
    std::fs::File::options().write(true).open(object).unwrap().set_modified(then).unwrap();
}

/// A run of the mover that waits, and the mover.
type Moving = JoinHandle<(OutputMover, Result<Ran, StoreError>)>;

pub struct Scene {
    pub stage: Stage,
    pub worker: RawWorker,
    pub place: Place,
    /// The last attempt that ran.
    pub last: Option<AttemptRef>,
    database: PgConnection,
}

impl Scene {
    pub async fn set(kind: Kind) -> Scene {
        let place = Place::new(kind).await;
        Box::pin(Scene::on(fresh_database().await, place, true, hello("w"))).await
    }

    pub async fn on(database_url: String, place: Place, has_store: bool, hello: Hello) -> Scene {
        let address = has_store.then(|| place.address());
        let stage = Stage::with(database_url, |config| {
            config.output_store = address;
            config.output_store_after = NEVER;
        })
        .await;
        let worker = RawWorker::connect(&stage.worker_url(), &stage.worker_key, hello).await;
        let database = PgConnection::connect(&stage.database_url).await.unwrap();
        Scene { stage, worker, place, last: None, database }
    }

    /// Another master on the same database and store.
    pub async fn restart(self) -> Scene {
        Box::pin(self.restart_with_worker(hello("another"))).await
    }

    pub async fn restart_with_worker(self, hello: Hello) -> Scene {
        let Scene { stage, place, .. } = self;
        Box::pin(Scene::on(stage.strike().await, place, true, hello)).await
    }

    pub async fn restart_without_store(self) -> Scene {
        let Scene { stage, place, .. } = self;
        Box::pin(Scene::on(stage.strike().await, place, false, hello("another"))).await
    }

    /// Runs a job of one task that writes this; returns its number.
    pub async fn run(&mut self, output: &[(Stream, Vec<u8>)]) -> i64 {
        let job = self.stage.client.submit(json!({"script": "true", "resources": {"cpu": 0.1}})).await;
        let attempt = self.worker.next_start().await.attempt;
        let mut offset = 0;
        for (stream, bytes) in output {
            for piece in bytes.chunks(PIECE) {
                self.worker.output(attempt, offset, *stream, piece).await;
                offset += piece.len() as u64;
                self.worker
                    .hear_until(|said| match said {
                        ToWorker::OutputStored { attempt: stored, offset: until } => {
                            (stored == attempt && until >= offset).then_some(())
                        }
                        _ => None,
                    })
                    .await;
            }
        }
        self.worker.ended(attempt, AttemptEnd::Exited { code: 0 }, offset).await;
        self.stage.client.finished(job).await;
        self.last = Some(attempt);
        job
    }

    pub fn objects_of_master(&self) -> Arc<OutputStore> {
        Arc::new(OutputStore::connect(&self.place.address()).unwrap())
    }

    /// The loop that moves output, at once.
    pub fn mover(&self) -> OutputMover {
        self.mover_after("0s")
    }

    pub fn mover_after(&self, after: &str) -> OutputMover {
        let store = self.stage.running.control.store.clone();
        OutputMover::new(store, self.objects_of_master(), after.parse().unwrap())
    }

    /// Moves all that can be moved. Chunks that are joined meanwhile are moved by the next pass.
    pub async fn move_all(&mut self) {
        let mut mover = self.mover();
        let unmoved = "SELECT count(*) FROM jobs j WHERE finished_at IS NOT NULL AND NOT output_moved \
                       AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.job_id = j.id)";
        eventually("all output that can be moved has moved", async || {
            while mover.run_once().await.unwrap().again_after.is_some() {}
            let unmoved: i64 = sqlx::query_scalar(unmoved).fetch_one(&mut self.database).await.unwrap();
            (unmoved == 0).then_some(())
        })
        .await;
    }

    /// Runs a mover until its first part is in the store and about to be noted, with its chunks locked.
    pub async fn move_until_noted(&mut self, mut mover: OutputMover) -> Moving {
        self.sql(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock(77); RETURN NEW; END $$;
             CREATE TRIGGER wait BEFORE INSERT ON output_objects FOR EACH ROW EXECUTE FUNCTION wait();
             SELECT pg_advisory_lock(77)",
        )
        .await;
        let moving = tokio::spawn(async move {
            let ran = mover.run_once().await;
            (mover, ran)
        });
        eventually("output is put into the store and about to be noted", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO output_objects%' \
                       AND wait_event_type = 'Lock' AND datname = current_database()";
            let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.database).await.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
        moving
    }

    /// Lets it note what it has put into the store; returns how many parts it moved.
    pub async fn let_note(&mut self, moving: Moving) -> (OutputMover, u64) {
        self.sql("SELECT pg_advisory_unlock(77)").await;
        let (mover, ran) = moving.await.unwrap();
        (mover, ran.unwrap().done)
    }

    /// The loop that deletes unused objects.
    pub fn unused(&self) -> UnusedObjects {
        UnusedObjects::new(self.stage.running.control.store.clone(), self.objects_of_master())
    }

    /// Deletes all objects that are unused; returns how many were.
    pub async fn clean(&self) -> u64 {
        let mut unused = self.unused();
        let mut done = 0;
        loop {
            let ran = unused.run_once().await.unwrap();
            done += ran.done;
            if ran.again_after.is_none() {
                return done;
            }
        }
    }

    pub fn objects(&self) -> Vec<PathBuf> {
        self.place.objects()
    }

    pub async fn take_store_away(&mut self) {
        match &mut self.place.server {
            Some(server) => server.stop().await,
            None => {
                // As a mount point looks when nothing is mounted.
                std::fs::rename(self.place.root(), self.place.dir.path().join("away")).unwrap();
                std::fs::create_dir(self.place.root()).unwrap();
            }
        }
    }

    pub async fn bring_store_back(&mut self) {
        let root = self.place.root();
        match &mut self.place.server {
            Some(server) => server.start_again(&root).await,
            None => {
                std::fs::remove_dir(&root).expect("nothing was written into it");
                std::fs::rename(self.place.dir.path().join("away"), root).unwrap();
            }
        }
    }

    /// As if the database had refused a part of the output of that job.
    pub async fn set_aside_output_of(&mut self, job: i64) {
        let sql =
            "INSERT INTO dead_letters (kind, project_id, job_id, task_id, attempt, worker_id, body, reason)
                   SELECT 'output', j.project_id, j.id, t.id, t.attempt, t.worker_id, '{}', 'refused'
                   FROM jobs j JOIN finished_tasks t ON t.job_id = j.id WHERE j.id = $1";
        sqlx::query(sql).bind(job).execute(&mut self.database).await.unwrap();
    }

    /// Puts a chunk in the place of those that it is made of.
    pub async fn replace_chunks(&mut self, joined: &EncodedChunk, bytes: u64, lines: u32) {
        let update = "UPDATE output_chunks SET payload_bytes = $4, lines = $5, encoding = $6, body = $7
                      WHERE task_id = $1 AND attempt = $2 AND start_offset = $3";
        let delete = "DELETE FROM output_chunks
                      WHERE task_id = $1 AND attempt = $2 AND start_offset > $3 AND start_offset < $3 + $4";
        let mut tx = self.database.begin().await.unwrap();
        for (sql, rows) in [(update, 1), (delete, 1)] {
            let AttemptRef { task, attempt } = joined.attempt;
            let query = sqlx::query(sql).bind(task.0).bind(attempt as i32).bind(joined.offset as i64);
            let query = query.bind(bytes as i64);
            let query = match sql == update {
                true => query.bind(lines as i32).bind(joined.encoding as i16).bind(&joined.body[..]),
                false => query,
            };
            assert_eq!(query.execute(&mut *tx).await.unwrap().rows_affected(), rows);
        }
        tx.commit().await.unwrap();
    }

    pub async fn sql(&mut self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut self.database).await.unwrap();
    }

    pub async fn count(&mut self, of: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {of}")).await
    }

    pub async fn number(&mut self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&mut self.database).await.unwrap()
    }

    pub async fn text(&mut self, sql: &str) -> String {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&mut self.database).await.unwrap()
    }
}
