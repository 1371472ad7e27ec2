//! Everything that listens: all routes are in this file.

mod api;
mod auth;
mod base_path;
mod bodies;
mod counts;
mod description;
mod endable;
mod error;
mod pages;
pub mod params;
mod peer;
mod problems;
mod read_body;
mod readers;
mod session_cookie;
mod site;
mod worker_door;

pub use pages::Feeds;
pub use site::Site;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::get;
use axum::{Extension, Router};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::control::Control;
use crate::metrics::http::HttpMetrics;
use crate::operations::Context;
use crate::operations::metrics::StandbyMetrics;
use crate::views::Views;
use api::{
    audit, events, health, invitations, jobs, keys, members, metrics, openapi, output, ports, projects,
    queue, retention, scale, schema, secrets, sessions, system, tasks, templates, users, versions, workers,
};
use auth::ListenerKind;
pub use base_path::{AmbiguousBasePath, BasePath};
use description::{Api, Document};

/// Below which the API stands; its routes do not see it.
const API_PREFIX: &str = "/api/v1";
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
fn api_v1() -> Api {
    let api = Api::default()
        .section("Jobs")
        .get("/jobs", &jobs::LIST, jobs::list)
        .post("/jobs", &jobs::SUBMIT, jobs::submit)
        .get("/jobs/{job}", &jobs::SHOW, jobs::show)
        .delete("/jobs/{job}", &jobs::DELETE, jobs::delete)
        .get("/jobs/{job}/source", &jobs::SOURCE, jobs::source)
        .post("/jobs/{job}/stop", &jobs::STOP, jobs::stop)
        .post("/jobs/{job}/scale", &scale::OF_JOB, scale::of_job)
        .post("/jobs/{job}/rerun", &jobs::RERUN, jobs::rerun)
        .post("/jobs/{job}/pin", &retention::PIN, retention::pin)
        .post("/jobs/{job}/unpin", &retention::UNPIN, retention::unpin)
        .get("/jobs/{job}/explain", &jobs::EXPLAIN, jobs::explain)
        .get("/jobs/{job}/events", &events::OF_JOB, events::of_job)
        .get("/jobs/{job}/output", &output::OF_JOB, output::of_job)
        .get("/jobs/{job}/ports", &ports::OF_JOB, ports::of_job)
        .section("Templates")
        .get("/templates", &templates::LIST, templates::list)
        .get("/templates/{template}", &templates::SHOW, templates::show)
        .post("/templates/{template}", &templates::SAVE, templates::save)
        .delete("/templates/{template}", &templates::DELETE, templates::delete)
        .get("/templates/{template}/versions", &templates::VERSIONS, templates::versions)
        .section("Tasks")
        .get("/jobs/{job}/tasks", &tasks::LIST, tasks::list)
        .get("/jobs/{job}/tasks/{task}", &tasks::SHOW, tasks::show)
        .get("/jobs/{job}/tasks/{task}/health", &tasks::HEALTH, tasks::health)
        .post("/jobs/{job}/tasks/{task}/signal", &tasks::SIGNAL, tasks::signal)
        .post("/jobs/{job}/tasks/{task}/stdin", &tasks::STDIN, tasks::stdin)
        .get("/jobs/{job}/tasks/{task}/output", &output::OF_TASK, output::of_task)
        .section("Services")
        .get("/services/{service}", &versions::SHOW, versions::show)
        .post("/services/{service}", &versions::APPLY, versions::apply)
        .post("/services/{service}/diff", &versions::DIFF, versions::diff)
        .get("/jobs/{job}/versions", &versions::LIST, versions::list)
        .post("/jobs/{job}/rollback", &versions::ROLL_BACK, versions::roll_back)
        .post("/jobs/{job}/promote", &versions::PROMOTE, versions::promote)
        .get("/services/{service}/ports", &ports::OF_SERVICE, ports::of_service)
        .post("/services/{service}/scale", &scale::OF_SERVICE, scale::of_service)
        .get("/services/{service}/http-sd", &ports::HTTP_SD, ports::http_sd)
        .get("/services/{service}/traefik", &ports::TRAEFIK, ports::traefik)
        .section("Workers and queue")
        .get("/workers", &workers::LIST, workers::list)
        .get("/workers/{worker}", &workers::SHOW, workers::show)
        .delete("/workers/{worker}", &workers::REMOVE, workers::remove)
        .get("/workers/{worker}/samples", &workers::SAMPLES, workers::samples)
        .post("/workers/{worker}/drain", &workers::DRAIN, workers::drain)
        .post("/workers/{worker}/cordon", &workers::CORDON, workers::cordon)
        .post("/workers/{worker}/resume", &workers::RESUME, workers::resume)
        .get("/queue", &queue::SHOW, queue::show)
        .get("/trace", &queue::TRACE, queue::trace)
        .section("Users and projects")
        .get("/projects", &projects::LIST, projects::list)
        .post("/projects", &projects::CREATE, projects::create)
        .get("/projects/{project}", &projects::SHOW, projects::show)
        .post("/projects/{project}/rename", &projects::RENAME, projects::rename)
        .delete("/projects/{project}", &projects::DELETE, projects::delete)
        .get("/projects/{project}/members", &members::LIST, members::list)
        .post("/projects/{project}/members/{user}", &members::SET, members::set)
        .delete("/projects/{project}/members/{user}", &members::REMOVE, members::remove)
        .get("/users", &users::LIST, users::list)
        .post("/users", &users::CREATE, users::create)
        .delete("/users/{user}", &users::DELETE, users::delete)
        .post("/users/{user}/disable", &users::DISABLE, users::disable)
        .post("/users/{user}/enable", &users::ENABLE, users::enable)
        .post("/users/{user}/grant-admin", &users::GRANT_ADMIN, users::grant_admin)
        .post("/users/{user}/revoke-admin", &users::REVOKE_ADMIN, users::revoke_admin)
        .post("/users/{user}/login-link", &users::LOGIN_LINK, users::login_link)
        .post("/users/{user}/reset-password", &users::RESET_PASSWORD, users::reset_password)
        .get("/invitations", &invitations::LIST, invitations::list)
        .post("/invitations", &invitations::CREATE, invitations::create)
        .delete("/invitations/{invitation}", &invitations::REVOKE, invitations::revoke)
        .get("/sessions", &sessions::LIST, sessions::list)
        .delete("/sessions", &sessions::END_OTHERS, sessions::end_others)
        .delete("/sessions/{session}", &sessions::END, sessions::end)
        .section("Administration")
        .get("/events", &events::OF_PROJECT, events::of_project)
        .get("/audit", &audit::LIST, audit::list)
        .get("/audit/lines", &audit::LINES, audit::lines)
        .get("/keys", &keys::LIST, keys::list)
        .post("/keys", &keys::CREATE, keys::create)
        .delete("/keys/{key}", &keys::REVOKE, keys::revoke)
        .post("/keys/{key}/rotate", &keys::ROTATE, keys::rotate)
        .get("/secrets", &secrets::LIST, secrets::list)
        .put("/secrets/{secret}", &secrets::SET, secrets::set)
        .delete("/secrets/{secret}", &secrets::DELETE, secrets::delete)
        .post("/login-links", &keys::LOGIN_LINK, keys::login_link)
        .get("/system", &system::SHOW, system::show)
        .post("/system/output-store/check", &system::CHECK_OUTPUT_STORE, system::check_output_store)
        .get("/retention", &retention::SHOW, retention::show)
        .get("/dead-letters", &system::LIST_LETTERS, system::dead_letters)
        .post("/dead-letters/{letter}/retry", &system::RETRY_LETTER, system::retry)
        .delete("/dead-letters/{letter}", &system::DELETE_LETTER, system::delete);
    monitoring(operations(api)).get("/schema/job.json", &schema::JOB, schema::job).get(
        "/openapi.json",
        &openapi::SHOW,
        openapi::show,
    )
}

/// What operators ask, with and without `/api/v1`; no key is needed.
fn operations(api: Api) -> Api {
    api.section("Health and description")
        .get("/livez", &health::LIVEZ, health::livez)
        .get("/readyz", &health::READYZ, health::readyz)
        .get("/version", &health::VERSION, health::version)
}

/// What monitoring systems read, with and without `/api/v1`, but not on the port for workers, which is the one that networks
/// are most likely to see.
fn monitoring(api: Api) -> Api {
    api.get("/metrics", &metrics::SHOW, metrics::show)
}

/// What the API says of itself.
static API: LazyLock<Document> = LazyLock::new(|| api_v1().into_document());

/// The description of the API, as OpenAPI: the text of docs/openapi.json.
pub fn openapi() -> serde_json::Value {
    API.to_json(API_PREFIX)
}

/// The paths of all pages and of what their forms send.
pub fn page_paths() -> Vec<&'static str> {
    pages::routes(true).into_paths()
}

/// The REST API on its own address: keys only, no cookies. As there is nothing else here, its prefix may be left
/// out.
pub fn api_alone(doors: Doors) -> Router {
    let router = Router::new()
        .nest(API_PREFIX, api_v1().into_router())
        .merge(api_v1().into_router())
        .layer(Extension(ListenerKind::Api));
    finished(router, doors, "api")
}

/// The pages, the REST API at the same origin, and the door for workers: what a proxy with one address needs.
pub fn dashboard(doors: Doors, control: Arc<Control>) -> Router {
    let pages = pages::routes(doors.site.registration_is_open)
        .into_router()
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
        .nest(API_PREFIX, api_v1().into_router())
        .merge(monitoring(operations(Api::default())).into_router())
        .merge(pages)
        .layer(axum::middleware::from_fn_with_state(doors.clone(), auth::same_origin_writes))
        .merge(worker_door::route(doors.clone(), control))
        .layer(Extension(ListenerKind::Dashboard));
    finished(router, doors, "dashboard")
}

/// Where workers dial in.
pub fn workers(doors: Doors, control: Arc<Control>) -> Router {
    let router = Router::new()
        .merge(worker_door::route(doors.clone(), control))
        .merge(operations(Api::default()).into_router())
        .layer(Extension(ListenerKind::Api));
    finished(router, doors, "workers")
}

/// What a master answers on one of its ports while another one leads. Metrics are where a leader has them.
pub fn standby(metrics: StandbyMetrics, port: &'static str, has_metrics: bool) -> Router {
    let mut operations = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::standby))
        .route("/version", get(health::version));
    if has_metrics {
        operations = operations.route("/metrics", get(metrics::standby));
    }
    let router: Router = Router::new().nest(API_PREFIX, operations.clone()).merge(operations);
    let counts = metrics.metrics.http.clone();
    dressed(router.fallback(health::standby).layer(Extension(metrics)), counts, port)
}

/// What every listener does for every request: a number, a limit, an answer even after a panic or a wrong turn.
fn dressed<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    metrics: HttpMetrics,
    port: &'static str,
) -> Router<S> {
    let request_id = HeaderName::from_static("x-request-id");
    router
        .method_not_allowed_fallback(problems::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(
            ServiceBuilder::new()
                .layer(axum::middleware::from_fn_with_state((metrics, port), counts::count))
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
fn finished(router: Router<Doors>, doors: Doors, port: &'static str) -> Router {
    let metrics = doors.views.exposition.metrics().http.clone();
    let views = doors.views.clone();
    let router = router
        .fallback(problems::no_such_route)
        .layer(axum::middleware::from_fn_with_state(views, readers::end_with_credential));
    let base = doors.site.base_path.clone();
    base_path::below(base, dressed(router, metrics, port).with_state(doors), port == "dashboard")
}

/// How long a client is told to wait when the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(2);
