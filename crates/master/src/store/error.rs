//! Classifies database errors: whose fault an error is decides how to handle it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Error as SqlxError;

/// A call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unavailable or refuses valid requests: down, in recovery, read-only, full; the role is locked
    /// or lacks a privilege; a foreign schema. The same call succeeds once that is fixed. Whether it took effect is
    /// unknown.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] SqlxError),
    /// A statement took longer than it may: there was too much to do in it, or the database is slow. Nothing changed.
    #[error("the database took too long: {0}")]
    TooSlow(#[source] SqlxError),
    /// Another transaction holds a lock that the statement needs. Nothing changed.
    #[error("another transaction holds a lock: {0}")]
    Locked(#[source] SqlxError),
    /// A value was refused (SQLSTATE class 22 or 23). Only if a single row was written can that be the row's fault.
    #[error("the database refused a value: {0}")]
    Refused(#[source] SqlxError),
    /// The project was deleted meanwhile. Nothing took effect.
    #[error("the project was deleted")]
    ProjectGone,
    /// Another master leads. Nothing took effect, and nothing will that this one tries.
    #[error("another master leads now")]
    NotLeader,
    /// A stored row can't be read: it is damaged, or a newer version wrote it. Other rows are not concerned.
    #[error("unexpected data in the database: {0}")]
    Unreadable(String),
    /// The object storage with output does not answer or refuses. The same call succeeds once that is fixed.
    #[error("the object storage with the output is not available: {cause}")]
    ObjectsUnavailable {
        /// For readers of output, with what to do.
        told: String,
        /// For operators.
        cause: String,
    },
    /// An object with output is missing, or is not what was put there. Other objects are not concerned.
    #[error("{0}")]
    ObjectLost(String),
}

impl StoreError {
    /// Nobody will answer: the master is shutting down.
    pub fn shutting_down() -> StoreError {
        StoreError::Unavailable(SqlxError::PoolClosed)
    }

    /// Somebody waited for too long for others who use the database.
    pub fn too_busy() -> StoreError {
        SqlxError::PoolTimedOut.into()
    }

    /// Whether there is a row like that already.
    pub fn is_duplicate(&self) -> bool {
        let StoreError::Refused(error) = self else { return false };
        error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    }

    /// Whether the failure may concern only a part of what was asked for, so that asking for less may work.
    pub fn may_be_partial(&self) -> bool {
        !matches!(
            self,
            StoreError::Unavailable(_) | StoreError::NotLeader | StoreError::ObjectsUnavailable { .. }
        )
    }

    /// Whether the call may have taken effect.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, StoreError::Unavailable(error) if !matches!(error, SqlxError::PoolTimedOut))
    }

    /// Its kind; of an error of the database, one of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            StoreError::Unavailable(SqlxError::PoolTimedOut) => "no_connection",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::TooSlow(_) => "timeout",
            StoreError::Locked(_) => "lock",
            StoreError::Refused(_) => "value",
            StoreError::NotLeader => "not_leader",
            StoreError::ProjectGone => "project_gone",
            StoreError::Unreadable(_) => "unreadable",
            StoreError::ObjectsUnavailable { .. } => "objects_unavailable",
            StoreError::ObjectLost(_) => "object_lost",
        }
    }
}

impl From<SqlxError> for StoreError {
    fn from(error: SqlxError) -> Self {
        let error = classified(error);
        if let Some(at) = KINDS.iter().position(|kind| *kind == error.kind()) {
            FAILURES[at].fetch_add(1, Ordering::Relaxed);
        }
        error
    }
}

fn classified(error: SqlxError) -> StoreError {
    use SqlxError as E;
    match error {
        E::ColumnDecode { index, source } => StoreError::Unreadable(format!("column {index}: {source}")),
        E::Decode(source) => StoreError::Unreadable(source.to_string()),
        E::Database(database) => {
            let code = database.code().map(|code| code.into_owned()).unwrap_or_default();
            of_state(&code)(E::Database(database))
        }
        // Connections, pools, TLS and protocol errors say nothing about the data.
        error => StoreError::Unavailable(error),
    }
}

/// The kinds of errors that operators count, for metrics.
const KINDS: [&str; 7] =
    ["unavailable", "no_connection", "timeout", "lock", "value", "not_leader", "unreadable"];

/// How many errors of each kind this process has met: every error of every pool is classified above.
static FAILURES: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];

/// How many errors of each kind there have been.
pub fn failures() -> impl Iterator<Item = (&'static str, u64)> {
    KINDS.into_iter().zip(&FAILURES).map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
}

/// `read_only_sql_transaction`
const READ_ONLY: &str = "25006";

/// Classifies a SQLSTATE (PostgreSQL documentation, appendix A). Codes that are not known to concern the
/// statement's data or its duration count as unavailability.
fn of_state(code: &str) -> fn(SqlxError) -> StoreError {
    match code {
        "57014" => StoreError::TooSlow,
        "55P03" => StoreError::Locked,
        READ_ONLY => |error| {
            found_read_only();
            StoreError::Unavailable(error)
        },
        // What `leader_check` fails with.
        "LT001" => |_| StoreError::NotLeader,
        // What `project_is_live` fails with.
        "GP001" => |_| StoreError::ProjectGone,
        // Damaged data or index; or, by `all_written_check`, rows that somebody else has changed.
        "XX001" | "XX002" | "LT002" => |error| StoreError::Unreadable(error.to_string()),
        _ => match code.get(..2) {
            Some("22" | "23") => StoreError::Refused,
            _ => StoreError::Unavailable,
        },
    }
}

/// A session that is read-only remains so when others are not any more: after a failover that left it on a standby, or when
/// an operator has reset what made it so. So whatever was connected when this was found last is not used again.
static FOUND_READ_ONLY: Mutex<Option<Instant>> = Mutex::new(None);
/// While the whole database is read-only, connections are replaced no more often than this.
const REPLACED_EVERY: Duration = Duration::from_secs(1);

/// A session was found that can't write.
fn found_read_only() {
    let mut found = FOUND_READ_ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    if found.is_none_or(|at| at.elapsed() >= REPLACED_EVERY) {
        *found = Some(Instant::now());
    }
}

/// Whether a session that began so long ago may be one of those that can't write.
pub(super) fn may_be_read_only(age: Duration) -> bool {
    let found = FOUND_READ_ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    found.is_some_and(|at| at.elapsed() <= age)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_what_is_about_values_counts_against_them() {
        for code in ["22001", "22021", "22P05", "23502", "23505", "23514"] {
            assert!(matches!(of_state(code)(SqlxError::PoolClosed), StoreError::Refused(_)), "{code}");
        }
        for code in [
            "08006", "0A000", "25006", "26000", "28000", "28P01", "3D000", "40001", "40P01", "42501",
            "42P01", "53100", "53300", "55000", "57P01", "58030", "XX000", "", "2", "new",
        ] {
            assert!(matches!(of_state(code)(SqlxError::PoolClosed), StoreError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn only_where_no_answer_came_it_may_have_happened() {
        assert!(of_state("57P01")(SqlxError::WorkerCrashed).may_have_happened());
        for code in ["57014", "55P03", "22001", "LT001", "XX002"] {
            assert!(!of_state(code)(SqlxError::PoolClosed).may_have_happened(), "{code}");
        }
        assert!(!StoreError::too_busy().may_have_happened(), "it has not been tried");
    }

    #[test]
    fn every_error_is_counted_by_its_kind() {
        let count = |kind| failures().find(|(known, _)| *known == kind).unwrap().1;
        let before = count("no_connection");
        assert_eq!(StoreError::too_busy().kind(), "no_connection");
        assert!(count("no_connection") > before);
        for code in ["57014", "55P03", "22001", "LT001", "XX002", "08006"] {
            let kind = of_state(code)(SqlxError::PoolClosed).kind();
            assert!(KINDS.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn time_and_locks_are_told_apart() {
        assert!(matches!(of_state("57014")(SqlxError::PoolClosed), StoreError::TooSlow(_)));
        assert!(matches!(of_state("55P03")(SqlxError::PoolClosed), StoreError::Locked(_)));
        assert!(matches!(of_state("XX002")(SqlxError::PoolClosed), StoreError::Unreadable(_)));
    }
}
