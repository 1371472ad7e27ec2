//! `/jobs`: submitting, finding, stopping, repeating, deleting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::spec::{JobSpec, MAX_SPEC_BYTES};
use gaffer_protocol::rest::{Explanation, Job, Page};
use tokio::time::Instant;

use super::super::auth::Principal;
use super::super::error::Error;
use super::super::params::{Params, cursor, id, page_of, wrong};
use super::body_document;
use super::tasks::own_job;
use crate::Master;
use crate::look_rate::LookRate;
use crate::snapshot;
use crate::store::ReadStore;
use crate::store::deletion::Deleted;
use crate::store::jobs::{JobFilter, Submitted};
use crate::store::search::MAX_SEARCHED;
use crate::store::specs::StoredSpec;
use crate::store::transitions::{StopJob, StopResult};
use crate::submit::Submission;

/// Longest time that a request waits for a job.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A page of jobs ends when their specifications have so many bytes.
const MAX_SPECS_BYTES: usize = 4 << 20;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// `POST /jobs`
pub async fn submit(
    State(master): State<Arc<Master>>,
    caller: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    if body.len() > MAX_SPEC_BYTES {
        return Err(Error::Unprocessable {
            code: "too_large",
            detail: format!(
                "a job specification may have {MAX_SPEC_BYTES} bytes, this one has {}",
                body.len()
            ),
            errors: Vec::new(),
        });
    }
    let spec = JobSpec::of(&body_document(&headers, &body)?).map_err(Error::spec)?;
    accept(&master, &caller, &headers, &spec, None).await
}

/// `POST /jobs/{job}/rerun`: a new job of the same specification.
pub async fn rerun(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let job = own_job(&master.writes, &caller, &job).await?;
    let view = find(&master.writes, &caller, job).await?;
    if view.finished_at.is_none() {
        return Err(Error::Conflict {
            detail: format!("job {job} is not over yet: it is {}", view.state),
            state: view.state,
        });
    }
    let spec = again(&master, job).await?;
    let spec = spec.readable().map_err(|problem| unreadable(job, problem))?;
    accept(&master, &caller, &headers, spec, Some(job)).await
}

/// The specification of a job that is to be repeated.
pub async fn again(master: &Master, job: JobId) -> Result<StoredSpec, Error> {
    master.writes.spec(job).await?.ok_or_else(|| Error::NotFound(format!("job {job}")))
}

/// A job cannot be repeated because nobody knows what it was to do.
pub fn unreadable(job: JobId, problem: &str) -> Error {
    Error::Unprocessable {
        code: "unreadable_job",
        detail: format!("job {job} can't be repeated: {problem}; submit it anew"),
        errors: Vec::new(),
    }
}

async fn accept(
    master: &Master,
    caller: &Principal,
    headers: &HeaderMap,
    spec: &JobSpec,
    rerun_of: Option<JobId>,
) -> Result<Response, Error> {
    let idempotency_key = idempotency_key(headers)?;
    let submission =
        Submission { project: caller.project, user: &caller.user, spec, rerun_of, idempotency_key };
    let (status, job) = match master.submit(submission).await? {
        Submitted::Created(job) => (StatusCode::CREATED, job),
        Submitted::Repeated(job) => (StatusCode::OK, job),
        Submitted::KeyReused => {
            return Err(Error::Unprocessable {
                code: "idempotency_key_reused",
                detail: "this Idempotency-Key was used for another request".to_owned(),
                errors: Vec::new(),
            });
        }
    };
    // It is accepted: who only looks must not be able to make the answer to that an error.
    let view = find(&master.writes, caller, job).await?;
    let location = HeaderValue::from_str(&format!("/api/v1/jobs/{job}")).ok();
    let mut response = (status, Json(view)).into_response();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    // The page of the job, for people.
    let page = format!("<{}/jobs/{job}>; rel=\"alternate\"; type=\"text/html\"", master.public_url);
    let page = HeaderValue::from_str(&page).ok();
    response.headers_mut().extend(page.map(|page| (header::LINK, page)));
    Ok(response)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_IDEMPOTENCY_KEY_BYTES);
    text.map(Some).ok_or_else(|| {
        let detail = "expected 1 to 255 printable ASCII characters";
        Error::field("invalid_header", "header:idempotency-key", detail, None)
    })
}

/// `GET /jobs`
pub async fn list(
    State(master): State<Arc<Master>>,
    caller: Principal,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "name", "driver", "spec"], &["state", "label"])?;
    let limit = params.limit()?;
    let with_specs = params.text("spec").is_none() || params.flag("spec")?;
    let filter = filter(&params)?;
    let found = master.reads.job_search(caller.project, &filter, limit + 1, MAX_SEARCHED).await?;
    let mut page: Page<Job> = page_of(found.jobs, limit, |job| job.id.0);
    page.next_cursor = page.next_cursor.or(found.searched_to.map(|job| cursor(job.0)));
    if with_specs {
        let listed = page.items.len();
        master.reads.job_specs_add(&mut page.items, MAX_SPECS_BYTES).await?;
        // The page is full sooner if the specifications are large.
        if let Some(last) = page.items.last().filter(|_| page.items.len() < listed) {
            page.next_cursor = Some(cursor(last.id.0));
        }
    }
    Ok(params.answer(&page))
}

/// What the query asks for.
pub fn filter(params: &Params) -> Result<JobFilter, Error> {
    let mut filter = JobFilter {
        name: params.text("name").filter(|name| !name.is_empty()).map(|name| name.replace('\0', "")),
        driver: params.text("driver").filter(|driver| !driver.is_empty()).map(str::to_owned),
        before: params.cursor()?.map(JobId),
        ..JobFilter::default()
    };
    if filter.driver.as_deref().is_some_and(|driver| !["host", "docker", "scripted"].contains(&driver)) {
        return Err(wrong("driver", "expected host or docker"));
    }
    for state in params.list("state") {
        let state: JobState =
            state.parse().map_err(|error| wrong("state", &format!("{state:?} is {error}")))?;
        filter.states.push(state);
    }
    filter.labels = labels(params)?;
    Ok(filter)
}

fn labels(params: &Params) -> Result<BTreeMap<String, String>, Error> {
    let mut labels = BTreeMap::new();
    for label in params.all("label").filter(|label| !label.is_empty()) {
        match label.split_once('=') {
            Some((key, value)) if !label.contains('\0') => labels.insert(key.to_owned(), value.to_owned()),
            _ => return Err(wrong("label", &format!("expected key=value, found {label:?}"))),
        };
    }
    Ok(labels)
}

/// `GET /jobs/{job}`: with `wait=60s&until=final`, answers when the job is over or the time is.
pub async fn show(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
    params: Params,
) -> Result<Json<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    let params = params.only(&["wait", "until"], &[])?;
    let wait = params.span("wait", MAX_WAIT)?;
    let wanted = match params.text("until") {
        None | Some("final") => None,
        Some(state) => Some(
            state
                .parse::<JobState>()
                .map_err(|error| wrong("until", &format!("{state:?} is {error}, nor `final`")))?,
        ),
    };
    let deadline = Instant::now() + wait.unwrap_or_default();
    let mut changes = master.changes.of_job(job);
    let mut rate = LookRate::default();
    loop {
        rate.turn().await;
        changes.mark_unchanged();
        let view = find(&master.reads, &caller, job).await?;
        let reached =
            wanted.is_some_and(|wanted| wanted.as_str() == view.state) || view.finished_at.is_some();
        if wait.is_none() || reached || Instant::now() >= deadline {
            return Ok(Json(view));
        }
        tokio::select! {
            () = master.shutdown.cancelled() => return Ok(Json(view)),
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// One job of the caller's project.
pub async fn find(reads: &ReadStore, caller: &Principal, job: JobId) -> Result<Job, Error> {
    let found = reads.job_get(caller.project, job).await?;
    found.ok_or_else(|| Error::NotFound(format!("job {job}")))
}

/// The same without its specification.
pub async fn find_short(reads: &ReadStore, caller: &Principal, job: JobId) -> Result<Job, Error> {
    let found = reads.jobs_by_id(caller.project, &[job]).await?.pop();
    found.ok_or_else(|| Error::NotFound(format!("job {job}")))
}

/// `POST /jobs/{job}/stop`
pub async fn stop(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
) -> Result<(StatusCode, Json<Job>), Error> {
    let job: JobId = id(&job, "job")?;
    Ok((StatusCode::ACCEPTED, Json(stop_job(&master, &caller, job).await?)))
}

/// Stops a job of the caller's project.
pub async fn stop_job(master: &Master, caller: &Principal, job: JobId) -> Result<Job, Error> {
    let wish = StopJob { job, project: caller.project, actor: caller.user.clone() };
    match master.write_batcher.stop(wish).await? {
        StopResult::Stopping => find(&master.writes, caller, job).await,
        StopResult::Over(state) => {
            let detail = format!("job {job} is over: it is {state}");
            Err(Error::Conflict { detail, state: state.to_string() })
        }
        StopResult::Busy => Err(Error::Busy("another transaction in the database holds the job")),
        StopResult::Unknown => Err(Error::NotFound(format!("job {job}"))),
    }
}

/// `DELETE /jobs/{job}`
pub async fn delete(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
) -> Result<StatusCode, Error> {
    let job: JobId = id(&job, "job")?;
    delete_job(&master, &caller, job).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a job of the caller's project that is over.
pub async fn delete_job(master: &Master, caller: &Principal, job: JobId) -> Result<(), Error> {
    match master.writes.job_delete(caller.project, job, &caller.user).await? {
        Deleted::Yes => {
            master.wakes.deletion.call();
            master.changes.announce(&[job]);
            Ok(())
        }
        Deleted::NotOver(state) => {
            let detail = format!("job {job} is not over yet: it is {state}; stop it first");
            Err(Error::Conflict { detail, state: state.to_string() })
        }
        Deleted::Unknown => Err(Error::NotFound(format!("job {job}"))),
    }
}

/// `GET /jobs/{job}/explain`
pub async fn explain(
    State(master): State<Arc<Master>>,
    caller: Principal,
    Path(job): Path<String>,
) -> Result<Json<Explanation>, Error> {
    let job: JobId = id(&job, "job")?;
    let explanation = crate::explain::explain(&master, caller.project, job, snapshot::NOW).await?;
    explanation.map(Json).ok_or_else(|| Error::NotFound(format!("job {job}")))
}
