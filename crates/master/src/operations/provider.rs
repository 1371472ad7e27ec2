//! Sign-in through an identity provider: whom it makes a user, what groups give, and links with users that exist.

use chrono::Utc;
use gaffer_domain::groups::{Granted, suggested_name};
use gaffer_domain::members::{InvalidName, MemberRole, Name};
use gaffer_domain::permissions::Action;
use gaffer_domain::{ProjectId, passwords};
use gaffer_protocol::audit::AuditOutcome;
use serde_json::json;

use super::context::Effects;
use super::sign_in::{Opening, Origin};
use super::{Actor, Context, OperationError, audit};
use crate::oidc::{Answer, Identity, OidcError, Provider, Purpose};
use crate::records::LinkedIdentity;
use crate::store::StoreError;
use crate::store::accounts::NewWebSession;
use crate::store::audit::{Ended, NewEntry};
use crate::store::identities::{IdentityLinked, ProvenIdentity, ProviderSignIn, SignedInByProvider};

/// The provider, as the audit log calls what somebody has shown.
const CREDENTIAL: &str = "sign-in provider";

/// How a way through the provider ended.
#[derive(Debug)]
pub enum Arrival {
    /// A session for the browser to keep, and where it goes.
    SignedIn { session: String, next: Option<String>, replaces: Vec<String> },
    /// The identity is linked with the user who began.
    Linked,
    /// The name is taken, or there is none to suggest: the newcomer chooses another one. For the browser's cookie.
    NeedsName { waiting: String, suggestion: Option<String>, is_taken: bool },
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum NotArrived {
    #[error(transparent)]
    Provider(#[from] OidcError),
    /// The user is disabled.
    #[error("this user is disabled; ask an administrator")]
    Disabled,
    /// Nobody is linked, and the groups give nothing.
    #[error(
        "{0} is not known here, and none of their groups gives a role in gaffer: ask an administrator, or sign in otherwise \
         and link the provider on the page Account"
    )]
    NoRole(String),
    /// It is linked with somebody else.
    #[error("{0} is linked with another user already")]
    LinkedWithOther(String),
    /// They have another identity of the provider.
    #[error(
        "your account is linked with another identity of this provider: unlink that first, on the page Account"
    )]
    HasIdentity,
    #[error("invalid name: {0}")]
    Name(InvalidName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ends a way through the provider.
///
/// # Errors
/// When the provider proves nobody, or somebody who may not come in.
pub async fn arrive(
    context: &Context,
    provider: &Provider,
    cookie: Option<&str>,
    answer: Answer<'_>,
    origin: &Origin,
) -> Result<Arrival, NotArrived> {
    let (identity, purpose) = provider.end(cookie, answer, Utc::now().timestamp()).await?;
    match purpose {
        Purpose::Link { user_id, user } => {
            let linked = link(context, user_id, &user, &identity, origin).await;
            linked.map(|()| Arrival::Linked)
        }
        Purpose::SignIn { next, replaces } => {
            let name = suggested_name(&identity.name);
            enter(context, provider, identity, name, (next, replaces), origin).await
        }
    }
}

/// Ends it for a newcomer who has chosen a name.
///
/// # Errors
/// When the name is none, or the identity has waited for too long.
pub async fn arrive_as(
    context: &Context,
    provider: &Provider,
    cookie: Option<&str>,
    name: &str,
    origin: &Origin,
) -> Result<Arrival, NotArrived> {
    let (identity, next) = provider.waiting(cookie, Utc::now().timestamp())?;
    let name: Name = name.trim().parse().map_err(NotArrived::Name)?;
    enter(context, provider, identity, Some(name), (next, Vec::new()), origin).await
}

async fn enter(
    context: &Context,
    provider: &Provider,
    identity: Identity,
    name: Option<Name>,
    (next, replaces): (Option<String>, Vec<String>),
    origin: &Origin,
) -> Result<Arrival, NotArrived> {
    let roles = &provider.settings().groups;
    let granted = (!roles.is_empty()).then(|| roles.of(&identity.groups));
    let may_be_new = granted.as_ref().is_none_or(|granted| !granted.is_empty());
    let effects = context.for_nobody();
    let session = Opening::new(origin);
    // Memberships may change, also if the database does not say whether they have.
    let _checked = effects.wakes.key_check.call_on_drop();
    let newcomer = name.as_ref().filter(|_| may_be_new);
    let opened = NewWebSession { credential: CREDENTIAL, ..session.to_store() };
    let entered =
        effects.writes.identity_sign_in(proven(&identity), newcomer, granted.as_ref(), opened).await?;
    let is_taken = match entered {
        ProviderSignIn::Done(done) => {
            note_entry(effects, &done, granted.as_ref(), origin).await;
            let session = session.opened(context);
            return Ok(Arrival::SignedIn { session, next, replaces });
        }
        ProviderSignIn::Disabled => return Err(NotArrived::Disabled),
        ProviderSignIn::Unknown if !may_be_new => return Err(NotArrived::NoRole(shown(&identity))),
        ProviderSignIn::Unknown => false,
        ProviderSignIn::NameTaken => true,
    };
    let waiting = provider.wait(identity, next, Utc::now().timestamp());
    Ok(Arrival::NeedsName { waiting, suggestion: name.map(|name| name.to_string()), is_taken })
}

/// Begins to link an identity with the actor's user. `present`: their password, if they have one.
///
/// # Errors
/// When the password is wrong, or the session is for one project only.
pub async fn may_link(context: &Context, actor: &Actor, present: &str) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::ChangePassword)?;
    whole_account(actor)?;
    let account = effects.writes.account_of(actor.user_id).await?;
    let account = account.ok_or_else(|| OperationError::NotFound("user".to_owned()))?;
    if account.password.is_none() {
        return Ok(());
    }
    let attempt = effects.password_guesses.begin(&account.name, None);
    let attempt = attempt.map_err(|_| OperationError::Busy("too many wrong passwords"))?;
    let present: String = present.chars().take(passwords::MAX_BYTES + 1).collect();
    if !effects.passwords.compare(present, account.password).await?.is_right {
        return Err(OperationError::field("/password", "this is not the present password"));
    }
    attempt.was_right();
    Ok(())
}

/// The identities that are linked with the actor's user.
///
/// # Errors
/// When the database does not answer.
pub async fn identities(context: &Context, actor: &Actor) -> Result<Vec<LinkedIdentity>, OperationError> {
    let views = context.permit_to_look(actor, Action::ManageSessions)?;
    Ok(views.reads.identity_list(actor.user_id).await?)
}

/// Takes a link away.
///
/// # Errors
/// When there is no such link, or the user could not sign in any more.
pub async fn unlink(context: &Context, actor: &Actor, identity: i64) -> Result<(), OperationError> {
    let effects = context.permit(actor, Action::ChangePassword)?;
    let known = identities(context, actor).await?;
    if !known.iter().any(|known| known.id == identity) {
        return Err(OperationError::NotFound(format!("identity {identity}")));
    }
    whole_account(actor)?;
    let account = effects.writes.account_of(actor.user_id).await?;
    if account.is_none_or(|account| account.password.is_none()) {
        let detail = "set a password first: without it and the provider you could not sign in any more";
        return Err(OperationError::field("/identity", detail));
    }
    let name = effects.writes.identity_unlink(actor.user_id, identity).await?;
    let name = name.ok_or_else(|| OperationError::NotFound(format!("identity {identity}")))?;
    let (target, address) = (format!("identity {name} of user {}", actor.user), actor.address_text());
    let new = NewEntry { project: None, ..actor.entry("unlink_identity", &target, address.as_deref()) };
    audit::note(effects, &new, AuditOutcome::Done, None).await;
    Ok(())
}

/// Refuses what a session for one project must not do to an account.
fn whole_account(actor: &Actor) -> Result<(), OperationError> {
    match actor.limited_to {
        None => Ok(()),
        Some(_) => {
            let detail = "this session is for one project only: sign in with a password or a link of an administrator first";
            Err(OperationError::field("/password", detail))
        }
    }
}

async fn link(
    context: &Context,
    user_id: i64,
    user: &str,
    identity: &Identity,
    origin: &Origin,
) -> Result<(), NotArrived> {
    let effects = context.for_nobody();
    match effects.writes.identity_link(user_id, proven(identity)).await? {
        IdentityLinked::Done => {}
        IdentityLinked::Others => return Err(NotArrived::LinkedWithOther(shown(identity))),
        IdentityLinked::HasOne => return Err(NotArrived::HasIdentity),
    }
    let target = format!("identity {} of user {user}", shown(identity));
    note(effects, (None, user), ("link_identity", &target), None, origin).await;
    Ok(())
}

fn proven(identity: &Identity) -> ProvenIdentity<'_> {
    ProvenIdentity { issuer: &identity.issuer, subject: &identity.subject, name: &identity.name }
}

/// What the provider calls somebody, for people.
fn shown(identity: &Identity) -> String {
    let text = if identity.name.is_empty() { &identity.subject } else { &identity.name };
    text.chars().filter(|char| !char.is_control()).take(60).collect()
}

/// Notes what a sign-in has made and changed.
async fn note_entry(
    effects: &Effects,
    done: &SignedInByProvider,
    granted: Option<&Granted>,
    origin: &Origin,
) {
    let user = done.user.as_str();
    let subject = format!("user {user}");
    if done.is_new {
        note(effects, (None, user), ("register", &subject), None, origin).await;
    }
    for (project, change) in &done.changes {
        let after = json!({ "role": change.role.map(MemberRole::as_str), "by": "groups" });
        let target = format!("member {user}");
        let action = (Action::ManageMembers.name(), target.as_str());
        note(effects, (Some(*project), user), action, Some(after), origin).await;
    }
    if let Some(is_admin) = done.installation_admin {
        let after = json!({ "admin": is_admin, "by": "groups" });
        note(effects, (None, user), (Action::ManageUsers.name(), &subject), Some(after), origin).await;
    }
    if granted.is_some() && !done.missing_projects.is_empty() {
        tracing::warn!(projects = ?done.missing_projects, "GAFFER_OIDC_GROUPS names projects that do not exist");
    }
}

async fn note(
    effects: &Effects,
    (project, user): (Option<ProjectId>, &str),
    (action, target): (&str, &str),
    after: Option<serde_json::Value>,
    origin: &Origin,
) {
    let address = origin.address.map(|address| address.to_string());
    let new =
        NewEntry { project, user, credential: Some(CREDENTIAL), address: address.as_deref(), action, target };
    let ended = Ended { outcome: AuditOutcome::Done, detail: None, before: None, after };
    match effects.writes.audit_begin(&new, Some(&ended)).await {
        Ok(_) => effects.wakes.audit.call(),
        Err(error) => tracing::warn!(%error, action, "cannot note something in the audit log"),
    }
}
