//! History: the position from which to follow.

use gaffer_domain::ProjectId;

use crate::store::StoreError;
use crate::views::Views;

/// The event number from which to follow future events; unsettled events still follow.
///
/// # Errors
/// When the database does not answer.
pub async fn from_now_on(views: &Views, project: ProjectId) -> Result<i64, StoreError> {
    let settled = views.reads.events_settled().await?;
    let newest = views.reads.events_before(project, None, None, 1).await?;
    let newest = newest.first().map_or(0, |event| event.id);
    // Right after the start, a long writer may keep everything unsettled.
    Ok(if settled.upto > 0 { newest.min(settled.upto) } else { newest })
}
