//! The audit log: who asked for a change, how it ended, and the chain in which that is kept.

use std::collections::BTreeMap;

use gaffer_domain::{ProjectId, Time};
use gaffer_protocol::audit::{AuditEntry, AuditOutcome, End, exported, hash_of};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::forms::known;
use super::{ReadStore, Store, StoreError, WriteStore};

/// Something that nobody has noted the end of has none after this long: no request takes so long.
const UNKNOWN_AFTER_SECS: f64 = 120.0;

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// Whose chain it is in; none for the installation's.
    pub project: Option<ProjectId>,
    pub user: &'a str,
    /// What the user has shown; none for the master itself.
    pub credential: Option<&'a str>,
    pub address: Option<&'a str>,
    pub action: &'a str,
    pub target: &'a str,
}

/// How something ended, and what it changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub outcome: AuditOutcome,
    /// Why it was refused or failed.
    pub detail: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Ended {
    fn rest(&self) -> Value {
        let mut rest = serde_json::Map::new();
        let detail = self.detail.clone().map(Value::String);
        for (name, value) in
            [("detail", detail), ("before", self.before.clone()), ("after", self.after.clone())]
        {
            rest.extend(value.map(|value| (name.to_owned(), value)));
        }
        Value::Object(rest)
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// By this user.
    pub user: Option<String>,
    pub action: Option<String>,
    /// About exactly this.
    pub target: Option<String>,
    pub outcome: Option<AuditOutcome>,
    /// Not before this.
    pub since: Option<Time>,
    /// Before this.
    pub until: Option<Time>,
    /// Only those below this number.
    pub before: Option<i64>,
}

/// Notes something in the transaction that does it.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn note_done(tx: &mut PgConnection, new: &NewEntry<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_entries (project_id, at, user_name, credential, address, action, target, outcome, rest) \
         VALUES ($1, now(), $2, $3, $4, $5, $6, 'done', '{}')",
    )
    .bind(new.project.map_or(0, |project| project.0))
    .bind(new.user)
    .bind(new.credential)
    .bind(new.address)
    .bind(new.action)
    .bind(new.target)
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct EntryRow {
    id: i64,
    project_id: i64,
    project: Option<String>,
    at: Time,
    user_name: String,
    credential: Option<String>,
    address: Option<String>,
    action: String,
    target: String,
    outcome: Option<String>,
    rest: Option<Json<Value>>,
    line: Option<String>,
}

const COLUMNS: &str = "e.id, e.project_id, p.name AS project, e.at, e.user_name, e.credential, e.address, e.action, \
     e.target, e.outcome, e.rest, e.line FROM audit_entries e LEFT JOIN projects p ON p.id = e.project_id";

impl EntryRow {
    /// The entry that a row is: what its line says, if it has one.
    fn entry(self) -> Result<AuditEntry, StoreError> {
        if let Some(line) = &self.line {
            let unreadable = |error| StoreError::Unreadable(format!("audit entry {}: {error}", self.id));
            return serde_json::from_str(line).map_err(unreadable);
        }
        let mut rest = self.rest.map(|Json(rest)| rest).unwrap_or_default();
        let mut taken = |name| rest.get_mut(name).map(Value::take);
        Ok(AuditEntry {
            id: self.id,
            number: None,
            previous: None,
            project: project_name(self.project_id, self.project),
            at: self.at,
            user: self.user_name,
            credential: self.credential,
            address: self.address,
            action: self.action,
            target: self.target,
            outcome: outcome_of(self.outcome.as_deref())?,
            detail: taken("detail").and_then(|detail| detail.as_str().map(str::to_owned)),
            before: taken("before"),
            after: taken("after"),
        })
    }
}

fn outcome_of(stored: Option<&str>) -> Result<Option<AuditOutcome>, StoreError> {
    Ok(stored.map(|stored| known("outcome", stored)).transpose()?)
}

/// The name of a project, also of one that was deleted; the installation has none.
fn project_name(id: i64, name: Option<String>) -> Option<String> {
    (id != 0).then(|| name.unwrap_or_else(|| format!("deleted project {id}")))
}

impl WriteStore {
    /// Notes that something is asked for, or how it ended at once. Returns its number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_begin(&self, new: &NewEntry<'_>, ended: Option<&Ended>) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "WITH led AS MATERIALIZED (SELECT leader_check($9) AS leads) \
             INSERT INTO audit_entries (project_id, at, user_name, credential, address, action, target, outcome, rest) \
             SELECT $1, now(), $2, $3, $4, $5, $6, $7, $8 FROM led RETURNING id",
        )
        .bind(new.project.map_or(0, |project| project.0))
        .bind(new.user)
        .bind(new.credential)
        .bind(new.address)
        .bind(new.action)
        .bind(new.target)
        .bind(ended.map(|ended| ended.outcome.as_str()))
        .bind(ended.map(|ended| Json(ended.rest())))
        .bind(self.leadership.term())
        .fetch_one(&self.pool)
        .await?)
    }

    /// Notes how something ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_end(&self, id: i64, ended: &Ended) -> Result<(), StoreError> {
        sqlx::query(
            "WITH led AS MATERIALIZED (SELECT leader_check($4) AS leads) \
             UPDATE audit_entries e SET outcome = $2, rest = $3 FROM led WHERE e.id = $1 AND e.number IS NULL",
        )
        .bind(id)
        .bind(ended.outcome.as_str())
        .bind(Json(ended.rest()))
        .bind(self.leadership.term())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// What is put into chains together.
#[derive(Default)]
struct Links {
    ids: Vec<i64>,
    outcomes: Vec<&'static str>,
    numbers: Vec<i64>,
    lines: Vec<String>,
    hashes: Vec<Vec<u8>>,
}

impl Store {
    /// Puts at most `limit` entries that have ended into the chains of their projects, in the order in which they were asked for.
    /// Returns how many, and whether others are under way.
    ///
    /// # Errors
    /// When the database does not answer, or this master does not lead any more.
    pub async fn audit_link(&self, limit: u32) -> Result<(u32, bool), StoreError> {
        let mut tx = self.begin_short().await?;
        let rows: Vec<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} WHERE e.number IS NULL \
                 AND (e.outcome IS NOT NULL OR e.at < now() - make_interval(secs => $1)) ORDER BY e.id LIMIT $2"
        )))
        .bind(UNKNOWN_AFTER_SECS)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        let mut ends: BTreeMap<i64, End> = BTreeMap::new();
        for project in rows.iter().map(|row| row.project_id) {
            if ends.contains_key(&project) {
                continue;
            }
            let last: Option<(i64, Vec<u8>)> = sqlx::query_as(
                "SELECT number, sha256 FROM audit_entries WHERE project_id = $1 AND number IS NOT NULL \
                 ORDER BY number DESC LIMIT 1",
            )
            .bind(project)
            .fetch_optional(&mut *tx)
            .await?;
            let end = last.map_or_else(End::default, |(number, sha256)| End {
                number: number.unsigned_abs(),
                hash: hex(&sha256),
            });
            ends.insert(project, end);
        }
        let mut links = Links::default();
        for row in rows {
            let (id, project) = (row.id, row.project_id);
            let mut entry = row.entry()?;
            let end = ends.entry(project).or_default();
            let outcome = entry.outcome.unwrap_or(AuditOutcome::Unknown);
            entry.outcome = Some(outcome);
            (entry.number, entry.previous) = (Some(end.number + 1), Some(end.hash.clone()));
            let unwritable = |error| StoreError::Unreadable(format!("audit entry {id}: {error}"));
            let line = serde_json::to_string(&entry).map_err(unwritable)?;
            *end = End { number: end.number + 1, hash: hash_of(&line) };
            links.ids.push(id);
            links.outcomes.push(outcome.as_str());
            links.numbers.push(end.number as i64);
            links.lines.push(line);
            links.hashes.push(unhex(&end.hash));
        }
        let linked = links.ids.len() as u32;
        if linked > 0 {
            sqlx::query(
                "UPDATE audit_entries e SET outcome = l.outcome, rest = NULL, number = l.number, line = l.line, \
                     sha256 = l.sha256 \
                 FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[]) \
                     AS l(id, outcome, number, line, sha256) \
                 WHERE e.id = l.id AND e.id = ANY($1) AND e.number IS NULL",
            )
            .bind(links.ids)
            .bind(links.outcomes)
            .bind(links.numbers)
            .bind(links.lines)
            .bind(links.hashes)
            .execute(&mut *tx)
            .await?;
        }
        let others: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_entries WHERE number IS NULL)")
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok((linked, others))
    }

    /// Removes the beginnings of chains: at most `limit` entries from before a time. The last entry of a chain stays, for the next
    /// one to follow.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_remove(&self, older_than: Time, limit: u32) -> Result<u64, StoreError> {
        let mut tx = self.begin_short().await?;
        let removed = sqlx::query(
            "DELETE FROM audit_entries WHERE id = ANY(ARRAY(SELECT e.id \
                 FROM (SELECT id, at, project_id, number FROM audit_entries ORDER BY id LIMIT $2) e \
                 WHERE e.number IS NOT NULL AND e.at < $1 AND EXISTS (SELECT FROM audit_entries later \
                     WHERE later.project_id = e.project_id AND later.number > e.number)))",
        )
        .bind(older_than)
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2).unwrap_or_default(), 16).unwrap_or_default();
    (0..hex.len()).step_by(2).map(byte).collect()
}

impl ReadStore {
    /// Entries of a project, or of the installation, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_list(
        &self,
        project: Option<ProjectId>,
        filter: &AuditFilter,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let rows: Vec<EntryRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} WHERE e.project_id = $1 AND ($2::text IS NULL OR e.user_name = $2) \
                 AND ($3::text IS NULL OR e.action = $3) AND ($4::text IS NULL OR e.target = $4) \
                 AND ($5::text IS NULL OR e.outcome = $5) AND ($6::timestamptz IS NULL OR e.at >= $6) \
                 AND ($7::timestamptz IS NULL OR e.at < $7) AND ($8::bigint IS NULL OR e.id < $8) \
             ORDER BY e.id DESC LIMIT $9"
        )))
        .bind(project.map_or(0, |project| project.0))
        .bind(&filter.user)
        .bind(&filter.action)
        .bind(&filter.target)
        .bind(filter.outcome.map(AuditOutcome::as_str))
        .bind(filter.since)
        .bind(filter.until)
        .bind(filter.before)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(EntryRow::entry).collect()
    }

    /// Lines of a chain as they are exported, from after a number on.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_lines(
        &self,
        project: Option<ProjectId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT line, sha256 FROM audit_entries WHERE project_id = $1 AND number IS NOT NULL AND number > $2 \
             ORDER BY number LIMIT $3",
        )
        .bind(project.map_or(0, |project| project.0))
        .bind(after.min(i64::MAX as u64) as i64)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(line, sha256)| exported(&line, &hex(&sha256))).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hash_is_stored_as_bytes_and_read_as_text() {
        let hash = hash_of("x");
        assert_eq!(hex(&unhex(&hash)), hash);
    }

    #[test]
    fn what_is_not_known_of_an_end_is_not_stored() {
        let ended = Ended { outcome: AuditOutcome::Done, detail: None, before: None, after: Some(json!(1)) };
        assert_eq!(ended.rest(), json!({ "after": 1 }));
    }
}
