//! Workers that get a key of their own for an enrolment key.

use super::{Store, StoreError};

/// A key that a worker has made, and for which enrolment key it is to count.
#[derive(Debug, Clone, Copy)]
pub struct Enrolling<'a> {
    /// Number of the enrolment key.
    pub enrolment: i64,
    /// SHA-256 of the worker's identity.
    pub identity: &'a [u8; 32],
    pub prefix: &'a str,
    pub sha256: &'a [u8],
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolled {
    /// The number of the worker's key.
    New(i64),
    /// It was enrolled with it before, and did not hear of it.
    Before(i64),
    /// The key that it has made was revoked, or is another's.
    NotGood,
    /// The enrolment key is used up, revoked or too old by now.
    TooLate,
}

impl Store {
    /// Makes the key of a worker its own, and takes one use from the enrolment key, both or neither. The key that this worker had before is
    /// revoked: a new enrolment replaces it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn worker_enrol(&self, new: Enrolling<'_>) -> Result<Enrolled, StoreError> {
        let mut tx = self.begin().await?;
        let known: Option<(i64, bool)> = sqlx::query_as(
            "SELECT id, revoked_at IS NULL AND identity_sha256 = $2 AND enrolled_by = $3 FROM keys WHERE sha256 = $1",
        )
        .bind(new.sha256)
        .bind(&new.identity[..])
        .bind(new.enrolment)
        .fetch_optional(&mut *tx)
        .await?;
        match known {
            Some((key, true)) => return Ok(Enrolled::Before(key)),
            Some(_) => return Ok(Enrolled::NotGood),
            None => {}
        }
        let key: Option<i64> = sqlx::query_scalar(
            "WITH used AS ( \
                 UPDATE keys SET uses_left = uses_left - 1, last_used_at = now() WHERE id = $1 AND uses_left > 0 \
                 AND revoked_at IS NULL AND expires_at > now() RETURNING project_id, name, limits), \
             replaced AS ( \
                 UPDATE keys SET revoked_at = now() FROM used \
                 WHERE keys.identity_sha256 = $2 AND keys.project_id = used.project_id AND keys.revoked_at IS NULL) \
             INSERT INTO keys (project_id, kind, name, prefix, sha256, scopes, limits, identity_sha256, enrolled_by) \
             SELECT project_id, 'worker', name, $3, $4, '{}', limits, $2, $1 FROM used RETURNING id",
        )
        .bind(new.enrolment)
        .bind(&new.identity[..])
        .bind(new.prefix)
        .bind(new.sha256)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(key) = key else { return Ok(Enrolled::TooLate) };
        tx.commit().await?;
        Ok(Enrolled::New(key))
    }
}
