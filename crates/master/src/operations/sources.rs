//! Specifications of jobs as they were submitted, before the values of their parameters were put in.

use gaffer_domain::JobId;
use gaffer_domain::document::{Language, Value as Document};
use gaffer_domain::parameters::Parameters;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::Unfilled;

use super::tasks::own_job;
use super::{Actor, Context, OperationError, no_job};
use crate::store::{ReadStore, StoreError};

/// What a job was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSource {
    /// The specification as it was submitted; of a job without parameters, the one that is stored.
    pub document: Document,
    /// The parameters that have placeholders in it, with the values of the job. Others have their values in the document.
    pub parameters: Parameters,
}

/// The source of a job.
///
/// # Errors
/// When there is no such job.
pub async fn get(context: &Context, actor: &Actor, job: JobId) -> Result<JobSource, OperationError> {
    let views = context.permit_to_look(actor, Action::Look)?;
    own_job(&views.reads, actor, job).await?;
    read(&views.reads, job).await
}

/// The source of a job of whatever project.
///
/// # Errors
/// When there is no such job.
pub async fn read(reads: &ReadStore, job: JobId) -> Result<JobSource, OperationError> {
    let mut parameters = reads.spec(job).await?.ok_or_else(|| no_job(job))?.parameters.clone();
    let source = if parameters.is_empty() { None } else { reads.job_source(job).await? };
    let document = match source {
        Some(source) => {
            let unreadable = |error| StoreError::Unreadable(format!("the source of job {job}: {error}"));
            Language::Json.read(&source).map_err(unreadable)?
        }
        None => Document::from(&reads.job_specs(&[job], 0).await?.pop().unwrap_or_default()),
    };
    let declared = Unfilled::new(&document).declared();
    parameters.retain(|name, _| declared.iter().any(|one| one.name == *name && one.value.is_none()));
    Ok(JobSource { document, parameters })
}
