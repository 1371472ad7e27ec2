//! API keys, stored and looked up by hash.

use std::collections::HashMap;

use gaffer_domain::{ProjectId, Time};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use super::forms::known;
use super::{ReadStore, Store, StoreError, WriteStore};
use crate::records::{Key, KeyKind};

/// A key that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// Its user; none for a worker key.
    pub user_id: Option<i64>,
    /// Kind of the key.
    pub kind: KeyKind,
    pub name: &'a str,
    pub prefix: &'a str,
    pub sha256: &'a [u8; 32],
    /// How long it is good for; none means until it is revoked.
    pub expires_in_seconds: Option<u64>,
}

/// What a valid key allows.
#[derive(Debug, Clone)]
pub struct KeyHolder {
    pub key: i64,
    /// The one project it is good for.
    pub project: ProjectId,
    /// Kind of the key.
    pub kind: KeyKind,
    /// What the key is for.
    pub name: String,
    /// Its user; none for a worker key.
    pub user: Option<String>,
    /// Number of that user.
    pub user_id: Option<i64>,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
}

/// What became of a look-up.
pub type KeyChecked = Result<KeyHolder, KeyRefusal>;

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal {
    /// Unknown key.
    Unknown,
    /// It was revoked.
    Revoked,
    /// It has expired.
    Expired,
}

#[derive(FromRow)]
struct HolderRow {
    sha256: Vec<u8>,
    id: i64,
    project_id: i64,
    kind: String,
    name: String,
    user_name: Option<String>,
    user_id: Option<i64>,
    expires_at: Option<Time>,
    revoked: bool,
    expired: bool,
    stale_use: bool,
}

impl HolderRow {
    fn checked(&self) -> Result<KeyChecked, StoreError> {
        if self.revoked {
            return Ok(Err(KeyRefusal::Revoked));
        }
        if self.expired {
            return Ok(Err(KeyRefusal::Expired));
        }
        Ok(Ok(KeyHolder {
            key: self.id,
            project: ProjectId(self.project_id),
            kind: known("kind of key", &self.kind)?,
            name: self.name.clone(),
            user: self.user_name.clone(),
            user_id: self.user_id,
            expires_at: self.expires_at,
        }))
    }
}

impl FromRow<'_, PgRow> for Key {
    fn from_row(row: &PgRow) -> sqlx::Result<Key> {
        Ok(Key {
            id: row.try_get("id")?,
            kind: known("kind of key", row.try_get("kind")?)?,
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

const COLUMNS: &str = "id, kind, name, prefix, created_at, last_used_at, expires_at, revoked_at";

impl WriteStore {
    /// Finds a key by its hash. Notes its use, at most once a minute. Keys that are asked for at the same moment are looked up
    /// together.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_check(&self, sha256: &[u8; 32]) -> Result<KeyChecked, StoreError> {
        let store = self.clone();
        let check = move |hashes: Vec<_>| {
            let store = store.clone();
            async move { store.keys_check(&hashes).await }
        };
        self.arrivals.keys.ask(*sha256, check).await
    }

    /// The answers are in the order of the hashes.
    async fn keys_check(&self, hashes: &[[u8; 32]]) -> Result<Vec<KeyChecked>, StoreError> {
        let asked: Vec<&[u8]> = hashes.iter().map(|hash| &hash[..]).collect();
        let rows: Vec<HolderRow> = sqlx::query_as(
            "SELECT k.sha256, k.id, k.project_id, k.kind, k.name, u.name AS user_name, u.id AS user_id, k.expires_at, \
                 k.revoked_at IS NOT NULL AS revoked, COALESCE(k.expires_at <= now(), false) AS expired, \
                 COALESCE(k.last_used_at < now() - interval '1 minute', true) AS stale_use \
             FROM keys k LEFT JOIN users u ON u.id = k.user_id WHERE k.sha256 = ANY($1)",
        )
        .bind(asked)
        .fetch_all(&self.pool)
        .await?;
        let used = rows.iter().filter(|row| row.stale_use && !row.revoked && !row.expired);
        let used: Vec<i64> = used.map(|row| row.id).collect();
        if !used.is_empty() {
            // A transaction that holds the row does not delay requests with this key.
            sqlx::query(
                "UPDATE keys SET last_used_at = now() \
                 WHERE id IN (SELECT id FROM keys WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)",
            )
            .bind(used)
            .execute(&self.pool)
            .await?;
        }
        let found: HashMap<&[u8], &HolderRow> = rows.iter().map(|row| (&row.sha256[..], row)).collect();
        hashes
            .iter()
            .map(|hash| found.get(&hash[..]).map_or(Ok(Err(KeyRefusal::Unknown)), |row| row.checked()))
            .collect()
    }

    /// Keeps a new key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_insert(&self, project: ProjectId, new: NewKey<'_>) -> Result<Key, StoreError> {
        let sql = format!(
            "INSERT INTO keys (project_id, user_id, kind, name, prefix, sha256, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second') RETURNING {COLUMNS}"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(new.user_id)
            .bind(new.kind.as_str())
            .bind(new.name)
            .bind(new.prefix)
            .bind(&new.sha256[..])
            .bind(new.expires_in_seconds.map(|secs| secs as f64))
            .fetch_one(&self.pool)
            .await?)
    }
}

impl ReadStore {
    /// The keys of a project, newest first, from below `before` on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_list(
        &self,
        project: ProjectId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM keys WHERE project_id = $1 AND id < COALESCE($2, 9223372036854775807) \
             ORDER BY id DESC LIMIT $3"
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
    /// Revokes a key; false if the project has no such key. Revoking twice is no error.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_revoke(&self, project: ProjectId, key: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1 AND project_id = $2",
        )
        .bind(key)
        .bind(project.0)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The hashes of all secrets that are good now, the latest used first, at most `limit` of each kind: keys, sign-in
    /// links, and browsers' sessions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets_good(&self, limit: u32) -> Result<Vec<[u8; 32]>, StoreError> {
        let found: Vec<Vec<u8>> = sqlx::query_scalar(
            "(SELECT sha256 FROM keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
                 ORDER BY last_used_at DESC NULLS LAST LIMIT $1) \
             UNION ALL (SELECT sha256 FROM login_links WHERE used_at IS NULL AND expires_at > now() LIMIT $1) \
             UNION ALL (SELECT sha256 FROM web_sessions WHERE expires_at > now() \
                 ORDER BY last_used_at DESC LIMIT $1)",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(found.into_iter().filter_map(|sha256| sha256.try_into().ok()).collect())
    }
}

impl Store {
    /// Of these keys, the ones that are refused by now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn keys_refused(&self, keys: &[i64]) -> Result<Vec<i64>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(sqlx::query_scalar(
            "SELECT k.id FROM UNNEST($1::bigint[]) AS k(id) WHERE NOT EXISTS ( \
                 SELECT 1 FROM keys WHERE keys.id = k.id AND revoked_at IS NULL \
                 AND (expires_at IS NULL OR expires_at > now()))",
        )
        .bind(keys)
        .fetch_all(&self.pool)
        .await?)
    }
}
