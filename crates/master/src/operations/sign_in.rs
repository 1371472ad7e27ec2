//! Authentication: keys, sign-in links, browser sessions. Guesses are rate-limited.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use gaffer_domain::permissions::{Action, Standing};
use gaffer_domain::scopes::Scopes;
use gaffer_domain::{ProjectId, Time};
use gaffer_protocol::audit::AuditOutcome;

use super::context::Effects;
use super::{Actor, Context, OperationError, Shown, audit};
use crate::guesses::{Presented, TooMany};
use crate::listener::network_of;
use crate::open_streams::Credential;
use crate::records::KeyKind;
use crate::secret::{NewSecret, Purpose, beginning_of, hash_of};
use crate::store::StoreError;
use crate::store::accounts::{NewWebSession, SessionOrigin};
use crate::store::audit::NewEntry;
use crate::store::keys::{KeyHolder, KeyRefusal};
use crate::store::web_sessions::{MemberOf, SignedIn, Wanted};

/// Idle timeout of a browser session.
pub const SESSION_IDLE_SECS: u32 = 7 * 24 * 3_600;
/// Maximum lifetime of a browser session.
pub const SESSION_SECS: u32 = 30 * 24 * 3_600;
/// The most sessions of a request that are looked up.
const MAX_SESSIONS: usize = 4;
/// Lifetime of a requested sign-in link.
const LINK_VALID_SECS: u32 = 15 * 60;
/// A browser session, as the audit log calls it.
const BROWSER_SESSION: &str = "browser session";
/// The user that a new installation has.
pub const FIRST_USER: &str = "admin";

/// Why authentication failed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// What they present is no good.
    #[error("{detail}")]
    Unauthorized {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        detail: &'static str,
    },
    /// Too many unknown secrets came from there; the wait until the next may be tried.
    #[error("too many unknown keys or sign-in links from this address")]
    TooMany(Duration),
    /// The database did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A link that signs in, once.
#[derive(Debug, Clone)]
pub struct Link {
    pub token: String,
    /// It is refused from then on.
    pub expires_at: Time,
}

/// Where somebody signs in from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The address of the connection, or of its proxy.
    pub address: Option<IpAddr>,
    /// What the browser says it is.
    pub browser: Option<String>,
}

/// Who looks at the dashboard.
#[derive(Debug, Clone)]
pub enum Visit {
    /// Nobody is signed in.
    Nobody,
    /// Somebody who is no member of the project.
    Stranger,
    Member(Visitor),
}

/// A member who is signed in.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub actor: Actor,
    /// Name of the project.
    pub project: Arc<str>,
    /// Names of all projects that they can go to.
    pub projects: Arc<[String]>,
}

/// The user whose key this is, with their present role in the key's project.
///
/// # Errors
/// When it is no user's, or no good.
pub async fn user_of_key(context: &Context, key: &str, address: Option<IpAddr>) -> Result<Actor, Refused> {
    let holder = holder_of_key(context, KeyKind::User, key, address).await?;
    let Some(user) = holder.user else { return Err(refused("key_wrong_kind", "not a user key")) };
    let name = format!("key {} ({})", holder.key, holder.name);
    Ok(Actor {
        project: holder.project,
        standing: Standing { role: user.role.role(), is_installation_admin: user.is_admin },
        scopes: holder.scopes,
        user_id: user.id,
        user: user.name.into(),
        limited_to: Some(holder.project),
        shown: Shown { credential: Some(Credential::Key(holder.key)), name: Some(name.into()), address },
    })
}

/// The monitoring system, if this is the token for metrics. Asks no database, and charges nobody for a wrong one: the token
/// is too long to be guessed.
pub fn monitor_of_token(context: &Context, token: &str) -> Option<Actor> {
    context.monitor(token)
}

/// The holder of a key of the wanted kind. `address`: of the connection it comes from, to be shown with the key.
///
/// # Errors
/// When it is of another kind, or no good.
pub async fn holder_of_key(
    context: &Context,
    kind: KeyKind,
    key: &str,
    address: Option<IpAddr>,
) -> Result<KeyHolder, Refused> {
    let (wanted, other) = match kind {
        KeyKind::Worker => (Purpose::WorkerKey, Purpose::UserKey),
        KeyKind::User => (Purpose::UserKey, Purpose::WorkerKey),
    };
    let Some(sha256) = hash_of(key, wanted) else {
        return Err(match (hash_of(key, other), kind) {
            (Some(_), KeyKind::Worker) => {
                refused("key_wrong_kind", "workers need a worker key; this is a user key")
            }
            (Some(_), KeyKind::User) => {
                refused("key_wrong_kind", "the API needs a user key; this is a worker key")
            }
            (None, _) => refused("key_malformed", "malformed key: truncated, or not a gaffer key"),
        });
    };
    let effects = context.for_nobody();
    let presented = presented(&sha256, key, address);
    may_ask(effects, presented).await?;
    let checked = effects.writes.key_check(&sha256, address).await?;
    match &checked {
        Ok(_) => effects.guesses.is_good(presented),
        Err(_) => effects.guesses.is_wrong(presented),
    }
    checked.map_err(|refusal| match refusal {
        KeyRefusal::Unknown => refused("key_unknown", "unknown key"),
        KeyRefusal::Revoked => refused("key_revoked", "the key was revoked"),
        KeyRefusal::Expired => refused("key_expired", "the key has expired"),
        KeyRefusal::UserDisabled => refused("user_disabled", "the user of this key is disabled"),
        KeyRefusal::NoMember => {
            refused("not_a_member", "the user of this key is no member of its project any more")
        }
    })
}

/// The user of the first valid session, if any, in the wanted project. After too many unknown ones the result is none, without an error,
/// because expired cookies are sent with every request.
///
/// # Errors
/// When the database does not answer.
pub async fn user_of_session(
    context: &Context,
    sessions: impl Iterator<Item = &str>,
    address: Option<IpAddr>,
    wanted: Wanted<'_>,
) -> Result<Visit, StoreError> {
    let effects = context.for_nobody();
    let mut wrong: Vec<([u8; 32], &str)> = Vec::new();
    for (sha256, token) in well_formed(sessions) {
        let presented = presented(&sha256, token, address);
        if effects.guesses.may_ask(&effects.writes, presented).await?.is_err() {
            continue;
        }
        if let Some(session) = effects.writes.web_session_check(&sha256, SESSION_IDLE_SECS, wanted).await? {
            effects.guesses.is_good(presented);
            // The cookie of another gaffer on this host is no guess beside one that is good.
            let beside = wrong.iter().map(|(sha256, token)| self::presented(sha256, token, address));
            beside.for_each(|stale| effects.guesses.is_no_guess(stale));
            let shown = |project| Shown {
                credential: Some(Credential::WebSession(sha256, project)),
                name: Some(BROWSER_SESSION.into()),
                address,
            };
            return Ok(visitor(session, shown).map_or(Visit::Stranger, Visit::Member));
        }
        wrong.push((sha256, token));
    }
    for (sha256, token) in wrong {
        effects.guesses.is_wrong(presented(&sha256, token, address));
    }
    Ok(Visit::Nobody)
}

/// Somebody who is signed in, if they are a member of the wanted project. A session may be used for all that its user may do.
fn visitor(session: SignedIn, shown: impl FnOnce(ProjectId) -> Shown) -> Option<Visitor> {
    let SignedIn { user_id, user, is_admin, limited_to, member, projects } = session;
    let MemberOf { project, name, role } = member?;
    let actor = Actor {
        project,
        standing: Standing { role: role.role(), is_installation_admin: is_admin },
        scopes: Scopes::ALL,
        user_id,
        user: user.into(),
        limited_to,
        shown: shown(project),
    };
    Some(Visitor { actor, project: name.into(), projects: projects.into() })
}

/// Uses up a link. Gives the session that it opens, for the browser to keep; none if the link is unknown, used or too old.
///
/// # Errors
/// When too many unknown ones came from there, or the database does not answer.
pub async fn use_link(context: &Context, token: &str, origin: &Origin) -> Result<Option<String>, Refused> {
    let Some(link) = hash_of(token, Purpose::LoginLink) else { return Ok(None) };
    let effects = context.for_nobody();
    let presented = presented(&link, token, origin.address);
    may_ask(effects, presented).await?;
    let session = Opening::new(origin);
    if !effects.writes.login_link_use(&link, session.to_store()).await? {
        effects.guesses.is_wrong(presented);
        return Ok(None);
    }
    Ok(Some(session.opened(context)))
}

/// A browser session that is being opened.
pub(super) struct Opening {
    secret: NewSecret,
    origin: Origin,
    address: Option<String>,
}

impl Opening {
    pub(super) fn new(origin: &Origin) -> Opening {
        Opening {
            secret: NewSecret::new(Purpose::WebSession),
            address: origin.address.map(|address| address.to_string()),
            origin: origin.clone(),
        }
    }

    pub(super) fn to_store(&self) -> NewWebSession<'_> {
        let origin =
            SessionOrigin { address: self.address.as_deref(), browser: self.origin.browser.as_deref() };
        NewWebSession { sha256: &self.secret.sha256, secs: SESSION_SECS, origin, credential: BROWSER_SESSION }
    }

    /// It is stored and noted: what the browser keeps.
    pub(super) fn opened(self, context: &Context) -> String {
        let effects = context.for_nobody();
        effects.guesses.is_made(&self.secret.sha256);
        effects.wakes.audit.call();
        self.secret.text
    }
}

/// Notes in the audit log that a browser session ends.
async fn note_sign_out(context: &Context, session: &[u8; 32], address: Option<IpAddr>) {
    let effects = context.for_nobody();
    match effects.writes.web_session_check(session, SESSION_IDLE_SECS, Wanted::Any).await {
        Ok(Some(found)) => {
            let address = address.map(|address| address.to_string());
            let new = NewEntry {
                // A session is for all projects of its user.
                project: None,
                user: &found.user,
                credential: Some(BROWSER_SESSION),
                address: address.as_deref(),
                action: "sign_out",
                target: &format!("user {}", found.user),
            };
            audit::note(effects, &new, AuditOutcome::Done, None).await;
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "cannot note a sign-out in the audit log"),
    }
}

/// Ends browser sessions, and the responses that they read.
///
/// # Errors
/// When the database does not answer.
pub async fn sign_out(
    context: &Context,
    sessions: impl Iterator<Item = &str>,
    address: Option<IpAddr>,
) -> Result<(), StoreError> {
    let effects = context.for_nobody();
    for (sha256, _) in well_formed(sessions) {
        note_sign_out(context, &sha256, address).await;
        effects.writes.web_session_delete(&sha256).await?;
        effects.open_streams.end_session(&sha256);
    }
    Ok(())
}

/// A link that signs the actor in to the dashboard, in the project of their key only.
///
/// # Errors
/// When the database does not answer.
pub async fn create_link(context: &Context, actor: &Actor) -> Result<Link, OperationError> {
    let change = context.change(actor, Action::CreateSignInLink, &format!("user {}", actor.user)).await?;
    let link = link(change.effects, actor.user_id, actor.limited_to, LINK_VALID_SECS).await;
    change.end(link.map_err(OperationError::from)).await
}

/// The administrator of the installation who has been there for longest: the operator, who starts the master.
///
/// # Errors
/// When the database does not answer.
pub async fn operator(context: &Context) -> Result<Actor, StoreError> {
    let administrator = context.for_nobody().writes.administrator().await?;
    let visitor = administrator.and_then(|administrator| visitor(administrator, |_| Shown::default()));
    let nobody = || StoreError::Unreadable("nobody administers the installation".to_owned());
    visitor.map(|visitor| visitor.actor).ok_or_else(nobody)
}

/// A link for the operator, who sees it where the master is started.
///
/// # Errors
/// When the database does not answer.
pub async fn link_for_operator(context: &Context, valid_secs: u32) -> Result<Link, StoreError> {
    let operator = operator(context).await?;
    link(context.for_nobody(), operator.user_id, None, valid_secs).await
}

/// A link that signs a user in, to all of their projects or to one.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn link(
    effects: &Effects,
    user_id: i64,
    limited_to: Option<ProjectId>,
    valid_secs: u32,
) -> Result<Link, StoreError> {
    let secret = NewSecret::new(Purpose::LoginLink);
    effects.writes.login_link_insert(user_id, limited_to, &secret.sha256, valid_secs).await?;
    effects.guesses.is_made(&secret.sha256);
    let expires_at = Utc::now() + TimeDelta::seconds(i64::from(valid_secs));
    Ok(Link { token: secret.text, expires_at })
}

pub(super) async fn may_ask(effects: &Effects, presented: Presented<'_>) -> Result<(), Refused> {
    let asked = effects.guesses.may_ask(&effects.writes, presented).await?;
    asked.map_err(|TooMany(wait)| Refused::TooMany(wait))
}

pub(super) fn presented<'a>(sha256: &'a [u8; 32], text: &'a str, address: Option<IpAddr>) -> Presented<'a> {
    Presented { sha256, beginning: beginning_of(text), address: address.map(network_of) }
}

fn well_formed<'a>(sessions: impl Iterator<Item = &'a str>) -> impl Iterator<Item = ([u8; 32], &'a str)> {
    sessions.filter_map(|session| Some((hash_of(session, Purpose::WebSession)?, session))).take(MAX_SESSIONS)
}

fn refused(code: &'static str, detail: &'static str) -> Refused {
    Refused::Unauthorized { code, detail }
}
