//! Reads data that other versions may have stored; unreadable parts are omitted.

use std::str::FromStr;

use gaffer_domain::placement::{DefinitionRef, Requirements};
use gaffer_domain::reason::{Reason, ReasonCode};
use gaffer_domain::{JobId, WorkerId};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ReadStore, StoreError};

/// A stored name of something of which all names are known: the schema lets no other in.
pub(super) fn known<T: FromStr>(what: &str, stored: &str) -> sqlx::Result<T> {
    stored.parse().map_err(|_| sqlx::Error::Decode(format!("{stored:?} is not a {what}").into()))
}

/// A stored value; none, and a line in the log, if this version can't read it.
pub(super) fn understood<T: DeserializeOwned>(what: &str, stored: Option<Value>) -> Option<T> {
    let stored = stored?;
    match T::deserialize(&stored) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(%error, "cannot read a stored {what}; leaving it out");
            None
        }
    }
}

/// A stored reason code. One that only another version has a word for is still one.
pub(super) fn reason_code(stored: &str) -> ReasonCode {
    stored.parse().unwrap_or(ReasonCode::Other)
}

/// A stored reason, with its sentence.
pub(super) fn reason_from(code: Option<String>, message: Option<String>) -> Option<Reason> {
    Some(Reason { code: reason_code(&code?), message: message? })
}

/// The members of a stored list that this version understands, and whether those were all.
pub(super) fn members<T: DeserializeOwned>(stored: &Value) -> (Vec<T>, bool) {
    let Some(items) = stored.as_array() else { return (Vec::new(), false) };
    let known: Vec<T> = items.iter().filter_map(|item| T::deserialize(item).ok()).collect();
    let all = known.len() == items.len();
    (known, all)
}

/// The entries of a stored object that this version understands, and whether those were all.
pub(super) fn entries<T: DeserializeOwned, C: FromIterator<(String, T)>>(stored: &Value) -> (C, bool) {
    let Some(fields) = stored.as_object() else { return (C::from_iter([]), false) };
    let mut all = true;
    let known = fields.iter().filter_map(|(name, value)| {
        let value = T::deserialize(value).ok();
        all &= value.is_some();
        Some((name.clone(), value?))
    });
    let known = known.collect();
    (known, all)
}

impl ReadStore {
    /// The requirements of a class, as stored, or derived from the specification of a job with an unfinished task in
    /// it; none if that is missing or unreadable, too.
    pub(super) async fn class_needs(
        &self,
        class: i64,
        stored: &str,
    ) -> Result<Option<Requirements>, StoreError> {
        let error = match serde_json::from_str(stored) {
            Ok(needs) => return Ok(Some(needs)),
            Err(error) => error,
        };
        let task: Option<(i64, i16, Option<i64>)> = sqlx::query_as(
            "SELECT job_id, position, (SELECT worker_id FROM classes WHERE id = $1) FROM live_tasks WHERE class_id = $1 \
                 AND state IN ('pending', 'scheduled', 'running', 'stopping') LIMIT 1",
        )
        .bind(class)
        .fetch_optional(&self.pool)
        .await?;
        let Some((job, position, worker)) = task else { return Ok(None) };
        let job = JobId(job);
        let needs = self.spec(job).await?.and_then(|spec| {
            let spec = spec.readable().ok()?;
            let place = DefinitionRef { job, position: u16::try_from(position).ok()? };
            let needs = Requirements::of(spec, spec.tasks.get(usize::from(place.position))?, place);
            Some(Requirements { worker: worker.map(WorkerId), ..needs })
        });
        match &needs {
            Some(_) => {
                tracing::debug!(class, %error, "the stored needs of a class can't be read; they follow from its job")
            }
            None => {
                tracing::error!(class, %error, "the stored needs of a class can't be read; nothing of it is placed")
            }
        }
        Ok(needs)
    }
}
