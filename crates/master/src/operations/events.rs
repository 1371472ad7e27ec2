//! History: where somebody begins to follow it.

use gaffer_domain::ProjectId;

use crate::store::StoreError;
use crate::views::Views;

/// The event from which somebody goes on who wants to know what happens from now on: what is under way is still to come.
///
/// # Errors
/// When the database does not answer.
pub async fn from_now_on(views: &Views, project: ProjectId) -> Result<i64, StoreError> {
    let settled = views.reads.events_settled().await?;
    let newest = views.reads.events_before(project, None, None, 1).await?;
    let newest = newest.first().map_or(0, |event| event.id);
    // Nothing may be known to be settled right after the start, while somebody writes for long.
    Ok(if settled.upto > 0 { newest.min(settled.upto) } else { newest })
}
