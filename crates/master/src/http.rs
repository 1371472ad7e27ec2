//! Everything that listens: all routes are in this file.

mod api;
mod auth;
mod base_path;
mod bodies;
mod error;
mod pages;
mod params;
mod peer;
mod problems;
mod site;
mod worker_door;

pub use pages::Feeds;
pub use site::Site;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::control::Control;
use crate::operations::Context;
use crate::views::Views;
use api::{events, health, jobs, keys, output, queue, schema, system, tasks, workers};
use auth::ListenerKind;
pub use base_path::{AmbiguousBasePath, BasePath};

/// A specification may have a megabyte; as JSON with escapes it may be a little longer.
const MAX_BODY_BYTES: usize = 2 << 20;
/// Scripts and styles come from here only; nothing inline, nothing from elsewhere, no frames.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What handlers share. Each takes the part that it needs: one without the context changes nothing.
#[derive(Debug, Clone, FromRef)]
pub struct Doors {
    /// What operations work with.
    pub context: Arc<Context>,
    /// What anybody looks at.
    pub views: Arc<Views>,
    /// Where this is.
    pub site: Arc<Site>,
    /// What open pages show.
    pub feeds: Arc<Feeds>,
}

/// The REST API, below `/api/v1`.
fn api_v1() -> Router<Doors> {
    Router::new()
        .route("/jobs", get(jobs::list).post(jobs::submit))
        .route("/jobs/{job}", get(jobs::show).delete(jobs::delete))
        .route("/jobs/{job}/stop", post(jobs::stop))
        .route("/jobs/{job}/rerun", post(jobs::rerun))
        .route("/jobs/{job}/explain", get(jobs::explain))
        .route("/jobs/{job}/events", get(events::of_job))
        .route("/jobs/{job}/output", get(output::of_job))
        .route("/jobs/{job}/tasks", get(tasks::list))
        .route("/jobs/{job}/tasks/{task}", get(tasks::show))
        .route("/jobs/{job}/tasks/{task}/signal", post(tasks::signal))
        .route("/jobs/{job}/tasks/{task}/stdin", post(tasks::stdin))
        .route("/jobs/{job}/tasks/{task}/output", get(output::of_task))
        .route("/events", get(events::of_project))
        .route("/queue", get(queue::show))
        .route("/trace", get(queue::trace))
        .route("/workers", get(workers::list))
        .route("/workers/{worker}", get(workers::show).delete(workers::remove))
        .route("/workers/{worker}/samples", get(workers::samples))
        .route("/workers/{worker}/drain", post(workers::drain))
        .route("/workers/{worker}/cordon", post(workers::cordon))
        .route("/workers/{worker}/resume", post(workers::resume))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{key}", delete(keys::revoke))
        .route("/system", get(system::show))
        .route("/dead-letters", get(system::dead_letters))
        .route("/dead-letters/{letter}", delete(system::delete))
        .route("/dead-letters/{letter}/retry", post(system::retry))
        .route("/login-links", post(keys::login_link))
        .route("/schema/job.json", get(schema::job))
        .merge(operations())
}

/// What operators ask, with and without `/api/v1`; no key is needed.
fn operations() -> Router<Doors> {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/version", get(health::version))
}

/// The REST API on an address of its own: keys only, no cookies. As there is nothing else here, its prefix may be left
/// out.
pub fn api_alone(doors: Doors) -> Router {
    let router = Router::new().nest("/api/v1", api_v1()).merge(api_v1()).layer(Extension(ListenerKind::Api));
    finished(router, doors)
}

/// The pages, the REST API at the same origin, and the door for workers: what a proxy with one address needs.
pub fn dashboard(doors: Doors, control: Arc<Control>) -> Router {
    let pages = pages::routes()
        .layer(CompressionLayer::new())
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(CONTENT_SECURITY_POLICY),
        ))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        ));
    let router = Router::new()
        .nest("/api/v1", api_v1())
        .merge(operations())
        .merge(pages)
        .layer(axum::middleware::from_fn_with_state(doors.clone(), auth::same_origin_writes))
        .merge(worker_door::route(doors.clone(), control))
        .layer(Extension(ListenerKind::Dashboard));
    finished(router, doors)
}

/// Where workers dial in.
pub fn workers(doors: Doors, control: Arc<Control>) -> Router {
    let router = Router::new()
        .merge(worker_door::route(doors.clone(), control))
        .merge(operations())
        .layer(Extension(ListenerKind::Api));
    finished(router, doors)
}

/// What a master answers while another one leads.
pub fn standby() -> Router {
    let operations = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::standby))
        .route("/version", get(health::version));
    let router: Router = Router::new().nest("/api/v1", operations.clone()).merge(operations);
    dressed(router.fallback(health::standby))
}

/// What every listener does for every request: a number, a limit, an answer even after a panic or a wrong turn.
fn dressed<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let request_id = HeaderName::from_static("x-request-id");
    router
        .method_not_allowed_fallback(problems::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::new(request_id.clone(), MakeRequestUuid))
                .layer(PropagateRequestIdLayer::new(request_id))
                .layer(SetResponseHeaderLayer::if_not_present(
                    header::X_CONTENT_TYPE_OPTIONS,
                    HeaderValue::from_static("nosniff"),
                ))
                // An answer is for one client and for now.
                .layer(SetResponseHeaderLayer::if_not_present(
                    header::CACHE_CONTROL,
                    HeaderValue::from_static("no-store"),
                ))
                .layer(axum::middleware::from_fn(problems::complete_problems))
                .layer(axum::middleware::from_fn(problems::one_host))
                .layer(CatchPanicLayer::custom(problems::after_panic)),
        )
}

/// A listener's routes with what every listener does, below the base path and without it.
fn finished(router: Router<Doors>, doors: Doors) -> Router {
    base_path::below(
        doors.site.base_path.clone(),
        dressed(router.fallback(problems::no_such_route)).with_state(doors),
    )
}

/// How long a client is told to wait when the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(2);
