//! Messages that are written to the database directly, beside ends of attempts: notes, drivers, late ends. Each
//! kind has a rate; what exceeds it waits here, a newer message replaces the older one, and it is written when the
//! rate allows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gaffer_domain::AttemptRef;
use gaffer_protocol::wire::{DriverStatus, Ended};
use tokio::sync::Notify;

use super::Session;
use super::clean::{MAX_NOTE_CHARS, clean};
use crate::live::LiveOutput;
use crate::rate::{Bucket, Rate};
use crate::store::StoreError;
use crate::store::output::ReceivedOutput;
use crate::write_batcher::{NotTaken, Reporter};

const NOTES: Rate = Rate { at_once: 100.0, per_second: 5.0 };
/// Changes of health: what exceeds this is reported with a later result.
const HEALTH: Rate = Rate { at_once: 200.0, per_second: 20.0 };
const DRIVERS: Rate = Rate { at_once: 10.0, per_second: 0.5 };
/// A worker that was away for long has many of them to tell.
const LATE_ENDS: Rate = Rate { at_once: 1_000.0, per_second: 20.0 };
/// The most attempts whose last note, or late end, waits.
const MAX_WAITING: usize = 10_000;
/// Wait after a failure of the database.
const RETRY: Duration = Duration::from_secs(1);

/// What is told of output that comes when its attempt is over.
pub(super) const OUTPUT_AFTER_END: &str = "output came after the end of the attempt and was refused";

/// What of one session waits to be written.
#[derive(Debug)]
pub(super) struct Reports {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner {
    notes: Bucket,
    health: Bucket,
    drivers: Bucket,
    /// A state of the drivers is being written: the next one waits, or the older of the two might be written last.
    drivers_under_way: bool,
    late_ends: Bucket,
    waiting: Waiting,
}

#[derive(Debug, Default)]
struct Waiting {
    drivers: Option<Vec<DriverStatus>>,
    notes: BTreeMap<AttemptRef, String>,
    late_ends: BTreeMap<AttemptRef, (Box<Ended>, ReceivedOutput)>,
}

/// One thing that may be written now.
#[derive(Debug)]
enum Next {
    Drivers(Vec<DriverStatus>),
    Note(AttemptRef, String),
    LateEnd(Box<Ended>, ReceivedOutput),
}

impl Default for Reports {
    fn default() -> Reports {
        let now = Instant::now();
        let inner = Inner {
            notes: Bucket::new(NOTES, now),
            health: Bucket::new(HEALTH, now),
            drivers: Bucket::new(DRIVERS, now),
            drivers_under_way: false,
            late_ends: Bucket::new(LATE_ENDS, now),
            waiting: Waiting::default(),
        };
        Reports { inner: Mutex::new(inner), wake: Notify::new() }
    }
}

impl Reports {
    /// The note, if it may be written now; else it waits.
    pub fn note(&self, attempt: AttemptRef, message: &str) -> Option<String> {
        let message = clean(message, MAX_NOTE_CHARS);
        let mut inner = self.lock();
        if !inner.waiting.notes.contains_key(&attempt) && inner.notes.take(Instant::now()).is_ok() {
            return Some(message);
        }
        keep_last(&mut inner.waiting.notes, attempt, message);
        self.wake.notify_one();
        None
    }

    /// Whether a change of health may be written now.
    pub fn may_report_health(&self) -> bool {
        self.lock().health.take(Instant::now()).is_ok()
    }

    /// The drivers, if they may be written now; else they wait. [`Reports::drivers_written`] follows.
    pub fn drivers(&self, drivers: Vec<DriverStatus>) -> Option<Vec<DriverStatus>> {
        let mut inner = self.lock();
        let is_free = inner.waiting.drivers.is_none() && !inner.drivers_under_way;
        if is_free && inner.drivers.take(Instant::now()).is_ok() {
            inner.drivers_under_way = true;
            return Some(drivers);
        }
        inner.waiting.drivers = Some(drivers);
        self.wake.notify_one();
        None
    }

    /// The drivers are written, so the next state may be.
    pub fn drivers_written(&self) {
        self.lock().drivers_under_way = false;
        self.wake.notify_one();
    }

    /// The late end of an attempt, if its rate allows; otherwise it waits unacknowledged.
    pub fn late_end(&self, ended: Box<Ended>, received: ReceivedOutput) -> Option<Box<Ended>> {
        let mut inner = self.lock();
        let is_first = !inner.waiting.late_ends.contains_key(&ended.attempt);
        if is_first && inner.late_ends.take(Instant::now()).is_ok() {
            return Some(ended);
        }
        keep_last(&mut inner.waiting.late_ends, ended.attempt, (ended, received));
        self.wake.notify_one();
        None
    }

    /// What may be written now, or how long to wait for it; none if nothing waits.
    fn next(&self, now: Instant) -> Option<Result<Next, Duration>> {
        let Inner { notes, drivers, drivers_under_way, late_ends, waiting, health: _ } = &mut *self.lock();
        let mut wait: Option<Duration> = None;
        let mut may = |bucket: &mut Bucket| match bucket.take(now) {
            Ok(()) => true,
            Err(longer) => {
                wait = Some(wait.map_or(longer, |wait| wait.min(longer)));
                false
            }
        };
        if waiting.drivers.is_some() && !*drivers_under_way && may(drivers) {
            *drivers_under_way = true;
            return waiting.drivers.take().map(Next::Drivers).map(Ok);
        }
        if !waiting.late_ends.is_empty() && may(late_ends) {
            return waiting
                .late_ends
                .pop_first()
                .map(|(_, (ended, output))| Ok(Next::LateEnd(ended, output)));
        }
        if !waiting.notes.is_empty() && may(notes) {
            return waiting.notes.pop_first().map(|(attempt, note)| Ok(Next::Note(attempt, note)));
        }
        wait.map(Err)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces what waits for an attempt; with too many attempts, one is left out: an end comes again in the next session.
fn keep_last<T>(waiting: &mut BTreeMap<AttemptRef, T>, attempt: AttemptRef, last: T) {
    if waiting.len() < MAX_WAITING || waiting.contains_key(&attempt) {
        waiting.insert(attempt, last);
    }
}

impl Session {
    /// Writes what waits, for as long as the session lasts.
    pub async fn write_waiting(&self) {
        let Session { control, handle, reports, .. } = self;
        let reporter = Reporter::new(handle.worker, &handle.worker_name);
        // What writes is boxed: thousands of idle sessions each hold this future.
        loop {
            match reports.next(Instant::now()) {
                None => reports.wake.notified().await,
                Some(Err(wait)) => tokio::time::sleep(wait).await,
                Some(Ok(Next::Note(attempt, note))) => Box::pin(self.write_note(attempt, &note)).await,
                Some(Ok(Next::Drivers(drivers))) => Box::pin(self.write_waiting_drivers(drivers)).await,
                Some(Ok(Next::LateEnd(ended, received))) => {
                    if control.write_batcher.ended(&reporter, ended, received).is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn write_waiting_drivers(&self, drivers: Vec<DriverStatus>) {
        let is_written = self.write_drivers(&drivers).await.is_ok();
        if !is_written {
            // What has been said meanwhile counts more.
            self.reports.lock().waiting.drivers.get_or_insert(drivers);
        }
        self.reports.drivers_written();
        if !is_written {
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Records something worth a line in an attempt's history. What is not this worker's to say is left out.
    pub async fn write_note(&self, attempt: AttemptRef, note: &str) {
        match self.control.store.attempt_note(self.handle.worker, attempt, note).await {
            Ok(Some(job)) => self.control.changes.announce(&[job]),
            Ok(None) => {}
            Err(error) => tracing::debug!(%attempt, %error, "a note was not recorded"),
        }
    }

    /// A driver of the worker fails, or works again.
    pub async fn write_drivers(&self, drivers: &[DriverStatus]) -> Result<(), StoreError> {
        self.control.store.worker_drivers(self.handle.worker, self.handle.id, drivers).await?;
        self.control.changes.announce(&[]);
        self.control.wakes.scheduler.call();
        self.control.wakes.system_jobs.call();
        Ok(())
    }

    /// Takes the end of an attempt all of whose output has arrived.
    pub fn take_end(&self, live: &LiveOutput, mut ended: Box<Ended>) -> Result<(), NotTaken> {
        let received = check_end(live, &mut ended);
        // One that comes late has a rate.
        let ended = match live.was_over {
            true => self.reports.late_end(ended, received),
            false => Some(ended),
        };
        match ended {
            Some(ended) => self.control.write_batcher.ended(&self.reporter, ended, received),
            None => Ok(()),
        }
    }
}

/// Checks a reported end against the output that has arrived, after which no more is taken. Gives what is known of that
/// output.
fn check_end(live: &LiveOutput, ended: &mut Ended) -> ReceivedOutput {
    let received = live.received();
    live.ends();
    let ours = live.sha256();
    let complete = match (&ended.output_sha256, &ours) {
        (Some(theirs), Some(ours)) if ended.output_bytes == received.bytes => {
            Some(theirs.eq_ignore_ascii_case(ours))
        }
        _ => None,
    };
    if complete == Some(false) {
        let theirs = ended.output_sha256.as_deref();
        tracing::error!(attempt = %ended.attempt, theirs, ours, "the output's checksums differ");
    }
    // A worker that lost part of its record may know of less than is stored here; what is stored counts.
    if ended.output_bytes < received.bytes || ended.output_sha256.is_none() {
        ended.output_bytes = received.bytes;
        ended.output_sha256 = ours;
    }
    ReceivedOutput { lines: received.lines, complete }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use gaffer_domain::TaskId;
    use gaffer_domain::spec::DriverKind;

    use super::*;

    fn drivers(number: usize) -> Vec<DriverStatus> {
        let detail = Some(number.to_string());
        vec![DriverStatus { driver: DriverKind::Docker, healthy: number.is_multiple_of(2), detail }]
    }

    #[test]
    fn of_a_flood_of_states_the_last_one_is_written() {
        let reports = Reports::default();
        let written = (0..5_000).filter(|number| {
            let is_written = reports.drivers(drivers(*number)).is_some();
            if is_written {
                reports.drivers_written();
            }
            is_written
        });
        assert_eq!(written.count(), 10);
        assert!(reports.next(Instant::now()).unwrap().is_err());
        match reports.next(Instant::now() + Duration::from_secs(3)) {
            Some(Ok(Next::Drivers(last))) => assert_eq!(last, drivers(4_999)),
            other => panic!("{other:?}"),
        }
        assert!(reports.next(Instant::now()).is_none());
    }

    #[test]
    fn a_state_waits_for_the_one_before_it() {
        let (reports, later) = (Reports::default(), || Instant::now() + Duration::from_secs(60));
        assert_eq!(reports.drivers(drivers(1)), Some(drivers(1)));
        assert_eq!(reports.drivers(drivers(2)), None, "the first is not written yet");
        assert!(reports.next(later()).is_none());
        reports.drivers_written();
        assert!(matches!(reports.next(later()), Some(Ok(Next::Drivers(next))) if next == drivers(2)));
        assert_eq!(reports.drivers(drivers(3)), None, "nor is the second");
        assert!(reports.next(later()).is_none());
        reports.drivers_written();
        assert!(matches!(reports.next(later()), Some(Ok(Next::Drivers(next))) if next == drivers(3)));
    }

    #[test]
    fn each_attempt_has_its_last_note_written() {
        let reports = Reports::default();
        let attempt = |task| AttemptRef { task: TaskId(task), attempt: 1 };
        for number in 0..10_000 {
            let _ = reports.note(attempt(number % 3), &format!("note {number}"));
        }
        let later = Instant::now() + Duration::from_secs(60);
        let mut notes = Vec::new();
        while let Some(Ok(Next::Note(_, note))) = reports.next(later) {
            notes.push(note);
        }
        notes.sort();
        assert_eq!(notes, ["note 9997", "note 9998", "note 9999"]);
    }
}
