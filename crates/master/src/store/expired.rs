//! Deletes expired links, invitations, browser sessions and idempotency keys.

use super::{Store, StoreError};

const EXPIRED: [&str; 4] = [
    "DELETE FROM login_links WHERE expires_at < now() - interval '1 day'",
    "DELETE FROM web_sessions WHERE expires_at < now()",
    "DELETE FROM invitations WHERE expires_at < now() - interval '30 days'",
    "DELETE FROM idempotency_keys WHERE created_at < now() - interval '1 day'",
];

impl Store {
    /// Deletes what has expired; returns how many rows that were.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn expired_delete(&self) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for statement in EXPIRED {
            let mut tx = self.begin().await?;
            deleted += sqlx::query(statement).execute(&mut *tx).await?.rows_affected();
            tx.commit().await?;
        }
        Ok(deleted)
    }
}
