//! Notes in the audit log what somebody may not do, once a minute for each credential and action.

use gaffer_domain::permissions::Action;
use gaffer_protocol::audit::AuditOutcome;
use tokio::time::Instant;

use super::recent::Recent;
use super::{Actor, OperationError};
use crate::open_streams::Credential;
use crate::store::WriteStore;
use crate::store::audit::Ended;
use crate::wakes::Wake;

/// What was refused a short time ago, and where it is noted.
#[derive(Debug)]
pub(super) struct Refusals {
    recent: Recent<(Option<Credential>, Action)>,
    writes: WriteStore,
    wake: Wake,
}

impl Refusals {
    pub fn new(writes: WriteStore, wake: Wake) -> Refusals {
        Refusals { recent: Recent::default(), writes, wake }
    }

    /// Whether this refusal is to be noted.
    pub fn is_news(&self, actor: &Actor, action: Action) -> bool {
        self.recent.is_news((actor.shown.credential, action), Instant::now())
    }

    /// Notes one in the background: who is refused does not wait for that.
    pub fn note(&self, actor: &Actor, action: Action, refused: &OperationError) {
        if !self.is_news(actor, action) {
            return;
        }
        let (writes, wake) = (self.writes.clone(), self.wake.clone());
        let (actor, detail) = (actor.clone(), refused.to_string());
        tokio::spawn(async move {
            let address = actor.address_text();
            let new = actor.entry(action.name(), "dashboard", address.as_deref());
            let ended =
                Ended { outcome: AuditOutcome::Refused, detail: Some(detail), before: None, after: None };
            match writes.audit_begin(&new, Some(&ended)).await {
                Ok(_) => wake.call(),
                Err(error) => {
                    tracing::warn!(%error, action = new.action, "cannot note a refusal in the audit log");
                }
            }
        });
    }
}
