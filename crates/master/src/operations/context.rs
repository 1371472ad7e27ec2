//! What operations work with; everything that changes state requires a permission check.

use std::net::IpAddr;
use std::sync::Arc;

use gaffer_domain::permissions::{Action, Role, Standing};
use gaffer_domain::scopes::Scopes;
use gaffer_domain::{AttemptRef, ProjectId, Time};
use tokio::sync::Mutex;

use super::audit::note_refusal_soon;
use super::recent::Recent;
use super::{Actor, OperationError, Shown};
use crate::changes::Changes;
use crate::control::Control;
use crate::guesses::Guesses;
use crate::health::Healths;
use crate::hub::Hub;
use crate::input::Inputs;
use crate::large_jobs::LargeJobs;
use crate::open_streams::{Credential, OpenStreams};
use crate::password_guesses::PasswordGuesses;
use crate::passwords::Passwords;
use crate::scheduling_state::SchedulingState;
use crate::secret::MetricsToken;
use crate::store::WriteStore;
use crate::vault::Vault;
use crate::views::Views;
use crate::wakes::Wakes;
use crate::write_batcher::WriteBatcherHandle;

#[derive(Debug)]
pub struct Context {
    effects: Effects,
    views: Arc<Views>,
    /// The first project of the installation.
    first_project: ProjectId,
    metrics_token: Option<MetricsToken>,
}

/// What operations change things with.
#[derive(Debug)]
pub(super) struct Effects {
    /// Changes by users. An accepted request reads its response here, too, so that viewers cannot turn it into an
    /// error.
    pub writes: WriteStore,
    /// The way to `store/transitions`.
    pub write_batcher: WriteBatcherHandle,
    pub hub: Hub,
    /// Pending writes to standard input.
    pub inputs: Inputs,
    /// Tells viewers.
    pub changes: Changes,
    /// Responses that end with their key or session.
    pub open_streams: OpenStreams,
    /// What health checks say, for the jobs of responses.
    pub healths: Healths,
    /// Wakes loops.
    pub wakes: Wakes,
    /// Takes jobs whose dependencies are to be settled.
    pub large_jobs: LargeJobs,
    /// Learns what comes to wait.
    pub scheduling: SchedulingState,
    /// Rate limits for unknown keys.
    pub guesses: Guesses,
    /// Rate limits for wrong passwords.
    pub password_guesses: PasswordGuesses,
    /// Rate limits for new users, by address.
    pub registrations: PasswordGuesses,
    /// Which sign-ins were refused a short time ago: user, network, reason.
    pub wrong_passwords: Recent<(Option<String>, Option<IpAddr>, &'static str)>,
    /// Computes hashes of passwords.
    pub passwords: Passwords,
    /// What was refused a short time ago.
    pub refusals: Recent<(Option<Credential>, Action)>,
    /// Who wrote to standard input a short time ago.
    pub writers: Recent<(Option<Credential>, AttemptRef)>,
    /// Encrypts secrets.
    pub vault: Arc<Vault>,
    /// Held while the first version of a service is submitted by its name, so that two requests make one service. Nobody else
    /// submits: only one master leads.
    pub new_services: Mutex<()>,
}

impl Context {
    /// For a master with these parts.
    pub fn new(
        control: &Control,
        writes: WriteStore,
        views: Arc<Views>,
        first_project: ProjectId,
        metrics_token: Option<MetricsToken>,
    ) -> Context {
        let effects = Effects {
            writes,
            write_batcher: control.write_batcher.clone(),
            hub: control.hub.clone(),
            inputs: control.inputs.clone(),
            changes: control.changes.clone(),
            open_streams: views.open_streams.clone(),
            healths: control.healths.clone(),
            wakes: control.wakes.clone(),
            large_jobs: control.large_jobs.clone(),
            scheduling: control.scheduling.clone(),
            guesses: Guesses::default(),
            password_guesses: PasswordGuesses::default(),
            registrations: PasswordGuesses::default(),
            wrong_passwords: Recent::default(),
            passwords: Passwords::default(),
            refusals: Recent::default(),
            writers: Recent::default(),
            vault: control.vault.clone(),
            new_services: Mutex::default(),
        };
        Context { effects, views, first_project, metrics_token }
    }

    /// Access to changes, if the actor is allowed the action.
    pub(super) fn permit(&self, actor: &Actor, action: Action) -> Result<&Effects, OperationError> {
        self.check(actor, action)?;
        Ok(&self.effects)
    }

    /// Access to reads, if the actor is allowed the action.
    pub(super) fn permit_to_look(&self, actor: &Actor, action: Action) -> Result<&Views, OperationError> {
        self.check(actor, action)?;
        Ok(&self.views)
    }

    fn check(&self, actor: &Actor, action: Action) -> Result<(), OperationError> {
        actor.must_be_allowed(action).inspect_err(|refused| note_refusal_soon(self, actor, action, refused))
    }

    /// Access without an actor: for authentication, registration and readiness.
    pub(super) fn for_nobody(&self) -> &Effects {
        &self.effects
    }

    /// The monitoring system, if this is its token.
    pub(super) fn monitor(&self, presented: &str) -> Option<Actor> {
        self.metrics_token.as_ref().filter(|token| token.is(presented))?;
        let project = self.first_project;
        Some(Actor {
            project,
            standing: Standing::only(Role::Monitor),
            scopes: Scopes::ALL,
            user_id: 0,
            user: Role::Monitor.as_str().into(),
            limited_to: Some(project),
            shown: Shown::default(),
        })
    }

    /// Since when the database accepts nothing, while that lasts.
    pub(super) fn accepts_nothing_since(&self) -> Option<Time> {
        self.views.status.troubles.database().map(|trouble| trouble.since)
    }
}
