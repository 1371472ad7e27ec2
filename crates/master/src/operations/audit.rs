//! The audit log: every change by a user is noted before it is made, and how it ended afterwards.

use gaffer_domain::ProjectId;
use gaffer_domain::permissions::Action;
use gaffer_protocol::audit::{AuditEntry, AuditOutcome};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::context::Effects;
use super::{Actor, Context, OperationError};
use crate::store::StoreError;
use crate::store::audit::{AuditFilter, Ended, NewEntry};

/// The longest text about what is changed.
const MAX_TARGET_CHARS: usize = 200;

/// Which chain: that of the actor's project, or the installation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chain {
    #[default]
    Project,
    Installation,
}

impl Chain {
    fn action(self) -> Action {
        match self {
            Chain::Project => Action::ReadAudit,
            Chain::Installation => Action::ReadAuditOfInstallation,
        }
    }

    fn project(self, actor: &Actor) -> Option<ProjectId> {
        (self == Chain::Project).then_some(actor.project)
    }
}

/// A change that is noted and under way. What is not ended is noted as unknown later.
#[must_use = "how it ended has to be noted"]
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// What it is made with.
    pub effects: &'a Effects,
    entry: i64,
    before: Option<Value>,
    after: Option<Value>,
}

impl Change<'_> {
    /// What it was before, as far as it changes.
    pub fn before(&mut self, what: impl Serialize) {
        self.before = serde_json::to_value(what).ok();
    }

    /// What it is now.
    pub fn after(&mut self, what: impl Serialize) {
        self.after = serde_json::to_value(what).ok();
    }

    /// Notes how it ended. If the database does not take that, the entry says that nobody knows.
    ///
    /// # Errors
    /// Those of the change itself.
    pub async fn end<T>(self, result: Result<T, OperationError>) -> Result<T, OperationError> {
        let ended = match &result {
            Ok(_) => {
                Ended { outcome: AuditOutcome::Done, detail: None, before: self.before, after: self.after }
            }
            Err(error) => Ended {
                outcome: outcome_of(error),
                detail: Some(detail_of(error)),
                before: self.before,
                after: None,
            },
        };
        if let Err(error) = self.effects.writes.audit_end(self.entry, &ended).await {
            tracing::warn!(%error, entry = self.entry, "cannot note in the audit log how something ended");
        }
        self.effects.wakes.audit.call();
        result
    }
}

/// Why something was not done, without what the database says of its own.
fn detail_of(error: &OperationError) -> String {
    match error {
        OperationError::Store(error) => format!("the database did not do it: {}", error.kind()),
        error => error.to_string(),
    }
}

fn outcome_of(error: &OperationError) -> AuditOutcome {
    match error {
        OperationError::Store(error) if error.may_have_happened() => AuditOutcome::Unknown,
        OperationError::Store(StoreError::ProjectGone) => AuditOutcome::Refused,
        OperationError::Store(_)
        | OperationError::ShuttingDown(_)
        | OperationError::Busy(_)
        | OperationError::SecretsUnavailable(_) => AuditOutcome::Failed,
        OperationError::NotAllowed { .. }
        | OperationError::ScopeMissing { .. }
        | OperationError::MoreThanOwn { .. }
        | OperationError::NotFound(_)
        | OperationError::Invalid { .. }
        | OperationError::InvalidSpec(_)
        | OperationError::KeyReused
        | OperationError::Conflict { .. } => AuditOutcome::Refused,
    }
}

impl Actor {
    /// What the actor asks for, as the audit log has it.
    pub(super) fn entry<'a>(
        &'a self,
        action: &'a str,
        target: &'a str,
        address: Option<&'a str>,
    ) -> NewEntry<'a> {
        NewEntry {
            project: Some(self.project),
            user: &self.user,
            credential: self.shown.name.as_deref(),
            address,
            action,
            target,
        }
    }

    /// The address that the actor's request came from.
    pub(super) fn address_text(&self) -> Option<String> {
        self.shown.address.map(|address| address.to_string())
    }
}

impl Context {
    /// Begins a change, if the actor is allowed the action: notes first that it is asked for. `target`: what is changed, such as
    /// `job 42`.
    ///
    /// # Errors
    /// When it is not allowed, or cannot be noted.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        action: Action,
        target: &str,
    ) -> Result<Change<'_>, OperationError> {
        self.change_in(Some(actor.project), actor, action, target).await
    }

    /// The same for what is in the chain of another project, or with none in that of the installation.
    ///
    /// # Errors
    /// When it is not allowed, or cannot be noted.
    pub(super) async fn change_in(
        &self,
        project: Option<ProjectId>,
        actor: &Actor,
        action: Action,
        target: &str,
    ) -> Result<Change<'_>, OperationError> {
        if let Err(refused) = actor.must_be_allowed(action) {
            note_refusal(self, actor, action, target, &refused).await;
            return Err(refused);
        }
        let effects = self.permit(actor, action)?;
        let (target, address) = (one_line(target), actor.address_text());
        let new = NewEntry { project, ..actor.entry(action.name(), &target, address.as_deref()) };
        let entry = effects.writes.audit_begin(&new, None).await?;
        Ok(Change { effects, entry, before: None, after: None })
    }
}

/// Notes that an actor was refused something, unless the same was noted a short time ago.
pub async fn note_refusal(
    context: &Context,
    actor: &Actor,
    action: Action,
    target: &str,
    refused: &OperationError,
) {
    let effects = context.for_nobody();
    if !effects.refusals.is_news((actor.shown.credential, action), Instant::now()) {
        return;
    }
    let (target, address) = (one_line(target), actor.address_text());
    let new = actor.entry(action.name(), &target, address.as_deref());
    note(effects, &new, AuditOutcome::Refused, Some(refused.to_string())).await;
}

/// The same for who does not wait for that.
pub(super) fn note_refusal_soon(context: &Context, actor: &Actor, action: Action, refused: &OperationError) {
    let effects = context.for_nobody();
    if !effects.refusals.is_news((actor.shown.credential, action), Instant::now()) {
        return;
    }
    let (writes, wake) = (effects.writes.clone(), effects.wakes.audit.clone());
    let (actor, detail) = (actor.clone(), refused.to_string());
    tokio::spawn(async move {
        let address = actor.address_text();
        let new = actor.entry(action.name(), "dashboard", address.as_deref());
        let ended = Ended { outcome: AuditOutcome::Refused, detail: Some(detail), before: None, after: None };
        match writes.audit_begin(&new, Some(&ended)).await {
            Ok(_) => wake.call(),
            Err(error) => {
                tracing::warn!(%error, action = new.action, "cannot note a refusal in the audit log")
            }
        }
    });
}

/// A text that others have written, as the log takes it.
fn one_line(text: &str) -> String {
    let visible = |char: char| if char.is_control() { ' ' } else { char };
    text.chars().map(visible).take(MAX_TARGET_CHARS).collect()
}

/// Notes something that has ended at once.
pub(super) async fn note(
    effects: &Effects,
    new: &NewEntry<'_>,
    outcome: AuditOutcome,
    detail: Option<String>,
) {
    let ended = Ended { outcome, detail, before: None, after: None };
    match effects.writes.audit_begin(new, Some(&ended)).await {
        Ok(_) => effects.wakes.audit.call(),
        Err(error) => tracing::warn!(%error, action = new.action, "cannot note something in the audit log"),
    }
}

/// Entries, newest first.
///
/// # Errors
/// When the actor may not read them, or the database does not answer.
pub async fn list(
    context: &Context,
    actor: &Actor,
    chain: Chain,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<AuditEntry>, OperationError> {
    let views = context.permit_to_look(actor, chain.action())?;
    Ok(views.reads.audit_list(chain.project(actor), filter, limit).await?)
}

/// Lines of a chain with their hashes, from after a number on.
///
/// # Errors
/// When the actor may not read them, or the database does not answer.
pub async fn lines(
    context: &Context,
    actor: &Actor,
    chain: Chain,
    after: u64,
    limit: u32,
) -> Result<Vec<String>, OperationError> {
    let views = context.permit_to_look(actor, chain.action())?;
    Ok(views.reads.audit_lines(chain.project(actor), after, limit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_short_line() {
        assert_eq!(one_line("key a\nb\0"), "key a b ");
        assert_eq!(one_line(&"x".repeat(1_000)).chars().count(), MAX_TARGET_CHARS);
    }
}
