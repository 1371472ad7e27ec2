//! The chain of audit entries: each line has the hash of the line before it, so that a change of the past shows.

use std::fmt::Write;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How something ended that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Done,
    /// It was not allowed, invalid, or not possible in that state.
    Refused,
    /// The database did not do its part.
    Failed,
    /// Nobody noted how it ended: the master or the request ended first.
    Unknown,
}

impl AuditOutcome {
    /// All of them.
    pub const ALL: [AuditOutcome; 4] =
        [AuditOutcome::Done, AuditOutcome::Refused, AuditOutcome::Failed, AuditOutcome::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            AuditOutcome::Done => "done",
            AuditOutcome::Refused => "refused",
            AuditOutcome::Failed => "failed",
            AuditOutcome::Unknown => "unknown",
        }
    }
}

impl FromStr for AuditOutcome {
    type Err = ();

    fn from_str(text: &str) -> Result<AuditOutcome, ()> {
        AuditOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(())
    }
}

/// Who changed what, or tried to. Lines of the export have these members in this order, and their hash as the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Place in the chain of its project, without gaps; null until it has one, a few seconds after its end.
    pub number: Option<u64>,
    /// SHA-256 of the line before it in the chain; null as long as `number`.
    pub previous: Option<String>,
    /// Number of the entry, unique in the installation.
    pub id: i64,
    /// Project; null if it concerns the installation.
    pub project: Option<String>,
    /// When it was asked for.
    pub at: DateTime<Utc>,
    /// Name of the user.
    pub user: String,
    /// Key or browser session that was used; null if the master itself did it.
    pub credential: Option<String>,
    /// Address that it came from: of the client, or of the reverse proxy before the master.
    pub address: Option<String>,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// How it ended; null until it has.
    pub outcome: Option<AuditOutcome>,
    /// Why it was refused or failed.
    pub detail: Option<String>,
    /// What it was before, as far as it was changed.
    pub before: Option<Value>,
    /// What it is since then.
    pub after: Option<Value>,
}

/// What the first line of a chain has in the place of an earlier hash.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const HASH_MEMBER: &str = ",\"hash\":\"";

/// The end of a chain: what the next line follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Number of the last line; 0 before the first.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for End {
    fn default() -> End {
        End { number: 0, hash: NO_HASH.to_owned() }
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("not a line of the audit log: {0}")]
    Unreadable(String),
    #[error("line {number} was changed: its text does not have its hash")]
    Changed { number: u64 },
    #[error("line {expected} is missing: line {found} follows line {}", expected - 1)]
    Missing { expected: u64, found: u64 },
    #[error("line {found} comes again after line {}", expected - 1)]
    Repeated { expected: u64, found: u64 },
    #[error("line {number} does not follow the line before it: one of them was replaced")]
    Unlinked { number: u64 },
}

/// SHA-256 in hexadecimal.
pub fn hash_of(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

/// A line as it is exported: with its hash as the last member.
pub fn exported(line: &str, hash: &str) -> String {
    format!("{}{HASH_MEMBER}{hash}\"}}", line.strip_suffix('}').unwrap_or(line))
}

/// Reads an exported line: the line that is hashed, and its hash.
fn taken_apart(exported: &str) -> Option<(String, &str)> {
    let (line, hash) = exported.trim_end().strip_suffix("\"}")?.rsplit_once(HASH_MEMBER)?;
    Some((format!("{line}}}"), hash))
}

impl End {
    /// Checks that an exported line follows, and moves on to it. A chain whose beginning was removed starts with any line.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn follow(&mut self, exported: &str) -> Result<AuditEntry, Broken> {
        let unreadable = |what: &str| Broken::Unreadable(what.to_owned());
        let (line, hash) =
            taken_apart(exported).ok_or_else(|| unreadable("it does not end with its hash"))?;
        let entry: AuditEntry =
            serde_json::from_str(&line).map_err(|error| Broken::Unreadable(error.to_string()))?;
        let number = entry.number.ok_or_else(|| unreadable("it has no number"))?;
        if hash_of(&line) != hash {
            return Err(Broken::Changed { number });
        }
        let expected = self.number + 1;
        let is_beginning = *self == End::default();
        match number.cmp(&expected) {
            std::cmp::Ordering::Greater if !is_beginning => {
                return Err(Broken::Missing { expected, found: number });
            }
            std::cmp::Ordering::Less => return Err(Broken::Repeated { expected, found: number }),
            _ => {}
        }
        if (number == expected) && entry.previous.as_deref() != Some(&*self.hash) {
            return Err(Broken::Unlinked { number });
        }
        *self = End { number, hash: hash.to_owned() };
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    fn chain(len: u64) -> Vec<String> {
        let mut end = End::default();
        let line = |number| {
            let entry = AuditEntry {
                number: Some(number),
                previous: Some(end.hash.clone()),
                id: number as i64,
                project: Some("default".to_owned()),
                at: DateTime::from_timestamp_micros(1_700_000_000_000_000 + number as i64).unwrap(),
                user: "ana".to_owned(),
                credential: Some("key 3 (ci)".to_owned()),
                address: Some("127.0.0.1".to_owned()),
                action: "stop_job".to_owned(),
                target: format!("job {number}"),
                outcome: Some(AuditOutcome::Done),
                detail: None,
                before: Some(json!({ "state": "running" })),
                after: Some(json!({ "note": "a \",\"hash\":\" in a text" })),
            };
            let line = serde_json::to_string(&entry).unwrap();
            let hash = hash_of(&line);
            end = End { number, hash: hash.clone() };
            exported(&line, &hash)
        };
        (1..=len).map(line).collect()
    }

    fn checked<'a>(lines: impl IntoIterator<Item = &'a String>) -> Result<End, Broken> {
        let mut end = End::default();
        for line in lines {
            end.follow(line)?;
        }
        Ok(end)
    }

    #[test]
    fn an_untouched_chain_is_intact_and_so_is_one_whose_beginning_was_removed() {
        let lines = chain(5);
        assert_eq!(checked(&lines).unwrap().number, 5);
        assert_eq!(checked(&lines[2..]), checked(&lines));
    }

    #[test]
    fn any_change_of_a_character_is_found() {
        let lines = chain(3);
        for at in 0..lines[1].len() {
            let mut changed = lines.clone();
            let other = if &lines[1][at..=at] == "7" { "8" } else { "7" };
            changed[1].replace_range(at..=at, other);
            assert!(checked(&changed).is_err(), "{}", changed[1]);
        }
    }

    #[test]
    fn lines_that_are_missing_repeated_or_replaced_are_found() {
        let lines = chain(4);
        let without = [&lines[0], &lines[2], &lines[3]];
        assert_eq!(checked(without), Err(Broken::Missing { expected: 2, found: 3 }));
        let twice = [&lines[0], &lines[1], &lines[1]];
        assert_eq!(checked(twice), Err(Broken::Repeated { expected: 3, found: 2 }));
        // A line made anew, with the right number and its own hash, does not fit those after it.
        let (line, _) = taken_apart(&lines[1]).unwrap();
        let forged = line.replace("ana", "eve");
        let forged = exported(&forged, &hash_of(&forged));
        assert_eq!(checked([&lines[0], &forged, &lines[2]]), Err(Broken::Unlinked { number: 3 }));
        assert!(matches!(checked([&"{}".to_owned()]), Err(Broken::Unreadable(_))));
    }
}
