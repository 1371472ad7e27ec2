//! What a worker may claim with its key, and the exchange of an enrolment key for the worker's own key.

use gaffer_domain::worker::limits::Claims;
use gaffer_protocol::audit::AuditOutcome;
use gaffer_protocol::wire::{GoodbyeCode, Hello, OwnKey};

use super::SessionEnd;
use crate::control::Control;
use crate::records::KeyKind;
use crate::store::StoreError;
use crate::store::audit::{Ended, NewEntry};
use crate::store::enrolment::{Enrolled, Enrolling};
use crate::store::keys::KeyHolder;

/// How the audit log calls it when a worker gets its own key.
const ENROL_WORKER: &str = "enrol_worker";

/// Passes if the key is this worker's and allows what it says of itself.
pub(super) fn may_claim(key: &KeyHolder, hello: &Hello, identity: &[u8; 32]) -> Result<(), SessionEnd> {
    let refused = |why: String| Err(not_allowed(hello, why));
    if key.identity.is_some_and(|of| of != *identity) {
        return refused(
            "its key belongs to another worker: start it with a worker key or an enrolment key".to_owned(),
        );
    }
    if key.kind == KeyKind::Enrolment && hello.own_key.is_none() {
        let why = "an enrolment key needs a newer version of the worker; use that, or a worker key";
        return refused(why.to_owned());
    }
    let claims = Claims { name: &hello.name, labels: &hello.labels, datacenter: &hello.datacenter };
    key.limits.allow(claims).or_else(|too_much| refused(too_much.to_string()))
}

fn not_allowed(hello: &Hello, why: String) -> SessionEnd {
    // Earlier workers would not understand the word.
    let code = if hello.knows_not_allowed { GoodbyeCode::NotAllowed } else { GoodbyeCode::KeyRevoked };
    SessionEnd::Goodbye(code, why)
}

/// Makes the key that the worker has made its own. Number of that key.
pub(super) async fn enrol(
    control: &Control,
    key: &KeyHolder,
    hello: &Hello,
    identity: &[u8; 32],
) -> Result<Result<i64, SessionEnd>, StoreError> {
    let Some(OwnKey { prefix, sha256 }) = hello.own_key.as_ref().filter(|_| key.kind == KeyKind::Enrolment)
    else {
        return Ok(Ok(key.key));
    };
    let sha256: Vec<u8> = (0..sha256.len() / 2)
        .filter_map(|at| u8::from_str_radix(sha256.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    let new = Enrolling { enrolment: key.key, identity, prefix, sha256: &sha256 };
    let own = match control.store.worker_enrol(new).await? {
        Enrolled::New(own) => own,
        Enrolled::Before(own) => return Ok(Ok(own)),
        Enrolled::NotGood => {
            let why = "the key of this worker was revoked; start it with another enrolment key";
            return Ok(Err(not_allowed(hello, why.to_owned())));
        }
        Enrolled::TooLate => {
            let why = "the enrolment key is used up, revoked or expired";
            return Ok(Err(not_allowed(hello, why.to_owned())));
        }
    };
    tracing::info!(key = own, enrolment = key.key, worker = hello.name, "a worker got its own key");
    let credential = format!("key {} ({})", key.key, key.name);
    let entry = NewEntry {
        project: Some(key.project),
        user: "worker",
        credential: Some(&credential),
        address: None,
        action: ENROL_WORKER,
        target: &format!("key {own} of worker {}", hello.name),
    };
    let ended = Ended { outcome: AuditOutcome::Done, detail: None, before: None, after: None };
    if let Err(error) = control.store.audit_begin(&entry, Some(&ended)).await {
        tracing::warn!(%error, "cannot note in the audit log that a worker got its own key");
    }
    control.wakes.audit.call();
    control.wakes.key_check.call();
    Ok(Ok(own))
}
