//! Members of projects.

use gaffer_domain::ProjectId;
use gaffer_domain::members::{self, KeepsRole, MemberRole};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::forms::known;
use super::{ReadStore, StoreError, WriteStore};
use crate::records::Member;

/// What became of a change of a member.
#[derive(Debug, Clone, PartialEq)]
pub enum MemberChanged {
    /// The member as they are now; none if they are no member any more.
    Done(Option<Member>),
    /// They keep the role that they have.
    Kept(KeepsRole),
    /// There is no such user.
    UnknownUser,
    /// The user is no member.
    NoMember,
}

const COLUMNS: &str = "u.id AS user_id, u.name, m.role, m.since, u.disabled_at IS NOT NULL AS is_disabled \
     FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.project_id = $1";

impl FromRow<'_, PgRow> for Member {
    fn from_row(row: &PgRow) -> sqlx::Result<Member> {
        Ok(Member {
            user_id: row.try_get("user_id")?,
            user: row.try_get("name")?,
            role: known("role", row.try_get("role")?)?,
            since: row.try_get("since")?,
            is_disabled: row.try_get("is_disabled")?,
        })
    }
}

impl ReadStore {
    /// The members of a project in the order in which their users were created, from behind `after` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn member_list(
        &self,
        project: ProjectId,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Member>, StoreError> {
        let sql = format!("SELECT {COLUMNS} AND m.user_id > $2 ORDER BY m.user_id LIMIT $3");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(after.unwrap_or(0))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?)
    }
}

impl WriteStore {
    /// Makes a user a member of a project with this role, or gives a member another role; without a role, removes them and
    /// revokes their keys of the project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn member_change(
        &self,
        project: ProjectId,
        user: &str,
        wanted: Option<MemberRole>,
    ) -> Result<MemberChanged, StoreError> {
        let mut tx = self.begin_short().await?;
        let found: Option<(i64, Option<i64>)> = sqlx::query_as(
            "SELECT u.id, p.personal_of FROM users u, projects p WHERE u.name = $1 AND p.id = $2",
        )
        .bind(user)
        .bind(project.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((user, personal_of)) = found else { return Ok(MemberChanged::UnknownUser) };
        let all = held_members(&mut tx, project).await?;
        if wanted.is_none() && !all.iter().any(|member| member.user == user) {
            return Ok(MemberChanged::NoMember);
        }
        if let Err(why) = members::may_change_role(&all, personal_of, user, wanted) {
            return Ok(MemberChanged::Kept(why));
        }
        match wanted {
            Some(role) => {
                sqlx::query(
                    "INSERT INTO memberships (project_id, user_id, role) VALUES ($1, $2, $3) \
                     ON CONFLICT (user_id, project_id) DO UPDATE SET role = excluded.role",
                )
                .bind(project.0)
                .bind(user)
                .bind(role.as_str())
                .execute(&mut *tx)
                .await?;
            }
            None => {
                for sql in [
                    "DELETE FROM memberships WHERE project_id = $1 AND user_id = $2",
                    // Should they join again, what they had does not come back with them.
                    "UPDATE keys SET revoked_at = now() WHERE project_id = $1 AND user_id = $2 AND revoked_at IS NULL",
                ] {
                    sqlx::query(sql).bind(project.0).bind(user).execute(&mut *tx).await?;
                }
            }
        }
        if wanted != Some(MemberRole::Admin) {
            // They may be made admin again, and what they gave away before does not come back with that.
            sqlx::query(
                "UPDATE invitations SET revoked_at = now() WHERE project_id = $1 AND created_by_id = $2 \
                 AND used_at IS NULL AND revoked_at IS NULL",
            )
            .bind(project.0)
            .bind(user)
            .execute(&mut *tx)
            .await?;
        }
        let sql = format!("SELECT {COLUMNS} AND m.user_id = $2");
        let member = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(user)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(MemberChanged::Done(member))
    }
}

/// The members of a project, held until the end of the transaction, so that two admins cannot go at once.
async fn held_members(tx: &mut PgConnection, project: ProjectId) -> Result<Vec<members::Member>, StoreError> {
    // The locks come first: what is read then is what others have left.
    sqlx::query("SELECT FROM memberships WHERE project_id = $1 ORDER BY user_id FOR UPDATE")
        .bind(project.0)
        .execute(&mut *tx)
        .await?;
    let sql = format!("SELECT {COLUMNS}");
    let all: Vec<Member> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(project.0).fetch_all(&mut *tx).await?;
    let rank = |member: Member| members::Member {
        user: member.user_id,
        role: member.role,
        is_disabled: member.is_disabled,
    };
    Ok(all.into_iter().map(rank).collect())
}
