//! Pages of those who are not signed in yet: a new password, an invitation, registration.

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::super::Doors;
use super::super::auth::{sessions, signed_in};
use super::super::error::Error;
use super::super::params::{Params, encoded};
use super::super::peer::Peer;
use super::super::session_cookie::{origin, set_session};
use super::frame::{Frame, PageContext};
use super::login::told;
use super::page;
use crate::operations::Actor;
use crate::operations::registration::{self, NotSignedIn};
use crate::operations::sign_in::{self, Origin, SESSION_SECS, Visit};
use crate::records::Invitation;
use crate::store::web_sessions::Wanted;

#[derive(Template)]
#[template(path = "reset.html")]
struct ResetPage {
    frame: Frame,
    problem: Option<String>,
    token: String,
    /// Whose password it is; none if the link is not good.
    user: Option<String>,
}

/// `GET /reset`: asks for a new password. The link is used up by the form.
pub async fn reset_form(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["token"], &[])?;
    let token = params.text("token").unwrap_or_default().to_owned();
    let user = registration::user_of_reset_link(&doors.context, &token, &origin(&headers, &peer)).await;
    reset_page(surroundings, token, user)
}

fn reset_page(
    surroundings: PageContext,
    token: String,
    user: Result<String, NotSignedIn>,
) -> Result<Response, Error> {
    let frame = surroundings.frame();
    match user {
        Ok(user) => page(&ResetPage { frame, problem: None, token, user: Some(user) }),
        Err(error) => {
            let (status, problem) = told(error)?;
            let shown = ResetPage { frame, problem: Some(problem), token, user: None };
            Ok((status, page(&shown)?).into_response())
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct ResetForm {
    token: String,
    password: String,
}

/// `POST /reset`
pub async fn reset(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<ResetForm>,
) -> Result<Response, Error> {
    let origin = origin(&headers, &peer);
    match registration::reset_password(&doors.context, &form.token, &form.password, &origin).await {
        Ok(session) => signed_in_response(&doors, (&headers, &peer), &session, "/jobs").await,
        Err(error) => {
            let (status, problem) = told(error)?;
            let user = registration::user_of_reset_link(&doors.context, &form.token, &origin).await.ok();
            let shown =
                ResetPage { frame: surroundings.frame(), problem: Some(problem), token: form.token, user };
            Ok((status, page(&shown)?).into_response())
        }
    }
}

/// Gives the browser its new session in place of the one that it had.
async fn signed_in_response(
    doors: &Doors,
    (headers, peer): (&HeaderMap, &Peer),
    session: &str,
    to: &str,
) -> Result<Response, Error> {
    sign_in::sign_out(&doors.context, sessions(headers), peer.address()).await?;
    let mut response = Redirect::to(to).into_response();
    set_session(&doors.site, &mut response, session, SESSION_SECS);
    Ok(response)
}

#[derive(Template)]
#[template(path = "invitation.html")]
struct InvitationPage {
    frame: Frame,
    problem: Option<String>,
    token: String,
    /// To come back to after signing in.
    here: String,
    invited: Option<Invited>,
    /// Who is signed in.
    user: Option<String>,
    name: String,
}

struct Invited {
    project: String,
    by: String,
    role: &'static str,
    meaning: &'static str,
}

impl Invited {
    fn of(invitation: Invitation) -> Invited {
        let Invitation { project, role, created_by: by, .. } = invitation;
        Invited { project, by, role: role.as_str(), meaning: role.meaning() }
    }
}

/// Somebody who is signed in, whatever their projects.
async fn visitor(doors: &Doors, headers: &HeaderMap, peer: &Peer) -> Result<Option<Actor>, Error> {
    Ok(match signed_in(doors, headers, peer, Wanted::Any).await? {
        Visit::Member(visitor) => Some(visitor.actor),
        Visit::Stranger | Visit::Nobody => None,
    })
}

async fn invitation_page(
    doors: &Doors,
    frame: Frame,
    (token, name): (String, String),
    actor: Option<Actor>,
    origin: &Origin,
    problem: Option<NotSignedIn>,
) -> Result<Response, Error> {
    let found = registration::invitation(&doors.context, &token, origin).await;
    let (invited, problem) = match (found, problem) {
        (Ok(invitation), problem) => (Some(Invited::of(invitation)), problem),
        (Err(error), _) => (None, Some(error)),
    };
    let told = problem.map(told).transpose()?;
    let (status, problem) = match told {
        Some((status, problem)) => (status, Some(problem)),
        None => (axum::http::StatusCode::OK, None),
    };
    let shown = InvitationPage {
        here: encoded(&format!("/invitation?token={token}")).to_string(),
        user: actor.map(|actor| actor.user.to_string()),
        frame,
        problem,
        token,
        invited,
        name,
    };
    Ok((status, page(&shown)?).into_response())
}

/// `GET /invitation`: asks whether to join. The link is used up by the form.
pub async fn invitation(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["token"], &[])?;
    let token = params.text("token").unwrap_or_default().to_owned();
    let actor = visitor(&doors, &headers, &peer).await?;
    let origin = origin(&headers, &peer);
    invitation_page(&doors, surroundings.frame(), (token, String::new()), actor, &origin, None).await
}

#[derive(Debug, Deserialize)]
pub struct InvitationForm {
    token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
}

/// `POST /invitation`: joins as who is signed in, or as a new user.
pub async fn join(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<InvitationForm>,
) -> Result<Response, Error> {
    let origin = origin(&headers, &peer);
    let actor = visitor(&doors, &headers, &peer).await?;
    let context = &doors.context;
    let refused = match &actor {
        Some(actor) => match registration::join(context, actor, &form.token, &origin).await {
            Ok(project) => return Ok(Redirect::to(&format!("/projects/{project}/jobs")).into_response()),
            Err(error) => error,
        },
        None => {
            let newcomer = (form.name.trim(), form.password.as_str());
            match registration::join_as_newcomer(context, &form.token, newcomer, &origin).await {
                Ok((session, project)) => {
                    let to = format!("/projects/{project}/jobs");
                    return signed_in_response(&doors, (&headers, &peer), &session, &to).await;
                }
                Err(error) => error,
            }
        }
    };
    let frame = surroundings.frame();
    invitation_page(&doors, frame, (form.token, form.name), actor, &origin, Some(refused)).await
}

#[derive(Template)]
#[template(path = "register.html")]
struct RegisterPage {
    frame: Frame,
    problem: Option<String>,
    name: String,
}

/// `GET /register`, if registration is open.
pub async fn registration_form(surroundings: PageContext) -> Result<Response, Error> {
    page(&RegisterPage { frame: surroundings.frame(), problem: None, name: String::new() })
}

#[derive(Debug, Deserialize)]
pub struct RegisterForm {
    name: String,
    password: String,
}

/// `POST /register`, if registration is open.
pub async fn register(
    State(doors): State<Doors>,
    surroundings: PageContext,
    headers: HeaderMap,
    peer: Peer,
    Form(form): Form<RegisterForm>,
) -> Result<Response, Error> {
    let origin = origin(&headers, &peer);
    let newcomer = (form.name.trim(), form.password.as_str());
    match registration::register(&doors.context, newcomer, &origin).await {
        Ok(session) => signed_in_response(&doors, (&headers, &peer), &session, "/jobs").await,
        Err(error) => {
            let (status, problem) = told(error)?;
            let shown = RegisterPage { frame: surroundings.frame(), problem: Some(problem), name: form.name };
            Ok((status, page(&shown)?).into_response())
        }
    }
}
