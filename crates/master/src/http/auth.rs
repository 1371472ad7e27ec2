//! Authentication: a user key or a browser session.

pub mod origin;

use axum::Extension;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gaffer_domain::permissions::Action;

use super::base_path::BasePath;
use super::error::Error;
use super::peer::Peer;
use super::{API_PREFIX, Doors, readers};
use crate::operations::sign_in::{self, Refused, Visit};
use crate::operations::{Actor, audit};
use crate::store::web_sessions::Wanted;

/// Name of the session cookie.
pub const SESSION_COOKIE: &str = "gaffer_session";

/// Through which listener a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Pages and API at one origin: a browser's session counts.
    Dashboard,
    /// The API alone, or the workers' door: only keys count.
    Api,
}

/// What a route of the API does, as its description says. A caller who may not do that gets no further.
#[derive(Debug, Clone, Copy)]
pub struct RouteAction(pub Action);

impl FromRequestParts<Doors> for Actor {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Actor, Error> {
        let peer = Peer::of(&parts.extensions);
        let actor = match bearer(&parts.headers)? {
            Some(key) => proven(sign_in::user_of_key(&doors.context, key, peer.address()).await, &peer)?,
            None if parts.extensions.get() == Some(&ListenerKind::Dashboard) => {
                let wanted = wanted(&parts.extensions, &parts.uri);
                match signed_in(doors, &parts.headers, &peer, wanted).await? {
                    Visit::Member(visitor) => visitor.actor,
                    Visit::Stranger => return Err(no_such_project(&parts.extensions)),
                    Visit::Nobody => return Err(key_missing()),
                }
            }
            None => return Err(key_missing()),
        };
        // Handlers that only read ask nobody else.
        let Some(RouteAction(action)) = parts.extensions.get() else {
            tracing::error!(
                path = parts.uri.path(),
                "a route takes a key, and its description names no action"
            );
            return Err(Error::Internal);
        };
        if let Err(refused) = actor.must_be_allowed(*action) {
            audit::note_refusal(&doors.context, &actor, *action, parts.uri.path(), &refused).await;
            return Err(refused.into());
        }
        readers::note(&parts.extensions, &actor);
        Ok(actor)
    }
}

/// Who asks for metrics: a monitoring system with its token, or a user of the API.
#[derive(Debug)]
pub struct MetricsReader(pub Actor);

impl FromRequestParts<Doors> for MetricsReader {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<MetricsReader, Error> {
        let monitor =
            bearer(&parts.headers)?.and_then(|token| sign_in::monitor_of_token(&doors.context, token));
        if let Some(monitor) = monitor {
            Peer::of(&parts.extensions).prove();
            return Ok(MetricsReader(monitor));
        }
        Ok(MetricsReader(Actor::from_request_parts(parts, doors).await?))
    }
}

fn key_missing() -> Error {
    let detail = "no key: send Authorization: Bearer <key>; `gaffer keys create NAME` creates one";
    Error::Unauthorized("key_missing", detail.to_owned())
}

/// Which project a request of a browser is about: the one that its address names, else the one that has the job of its address.
pub fn wanted<'a>(extensions: &'a Extensions, uri: &Uri) -> Wanted<'a> {
    if let Some(name) = extensions.get::<BasePath>().and_then(BasePath::project) {
        return Wanted::Named(name);
    }
    let path = uri.path().trim_start_matches(API_PREFIX);
    let job = path.strip_prefix("/jobs/").and_then(|rest| rest.split('/').next()?.parse().ok());
    job.map_or(Wanted::Any, Wanted::WithJob)
}

/// The answer to somebody who is signed in, and no member of the project that the address names.
pub fn no_such_project(extensions: &Extensions) -> Error {
    match extensions.get::<BasePath>().and_then(BasePath::project) {
        Some(name) => Error::NotFound(format!("project {name}")),
        None => Error::Forbidden(
            "this session is for a project of which you are no member any more; sign in again".to_owned(),
        ),
    }
}

/// Who is signed in with the request's cookies, if anybody, and what they are in the wanted project.
pub async fn signed_in(
    doors: &Doors,
    headers: &HeaderMap,
    peer: &Peer,
    wanted: Wanted<'_>,
) -> Result<Visit, Error> {
    let visit = sign_in::user_of_session(&doors.context, sessions(headers), peer.address(), wanted).await?;
    if !matches!(visit, Visit::Nobody) {
        peer.prove();
    }
    Ok(visit)
}

/// The sessions in a request's cookies. There may be several: browsers send cookies of another gaffer on the same
/// host, whatever its port, if its path is the same or a prefix.
pub fn sessions(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = texts.flat_map(|text| text.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.filter(|(name, _)| *name == SESSION_COOKIE).map(|(_, value)| value)
}

/// The token of an `Authorization: Bearer` header, if there is such a header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed =
        || Error::Unauthorized("key_malformed", "expected Authorization: Bearer <key>".to_owned());
    let value = value.to_str().map_err(|_| malformed())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(malformed)?;
    match scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        true => Ok(Some(token.trim())),
        false => Err(malformed()),
    }
}

/// Marks the connection of an authenticated client as proven.
pub fn proven<T>(known: Result<T, Refused>, peer: &Peer) -> Result<T, Error> {
    let known = known?;
    peer.prove();
    Ok(known)
}

/// Refuses cross-site writes. Browsers send the origin of a request; a client that sends none is not a browser and
/// has no cookie to abuse.
pub async fn same_origin_writes(
    State(doors): State<Doors>,
    Extension(door): Extension<ListenerKind>,
    request: Request,
    next: Next,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if door == ListenerKind::Dashboard
        && !reads
        && let Err(refusal) = origin::check(request.headers(), &doors.site.public_origin)
    {
        return Error::Forbidden(refusal.to_string()).into_response();
    }
    next.run(request).await
}
