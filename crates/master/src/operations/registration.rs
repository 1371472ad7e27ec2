//! Who is not signed in yet: passwords, new passwords, invitations, registration. Guesses are rate-limited.

use std::time::Duration;

use gaffer_domain::ProjectId;
use gaffer_domain::members::{InvalidName, Name};
use gaffer_domain::passwords::{self, WeakPassword};
use gaffer_protocol::audit::AuditOutcome;

use super::context::Effects;
use super::sign_in::{Opening, Origin, Refused, may_ask, presented, wrong};
use super::{Actor, Context, audit};
use crate::password_guesses::Attempt;
use crate::passwords::NotHashed;
use crate::records::Invitation;
use crate::secret::hash_of;
use crate::store::StoreError;
use crate::store::audit::NewEntry;
use crate::store::invitations::{Invited, Taken};

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum NotSignedIn {
    /// The same for a wrong password, an unknown user, one without a password and one who is disabled.
    #[error("wrong name or password")]
    Wrong,
    /// The link is unknown, used, revoked or too old.
    #[error("this link has expired, was revoked or was already used; ask for a new one")]
    LinkNotGood,
    /// A name or a password cannot be taken; what is wrong, for people.
    #[error("{0}")]
    Invalid(String),
    /// The wait until the next try.
    #[error("too many attempts")]
    TooMany(Duration),
    /// Others compute too many hashes.
    #[error("too many others are signing in")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NotHashed> for NotSignedIn {
    fn from(_: NotHashed) -> NotSignedIn {
        NotSignedIn::Busy
    }
}

impl From<WeakPassword> for NotSignedIn {
    fn from(weak: WeakPassword) -> NotSignedIn {
        NotSignedIn::Invalid(weak.to_string())
    }
}

impl From<InvalidName> for NotSignedIn {
    fn from(invalid: InvalidName) -> NotSignedIn {
        NotSignedIn::Invalid(format!("invalid name: {invalid}"))
    }
}

impl From<Refused> for NotSignedIn {
    fn from(refused: Refused) -> NotSignedIn {
        match refused {
            Refused::TooMany(wait) => NotSignedIn::TooMany(wait),
            Refused::Store(error) => NotSignedIn::Store(error),
            Refused::KeyNotValid => NotSignedIn::LinkNotGood,
        }
    }
}

/// Opens a session for who knows the password. The session, for the browser to keep.
///
/// # Errors
/// When the name or the password is wrong, or too many were.
pub async fn with_password(
    context: &Context,
    name: &str,
    password: &str,
    origin: &Origin,
) -> Result<String, NotSignedIn> {
    let effects = context.for_nobody();
    let attempt = begin(effects, name, origin)?;
    let account = effects.writes.account_find(name).await?.filter(|account| !account.is_disabled);
    let stored = account.as_ref().and_then(|account| account.password.clone());
    let compared = effects.passwords.compare(limited(password), stored).await?;
    let Some(account) = account.filter(|_| compared.is_right) else { return Err(NotSignedIn::Wrong) };
    attempt.was_right();
    if let Some(old) = account.password.filter(|_| compared.is_outdated) {
        let new = effects.passwords.hash(limited(password)).await?;
        effects.writes.password_rehash(account.id, &old, &new).await?;
    }
    let session = Opening::new(origin);
    match effects.writes.web_session_insert(account.id, session.to_store()).await? {
        true => Ok(session.opened(context).await),
        false => Err(NotSignedIn::Wrong),
    }
}

/// Name of the user who may choose a password with this link.
///
/// # Errors
/// When the link is not good.
pub async fn user_of_reset_link(
    context: &Context,
    token: &str,
    origin: &Origin,
) -> Result<String, NotSignedIn> {
    let effects = context.for_nobody();
    let link = hash_of(token);
    let presented = presented(&link, token, origin.address);
    may_ask(effects, presented).await?;
    match effects.writes.reset_link_user(&link).await? {
        Some(user) => {
            effects.guesses.is_good(presented);
            Ok(user)
        }
        None => {
            wrong(effects, presented)?;
            Err(NotSignedIn::LinkNotGood)
        }
    }
}

/// Uses up a link: sets a password, ends all sessions of its user, and opens a new one, for the browser to keep.
///
/// # Errors
/// When the link is not good, or the password is weak.
pub async fn reset_password(
    context: &Context,
    token: &str,
    password: &str,
    origin: &Origin,
) -> Result<String, NotSignedIn> {
    let user = user_of_reset_link(context, token, origin).await?;
    passwords::check(password, &user)?;
    let effects = context.for_nobody();
    let link = hash_of(token);
    let hash = effects.passwords.hash(limited(password)).await?;
    let session = Opening::new(origin);
    let ended = effects.writes.reset_link_use(&link, &hash, session.to_store()).await?;
    for ended in ended.ok_or(NotSignedIn::LinkNotGood)? {
        effects.open_streams.end_session(&ended);
    }
    let subject = format!("user {user}");
    let set = Noted { project: None, user: &user, action: "set_password", target: &subject };
    set.note(effects, None, origin).await;
    Ok(session.opened(context).await)
}

/// The invitation of a link.
///
/// # Errors
/// When it is not good.
pub async fn invitation(context: &Context, token: &str, origin: &Origin) -> Result<Invitation, NotSignedIn> {
    let effects = context.for_nobody();
    let sha256 = hash_of(token);
    let presented = presented(&sha256, token, origin.address);
    may_ask(effects, presented).await?;
    match effects.writes.invitation_find(&sha256).await? {
        Some(invitation) => {
            effects.guesses.is_good(presented);
            Ok(invitation)
        }
        None => {
            wrong(effects, presented)?;
            Err(NotSignedIn::LinkNotGood)
        }
    }
}

/// Takes an invitation as somebody who is signed in. Name of the project.
///
/// # Errors
/// When it is not good.
pub async fn join(
    context: &Context,
    actor: &Actor,
    token: &str,
    origin: &Origin,
) -> Result<String, NotSignedIn> {
    // A session for one project gets no other one.
    if actor.limited_to.is_some() {
        let detail =
            "this session is for one project only: sign in with a password or a link of an administrator";
        return Err(NotSignedIn::Invalid(detail.to_owned()));
    }
    let invitation = invitation(context, token, origin).await?;
    let sha256 = hash_of(token);
    let effects = context.for_nobody();
    let project = taken(effects.writes.invitation_use(&sha256, Invited::User(actor.user_id)).await?)?;
    joined(effects, &invitation, &actor.user, actor.shown.name.as_deref(), origin).await;
    Ok(project)
}

/// Takes an invitation as a new user. The session, for the browser to keep, and the name of the project.
///
/// # Errors
/// When it is not good, or the name or the password cannot be taken.
pub async fn join_as_newcomer(
    context: &Context,
    token: &str,
    (name, password): (&str, &str),
    origin: &Origin,
) -> Result<(String, String), NotSignedIn> {
    let invitation = invitation(context, token, origin).await?;
    let effects = context.for_nobody();
    let sha256 = hash_of(token);
    let (name, hash) = newcomer(effects, name, password).await?;
    let session = Opening::new(origin);
    let newcomer = Invited::Newcomer(&name, &hash, session.to_store());
    let project = taken(effects.writes.invitation_use(&sha256, newcomer).await?)?;
    joined(effects, &invitation, name.as_str(), None, origin).await;
    Ok((session.opened(context).await, project))
}

/// Makes somebody a user without an invitation. The session, for the browser to keep.
///
/// # Errors
/// When the name or the password cannot be taken, or too many came from that address.
pub async fn register(
    context: &Context,
    (name, password): (&str, &str),
    origin: &Origin,
) -> Result<String, NotSignedIn> {
    let effects = context.for_nobody();
    // Each try counts, also one that is good: an address makes a few users, not thousands.
    let address = origin.address.map_or_else(String::new, |address| address.to_string());
    begin(effects, &format!("registration from {address}"), origin)?;
    let (name, hash) = newcomer(effects, name, password).await?;
    let session = Opening::new(origin);
    match effects.writes.user_register(&name, &hash, session.to_store()).await? {
        true => {
            let subject = format!("user {name}");
            let made = Noted { project: None, user: name.as_str(), action: "register", target: &subject };
            made.note(effects, None, origin).await;
            Ok(session.opened(context).await)
        }
        false => Err(name_taken()),
    }
}

fn begin(effects: &Effects, name: &str, origin: &Origin) -> Result<Attempt, NotSignedIn> {
    let address = origin.address.map(crate::listener::network_of);
    effects.password_guesses.begin(name, address).map_err(NotSignedIn::TooMany)
}

/// A name and the hash of a password, if somebody may have both.
async fn newcomer(effects: &Effects, name: &str, password: &str) -> Result<(Name, String), NotSignedIn> {
    let name: Name = name.parse()?;
    passwords::check(password, name.as_str())?;
    Ok((name, effects.passwords.hash(limited(password)).await?))
}

fn taken(taken: Taken) -> Result<String, NotSignedIn> {
    match taken {
        Taken::Joined(project) => Ok(project),
        Taken::NotGood => Err(NotSignedIn::LinkNotGood),
        Taken::NameTaken => Err(name_taken()),
    }
}

fn name_taken() -> NotSignedIn {
    NotSignedIn::Invalid("this name is taken; choose another one".to_owned())
}

/// What is hashed of a password: one that is too long is wrong, and costs no more time than others.
fn limited(password: &str) -> String {
    password.chars().take(passwords::MAX_BYTES + 1).collect()
}

/// Something that the audit log says of somebody who was not signed in before.
struct Noted<'a> {
    project: Option<ProjectId>,
    user: &'a str,
    action: &'a str,
    target: &'a str,
}

impl Noted<'_> {
    async fn note(self, effects: &Effects, credential: Option<&str>, origin: &Origin) {
        let Noted { project, user, action, target } = self;
        let address = origin.address.map(|address| address.to_string());
        let new = NewEntry { project, user, credential, address: address.as_deref(), action, target };
        audit::note(effects, &new, AuditOutcome::Done, None).await;
    }
}

/// Notes that somebody has become a member.
async fn joined(
    effects: &Effects,
    invitation: &Invitation,
    user: &str,
    credential: Option<&str>,
    origin: &Origin,
) {
    let target = format!("invitation {} as {}", invitation.id, invitation.role);
    let project = Some(invitation.project_id);
    let noted = Noted { project, user, action: "join_project", target: &target };
    noted.note(effects, credential, origin).await;
}
