//! The last settled event number: no event with a lower number can still appear.
//!
//! Numbers are assigned before commits, so an open transaction may hold a lower number than events that are visible
//! already. A follower must not pass it. Finding open numbers costs writers nothing: a transaction that has inserted
//! into `events` holds a lock on the table until its end. So the newest number is read first, then the holders of that
//! lock. When all of them have ended, every number up to that one is visible or will never be, because later
//! transactions get higher numbers. Only writers of this table in this database count.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::event_rows::EVENTS_PER_ROW;
use super::super::{ReadStore, StoreError};

/// How long a reader waits for open writers before it uses the older settled number.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long to wait between two looks at those who write.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Readers do not wait for a writer that has been open for longer than this.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Known open numbers, shared by all readers of a master.
#[derive(Debug, Clone, Default)]
pub struct SettledEvents(Arc<tokio::sync::Mutex<Looks>>);

/// How far the history is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// No event up to this number can still appear.
    pub upto: i64,
    /// The newest number that was given out.
    pub newest: i64,
}

#[derive(Debug, Default)]
struct Looks {
    /// When the last look began.
    began: Option<Instant>,
    newest: i64,
    upto: i64,
    waiting: Option<Waiting>,
}

/// A number, and those who may still hold one that is not higher.
#[derive(Debug)]
struct Waiting {
    newest: i64,
    writers: HashSet<String>,
    since: Instant,
}

impl Looks {
    /// Takes in what a look has found: the newest number, and those who held the lock *after* that was read.
    fn take(&mut self, newest: i64, writers: HashSet<String>, now: Instant) {
        if newest < self.newest {
            // Another history: the database was put back to an earlier state.
            *self = Looks::default();
        }
        self.newest = newest;
        if writers.is_empty() {
            self.upto = newest;
            self.waiting = None;
            return;
        }
        if let Some(mut waiting) = self.waiting.take() {
            waiting.writers.retain(|writer| writers.contains(writer));
            if !waiting.writers.is_empty() {
                self.waiting = Some(waiting);
                return;
            }
            self.upto = waiting.newest;
        }
        self.waiting = Some(Waiting { newest, writers, since: now });
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| now.duration_since(waiting.since) >= STUCK_AFTER)
    }

    fn settled(&self) -> Settled {
        Settled { upto: self.upto, newest: self.newest }
    }
}

impl ReadStore {
    /// The settled number. It includes everything committed before this call, unless a writer has been open for long.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_settled(&self) -> Result<Settled, StoreError> {
        let came = Instant::now();
        let mut wanted = None;
        loop {
            let (settled, is_stuck) = self.events_look(Instant::now()).await?;
            let wanted = *wanted.get_or_insert(settled.newest);
            if settled.upto >= wanted || is_stuck || came.elapsed() >= PATIENCE {
                return Ok(settled);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// One look, shared by all who came before it began.
    async fn events_look(&self, came: Instant) -> Result<(Settled, bool), StoreError> {
        let mut looks = self.settled_events.0.lock().await;
        let now = Instant::now();
        if looks.began.is_some_and(|began| began >= came) {
            return Ok((looks.settled(), looks.is_stuck(now)));
        }
        let mut connection = self.pool.acquire().await?;
        // Two statements, for the order matters: a writer that comes in between gets a higher number.
        let newest_row: Option<i64> =
            sqlx::query_scalar("SELECT CASE WHEN is_called THEN last_value END FROM events_id_seq")
                .fetch_one(&mut *connection)
                .await?;
        // The last number that a row with this one can hold.
        let newest = newest_row.map_or(0, |row| row + EVENTS_PER_ROW as i64 - 1);
        let writers: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted \
                 AND relation = 'events'::regclass AND mode = 'RowExclusiveLock' \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .fetch_all(&mut *connection)
        .await?;
        looks.began = Some(now);
        looks.take(newest, writers.into_iter().collect(), now);
        Ok((looks.settled(), looks.is_stuck(now)))
    }

    /// The transaction that has delayed events for at least this time, as a sentence for operators.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_held_back(&self, for_at_least: Duration) -> Result<Option<String>, StoreError> {
        let row: Option<(i32, String, f64, String)> = sqlx::query_as(
            "SELECT l.pid, coalesce(nullif(a.application_name, ''), 'an unnamed program'), \
                 extract(epoch FROM clock_timestamp() - a.xact_start)::float8, \
                 to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
             FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.granted AND l.relation = 'events'::regclass \
                 AND l.mode = 'RowExclusiveLock' \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND a.xact_start < clock_timestamp() - $1 * interval '1 second' \
             ORDER BY a.xact_start LIMIT 1",
        )
        .bind(for_at_least.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(pid, program, seconds, since)| {
            format!(
                "live events are held back by a transaction of {program} (process {pid} of the database server), \
                 which has been open for {seconds:.0} s, since {since} UTC"
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_number_is_settled_once_all_who_wrote_when_it_was_read_are_gone() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        looks.take(10, of(&["a", "b"]), now);
        assert_eq!(looks.upto, 0, "a and b may hold any number");
        looks.take(12, of(&["b", "c"]), now);
        assert_eq!(looks.upto, 0, "b may still hold a number up to 10");
        looks.take(15, of(&["c", "d"]), now);
        assert_eq!(looks.upto, 10, "c came when 10 was given out already");
        looks.take(15, of(&["d"]), now);
        assert_eq!(looks.upto, 10, "d may hold 15");
        looks.take(15, of(&[]), now);
        assert_eq!(looks.upto, 15);
    }

    #[test]
    fn a_database_put_back_to_an_earlier_state_is_looked_at_anew() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        looks.take(100, of(&[]), now);
        looks.take(20, of(&["a"]), now);
        assert_eq!(looks.upto, 0);
        looks.take(21, of(&[]), now);
        assert_eq!(looks.upto, 21);
    }
}
