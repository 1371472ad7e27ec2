//! Secrets: set, list, delete, read for an attempt, and the master keys that they are encrypted with.

use gaffer_domain::{JobId, ProjectId, Time, WorkerId};
use sqlx::FromRow;

use super::{ReadStore, Store, StoreError, WriteStore};
use crate::records::{KeyUse, Sealed, Secret};

/// What became of a value that was to be stored.
#[derive(Debug)]
pub enum Stored<E> {
    Secret(Secret),
    /// The project has as many secrets as it may have.
    TooMany,
    /// It could not be encrypted.
    NotSealed(E),
}

/// A secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    pub project: ProjectId,
    pub name: String,
    pub version: i64,
    pub sealed: Sealed,
}

#[derive(FromRow)]
struct SecretRow {
    name: String,
    version: i64,
    created_by: String,
    created_at: Time,
    updated_by: String,
    updated_at: Time,
    last_used_at: Option<Time>,
}

impl From<SecretRow> for Secret {
    fn from(row: SecretRow) -> Secret {
        Secret {
            name: row.name,
            version: row.version.unsigned_abs(),
            created_by: row.created_by,
            created_at: row.created_at,
            updated_by: row.updated_by,
            updated_at: row.updated_at,
            last_used_at: row.last_used_at,
        }
    }
}

#[derive(FromRow)]
struct SealedRow {
    project_id: i64,
    name: String,
    version: i64,
    key_id: String,
    data_key: Vec<u8>,
    value: Vec<u8>,
}

impl From<SealedRow> for SealedSecret {
    fn from(row: SealedRow) -> SealedSecret {
        let SealedRow { project_id, name, version, key_id, data_key, value } = row;
        SealedSecret {
            project: ProjectId(project_id),
            name,
            version,
            sealed: Sealed { key_id, data_key, value },
        }
    }
}

impl WriteStore {
    /// Stores a value. `seal` encrypts it for its version.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_set<E>(
        &self,
        project: ProjectId,
        name: &str,
        set_by: &str,
        most: usize,
        seal: impl FnOnce(i64) -> Result<Sealed, E>,
    ) -> Result<Stored<E>, StoreError> {
        let mut tx = self.begin().await?;
        let others: i64 =
            sqlx::query_scalar("SELECT count(*) FROM secrets WHERE project_id = $1 AND name <> $2")
                .bind(project.0)
                .bind(name)
                .fetch_one(&mut *tx)
                .await?;
        if others >= most as i64 {
            return Ok(Stored::TooMany);
        }
        // The row is locked until the commit: two values never get one version.
        let version: i64 = sqlx::query_scalar(
            "INSERT INTO secrets AS s (project_id, name, created_by, updated_by) VALUES ($1, $2, $3, $3) \
             ON CONFLICT (project_id, name) DO UPDATE SET name = s.name RETURNING version + 1",
        )
        .bind(project.0)
        .bind(name)
        .bind(set_by)
        .fetch_one(&mut *tx)
        .await?;
        let Sealed { key_id, data_key, value } = match seal(version) {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Stored::NotSealed(error)),
        };
        let row: SecretRow = sqlx::query_as(
            "UPDATE secrets SET version = $3, key_id = $4, data_key = $5, value = $6, updated_by = $7, updated_at = now() \
             WHERE project_id = $1 AND name = $2 \
             RETURNING name, version, created_by, created_at, updated_by, updated_at, last_used_at",
        )
        .bind(project.0)
        .bind(name)
        .bind(version)
        .bind(key_id)
        .bind(data_key)
        .bind(value)
        .bind(set_by)
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Stored::Secret(row.into()))
    }

    /// Deletes a secret. False if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_delete(&self, project: ProjectId, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let deleted = sqlx::query("DELETE FROM secrets WHERE project_id = $1 AND name = $2")
            .bind(project.0)
            .bind(name)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(deleted.rows_affected() > 0)
    }
}

impl ReadStore {
    /// All secrets of a project by their names.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_list(&self, project: ProjectId) -> Result<Vec<Secret>, StoreError> {
        let rows: Vec<SecretRow> = sqlx::query_as(
            "SELECT name, version, created_by, created_at, updated_by, updated_at, last_used_at FROM secrets \
             WHERE project_id = $1 ORDER BY name",
        )
        .bind(project.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Secret::from).collect())
    }

    /// The names of all secrets of a project.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_names(&self, project: ProjectId) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT name FROM secrets WHERE project_id = $1 ORDER BY name")
            .bind(project.0)
            .fetch_all(&self.pool)
            .await?)
    }

    /// How many secrets of all projects are encrypted with which master key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_key_uses(&self) -> Result<Vec<KeyUse>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT key_id, count(*) FROM secrets GROUP BY key_id ORDER BY key_id")
                .fetch_all(&self.pool)
                .await?;
        let of = |(key_id, secrets): (String, i64)| KeyUse { key_id, secrets: secrets.unsigned_abs() };
        Ok(rows.into_iter().map(of).collect())
    }
}

impl Store {
    /// The secrets of these names in the project of a job, if that is the project of the worker, too.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets_for_attempt(
        &self,
        worker: WorkerId,
        job: JobId,
        names: &[&str],
    ) -> Result<Vec<SealedSecret>, StoreError> {
        let rows: Vec<SealedRow> = sqlx::query_as(
            "SELECT s.project_id, s.name, s.version, s.key_id, s.data_key, s.value \
             FROM jobs j JOIN workers w ON w.id = $2 AND w.project_id = j.project_id \
             JOIN secrets s ON s.project_id = j.project_id AND s.name = ANY($3) WHERE j.id = $1",
        )
        .bind(job.0)
        .bind(worker.0)
        .bind(names)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(SealedSecret::from).collect())
    }

    /// Notes that an attempt of a job has got the secrets of these names, unless that was noted a moment ago.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets_used(&self, job: JobId, names: &[&str]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE secrets SET last_used_at = now() \
             WHERE project_id = (SELECT project_id FROM jobs WHERE id = $1) AND name = ANY($2) \
                 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        )
        .bind(job.0)
        .bind(names)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Some secrets that are encrypted with this master key, after a place in their order.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secrets_of_key(
        &self,
        key_id: &str,
        after: Option<(ProjectId, &str)>,
        most: i64,
    ) -> Result<Vec<SealedSecret>, StoreError> {
        let rows: Vec<SealedRow> = sqlx::query_as(
            "SELECT project_id, name, version, key_id, data_key, ''::bytea AS value FROM secrets WHERE key_id = $1 \
             AND (project_id, name) > ($3, $4) ORDER BY project_id, name LIMIT $2",
        )
        .bind(key_id)
        .bind(most)
        .bind(after.map_or(0, |(project, _)| project.0))
        .bind(after.map_or("", |(_, name)| name))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(SealedSecret::from).collect())
    }

    /// Stores a data key that was encrypted again, unless the secret was set meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_sealed_again(
        &self,
        secret: &SealedSecret,
        key_id: &str,
        data_key: &[u8],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE secrets SET key_id = $4, data_key = $5 \
             WHERE project_id = $1 AND name = $2 AND version = $3 AND key_id = $6",
        )
        .bind(secret.project.0)
        .bind(&secret.name)
        .bind(secret.version)
        .bind(key_id)
        .bind(data_key)
        .bind(&secret.sealed.key_id)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The master keys that were in use here, with their proofs.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_proofs(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(sqlx::query_as("SELECT id, proof FROM secret_keys ORDER BY id").fetch_all(&self.pool).await?)
    }

    /// Adds the proof of a master key, and removes those of keys that no secret needs any more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn secret_proof_insert(&self, key_id: &str, proof: &[u8]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO secret_keys (id, proof) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(key_id)
            .bind(proof)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "DELETE FROM secret_keys k WHERE id <> $1 AND NOT EXISTS (SELECT FROM secrets s WHERE s.key_id = k.id)",
        )
        .bind(key_id)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
