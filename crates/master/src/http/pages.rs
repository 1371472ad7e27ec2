//! The pages: one file per noun, one struct per page, with a template of the same name.
//!
//! Every page is complete without JavaScript. With it, the page opens one stream of server-sent events and what is on
//! it changes in place: `fields` and `rows` carry the same values that the template showed, by the same names.

mod account;
mod assets;
mod audit;
mod checks;
mod events;
mod fleet;
mod format;
mod frame;
mod job;
mod job_feed;
mod job_graph;
mod job_head;
mod job_tabs;
mod job_timeline;
mod jobs;
mod keys;
mod lines;
mod log;
mod log_search;
mod login;
mod members;
mod new_job;
mod overview;
mod parameter_form;
mod plot;
mod projects;
mod queue;
pub(super) mod reference;
mod registration;
mod retention;
mod rows;
mod secrets;
mod stream;
mod stream_lines;
mod system;
mod task;
mod templates;
mod theme;
mod timeline;
mod users;
mod view;
mod worker;
mod workers;

use std::fmt;

use askama::Template;
use askama::filters::HtmlSafe;
use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use gaffer_protocol::rest::Problem;

use super::error::Error;
use super::{CONTENT_SECURITY_POLICY, Doors};
pub use frame::PageContext;
use frame::{Frame, OutsideOfProjects, sign_in_address};
pub use stream::Feeds;

/// Pages and what their forms send. Each route is served and listed by the same call, so none can be left out of the list.
#[derive(Debug, Default)]
pub struct Pages {
    router: Router<Doors>,
    paths: Vec<&'static str>,
}

impl Pages {
    fn route(mut self, path: &'static str, handlers: MethodRouter<Doors>) -> Pages {
        self.paths.push(path);
        Pages { router: self.router.route(path, handlers), ..self }
    }

    /// The routes.
    pub fn into_router(self) -> Router<Doors> {
        self.router
    }

    /// Their paths.
    pub fn into_paths(self) -> Vec<&'static str> {
        self.paths
    }
}

/// All pages, what they are made of, and what their forms send. Registration is a page only if it is open.
pub fn routes(registration_is_open: bool) -> Pages {
    let pages = match registration_is_open {
        true => Pages::default()
            .route("/register", get(registration::registration_form).post(registration::register)),
        false => Pages::default(),
    };
    pages
        .route("/", get(overview::show))
        .route("/live", get(overview::live))
        .route("/login", get(login::sign_in).post(login::with_password))
        .route("/login/link", post(login::with_link))
        .route("/logout", post(login::sign_out))
        .route("/reset", get(registration::reset_form).post(registration::reset))
        .route("/invitation", get(registration::invitation).post(registration::join))
        .route("/account", get(account::show))
        .route("/account/password", post(account::change_password))
        .route("/account/sessions/end", post(account::end_other_sessions))
        .route("/account/sessions/{session}/end", post(account::end_session))
        .route("/theme", post(theme::set))
        .route("/jobs", get(jobs::list))
        .route("/jobs/live", get(jobs::live))
        .route("/jobs/new", get(new_job::form).post(new_job::submit))
        .route("/jobs/{job}", get(job::show))
        .route("/jobs/{job}/live", get(job_feed::live))
        .route("/jobs/{job}/lines", get(log::lines))
        .route("/jobs/{job}/stop", post(job::stop))
        .route("/jobs/{job}/scale", post(job::scale))
        .route("/jobs/{job}/rollback", post(job::roll_back))
        .route("/jobs/{job}/promote", post(job::promote))
        .route("/jobs/{job}/rerun", post(job::rerun))
        .route("/jobs/{job}/pin", post(job::pin))
        .route("/jobs/{job}/unpin", post(job::unpin))
        .route("/jobs/{job}/delete", post(job::delete))
        .route("/jobs/{job}/tasks/{task}", get(task::show))
        .route("/templates", get(templates::list))
        .route("/templates/{template}", get(templates::show).post(templates::submit))
        .route("/templates/{template}/delete", post(templates::delete))
        .route("/queue", get(queue::show))
        .route("/queue/live", get(queue::live))
        .route("/workers", get(workers::list))
        .route("/workers/live", get(workers::live))
        .route("/workers/new", get(worker::new_form).post(worker::new_key))
        .route("/workers/{worker}", get(worker::show))
        .route("/workers/{worker}/live", get(worker::live))
        .route("/workers/{worker}/drain", post(worker::drain))
        .route("/workers/{worker}/cordon", post(worker::cordon))
        .route("/workers/{worker}/remove", post(worker::remove))
        .route("/workers/{worker}/resume", post(worker::resume))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{key}/rotate", post(keys::rotate))
        .route("/keys/{key}/revoke", post(keys::revoke))
        .route("/members", get(members::list).post(members::set))
        .route("/members/{user}/remove", post(members::remove))
        .route("/members/invitations", post(members::invite))
        .route("/members/invitations/{invitation}/revoke", post(members::revoke))
        .route("/project/rename", post(members::rename))
        .route("/project/delete", post(members::delete))
        .route("/projects", get(projects::list).post(projects::create))
        .route("/join", post(projects::join))
        .route("/users", get(users::list).post(users::create))
        .route("/users/{user}/login-link", post(users::login_link))
        .route("/users/{user}/reset-password", post(users::reset_password))
        .route("/users/{user}/delete", post(users::delete))
        .route("/users/{user}/{verb}", post(users::change))
        .route("/secrets", get(secrets::list).post(secrets::set))
        .route("/secrets/{secret}/delete", post(secrets::delete))
        .route("/system", get(system::show))
        .route("/system/dead-letters/{letter}/retry", post(system::retry))
        .route("/system/dead-letters/{letter}/delete", post(system::delete))
        .route("/retention", get(retention::show))
        .route("/reference", get(reference::show))
        .route("/audit", get(audit::list))
        .route("/events", get(events::list))
        .route("/events/live", get(events::live))
        .route("/static/{name}", get(assets::serve))
        .route("/favicon.ico", get(assets::favicon))
}

/// A page as an answer. No cache keeps a copy: it is for one user, and may show a secret.
fn page(template: &impl Template) -> Result<Response, Error> {
    let mut response = Html(markup(template)?.0).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What a template has made. In another template it stays as it is; nothing else does.
struct Markup(String);

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Markup {}

/// A template with its values.
fn markup(template: &impl Template) -> Result<Markup, Error> {
    let rendered = template.render().map_err(|error| {
        tracing::error!(%error, "cannot render a page");
        Error::Internal
    })?;
    Ok(Markup(rendered))
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    heading: &'a str,
    detail: String,
    problem: &'a Problem,
}

/// A problem as a page with the same status. Signed-out users are redirected to the sign-in page.
pub fn error_page(problem: &Problem, surroundings: PageContext, mut response: Response) -> Response {
    if problem.status == 401 {
        return Redirect::to(&sign_in_address(surroundings.here.as_deref())).into_response();
    }
    let surroundings = match response.extensions_mut().remove::<OutsideOfProjects>() {
        Some(_) => surroundings.outside(),
        None => surroundings,
    };
    let heading = match problem.status {
        404 => "Not found",
        403 => "Not allowed",
        409 => "Conflict",
        400 | 422 => "Invalid request",
        413 => "Request too large",
        429 => "Too many attempts",
        503 => "Temporarily unavailable",
        500.. => "Internal error",
        _ => problem.title.as_str(),
    };
    let template = ErrorPage {
        frame: surroundings.frame(),
        heading,
        detail: format::sentence(&problem.detail),
        problem,
    };
    let Ok(html) = template.render() else { return response };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A request without a route has not passed the layers of the pages.
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    *response.body_mut() = html.into();
    response
}
