//! What operations work with. What changes anything is out of reach until it is said who does what.

use std::sync::Arc;

use gaffer_domain::permissions::{Action, Role};
use gaffer_domain::{ProjectId, Time};

use super::{Actor, OperationError};
use crate::changes::Changes;
use crate::control::Control;
use crate::guesses::Guesses;
use crate::hub::Hub;
use crate::input::Inputs;
use crate::store::WriteStore;
use crate::views::Views;
use crate::wakes::Wakes;
use crate::write_batcher::WriteBatcherHandle;

/// What operations work with.
#[derive(Debug)]
pub struct Context {
    effects: Effects,
    views: Arc<Views>,
    /// The project of the installation's operator.
    first_project: ProjectId,
}

/// What operations change things with.
#[derive(Debug)]
pub(super) struct Effects {
    /// What users change. What an accepted request has to read for its answer it reads here, too: viewers cannot turn it
    /// into an error.
    pub writes: WriteStore,
    /// The way to `store/transitions`.
    pub write_batcher: WriteBatcherHandle,
    /// Who is connected.
    pub hub: Hub,
    /// Standard input that is under way.
    pub inputs: Inputs,
    /// Tells viewers.
    pub changes: Changes,
    /// Wakes loops.
    pub wakes: Wakes,
    /// Who tries keys that nobody has.
    pub guesses: Guesses,
}

impl Context {
    /// For a master with these parts.
    pub fn new(
        control: &Control,
        writes: WriteStore,
        views: Arc<Views>,
        first_project: ProjectId,
    ) -> Context {
        let effects = Effects {
            writes,
            write_batcher: control.write_batcher.clone(),
            hub: control.hub.clone(),
            inputs: control.inputs.clone(),
            changes: control.changes.clone(),
            wakes: control.wakes.clone(),
            guesses: Guesses::default(),
        };
        Context { effects, views, first_project }
    }

    /// What to change things with, for somebody who may do this.
    pub(super) fn permit(&self, actor: &Actor, action: Action) -> Result<&Effects, OperationError> {
        actor.must_be_allowed(action)?;
        Ok(&self.effects)
    }

    /// What to look at, for somebody who may do this.
    pub(super) fn permit_to_look(&self, actor: &Actor, action: Action) -> Result<&Views, OperationError> {
        actor.must_be_allowed(action)?;
        Ok(&self.views)
    }

    /// The same for nobody in particular: to find out who somebody is, and whether the master can serve.
    pub(super) fn for_nobody(&self) -> &Effects {
        &self.effects
    }

    /// A user in the project of their key or session.
    pub(super) fn user(&self, project: ProjectId, user_id: i64, user: &str) -> Actor {
        let role = if project == self.first_project { Role::Operator } else { Role::User };
        Actor { project, role, user_id, user: user.into() }
    }

    /// Since when the database accepts nothing, while that lasts.
    pub(super) fn accepts_nothing_since(&self) -> Option<Time> {
        self.views.status.troubles.database().map(|trouble| trouble.since)
    }

    /// The project of the installation's operator.
    pub(super) fn first_project(&self) -> ProjectId {
        self.first_project
    }
}
