//! Gives an attempt that is about to start the secrets that its task names, and nobody else any.

use gaffer_domain::AttemptRef;
use gaffer_domain::secrets::MAX_BYTES_OF_TASK;
use gaffer_domain::spec::{missing_secrets, secret_names};
use gaffer_protocol::secrets::{Secrets, SentSecret, SentValue};

use super::Session;
use crate::store::StoreError;
use crate::vault::Place;

/// The secrets of an attempt, or why there are none. None at all if the attempt is not one that is live on this session's worker:
/// it gets no answer, whatever it asks for. Which secrets these are says what is stored of the job, not the worker.
pub(super) async fn secrets_of(
    session: &Session,
    attempt: AttemptRef,
) -> Result<Option<Secrets>, StoreError> {
    let (control, worker) = (&session.control, session.handle.worker);
    let store = &control.store;
    let Some((definition, version, is_stopping)) = store.attempt_of_worker(worker, attempt).await? else {
        tracing::debug!(%attempt, worker = %session.handle.worker_name, "a worker asked for secrets of an attempt that it does not have");
        return Ok(None);
    };
    if is_stopping {
        return Ok(None);
    }
    let Some(spec) = store.spec_of_attempt((definition.job, version)).await? else { return Ok(None) };
    let Some(task) = spec.tasks.get(usize::from(definition.position)) else { return Ok(None) };
    let names = secret_names(&task.secrets);
    let refused = |problem: String| Ok(Some(Secrets { attempt, values: Vec::new(), problem: Some(problem) }));
    let found = store.secrets_for_attempt(worker, definition.job, &names).await?;
    let lacking: Vec<&str> =
        names.iter().copied().filter(|name| !found.iter().any(|secret| secret.name == *name)).collect();
    if !lacking.is_empty() {
        return refused(missing_secrets(&lacking));
    }
    let (mut values, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for secret in &found {
        let place = Place { project: secret.project, name: &secret.name, version: secret.version };
        match control.vault.open(place, &secret.sealed) {
            Ok(value) => {
                bytes += value.bytes().len();
                values.push(SentSecret { name: secret.name.clone(), value: SentValue(value) });
            }
            Err(error) => {
                tracing::error!(%attempt, %error, "an attempt does not get its secrets");
                return refused(error.to_string());
            }
        }
    }
    if bytes > MAX_BYTES_OF_TASK {
        return refused(format!(
            "together they have {bytes} bytes, more than the {MAX_BYTES_OF_TASK} that are allowed for a task"
        ));
    }
    // It does not wait for a lock that somebody has on one of them, or fail for it.
    if let Err(error) = store.secrets_used(definition.job, &names).await {
        tracing::debug!(%error, "the use of secrets was not noted");
    }
    Ok(Some(Secrets { attempt, values, problem: None }))
}
