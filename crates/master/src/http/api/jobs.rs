//! `/jobs`: submitting, finding, stopping, repeating, deleting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_domain::JobId;
use gaffer_domain::job::JobState;
use gaffer_domain::permissions::Action;
use gaffer_domain::rerun::Part;
use gaffer_domain::spec::{DriverKind, Source, Submission, Unfilled};
use gaffer_protocol::rest::{self, Explanation, Job, RerunRequest, StopRequest};

use super::super::description::{
    Accepted as Ordered, Answer, CURSOR, Description, Done, Header, LIMIT, Listed, Operation,
    OptionalJsonBody, Parameter, SPAN, Schemas, SpecBody, Values,
};
use super::super::error::Error;
use super::super::params::{Params, cursor, id, page_of, wrong};
use super::super::{Site, bodies};
use crate::explain;
use crate::operations::jobs::{self, Accepted, Rerun, Wait};
use crate::operations::sources::{self, JobSource};
use crate::operations::templates::{self, FromTemplate};
use crate::operations::{Actor, Context, OperationError, no_job, workers};
use crate::snapshot;
use crate::store::jobs::JobFilter;
use crate::store::search::MAX_SEARCHED;
use crate::views::Views;

/// Longest time that a request waits for a job.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A page of jobs ends at this many bytes of specifications.
const MAX_SPECS_BYTES: usize = 4 << 20;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// A name of the client's own for a request.
pub(super) const IDEMPOTENCY_KEY: Parameter = Parameter::new(
    "Idempotency-Key",
    Values::Pattern("^[\\x20-\\x7e]{1,255}$", "build-1042"),
    "Name of this request, unique in the project: 1 to 255 printable ASCII characters. A repeated request with the same \
     key gets the job of the first one; another request with the same key gets 422 `idempotency_key_reused`.",
);
/// The states that a list can be narrowed to.
const STATE: Parameter = Parameter::new(
    "state",
    Values::Word(|| JobState::ALL.map(JobState::as_str).to_vec()),
    "Only jobs in this state. Several states: repeat it, or separate them with commas.",
)
.repeatable();

pub const SUBMIT: Operation = Operation {
    description: "The body is at most 1 MiB. It is read by its content type; without one, and as \
        `application/x-www-form-urlencoded` or `text/plain`, it counts as JSON. It is a specification, or an object with the \
        specification in `spec`, or the name of a template in `template`, and values for the parameters in `parameters`. \
        Mistakes are reported all at once, each with a pointer to its field.",
    headers: &[IDEMPOTENCY_KEY],
    errors: &[(
        404,
        "There is no such template or version, or the job of an earlier request with the same idempotency key was deleted.",
    )],
    ..Operation::new("submit_job", "Submit a job", Action::SubmitJob)
};

/// `POST /jobs`
pub async fn submit(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    headers: HeaderMap,
    body: SpecBody,
) -> Result<SubmittedJob, Error> {
    jobs::check_size(body.len())?;
    let sent = body.read()?;
    let submission = Submission::of(&sent).map_err(Error::spec)?;
    let idempotency_key = idempotency_key(&headers)?;
    let (document, pointer, values) = match submission {
        Submission { source: Source::Sent(document, pointer), values } => (document, pointer, values),
        Submission { source: Source::Template(name, version), values } => {
            let wanted = FromTemplate { name, version, values, idempotency_key };
            let accepted = templates::submit(&context, &actor, wanted).await?;
            return answer(&context, &site, &actor, accepted).await;
        }
    };
    let unfilled = Unfilled { pointer: Some(pointer), values, ..Unfilled::new(document) };
    let accepted = jobs::submit_document(&context, &actor, unfilled, idempotency_key).await?;
    answer(&context, &site, &actor, accepted).await
}

pub const RERUN: Operation = Operation {
    description: "The new job has its own number, and the same specification unless the body has another one. With `failed` or \
        `from`, only a part of its tasks runs. The others have completed already: `result_of` says which attempt of an earlier \
        job has their result. Task definitions of the two jobs are matched by name, their tasks by index; tasks that the \
        earlier job does not have run. The body may be empty.",
    headers: &[IDEMPOTENCY_KEY],
    errors: &[
        (404, "The job, or that of an earlier request with the same idempotency key, does not exist."),
        (
            409,
            "The job has not ended; with `failed`, nothing of it failed; with `from` alone, a task that would not run did not \
             complete.",
        ),
        (
            422,
            "The body is invalid, this version cannot read the job's specification, or the idempotency key was used for another \
             request.",
        ),
    ],
    ..Operation::new("rerun_job", "Run a job again", Action::SubmitJob)
};

/// `POST /jobs/{job}/rerun`
pub async fn rerun(
    State(context): State<Arc<Context>>,
    State(site): State<Arc<Site>>,
    actor: Actor,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: OptionalJsonBody<RerunRequest>,
) -> Result<SubmittedJob, Error> {
    // A mistake in the body of a request for a job that there is not says nothing.
    let earlier = jobs::find_ended(&context, &actor, id(&job, "job")?).await?;
    jobs::check_size(body.len())?;
    let RerunRequest { failed, from, spec, parameters } = body.read()?.unwrap_or_default();
    // As they were written.
    let spec = if spec.is_some() { body.member("spec")? } else { None };
    let values = if parameters.is_some() { body.member("parameters")? } else { None };
    let part = (failed || from.is_some()).then_some(Part { failed, from: from.as_deref() });
    let idempotency_key = idempotency_key(&headers)?;
    let wanted = Rerun { earlier, part, spec: spec.as_ref(), values: values.as_ref(), idempotency_key };
    let accepted = jobs::rerun(&context, &actor, wanted).await?;
    answer(&context, &site, &actor, accepted).await
}

pub const SOURCE: Operation = Operation {
    description: "For a job with parameters, its specification before their values were put in. The answer is a body that \
        submits the same job: `parameters` has the values of those with placeholders in it.",
    ..Operation::new("get_job_source", "Get the specification of a job as it was submitted", Action::Look)
};

/// `GET /jobs/{job}/source`
pub async fn source(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<rest::JobSource>, Error> {
    let JobSource { document, parameters } = sources::get(&context, &actor, id(&job, "job")?).await?;
    let parameters = parameters.into_iter().map(|(name, parameter)| (name, parameter.value)).collect();
    Ok(Json(rest::JobSource { spec: (&document).into(), parameters }))
}

/// A job that was accepted, now or by an earlier request of the same name.
#[derive(Debug)]
pub struct SubmittedJob {
    job: Job,
    is_new: bool,
    /// Its page, for people.
    page: String,
}

/// The answer to a submission.
pub(super) async fn answer(
    context: &Context,
    site: &Site,
    actor: &Actor,
    Accepted { job, is_new, hints }: Accepted,
) -> Result<SubmittedJob, Error> {
    let (accepted, spec) = jobs::get_whole(context, actor, Action::SubmitJob, job).await?;
    let page = format!("{}/jobs/{job}", site.public_url);
    let job = Job { hints: bodies::problem_fields(hints), ..bodies::job(accepted, spec) };
    Ok(SubmittedJob { job, is_new, page })
}

impl IntoResponse for SubmittedJob {
    fn into_response(self) -> Response {
        let SubmittedJob { job, is_new, page } = self;
        let location = format!("/api/v1/jobs/{}", job.id);
        let page = format!("<{page}>; rel=\"alternate\"; type=\"text/html\"");
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = (status, Json(job)).into_response();
        for (name, value) in [(header::LOCATION, location), (header::LINK, page)] {
            let value = HeaderValue::from_str(&value).ok();
            response.headers_mut().extend(value.map(|value| (name, value)));
        }
        response
    }
}

impl Answer for SubmittedJob {
    fn describe(description: &mut Description, schemas: &mut Schemas) {
        let headers = [
            Header { name: "Location", description: "Address of the job.", is_always_there: true },
            Header {
                name: "Link",
                description: "Page of the job on the dashboard: `<…>; rel=\"alternate\"; type=\"text/html\"`.",
                is_always_there: true,
            },
        ];
        description.answers_json::<Job>(StatusCode::CREATED, "The new job", &headers, schemas);
        let earlier = "The job of an earlier request with the same idempotency key";
        description.answers_json::<Job>(StatusCode::OK, earlier, &headers, schemas);
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_IDEMPOTENCY_KEY_BYTES);
    text.map(Some).ok_or_else(|| {
        let detail = "expected 1 to 255 printable ASCII characters";
        Error::field("invalid_header", "header:idempotency-key", detail, None)
    })
}

pub const LIST: Operation = Operation {
    description: "Newest first. A page ends when the specifications in it have 4 MiB, and a search without an index looks at \
        15,000 jobs at a time.",
    query: &[
        LIMIT,
        CURSOR,
        STATE,
        Parameter::new(
            "label",
            Values::Pattern("^[^=]+=", "team=vision"),
            "Only jobs with this label: `KEY=VALUE`. Repeatable; all labels have to match.",
        )
        .repeatable(),
        Parameter::new("name", Values::Text, "Only jobs whose name contains this, in any case."),
        Parameter::new(
            "driver",
            Values::Word(|| DriverKind::ALL.iter().map(|driver| driver.as_str()).collect()),
            "Only jobs with a task for this driver.",
        ),
        Parameter::new(
            "worker",
            Values::Text,
            "Only jobs of which a task was ever placed on this worker: its name, or its number, by which one that was \
             removed is found as well.",
        ),
        Parameter::new("spec", Values::Flag, "`1`: with the specification of each job."),
    ],
    ..Operation::new("list_jobs", "List jobs", Action::Look)
};

/// `GET /jobs`
pub async fn list(
    State(views): State<Arc<Views>>,
    actor: Actor,
    params: Params,
) -> Result<Listed<Job>, Error> {
    let limit = params.limit()?;
    let with_specs = params.flag("spec")?;
    let filter = filter(&views, &actor, &params).await?;
    let mut found = views.reads.job_search(actor.project, &filter, limit + 1, MAX_SEARCHED).await?;
    views.healths.add_availability(&mut found.jobs);
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
    Ok(Listed::of(&params, page.map(|job| bodies::job(job, specs.next().unwrap_or_default()))))
}

/// What the query asks for.
pub async fn filter(views: &Views, actor: &Actor, params: &Params) -> Result<JobFilter, Error> {
    let mut filter = JobFilter {
        name: params.text("name").filter(|name| !name.is_empty()).map(|name| name.replace('\0', "")),
        driver: params.text("driver").filter(|driver| !driver.is_empty()).map(str::to_owned),
        before: params.cursor()?.map(JobId),
        ..JobFilter::default()
    };
    if filter.driver.as_deref().is_some_and(|driver| DriverKind::named(driver).is_none()) {
        return Err(wrong("driver", "expected host or docker"));
    }
    for state in params.list("state") {
        let state: JobState =
            state.parse().map_err(|error| wrong("state", &format!("{state:?} is {error}")))?;
        filter.states.push(state);
    }
    filter.labels = labels(params)?;
    if let Some(worker) = params.text("worker").filter(|worker| !worker.is_empty()) {
        filter.worker = Some(match workers::number_ever(views, actor, worker).await {
            Err(OperationError::NotFound(worker)) => {
                return Err(wrong(
                    "worker",
                    &format!("there is no {worker}; a worker that was removed is found by its number"),
                ));
            }
            found => found?,
        });
    }
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

pub const SHOW: Operation = Operation {
    query: &[
        Parameter::new(
            "wait",
            SPAN,
            "How long to wait for the state in `until`, at most 60 s: a duration such as `30s`, or a number of seconds.",
        ),
        Parameter::new(
            "until",
            Values::Word(|| JobState::ALL.map(JobState::as_str).into_iter().chain(["final"]).collect()),
            "The state to wait for; `final`, the default, is any in which the job has ended. A job that has ended is never \
             waited for.",
        ),
    ],
    ..Operation::new("get_job", "Get a job, or wait for it", Action::Look)
};

/// `GET /jobs/{job}`
pub async fn show(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Json<Job>, Error> {
    let job: JobId = id(&job, "job")?;
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
    let (found, spec) = jobs::wait(&context, &actor, wanted).await?;
    Ok(Json(bodies::job(found, spec)))
}

pub const STOP: Operation = Operation {
    description: "Each task gets its stop signal, and is killed when its grace period has passed. Tasks with `when: always` \
        run once the others have ended; `force` stops these, too. The body may be empty.",
    errors: &[(409, "The job has ended.")],
    ..Operation::new("stop_job", "Stop a job", Action::StopJob)
};

/// `POST /jobs/{job}/stop`
pub async fn stop(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
    body: OptionalJsonBody<StopRequest>,
) -> Result<Ordered<Job>, Error> {
    let job: JobId = id(&job, "job")?;
    // A mistake in the body of a request for a job that there is not says nothing.
    jobs::get(&context, &actor, Action::StopJob, job).await?;
    let StopRequest { force } = body.read()?.unwrap_or_default();
    jobs::stop(&context, &actor, job, force).await?;
    let (stopped, spec) = jobs::get_whole(&context, &actor, Action::StopJob, job).await?;
    Ok(Ordered(bodies::job(stopped, spec)))
}

pub const DELETE: Operation = Operation {
    description: "Its tasks, output and history go with it.",
    errors: &[(409, "The job has not ended.")],
    ..Operation::new("delete_job", "Delete a job that has ended", Action::DeleteJob)
};

/// `DELETE /jobs/{job}`
pub async fn delete(
    State(context): State<Arc<Context>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Done, Error> {
    jobs::delete(&context, &actor, id(&job, "job")?).await?;
    Ok(Done)
}

pub const EXPLAIN: Operation = Operation {
    description: "For each definition with waiting tasks: what keeps it from each worker, what would help, and its position \
        in the queue.",
    ..Operation::new("explain_job", "Explain why the tasks of a job wait", Action::Look)
};

/// `GET /jobs/{job}/explain`
pub async fn explain(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
) -> Result<Json<Explanation>, Error> {
    let job: JobId = id(&job, "job")?;
    let explanation = explain::explain(&views, actor.project, job, snapshot::NOW).await?;
    Ok(Json(bodies::explanation(explanation.ok_or_else(|| no_job(job))?)))
}
