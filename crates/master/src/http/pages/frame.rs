//! The frame of all pages: user, theme, navigation, assets.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::Utc;
use gaffer_domain::permissions::Action;

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

/// The places in the top bar, by address and name.
pub const SECTIONS: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/templates", "Templates"),
    ("/queue", "Queue"),
    ("/workers", "Workers"),
    ("/secrets", "Secrets"),
    ("/keys", "Keys"),
    ("/events", "History"),
];

/// What the layout of every page needs.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The signed-in user; none on public pages.
    pub user: Option<Arc<str>>,
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
        format!("{}{}", self.base, assets::address(name))
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
    surroundings: PageContext,
    has_trouble: bool,
}

impl SessionUser {
    /// The frame for a page of one section.
    pub fn frame(&self, section: &'static str) -> Frame {
        let user = Some(self.actor.user.clone());
        Frame { user, section, has_trouble: self.has_trouble, ..self.surroundings.clone().frame() }
    }
}

impl FromRequestParts<Doors> for SessionUser {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<SessionUser, Response> {
        let surroundings = PageContext::of(parts);
        match auth::signed_in(doors, &parts.headers, &Peer::of(&parts.extensions)).await {
            Ok(Some(actor)) => {
                let has_trouble = doors.views.status.troubles.database().is_some();
                // Who may not even look gets no further.
                match actor.must_be_allowed(Action::Look) {
                    Ok(()) => {
                        readers::note(&parts.extensions, &actor);
                        Ok(SessionUser { actor, surroundings, has_trouble })
                    }
                    Err(error) => Err(Error::from(error).into_response()),
                }
            }
            Ok(None) if wants(&parts.headers, "text/html") => {
                Err(Redirect::to(&sign_in_address(surroundings.here.as_deref())).into_response())
            }
            Ok(None) => Err(Error::Unauthorized("not_signed_in", "sign in first".to_owned()).into_response()),
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

    /// A frame without a user.
    pub fn frame(self) -> Frame {
        Frame {
            user: None,
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
