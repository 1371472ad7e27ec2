//! Hellos of workers: what is known of the one that says it, and its registration.
//!
//! A whole fleet says hello at the same moment, when a master starts or a network comes back. So those that wait are registered
//! together, there is no lock that anything else waits for, and nothing depends on how many workers there are.

use std::collections::HashMap;

use gaffer_domain::worker::WORKER_LOST_AFTER;
use gaffer_domain::worker::place::Place;
use gaffer_domain::{ProjectId, WorkerId};
use gaffer_protocol::wire::Hello;
use serde_json::{Value, json};
use uuid::Uuid;

use super::forms::understood;
use super::places::{KnownPlace, millis};
use super::{Store, StoreError};

/// How many names are tried before a worker is refused because its name is taken.
const MAX_NAME_TRIES: i32 = 1_000;

/// A worker that says hello.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    pub project: ProjectId,
    /// The key with which it came in.
    pub key: i64,
    pub session: Uuid,
    /// SHA-256 of its identity.
    pub identity: &'a [u8; 32],
    pub hello: &'a Hello,
    pub place: &'a Place,
}

/// What is known before a hello.
#[derive(Debug, Clone)]
pub struct BeforeHello {
    /// The worker with this identity, if there is one in the project and this version can read where it was.
    pub place: Option<KnownPlace>,
    /// The wanted name belongs to a lost worker.
    pub name_is_of_lost: bool,
    known: Option<Known>,
    /// Of the wanted name and the one it has had, those that belong to others.
    taken: Vec<String>,
}

/// The worker with the identity, of an earlier hello.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    boot_id: String,
}

/// What became of a hello.
#[derive(Debug, Clone)]
pub struct Registered {
    pub id: WorkerId,
    /// The name that it got.
    pub name: String,
    /// Its machine was rebooted since its last session.
    pub rebooted: bool,
    /// The boot id to remember once all that followed from a new one is recorded.
    pub boot_id: String,
    /// It was never here before.
    pub is_new: bool,
}

/// A session that begins, as a row for the database.
#[derive(Debug, Clone)]
pub(super) struct NewSession {
    identity: [u8; 32],
    row: Value,
}

/// A session that has ended.
#[derive(Debug, Clone)]
pub(super) struct EndedSession {
    worker: WorkerId,
    session: Uuid,
    silent_secs: f64,
    why: String,
}

/// What became of one try to register.
#[derive(Debug, Clone, Copy)]
pub(super) enum Registration {
    Worker(WorkerId),
    /// The identity belongs to another project.
    OfAnotherProject,
    /// Another worker was given the name a moment before.
    NameTaken,
}

impl Store {
    /// What is known of the identity and the name in a hello.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_before_hello(&self, newcomer: &Newcomer<'_>) -> Result<BeforeHello, StoreError> {
        type Row = (Option<i64>, Option<String>, Option<String>, Option<Value>, Vec<String>, bool);
        let (id, name, boot_id, place, taken, name_is_of_lost): Row = sqlx::query_as(
            "SELECT w.id, w.name, w.boot_id, w.place, \
                 ARRAY(SELECT other.name FROM workers other WHERE other.project_id = $1 \
                     AND other.name = ANY(ARRAY[$3, w.name]) AND other.removed_at IS NULL \
                     AND other.identity_sha256 <> $2), \
                 EXISTS (SELECT 1 FROM workers other WHERE other.project_id = $1 \
                     AND other.name = $3 AND other.removed_at IS NULL AND other.identity_sha256 <> $2 \
                     AND other.offline_since < now() - $4 * interval '1 millisecond') \
                 FROM (SELECT 1) always LEFT JOIN workers w ON w.identity_sha256 = $2 AND w.project_id = $1",
        )
        .bind(newcomer.project.0)
        .bind(&newcomer.identity[..])
        .bind(&newcomer.hello.name)
        .bind(millis(WORKER_LOST_AFTER))
        .fetch_one(&self.pool)
        .await?;
        let place = match (id, &name) {
            (Some(id), Some(name)) => understood("place of a worker", place).map(|place| KnownPlace {
                id: WorkerId(id),
                name: name.clone(),
                place,
            }),
            _ => None,
        };
        let known = name.zip(boot_id).map(|(name, boot_id)| Known { name, boot_id });
        Ok(BeforeHello { place, name_is_of_lost, known, taken })
    }

    /// Registers a worker, new or known, as connected through its session. The boot id of a known one stays as it was,
    /// see [`Store::worker_booted`]. None if its identity belongs to another project. A taken name gets a number behind it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_hello(
        &self,
        newcomer: &Newcomer<'_>,
        mut before: BeforeHello,
    ) -> Result<Option<Registered>, StoreError> {
        for _ in 0..MAX_NAME_TRIES {
            let name = match kept_name(&newcomer.hello.name, &before) {
                Some(name) => Some(name.to_owned()),
                None => self.worker_numbered_name(newcomer).await?,
            };
            let Some(name) = name else { return Ok(None) };
            let (store, new) = (self.clone(), NewSession::of(newcomer, &name));
            let register = move |group| {
                let store = store.clone();
                async move { store.workers_register(group).await }
            };
            match self.arrivals.hellos.ask(new, register).await? {
                Registration::Worker(id) => {
                    let boot_id = newcomer.hello.boot_id.clone();
                    return Ok(Some(Registered {
                        id,
                        name,
                        rebooted: before.known.as_ref().is_some_and(|known| known.boot_id != boot_id),
                        boot_id,
                        is_new: before.known.is_none(),
                    }));
                }
                Registration::OfAnotherProject => return Ok(None),
                // Several at once may want the same name; the index lets one have it, and the others look again.
                Registration::NameTaken => before = self.worker_before_hello(newcomer).await?,
            }
        }
        Ok(None)
    }

    /// Registers workers of different identities. They are locked in the order in which sessions end, see
    /// [`Store::workers_goodbye`].
    async fn workers_register(&self, mut group: Vec<NewSession>) -> Result<Vec<Registration>, StoreError> {
        let rows = group.iter_mut().map(|new| new.row.take()).collect();
        let registered: Result<Vec<(Vec<u8>, i64)>, sqlx::Error> = sqlx::query_as(
            "WITH led AS MATERIALIZED (SELECT leader_check($2) AS leads), \
             new AS MATERIALIZED (SELECT r.* FROM led, jsonb_to_recordset($1) AS r(project_id bigint, identity_sha256 bytea, \
                 name text, datacenter text, labels jsonb, cpu_millis int, memory_bytes bigint, disk_bytes bigint, \
                 drivers jsonb, arch text, os text, version text, warnings jsonb, boot_id text, process uuid, session uuid, \
                 key_id bigint, countables jsonb, features text[], place jsonb)), \
             registered AS (INSERT INTO workers (project_id, identity_sha256, name, datacenter, labels, cpu_millis, \
                 memory_bytes, disk_bytes, drivers, arch, os, version, warnings, boot_id, process, session, key_id, \
                 countables, features, place, online_since, shared, shared_with) \
             SELECT n.project_id, n.identity_sha256, n.name, n.datacenter, n.labels, n.cpu_millis, n.memory_bytes, \
                 n.disk_bytes, n.drivers, n.arch, n.os, n.version, n.warnings, n.boot_id, n.process, n.session, n.key_id, \
                 n.countables, n.features, n.place, now(), coalesce(k.shared, false), k.shared_with \
                 FROM new n LEFT JOIN keys k ON k.id = n.key_id \
                 LEFT JOIN workers w ON w.identity_sha256 = n.identity_sha256 ORDER BY w.id, n.identity_sha256 \
             ON CONFLICT (identity_sha256) DO UPDATE SET name = excluded.name, datacenter = excluded.datacenter, \
                 labels = excluded.labels, cpu_millis = excluded.cpu_millis, memory_bytes = excluded.memory_bytes, \
                 disk_bytes = excluded.disk_bytes, drivers = excluded.drivers, arch = excluded.arch, \
                 os = excluded.os, version = excluded.version, warnings = excluded.warnings, \
                 process = excluded.process, session = excluded.session, place = excluded.place, \
                 key_id = excluded.key_id, countables = excluded.countables, features = excluded.features, offline_since = NULL, \
                 shared = excluded.shared, shared_with = excluded.shared_with, \
                 online_since = coalesce(workers.online_since, now()), removed_at = NULL \
             WHERE workers.project_id = excluded.project_id \
             RETURNING id, project_id, name, identity_sha256, xmax = 0 AS is_new), \
             noted AS (INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
                 SELECT project_id, now(), 'worker.online', id, 'worker ' || name, \
                     CASE WHEN is_new THEN 'first connection' ELSE 'connected' END FROM registered) \
             SELECT identity_sha256, id FROM registered",
        )
        .bind(Value::Array(rows))
        .bind(self.leadership.term())
        .fetch_all(&self.pool)
        .await;
        let registered = match registered {
            Ok(registered) => registered,
            // Of several it is not known whose name it is: each is tried alone then.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() && group.len() == 1 => {
                return Ok(vec![Registration::NameTaken]);
            }
            Err(error) => return Err(error.into()),
        };
        let registered: HashMap<Vec<u8>, i64> = registered.into_iter().collect();
        let answer = |new: &NewSession| match registered.get(&new.identity[..]) {
            Some(id) => Registration::Worker(WorkerId(*id)),
            None => Registration::OfAnotherProject,
        };
        Ok(group.iter().map(answer).collect())
    }

    /// The workers that count as connected, each with its session.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_sessions(&self) -> Result<Vec<(WorkerId, Uuid)>, StoreError> {
        let sessions: Vec<(i64, Uuid)> =
            sqlx::query_as("SELECT id, session FROM workers WHERE session IS NOT NULL ORDER BY id")
                .fetch_all(&self.pool)
                .await?;
        Ok(sessions.into_iter().map(|(worker, session)| (WorkerId(worker), session)).collect())
    }

    /// Records the end of a session, `silent_secs` after the worker's last message. Does nothing if the worker has
    /// another session.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_goodbye(
        &self,
        worker: WorkerId,
        session: Uuid,
        silent_secs: f64,
        why: &str,
    ) -> Result<(), StoreError> {
        let (store, ended) =
            (self.clone(), EndedSession { worker, session, silent_secs, why: why.to_owned() });
        let record = move |group| {
            let store = store.clone();
            async move { store.workers_goodbye(group).await }
        };
        self.arrivals.goodbyes.ask(ended, record).await
    }

    async fn workers_goodbye(&self, group: Vec<EndedSession>) -> Result<Vec<()>, StoreError> {
        sqlx::query(
            "WITH led AS MATERIALIZED (SELECT leader_check($5) AS leads), \
             ended AS MATERIALIZED (SELECT w.id, u.silent, u.why FROM UNNEST($1::bigint[], $2::uuid[], $3::float8[], \
                     $4::text[]) AS u(id, session, silent, why) JOIN workers w ON w.id = u.id AND w.session = u.session \
                 WHERE (SELECT true FROM led) ORDER BY w.id FOR UPDATE OF w), \
             gone AS (UPDATE workers w SET session = NULL, offline_since = now() - e.silent * interval '1 second', \
                 online_since = NULL FROM ended e WHERE w.id = e.id RETURNING w.project_id, w.id, e.why) \
             INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.offline', id, 'gaffer', why FROM gone",
        )
        .bind(group.iter().map(|ended| ended.worker.0).collect::<Vec<_>>())
        .bind(group.iter().map(|ended| ended.session).collect::<Vec<_>>())
        .bind(group.iter().map(|ended| ended.silent_secs).collect::<Vec<_>>())
        .bind(group.iter().map(|ended| ended.why.as_str()).collect::<Vec<_>>())
        .bind(self.leadership.term())
        .execute(&self.pool)
        .await?;
        Ok(vec![(); group.len()])
    }

    /// The first of `name-2`, `name-3`, … that is free; none if too many are taken.
    async fn worker_numbered_name(&self, newcomer: &Newcomer<'_>) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT $3 || '-' || n FROM generate_series(2, $4) n WHERE NOT EXISTS (SELECT 1 FROM workers other \
                 WHERE other.project_id = $1 AND other.name = $3 || '-' || n AND other.removed_at IS NULL \
                 AND other.identity_sha256 <> $2) ORDER BY n LIMIT 1",
        )
        .bind(newcomer.project.0)
        .bind(&newcomer.identity[..])
        .bind(&newcomer.hello.name)
        .bind(MAX_NAME_TRIES)
        .fetch_optional(&self.pool)
        .await?)
    }
}

impl NewSession {
    fn of(newcomer: &Newcomer<'_>, name: &str) -> NewSession {
        let Newcomer { project, key, session, identity, hello, place } = *newcomer;
        let identity_text: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = json!({
            "project_id": project, "identity_sha256": format!("\\x{identity_text}"), "name": name,
            "datacenter": hello.datacenter, "labels": hello.labels, "cpu_millis": hello.capacity.cpu.millis(),
            "memory_bytes": hello.capacity.memory.get(), "disk_bytes": hello.capacity.disk.get(),
            "drivers": hello.drivers, "arch": hello.arch, "os": hello.os, "version": hello.version,
            "warnings": hello.warnings, "boot_id": hello.boot_id, "process": hello.process, "session": session,
            "key_id": key, "countables": hello.countables, "features": hello.features, "place": place,
        });
        NewSession { identity: *identity, row }
    }
}

/// The wanted name if it is free, or the numbered one that the worker was given earlier. None if it needs a number.
fn kept_name<'a>(wanted: &'a str, before: &'a BeforeHello) -> Option<&'a str> {
    let is_free = |name: &str| !before.taken.iter().any(|taken| taken == name);
    let is_numbered = |name: &str| {
        let number = name.strip_prefix(wanted).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let kept = before.known.as_ref().map(|known| known.name.as_str()).filter(|name| is_numbered(name));
    [Some(wanted), kept].into_iter().flatten().find(|name| is_free(name))
}
