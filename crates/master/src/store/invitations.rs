//! Invitations: one-time links that make somebody a member of a project.

use gaffer_domain::ProjectId;
use gaffer_domain::members::{MemberRole, Name};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::accounts::{NewWebSession, SessionFor, password_change, session_insert};
use super::audit::{NewEntry, note_done};
use super::forms::known;
use super::users::new_user;
use super::{ReadStore, StoreError, WriteStore};
use crate::records::Invitation;

/// Who takes an invitation.
#[derive(Debug, Clone, Copy)]
pub enum Invited<'a> {
    /// A user who is signed in.
    User(i64),
    /// Somebody who becomes a user with this name, hash of a password, and browser session.
    Newcomer(&'a Name, &'a str, NewWebSession<'a>),
}

/// What became of taking one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The user is a member of the project of that name.
    Joined(String),
    /// It is unknown, used, revoked or too old.
    NotGood,
    /// A user or a project has the name of the newcomer.
    NameTaken,
}

const COLUMNS: &str = "i.id, i.project_id, p.name AS project, i.role, i.created_by, i.created_at, i.expires_at, i.revoked_at, i.used_at, \
     i.used_by FROM invitations i JOIN projects p ON p.id = i.project_id";
/// It is open, and who made it could make it now.
const IS_GOOD: &str = "i.used_at IS NULL AND i.revoked_at IS NULL AND i.expires_at > now() AND EXISTS (\
     SELECT FROM users u LEFT JOIN memberships m ON m.user_id = u.id AND m.project_id = i.project_id \
     WHERE u.id = i.created_by_id AND u.disabled_at IS NULL AND (u.is_admin OR m.role = 'admin'))";

impl FromRow<'_, PgRow> for Invitation {
    fn from_row(row: &PgRow) -> sqlx::Result<Invitation> {
        Ok(Invitation {
            id: row.try_get("id")?,
            project_id: ProjectId(row.try_get("project_id")?),
            project: row.try_get("project")?,
            role: known("role", row.try_get("role")?)?,
            created_by: row.try_get("created_by")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            used_at: row.try_get("used_at")?,
            used_by: row.try_get("used_by")?,
        })
    }
}

impl ReadStore {
    /// The invitations of a project, newest first, from below `before` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation_list(
        &self,
        project: ProjectId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Invitation>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} WHERE i.project_id = $1 AND i.id < COALESCE($2, 9223372036854775807) \
             ORDER BY i.id DESC LIMIT $3"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(before)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }
}

impl WriteStore {
    /// Keeps an invitation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation_insert(
        &self,
        project: ProjectId,
        role: MemberRole,
        (created_by_id, created_by): (i64, &str),
        sha256: &[u8; 32],
        valid_secs: u64,
    ) -> Result<Invitation, StoreError> {
        let sql = format!(
            "WITH i AS (INSERT INTO invitations (sha256, project_id, role, created_by, expires_at, created_by_id) \
                 VALUES ($2, $1, $3, $4, now() + $5 * interval '1 second', $6) RETURNING *) SELECT {}",
            COLUMNS.replace("FROM invitations i", "FROM i")
        );
        let mut tx = self.begin().await?;
        let made = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(&sha256[..])
            .bind(role.as_str())
            .bind(created_by)
            .bind(valid_secs as f64)
            .bind(created_by_id)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(made)
    }

    /// Revokes an invitation; false if the project has no such invitation that is neither used nor revoked.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation_revoke(&self, project: ProjectId, id: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let done = sqlx::query(
            "UPDATE invitations SET revoked_at = now() \
             WHERE id = $1 AND project_id = $2 AND used_at IS NULL AND revoked_at IS NULL",
        )
        .bind(id)
        .bind(project.0)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// The invitation with this hash, if it is good.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation_find(&self, sha256: &[u8; 32]) -> Result<Option<Invitation>, StoreError> {
        let sql = format!("SELECT {COLUMNS} WHERE i.sha256 = $1 AND {IS_GOOD}");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&sha256[..]).fetch_optional(&self.pool).await?)
    }

    /// Uses up an invitation, and makes somebody a member with its role. A member keeps the role that they have, if it may do
    /// more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitation_use(
        &self,
        sha256: &[u8; 32],
        who: Invited<'_>,
        noted: &NewEntry<'_>,
    ) -> Result<Taken, StoreError> {
        let mut tx = self.begin_short().await?;
        let sql = format!("SELECT {COLUMNS} WHERE i.sha256 = $1 AND {IS_GOOD} FOR UPDATE OF i");
        let found: Option<Invitation> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&sha256[..]).fetch_optional(&mut *tx).await?;
        let Some(found) = found else { return Ok(Taken::NotGood) };
        let user = match who {
            Invited::User(user) => user,
            Invited::Newcomer(name, hash, session) => match newcomer(&mut tx, name, hash, session).await? {
                Some(user) => user,
                None => return Ok(Taken::NameTaken),
            },
        };
        let present: Option<String> = sqlx::query_scalar(
            "SELECT m.role FROM memberships m JOIN invitations i ON i.project_id = m.project_id \
             WHERE i.id = $1 AND m.user_id = $2 FOR UPDATE OF m",
        )
        .bind(found.id)
        .bind(user)
        .fetch_optional(&mut *tx)
        .await?;
        let present: Option<MemberRole> = present.map(|role| known("role", &role)).transpose()?;
        sqlx::query(
            "INSERT INTO memberships (project_id, user_id, role) SELECT project_id, $2, $3 FROM invitations WHERE id = $1 \
             ON CONFLICT (user_id, project_id) DO UPDATE SET role = excluded.role, by_groups = false",
        )
        .bind(found.id)
        .bind(user)
        .bind(present.max(Some(found.role)).unwrap_or(found.role).as_str())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE invitations SET used_at = now(), used_by = (SELECT name FROM users WHERE id = $2) WHERE id = $1",
        )
        .bind(found.id)
        .bind(user)
        .execute(&mut *tx)
        .await?;
        note_done(&mut tx, noted).await?;
        tx.commit().await?;
        Ok(Taken::Joined(found.project))
    }

    /// Makes somebody a user with a password and a browser session; false if the name is taken.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_register(
        &self,
        name: &Name,
        hash: &str,
        session: NewWebSession<'_>,
        noted: &NewEntry<'_>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_short().await?;
        if newcomer(&mut tx, name, hash, session).await?.is_none() {
            return Ok(false);
        }
        note_done(&mut tx, noted).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Makes a user; none if the name is taken.
async fn newcomer(
    tx: &mut PgConnection,
    name: &Name,
    hash: &str,
    session: NewWebSession<'_>,
) -> Result<Option<i64>, StoreError> {
    let Some(user) = new_user(tx, name, false).await? else { return Ok(None) };
    password_change(tx, user, hash, None).await?;
    session_insert(tx, SessionFor::user(user), session).await?;
    Ok(Some(user))
}
