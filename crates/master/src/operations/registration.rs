//! Who is not signed in yet: passwords, new passwords, invitations, registration. Guesses are rate-limited.

use std::net::IpAddr;
use std::time::Duration;

use gaffer_domain::ProjectId;
use gaffer_domain::members::{InvalidName, Name};
use gaffer_domain::passwords::{self, WeakPassword};
use gaffer_protocol::audit::AuditOutcome;
use tokio::time::Instant;

use super::context::Effects;
use super::sign_in::{Opening, Origin, Refused, may_ask, presented};
use super::{Actor, Context, audit};
use crate::passwords::NotHashed;
use crate::records::Invitation;
use crate::secret::{Purpose, hash_of};
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
            Refused::Unauthorized { .. } => NotSignedIn::LinkNotGood,
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
    let account = effects.writes.account_find(name).await?;
    let tried = Tried { account: account.as_ref().map(|account| account.name.clone()), origin };
    let attempt = match effects.password_guesses.begin(name, tried.network()) {
        Ok(attempt) => attempt,
        Err(wait) => {
            tried.note(effects, "too many wrong passwords").await;
            return Err(NotSignedIn::TooMany(wait));
        }
    };
    let account = account.filter(|account| !account.is_disabled);
    let stored = account.as_ref().and_then(|account| account.password.clone());
    let compared = effects.passwords.compare(limited(password), stored).await?;
    let right =
        account.filter(|_| compared.is_right).and_then(|account| Some((account.id, account.password?)));
    let Some((user, mut stored)) = right else {
        tried.note(effects, "wrong name or password").await;
        return Err(NotSignedIn::Wrong);
    };
    attempt.was_right();
    if compared.is_outdated {
        let new = effects.passwords.hash(limited(password)).await?;
        effects.writes.password_rehash(user, &stored, &new).await?;
        stored = new;
    }
    let session = Opening::new(origin);
    match effects.writes.web_session_insert(user, &stored, session.to_store()).await? {
        true => Ok(session.opened(context)),
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
    let link = hash_of(token, Purpose::PasswordReset).ok_or(NotSignedIn::LinkNotGood)?;
    let presented = presented(&link, token, origin.address);
    may_ask(effects, presented).await?;
    match effects.writes.reset_link_user(&link).await? {
        Some(user) => {
            effects.guesses.is_good(presented);
            Ok(user)
        }
        None => {
            effects.guesses.is_wrong(presented);
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
    let link = hash_of(token, Purpose::PasswordReset).ok_or(NotSignedIn::LinkNotGood)?;
    let hash = effects.passwords.hash(limited(password)).await?;
    let session = Opening::new(origin);
    let (subject, address) = (format!("user {user}"), address_text(origin));
    let noted = NewEntry {
        project: None,
        user: &user,
        credential: None,
        address: address.as_deref(),
        action: "set_password",
        target: &subject,
    };
    let ended = effects.writes.reset_link_use(&link, &hash, session.to_store(), &noted).await?;
    for ended in ended.ok_or(NotSignedIn::LinkNotGood)? {
        effects.open_streams.end_session(&ended);
    }
    Ok(session.opened(context))
}

/// The invitation of a link.
///
/// # Errors
/// When it is not good.
pub async fn invitation(context: &Context, token: &str, origin: &Origin) -> Result<Invitation, NotSignedIn> {
    let effects = context.for_nobody();
    let sha256 = hash_of(token, Purpose::Invitation).ok_or(NotSignedIn::LinkNotGood)?;
    let presented = presented(&sha256, token, origin.address);
    may_ask(effects, presented).await?;
    match effects.writes.invitation_find(&sha256).await? {
        Some(invitation) => {
            effects.guesses.is_good(presented);
            Ok(invitation)
        }
        None => {
            effects.guesses.is_wrong(presented);
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
    let sha256 = hash_of(token, Purpose::Invitation).ok_or(NotSignedIn::LinkNotGood)?;
    let effects = context.for_nobody();
    let joining = Joining::new(&invitation, origin);
    let noted = joining.entry(&actor.user, actor.shown.name.as_deref());
    let used = effects.writes.invitation_use(&sha256, Invited::User(actor.user_id), &noted).await;
    effects.wakes.audit.call();
    taken(used?)
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
    let sha256 = hash_of(token, Purpose::Invitation).ok_or(NotSignedIn::LinkNotGood)?;
    let (name, hash) = newcomer(effects, name, password).await?;
    let session = Opening::new(origin);
    let newcomer = Invited::Newcomer(&name, &hash, session.to_store());
    let joining = Joining::new(&invitation, origin);
    let used = effects.writes.invitation_use(&sha256, newcomer, &joining.entry(name.as_str(), None)).await;
    let project = taken(used?)?;
    Ok((session.opened(context), project))
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
    let address = address_text(origin);
    let registration = effects.registrations.begin(address.as_deref().unwrap_or_default(), network(origin));
    registration.map_err(NotSignedIn::TooMany)?;
    let (name, hash) = newcomer(effects, name, password).await?;
    let session = Opening::new(origin);
    let subject = format!("user {name}");
    let noted = NewEntry {
        project: None,
        user: name.as_str(),
        credential: None,
        address: address.as_deref(),
        action: "register",
        target: &subject,
    };
    match effects.writes.user_register(&name, &hash, session.to_store(), &noted).await? {
        true => Ok(session.opened(context)),
        false => Err(name_taken()),
    }
}

fn network(origin: &Origin) -> Option<IpAddr> {
    origin.address.map(crate::listener::network_of)
}

fn address_text(origin: &Origin) -> Option<String> {
    origin.address.map(|address| address.to_string())
}

/// A sign-in with a password that fails. Of a name that no user has, only that is noted: it may be a password.
struct Tried<'a> {
    account: Option<String>,
    origin: &'a Origin,
}

impl Tried<'_> {
    fn network(&self) -> Option<IpAddr> {
        network(self.origin)
    }

    /// Once a minute for a user and a network, so that nobody fills the audit log.
    async fn note(&self, effects: &Effects, why: &'static str) {
        let (user, address) = (self.account.as_deref().unwrap_or("(unknown)"), address_text(self.origin));
        if !effects.wrong_passwords.is_news((self.account.clone(), self.network(), why), Instant::now()) {
            return;
        }
        tracing::warn!(user, address, "a sign-in was refused: {why}");
        let target =
            self.account.as_ref().map_or_else(|| "unknown user".to_owned(), |name| format!("user {name}"));
        let new = NewEntry {
            project: None,
            user,
            credential: Some("password"),
            address: address.as_deref(),
            action: "sign_in",
            target: &target,
        };
        audit::note(effects, &new, AuditOutcome::Refused, Some(why.to_owned())).await;
    }
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

/// Somebody becomes a member with an invitation, for the audit log.
struct Joining {
    project: ProjectId,
    target: String,
    address: Option<String>,
}

impl Joining {
    fn new(invitation: &Invitation, origin: &Origin) -> Joining {
        Joining {
            project: invitation.project_id,
            target: format!("invitation {} as {}", invitation.id, invitation.role),
            address: address_text(origin),
        }
    }

    fn entry<'a>(&'a self, user: &'a str, credential: Option<&'a str>) -> NewEntry<'a> {
        NewEntry {
            project: Some(self.project),
            user,
            credential,
            address: self.address.as_deref(),
            action: "join_project",
            target: &self.target,
        }
    }
}
