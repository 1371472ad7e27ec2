//! Errors of API and pages, mapped to RFC 9457 problems. Internal details are not shown.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gaffer_domain::spec::FieldError;
use gaffer_protocol::rest::{Problem, ProblemField};

use super::{RETRY_AFTER, bodies};
use crate::operations::OperationError;
use crate::operations::sign_in::Refused;
use crate::store::StoreError;

/// What goes wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid credentials.
    #[error("{0}")]
    Unauthorized(&'static str, String),
    /// It is known who asks, and they may not.
    #[error("{0}")]
    Forbidden(String),
    /// Their key was not made for this.
    #[error("{0}")]
    ScopeMissing(String),
    /// Not found, or in another project.
    #[error("no {0}")]
    NotFound(String),
    /// The request is invalid.
    #[error("{detail}")]
    Invalid {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        detail: String,
        errors: Vec<ProblemField>,
    },
    /// The request is understood and its content is wrong.
    #[error("{detail}")]
    Unprocessable {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        detail: String,
        errors: Vec<ProblemField>,
    },
    /// It can't be done in the present state.
    #[error("{detail}")]
    Conflict {
        /// For people.
        detail: String,
        state: &'static str,
    },
    /// Too many unknown keys or links from this address; holds the wait until the next try.
    #[error("too many unknown keys or sign-in links from this address; try again in {} s", seconds(*.0))]
    TooManyAttempts(Duration),
    /// The wanted range lies outside.
    #[error("the output has {0} bytes")]
    OutOfRange(u64),
    /// The database is away; the same request may work in a moment.
    #[error("the database is unavailable or too busy; try again in a moment")]
    Unavailable,
    /// The database needs longer for the answer than anybody waits.
    #[error("the database query timed out; request less, or try again later")]
    TooSlow,
    /// A lock or too much load; the same request may succeed in a moment.
    #[error("{0}; try again in a moment")]
    Busy(&'static str),
    /// The database answers, but accepts nothing.
    #[error("the database refuses writes since {}; see the page System or `gaffer system`", .0.format("%Y-%m-%d %H:%M:%S UTC"))]
    NotReady(gaffer_domain::Time),
    /// The object storage with the output is away, or misconfigured.
    #[error("{0}")]
    OutputUnavailable(String),
    /// An object with output is missing or damaged.
    #[error("{0}")]
    OutputLost(String),
    /// There is no master key for secrets, or not the right one.
    #[error("{0}")]
    SecretsUnavailable(String),
    /// The master is going down.
    #[error("the master is shutting down; try again in a moment")]
    ShuttingDown,
    /// Another master leads.
    #[error("this master is a standby: another one leads; try again in a moment, or use that one")]
    Standby,
    /// Something that must not happen has happened; it is in the log.
    #[error("internal error; see the master's log")]
    Internal,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(error) => {
                tracing::warn!(%error, "a request failed: the database is unavailable");
                Error::Unavailable
            }
            StoreError::NotLeader => Error::ShuttingDown,
            StoreError::ObjectsUnavailable { told, cause } => {
                tracing::warn!(%cause, "a request failed: {told}");
                Error::OutputUnavailable(told)
            }
            StoreError::ProjectGone => Error::NotFound("project".to_owned()),
            StoreError::ObjectLost(problem) => {
                tracing::error!(%problem, "a request failed: output is lost");
                Error::OutputLost(problem)
            }
            StoreError::TooSlow(error) => {
                tracing::warn!(%error, "a request failed: the database query timed out");
                Error::TooSlow
            }
            StoreError::Locked(error) => {
                tracing::warn!(%error, "a request failed: another transaction holds a lock");
                Error::Busy("another transaction in the database holds a lock")
            }
            StoreError::Refused(error) if is_about_a_value(&error) => Error::Invalid {
                code: "invalid_value",
                detail: "the database rejects a value of the request".to_owned(),
                errors: Vec::new(),
            },
            error => {
                tracing::error!(%error, "a request failed");
                Error::Internal
            }
        }
    }
}

/// SQLSTATE class 22, data exception: such as a NUL in a text, or a number out of range.
fn is_about_a_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("22"))
}

impl From<OperationError> for Error {
    fn from(error: OperationError) -> Self {
        let detail = error.to_string();
        match error {
            OperationError::NotAllowed { .. } => Error::Forbidden(detail),
            OperationError::ScopeMissing { .. } | OperationError::MoreThanOwn { .. } => {
                Error::ScopeMissing(detail)
            }
            OperationError::NotFound(what) => Error::NotFound(what),
            OperationError::Invalid { code, detail, field } => {
                let field = field.map(|field| ProblemField {
                    pointer: field.to_owned(),
                    detail: detail.clone(),
                    suggestion: None,
                });
                Error::Unprocessable { code, detail, errors: field.into_iter().collect() }
            }
            OperationError::InvalidSpec(mistakes) => Error::spec(mistakes),
            OperationError::KeyReused => {
                Error::Unprocessable { code: "idempotency_key_reused", detail, errors: Vec::new() }
            }
            OperationError::Conflict { detail, state } => Error::Conflict { detail, state },
            OperationError::SecretsUnavailable(detail) => Error::SecretsUnavailable(detail),
            OperationError::Busy(what) => Error::Busy(what),
            OperationError::ShuttingDown(_) => Error::ShuttingDown,
            OperationError::Store(error) => error.into(),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unauthorized { code, detail } => Error::Unauthorized(code, detail.to_owned()),
            Refused::TooMany(wait) => Error::TooManyAttempts(wait),
            Refused::Store(error) => error.into(),
        }
    }
}

impl Error {
    /// A malformed request, with one field at fault.
    pub fn field(
        code: &'static str,
        pointer: impl Into<String>,
        detail: impl Into<String>,
        suggestion: Option<String>,
    ) -> Error {
        let detail = detail.into();
        let field = ProblemField { pointer: pointer.into(), detail: detail.clone(), suggestion };
        Error::Invalid { code, detail, errors: vec![field] }
    }

    pub fn spec(errors: Vec<FieldError>) -> Error {
        let detail = match errors.as_slice() {
            [one] => format!("invalid job specification: {one}"),
            several => format!("invalid job specification: {} errors", several.len()),
        };
        Error::Unprocessable { code: "invalid_spec", detail, errors: bodies::problem_fields(errors) }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Error::Unauthorized(..) => StatusCode::UNAUTHORIZED,
            Error::Forbidden(_) | Error::ScopeMissing(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Unprocessable { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Conflict { .. } => StatusCode::CONFLICT,
            Error::TooManyAttempts(_) => StatusCode::TOO_MANY_REQUESTS,
            Error::OutOfRange(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Error::Unavailable
            | Error::TooSlow
            | Error::Busy(_)
            | Error::NotReady(_)
            | Error::OutputUnavailable(_)
            | Error::SecretsUnavailable(_)
            | Error::ShuttingDown
            | Error::Standby => StatusCode::SERVICE_UNAVAILABLE,
            Error::OutputLost(_) | Error::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Error::Unauthorized(code, _) => code,
            Error::Forbidden(_) => "forbidden",
            Error::ScopeMissing(_) => "scope_missing",
            Error::NotFound(_) => "not_found",
            Error::Invalid { code, .. } | Error::Unprocessable { code, .. } => code,
            Error::Conflict { .. } => "conflict",
            Error::TooManyAttempts(_) => "too_many_attempts",
            Error::OutOfRange(_) => "out_of_range",
            Error::Unavailable => "database_unavailable",
            Error::TooSlow => "database_too_slow",
            Error::Busy(_) => "busy",
            Error::NotReady(_) => "not_ready",
            Error::OutputUnavailable(_) => "output_unavailable",
            Error::OutputLost(_) => "output_lost",
            Error::SecretsUnavailable(_) => "secrets_unavailable",
            Error::ShuttingDown => "shutting_down",
            Error::Standby => "standby",
            Error::Internal => "internal",
        }
    }

    fn into_problem(self) -> Problem {
        let status = self.status();
        let mut problem = problem(status, self.code(), &self.to_string());
        match self {
            Error::Unauthorized(_, detail) => problem.detail = detail,
            Error::Invalid { errors, .. } | Error::Unprocessable { errors, .. } => problem.errors = errors,
            Error::Conflict { state, .. } => problem.state = Some(state.to_owned()),
            _ => {}
        }
        problem
    }
}

/// Whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

pub fn problem(status: StatusCode, code: &str, detail: &str) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        code: code.to_owned(),
        detail: detail.to_owned(),
        request_id: String::new(),
        state: None,
        errors: Vec::new(),
    }
}

/// A problem on its way out: [`super::problems`] writes it, once the request's number is known.
#[derive(Debug, Clone)]
pub struct Unwritten(pub Problem);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        match &self {
            Error::Unauthorized(..) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"gaffer\""));
            }
            Error::Unavailable
            | Error::TooSlow
            | Error::Busy(_)
            | Error::NotReady(_)
            | Error::OutputUnavailable(_)
            | Error::SecretsUnavailable(_)
            | Error::ShuttingDown
            | Error::Standby => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
            }
            Error::TooManyAttempts(wait) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(*wait)));
            }
            Error::OutOfRange(bytes) => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{bytes}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            _ => {}
        }
        response.extensions_mut().insert(Unwritten(self.into_problem()));
        response
    }
}
