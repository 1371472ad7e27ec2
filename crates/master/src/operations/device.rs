//! Logins of commands: asked for by anybody, allowed by a user in the dashboard.

use std::net::IpAddr;

use gaffer_domain::device_codes::read_code;
use gaffer_domain::permissions::Action;
use gaffer_domain::scopes::Scopes;
use gaffer_domain::visible::spoils_a_line;
use zeroize::Zeroizing;

use super::keys::{self, NewKey};
use super::{Actor, Context, OperationError};
use crate::device_logins::{Asked, GrantedKey, NoLogin, Polled};
use crate::listener::network_of;
use crate::records::KeyKind;
use crate::secret::hash_of;

/// The longest name of a machine that is shown.
const MAX_CLIENT_CHARS: usize = 60;
/// How long the key of a login is good for at most.
pub const MAX_KEY_SECS: u64 = 365 * 24 * 3_600;

/// A login that a command has begun.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The secret with which the command asks.
    pub device_code: String,
    /// The code for its user.
    pub user_code: String,
}

/// Begins a login for a command. `client`: what it calls its machine.
///
/// # Errors
/// When too many wait for their users.
pub fn begin(context: &Context, client: &str, address: Option<IpAddr>) -> Result<Begun, OperationError> {
    let client = client.trim().chars().filter(|char| !spoils_a_line(*char)).take(MAX_CLIENT_CHARS).collect();
    let begun = context.for_nobody().device_logins.begin(client, address.map(network_of));
    let (device_code, user_code) = begun.map_err(refused)?;
    Ok(Begun { device_code, user_code })
}

/// What has become of a command's login.
pub fn poll(context: &Context, device_code: &str) -> Polled {
    context.for_nobody().device_logins.poll(&hash_of(device_code))
}

/// Who asks with a code.
///
/// # Errors
/// When nobody does, or the actor has tried too many codes.
pub fn asked(context: &Context, actor: &Actor, code: &str) -> Result<Asked, OperationError> {
    let effects = context.permit(actor, Action::CreateKey)?;
    let code = read_code(code).unwrap_or_default();
    effects.device_logins.asked(&code, actor.user_id).map_err(refused)
}

/// Allows a login: makes a key for the actor's project, which the command gets.
///
/// # Errors
/// When nobody asks with the code, or the actor may not make such a key.
pub async fn allow(
    context: &Context,
    actor: &Actor,
    (code, project): (&str, &str),
    scopes: Scopes,
    expires_in_seconds: u64,
) -> Result<Asked, OperationError> {
    if !(1..=MAX_KEY_SECS).contains(&expires_in_seconds) {
        return Err(OperationError::field("/expires", "expected at most a year"));
    }
    let logins = &context.permit(actor, Action::CreateKey)?.device_logins;
    let code = read_code(code).unwrap_or_default();
    let asked = logins.claim(&code, actor.user_id).map_err(refused)?;
    let machine = if asked.client.is_empty() { "a command" } else { asked.client.as_str() };
    let new = NewKey {
        scopes: Some(scopes),
        expires_in_seconds: Some(expires_in_seconds),
        ..NewKey::new(KeyKind::User, format!("gaffer login on {machine}"))
    };
    match keys::create(context, actor, new).await {
        Ok(created) => {
            let key = GrantedKey {
                secret: Zeroizing::new(created.secret),
                user: actor.user.to_string(),
                project: project.to_owned(),
                expires_at: created.key.expires_at,
            };
            logins.decide(&code, Some(key));
            Ok(asked)
        }
        Err(error) => {
            logins.release(&code);
            Err(error)
        }
    }
}

/// Refuses a login.
///
/// # Errors
/// When nobody asks with the code.
pub fn deny(context: &Context, actor: &Actor, code: &str) -> Result<(), OperationError> {
    let logins = &context.permit(actor, Action::CreateKey)?.device_logins;
    let code = read_code(code).unwrap_or_default();
    logins.claim(&code, actor.user_id).map_err(refused)?;
    logins.decide(&code, None);
    Ok(())
}

fn refused(error: NoLogin) -> OperationError {
    match error {
        NoLogin::Full => OperationError::Busy("too many logins wait for their users"),
        NoLogin::Unknown => OperationError::field("/code", error.to_string()),
        NoLogin::TooMany(_) => OperationError::Busy("too many wrong codes"),
    }
}
