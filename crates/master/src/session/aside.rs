//! Database work of a session beside the write batcher, done separately and in order, so that reading and
//! heartbeats continue however long it takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use gaffer_domain::AttemptRef;
use gaffer_domain::health::CheckKind;
use gaffer_protocol::health::Checked;
use gaffer_protocol::wire::{DriverStatus, Ended, GoodbyeCode, ToWorker};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::reports::OUTPUT_AFTER_END;
use super::secrets::secrets_of;
use super::{Session, SessionEnd};
use crate::health::{HealthChange, LiveAttempt, Recorded};
use crate::live::LiveOutput;
use crate::store::StoreError;

/// Queue limit; beyond it the worker is told to reconnect.
const MAX_WAITING: usize = 4_096;
/// Waits between tries while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// A handle for separate database work; ends with the session.
pub(super) struct Aside {
    session: Arc<Session>,
    tasks: mpsc::Sender<Task>,
    /// Attempts that this master does not know and asks the store for, and where their output ended that was let go.
    asked: Arc<Mutex<HashMap<AttemptRef, u64>>>,
    _ending: DropGuard,
}

enum Task {
    /// Not important: left out if too much waits.
    Note(AttemptRef, String),
    Drivers(Vec<DriverStatus>),
    /// Output of an attempt that this master does not know.
    Output(AttemptRef),
    Ended(Box<Ended>),
    /// A result of an attempt that this master does not know. Not important: another one follows.
    Checked(Box<Checked>),
    /// An attempt needs its secrets. Not important: it asks again.
    Secrets(AttemptRef),
    /// The state of a check changed. Not important: it is reported with the next result.
    Health(AttemptRef, CheckKind),
}

impl Aside {
    pub fn new(session: &Arc<Session>) -> Aside {
        let (tasks, waiting) = mpsc::channel(MAX_WAITING);
        let asked = Arc::default();
        let ending = CancellationToken::new();
        let worker = Worker { session: session.clone(), asked: Arc::clone(&asked) };
        tokio::spawn(ending.clone().run_until_cancelled_owned(worker.run(waiting)));
        Aside { session: session.clone(), tasks, asked, _ending: ending.drop_guard() }
    }

    pub fn note(&self, attempt: AttemptRef, message: String) {
        self.send_if_room(Task::Note(attempt, message));
    }

    pub fn drivers(&self, drivers: Vec<DriverStatus>) -> Result<(), SessionEnd> {
        self.send(Task::Drivers(drivers))
    }

    /// Drops output of an attempt unknown to this master; once it is known, missing output is requested again.
    pub fn output(&self, attempt: AttemptRef, end: u64) -> Result<(), SessionEnd> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !asked.contains_key(&attempt);
        let known_end = asked.entry(attempt).or_default();
        *known_end = end.max(*known_end);
        if is_new { self.send(Task::Output(attempt)) } else { Ok(()) }
    }

    pub fn ended(&self, ended: Box<Ended>) -> Result<(), SessionEnd> {
        self.send(Task::Ended(ended))
    }

    /// Answers an attempt that is about to start.
    pub fn secrets_wanted(&self, attempt: AttemptRef) {
        self.send_if_room(Task::Secrets(attempt));
    }

    /// Records a result of a health check.
    pub fn checked(&self, checked: Box<Checked>) {
        let (attempt, check) = (checked.attempt, checked.check);
        let task = match self.session.control.healths.record(self.session.handle.worker, &checked, Utc::now())
        {
            Recorded::Unknown => Task::Checked(checked),
            Recorded::Counted { has_change: true } => Task::Health(attempt, check),
            Recorded::Counted { has_change: false } | Recorded::Stale => return,
        };
        self.send_if_room(task);
    }

    /// Leaves out what is not important if much waits: the rest of the queue is for what must not be lost.
    fn send_if_room(&self, task: Task) {
        if self.tasks.capacity() > MAX_WAITING / 2 {
            let _ = self.tasks.try_send(task);
        }
    }

    fn send(&self, task: Task) -> Result<(), SessionEnd> {
        self.tasks
            .try_send(task)
            .map_err(|_| SessionEnd::Disconnected("the worker has too many requests pending".to_owned()))
    }
}

struct Worker {
    session: Arc<Session>,
    asked: Arc<Mutex<HashMap<AttemptRef, u64>>>,
}

impl Worker {
    async fn run(self, mut waiting: mpsc::Receiver<Task>) {
        while let Some(task) = waiting.recv().await {
            // Boxed: thousands of idle sessions each hold this future, and what it does with a task is large.
            if let Err(error) = Box::pin(self.see_to(task)).await {
                self.session.handle.end(GoodbyeCode::ProtocolError, &error);
                return;
            }
        }
    }

    async fn see_to(&self, task: Task) -> Result<(), String> {
        match task {
            Task::Note(attempt, note) => self.session.write_note(attempt, &note).await,
            Task::Drivers(drivers) => {
                // Not stored, it would be forgotten until the next hello.
                self.patiently(|| self.session.write_drivers(&drivers)).await?;
                self.session.reports.drivers_written();
            }
            Task::Output(attempt) => {
                let live = self.open(attempt).await?;
                let end = self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
                let end = end.unwrap_or_default();
                // Unknown: of a deleted job, or of another worker's attempt. It can never be stored.
                if let Some(live) = live {
                    if !live.has_ended() {
                        self.want(&live);
                        return Ok(());
                    }
                    // The attempt is closed. The worker is told to forget it.
                    if end > live.received().bytes {
                        self.note(attempt, OUTPUT_AFTER_END).await;
                    }
                }
                self.session.handle.send(ToWorker::OutputStored { attempt, offset: end });
            }
            Task::Ended(ended) => self.ended(ended).await?,
            Task::Checked(checked) => self.checked(*checked).await?,
            Task::Secrets(attempt) => {
                if let Some(secrets) = self.patiently(|| secrets_of(&self.session, attempt)).await? {
                    self.session.handle.send(ToWorker::Secrets(Box::new(secrets)));
                }
            }
            Task::Health(attempt, check) => self.report_health_change(attempt, check).await?,
        }
        Ok(())
    }

    /// A result of an attempt that is asked for, unless a result before it was.
    async fn checked(&self, checked: Checked) -> Result<(), String> {
        let (healths, worker) = (&self.session.control.healths, self.session.handle.worker);
        let mut recorded = healths.record(worker, &checked, Utc::now());
        if recorded == Recorded::Unknown {
            let Some(live) = self.patiently(|| self.live_attempt(checked.attempt)).await? else {
                return Ok(());
            };
            healths.open(checked.attempt, live, Utc::now());
            // Its end may have been committed meanwhile, when there was nothing to be closed.
            let store = &self.session.control.store;
            if self.patiently(|| store.attempt_of_worker(worker, checked.attempt)).await?.is_none() {
                healths.close(&[checked.attempt], Utc::now());
            }
            recorded = healths.record(worker, &checked, Utc::now());
        }
        match recorded {
            Recorded::Counted { has_change: true } => {
                self.report_health_change(checked.attempt, checked.check).await
            }
            _ => Ok(()),
        }
    }

    /// An attempt with its checks; none if it is not live on this worker.
    async fn live_attempt(&self, attempt: AttemptRef) -> Result<Option<LiveAttempt>, StoreError> {
        let (store, worker) = (&self.session.control.store, self.session.handle.worker);
        let found = store.attempt_of_worker(worker, attempt).await?;
        let Some((definition, version, is_stopping)) = found else { return Ok(None) };
        let position = usize::from(definition.position);
        let Some(spec) = store.spec_of_attempt((definition.job, version)).await? else { return Ok(None) };
        let Some(task) = spec.tasks.get(position) else { return Ok(None) };
        let [health, readiness] = [&task.health, &task.readiness].map(|check| check.as_ref().map(Into::into));
        Ok(Some(LiveAttempt { worker, job: definition.job, position, is_stopping, health, readiness }))
    }

    /// Records a change of health; then, if the attempt is unhealthy, has it stopped.
    async fn report_health_change(&self, attempt: AttemptRef, check: CheckKind) -> Result<(), String> {
        let Session { control, handle, reports, .. } = &*self.session;
        let Some(change) = control.healths.pending_change(attempt, check) else { return Ok(()) };
        let HealthChange { state, event, stop } = change;
        // One that may not be written now is written with a later result.
        let event = event.filter(|_| reports.may_report_health());
        if let Some((kind, message)) = event {
            let stored = self
                .patiently(|| control.store.attempt_event(handle.worker, attempt, kind, &message))
                .await?;
            let Some(job) = stored else { return Ok(()) };
            control.healths.reported(attempt, check, state);
            control.changes.announce(&[job]);
        }
        // After the commit; should it be lost, it is sent again with the next failure.
        if let Some(message) = stop {
            handle.send(ToWorker::StopUnhealthy { attempt, message });
        }
        Ok(())
    }

    async fn ended(&self, ended: Box<Ended>) -> Result<(), String> {
        let attempt = ended.attempt;
        let Some(live) = self.open(attempt).await? else {
            // It does not exist (any more), or is another worker's: there is nothing to record.
            self.session.handle.send(ToWorker::EndStored { attempt });
            return Ok(());
        };
        let received = live.received();
        if ended.output_bytes > received.bytes {
            // What came before it was let go. It comes again, and the end after it.
            self.want(&live);
            return Ok(());
        }
        self.session.take_end(&live, ended).map_err(|error| error.to_string())
    }

    /// Asks for output that was let go, once.
    fn want(&self, live: &LiveOutput) {
        if let Some(offset) = live.tell_gap() {
            self.session.handle.send(ToWorker::OutputWanted { attempt: live.attempt, offset });
        }
    }

    async fn note(&self, attempt: AttemptRef, message: &str) {
        if let Some(note) = self.session.reports.note(attempt, message) {
            self.session.write_note(attempt, &note).await;
        }
    }

    async fn open(&self, attempt: AttemptRef) -> Result<Option<Arc<LiveOutput>>, String> {
        let (live, store, worker) =
            (&self.session.control.live, &self.session.control.store, self.session.handle.worker);
        self.patiently(|| live.open(store, attempt, worker)).await
    }

    /// Asks again while the database is away.
    async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, String> {
        let mut wait = RETRY_FIRST;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Unavailable(error)) => {
                    tracing::debug!(%error, "a worker's session waits for the database");
                }
                Err(error) => return Err(error.to_string()),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }
}
