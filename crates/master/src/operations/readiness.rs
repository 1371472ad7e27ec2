//! Whether this master can serve: what a load balancer asks, who has no key.

use std::time::Duration;

use gaffer_domain::Time;

use super::Context;
use crate::store::StoreError;

/// What holds live events back for so long is worth a word.
const HELD_BACK_FOR: Duration = Duration::from_secs(10);

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready {
        /// What is not as it should be all the same.
        warning: Option<String>,
    },
    /// It does not know whether it still leads.
    NotTrusted,
    /// The database answers, but accepts nothing.
    NothingAccepted { since: Time },
}

/// Looks whether the database answers and takes what is to be recorded, and whether this master leads.
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
