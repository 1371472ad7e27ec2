//! Users of the installation.

use gaffer_domain::ProjectId;
use gaffer_domain::members::{MemberRole, Name, leaves_an_administrator};
use gaffer_domain::projects::{Holdings, NotDeleted};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::forms::known;
use super::projects::take_down;
use super::web_sessions::{MemberOf, SignedIn};
use super::{ReadStore, StoreError, WriteStore};
use crate::records::User;

/// What became of a change of a user.
#[derive(Debug, Clone, PartialEq)]
pub enum UserChanged {
    /// It is done; the user as it is now.
    Done(User),
    /// Nobody would be left to administer the installation.
    LastAdministrator,
    /// There is no such user.
    Unknown,
}

/// What became of the deletion of a user.
#[derive(Debug, Clone, PartialEq)]
pub enum UserDeleted {
    Done,
    /// Nobody would be left to administer the installation.
    LastAdministrator,
    /// These projects would be left without an admin.
    LastAdminOf(Vec<String>),
    /// Their personal project has this.
    ProjectKept(NotDeleted, Holdings),
    /// There is no such user.
    Unknown,
}

/// What is to become of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserChange {
    Disable,
    Enable,
    /// Whether they administer the installation.
    SetAdmin(bool),
}

const COLUMNS: &str = "u.id, u.name, u.is_admin, u.created_at, u.disabled_at, GREATEST( \
     (SELECT max(last_used_at) FROM web_sessions WHERE user_id = u.id), \
     (SELECT max(last_used_at) FROM keys WHERE user_id = u.id)) AS last_used_at";

impl FromRow<'_, PgRow> for User {
    fn from_row(row: &PgRow) -> sqlx::Result<User> {
        Ok(User {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            is_admin: row.try_get("is_admin")?,
            created_at: row.try_get("created_at")?,
            disabled_at: row.try_get("disabled_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }
}

impl ReadStore {
    /// The first project, which every installation has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn project_default(&self) -> Result<ProjectId, StoreError> {
        let id: i64 =
            sqlx::query_scalar("SELECT id FROM projects ORDER BY id LIMIT 1").fetch_one(&self.pool).await?;
        Ok(ProjectId(id))
    }

    /// Whether anybody has ever signed in or has a key: if not, this is a new installation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_new_installation(&self) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT 1 FROM web_sessions) AND NOT EXISTS (SELECT 1 FROM keys)",
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// The users in the order in which they were created, from behind `after` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_list(&self, after: Option<i64>, limit: u32) -> Result<Vec<User>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM users u WHERE u.id > $1 ORDER BY u.id LIMIT $2");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(after.unwrap_or(0))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }
}

impl WriteStore {
    /// The user of that name, made an admin of the project; created if there is none. The first user of an installation
    /// administers it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_ensure(&self, name: &str, project: ProjectId) -> Result<i64, StoreError> {
        let mut tx = self.begin().await?;
        let known = sqlx::query_scalar("SELECT id FROM users WHERE name = $1");
        let user: i64 = match known.bind(name).fetch_optional(&mut *tx).await? {
            Some(user) => user,
            None => {
                let is_first: bool =
                    sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM users)").fetch_one(&mut *tx).await?;
                user_insert(&mut tx, name, is_first).await?
            }
        };
        sqlx::query(
            "INSERT INTO memberships (project_id, user_id, role) VALUES ($1, $2, 'admin') ON CONFLICT DO NOTHING",
        )
        .bind(project.0)
        .bind(user)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Creates the first user as an admin of the project, if the installation has no user.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn first_user_ensure(&self, name: &str, project: ProjectId) -> Result<(), StoreError> {
        let is_first: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM users)").fetch_one(&self.pool).await?;
        if is_first {
            self.user_ensure(name, project).await?;
        }
        Ok(())
    }

    /// The administrator of the installation who has been there for longest, in a project of which they are an admin.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn administrator(&self) -> Result<Option<SignedIn>, StoreError> {
        let row: Option<(i64, String, i64, String, String)> = sqlx::query_as(
            "SELECT u.id, u.name, p.id, p.name, m.role FROM users u JOIN memberships m ON m.user_id = u.id \
             JOIN projects p ON p.id = m.project_id WHERE u.is_admin AND u.disabled_at IS NULL AND m.role = 'admin' \
             ORDER BY u.id, p.personal_of IS NOT NULL, p.id LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some((user_id, user, project, name, role)) = row else { return Ok(None) };
        let member = Some(MemberOf { project: ProjectId(project), name, role: known("role", &role)? });
        Ok(Some(SignedIn { user_id, user, is_admin: true, limited_to: None, member, projects: Vec::new() }))
    }

    /// Creates a user with their personal project; none if a user or a project has that name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_create(&self, name: &Name, is_admin: bool) -> Result<Option<User>, StoreError> {
        let mut tx = self.begin().await?;
        if new_user(&mut tx, name, is_admin).await?.is_none() {
            return Ok(None);
        }
        let user = user_of(&mut tx, name.as_str()).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// The user of that name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_find(&self, name: &str) -> Result<Option<User>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM users u WHERE u.name = $1");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(&self.pool).await?)
    }

    /// Changes a user.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_change(&self, name: &str, change: UserChange) -> Result<UserChanged, StoreError> {
        let mut tx = self.begin().await?;
        let Some(user) = user_of(&mut tx, name).await? else { return Ok(UserChanged::Unknown) };
        let takes_away = matches!(change, UserChange::Disable | UserChange::SetAdmin(false));
        if takes_away && !leaves_an_administrator(&administrators(&mut tx).await?, user.id) {
            return Ok(UserChanged::LastAdministrator);
        }
        let sql = match change {
            UserChange::Disable => {
                "UPDATE users SET disabled_at = COALESCE(disabled_at, now()) WHERE id = $1"
            }
            UserChange::Enable => "UPDATE users SET disabled_at = NULL WHERE id = $1",
            UserChange::SetAdmin(true) => {
                "UPDATE users SET is_admin = true, admin_by_groups = false WHERE id = $1"
            }
            UserChange::SetAdmin(false) => {
                "UPDATE users SET is_admin = false, admin_by_groups = false WHERE id = $1"
            }
        };
        sqlx::query(sql).bind(user.id).execute(&mut *tx).await?;
        let changed = user_of(&mut tx, name).await?.unwrap_or(user);
        tx.commit().await?;
        Ok(UserChanged::Done(changed))
    }
}

impl WriteStore {
    /// Deletes a user with their keys, sessions and personal project. `is_confirmed`: with all that the project has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_delete(&self, name: &str, is_confirmed: bool) -> Result<UserDeleted, StoreError> {
        let mut tx = self.begin_short().await?;
        let Some(user) = user_of(&mut tx, name).await? else { return Ok(UserDeleted::Unknown) };
        if !leaves_an_administrator(&administrators(&mut tx).await?, user.id) {
            return Ok(UserDeleted::LastAdministrator);
        }
        // So that no other admin of these projects goes at the same time.
        sqlx::query(
            "SELECT FROM memberships WHERE project_id IN ( \
                 SELECT project_id FROM memberships WHERE user_id = $1 AND role = 'admin') \
             ORDER BY project_id, user_id FOR UPDATE",
        )
        .bind(user.id)
        .execute(&mut *tx)
        .await?;
        let alone: Vec<String> = sqlx::query_scalar(
            "SELECT p.name FROM memberships m JOIN projects p ON p.id = m.project_id \
             WHERE m.user_id = $1 AND m.role = 'admin' AND p.personal_of IS DISTINCT FROM $1 AND NOT EXISTS ( \
                 SELECT FROM memberships other JOIN users u ON u.id = other.user_id AND u.disabled_at IS NULL \
                 WHERE other.project_id = p.id AND other.role = 'admin' AND other.user_id <> $1) \
             ORDER BY p.id LIMIT 20",
        )
        .bind(user.id)
        .fetch_all(&mut *tx)
        .await?;
        if !alone.is_empty() {
            return Ok(UserDeleted::LastAdminOf(alone));
        }
        let own: Option<i64> = sqlx::query_scalar("SELECT id FROM projects WHERE personal_of = $1")
            .bind(user.id)
            .fetch_optional(&mut *tx)
            .await?;
        if let Some(project) = own
            && let Err((why, holdings)) = take_down(&mut tx, ProjectId(project), is_confirmed).await?
        {
            return Ok(UserDeleted::ProjectKept(why, holdings));
        }
        sqlx::query("DELETE FROM users WHERE id = $1").bind(user.id).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(UserDeleted::Done)
    }
}

/// The users that administer the installation and are not disabled. Held until the end of the transaction, so that two of
/// them cannot go at once.
pub(super) async fn administrators(tx: &mut PgConnection) -> Result<Vec<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT id FROM users WHERE is_admin AND disabled_at IS NULL ORDER BY id FOR NO KEY UPDATE",
    )
    .fetch_all(tx)
    .await?)
}

async fn user_of(tx: &mut PgConnection, name: &str) -> Result<Option<User>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM users u WHERE u.name = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(tx).await?)
}

/// Adds a user as [`user_insert`] does; none if a user or a project has that name. After none, the transaction is to end.
pub(super) async fn new_user(
    tx: &mut PgConnection,
    name: &Name,
    is_admin: bool,
) -> Result<Option<i64>, StoreError> {
    let is_taken: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM users WHERE name = $1) OR EXISTS (SELECT FROM projects WHERE name = $1)",
    )
    .bind(name.as_str())
    .fetch_one(&mut *tx)
    .await?;
    if is_taken {
        return Ok(None);
    }
    match user_insert(tx, name.as_str(), is_admin).await {
        // Somebody else was faster.
        Err(error) if error.is_duplicate() => Ok(None),
        made => made.map(Some),
    }
}

/// Adds a user, their personal project, and their membership in it.
pub(super) async fn user_insert(
    tx: &mut PgConnection,
    name: &str,
    is_admin: bool,
) -> Result<i64, StoreError> {
    let user: i64 = sqlx::query_scalar("INSERT INTO users (name, is_admin) VALUES ($1, $2) RETURNING id")
        .bind(name)
        .bind(is_admin)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query(
        "WITH own AS (INSERT INTO projects (name, personal_of) \
             SELECT CASE WHEN EXISTS (SELECT FROM projects WHERE name = $1) THEN $1 || '-' || $2 ELSE $1 END, $2 \
             RETURNING id) \
         INSERT INTO memberships (project_id, user_id, role) SELECT id, $2, $3 FROM own",
    )
    .bind(name)
    .bind(user)
    .bind(MemberRole::Admin.as_str())
    .execute(tx)
    .await?;
    Ok(user)
}
