//! Keys: create, rotate, revoke, list.

use std::time::Duration;

use chrono::Utc;
use gaffer_domain::permissions::Action;
use gaffer_domain::quantity::{Span, shown};
use gaffer_domain::scopes::{Scope, Scopes, UnknownScope};
use gaffer_domain::visible::spoils_a_line;
use gaffer_domain::worker::Sharing;
use gaffer_domain::worker::limits::WorkerLimits;
use gaffer_protocol::wire::GoodbyeCode;
use serde_json::{Value, json};

use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::open_streams::Credential;
use crate::records::{Key, KeyKind, KeyState, UnknownKeyKind};
use crate::secret::{NewSecret, Purpose};
use crate::store::keys;

const MAX_NAME_CHARS: usize = 120;
/// The most projects that a key can name.
const MAX_SHARED_WITH: usize = 100;
const MAX_EXPIRY_SECS: u64 = 100 * 365 * 24 * 3_600;
/// How long an enrolment key is good for, if nothing is said, and at most.
const DEFAULT_ENROLMENT_SECS: u64 = 3_600;
const MAX_ENROLMENT_SECS: u64 = 30 * 24 * 3_600;
/// The most workers that an enrolment key makes.
const MAX_USES: u32 = 10_000;
/// How long a replaced key is still good for, if nothing is said.
pub const DEFAULT_OVERLAP: Duration = Duration::from_secs(3_600);
/// The longest that a replaced key may be good for.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What to make a key from.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Worker or user key.
    pub kind: KeyKind,
    pub name: String,
    /// What a user key may be used for; none means what its creator may.
    pub scopes: Option<Scopes>,
    /// Whether workers with it take tasks of other projects, and of which.
    pub shared_with: Option<SharedWith>,
    /// How long it is good for; none means until it is revoked, and an hour for an enrolment key.
    pub expires_in_seconds: Option<u64>,
    /// What workers with it may claim.
    pub limits: WorkerLimits,
    /// How many workers an enrolment key makes; none means one.
    pub uses: Option<u32>,
}

/// The other projects whose tasks workers with a key take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SharedWith {
    All,
    /// Those of these names.
    Projects(Vec<String>),
}

impl SharedWith {
    /// Of what a request says: whether the key is shared, and with which projects if not with all.
    ///
    /// # Errors
    /// When projects are named and it is not shared, or none is.
    pub fn of(is_shared: bool, names: Option<Vec<String>>) -> Result<Option<SharedWith>, OperationError> {
        match (is_shared, names) {
            (false, None) => Ok(None),
            (false, Some(_)) => Err(OperationError::field(
                "/shared_with",
                "only with `shared`: name the projects of a shared key",
            )),
            (true, None) => Ok(Some(SharedWith::All)),
            (true, Some(names)) if names.is_empty() || names.len() > MAX_SHARED_WITH => {
                let detail =
                    format!("name 1 to {MAX_SHARED_WITH} projects, or leave it out to share with all");
                Err(OperationError::field("/shared_with", detail))
            }
            (true, Some(names)) => Ok(Some(SharedWith::Projects(names))),
        }
    }
}

impl NewKey {
    /// A key that may do what its creator may, until it is revoked.
    pub fn new(kind: KeyKind, name: String) -> NewKey {
        NewKey {
            kind,
            name,
            scopes: None,
            shared_with: None,
            expires_in_seconds: None,
            limits: WorkerLimits::default(),
            uses: None,
        }
    }

    /// Parses a kind and the names of scopes.
    ///
    /// # Errors
    /// When there is no such kind of key, or no such scope.
    pub fn of(
        kind: &str,
        name: String,
        scopes: Option<&[String]>,
        expires_in_seconds: Option<u64>,
    ) -> Result<NewKey, OperationError> {
        let kind = kind
            .parse()
            .map_err(|error: UnknownKeyKind| OperationError::field("/kind", error.to_string()))?;
        let scopes = match scopes {
            Some(names) => {
                let scopes: Result<Scopes, UnknownScope> =
                    names.iter().map(|name| name.parse::<Scope>()).collect();
                Some(scopes.map_err(|error| OperationError::field("/scopes", error.to_string()))?)
            }
            None => None,
        };
        Ok(NewKey { scopes, expires_in_seconds, ..NewKey::new(kind, name) })
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
/// When its name can't be shown, it would be good for too long, or it could do more than the actor.
pub async fn create(context: &Context, actor: &Actor, new: NewKey) -> Result<Created, OperationError> {
    let target = format!("{} key {}", new.kind.as_str(), new.name);
    let mut change = context.change(actor, Action::CreateKey, &target).await?;
    let created = make(change.effects, actor, new).await;
    if let Ok(created) = &created {
        change.after(about(&created.key));
    }
    change.end(created).await
}

/// What the audit log says of a new key.
fn about(key: &Key) -> Value {
    let scopes = Some(key.scopes.to_string()).filter(|scopes| !scopes.is_empty());
    let shared_with = key.shared_with.as_ref().map(|projects| match projects {
        Some(projects) => json!(projects),
        None => json!("all projects"),
    });
    let mut about =
        json!({ "key": key.id, "scopes": scopes, "shared_with": shared_with, "expires_at": key.expires_at });
    if !key.limits.is_empty() {
        about["limits"] = json!(key.limits);
    }
    if let Some(uses) = key.uses_left {
        about["uses"] = json!(uses);
    }
    about
}

async fn make(effects: &Effects, actor: &Actor, new: NewKey) -> Result<Created, OperationError> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(spoils_a_line) {
        return Err(OperationError::field("/name", "a key needs a name of 1 to 120 printable characters"));
    }
    if new.expires_in_seconds.is_some_and(|secs| secs == 0 || secs > MAX_EXPIRY_SECS) {
        let detail = "expected seconds, at most 100 years";
        return Err(OperationError::field("/expires_in_seconds", detail));
    }
    if new.kind.is_of_workers() {
        actor.must_be_allowed(Action::ManageProjectKeys)?;
    }
    let expires_in_seconds = check_for_workers(&new)?;
    let (purpose, user_id) = match new.kind {
        KeyKind::Worker => (Purpose::WorkerKey, None),
        KeyKind::Enrolment => (Purpose::EnrolmentKey, None),
        KeyKind::User => (Purpose::UserKey, Some(actor.user_id)),
    };
    let uses = (new.kind == KeyKind::Enrolment).then(|| new.uses.unwrap_or(1));
    let scopes = scopes_of(actor, &new)?;
    let sharing = sharing_of(effects, actor, &new).await?;
    let secret = NewSecret::new(purpose);
    // Also if the database does not say whether there is a key that expires now.
    let _checked = expires_in_seconds.map(|_| effects.wakes.key_check.call_on_drop());
    let new = keys::NewKey {
        user_id,
        kind: new.kind,
        name,
        scopes,
        prefix: secret.shown(),
        sha256: &secret.sha256,
        sharing: &sharing,
        expires_in_seconds,
        limits: Some(&new.limits).filter(|limits| !limits.is_empty()),
        uses,
    };
    let key = effects.writes.key_insert(actor.project, new).await?;
    effects.guesses.is_made(&secret.sha256);
    Ok(Created { key, secret: secret.text })
}

/// Checks what only keys of workers have. The lifetime of the key.
fn check_for_workers(new: &NewKey) -> Result<Option<u64>, OperationError> {
    if !new.kind.is_of_workers() && !new.limits.is_empty() {
        return Err(OperationError::field("/limits", "only keys of workers have limits"));
    }
    new.limits.check().map_err(|error| OperationError::field("/limits", error.to_string()))?;
    if new.kind != KeyKind::Enrolment {
        return match new.uses {
            Some(_) => Err(OperationError::field("/uses", "only enrolment keys have a number of uses")),
            None => Ok(new.expires_in_seconds),
        };
    }
    if new.uses.is_some_and(|uses| uses == 0 || uses > MAX_USES) {
        return Err(OperationError::field("/uses", format!("expected 1 to {MAX_USES} uses")));
    }
    let secs = new.expires_in_seconds.unwrap_or(DEFAULT_ENROLMENT_SECS);
    match secs <= MAX_ENROLMENT_SECS {
        true => Ok(Some(secs)),
        false => {
            Err(OperationError::field("/expires_in_seconds", "an enrolment key is valid for at most 30 days"))
        }
    }
}

/// The scopes of a new key: never more than its creator has.
fn scopes_of(actor: &Actor, new: &NewKey) -> Result<Scopes, OperationError> {
    let wrong = |detail: String| Err(OperationError::field("/scopes", detail));
    let scopes = match (new.kind, new.scopes) {
        (KeyKind::Worker | KeyKind::Enrolment, Some(scopes)) if !scopes.is_empty() => {
            return wrong("a key of workers has no scopes: it only lets them connect".to_owned());
        }
        (KeyKind::Worker | KeyKind::Enrolment, _) => Scopes::NONE,
        (KeyKind::User, None) => actor.scopes,
        (KeyKind::User, Some(scopes)) if scopes.is_empty() => {
            return wrong(format!("a user key needs at least one scope: {}", Scopes::ALL));
        }
        (KeyKind::User, Some(scopes)) => scopes,
    };
    actor.must_have(scopes)?;
    Ok(scopes)
}

/// Which other projects may use the workers of a new key. Only administrators of the installation share workers: these see the
/// tasks of other projects, with their environment and secrets.
async fn sharing_of(effects: &Effects, actor: &Actor, new: &NewKey) -> Result<Sharing, OperationError> {
    let Some(shared_with) = &new.shared_with else { return Ok(Sharing::Own) };
    if new.kind != KeyKind::Worker {
        return Err(OperationError::field("/shared", "only a worker key can be shared"));
    }
    actor.must_be_allowed(Action::ShareWorkers)?;
    let names = match shared_with {
        SharedWith::All => return Ok(Sharing::All),
        SharedWith::Projects(names) => names,
    };
    let found = effects.writes.projects_named(names).await?;
    if let Some(unknown) = names.iter().find(|name| !found.iter().any(|(known, _)| known == *name)) {
        return Err(OperationError::field("/shared_with", format!("there is no project {}", shown(unknown))));
    }
    Ok(Sharing::Projects(found.into_iter().map(|(_, project)| project).collect()))
}

/// Makes a key in the place of another one, which stays good for the overlap. What was opened with the old one ends then.
///
/// # Errors
/// When there is no such key, it is no good any more, was replaced before, belongs to another user, or may do more than the
/// actor.
pub async fn rotate(
    context: &Context,
    actor: &Actor,
    key: i64,
    overlap: Option<Span>,
) -> Result<Created, OperationError> {
    let mut change = context.change(actor, Action::RotateKey, &format!("key {key}")).await?;
    let rotated = replace(change.effects, actor, key, overlap).await;
    if let Ok(created) = &rotated {
        change.after(about(&created.key));
    }
    change.end(rotated).await
}

async fn replace(
    effects: &Effects,
    actor: &Actor,
    key: i64,
    overlap: Option<Span>,
) -> Result<Created, OperationError> {
    let overlap = overlap.map_or(DEFAULT_OVERLAP, |span| Duration::from_millis(span.as_millis()));
    if overlap > MAX_OVERLAP {
        return Err(OperationError::field("/overlap", "expected a duration of at most 30 days"));
    }
    let none = || OperationError::NotFound(format!("key {key}"));
    let own = others_if_allowed(actor);
    let is_theirs = |old: &Key| own.is_none() || old.user_id == own;
    let old = effects.writes.key_find(actor.project, key).await?.filter(is_theirs).ok_or_else(none)?;
    // The holder of the new key acts as the user of the old one.
    if old.user_id.is_some_and(|user| user != actor.user_id) {
        let detail = format!("key {key} belongs to another user, who alone can rotate it; revoke it instead");
        return Err(OperationError::Conflict { detail, state: old.state(Utc::now()).as_str() });
    }
    actor.must_have(old.scopes)?;
    if old.shared_with.is_some() {
        actor.must_be_allowed(Action::ShareWorkers)?;
    }
    let conflict = |why: &str| {
        let state = old.state(Utc::now()).as_str();
        Err(OperationError::Conflict { detail: format!("key {key} {why}"), state })
    };
    let purpose = match old.kind {
        KeyKind::Enrolment => return conflict("is an enrolment key; create another one"),
        KeyKind::Worker if old.is_enrolled => {
            return conflict("is a worker's own; start the worker with a new enrolment key to replace it");
        }
        KeyKind::Worker => Purpose::WorkerKey,
        KeyKind::User => Purpose::UserKey,
    };
    let secret = NewSecret::new(purpose);
    // Also if the database does not say whether the old one expires now.
    let _checked = effects.wakes.key_check.call_on_drop();
    let new = keys::Replacement { prefix: secret.shown(), sha256: &secret.sha256, overlap };
    if let Some(new) = effects.writes.key_rotate(actor.project, key, new).await? {
        effects.guesses.is_made(&secret.sha256);
        return Ok(Created { key: new, secret: secret.text });
    }
    let old = effects.writes.key_find(actor.project, key).await?.ok_or_else(none)?;
    let state = old.state(Utc::now());
    let detail = match (state, old.replaced_by) {
        (KeyState::Valid, Some(new)) => {
            format!("key {key} was rotated before; rotate key {new}, its replacement")
        }
        _ => format!("key {key} is {}; create another one", state.as_str()),
    };
    Err(OperationError::Conflict { detail, state: state.as_str() })
}

/// Revokes a key and ends the sessions that it opened, and the responses that its user reads.
///
/// # Errors
/// When there is no such key, or it is not theirs.
pub async fn revoke(context: &Context, actor: &Actor, key: i64) -> Result<(), OperationError> {
    let change = context.change(actor, Action::RevokeKey, &format!("key {key}")).await?;
    let revoked = end(change.effects, actor, key).await;
    change.end(revoked).await
}

async fn end(effects: &Effects, actor: &Actor, key: i64) -> Result<(), OperationError> {
    // Also if the database does not say whether it was revoked, or nobody waits for the answer any more.
    let _checked = effects.wakes.key_check.call_on_drop();
    if !effects.writes.key_revoke(actor.project, others_if_allowed(actor), key).await? {
        return Err(OperationError::NotFound(format!("key {key}")));
    }
    for session in effects.hub.all().iter().filter(|session| session.key == key) {
        session.end(GoodbyeCode::KeyRevoked, "the key was revoked");
    }
    effects.open_streams.end(&Credential::Key(key));
    Ok(())
}

/// The user whose keys alone the actor sees; none if they see all of the project.
fn others_if_allowed(actor: &Actor) -> Option<i64> {
    match actor.must_be_allowed(Action::ManageProjectKeys) {
        Ok(()) => None,
        Err(_) => Some(actor.user_id),
    }
}

/// The actor's keys in the project, or all of the project, newest first, from below a number on.
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
    Ok(views.reads.key_list(actor.project, others_if_allowed(actor), before, limit).await?)
}
