//! Users, sign-in links and browser sessions.

use gaffer_domain::{ProjectId, Time};

use super::{ReadStore, Store, StoreError, WriteStore};

/// A signed-in user, in the one project that the session is in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Number of the user.
    pub user_id: i64,
    /// Name of the user.
    pub user: String,
    pub project: ProjectId,
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
}

impl WriteStore {
    /// The user of that name, made an administrator of the project; created if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_ensure(&self, name: &str, project: ProjectId) -> Result<i64, StoreError> {
        let mut tx = self.begin().await?;
        let user: i64 = sqlx::query_scalar(
            "INSERT INTO users (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
        )
        .bind(name)
        .fetch_one(&mut *tx)
        .await?;
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
}

impl ReadStore {
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
}

impl WriteStore {
    /// Keeps a one-time link; returns until when it is good.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link_insert(
        &self,
        user_id: i64,
        sha256: &[u8; 32],
        valid_secs: u32,
    ) -> Result<Time, StoreError> {
        Ok(sqlx::query_scalar(
            "INSERT INTO login_links (sha256, user_id, expires_at) \
             VALUES ($1, $2, now() + $3 * interval '1 second') RETURNING expires_at",
        )
        .bind(&sha256[..])
        .bind(user_id)
        .bind(f64::from(valid_secs))
        .fetch_one(&self.pool)
        .await?)
    }

    /// Uses up a link and opens a browser session for its user, in one step. False if the link is unknown, used or too
    /// old.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn login_link_use(
        &self,
        link_sha256: &[u8; 32],
        session_sha256: &[u8; 32],
        session_secs: u32,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "WITH used AS (UPDATE login_links SET used_at = now() \
                 WHERE sha256 = $1 AND used_at IS NULL AND expires_at > now() RETURNING user_id) \
             INSERT INTO web_sessions (sha256, user_id, expires_at) \
             SELECT $2, user_id, now() + $3 * interval '1 second' FROM used",
        )
        .bind(&link_sha256[..])
        .bind(&session_sha256[..])
        .bind(f64::from(session_secs))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Who is signed in with this session; none if it is unknown, over, or was idle for longer than `idle_secs`. Notes
    /// its use, at most once a minute.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_check(
        &self,
        sha256: &[u8; 32],
        idle_secs: u32,
    ) -> Result<Option<SignedIn>, StoreError> {
        let row: Option<(i64, String, i64, bool)> = sqlx::query_as(
            "SELECT u.id, u.name, m.project_id, s.last_used_at < now() - interval '1 minute' \
             FROM web_sessions s JOIN users u ON u.id = s.user_id JOIN memberships m ON m.user_id = u.id \
             WHERE s.sha256 = $1 AND s.expires_at > now() AND s.last_used_at > now() - $2 * interval '1 second' \
             ORDER BY m.project_id LIMIT 1",
        )
        .bind(&sha256[..])
        .bind(f64::from(idle_secs))
        .fetch_optional(&self.pool)
        .await?;
        let Some((user_id, user, project, stale_use)) = row else { return Ok(None) };
        if stale_use {
            // A transaction that holds the row does not delay requests of this session.
            sqlx::query(
                "UPDATE web_sessions SET last_used_at = now() \
                 WHERE sha256 = (SELECT sha256 FROM web_sessions WHERE sha256 = $1 FOR NO KEY UPDATE SKIP LOCKED)",
            )
            .bind(&sha256[..])
            .execute(&self.pool)
            .await?;
        }
        Ok(Some(SignedIn { user_id, user, project: ProjectId(project) }))
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
    /// Of these browser sessions, the ones that are over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_sessions_over(
        &self,
        sessions: &[[u8; 32]],
        idle_secs: u32,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let over: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT s.sha256 FROM UNNEST($1::bytea[]) AS s(sha256) WHERE NOT EXISTS ( \
                 SELECT 1 FROM web_sessions WHERE web_sessions.sha256 = s.sha256 AND expires_at > now() \
                 AND last_used_at > now() - $2 * interval '1 second')",
        )
        .bind(sessions.iter().map(|sha256| &sha256[..]).collect::<Vec<_>>())
        .bind(f64::from(idle_secs))
        .fetch_all(&self.pool)
        .await?;
        Ok(over.into_iter().filter_map(|sha256| sha256.try_into().ok()).collect())
    }
}
