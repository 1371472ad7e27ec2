//! Turns every error response into a problem with the request id, or into a page, wherever it came from.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gaffer_protocol::rest::Problem;

use super::error::{Error, Unwritten, problem};
use super::pages::{PageContext, error_page};
use super::params::wants;

/// Writes problems with the request's number in them; and makes problems of what the framework refused by itself.
pub async fn complete_problems(request: Request, next: Next) -> Response {
    let id =
        request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let surroundings = wants_page(&request).then(|| PageContext::of_request(&request));
    let mut response = next.run(request).await;
    let status = response.status();
    let known = response.extensions_mut().remove::<Unwritten>();
    let mut problem = match known {
        Some(Unwritten(problem)) => problem,
        None if (status.is_client_error() || status.is_server_error()) && !is_finished(&response) => {
            let (parts, body) = response.into_parts();
            let text = axum::body::to_bytes(body, 4_096).await.unwrap_or_default();
            response = Response::from_parts(parts, Body::empty());
            problem_of_framework(status, &String::from_utf8_lossy(&text))
        }
        None => return response,
    };
    problem.request_id = id;
    if let Some(surroundings) = surroundings {
        return error_page(&problem, surroundings, response);
    }
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    *response.body_mut() = Body::from(body);
    response
}

/// Whether a person is looking: a browser asks for a page, not for the API.
fn wants_page(request: &Request) -> bool {
    !request.uri().path().starts_with("/api/") && wants(request.headers(), "text/html")
}

/// Whether an answer with an error status was written on purpose: a page, a problem, or something else with a type of
/// its own.
fn is_finished(response: &Response) -> bool {
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    !content_type.is_empty() && !content_type.starts_with("text/plain")
}

fn problem_of_framework(status: StatusCode, text: &str) -> Problem {
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        status if status.is_server_error() => "internal",
        _ => "bad_request",
    };
    let detail = match text.trim() {
        "" => status.canonical_reason().unwrap_or("the request failed"),
        text => text,
    };
    problem(status, code, detail)
}

/// Refuses requests without a host, or with two: proxies and servers may disagree on what those mean.
pub async fn one_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let detail = "a request needs exactly one Host header".to_owned();
        return Error::Invalid { code: "invalid_host", detail, errors: Vec::new() }.into_response();
    }
    next.run(request).await
}

/// The answer to a request for what does not exist.
pub async fn no_such_route(request: Request) -> Error {
    Error::NotFound(format!("page or resource at {}", request.uri().path()))
}

/// The answer to a method that a route does not have.
pub async fn no_such_method() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "this resource has no such method").into_response()
}

/// The answer after a panic, which is in the log.
pub fn after_panic(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    Error::Internal.into_response()
}
