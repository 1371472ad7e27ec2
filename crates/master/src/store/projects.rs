//! Projects.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaffer_domain::ProjectId;
use gaffer_domain::members::Name;
use gaffer_domain::projects::{Holdings, MAX_COUNTED, NotDeleted, Terms, Weight};
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::quota::Quota;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::forms::known;
use super::{ReadStore, Store, StoreError, WriteStore};
use crate::records::Project;

/// The most jobs of a deleted project that one transaction removes.
const SLICE_JOBS: i64 = 500;

/// Whose projects are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Looker {
    /// Number of the user.
    pub user: i64,
    /// Whether they see projects of which they are no member.
    pub sees_all: bool,
    /// The one project that they see, if it is one.
    pub limited_to: Option<ProjectId>,
}

/// What became of the deletion of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectDeleted {
    Done,
    /// It has this.
    Kept(NotDeleted, Holdings),
    /// The first project of the installation stays.
    First,
    /// It goes with its user.
    Personal,
}

const COLUMNS: &str = "p.id, p.name, p.created_at, owner.name AS personal_of, m.role, p.weight, \
     p.quota_cpu_millis, p.quota_memory_bytes, p.quota_tasks, \
     (SELECT count(*)::int FROM memberships WHERE project_id = p.id) AS members \
     FROM projects p LEFT JOIN memberships m ON m.project_id = p.id AND m.user_id = $1 \
     LEFT JOIN users owner ON owner.id = p.personal_of \
     WHERE p.deleted_at IS NULL AND ($2 OR m.user_id IS NOT NULL) AND ($3::bigint IS NULL OR p.id = $3)";

impl FromRow<'_, PgRow> for Project {
    fn from_row(row: &PgRow) -> sqlx::Result<Project> {
        let role: Option<String> = row.try_get("role")?;
        Ok(Project {
            id: ProjectId(row.try_get("id")?),
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            personal_of: row.try_get("personal_of")?,
            role: role.map(|role| known("role", &role)).transpose()?,
            members: row.try_get::<i32, _>("members")?.unsigned_abs(),
            terms: terms(row)?,
        })
    }
}

fn terms(row: &PgRow) -> sqlx::Result<Terms> {
    let weight: i32 = row.try_get("weight")?;
    let cpu: Option<i32> = row.try_get("quota_cpu_millis")?;
    let memory: Option<i64> = row.try_get("quota_memory_bytes")?;
    let tasks: Option<i32> = row.try_get("quota_tasks")?;
    let quota = Quota {
        cpu: cpu.map(|millis| Cpu::from_millis(millis.unsigned_abs())),
        memory: memory.map(|bytes| Bytes(bytes.unsigned_abs())),
        tasks: tasks.map(i32::unsigned_abs),
    };
    Ok(Terms { weight: Weight::new(weight.unsigned_abs()).unwrap_or_default(), quota })
}

impl ReadStore {
    /// What was set for projects, if anything was.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_terms(&self) -> Result<Arc<BTreeMap<ProjectId, Terms>>, StoreError> {
        let rows: Vec<PgRow> = sqlx::query(
            "SELECT id, weight, quota_cpu_millis, quota_memory_bytes, quota_tasks FROM projects WHERE weight <> 100 \
                 OR quota_cpu_millis IS NOT NULL OR quota_memory_bytes IS NOT NULL OR quota_tasks IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        let of = |row: &PgRow| Ok((ProjectId(row.try_get("id")?), terms(row)?));
        Ok(Arc::new(rows.iter().map(of).collect::<sqlx::Result<_>>()?))
    }

    /// Projects in the order in which they were created, from behind `after` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_list(
        &self,
        looker: Looker,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Project>, StoreError> {
        let sql = format!("SELECT {COLUMNS} AND p.id > $4 ORDER BY p.id LIMIT $5");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(looker.user)
            .bind(looker.sees_all)
            .bind(looker.limited_to.map(|project| project.0))
            .bind(after.unwrap_or(0))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }
}

impl WriteStore {
    /// The project of that name; none if they do not see it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_find(&self, looker: Looker, name: &str) -> Result<Option<Project>, StoreError> {
        let sql = format!("SELECT {COLUMNS} AND p.name = $4");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(looker.user)
            .bind(looker.sees_all)
            .bind(looker.limited_to.map(|project| project.0))
            .bind(name)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// The projects of these names that there are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn projects_named(&self, names: &[String]) -> Result<Vec<(String, ProjectId)>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, id FROM projects WHERE name = ANY($1) AND deleted_at IS NULL")
                .bind(names)
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().map(|(name, id)| (name, ProjectId(id))).collect())
    }

    /// A project, as a member sees it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_of(&self, user: i64, project: ProjectId) -> Result<Option<Project>, StoreError> {
        let sql = format!("SELECT {COLUMNS}");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(user)
            .bind(true)
            .bind(project.0)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Creates a project with this user as its admin. False if the name is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_create(&self, name: &Name, admin: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let made = sqlx::query(
            "WITH made AS (INSERT INTO projects (name) SELECT $1 \
                 WHERE NOT EXISTS (SELECT FROM users WHERE name = $1) ON CONFLICT (name) DO NOTHING RETURNING id) \
             INSERT INTO memberships (project_id, user_id, role) SELECT id, $2, 'admin' FROM made",
        )
        .bind(name.as_str())
        .bind(admin)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(made.rows_affected() > 0)
    }

    /// Gives a project another name. False if that is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_rename(&self, project: ProjectId, name: &Name) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let renamed = sqlx::query(
            "UPDATE projects SET name = $2 WHERE id = $1 AND deleted_at IS NULL \
             AND NOT EXISTS (SELECT FROM users WHERE name = $2 AND id IS DISTINCT FROM projects.personal_of)",
        )
        .bind(project.0)
        .bind(name.as_str())
        .execute(&mut *tx)
        .await
        .map_err(StoreError::from);
        let is_renamed = match renamed {
            Err(error) if error.is_duplicate() => return Ok(false),
            renamed => renamed?.rows_affected() > 0,
        };
        tx.commit().await?;
        Ok(is_renamed)
    }

    /// Says what is set for a project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_set_terms(&self, project: ProjectId, terms: &Terms) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let Terms { weight, quota: Quota { cpu, memory, tasks } } = *terms;
        sqlx::query(
            "UPDATE projects SET weight = $2, quota_cpu_millis = $3, quota_memory_bytes = $4, quota_tasks = $5 \
             WHERE id = $1",
        )
        .bind(project.0)
        .bind(weight.get() as i32)
        .bind(cpu.map(|cpu| cpu.millis() as i32))
        .bind(memory.map(|memory| memory.get() as i64))
        .bind(tasks.map(|tasks| tasks as i32))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Deletes a project: nobody sees it any more, its keys are gone, and [`Store::deleted_project_slice`] removes its jobs.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_delete(
        &self,
        project: ProjectId,
        is_confirmed: bool,
    ) -> Result<ProjectDeleted, StoreError> {
        let mut tx = self.begin_short().await?;
        let (is_first, is_personal): (bool, bool) = sqlx::query_as(
            "SELECT id = (SELECT min(id) FROM projects), personal_of IS NOT NULL FROM projects WHERE id = $1",
        )
        .bind(project.0)
        .fetch_one(&mut *tx)
        .await?;
        if is_first || is_personal {
            return Ok(if is_first { ProjectDeleted::First } else { ProjectDeleted::Personal });
        }
        if let Err((why, holdings)) = take_down(&mut tx, project, is_confirmed).await? {
            return Ok(ProjectDeleted::Kept(why, holdings));
        }
        tx.commit().await?;
        Ok(ProjectDeleted::Done)
    }
}

/// Takes a project away from everybody, if it may be.
pub(super) async fn take_down(
    tx: &mut PgConnection,
    project: ProjectId,
    is_confirmed: bool,
) -> Result<Result<(), (NotDeleted, Holdings)>, StoreError> {
    // What is being made in the project holds the row (`project_is_live`): it is counted, and no more comes after this.
    sqlx::query("SELECT FROM projects WHERE id = $1 FOR UPDATE").bind(project.0).execute(&mut *tx).await?;
    let holdings = holdings(tx, project).await?;
    if let Err(why) = holdings.may_be_deleted(is_confirmed) {
        return Ok(Err((why, holdings)));
    }
    for sql in [
        // The name is free again: no name of a project has a space.
        "UPDATE projects SET name = 'deleted ' || id, personal_of = NULL, deleted_at = now() WHERE id = $1",
        "DELETE FROM memberships WHERE project_id = $1",
        "DELETE FROM keys WHERE project_id = $1",
        "DELETE FROM login_links WHERE project_id = $1",
        "DELETE FROM web_sessions WHERE project_id = $1",
        "DELETE FROM templates WHERE project_id = $1",
        "DELETE FROM invitations WHERE project_id = $1",
        "DELETE FROM secrets WHERE project_id = $1",
        "UPDATE workers SET removed_at = now() WHERE project_id = $1 AND removed_at IS NULL",
    ] {
        sqlx::query(sql).bind(project.0).execute(&mut *tx).await?;
    }
    Ok(Ok(()))
}

async fn holdings(tx: &mut PgConnection, project: ProjectId) -> Result<Holdings, StoreError> {
    let counts: (i32, i32, i32, i32, i32, i32, i32, i32) = sqlx::query_as(
        "SELECT (SELECT count(*)::int FROM (SELECT FROM jobs WHERE project_id = $1 AND finished_at IS NULL LIMIT $2) j), \
             (SELECT count(*)::int FROM (SELECT FROM jobs WHERE project_id = $1 AND finished_at IS NOT NULL LIMIT $2) j), \
             (SELECT count(*)::int FROM workers \
                 WHERE project_id = $1 AND removed_at IS NULL AND offline_since IS NULL), \
             (SELECT count(*)::int FROM workers WHERE project_id = $1 AND removed_at IS NULL AND offline_since IS NOT NULL \
                 AND EXISTS (SELECT FROM live_tasks t WHERE t.worker_id = workers.id \
                     AND t.state IN ('scheduled', 'running', 'stopping'))), \
             (SELECT count(*)::int FROM workers WHERE project_id = $1 AND removed_at IS NULL AND offline_since IS NOT NULL \
                 AND NOT EXISTS (SELECT FROM live_tasks t WHERE t.worker_id = workers.id \
                     AND t.state IN ('scheduled', 'running', 'stopping'))), \
             (SELECT count(*)::int FROM templates WHERE project_id = $1 AND NOT deleted), \
             (SELECT count(*)::int FROM keys \
                 WHERE project_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())), \
             (SELECT count(*)::int FROM secrets WHERE project_id = $1)",
    )
    .bind(project.0)
    .bind(i64::from(MAX_COUNTED))
    .fetch_one(tx)
    .await?;
    let counts = <[i32; 8]>::from(counts).map(i32::unsigned_abs);
    let [
        unfinished_jobs,
        finished_jobs,
        connected_workers,
        lent_workers,
        other_workers,
        templates,
        keys,
        secrets,
    ] = counts;
    Ok(Holdings {
        unfinished_jobs,
        finished_jobs,
        connected_workers,
        lent_workers,
        other_workers,
        templates,
        keys,
        secrets,
    })
}

impl Store {
    /// Removes some jobs of a deleted project, like jobs that are deleted one by one; their number, or none if no deleted
    /// project has any.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn deleted_project_slice(&self) -> Result<Option<u64>, StoreError> {
        let mut tx = self.begin_short().await?;
        let project: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM projects WHERE deleted_at IS NOT NULL AND emptied_at IS NULL ORDER BY id LIMIT 1",
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(project) = project else { return Ok(None) };
        let jobs: Vec<i64> = sqlx::query_scalar(
            "WITH gone AS (SELECT id, era FROM jobs WHERE project_id = $1 AND finished_at IS NOT NULL \
                 ORDER BY id DESC LIMIT $2 FOR UPDATE) \
             INSERT INTO deletions (job_id, era) SELECT id, era FROM gone RETURNING job_id",
        )
        .bind(project)
        .bind(SLICE_JOBS)
        .fetch_all(&mut *tx)
        .await?;
        if jobs.is_empty() {
            sqlx::query("UPDATE projects SET emptied_at = now() WHERE id = $1")
                .bind(project)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("DELETE FROM jobs WHERE id = ANY($1)").bind(&jobs).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Some(jobs.len() as u64))
    }
}
