//! Accepting a job: the one way in, for API and pages.

use chrono::Utc;
use gaffer_domain::spec::JobSpec;
use gaffer_domain::{JobId, ProjectId};
use sha2::{Digest, Sha256};

use crate::Master;
use crate::store::StoreError;
use crate::store::jobs::{NewJob, Submitted};

/// What is to be accepted, and from whom.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// Whose job it will be.
    pub project: ProjectId,
    /// Who submits it.
    pub user: &'a str,
    /// What is to be done.
    pub spec: &'a JobSpec,
    /// The job that it repeats.
    pub rerun_of: Option<JobId>,
    /// The client's name for this request: a repeated one is accepted once.
    pub idempotency_key: Option<&'a str>,
}

impl Master {
    /// Accepts a job. When this returns it is committed, and the scheduler knows.
    ///
    /// # Errors
    /// When the database does not answer; with an idempotency key the request can then be repeated safely.
    pub async fn submit(&self, submission: Submission<'_>) -> Result<Submitted, StoreError> {
        let Submission { project, user, spec, rerun_of, idempotency_key } = submission;
        let idempotency = idempotency_key.map(|key| {
            let request = serde_json::json!({ "spec": spec, "rerun_of": rerun_of });
            (key, Sha256::digest(request.to_string()).into())
        });
        let new = NewJob { project, spec, created_by: user, rerun_of, idempotency };
        let submitted = self.writes.job_insert(&new, Utc::now()).await?;
        if let Submitted::Created(job) = submitted {
            self.wakes.scheduler.call();
            self.changes.announce(&[job]);
        }
        Ok(submitted)
    }
}
