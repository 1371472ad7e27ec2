//! API keys, stored and looked up by hash.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use gaffer_domain::members::MemberRole;
use gaffer_domain::scopes::{Scope, Scopes};
use gaffer_domain::worker::Sharing;
use gaffer_domain::worker::limits::WorkerLimits;
use gaffer_domain::{ProjectId, Time};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
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
    pub scopes: Scopes,
    pub prefix: &'a str,
    pub sha256: &'a [u8; 32],
    /// For a worker key, the other projects whose tasks its workers take.
    pub sharing: &'a Sharing,
    /// How long it is good for; none means until it is revoked.
    pub expires_in_seconds: Option<u64>,
    /// What its workers may claim; none for all.
    pub limits: Option<&'a WorkerLimits>,
    /// How many workers an enrolment key makes; none for another key.
    pub uses: Option<u32>,
}

/// A key that replaces another one.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    pub prefix: &'a str,
    pub sha256: &'a [u8; 32],
    /// How long the replaced key is still good for, unless it expires before.
    pub overlap: Duration,
}

/// A key that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedKey {
    pub sha256: [u8; 32],
    /// What it is presented as.
    pub kind: KeyKind,
    /// Where it comes from.
    pub address: Option<IpAddr>,
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
    /// What it may be used for; none for a worker key.
    pub scopes: Scopes,
    /// Its user; none for a worker key.
    pub user: Option<KeyUser>,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    /// What its workers may claim.
    pub limits: Box<WorkerLimits>,
    /// SHA-256 of the identity of the one worker whose key it is.
    pub identity: Option<[u8; 32]>,
}

/// The user of a key, as they are in its project now.
#[derive(Debug, Clone)]
pub struct KeyUser {
    pub id: i64,
    pub name: String,
    pub role: MemberRole,
    /// Whether they administer the installation.
    pub is_admin: bool,
}

/// What became of a look-up.
pub type KeyChecked = Result<KeyHolder, RefusedKey>;

/// A key that is refused. The client that presents it is not told which of these it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedKey {
    /// Nobody has it: unknown, mistyped, empty.
    Unknown,
    Known(KnownKey),
}

/// A key that is refused although it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub id: i64,
    pub project: ProjectId,
    /// What the key is for.
    pub name: String,
    /// Name of its user; none for a worker key.
    pub user: Option<String>,
    pub why: KeyRefusal,
}

/// Why a key that exists is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyRefusal {
    #[error("the key was revoked")]
    Revoked,
    #[error("the key has expired")]
    Expired,
    #[error("a worker key was used to call the API, or a user key to connect a worker")]
    OtherKind,
    #[error("all uses of the enrolment key are used up")]
    Used,
    #[error("the user of the key is disabled")]
    UserDisabled,
    #[error("the user of the key is no member of its project any more")]
    NoMember,
}

#[derive(FromRow)]
struct HolderRow {
    sha256: Vec<u8>,
    id: i64,
    project_id: i64,
    kind: String,
    name: String,
    scopes: Vec<String>,
    user_name: Option<String>,
    user_id: Option<i64>,
    role: Option<String>,
    is_admin: Option<bool>,
    disabled: bool,
    expires_at: Option<Time>,
    revoked: bool,
    expired: bool,
    stale_use: bool,
    limits: Option<Value>,
    uses_left: Option<i32>,
    identity_sha256: Option<Vec<u8>>,
}

impl HolderRow {
    /// Why it is not good for that kind of use, if it is not.
    fn refusal(&self, kind: KeyKind) -> Option<KeyRefusal> {
        let is_no_member = self.user_id.is_some() && self.role.is_none();
        let reasons = [
            (self.revoked, KeyRefusal::Revoked),
            (self.expired, KeyRefusal::Expired),
            (!self.is_for(kind), KeyRefusal::OtherKind),
            (self.uses_left == Some(0), KeyRefusal::Used),
            (self.disabled, KeyRefusal::UserDisabled),
            (is_no_member, KeyRefusal::NoMember),
        ];
        reasons.into_iter().find_map(|(applies, refusal)| applies.then_some(refusal))
    }

    /// Workers come with worker keys and with enrolment keys.
    fn is_for(&self, kind: KeyKind) -> bool {
        let is_of_workers = self.kind.parse().is_ok_and(KeyKind::is_of_workers);
        self.kind == kind.as_str() || kind == KeyKind::Worker && is_of_workers
    }

    fn checked(&self, kind: KeyKind) -> Result<KeyChecked, StoreError> {
        if let Some(why) = self.refusal(kind) {
            return Ok(Err(RefusedKey::Known(KnownKey {
                id: self.id,
                project: ProjectId(self.project_id),
                name: self.name.clone(),
                user: self.user_name.clone(),
                why,
            })));
        }
        let user = match (self.user_id, &self.user_name, &self.role) {
            (Some(id), Some(name), Some(role)) => Some(KeyUser {
                id,
                name: name.clone(),
                role: known("role", role)?,
                is_admin: self.is_admin.unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(Ok(KeyHolder {
            key: self.id,
            project: ProjectId(self.project_id),
            kind: known("kind of key", &self.kind)?,
            name: self.name.clone(),
            scopes: known_scopes(&self.scopes),
            user,
            expires_at: self.expires_at,
            limits: Box::new(limits_of(self.limits.clone())?),
            identity: self.identity_sha256.as_deref().and_then(|sha256| sha256.try_into().ok()),
        }))
    }
}

/// A word that this version does not know gives no rights.
fn known_scopes(words: &[String]) -> Scopes {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

/// Limits that this version cannot read allow nothing: the key is not good then.
fn limits_of(stored: Option<Value>) -> Result<WorkerLimits, StoreError> {
    let Some(stored) = stored else { return Ok(WorkerLimits::default()) };
    serde_json::from_value(stored)
        .map_err(|error| StoreError::Unreadable(format!("the limits of a key: {error}")))
}

fn words(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::as_str).collect()
}

impl FromRow<'_, PgRow> for Key {
    fn from_row(row: &PgRow) -> sqlx::Result<Key> {
        Ok(Key {
            id: row.try_get("id")?,
            kind: known("kind of key", row.try_get("kind")?)?,
            user_id: row.try_get("user_id")?,
            name: row.try_get("name")?,
            scopes: known_scopes(&row.try_get::<Vec<String>, _>("scopes")?),
            prefix: row.try_get("prefix")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
            last_used_from: row.try_get("last_used_from")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            replaced_by: row.try_get("replaced_by")?,
            shared_with: match row.try_get("shared")? {
                true => Some(row.try_get("shared_projects")?),
                false => None,
            },
            // A worker that connects has them read again, and does not get in if that fails.
            limits: limits_of(row.try_get("limits")?).unwrap_or_default(),
            uses_left: row.try_get::<Option<i32>, _>("uses_left")?.and_then(|uses| uses.try_into().ok()),
            is_enrolled: row.try_get("is_enrolled")?,
            worker: row.try_get("worker")?,
        })
    }
}

const COLUMNS: &str = "id, kind, user_id, name, scopes, prefix, created_at, last_used_at, last_used_from, expires_at, \
     revoked_at, replaced_by, limits, uses_left, identity_sha256 IS NOT NULL AS is_enrolled, \
     (SELECT w.name FROM workers w WHERE w.identity_sha256 = keys.identity_sha256 AND w.removed_at IS NULL) AS worker, \
     shared, shared_with, CASE WHEN shared_with IS NOT NULL THEN \
         ARRAY(SELECT p.name FROM projects p WHERE p.id = ANY(shared_with) AND p.deleted_at IS NULL ORDER BY p.name) END \
         AS shared_projects";

impl WriteStore {
    /// Finds a key by its hash, for one kind of use. Notes the use of a good one and from where, at most once a minute. Keys that are
    /// asked for at the same moment are looked up together.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_check(
        &self,
        sha256: &[u8; 32],
        kind: KeyKind,
        address: Option<IpAddr>,
    ) -> Result<KeyChecked, StoreError> {
        let store = self.clone();
        let check = move |asked: Vec<_>| {
            let store = store.clone();
            async move { store.keys_check(&asked).await }
        };
        self.arrivals.keys.ask(AskedKey { sha256: *sha256, kind, address }, check).await
    }

    /// The answers are in the order of the questions.
    async fn keys_check(&self, all: &[AskedKey]) -> Result<Vec<KeyChecked>, StoreError> {
        let asked: Vec<&[u8]> = all.iter().map(|asked| &asked.sha256[..]).collect();
        let rows: Vec<HolderRow> = sqlx::query_as(
            "SELECT k.sha256, k.id, k.project_id, k.kind, k.name, k.scopes, u.name AS user_name, u.id AS user_id, m.role, u.is_admin, \
                 u.disabled_at IS NOT NULL AS disabled, k.expires_at, \
                 k.revoked_at IS NOT NULL AS revoked, COALESCE(k.expires_at <= now(), false) AS expired, \
                 COALESCE(k.last_used_at < now() - interval '1 minute', true) AS stale_use, \
                 k.limits, k.uses_left, k.identity_sha256 \
             FROM keys k LEFT JOIN users u ON u.id = k.user_id \
             LEFT JOIN memberships m ON m.user_id = k.user_id AND m.project_id = k.project_id WHERE k.sha256 = ANY($1)",
        )
        .bind(asked)
        .fetch_all(&self.pool)
        .await?;
        let found: HashMap<&[u8], &HolderRow> = rows.iter().map(|row| (&row.sha256[..], row)).collect();
        let good =
            |asked: &AskedKey| found.get(&asked.sha256[..]).filter(|row| row.refusal(asked.kind).is_none());
        // A crowd may come with one key.
        let used: HashMap<i64, Option<String>> = all
            .iter()
            .filter_map(|asked| Some((good(asked).filter(|row| row.stale_use)?.id, asked)))
            .map(|(id, asked)| (id, asked.address.map(|address| address.to_string())))
            .collect();
        let (used, addresses): (Vec<i64>, Vec<Option<String>>) = used.into_iter().unzip();
        if !used.is_empty() {
            // A transaction that holds the row does not delay requests with this key.
            sqlx::query(
                "UPDATE keys SET last_used_at = now(), last_used_from = used.address \
                 FROM UNNEST($1::bigint[], $2::text[]) AS used (id, address) WHERE keys.id = used.id \
                 AND keys.id IN (SELECT id FROM keys WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)",
            )
            .bind(used)
            .bind(addresses)
            .execute(&self.pool)
            .await?;
        }
        let checked = |asked: &AskedKey| match found.get(&asked.sha256[..]) {
            Some(row) => row.checked(asked.kind),
            None => Ok(Err(RefusedKey::Unknown)),
        };
        all.iter().map(checked).collect()
    }

    /// Keeps a new key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_insert(&self, project: ProjectId, new: NewKey<'_>) -> Result<Key, StoreError> {
        let sql = format!(
            "INSERT INTO keys (project_id, user_id, kind, name, prefix, sha256, expires_at, scopes, shared, shared_with, limits, \
                 uses_left) \
             VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second', $8, $9, $10, $11, $12) RETURNING {COLUMNS}"
        );
        let shared_with: Option<Vec<i64>> = match new.sharing {
            Sharing::Projects(projects) => Some(projects.iter().map(|project| project.0).collect()),
            Sharing::Own | Sharing::All => None,
        };
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(new.user_id)
            .bind(new.kind.as_str())
            .bind(new.name)
            .bind(new.prefix)
            .bind(&new.sha256[..])
            .bind(new.expires_in_seconds.map(|secs| secs as f64))
            .bind(words(new.scopes))
            .bind(new.sharing.is_shared())
            .bind(shared_with)
            .bind(new.limits.map(Json))
            .bind(new.uses.map(|uses| i32::try_from(uses).unwrap_or(i32::MAX)))
            .fetch_one(&self.pool)
            .await?)
    }
}

impl ReadStore {
    /// The keys of a project, newest first, from below `before` on; of one user, if that is said.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_list(
        &self,
        project: ProjectId,
        user: Option<i64>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM keys WHERE project_id = $1 AND id < COALESCE($2, 9223372036854775807) \
             AND ($4::bigint IS NULL OR user_id = $4) ORDER BY id DESC LIMIT $3"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project.0)
            .bind(before)
            .bind(i64::from(limit))
            .bind(user)
            .fetch_all(&self.pool)
            .await?)
    }
}

impl WriteStore {
    /// A key; none if the project has no such key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_find(&self, project: ProjectId, key: i64) -> Result<Option<Key>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE id = $1 AND project_id = $2");
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(key)
            .bind(project.0)
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Makes a key in the place of another one, with the same user, name, scopes and lifetime; the other one expires after the
    /// overlap, or before as it would have. None if it is no good any more, or was replaced before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_rotate(
        &self,
        project: ProjectId,
        key: i64,
        new: Replacement<'_>,
    ) -> Result<Option<Key>, StoreError> {
        let sql = format!(
            "WITH old AS ( \
                 SELECT project_id, user_id, kind, name, scopes, shared, shared_with, limits, expires_at - created_at AS lifetime \
                 FROM keys \
                 WHERE id = $1 AND project_id = $2 AND revoked_at IS NULL AND replaced_by IS NULL \
                 AND uses_left IS NULL AND identity_sha256 IS NULL \
                 AND (expires_at IS NULL OR expires_at > now()) FOR NO KEY UPDATE), \
             new AS ( \
                 INSERT INTO keys (project_id, user_id, kind, name, scopes, shared, shared_with, limits, prefix, sha256, expires_at) \
                 SELECT project_id, user_id, kind, name, scopes, shared, shared_with, limits, $3, $4, now() + lifetime FROM old \
                 RETURNING {COLUMNS}), \
             replaced AS ( \
                 UPDATE keys SET replaced_by = new.id, \
                     expires_at = LEAST(keys.expires_at, now() + $5 * interval '1 second') \
                 FROM new WHERE keys.id = $1) \
             SELECT * FROM new"
        );
        Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(key)
            .bind(project.0)
            .bind(new.prefix)
            .bind(&new.sha256[..])
            .bind(new.overlap.as_secs_f64())
            .fetch_optional(&self.pool)
            .await?)
    }

    /// Revokes a key; false if the project has no such key, or it is of another user than said. Revoking twice is no error.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_revoke(
        &self,
        project: ProjectId,
        user: Option<i64>,
        key: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1 AND project_id = $2 \
             AND ($3::bigint IS NULL OR user_id = $3)",
        )
        .bind(key)
        .bind(project.0)
        .bind(user)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// The hashes of all secrets that are good now, the latest used first, at most `limit` of each kind: keys, links,
    /// invitations, and browsers' sessions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets_good(&self, limit: u32) -> Result<Vec<[u8; 32]>, StoreError> {
        let found: Vec<Vec<u8>> = sqlx::query_scalar(
            "(SELECT sha256 FROM keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
                 AND (uses_left IS NULL OR uses_left > 0) \
                 AND (user_id IS NULL OR EXISTS (SELECT FROM memberships m \
                     JOIN users u ON u.id = m.user_id AND u.disabled_at IS NULL \
                     WHERE m.user_id = keys.user_id AND m.project_id = keys.project_id)) \
                 ORDER BY last_used_at DESC NULLS LAST LIMIT $1) \
             UNION ALL (SELECT sha256 FROM login_links WHERE used_at IS NULL AND expires_at > now() LIMIT $1) \
             UNION ALL (SELECT sha256 FROM invitations \
                 WHERE used_at IS NULL AND revoked_at IS NULL AND expires_at > now() LIMIT $1) \
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
    /// The time until the next key of any project expires.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_key_expires_in(&self) -> Result<Option<Duration>, StoreError> {
        let secs: Option<f64> = sqlx::query_scalar(
            "SELECT EXTRACT(EPOCH FROM expires_at - now())::float8 FROM keys \
             WHERE revoked_at IS NULL AND expires_at > now() ORDER BY expires_at LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok()))
    }

    /// Of these keys, the ones that are refused by now, because of themselves or of their users.
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
                 AND (expires_at IS NULL OR expires_at > now()) \
                 AND (user_id IS NULL OR EXISTS (SELECT FROM memberships m \
                     JOIN users u ON u.id = m.user_id AND u.disabled_at IS NULL \
                     WHERE m.user_id = keys.user_id AND m.project_id = keys.project_id)))",
        )
        .bind(keys)
        .fetch_all(&self.pool)
        .await?)
    }
}
