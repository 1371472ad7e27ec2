//! Sign-in links and browser sessions.

use gaffer_domain::members::MemberRole;
use gaffer_domain::{JobId, ProjectId, Time};

use super::accounts::{NewWebSession, SessionFor, session_insert};
use super::forms::known;
use super::{Store, StoreError, WriteStore};

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user.
    pub user: String,
    /// Whether they administer the installation.
    pub is_admin: bool,
    /// The one project to which the session is limited.
    pub limited_to: Option<ProjectId>,
    /// What they are in the wanted project; none if they are no member of it.
    pub member: Option<MemberOf>,
    /// Names of the projects that the session may be used in, personal ones last.
    pub projects: Vec<String>,
}

/// A user's place in a project.
#[derive(Debug, Clone)]
pub struct MemberOf {
    pub project: ProjectId,
    /// Name of the project.
    pub name: String,
    pub role: MemberRole,
}

/// Which of the projects of a user is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The one with this name.
    Named(&'a str),
    /// The one that has this job, else any.
    WithJob(JobId),
    /// Any: the first that is not personal.
    Any,
}

/// The most projects whose names come with a session.
const MAX_PROJECTS: i64 = 200;

#[derive(sqlx::FromRow)]
struct SessionRow {
    user_id: i64,
    user_name: String,
    is_admin: bool,
    limited_to: Option<i64>,
    stale_use: bool,
    project_id: Option<i64>,
    project_name: Option<String>,
    role: Option<String>,
    projects: Vec<String>,
}

impl SessionRow {
    fn read(self) -> Result<SignedIn, StoreError> {
        let member = match (self.project_id, self.project_name, self.role) {
            (Some(project), Some(name), Some(role)) => {
                Some(MemberOf { project: ProjectId(project), name, role: known("role", &role)? })
            }
            _ => None,
        };
        Ok(SignedIn {
            user_id: self.user_id,
            user: self.user_name,
            is_admin: self.is_admin,
            limited_to: self.limited_to.map(ProjectId),
            member,
            projects: self.projects,
        })
    }
}

impl WriteStore {
    /// Keeps a one-time link; returns until when it is good. `limited_to`: the one project that its session is for.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link_insert(
        &self,
        user_id: i64,
        limited_to: Option<ProjectId>,
        sha256: &[u8; 32],
        valid_secs: u32,
    ) -> Result<Time, StoreError> {
        Ok(sqlx::query_scalar(
            "INSERT INTO login_links (sha256, user_id, project_id, expires_at) \
             VALUES ($1, $2, $3, now() + $4 * interval '1 second') RETURNING expires_at",
        )
        .bind(&sha256[..])
        .bind(user_id)
        .bind(limited_to.map(|project| project.0))
        .bind(f64::from(valid_secs))
        .fetch_one(&self.pool)
        .await?)
    }

    /// Uses up a link and opens a browser session for its user, in one step. False if the link is unknown, used or too
    /// old, or its user is disabled.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link_use(
        &self,
        link_sha256: &[u8; 32],
        new: NewWebSession<'_>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let used: Option<(i64, Option<i64>)> = sqlx::query_as(
            "UPDATE login_links SET used_at = now() \
             WHERE sha256 = $1 AND NOT resets_password AND used_at IS NULL AND expires_at > now() \
             AND EXISTS (SELECT FROM users WHERE id = user_id AND disabled_at IS NULL) RETURNING user_id, project_id",
        )
        .bind(&link_sha256[..])
        .fetch_optional(&mut *tx)
        .await?;
        let Some((user_id, limited_to)) = used else { return Ok(false) };
        let whose = SessionFor { limited_to, ..SessionFor::user(user_id) };
        let is_open = session_insert(&mut tx, whose, new).await?;
        tx.commit().await?;
        Ok(is_open)
    }

    /// Who is signed in with this session, and what they are in the wanted project; none if the session is unknown, over, or
    /// was idle for longer than `idle_secs`, or its user is disabled. Notes its use, at most once a minute.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_check(
        &self,
        sha256: &[u8; 32],
        idle_secs: u32,
        wanted: Wanted<'_>,
    ) -> Result<Option<SignedIn>, StoreError> {
        let (name, job) = match wanted {
            Wanted::Named(name) => (Some(name), None),
            Wanted::WithJob(job) => (None, Some(job.0)),
            Wanted::Any => (None, None),
        };
        let row: Option<SessionRow> = sqlx::query_as(
            "SELECT u.id AS user_id, u.name AS user_name, u.is_admin, s.project_id AS limited_to, \
                 s.last_used_at < now() - interval '1 minute' AS stale_use, \
                 own.id AS project_id, own.name AS project_name, own.role, \
                 ARRAY(SELECT p.name FROM memberships m JOIN projects p ON p.id = m.project_id \
                     WHERE m.user_id = u.id AND (s.project_id IS NULL OR p.id = s.project_id) \
                     ORDER BY p.personal_of IS NOT NULL, p.id LIMIT $5) AS projects \
             FROM web_sessions s JOIN users u ON u.id = s.user_id AND u.disabled_at IS NULL \
             LEFT JOIN LATERAL ( \
                 SELECT p.id, p.name, m.role FROM memberships m JOIN projects p ON p.id = m.project_id \
                 WHERE m.user_id = u.id AND (s.project_id IS NULL OR p.id = s.project_id) \
                     AND ($3::text IS NULL OR p.name = $3) \
                 ORDER BY p.id = (SELECT project_id FROM jobs WHERE id = $4) DESC NULLS LAST, \
                     p.personal_of IS NOT NULL, p.id LIMIT 1) own ON true \
             WHERE s.sha256 = $1 AND s.expires_at > now() AND s.last_used_at > now() - $2 * interval '1 second'",
        )
        .bind(&sha256[..])
        .bind(f64::from(idle_secs))
        .bind(name)
        .bind(job)
        .bind(MAX_PROJECTS)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.stale_use {
            // A transaction that holds the row does not delay requests of this session.
            sqlx::query(
                "UPDATE web_sessions SET last_used_at = now() \
                 WHERE sha256 = (SELECT sha256 FROM web_sessions WHERE sha256 = $1 FOR NO KEY UPDATE SKIP LOCKED)",
            )
            .bind(&sha256[..])
            .execute(&self.pool)
            .await?;
        }
        Ok(Some(row.read()?))
    }

    /// Ends a browser session.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_delete(&self, sha256: &[u8; 32]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM web_sessions WHERE sha256 = $1")
            .bind(&sha256[..])
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

impl Store {
    /// Of these browser sessions, each in a project, the ones that are over, or whose user is no member of that project any
    /// more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_sessions_over(
        &self,
        sessions: &[([u8; 32], ProjectId)],
        idle_secs: u32,
    ) -> Result<Vec<([u8; 32], ProjectId)>, StoreError> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let over: Vec<(Vec<u8>, i64)> = sqlx::query_as(
            "SELECT s.sha256, s.project FROM UNNEST($1::bytea[], $2::bigint[]) AS s(sha256, project) WHERE NOT EXISTS ( \
                 SELECT 1 FROM web_sessions w JOIN users u ON u.id = w.user_id AND u.disabled_at IS NULL \
                 JOIN memberships m ON m.user_id = u.id AND m.project_id = s.project \
                 WHERE w.sha256 = s.sha256 AND w.expires_at > now() \
                 AND w.last_used_at > now() - $3 * interval '1 second')",
        )
        .bind(sessions.iter().map(|(sha256, _)| &sha256[..]).collect::<Vec<_>>())
        .bind(sessions.iter().map(|(_, project)| project.0).collect::<Vec<_>>())
        .bind(f64::from(idle_secs))
        .fetch_all(&self.pool)
        .await?;
        let read = |(sha256, project): (Vec<u8>, i64)| Some((sha256.try_into().ok()?, ProjectId(project)));
        Ok(over.into_iter().filter_map(read).collect())
    }
}
