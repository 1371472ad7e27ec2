//! What users do with their own account: password and browser sessions.

use gaffer_domain::passwords;
use gaffer_domain::permissions::Action;

use super::context::Effects;
use super::sign_in::SESSION_IDLE_SECS;
use super::{Actor, Context, OperationError};
use crate::open_streams::Credential;
use crate::passwords::NotHashed;
use crate::records::WebSession;

/// The browser sessions of the actor's user, the latest used first.
///
/// # Errors
/// When the database does not answer.
pub async fn sessions(context: &Context, actor: &Actor) -> Result<Vec<WebSession>, OperationError> {
    let views = context.permit_to_look(actor, Action::ManageSessions)?;
    Ok(views.reads.web_session_list(actor.user_id, current(actor), SESSION_IDLE_SECS).await?)
}

/// Ends one browser session of the actor's user, and what is read with it.
///
/// # Errors
/// When there is no such session.
pub async fn end_session(context: &Context, actor: &Actor, session: i64) -> Result<(), OperationError> {
    let target = format!("browser session {session}");
    let change = context.change_in(None, actor, Action::ManageSessions, &target).await?;
    let effects = change.effects;
    let ended = match effects.writes.web_session_end(actor.user_id, session).await {
        Ok(ended) => ended.ok_or_else(|| OperationError::NotFound(format!("session {session}"))),
        Err(error) => Err(error.into()),
    };
    let ended = change.end(ended).await?;
    effects.open_streams.end_session(&ended);
    Ok(())
}

/// Ends all browser sessions of the actor's user except the one that asks. Their number.
///
/// # Errors
/// When the database does not answer.
pub async fn end_other_sessions(context: &Context, actor: &Actor) -> Result<usize, OperationError> {
    let target = format!("other browser sessions of user {}", actor.user);
    let change = context.change_in(None, actor, Action::ManageSessions, &target).await?;
    let effects = change.effects;
    // Also if the database does not say whether they have ended.
    let _checked = effects.wakes.key_check.call_on_drop();
    let ended = effects.writes.web_sessions_end(actor.user_id, current(actor)).await;
    let ended = change.end(ended.map_err(OperationError::from)).await?;
    ended.iter().for_each(|ended| effects.open_streams.end_session(ended));
    Ok(ended.len())
}

/// Whether the actor's user has a password.
///
/// # Errors
/// When the database does not answer.
pub async fn has_password(context: &Context, actor: &Actor) -> Result<bool, OperationError> {
    let effects = context.permit(actor, Action::ChangePassword)?;
    let account = effects.writes.account_of(actor.user_id).await?;
    Ok(account.is_some_and(|account| account.password.is_some()))
}

/// Gives the actor's user another password, and ends all of their other sessions. `present`: the password they have, if they
/// have one.
///
/// # Errors
/// When the present password is wrong, the new one is weak, or the session is for one project only.
pub async fn change_password(
    context: &Context,
    actor: &Actor,
    present: &str,
    new: &str,
) -> Result<(), OperationError> {
    let target = format!("user {}", actor.user);
    let change = context.change_in(None, actor, Action::ChangePassword, &target).await?;
    let changed = make_change(change.effects, actor, present, new).await;
    change.end(changed).await
}

async fn make_change(
    effects: &Effects,
    actor: &Actor,
    present: &str,
    new: &str,
) -> Result<(), OperationError> {
    // A key is for one project: with a password that its session has set it would be for all.
    if actor.limited_to.is_some() {
        let detail = "this session is for one project only: sign in with a password or a link of an administrator first";
        return Err(OperationError::field("/password", detail));
    }
    passwords::check(new, &actor.user)
        .map_err(|weak| OperationError::field("/new_password", weak.to_string()))?;
    let gone = || OperationError::NotFound("user".to_owned());
    let account = effects.writes.account_of(actor.user_id).await?.ok_or_else(gone)?;
    let stored = account.password.clone();
    if account.password.is_some() {
        let attempt = effects.password_guesses.begin(&account.name, None);
        let attempt = attempt.map_err(|_| OperationError::Busy("too many wrong passwords"))?;
        let present: String = present.chars().take(passwords::MAX_BYTES + 1).collect();
        if !effects.passwords.compare(present, account.password).await?.is_right {
            return Err(OperationError::field("/password", "this is not the present password"));
        }
        attempt.was_right();
    }
    let hash = effects.passwords.hash(new.to_owned()).await?;
    // Also if the database does not say whether it was changed.
    let _checked = effects.wakes.key_check.call_on_drop();
    let ended =
        effects.writes.password_set(actor.user_id, (stored.as_deref(), &hash), current(actor)).await?;
    let changed = || OperationError::Conflict {
        detail: "the password was changed meanwhile; sign in again".to_owned(),
        state: "changed",
    };
    ended.ok_or_else(changed)?.iter().for_each(|ended| effects.open_streams.end_session(ended));
    Ok(())
}

/// The session that asks, if it is one.
fn current(actor: &Actor) -> Option<&[u8; 32]> {
    match &actor.shown.credential {
        Some(Credential::WebSession(sha256, _)) => Some(sha256),
        _ => None,
    }
}

impl From<NotHashed> for OperationError {
    fn from(_: NotHashed) -> OperationError {
        OperationError::Busy("too many others are signing in")
    }
}
