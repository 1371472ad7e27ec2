//! How long a job is kept: as a specification and a setting of the server say.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quantity::{QuantityError, Span};

/// How long jobs are kept after they have finished, by final state. Where nothing is said, somebody else decides; where
/// nobody says anything, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// Those whose tasks have all completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Span>,
    /// Those with a task that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Span>,
    /// Those with a task that was cancelled, and none that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Span>,
}

/// The shortest period: what has just finished can be looked at.
pub const SHORTEST: Span = Span::from_secs(1);

impl Retention {
    /// The same period for every final state.
    pub const fn all(period: Span) -> Retention {
        Retention { completed: Some(period), failed: Some(period), cancelled: Some(period) }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Retention::default()
    }
}

/// As it is written in a setting: one period, or `state=period` with commas between them, or `forever`.
impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Retention, String> {
        if text.trim() == FOREVER {
            return Ok(Retention::default());
        }
        if !text.contains('=') {
            return Ok(period(text)?.map(Retention::all).unwrap_or_default());
        }
        let mut retention = Retention::default();
        let mut named = Vec::new();
        for part in text.split(',') {
            let (state, time) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not state=period, such as completed=30d"))?;
            let state = state.trim();
            let place = match state {
                "completed" => &mut retention.completed,
                "failed" => &mut retention.failed,
                "cancelled" => &mut retention.cancelled,
                _ => return Err(format!("{state:?} is no final state: completed, failed or cancelled")),
            };
            if named.contains(&state) {
                return Err(format!("{state} is named twice"));
            }
            named.push(state);
            *place = period(time)?;
        }
        Ok(retention)
    }
}

const FOREVER: &str = "forever";

fn period(text: &str) -> Result<Option<Span>, String> {
    if text.trim() == FOREVER {
        return Ok(None);
    }
    let span: Span = text.parse().map_err(|error: QuantityError| error.to_string())?;
    match span >= SHORTEST {
        true => Ok(Some(span)),
        false => Err(format!("a period is at least {SHORTEST}, or `{FOREVER}`")),
    }
}

impl Display for Retention {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named = [("completed", self.completed), ("failed", self.failed), ("cancelled", self.cancelled)];
        if let Some(first) = self.completed
            && named.iter().all(|(_, period)| *period == Some(first))
        {
            return first.fmt(f);
        }
        let said = named.into_iter().filter_map(|(state, period)| Some(format!("{state}={}", period?)));
        match said.collect::<Vec<_>>().join(",") {
            nothing if nothing.is_empty() => f.write_str(FOREVER),
            said => f.write_str(&said),
        }
    }
}
