//! Reading the metrics, which are of all projects.

use gaffer_domain::permissions::Action;

use super::{Actor, Context, OperationError};
use crate::metrics::Metrics;
use crate::metrics::text::Format;
use crate::secret::MetricsToken;

/// All metrics as they are now.
///
/// # Errors
/// When the actor may not read them. A database that is away is no error.
pub async fn read(context: &Context, actor: &Actor, format: Format) -> Result<String, OperationError> {
    let views = context.permit_to_look(actor, Action::ReadMetrics)?;
    Ok(views.exposition.text(format).await)
}

/// The metrics of a standby: that it does not lead, and how its process is doing.
#[derive(Debug, Clone)]
pub struct StandbyMetrics {
    pub metrics: Metrics,
    /// Without it nobody reads them: keys are the leader's to check.
    pub token: Option<MetricsToken>,
}

impl StandbyMetrics {
    /// All of them, if this is the token.
    pub fn read(&self, presented: &str, format: Format) -> Option<String> {
        self.token.as_ref().filter(|token| token.is(presented))?;
        Some(self.metrics.text(format))
    }
}
