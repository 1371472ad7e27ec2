//! The frame of all pages: user, theme, navigation, assets.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use gaffer_domain::permissions::{Action, Standing};

use super::super::Doors;
use super::super::auth;
use super::super::base_path::BasePath;
use super::super::error::Error;
use super::super::params::{encoded, wants};
use super::super::peer::Peer;
use super::super::readers;
use super::assets;
use super::format::local_path;
use super::theme::Theme;
use crate::operations::Actor;
use crate::operations::sign_in::{Visit, Visitor};

/// The places in the top bar, by address and name.
pub const SECTIONS: [(&str, &str); 9] = [
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/templates", "Templates"),
    ("/queue", "Queue"),
    ("/workers", "Workers"),
    ("/secrets", "Secrets"),
    ("/keys", "Keys"),
    ("/events", "History"),
    ("/members", "Members"),
];

/// What the layout of every page needs.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The signed-in user; none on public pages.
    pub user: Option<Arc<str>>,
    /// What they are in the project; nobody on public pages.
    pub standing: Option<Standing>,
    /// Name of the project; empty on public pages.
    pub project: Arc<str>,
    /// Names of the projects that they can go to.
    pub projects: Arc<[String]>,
    /// What the user prefers to look at.
    pub theme: Theme,
    /// Goes before every address of this site.
    pub base: BasePath,
    /// The address of this page, to come back to, without the base path.
    pub here: String,
    /// Which of [`SECTIONS`] it belongs to, by address.
    pub section: &'static str,
    /// The present time in milliseconds since 1970.
    pub now: i64,
    /// The database refuses writes: every page shows it.
    pub has_trouble: bool,
}

impl Frame {
    /// The address of an asset, which changes with its content.
    pub fn asset(&self, name: &str) -> String {
        format!("{}{}", self.base.site(), assets::address(name))
    }

    /// What goes before the addresses of another project.
    pub fn base_of(&self, project: &str) -> BasePath {
        self.base.in_project(project)
    }

    /// Whether the page is about this project.
    pub fn is_about(&self, project: &str) -> bool {
        *self.project == *project
    }

    /// Whether the session leads to this project.
    pub fn leads_to(&self, project: &str) -> bool {
        self.projects.iter().any(|name| name == project)
    }

    /// Whether the user may do that here: pages show no button that would be refused.
    pub fn may(&self, action: Action) -> bool {
        self.standing.is_some_and(|standing| standing.may(action))
    }

    /// Whether the user may run and stop jobs and direct workers here.
    pub fn operates(&self) -> bool {
        self.may(Action::StopJob)
    }

    /// Whether the user may let workers connect.
    pub fn adds_workers(&self) -> bool {
        self.may(Action::ManageProjectKeys)
    }

    /// Whether the user may let workers take tasks of other projects.
    pub fn shares_workers(&self) -> bool {
        self.may(Action::ShareWorkers)
    }

    /// Whether the user may set and delete secrets.
    pub fn sets_secrets(&self) -> bool {
        self.may(Action::SetSecret)
    }

    /// Whether the user may see what belongs to this one of [`SECTIONS`].
    pub fn shows(&self, section: &str) -> bool {
        section != "/secrets" || self.may(Action::ListSecrets)
    }

    /// Whether the user manages the users of the installation.
    pub fn manages_users(&self) -> bool {
        self.may(Action::ListUsers)
    }

    /// Whether the page belongs to this one of [`SECTIONS`].
    pub fn is_in(&self, section: &str) -> bool {
        self.section == section
    }

    /// The version of this program.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// The session of a signed-in browser.
#[derive(Debug, Clone)]
pub struct SessionUser {
    pub actor: Actor,
    project: Arc<str>,
    projects: Arc<[String]>,
    surroundings: PageContext,
    has_trouble: bool,
}

impl SessionUser {
    /// Name of the project that the page is about.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The frame for a page of one section.
    pub fn frame(&self, section: &'static str) -> Frame {
        let user = Some(self.actor.user.clone());
        Frame {
            user,
            section,
            standing: Some(self.actor.standing),
            project: self.project.clone(),
            projects: self.projects.clone(),
            has_trouble: self.has_trouble,
            ..self.surroundings.clone().frame()
        }
    }
}

impl FromRequestParts<Doors> for SessionUser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<SessionUser, Response> {
        let surroundings = PageContext::of(parts);
        let wanted = auth::wanted(&parts.extensions, &parts.uri);
        match auth::signed_in(doors, &parts.headers, &Peer::of(&parts.extensions), wanted).await {
            // Addresses without a project are those of notes, of commands and of earlier versions.
            Ok(Visit::Member(Visitor { project, .. }))
                if surroundings.base.project().is_none()
                    && surroundings.here.is_some()
                    && wants(&parts.headers, "text/html") =>
            {
                let here = surroundings.here.unwrap_or_default();
                Err(Redirect::to(&format!("/projects/{project}{here}")).into_response())
            }
            Ok(Visit::Member(Visitor { actor, project, projects })) => {
                let has_trouble = doors.views.status.troubles.database().is_some();
                // Who may not even look gets no further.
                match actor.must_be_allowed(Action::Look) {
                    Ok(()) => {
                        readers::note(&parts.extensions, &actor);
                        Ok(SessionUser { actor, project, projects, surroundings, has_trouble })
                    }
                    Err(error) => Err(Error::from(error).into_response()),
                }
            }
            Ok(Visit::Stranger) => {
                let mut response = auth::no_such_project(&parts.extensions).into_response();
                response.extensions_mut().insert(OutsideOfProjects);
                Err(response)
            }
            Ok(Visit::Nobody) if wants(&parts.headers, "text/html") => {
                Err(Redirect::to(&sign_in_address(surroundings.here.as_deref())).into_response())
            }
            Ok(Visit::Nobody) => {
                Err(Error::Unauthorized("not_signed_in", "sign in first".to_owned()).into_response())
            }
            Err(error) => Err(error.into_response()),
        }
    }
}

/// The sign-in page, with the page to return to.
pub fn sign_in_address(next: Option<&str>) -> String {
    match next.and_then(local_path).filter(|next| *next != "/") {
        Some(next) => format!("/login?next={}", encoded(next)),
        None => "/login".to_owned(),
    }
}

/// Of an error about the project of the address: links lead elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct OutsideOfProjects;

/// Parts of a request that affect how its response looks.
#[derive(Debug, Clone, Default)]
pub struct PageContext {
    theme: Theme,
    base: BasePath,
    /// The page that was asked for; none if the request was to change something.
    pub here: Option<String>,
}

impl PageContext {
    fn of(parts: &Parts) -> PageContext {
        PageContext::from(&parts.method, &parts.uri, &parts.headers, &parts.extensions)
    }

    /// Keeps parts of a request for an error page that is written after the request is gone.
    pub fn of_request(request: &Request) -> PageContext {
        PageContext::from(request.method(), request.uri(), request.headers(), request.extensions())
    }

    fn from(method: &Method, uri: &Uri, headers: &HeaderMap, extensions: &Extensions) -> PageContext {
        let address = uri.path_and_query().filter(|_| *method == Method::GET);
        PageContext {
            theme: Theme::of(headers),
            base: extensions.get().cloned().unwrap_or_default(),
            here: address.map(|address| address.as_str().to_owned()),
        }
    }

    /// The same, with links that lead to no project of the address.
    pub fn outside(self) -> PageContext {
        PageContext { base: self.base.outside(), ..self }
    }

    /// A frame without a user.
    pub fn frame(self) -> Frame {
        Frame {
            user: None,
            standing: None,
            project: Arc::default(),
            projects: Arc::new([]),
            theme: self.theme,
            base: self.base,
            here: self.here.unwrap_or_else(|| "/jobs".to_owned()),
            section: "",
            now: Utc::now().timestamp_millis(),
            has_trouble: false,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for PageContext {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<PageContext, Self::Rejection> {
        Ok(PageContext::of(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_kept_if_it_leads_here() {
        assert_eq!(sign_in_address(Some("/jobs?state=failed")), "/login?next=%2Fjobs%3Fstate%3Dfailed");
        assert_eq!(sign_in_address(Some("//evil.example")), "/login");
        assert_eq!(sign_in_address(None), "/login");
    }
}
