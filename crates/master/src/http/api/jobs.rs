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
use gaffer_domain::spec::JobSpec;
use gaffer_protocol::rest::{Explanation, Job};

use super::super::error::Error;
use super::super::params::{Params, cursor, id, page_of, wrong};
use super::super::{Site, bodies};
use super::body_document;
use crate::explain;
use crate::operations::jobs::{self, Accepted, Rerun, Submit, Wait};
use crate::operations::{Actor, Context};
use crate::snapshot;
use crate::store::jobs::JobFilter;
use crate::store::search::MAX_SEARCHED;
use crate::views::Views;

/// Longest time that a request waits for a job.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A page of jobs ends at this many bytes of specifications.
const MAX_SPECS_BYTES: usize = 4 << 20;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// `POST /jobs`
pub async fn submit(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    jobs::check_size(body.len())?;
    let spec = JobSpec::of(&body_document(&headers, &body)?).map_err(Error::spec)?;
    let wanted = Submit { spec: &spec, idempotency_key: idempotency_key(&headers)? };
    let accepted = jobs::submit(&context, &actor, wanted).await?;
    answer(&context, &site, &actor, accepted).await
}

/// `POST /jobs/{job}/rerun`: a new job of the same specification.
pub async fn rerun(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(job): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wanted = Rerun { job: id(&job, "job")?, idempotency_key: idempotency_key(&headers)? };
    let accepted = jobs::rerun(&context, &actor, wanted).await?;
    answer(&context, &site, &actor, accepted).await
}

async fn answer(
    context: &Context,
    site: &Site,
    actor: &Actor,
    Accepted { job, is_new }: Accepted,
) -> Result<Response, Error> {
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let (accepted, spec) = jobs::get_whole(context, actor, job).await?;
    let mut response = (status, Json(bodies::job(accepted, spec))).into_response();
    let location = HeaderValue::from_str(&format!("/api/v1/jobs/{job}")).ok();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    // The page of the job, for people.
    let page = format!("<{}/jobs/{job}>; rel=\"alternate\"; type=\"text/html\"", site.public_url);
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
pub async fn list(State(views): State<Arc<Views>>, actor: Actor, params: Params) -> Result<Response, Error> {
    let params = params.only(&["limit", "cursor", "name", "driver", "spec"], &["state", "label"])?;
    let limit = params.limit()?;
    let with_specs = params.text("spec").is_none() || params.flag("spec")?;
    let filter = filter(&params)?;
    let found = views.reads.job_search(actor.project, &filter, limit + 1, MAX_SEARCHED).await?;
    let mut page = page_of(found.jobs, limit, |job| job.id.0);
    page.next_cursor = page.next_cursor.or(found.searched_to.map(|job| cursor(job.0)));
    let mut specs = Vec::new();
    if with_specs {
        let listed: Vec<JobId> = page.items.iter().map(|job| job.id).collect();
        specs = views.reads.job_specs(&listed, MAX_SPECS_BYTES).await?;
        // The page is full sooner if the specifications are large.
        if let Some(last) = specs.len().checked_sub(1).filter(|_| specs.len() < listed.len()) {
            page.next_cursor = Some(cursor(listed[last].0));
            page.items.truncate(specs.len());
        }
    }
    let mut specs = specs.into_iter();
    Ok(params.answer(&page.map(|job| bodies::job(job, specs.next().unwrap_or_default()))))
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

/// `GET /jobs/{job}`: with `wait=60s&until=final`, responds when the job is final or the time has passed.
pub async fn show(
    State(context): State<Arc<Context>>,
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Json<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    let params = params.only(&["wait", "until"], &[])?;
    let wait = params.span("wait", MAX_WAIT)?;
    let until = match params.text("until") {
        None | Some("final") => None,
        Some(state) => Some(
            state
                .parse::<JobState>()
                .map_err(|error| wrong("until", &format!("{state:?} is {error}, nor `final`")))?,
        ),
    };
    let wanted = Wait { job, until, at_most: wait.unwrap_or_default() };
    let found = jobs::wait(&context, &actor, wanted).await?;
    let spec = views.reads.job_specs(&[job], 0).await?.pop().unwrap_or_default();
    Ok(Json(bodies::job(found, spec)))
}

/// `POST /jobs/{job}/stop`
pub async fn stop(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<(StatusCode, Json<Job>), Error> {
    let job: JobId = id(&job, "job")?;
    jobs::stop(&context, &actor, job).await?;
    let (stopped, spec) = jobs::get_whole(&context, &actor, job).await?;
    Ok((StatusCode::ACCEPTED, Json(bodies::job(stopped, spec))))
}

/// `DELETE /jobs/{job}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<StatusCode, Error> {
    jobs::delete(&context, &actor, id(&job, "job")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /jobs/{job}/explain`
pub async fn explain(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<Explanation>, Error> {
    let job: JobId = id(&job, "job")?;
    let explanation = explain::explain(&views, actor.project, job, snapshot::NOW).await?;
    Ok(Json(bodies::explanation(explanation.ok_or_else(|| jobs::no_job(job))?)))
}
