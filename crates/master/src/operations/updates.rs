//! Services are updated, taken back to an earlier version, and promoted.

use chrono::Utc;
use gaffer_domain::JobId;
use gaffer_domain::document::Value as Document;
use gaffer_domain::job::JobState;
use gaffer_domain::permissions::Action;
use gaffer_domain::spec::{FieldError, Filled, JobSpec, Source, Submission, Unfilled};
use gaffer_domain::versions::{Difference, Refused, arrange, differences, previous};
use serde_json::{Value, json};

use super::context::Effects;
use super::jobs::{self, Accepted, Submit, request_hash};
use super::{Actor, Context, OperationError, no_job};
use super::{quotas, secrets, services};
use crate::store::jobs::Origin;
use crate::store::updates::Promoted;
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

/// A specification of a service.
#[derive(Debug, Clone, Copy)]
pub struct Apply<'a> {
    pub spec: &'a JobSpec,
    /// What it was before the values of its parameters were put in.
    pub source: Option<&'a str>,
    /// Only if this is the present version of the service.
    pub after: Option<u32>,
    /// The client's name for this request: a repeated one is accepted once.
    pub idempotency_key: Option<&'a str>,
}

/// The specification in a request about the service of this name.
///
/// # Errors
/// When it is none, or of another service.
pub fn of_service(service: &str, sent: &Document) -> Result<Filled, OperationError> {
    let Submission { source, values } = Submission::of(sent).map_err(OperationError::InvalidSpec)?;
    let Source::Sent(document, pointer) = source else {
        let detail = "a service is updated with its specification, not from a template".to_owned();
        return Err(OperationError::field("/template", detail));
    };
    let unfilled = Unfilled { pointer: Some(pointer), values, ..Unfilled::new(document) };
    let filled = unfilled.fill().map_err(OperationError::InvalidSpec)?;
    if filled.spec.name != service {
        let detail =
            format!("the specification is of {}, and the path is of another service", filled.spec.name);
        let mistake = FieldError { pointer: format!("{pointer}/name"), detail, suggestion: None };
        return Err(OperationError::InvalidSpec(vec![mistake]));
    }
    Ok(filled)
}

/// Makes a specification the next version of the service of its name; submits it if there is none that is not being stopped.
///
/// # Errors
/// When it cannot be the next version, or the database does not answer.
pub async fn apply(context: &Context, actor: &Actor, wanted: Apply<'_>) -> Result<Accepted, OperationError> {
    let Apply { spec, source, after, idempotency_key } = wanted;
    // Whichever way it goes, a repeated request is the same.
    let request = json!({ "service": spec });
    if let Some(accepted) = update_kept(context, actor, wanted, &request).await? {
        return Ok(accepted);
    }
    // One at a time: a service that another request has submitted meanwhile is updated.
    let _turn = context.permit(actor, Action::SubmitJob)?.new_services.lock().await;
    if let Some(accepted) = update_kept(context, actor, wanted, &request).await? {
        return Ok(accepted);
    }
    if after.is_some() {
        return Err(services::none_running(&spec.name));
    }
    let origin = Origin { source, template: None };
    let as_new = Submit { spec, origin, request: Some(&request), idempotency_key };
    jobs::submit(context, actor, as_new).await
}

/// Updates the service of that name. None if there is none, or it is being stopped: another one may begin beside it.
async fn update_kept(
    context: &Context,
    actor: &Actor,
    wanted: Apply<'_>,
    request: &Value,
) -> Result<Option<Accepted>, OperationError> {
    let Apply { spec, source, after, idempotency_key } = wanted;
    let effects = context.permit(actor, Action::SubmitJob)?;
    let job = match services::find(&effects.writes, actor, &spec.name).await {
        Ok(job) => job,
        Err(OperationError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let idempotency = idempotency_key.map(|key| (key, request_hash(request)));
    let source = VersionSource::Text(source);
    let new = NewVersion { source, after, idempotency, ..plain(actor, job, spec) };
    let updated = write(context, actor, &new).await?;
    Ok(updated.map(|job| Accepted { job, is_new: false, hints: Vec::new() }))
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

/// A service that goes back to an earlier version.
#[derive(Debug, Clone, Copy)]
pub struct RollBack {
    pub job: JobId,
    /// The version; none for the latest one before the present that was not taken back.
    pub to: Option<u32>,
    /// Only if this is the present version.
    pub after: Option<u32>,
}

/// Makes an earlier version of a service the next one.
///
/// # Errors
/// When there is no such job or version, or it cannot be updated.
pub async fn roll_back(context: &Context, actor: &Actor, wanted: RollBack) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let RollBack { job, to, after } = wanted;
    let found = jobs::find(effects, actor, job).await?;
    if found.is_over() || found.state == JobState::Stopping {
        return Err(services::not_kept(job, found.state, "updated"));
    }
    let present = effects.writes.spec(job).await?.ok_or_else(|| no_job(job))?.version();
    let version = match to {
        Some(to) => to,
        None => previous(&effects.writes.job_past(job).await?, present).ok_or_else(|| {
            let detail = format!("job {job} has no earlier version that was not taken back; name one");
            OperationError::field("/to", detail)
        })?,
    };
    if version == present {
        return Err(OperationError::field("/to", format!("version {version} is the present one")));
    }
    let spec = effects.writes.spec_of_version(job, version).await?;
    let spec = spec.ok_or_else(|| OperationError::field("/to", format!("version {version} is not kept")))?;
    let message = &format!("back to version {version}");
    let (goes_back_to, after) = (Some(version), after.or(Some(present)));
    let source = VersionSource::Version(version);
    let new = NewVersion { source, message, goes_back_to, after, ..plain(actor, job, &spec) };
    match write(context, actor, &new).await? {
        Some(_) => Ok(()),
        None => Err(services::not_kept(job, jobs::find(effects, actor, job).await?.state, "updated")),
    }
}

/// Lets the update of a service continue after its canaries; with a version, only if it is the present one.
///
/// # Errors
/// When there is no such job, or no such update.
pub async fn promote(
    context: &Context,
    actor: &Actor,
    job: JobId,
    version: Option<u32>,
) -> Result<(), OperationError> {
    let mut change = context.change(actor, Action::SubmitJob, &format!("job {job}")).await?;
    change.after(json!({ "promoted": true }));
    let promoted = let_continue(change.effects, actor, job, version).await;
    change.end(promoted).await
}

async fn let_continue(
    effects: &Effects,
    actor: &Actor,
    job: JobId,
    version: Option<u32>,
) -> Result<(), OperationError> {
    match effects.writes.job_promote((actor.project, job), version, &actor.user).await? {
        Promoted::Yes => {
            effects.wakes.updates.call();
            effects.changes.announce(&[job]);
            Ok(())
        }
        Promoted::NotUpdated(state) => {
            let detail = format!("job {job} has no update that could continue");
            Err(OperationError::Conflict { detail, state: state.as_str() })
        }
        Promoted::Overtaken { present, state } => Err(overtaken(job, present, state)),
        Promoted::Unknown => Err(no_job(job)),
    }
}

/// The versions of a job that are kept, the latest first.
///
/// # Errors
/// When there is no such job.
pub async fn versions(views: &Views, actor: &Actor, job: JobId) -> Result<Vec<Version>, OperationError> {
    super::tasks::own_job(&views.reads, actor, job).await?;
    Ok(views.reads.job_versions(job).await?)
}

/// A version by a user that comes after whatever there is.
fn plain<'a>(actor: &'a Actor, job: JobId, spec: &'a JobSpec) -> NewVersion<'a> {
    NewVersion {
        project: actor.project,
        job,
        spec,
        source: VersionSource::Text(None),
        created_by: &actor.user,
        message: "",
        goes_back_to: None,
        reverts: false,
        after: None,
        idempotency: None,
    }
}

/// Writes a version. Returns the job; none if it is being stopped or has ended.
async fn write(
    context: &Context,
    actor: &Actor,
    new: &NewVersion<'_>,
) -> Result<Option<JobId>, OperationError> {
    let mut change = context.change(actor, Action::SubmitJob, &format!("job {}", new.job)).await?;
    let updated = write_version(change.effects, new).await;
    let updated = match updated {
        Ok(Updated::NotKept(_)) => Ok(None),
        Ok(updated) => {
            if let Updated::Accepted(version) = &updated {
                change.after(json!({ "version": version, "back_to": new.goes_back_to }));
            }
            updated_job(new.job, updated).map(Some)
        }
        Err(error) => Err(error),
    };
    change.end(updated).await
}

async fn write_version(effects: &Effects, new: &NewVersion<'_>) -> Result<Updated, OperationError> {
    secrets::must_exist(effects, new.project, new.spec).await?;
    quotas::must_fit(effects, new.project, new.spec).await?;
    let submission = effects.large_jobs.submission();
    let updated = effects.writes.job_update(new, Utc::now()).await?;
    // Numbers of instances may have changed, and there may be new definitions.
    let is_accepted = matches!(updated, Updated::Accepted(_));
    submission.told(is_accepted.then_some(new.job));
    if is_accepted {
        effects.wakes.updates.call();
        effects.wakes.system_jobs.call();
        effects.changes.announce(&[new.job]);
    }
    Ok(updated)
}

/// The job that was updated, now or by an earlier request of the same name.
fn updated_job(job: JobId, updated: Updated) -> Result<JobId, OperationError> {
    match updated {
        Updated::Accepted(_) | Updated::Unchanged(_) => Ok(job),
        Updated::Repeated(earlier) => Ok(earlier),
        Updated::KeyReused => Err(OperationError::KeyReused),
        Updated::Refused(why) => Err(refused(why)),
        Updated::NotKept(state) => Err(services::not_kept(job, state, "updated")),
        Updated::Overtaken { present, state } => Err(overtaken(job, present, state)),
        Updated::Unreadable(problem) => Err(unreadable(&problem)),
        Updated::Unknown => Err(no_job(job)),
    }
}

fn overtaken(job: JobId, present: u32, state: JobState) -> OperationError {
    let detail = format!("the present version of job {job} is {present}: look at it and decide again");
    OperationError::Conflict { detail, state: state.as_str() }
}

fn refused(why: Refused) -> OperationError {
    OperationError::Invalid { code: "invalid_spec", detail: why.to_string(), field: None }
}

fn unreadable(problem: &str) -> OperationError {
    let detail = format!("the service cannot be updated: {problem}");
    OperationError::Invalid { code: "unreadable_job", detail, field: None }
}
