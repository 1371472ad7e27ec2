//! Jobs: submit, rerun, wait for, stop, delete.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::JobId;
use gaffer_domain::document::Value as Document;
use gaffer_domain::job::JobState;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::{listed, shown};
use gaffer_domain::rerun::{self, Part, Refused};
use gaffer_domain::spec::{FieldError, Filled, JobSpec, MAX_SPEC_BYTES, Unfilled};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::context::Effects;
use super::{Actor, Context, OperationError, each_worker, no_job, quotas, secrets, sources};
use crate::look_rate::LookRate;
use crate::records::Job;
use crate::store::ReadStore;
use crate::store::deletion::Deleted;
use crate::store::jobs::{ForWorkers, NewJob, Origin, Submitted};
use crate::store::transitions::{StopJob, StopResult};

/// A job that is to be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Submit<'a> {
    /// The specification.
    pub spec: &'a JobSpec,
    pub origin: Origin<'a>,
    /// What the client asked for, if that is not the specification: a repeated request asks for the same.
    pub request: Option<&'a Value>,
    /// The client's name for this request: a repeated one is accepted once.
    pub idempotency_key: Option<&'a str>,
}

/// A job that has ended, and that its user may run again: see [`find_ended`].
#[derive(Debug)]
pub struct EndedJob(Job);

/// A job that is to be run again, as a new one.
#[derive(Debug)]
pub struct Rerun<'a> {
    /// The ended job.
    pub earlier: EndedJob,
    /// Which part of it; none for all of it.
    pub part: Option<Part<'a>>,
    /// What the new job is, if not the same; it stands at `/spec` in what was sent.
    pub spec: Option<&'a Document>,
    /// Values of parameters; the others keep theirs.
    pub values: Option<&'a Document>,
    /// As in [`Submit`].
    pub idempotency_key: Option<&'a str>,
}

/// A job that is committed, and of which the scheduler knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub job: JobId,
    /// Whether it was accepted now, and not by an earlier request of the same name.
    pub is_new: bool,
    /// What may be a mistake in a specification that was read for this request.
    pub hints: Vec<FieldError>,
}

/// A state to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub job: JobId,
    /// The state; none for any final one. A final state always ends the wait.
    pub until: Option<JobState>,
    pub at_most: Duration,
}

/// Refuses a specification that is too long to be read.
///
/// # Errors
/// [`OperationError::Invalid`].
pub fn check_size(bytes: usize) -> Result<(), OperationError> {
    if bytes <= MAX_SPEC_BYTES {
        return Ok(());
    }
    let detail =
        format!("the job specification has {bytes} bytes, more than the maximum of {MAX_SPEC_BYTES}");
    Err(OperationError::Invalid { code: "too_large", detail, field: None })
}

/// Accepts a job.
///
/// # Errors
/// When the database does not answer; with an idempotency key the request can then be repeated safely.
pub async fn submit(
    context: &Context,
    actor: &Actor,
    wanted: Submit<'_>,
) -> Result<Accepted, OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    accept(effects, actor, wanted, None).await
}

/// Accepts a job from a document, with the values of its parameters.
///
/// # Errors
/// When the document or the values are invalid; else as [`submit`].
pub async fn submit_document(
    context: &Context,
    actor: &Actor,
    unfilled: Unfilled<'_>,
    idempotency_key: Option<&str>,
) -> Result<Accepted, OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let Filled { spec, source, hints } = unfilled.fill().map_err(OperationError::InvalidSpec)?;
    let origin = Origin { source: source.as_deref(), template: None };
    let submit = Submit { spec: &spec, origin, request: None, idempotency_key };
    let accepted = accept(effects, actor, submit, None).await?;
    Ok(accepted.with_hints(hints))
}

/// Finds a job to run again.
///
/// # Errors
/// When there is no such job, it has not ended, or the user may not run it again.
pub async fn find_ended(context: &Context, actor: &Actor, job: JobId) -> Result<EndedJob, OperationError> {
    let found = find(context.permit(actor, Action::SubmitJob)?, actor, job).await?;
    if found.is_over() {
        return Ok(EndedJob(found));
    }
    let detail = format!("job {job} has not ended: it is {}", found.state);
    Err(OperationError::Conflict { detail, state: found.state.as_str() })
}

/// Submits a finished job again, or a part of it, as a new job. What of it does not run has the results of the finished job.
///
/// # Errors
/// When nothing of it would run, or its specification cannot be read.
pub async fn rerun(context: &Context, actor: &Actor, wanted: Rerun<'_>) -> Result<Accepted, OperationError> {
    let effects = context.permit(actor, Action::SubmitJob)?;
    let Rerun { earlier: EndedJob(earlier), part, spec: document, values, idempotency_key } = wanted;
    let job = earlier.id;
    let stored = effects.writes.spec(job).await?.ok_or_else(|| no_job(job))?;
    let readable = || {
        stored.readable().map_err(|problem| OperationError::Invalid {
            code: "unreadable_job",
            detail: format!("job {job} cannot be rerun: {problem}; submit it again"),
            field: None,
        })
    };
    let filled = match (document, values) {
        (None, None) => {
            let spec = readable()?.clone();
            let has_source = !spec.parameters.is_empty();
            let source = if has_source { Some(sources::read(&effects.writes, job).await?) } else { None };
            let source = source.map(|source| source.document.to_json());
            Filled { spec, source, hints: Vec::new() }
        }
        (Some(document), values) => {
            // Of a job that cannot be read, no values are kept.
            let earlier = stored.readable().ok().map(|spec| &spec.parameters);
            Unfilled { document, pointer: Some("/spec"), values, earlier }
                .fill()
                .map_err(OperationError::InvalidSpec)?
        }
        (None, values) => {
            let earlier = Some(&readable()?.parameters);
            let document = sources::read(&effects.writes, job).await?.document;
            Unfilled { document: &document, pointer: None, values, earlier }
                .fill()
                .map_err(OperationError::InvalidSpec)?
        }
    };
    let Filled { spec, source, hints } = filled;
    // One that was edited is not of the template any more.
    let template = earlier.template.as_ref().filter(|_| document.is_none());
    let origin = Origin { source: source.as_deref(), template };
    let submit = Submit { spec: &spec, origin, request: None, idempotency_key };
    let accepted = match part {
        None => accept(effects, actor, submit, Some(Repeats { job, part: None })).await?,
        Some(part) => {
            let repeats = Repeats { job, part: Some((part, &earlier, readable()?)) };
            accept(effects, actor, submit, Some(repeats)).await?
        }
    };
    Ok(accepted.with_hints(hints))
}

/// Why a part of a job is not run again.
fn not_in_part(earlier: &Job, spec: &JobSpec, refused: &Refused) -> OperationError {
    let (job, state) = (earlier.id, earlier.state);
    let detail = match refused {
        Refused::NoDefinition(name) => {
            let names: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
            let detail = format!("there is no task {}; the job has {}", shown(name), listed(&names));
            return OperationError::field("/from", detail);
        }
        Refused::FollowsWorkers => format!(
            "job {job} cannot be rerun in part: a system job has its tasks on the workers that match now; rerun all of it"
        ),
        Refused::NothingFailed => format!("nothing of job {job} failed: it is {state}"),
        Refused::LeftOut(task) => format!(
            "task {task} of job {job} did not complete and does not depend on that task: rerun what failed as well"
        ),
    };
    OperationError::Conflict { detail, state: state.as_str() }
}

/// The job that a new one repeats.
struct Repeats<'a> {
    job: JobId,
    /// Which part of it, if not all, with that job and its specification.
    part: Option<(Part<'a>, &'a Job, &'a JobSpec)>,
}

impl Accepted {
    /// With these hints before those that it has.
    #[must_use]
    pub fn with_hints(mut self, mut hints: Vec<FieldError>) -> Accepted {
        hints.append(&mut self.hints);
        Accepted { hints, ..self }
    }
}

async fn accept(
    effects: &Effects,
    actor: &Actor,
    wanted: Submit<'_>,
    repeats: Option<Repeats<'_>>,
) -> Result<Accepted, OperationError> {
    let Submit { spec, origin, request, idempotency_key } = wanted;
    let rerun_of = repeats.as_ref().map(|repeats| repeats.job);
    let in_part = repeats.and_then(|repeats| repeats.part);
    let part = in_part.map(|(part, ..)| part);
    let idempotency = idempotency_key.map(|key| {
        let mut request = match request {
            Some(request) => request.clone(),
            None => json!({ "spec": spec, "rerun_of": rerun_of }),
        };
        if let Some(part) = part {
            request["part"] = json!(part);
        }
        (key, request_hash(&request))
    });
    let earlier = in_part.map(|(_, job, spec)| (job.id, spec));
    let admitted = match secrets::must_exist(effects, actor.project, spec).await {
        Ok(()) => quotas::must_fit(effects, actor.project, spec).await,
        refused => refused,
    };
    let chosen = match (admitted, each_worker::is_needed(spec)) {
        (Err(refused), _) => Some(Err(refused)),
        (Ok(()), true) => Some(each_worker::choose(effects, actor.project, spec, earlier).await),
        (Ok(()), false) => None,
    };
    let chosen = match (chosen.transpose(), &idempotency) {
        (Ok(chosen), _) => chosen,
        // It may have been accepted while there were others, secrets that were deleted since, or a larger quota.
        (Err(refused), Some((key, request))) => {
            return match effects.writes.idempotency_find(actor.project, key, request).await? {
                Some(claimed) => accepted(&claimed),
                None => Err(refused),
            };
        }
        (Err(refused), None) => return Err(refused),
    };
    let spec = chosen.as_ref().map_or(spec, |chosen| &chosen.spec);
    let none = ForWorkers::default();
    let for_workers = chosen.as_ref().map_or(&none, |chosen| &chosen.for_workers);
    let selection = match in_part {
        None => None,
        Some((part, job, earlier)) => {
            let uncompleted = effects.writes.tasks_uncompleted(job.id).await?;
            let selection = rerun::select(earlier, &uncompleted, spec, part);
            Some(selection.map_err(|refused| not_in_part(job, spec, &refused))?)
        }
    };
    let selection = selection.as_ref();
    let address = actor.address_text();
    let asks = Some(actor.entry(Action::SubmitJob.name(), "", address.as_deref()));
    let new =
        NewJob { project: actor.project, spec, origin, created_by: &actor.user, asks, rerun_of, idempotency };
    let (submission, now) = (effects.scheduling.submission(), Utc::now());
    // What its first tasks wait for may have been taken over: then nothing but a look at the job releases them.
    let submission_in_part = selection.map(|_| effects.large_jobs.submission());
    let inserted = effects.writes.job_insert_for(&new, selection, for_workers, now).await;
    let known = match &inserted {
        Ok(Submitted::Created { job, classes }) => Some((Some(*job), &classes[..])),
        Ok(Submitted::Repeated(job)) => Some((Some(*job), &[][..])),
        Ok(Submitted::EarlierGone(_) | Submitted::KeyReused) => Some((None, &[][..])),
        // Otherwise the job may be there all the same, and is looked for.
        Err(error) => (!error.may_have_happened()).then_some((None, &[][..])),
    };
    if let Some((job, classes)) = known {
        submission.told(classes, now);
        if let Some(submission) = submission_in_part {
            submission.told(job);
        }
    }
    let inserted = inserted?;
    if let Submitted::Created { job, .. } = inserted {
        effects.changes.announce(&[job]);
        effects.wakes.audit.call();
        if spec.kind.follows_workers() {
            // What matches may have changed since its workers were chosen.
            effects.wakes.system_jobs.call();
        }
    }
    let told = accepted(&inserted)?;
    let hints = chosen.filter(|_| told.is_new).map_or_else(Vec::new, |chosen| chosen.hints);
    Ok(Accepted { hints, ..told })
}

fn accepted(submitted: &Submitted) -> Result<Accepted, OperationError> {
    match *submitted {
        Submitted::Created { job, .. } => Ok(Accepted { job, is_new: true, hints: Vec::new() }),
        Submitted::Repeated(job) => Ok(Accepted { job, is_new: false, hints: Vec::new() }),
        Submitted::EarlierGone(earlier) => Err(no_job(earlier)),
        Submitted::KeyReused => Err(OperationError::KeyReused),
    }
}

/// What an earlier request with this idempotency key led to; none if there was none. For requests that could not be read any more
/// as they were.
pub(super) async fn find_repeated(
    effects: &Effects,
    actor: &Actor,
    idempotency_key: Option<&str>,
    request: &Value,
) -> Result<Option<Accepted>, OperationError> {
    let Some(key) = idempotency_key else { return Ok(None) };
    let found = effects.writes.idempotency_find(actor.project, key, &request_hash(request)).await?;
    found.as_ref().map(accepted).transpose()
}

/// By which a repeated request is known to be the same.
pub(super) fn request_hash(request: &Value) -> [u8; 32] {
    Sha256::digest(request.to_string()).into()
}

/// A job, for somebody who may do this with it: a key that submits or stops jobs need not read everything else.
///
/// # Errors
/// When there is no such job.
pub async fn get(
    context: &Context,
    actor: &Actor,
    action: Action,
    job: JobId,
) -> Result<Job, OperationError> {
    find(context.permit(actor, action)?, actor, job).await
}

/// A job as in [`get`], with its stored specification.
///
/// # Errors
/// When there is no such job.
pub async fn get_whole(
    context: &Context,
    actor: &Actor,
    action: Action,
    job: JobId,
) -> Result<(Job, Value), OperationError> {
    let effects = context.permit(actor, action)?;
    let (mut found, spec) = read_whole(&effects.writes, actor, job).await?;
    effects.healths.add_availability([&mut found]);
    whole(&effects.writes, found, spec).await
}

/// A job, and its specification unless that is large.
async fn read_whole(
    reads: &ReadStore,
    actor: &Actor,
    job: JobId,
) -> Result<(Job, Option<Value>), OperationError> {
    reads.job_with_spec(actor.project, job).await?.ok_or_else(|| no_job(job))
}

async fn whole(reads: &ReadStore, job: Job, spec: Option<Value>) -> Result<(Job, Value), OperationError> {
    let spec = match spec {
        Some(spec) => spec,
        None => reads.job_specs(&[job.id], 0).await?.pop().unwrap_or_default(),
    };
    Ok((job, spec))
}

/// Waits until a job is in a state, has ended, or the time has passed. Returns the current job with its stored specification.
///
/// # Errors
/// When there is no such job.
pub async fn wait(context: &Context, actor: &Actor, wanted: Wait) -> Result<(Job, Value), OperationError> {
    let views = context.permit_to_look(actor, Action::Look)?;
    let Wait { job, until, at_most } = wanted;
    let deadline = Instant::now() + at_most;
    let mut changes = views.changes.of_job(job);
    let mut rate = LookRate::default();
    loop {
        rate.turn().await;
        changes.mark_unchanged();
        let (mut found, spec) = read_whole(&views.reads, actor, job).await?;
        views.healths.add_availability([&mut found]);
        if until == Some(found.state) || found.is_over() || Instant::now() >= deadline {
            return whole(&views.reads, found, spec).await;
        }
        tokio::select! {
            () = views.shutdown.cancelled() => return whole(&views.reads, found, spec).await,
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// Stops a job, with `force` also the tasks that clean up. The request is committed when this returns.
///
/// # Errors
/// When there is no such job, or it is over.
pub async fn stop(context: &Context, actor: &Actor, job: JobId, force: bool) -> Result<(), OperationError> {
    let mut change = context.change(actor, Action::StopJob, &format!("job {job}")).await?;
    change.after(json!({ "stopped": true, "force": force }));
    let stopped = ask_to_stop(change.effects, actor, job, force).await;
    change.end(stopped).await
}

async fn ask_to_stop(
    effects: &Effects,
    actor: &Actor,
    job: JobId,
    force: bool,
) -> Result<(), OperationError> {
    let wish = StopJob { job, project: actor.project, actor: actor.user.clone(), force };
    match effects.write_batcher.stop(wish).await? {
        StopResult::Stopping => Ok(()),
        StopResult::Over(state) => {
            let detail = format!("job {job} has already ended: {state}");
            Err(OperationError::Conflict { detail, state: state.as_str() })
        }
        StopResult::Busy => {
            Err(OperationError::Busy("another transaction in the database has locked the job"))
        }
        StopResult::Unknown => Err(no_job(job)),
    }
}

/// Deletes a job that has ended. Its tasks and output are deleted afterwards.
///
/// # Errors
/// When there is no such job, or it is not over.
pub async fn delete(context: &Context, actor: &Actor, job: JobId) -> Result<(), OperationError> {
    let change = context.change(actor, Action::DeleteJob, &format!("job {job}")).await?;
    let deleted = delete_ended(change.effects, actor, job).await;
    change.end(deleted).await
}

async fn delete_ended(effects: &Effects, actor: &Actor, job: JobId) -> Result<(), OperationError> {
    match effects.writes.job_delete(actor.project, job, &actor.user).await? {
        Deleted::Yes => {
            effects.wakes.deletion.call();
            effects.changes.announce(&[job]);
            Ok(())
        }
        Deleted::NotOver(state) => {
            let detail = format!("job {job} has not ended: it is {state}; stop it first");
            Err(OperationError::Conflict { detail, state: state.as_str() })
        }
        Deleted::Unknown => Err(no_job(job)),
    }
}

pub(super) async fn find(effects: &Effects, actor: &Actor, job: JobId) -> Result<Job, OperationError> {
    let mut found = effects.writes.job_get(actor.project, job).await?.ok_or_else(|| no_job(job))?;
    effects.healths.add_availability([&mut found]);
    Ok(found)
}
