//! Keys: create, revoke, list.

use gaffer_domain::permissions::Action;
use gaffer_domain::visible::spoils_a_line;
use gaffer_protocol::wire::GoodbyeCode;

use super::{Actor, Context, OperationError};
use crate::open_streams::Credential;
use crate::records::{Key, KeyKind, UnknownKeyKind};
use crate::secret::{NewSecret, Purpose};
use crate::store::keys;

const MAX_NAME_CHARS: usize = 120;
const MAX_EXPIRY_SECS: u64 = 100 * 365 * 24 * 3_600;

/// What to make a key from.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Worker or user key.
    pub kind: KeyKind,
    pub name: String,
    /// How long it is good for; none means until it is revoked.
    pub expires_in_seconds: Option<u64>,
}

impl NewKey {
    /// Parses a kind.
    ///
    /// # Errors
    /// When there is no such kind of key.
    pub fn of(kind: &str, name: String, expires_in_seconds: Option<u64>) -> Result<NewKey, OperationError> {
        let kind = kind
            .parse()
            .map_err(|error: UnknownKeyKind| OperationError::field("/kind", error.to_string()))?;
        Ok(NewKey { kind, name, expires_in_seconds })
    }
}

/// A new key with its secret, which is not stored.
#[derive(Debug, Clone)]
pub struct Created {
    pub key: Key,
    pub secret: String,
}

/// Makes a key for the actor's project.
///
/// # Errors
/// When its name can't be shown, or it would be good for too long.
pub async fn create(context: &Context, actor: &Actor, new: NewKey) -> Result<Created, OperationError> {
    let effects = context.permit(actor, Action::CreateKey)?;
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(spoils_a_line) {
        return Err(OperationError::field("/name", "a key needs a name of 1 to 120 printable characters"));
    }
    if new.expires_in_seconds.is_some_and(|secs| secs == 0 || secs > MAX_EXPIRY_SECS) {
        let detail = "expected seconds, at most 100 years";
        return Err(OperationError::field("/expires_in_seconds", detail));
    }
    let (purpose, user_id) = match new.kind {
        KeyKind::Worker => (Purpose::WorkerKey, None),
        KeyKind::User => (Purpose::UserKey, Some(actor.user_id)),
    };
    let secret = NewSecret::new(purpose);
    let new = keys::NewKey {
        user_id,
        kind: new.kind,
        name,
        prefix: secret.shown(),
        sha256: &secret.sha256,
        expires_in_seconds: new.expires_in_seconds,
    };
    let key = effects.writes.key_insert(actor.project, new).await?;
    effects.guesses.is_made(&secret.sha256);
    Ok(Created { key, secret: secret.text })
}

/// Revokes a key and ends the sessions that it opened, and the responses that its user reads.
///
/// # Errors
/// When there is no such key.
pub async fn revoke(context: &Context, actor: &Actor, key: i64) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::RevokeKey)?;
    // Also if the database does not say whether it was revoked, or nobody waits for the answer any more.
    let _checked = effects.wakes.key_check.call_on_drop();
    if !effects.writes.key_revoke(actor.project, key).await? {
        return Err(OperationError::NotFound(format!("key {key}")));
    }
    for session in effects.hub.all().iter().filter(|session| session.key == key) {
        session.end(GoodbyeCode::KeyRevoked, "the key was revoked");
    }
    effects.open_streams.end(&Credential::Key(key));
    Ok(())
}

/// The keys of the actor's project, newest first, from below a number on.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    context: &Context,
    actor: &Actor,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<Key>, OperationError> {
    let views = context.permit_to_look(actor, Action::ListKeys)?;
    Ok(views.reads.key_list(actor.project, before, limit).await?)
}
