//! The page *Device*: a user allows the login of a command.

use std::sync::Arc;

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gaffer_domain::device_codes::shown_code;
use gaffer_domain::scopes::{Scope, Scopes};
use serde::Deserialize;

use super::super::error::Error;
use super::super::params::Params;
use super::format::sentence;
use super::frame::{Frame, SessionUser};
use super::keys::{ScopeChoice, choices};
use super::page;
use crate::device_logins::Asked;
use crate::operations::{Context, OperationError, device};

/// What the key may be used for, unless the user chooses otherwise.
const USUAL: [Scope; 3] = [Scope::Read, Scope::Submit, Scope::Operate];
/// How long it is good for: seconds, and in words.
const LIFETIMES: [(u64, &str); 4] =
    [(8 * 3_600, "8 hours"), (7 * 86_400, "7 days"), (90 * 86_400, "90 days"), (365 * 86_400, "1 year")];
const USUAL_LIFETIME: u64 = 90 * 86_400;

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    frame: Frame,
    code: String,
    problem: Option<String>,
    asked: Option<AskedRow>,
    /// Names of the other projects of the user.
    others: Vec<String>,
    scopes: Vec<ScopeChoice>,
    lifetimes: [(u64, &'static str, bool); 4],
    /// What was decided.
    done: Option<&'static str>,
}

struct AskedRow {
    code: String,
    client: String,
    address: String,
    at: Option<i64>,
}

impl AskedRow {
    fn of(asked: Asked) -> AskedRow {
        AskedRow {
            code: shown_code(&asked.code),
            client: if asked.client.is_empty() { "unnamed".to_owned() } else { asked.client },
            address: asked.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()),
            at: Some(asked.at.timestamp_millis()),
        }
    }
}

impl DevicePage {
    fn new(visitor: &SessionUser, code: String) -> DevicePage {
        let frame = visitor.frame("/keys");
        let others = frame.projects.iter().filter(|name| **name != *visitor.project()).cloned().collect();
        DevicePage {
            frame,
            code,
            problem: None,
            asked: None,
            others,
            scopes: choices(USUAL.into_iter().collect()),
            lifetimes: LIFETIMES.map(|(secs, words)| (secs, words, secs == USUAL_LIFETIME)),
            done: None,
        }
    }

    fn with_problem(self, problem: &str) -> Result<Response, Error> {
        let shown = DevicePage { problem: Some(sentence(problem)), ..self };
        Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&shown)?).into_response())
    }
}

/// `GET /device`: asks for a code; with one, whether to allow its login.
pub async fn show(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    params: Params,
) -> Result<Response, Error> {
    let params = params.only(&["code"], &[])?;
    let code = params.text("code").unwrap_or_default().to_owned();
    let shown = DevicePage::new(&visitor, code.clone());
    if code.trim().is_empty() {
        return page(&shown);
    }
    match device::asked(&context, &visitor.actor, &code) {
        Ok(asked) => page(&DevicePage { asked: Some(AskedRow::of(asked)), ..shown }),
        Err(OperationError::Invalid { detail, .. }) => shown.with_problem(&detail),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Deserialize)]
pub struct DecisionForm {
    code: String,
    decision: String,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default)]
    read: Option<String>,
    #[serde(default)]
    submit: Option<String>,
    #[serde(default)]
    operate: Option<String>,
    #[serde(default)]
    admin: Option<String>,
}

impl DecisionForm {
    fn scopes(&self) -> Scopes {
        let ticked = [&self.read, &self.submit, &self.operate, &self.admin];
        Scope::ALL
            .into_iter()
            .zip(ticked)
            .filter(|(_, ticked)| ticked.is_some())
            .map(|(scope, _)| scope)
            .collect()
    }
}

/// `POST /device`
pub async fn decide(
    State(context): State<Arc<Context>>,
    visitor: SessionUser,
    Form(form): Form<DecisionForm>,
) -> Result<Response, Error> {
    let shown = DevicePage::new(&visitor, form.code.clone());
    let decided = match form.decision.as_str() {
        "allow" => {
            let expires = form.expires.unwrap_or(USUAL_LIFETIME);
            let place = (form.code.as_str(), visitor.project());
            let allowed = device::allow(&context, &visitor.actor, place, form.scopes(), expires).await;
            allowed.map(|_| "The command is logged in. You can close this page.")
        }
        _ => device::deny(&context, &visitor.actor, &form.code).map(|()| "The login was refused."),
    };
    match decided {
        Ok(done) => page(&DevicePage { done: Some(done), ..shown }),
        Err(OperationError::Invalid { detail, .. }) => shown.with_problem(&detail),
        Err(error) => Err(error.into()),
    }
}
