//! Registered workers: identity, capacity, connection state.

use std::collections::HashMap;
use std::sync::Arc;

use gaffer_domain::placement::{Lasting, Taken};
use gaffer_domain::quantity::{Bytes, Cpu, Span};
use gaffer_domain::queue::InUse;
use gaffer_domain::quota::Usage;
use gaffer_domain::spec::Resources;
use gaffer_domain::worker::{Intake, Sharing};
use gaffer_domain::{ProjectId, WorkerId};
use gaffer_protocol::wire::DriverStatus;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::classes::SchedulingClass;
use super::forms::{entries, members};
use super::{ReadStore, Store, StoreError};
use crate::records::{LiveOnWorker, OfOthers, Worker};

impl FromRow<'_, PgRow> for Worker {
    /// What another version has stored and this one can't read is not offered; a worker of which it can't be told
    /// what it is, or takes, takes nothing new.
    fn from_row(row: &PgRow) -> sqlx::Result<Worker> {
        let (labels, knows_labels) = entries(&row.try_get("labels")?);
        let (countables, knows_countables) = entries(&row.try_get("countables")?);
        let (drivers, knows_drivers) = members(&row.try_get("drivers")?);
        let features: Vec<String> = row.try_get("features")?;
        let (mut warnings, _) = members::<String>(&row.try_get("warnings")?);
        let stored_intake: &str = row.try_get("intake")?;
        let intake = Intake::ALL.into_iter().find(|intake| intake.as_str() == stored_intake);
        let knows = [
            (knows_labels, "labels"),
            (knows_countables, "countable resources"),
            (knows_drivers, "drivers"),
            (intake.is_some(), "intake"),
        ];
        for (_, what) in knows.into_iter().filter(|(knows, _)| !knows) {
            warnings.push(format!(
                "its {what} were stored in a form that this master can't read; they are stored again when it connects"
            ));
        }
        let intake = match intake {
            Some(intake) if knows_labels || intake != Intake::Open => intake,
            _ => Intake::Cordoned,
        };
        let cpu_millis: i32 = row.try_get("cpu_millis")?;
        Ok(Worker {
            id: WorkerId(row.try_get("id")?),
            project: ProjectId(row.try_get("project_id")?),
            sharing: match (row.try_get("shared")?, row.try_get::<Option<Vec<i64>>, _>("shared_with")?) {
                (false, _) => Sharing::Own,
                (true, None) => Sharing::All,
                (true, Some(projects)) => Sharing::Projects(projects.into_iter().map(ProjectId).collect()),
            },
            name: row.try_get("name")?,
            datacenter: row.try_get("datacenter")?,
            labels,
            capacity: resources(
                i64::from(cpu_millis),
                row.try_get("memory_bytes")?,
                row.try_get("disk_bytes")?,
            ),
            countables,
            drivers,
            features: features.iter().filter_map(|feature| feature.parse().ok()).collect(),
            arch: row.try_get("arch")?,
            os: row.try_get("os")?,
            version: row.try_get("version")?,
            warnings,
            intake,
            drain_until: row.try_get("drain_until")?,
            drained_at: row.try_get("drained_at")?,
            offline_since: row.try_get("offline_since")?,
            online_since: row.try_get("online_since")?,
            created_at: row.try_get("created_at")?,
            reserved: resources(0, 0, 0),
            taken: Taken::default(),
            lasting: Lasting::default(),
            running: 0,
            waiting: 0,
            of_others: OfOthers::default(),
        })
    }
}

/// Whether a worker `w` takes tasks of a project.
macro_rules! takes_tasks_of {
    ($project:literal) => {
        concat!(
            "(w.project_id = ",
            $project,
            " OR w.shared AND (w.shared_with IS NULL OR ",
            $project,
            " = ANY(w.shared_with)))"
        )
    };
}
pub(super) use takes_tasks_of;

const COLUMNS: &str = "id, project_id, shared, shared_with, name, datacenter, labels, cpu_millis, memory_bytes, disk_bytes, countables, \
     drivers, features, arch, os, version, warnings, intake, drain_until, drained_at, offline_since, online_since, created_at";

impl Store {
    /// Notes the boot id of a worker, after what its machine's restart has ended is recorded as lost.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_booted(&self, worker: WorkerId, boot_id: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE workers SET boot_id = $2 WHERE id = $1")
            .bind(worker.0)
            .bind(boot_id)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// Notes what a worker can execute with now, and what of that is news. Does nothing if another session speaks for
    /// the worker by now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_drivers(
        &self,
        worker: WorkerId,
        session: Uuid,
        drivers: &[DriverStatus],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let known: Option<Value> =
            sqlx::query_scalar("SELECT drivers FROM workers WHERE id = $1 AND session = $2 FOR UPDATE")
                .bind(worker.0)
                .bind(session)
                .fetch_optional(&mut *tx)
                .await?;
        let Some(known) = known else { return Ok(()) };
        let (known, _) = members(&known);
        sqlx::query("UPDATE workers SET drivers = $2 WHERE id = $1")
            .bind(worker.0)
            .bind(Json(drivers))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO events (project_id, at, kind, worker_id, actor, message) \
             SELECT project_id, now(), 'worker.drivers', id, 'worker ' || name, news \
             FROM workers, UNNEST($2::text[]) AS news WHERE id = $1",
        )
        .bind(worker.0)
        .bind(news(&known, drivers))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// At the start of a master: ends sessions of the earlier one. Absences start when the earlier one cannot have
    /// responded any more, in `grace`, so that no worker is declared lost before it could reconnect.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn workers_amnesty(&self, grace: Span) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE workers SET session = NULL, online_since = NULL, \
                 offline_since = clock_timestamp() + $1 * interval '1 millisecond' \
             WHERE session IS NOT NULL OR EXISTS (SELECT 1 FROM live_tasks t WHERE t.worker_id = workers.id \
                 AND t.state IN ('scheduled', 'running', 'stopping'))",
        )
        .bind(grace.as_millis() as f64)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}

impl ReadStore {
    /// The workers that a project may use, or all, by number, with their reservations.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_list(&self, project: Option<ProjectId>) -> Result<Vec<Worker>, StoreError> {
        Ok(self.worker_fleet(project).await?.0)
    }

    /// The same, and what everybody has in use of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_fleet(&self, project: Option<ProjectId>) -> Result<(Vec<Worker>, InUse), StoreError> {
        let mut workers = self.worker_rows(project).await?;
        let in_use = self.workers_reserve(&mut workers, project).await?;
        Ok((workers, in_use))
    }

    /// All workers and what everybody has in use of them, where it is known what is live.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_fleet_with(
        &self,
        live: Vec<LiveOnWorker>,
    ) -> Result<(Vec<Worker>, InUse), StoreError> {
        let mut workers = self.worker_rows(None).await?;
        let in_use = self.reserve(&mut workers, live, None).await?;
        Ok((workers, in_use))
    }

    /// The workers that a project may use, or all, by number, as if nothing of them were reserved.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_rows(&self, project: Option<ProjectId>) -> Result<Vec<Worker>, StoreError> {
        let Some(project) = project else {
            let sql = format!("SELECT {COLUMNS} FROM workers WHERE removed_at IS NULL ORDER BY id");
            return Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.pool).await?);
        };
        let takes = takes_tasks_of!("$1");
        let sql = format!("SELECT {COLUMNS} FROM workers w WHERE {takes} AND removed_at IS NULL ORDER BY id");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(project.0).fetch_all(&self.pool).await?)
    }

    /// One worker that a project may use, by number or by name. The project's own goes before others of the same name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_get(
        &self,
        project: ProjectId,
        number_or_name: &str,
    ) -> Result<Option<Worker>, StoreError> {
        let number: Option<i64> = number_or_name.parse().ok();
        let takes = takes_tasks_of!("$1");
        let sql = format!(
            "SELECT {COLUMNS} FROM workers w WHERE {takes} AND (id = $2 OR name = $3) AND removed_at IS NULL \
             ORDER BY id = $2 DESC NULLS LAST, project_id = $1 DESC, id LIMIT 1"
        );
        let worker: Option<Worker> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(number)
            .bind(number_or_name)
            .fetch_optional(&self.pool)
            .await?;
        let mut workers: Vec<Worker> = worker.into_iter().collect();
        self.workers_reserve(&mut workers, Some(project)).await?;
        Ok(workers.pop())
    }

    async fn workers_reserve(
        &self,
        workers: &mut [Worker],
        seen_by: Option<ProjectId>,
    ) -> Result<InUse, StoreError> {
        let ids: Vec<i64> = workers.iter().map(|worker| worker.id.0).collect();
        let live = sqlx::query_as(LIVE_ON_WORKERS).bind(ids).fetch_all(&self.pool).await?;
        self.reserve(workers, live, seen_by).await
    }

    async fn reserve(
        &self,
        workers: &mut [Worker],
        live: Vec<LiveOnWorker>,
        seen_by: Option<ProjectId>,
    ) -> Result<InUse, StoreError> {
        let classes = self.classes(live.iter().map(|live| live.class)).await?;
        Ok(reserve(workers, &live, &classes, seen_by))
    }
}

impl ReadStore {
    /// What a project has in use of its quotas.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_usage(&self, project: ProjectId) -> Result<Usage, StoreError> {
        let live: Vec<LiveOnWorker> =
            sqlx::query_as(LIVE_ON_WORKERS).bind(None::<Vec<i64>>).fetch_all(&self.pool).await?;
        let classes = self.classes(live.iter().map(|live| live.class)).await?;
        let of = |live: &LiveOnWorker| {
            let class = classes.get(&live.class).filter(|class| class.project == project)?;
            Some(Usage::of(&class.needs.resources, u32::try_from(live.count).unwrap_or(u32::MAX)))
        };
        Ok(live.iter().filter_map(of).fold(Usage::default(), Usage::plus))
    }
}

impl Store {
    /// What is live on workers, by class.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn live_on_workers(&self) -> Result<Vec<LiveOnWorker>, StoreError> {
        Ok(sqlx::query_as(LIVE_ON_WORKERS).bind(None::<Vec<i64>>).fetch_all(&self.pool).await?)
    }
}

/// What is live on workers, by class.
const LIVE_ON_WORKERS: &str = "SELECT worker_id, class_id, state = 'scheduled' AS waiting, count(*) AS n FROM live_tasks \
     WHERE state IN ('scheduled', 'running', 'stopping') AND ($1::bigint[] IS NULL OR worker_id = ANY($1)) \
     GROUP BY worker_id, class_id, state = 'scheduled'";

impl FromRow<'_, PgRow> for LiveOnWorker {
    fn from_row(row: &PgRow) -> Result<LiveOnWorker, sqlx::Error> {
        Ok(LiveOnWorker {
            worker: WorkerId(row.try_get("worker_id")?),
            class: row.try_get("class_id")?,
            waiting: row.try_get("waiting")?,
            count: row.try_get("n")?,
        })
    }
}

/// Adds up what live attempts have reserved: derived from their states, so that it can't leak. The workers are in the order of
/// their numbers. What is counted on a worker is that of the project that looks, or else of the worker's project.
fn reserve(
    workers: &mut [Worker],
    live: &[LiveOnWorker],
    classes: &HashMap<i64, Arc<SchedulingClass>>,
    seen_by: Option<ProjectId>,
) -> InUse {
    let mut in_use = InUse::default();
    for LiveOnWorker { worker, class, waiting, count } in live {
        let live = u32::try_from(*count).unwrap_or(u32::MAX);
        let at = workers.binary_search_by_key(worker, |worker| worker.id);
        let Some(worker) = at.ok().and_then(|at| workers.get_mut(at)) else { continue };
        let Some(class) = classes.get(class) else {
            worker.hides_what_is_taken();
            continue;
        };
        let needs = &class.needs;
        in_use.add(class.project, &class.owner, needs, live);
        if worker.sharing.is_shared() {
            in_use.add_on_shared(class.project, needs, live);
        }
        let n = count.unsigned_abs();
        let add = &needs.resources;
        let cpu = u64::from(worker.reserved.cpu.millis()) + u64::from(add.cpu.millis()) * n;
        worker.reserved = Resources {
            cpu: Cpu::from_millis(u32::try_from(cpu).unwrap_or(u32::MAX)),
            memory: Bytes(worker.reserved.memory.get().saturating_add(add.memory.get().saturating_mul(n))),
            disk: Bytes(worker.reserved.disk.get().saturating_add(add.disk.get().saturating_mul(n))),
        };
        worker.taken.add(needs, live);
        worker.lasting.add(needs, live);
        let is_theirs = class.project == seen_by.unwrap_or(worker.project);
        let counted = match (is_theirs, *waiting) {
            (true, true) => &mut worker.waiting,
            (true, false) => &mut worker.running,
            (false, true) => &mut worker.of_others.waiting,
            (false, false) => &mut worker.of_others.running,
        };
        *counted += count;
    }
    in_use
}

fn resources(cpu_millis: i64, memory: i64, disk: i64) -> Resources {
    Resources {
        cpu: Cpu::from_millis(u32::try_from(cpu_millis).unwrap_or(0)),
        memory: Bytes(memory.unsigned_abs()),
        disk: Bytes(disk.unsigned_abs()),
    }
}

/// What has changed, a sentence for each driver.
fn news(before: &[DriverStatus], now: &[DriverStatus]) -> Vec<String> {
    let was = |driver| before.iter().find(|status| status.driver == driver);
    let changed = now.iter().filter(|status| was(status.driver) != Some(status));
    let sentence = |status: &DriverStatus| {
        let name = status.driver.as_str();
        let detail = status.detail.as_ref().map_or(String::new(), |detail| format!(": {detail}"));
        let what = if status.healthy { "is healthy" } else { "is unhealthy" };
        format!("the {name} driver {what}{detail}")
    };
    changed.map(sentence).collect()
}
