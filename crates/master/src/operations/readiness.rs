//! Whether this master can serve; for load balancers, without a key.

use std::time::Duration;

use gaffer_domain::Time;

use super::Context;
use crate::store::StoreError;

/// A transaction that delays live events this long is reported.
const HELD_BACK_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready {
        /// Warnings of a ready master.
        warning: Option<String>,
    },
    /// It does not know whether it still leads.
    NotTrusted,
    /// The database answers, but accepts nothing.
    NothingAccepted { since: Time },
}

/// Checks that the database responds and accepts writes, and that this master leads.
///
/// # Errors
/// When the database does not answer.
pub async fn check(context: &Context) -> Result<Readiness, StoreError> {
    let writes = &context.for_nobody().writes;
    writes.now().await?;
    if !writes.leadership().is_trusted() {
        return Ok(Readiness::NotTrusted);
    }
    if let Some(since) = context.accepts_nothing_since() {
        return Ok(Readiness::NothingAccepted { since });
    }
    Ok(Readiness::Ready { warning: writes.events_held_back(HELD_BACK_FOR).await? })
}
