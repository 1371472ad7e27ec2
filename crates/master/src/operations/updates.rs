//! Services are updated, taken back to an earlier version, and promoted.

use chrono::Utc;
use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::{FieldError, JobSpec};
use gaffer_domain::versions::{Difference, arrange, differences};
use serde_json::Value;

use super::context::Effects;
use super::jobs::{self, Accepted, Submit};
use super::services;
use super::{Actor, Context, OperationError, no_job};
use crate::store::jobs::Origin;
use crate::store::versions::{NewVersion, Updated, Version, VersionSource};
use crate::views::Views;

/// What a specification would do to a service.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdatePreview {
    /// The service that it would update; none if there is none of that name.
    pub service: Option<(JobId, u32)>,
    /// What would differ.
    pub differences: Vec<Difference>,
}

/// Makes a specification the next version of the service of its name; submits it if there is none that is not being stopped.
/// `source`: what it was before the values of its parameters were put in.
///
/// # Errors
/// When it cannot be the next version, or the database does not answer.
pub async fn apply(
    context: &Context,
    actor: &Actor,
    spec: &JobSpec,
    source: Option<&str>,
) -> Result<Accepted, OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let origin = Origin { source, template: None };
    let as_new = Submit { spec, origin, request: None, idempotency_key: None };
    let job = match services::find(&effects.writes, actor, &spec.name).await {
        Ok(job) => job,
        Err(OperationError::NotFound(_)) => {
            return jobs::submit(context, actor, as_new).await;
        }
        Err(error) => return Err(error),
    };
    match update(effects, actor, (job, spec, VersionSource::Text(source)), "").await {
        Ok(()) => Ok(Accepted { job, is_new: false, hints: Vec::new() }),
        // It is being stopped: another one may begin beside it.
        Err(OperationError::Conflict { .. }) => jobs::submit(context, actor, as_new).await,
        Err(error) => Err(error),
    }
}

/// What [`apply`] would do.
///
/// # Errors
/// As there.
pub async fn preview(views: &Views, actor: &Actor, spec: &JobSpec) -> Result<UpdatePreview, OperationError> {
    let job = match services::find(&views.reads, actor, &spec.name).await {
        Ok(job) => job,
        Err(OperationError::NotFound(_)) => {
            let differences = differences(&Value::Object(Default::default()), &normal(spec));
            return Ok(UpdatePreview { service: None, differences });
        }
        Err(error) => return Err(error),
    };
    let present = views.reads.spec(job).await?.ok_or_else(|| no_job(job))?;
    let readable = present.readable().map_err(unreadable)?;
    let arranged = arrange(readable, spec).map_err(refused)?;
    let differences = differences(&normal(readable), &normal(&arranged));
    Ok(UpdatePreview { service: Some((job, present.version())), differences })
}

fn normal(spec: &JobSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

/// Makes an earlier version of a service the next one; the one before the present if none is named.
///
/// # Errors
/// When there is no such job or version, or it cannot be updated.
pub async fn roll_back(
    context: &Context,
    actor: &Actor,
    job: JobId,
    to: Option<u32>,
) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    jobs::find(effects, actor, job).await?;
    let present = effects.writes.spec(job).await?.ok_or_else(|| no_job(job))?.version();
    let version = match to {
        Some(to) => to,
        None if present > 1 => present - 1,
        None => {
            return Err(OperationError::field("/to", format!("job {job} has only one version")));
        }
    };
    if version == present {
        return Err(OperationError::field("/to", format!("version {version} is the present one")));
    }
    let spec = effects.writes.spec_of_version(job, version).await?;
    let spec = spec.ok_or_else(|| OperationError::field("/to", format!("version {version} is not kept")))?;
    let source = VersionSource::Version(version);
    update(effects, actor, (job, &spec, source), &format!("back to version {version}")).await
}

/// Lets the update of a service go on after its canaries.
///
/// # Errors
/// When there is no such job, or it is not updated.
pub async fn promote(context: &Context, actor: &Actor, job: JobId) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let found = jobs::find(effects, actor, job).await?;
    if !effects.writes.job_promote(actor.project, job, &actor.user).await? {
        let detail = format!("job {job} has no update that could go on");
        return Err(OperationError::Conflict { detail, state: found.state.as_str() });
    }
    effects.wakes.updates.call();
    effects.changes.announce(&[job]);
    Ok(())
}

/// The versions of a job that are kept, the latest first.
///
/// # Errors
/// When there is no such job.
pub async fn versions(views: &Views, actor: &Actor, job: JobId) -> Result<Vec<Version>, OperationError> {
    super::tasks::own_job(&views.reads, actor, job).await?;
    Ok(views.reads.job_versions(job).await?)
}

async fn update(
    effects: &Effects,
    actor: &Actor,
    (job, spec, source): (JobId, &JobSpec, VersionSource<'_>),
    message: &str,
) -> Result<(), OperationError> {
    let new = NewVersion {
        project: actor.project,
        job,
        spec,
        source,
        created_by: &actor.user,
        message,
        reverts: false,
        after: None,
    };
    let submission = effects.large_jobs.submission();
    let updated = effects.writes.job_update(&new, Utc::now()).await?;
    // Numbers of instances may have changed, and there may be new definitions.
    submission.told(matches!(updated, Updated::Accepted(_)).then_some(job));
    match updated {
        Updated::Accepted(_) => {
            effects.wakes.updates.call();
            effects.changes.announce(&[job]);
            Ok(())
        }
        Updated::Unchanged(_) => Ok(()),
        Updated::Refused(why) => Err(refused(why)),
        Updated::NotKept(state) => {
            let is = if state.is_final() { "has already ended" } else { "is being stopped" };
            let detail = format!("job {job} {is}: it cannot be updated");
            Err(OperationError::Conflict { detail, state: state.as_str() })
        }
        Updated::Overtaken(_) => Err(OperationError::Busy("the service was updated meanwhile")),
        Updated::Unreadable(problem) => Err(unreadable(&problem)),
        Updated::Unknown => Err(no_job(job)),
    }
}

/// Checks that a specification, which is at `pointer` in what was sent, is of the service with this name.
///
/// # Errors
/// When it has another name.
pub fn check_name(spec: &JobSpec, service: &str, pointer: &str) -> Result<(), OperationError> {
    if spec.name == service {
        return Ok(());
    }
    let detail = format!("the specification is of {}, and the path is of another service", spec.name);
    let mistake = FieldError { pointer: format!("{pointer}/name"), detail, suggestion: None };
    Err(OperationError::InvalidSpec(vec![mistake]))
}

fn refused(why: gaffer_domain::versions::Refused) -> OperationError {
    OperationError::Invalid { code: "invalid_spec", detail: why.to_string(), field: None }
}

fn unreadable(problem: &str) -> OperationError {
    let detail = format!("the service cannot be updated: {problem}");
    OperationError::Invalid { code: "unreadable_job", detail, field: None }
}
