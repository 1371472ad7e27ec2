//! Identities at sign-in providers: who is which user, and the memberships that groups make.

use gaffer_domain::ProjectId;
use gaffer_domain::groups::{Granted, Membership, MembershipChange, membership_changes};
use gaffer_domain::members::{Name, leaves_an_administrator};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::accounts::{NewWebSession, SessionFor, session_insert};
use super::forms::known;
use super::users::{administrators, new_user};
use super::{ReadStore, StoreError, WriteStore};
use crate::records::LinkedIdentity;

/// Somebody at a provider.
#[derive(Debug, Clone, Copy)]
pub struct ProvenIdentity<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    /// What the provider calls them.
    pub name: &'a str,
}

/// What became of a sign-in through a provider.
#[derive(Debug, Clone, PartialEq)]
pub enum ProviderSignIn {
    Done(SignedInByProvider),
    /// Nobody is linked with the identity, and no newcomer is to be made.
    Unknown,
    /// A newcomer was to be made, and somebody else has the name.
    NameTaken,
    /// The user is disabled.
    Disabled,
}

/// Who has signed in, and what their groups have changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SignedInByProvider {
    pub user: String,
    pub is_new: bool,
    pub changes: Vec<(ProjectId, MembershipChange)>,
    /// Whether they administer the installation from now on, if that has changed.
    pub installation_admin: Option<bool>,
    /// Projects that the setting names and the installation does not have.
    pub missing_projects: Vec<String>,
}

/// What became of a link between an identity and a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityLinked {
    Done,
    /// The identity is another user's.
    Others,
    /// The user is linked with another identity of this provider.
    HasOne,
}

impl FromRow<'_, PgRow> for LinkedIdentity {
    fn from_row(row: &PgRow) -> sqlx::Result<LinkedIdentity> {
        Ok(LinkedIdentity {
            id: row.try_get("id")?,
            issuer: row.try_get("issuer")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }
}

/// A user as a sign-in through a provider finds them.
#[derive(Debug, FromRow)]
struct Found {
    id: i64,
    name: String,
    is_admin: bool,
    admin_by_groups: bool,
}

impl ReadStore {
    /// The identities that are linked with a user.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn identity_list(&self, user_id: i64) -> Result<Vec<LinkedIdentity>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT id, issuer, name, created_at, last_used_at FROM identities WHERE user_id = $1 ORDER BY id LIMIT 50",
        )
        .bind(user_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteStore {
    /// Opens a browser session for the user of an identity. `newcomer`: the name of a user to be made if there is none.
    /// `granted`: what their groups give; none if groups decide nothing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn identity_sign_in(
        &self,
        identity: ProvenIdentity<'_>,
        newcomer: Option<&Name>,
        granted: Option<&Granted>,
        session: NewWebSession<'_>,
    ) -> Result<ProviderSignIn, StoreError> {
        let mut tx = self.begin_short().await?;
        let mut done = SignedInByProvider::default();
        let user = match found(&mut tx, identity).await? {
            Some(user) => user,
            None => {
                let Some(name) = newcomer else { return Ok(ProviderSignIn::Unknown) };
                match insert(&mut tx, name, identity).await {
                    Ok(true) => {}
                    Ok(false) => return Ok(ProviderSignIn::NameTaken),
                    // Somebody else was faster.
                    Err(error) if error.is_duplicate() => return Ok(ProviderSignIn::NameTaken),
                    Err(error) => return Err(error),
                }
                done.is_new = true;
                let Some(user) = found(&mut tx, identity).await? else { return Ok(ProviderSignIn::Unknown) };
                user
            }
        };
        if let Some(granted) = granted {
            apply(&mut tx, &user, granted, &mut done).await?;
        }
        sqlx::query(
            "UPDATE identities SET last_used_at = now(), name = $3 WHERE issuer = $1 AND subject = $2",
        )
        .bind(identity.issuer)
        .bind(identity.subject)
        .bind(identity.name)
        .execute(&mut *tx)
        .await?;
        // Whatever the groups give: then nothing of it is stored.
        if !session_insert(&mut tx, SessionFor::user(user.id), session).await? {
            return Ok(ProviderSignIn::Disabled);
        }
        tx.commit().await?;
        done.user = user.name;
        Ok(ProviderSignIn::Done(done))
    }

    /// Links an identity with a user.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn identity_link(
        &self,
        user_id: i64,
        identity: ProvenIdentity<'_>,
    ) -> Result<IdentityLinked, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO identities (user_id, issuer, subject, name) \
             SELECT id, $2, $3, $4 FROM users WHERE id = $1 AND disabled_at IS NULL ON CONFLICT DO NOTHING",
        )
        .bind(user_id)
        .bind(identity.issuer)
        .bind(identity.subject)
        .bind(identity.name)
        .execute(&mut *tx)
        .await?;
        let owner: Option<i64> =
            sqlx::query_scalar("SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2")
                .bind(identity.issuer)
                .bind(identity.subject)
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(match owner {
            Some(owner) if owner == user_id => IdentityLinked::Done,
            Some(_) => IdentityLinked::Others,
            None => IdentityLinked::HasOne,
        })
    }

    /// Takes a link away. What the provider called them; none if the user has no such link.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn identity_unlink(&self, user_id: i64, identity: i64) -> Result<Option<String>, StoreError> {
        let mut tx = self.begin().await?;
        let name = sqlx::query_scalar("DELETE FROM identities WHERE user_id = $1 AND id = $2 RETURNING name")
            .bind(user_id)
            .bind(identity)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(name)
    }
}

async fn found(tx: &mut PgConnection, identity: ProvenIdentity<'_>) -> Result<Option<Found>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT u.id, u.name, u.is_admin, u.admin_by_groups \
         FROM identities i JOIN users u ON u.id = i.user_id WHERE i.issuer = $1 AND i.subject = $2 \
         FOR NO KEY UPDATE OF u",
    )
    .bind(identity.issuer)
    .bind(identity.subject)
    .fetch_optional(tx)
    .await?)
}

/// Makes a user for an identity; false if the name is taken.
async fn insert(
    tx: &mut PgConnection,
    name: &Name,
    identity: ProvenIdentity<'_>,
) -> Result<bool, StoreError> {
    let Some(user) = new_user(tx, name, false).await? else { return Ok(false) };
    sqlx::query("INSERT INTO identities (user_id, issuer, subject, name) VALUES ($1, $2, $3, $4)")
        .bind(user)
        .bind(identity.issuer)
        .bind(identity.subject)
        .bind(identity.name)
        .execute(tx)
        .await?;
    Ok(true)
}

/// Makes memberships what the groups give.
async fn apply(
    tx: &mut PgConnection,
    user: &Found,
    granted: &Granted,
    done: &mut SignedInByProvider,
) -> Result<(), StoreError> {
    let present: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT p.name, m.role, m.by_groups FROM memberships m JOIN projects p ON p.id = m.project_id \
         WHERE m.user_id = $1 ORDER BY p.id",
    )
    .bind(user.id)
    .fetch_all(&mut *tx)
    .await?;
    let read = |(project, role, is_by_groups): (String, String, bool)| {
        Ok(Membership { project, role: known("role", &role)?, is_by_groups })
    };
    let present: Vec<Membership> = present.into_iter().map(read).collect::<Result<_, StoreError>>()?;
    for change in membership_changes(&present, granted) {
        let project = sqlx::query_scalar("SELECT id FROM projects WHERE name = $1 AND deleted_at IS NULL");
        let Some(project) = project.bind(&change.project).fetch_optional(&mut *tx).await? else {
            done.missing_projects.push(change.project);
            continue;
        };
        let project: i64 = project;
        match change.role {
            Some(role) => {
                sqlx::query(
                    "INSERT INTO memberships (project_id, user_id, role, by_groups) VALUES ($1, $2, $3, true) \
                     ON CONFLICT (user_id, project_id) DO UPDATE SET role = excluded.role WHERE memberships.by_groups",
                )
                .bind(project)
                .bind(user.id)
                .bind(role.as_str())
                .execute(&mut *tx)
                .await?;
            }
            None => {
                for sql in [
                    "DELETE FROM memberships WHERE project_id = $1 AND user_id = $2 AND by_groups",
                    "UPDATE keys SET revoked_at = now() WHERE project_id = $1 AND user_id = $2 AND revoked_at IS NULL",
                ] {
                    sqlx::query(sql).bind(project).bind(user.id).execute(&mut *tx).await?;
                }
            }
        }
        done.changes.push((ProjectId(project), change));
    }
    let wanted = match (granted.is_installation_admin, user.is_admin, user.admin_by_groups) {
        (true, false, _) => Some(true),
        // The last one stays: without any the installation cannot be administered.
        (false, true, true) if leaves_an_administrator(&administrators(tx).await?, user.id) => Some(false),
        _ => None,
    };
    if let Some(is_admin) = wanted {
        sqlx::query("UPDATE users SET is_admin = $2, admin_by_groups = $2 WHERE id = $1")
            .bind(user.id)
            .bind(is_admin)
            .execute(tx)
            .await?;
        done.installation_admin = Some(is_admin);
    }
    Ok(())
}
