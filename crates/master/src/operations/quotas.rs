//! Quotas of projects, for those who submit.

use std::collections::BTreeMap;
use std::sync::Arc;

use gaffer_domain::ProjectId;
use gaffer_domain::projects::Terms;
use gaffer_domain::quota::{Limited, Usage};
use gaffer_domain::spec::{FieldError, JobSpec, TaskSpec};

use super::OperationError;
use super::context::Effects;
use crate::store::StoreError;

/// Refuses a specification with a task that exceeds a quota of the project alone: it would wait for ever.
pub(super) async fn must_fit(
    effects: &Effects,
    project: ProjectId,
    spec: &JobSpec,
) -> Result<(), OperationError> {
    let terms = terms(effects).await?;
    let Some(Terms { quota, .. }) = terms.get(&project) else { return Ok(()) };
    let is_single = spec.tasks.len() == 1;
    let mistake = |(position, task): (usize, &TaskSpec)| {
        let over = quota.over(Usage::default(), &task.resources.amounts)?;
        let field = match over.what {
            Limited::Cpu => "resources/cpu",
            Limited::Memory => "resources/memory",
            Limited::Tasks => "count",
        };
        let pointer = if is_single { format!("/{field}") } else { format!("/tasks/{position}/{field}") };
        Some(FieldError { pointer, detail: over.to_string(), suggestion: None })
    };
    let mistakes: Vec<FieldError> = spec.tasks.iter().enumerate().filter_map(mistake).collect();
    if mistakes.is_empty() { Ok(()) } else { Err(OperationError::InvalidSpec(mistakes)) }
}

async fn terms(effects: &Effects) -> Result<Arc<BTreeMap<ProjectId, Terms>>, StoreError> {
    match effects.scheduling.terms() {
        Ok(terms) => Ok(terms),
        Err(version) => {
            let terms = effects.writes.project_terms().await?;
            effects.scheduling.terms_were_read(version, &terms);
            Ok(terms)
        }
    }
}
