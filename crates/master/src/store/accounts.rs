//! Passwords of users, and what users see of their browser sessions.

use gaffer_domain::Time;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};

use super::audit::{NewEntry, note_done};
use super::{ReadStore, StoreError, WriteStore};
use crate::records::WebSession;

/// A user who may sign in with a password.
#[derive(Debug, Clone, FromRow)]
pub struct Account {
    /// Number of the user.
    pub id: i64,
    pub name: String,
    /// The hash of the password; none if there is no password.
    pub password: Option<String>,
    /// Whether the user is disabled.
    pub is_disabled: bool,
}

/// A browser session that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewWebSession<'a> {
    pub sha256: &'a [u8; 32],
    /// How long it lasts at most.
    pub secs: u32,
    pub origin: SessionOrigin<'a>,
    /// What the audit log says that was shown for it.
    pub credential: &'a str,
}

/// For whom a browser session is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct SessionFor<'a> {
    pub user_id: i64,
    /// The one project that it is for.
    pub limited_to: Option<i64>,
    /// The hash of the password that was compared: it must be the present one.
    pub password: Option<&'a str>,
}

impl SessionFor<'_> {
    /// For all projects of a user.
    pub fn user(user_id: i64) -> Self {
        SessionFor { user_id, limited_to: None, password: None }
    }
}

/// Where a browser session was opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOrigin<'a> {
    /// The address of the connection, or of its proxy.
    pub address: Option<&'a str>,
    /// What the browser says it is.
    pub browser: Option<&'a str>,
}

impl FromRow<'_, PgRow> for WebSession {
    fn from_row(row: &PgRow) -> sqlx::Result<WebSession> {
        Ok(WebSession {
            id: row.try_get("id")?,
            address: row.try_get("address")?,
            browser: row.try_get("browser")?,
            project: row.try_get("project")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
            is_current: row.try_get("is_current")?,
        })
    }
}

const ACCOUNT: &str = "SELECT id, name, password, disabled_at IS NOT NULL AS is_disabled FROM users";

impl ReadStore {
    /// The browser sessions of a user that are not over, the latest used first. `current`: the one that asks.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_list(
        &self,
        user_id: i64,
        current: Option<&[u8; 32]>,
        idle_secs: u32,
    ) -> Result<Vec<WebSession>, StoreError> {
        Ok(sqlx::query_as(
            "SELECT s.id, s.address, s.browser, p.name AS project, s.created_at, s.last_used_at, \
                 COALESCE(s.sha256 = $2, false) AS is_current \
             FROM web_sessions s LEFT JOIN projects p ON p.id = s.project_id \
             WHERE s.user_id = $1 AND s.expires_at > now() AND s.last_used_at > now() - $3 * interval '1 second' \
             ORDER BY s.last_used_at DESC, s.id DESC LIMIT 200",
        )
        .bind(user_id)
        .bind(current.map(|sha256| &sha256[..]))
        .bind(f64::from(idle_secs))
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteStore {
    /// The account of that name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn account_find(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let sql = format!("{ACCOUNT} WHERE name = $1");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(name).fetch_optional(&self.pool).await?)
    }

    /// The account with that number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn account_of(&self, user_id: i64) -> Result<Option<Account>, StoreError> {
        let sql = format!("{ACCOUNT} WHERE id = $1");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(user_id).fetch_optional(&self.pool).await?)
    }

    /// Replaces the hash of a password by one of the same password, unless it was changed meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn password_rehash(&self, user_id: i64, old: &str, new: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE users SET password = $3 WHERE id = $1 AND password = $2")
            .bind(user_id)
            .bind(old)
            .bind(new)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Gives a user another password, and ends all of their sessions except the one to keep, and links that sign in. The
    /// sessions that ended; none if `present` is not the present hash any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn password_set(
        &self,
        user_id: i64,
        (present, hash): (Option<&str>, &str),
        keep: Option<&[u8; 32]>,
    ) -> Result<Option<Vec<[u8; 32]>>, StoreError> {
        let mut tx = self.begin().await?;
        let is_present: Option<bool> = sqlx::query_scalar(
            "SELECT password IS NOT DISTINCT FROM $2 FROM users WHERE id = $1 FOR NO KEY UPDATE",
        )
        .bind(user_id)
        .bind(present)
        .fetch_optional(&mut *tx)
        .await?;
        if is_present != Some(true) {
            return Ok(None);
        }
        let ended = password_change(&mut tx, user_id, hash, keep).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }

    /// Opens a browser session for a user who has shown a password with this hash, unless that was changed meanwhile or the user
    /// is disabled.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_insert(
        &self,
        user_id: i64,
        password: &str,
        new: NewWebSession<'_>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let whose = SessionFor { password: Some(password), ..SessionFor::user(user_id) };
        let is_open = session_insert(&mut tx, whose, new).await?;
        tx.commit().await?;
        Ok(is_open)
    }

    /// Ends one session of a user; its hash, if there is such a session.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_session_end(&self, user_id: i64, id: i64) -> Result<Option<[u8; 32]>, StoreError> {
        let ended: Option<Vec<u8>> =
            sqlx::query_scalar("DELETE FROM web_sessions WHERE user_id = $1 AND id = $2 RETURNING sha256")
                .bind(user_id)
                .bind(id)
                .fetch_optional(&self.pool)
                .await?;
        Ok(ended.and_then(|sha256| sha256.try_into().ok()))
    }

    /// Ends all sessions of a user except the one to keep; their hashes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn web_sessions_end(
        &self,
        user_id: i64,
        keep: Option<&[u8; 32]>,
    ) -> Result<Vec<[u8; 32]>, StoreError> {
        let mut tx = self.begin().await?;
        let ended = sessions_end(&mut tx, user_id, keep).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Keeps a link with which a user chooses a password, once; until when it is good. Earlier ones are good no more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reset_link_insert(
        &self,
        user_id: i64,
        sha256: &[u8; 32],
        valid_secs: u32,
    ) -> Result<Time, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM login_links WHERE user_id = $1 AND resets_password")
            .bind(user_id)
            .execute(&mut *tx)
            .await?;
        let expires_at = sqlx::query_scalar(
            "INSERT INTO login_links (sha256, user_id, resets_password, expires_at) \
             VALUES ($1, $2, true, now() + $3 * interval '1 second') RETURNING expires_at",
        )
        .bind(&sha256[..])
        .bind(user_id)
        .bind(f64::from(valid_secs))
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(expires_at)
    }

    /// Name of the user who may choose a password with this link; none if it is unknown, used or too old.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reset_link_user(&self, sha256: &[u8; 32]) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT u.name FROM login_links l JOIN users u ON u.id = l.user_id AND u.disabled_at IS NULL \
             WHERE l.sha256 = $1 AND l.resets_password AND l.used_at IS NULL AND l.expires_at > now()",
        )
        .bind(&sha256[..])
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Uses up such a link: sets the password, ends all sessions of the user, and opens a new one. The sessions that ended; none
    /// if the link is unknown, used or too old.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reset_link_use(
        &self,
        link: &[u8; 32],
        hash: &str,
        new: NewWebSession<'_>,
        noted: &NewEntry<'_>,
    ) -> Result<Option<Vec<[u8; 32]>>, StoreError> {
        let mut tx = self.begin().await?;
        let user: Option<i64> = sqlx::query_scalar(
            "UPDATE login_links SET used_at = now() WHERE sha256 = $1 AND resets_password AND used_at IS NULL \
             AND expires_at > now() AND EXISTS (SELECT FROM users WHERE id = user_id AND disabled_at IS NULL) \
             RETURNING user_id",
        )
        .bind(&link[..])
        .fetch_optional(&mut *tx)
        .await?;
        let Some(user) = user else { return Ok(None) };
        let ended = password_change(&mut tx, user, hash, None).await?;
        note_done(&mut tx, noted).await?;
        session_insert(&mut tx, SessionFor::user(user), new).await?;
        tx.commit().await?;
        Ok(Some(ended))
    }
}

/// Sets a password, and ends what was opened before it.
pub(super) async fn password_change(
    tx: &mut PgConnection,
    user_id: i64,
    hash: &str,
    keep: Option<&[u8; 32]>,
) -> Result<Vec<[u8; 32]>, StoreError> {
    sqlx::query("UPDATE users SET password = $2 WHERE id = $1")
        .bind(user_id)
        .bind(hash)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM login_links WHERE user_id = $1 AND used_at IS NULL")
        .bind(user_id)
        .execute(&mut *tx)
        .await?;
    sessions_end(tx, user_id, keep).await
}

async fn sessions_end(
    tx: &mut PgConnection,
    user_id: i64,
    keep: Option<&[u8; 32]>,
) -> Result<Vec<[u8; 32]>, StoreError> {
    let ended: Vec<Vec<u8>> = sqlx::query_scalar(
        "DELETE FROM web_sessions WHERE user_id = $1 AND sha256 IS DISTINCT FROM $2 RETURNING sha256",
    )
    .bind(user_id)
    .bind(keep.map(|sha256| &sha256[..]))
    .fetch_all(tx)
    .await?;
    Ok(ended.into_iter().filter_map(|sha256| sha256.try_into().ok()).collect())
}

/// Opens a browser session for a user, unless they are disabled, and notes it in the audit log.
pub(super) async fn session_insert(
    tx: &mut PgConnection,
    whose: SessionFor<'_>,
    new: NewWebSession<'_>,
) -> Result<bool, StoreError> {
    // The row is held: a new password that is being set ends this session, or is seen here.
    let noted = sqlx::query(
        "WITH who AS MATERIALIZED (SELECT id, name FROM users WHERE id = $1 AND disabled_at IS NULL \
                 AND ($7::text IS NULL OR password = $7) FOR SHARE), \
             opened AS (INSERT INTO web_sessions (sha256, user_id, project_id, expires_at, address, browser) \
                 SELECT $2, id, $6, now() + $3 * interval '1 second', $4, $5 FROM who) \
         INSERT INTO audit_entries (project_id, at, user_name, credential, address, action, target, outcome, rest) \
         SELECT 0, now(), name, $8, $4, 'sign_in', 'user ' || name, 'done', '{}' FROM who",
    )
    .bind(whose.user_id)
    .bind(&new.sha256[..])
    .bind(f64::from(new.secs))
    .bind(new.origin.address)
    .bind(new.origin.browser)
    .bind(whose.limited_to)
    .bind(whose.password)
    .bind(new.credential)
    .execute(tx)
    .await?;
    Ok(noted.rows_affected() > 0)
}
