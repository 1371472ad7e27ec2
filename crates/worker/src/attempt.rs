//! One attempt, from acceptance to end: prepare, start, supervise, report.
//!
//! This file is the sequence. [`hooks`] are the steps around the execution, the [driver](crate::driver) executes, and
//! [`supervise`] is the loop while it runs.

mod bursts;
mod controls;
mod end;
mod hooks;
mod probe;
mod pump;
mod redacted;
pub(crate) mod scratch;
pub(crate) mod secret_files;
mod short_path;
mod supervise;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause};
use gaffer_domain::redact::Masks;
use gaffer_domain::spec::StopSignal;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::health::Checked;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, Ended, InputTaken};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::blocking::BlockingThreads;
use crate::clock::Began;
use crate::driver::{Assignment, Capabilities, Drivers, OnStart, StartError, Started};
use crate::ports::Ports;
use crate::spool::{OutputWriter, Position, Spool};
pub(crate) use controls::{Cause, ControlSender, Controls, StopRequests, channels};
pub(crate) use end::unstarted;
use hooks::Hooks;
pub(crate) use redacted::Finders;
use scratch::ScratchSpace;
use secret_files::SecretFiles;
use supervise::supervise;

/// What every attempt of this worker uses.
pub(crate) struct AttemptContext {
    pub drivers: Drivers,
    pub spool: Spool,
    pub scratch: ScratchSpace,
    /// Files with secrets of attempts.
    pub secret_files: SecretFiles,
    /// What finds secrets in output.
    pub finders: Finders,
    /// For what hooks do with files.
    pub threads: BlockingThreads,
    /// Ports of this machine that attempts hold.
    pub ports: Ports,
    /// Health checks that are under way at the same time; more wait for their turn.
    pub checks: Semaphore,
    /// Unguessable and the same for all processes of this worker, over all its restarts.
    pub token: String,
}

impl AttemptContext {
    /// What tells the processes of an attempt from all others.
    pub fn marker(&self, attempt: AttemptRef) -> String {
        format!("{}/{attempt}", self.token)
    }
}

/// Everything about one attempt.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub context: Arc<AttemptContext>,
    pub start: Arc<StartAttempt>,
    /// The name that the master knows this worker by.
    pub worker_name: Arc<str>,
    pub progress: Arc<dyn Progress>,
    pub began: Began,
    /// What its output must not show, once that is known; nothing for one without secrets.
    masks: Arc<OnceLock<Mutex<Masks>>>,
    /// How far its output was stored when it was adopted, if that is known.
    stored: Option<Position>,
}

impl Attempt {
    pub fn new(
        context: Arc<AttemptContext>,
        start: Arc<StartAttempt>,
        worker_name: Arc<str>,
        progress: Arc<dyn Progress>,
        began: Began,
    ) -> Attempt {
        Attempt { context, start, worker_name, progress, began, masks: Arc::default(), stored: None }
    }

    /// A text without what its output must not show.
    fn redacted(&self, text: String) -> String {
        let Some(masks) = self.masks.get() else { return text };
        let mut masks = masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.hide_in(&text)
    }

    pub fn reference(&self) -> AttemptRef {
        self.start.attempt
    }

    fn capabilities(&self) -> Capabilities {
        self.context.drivers.capabilities(self.start.definition.driver)
    }

    /// Reports the progress of the attempt.
    fn note(&self, message: String) {
        self.progress.noted(self.reference(), message);
    }
}

/// Who wants to know how an attempt gets on.
pub(crate) trait Progress: Send + Sync {
    /// How far it is, where that is of interest: a sentence.
    fn noted(&self, attempt: AttemptRef, message: String);
    /// It started.
    fn started(&self, attempt: AttemptRef, start: StartFacts);
    /// There is more output.
    fn wrote(&self, attempt: AttemptRef);
    /// It is about to start and needs its secrets.
    fn wants_secrets(&self, attempt: AttemptRef);
    /// So far its process has taken its input.
    fn took_input(&self, taken: InputTaken);
    /// A health check has a result.
    fn checked(&self, checked: Checked);
    /// No process of it is left: its resources are free.
    fn released(&self, attempt: AttemptRef);
}

/// What is told of a start.
#[derive(Debug, Clone)]
pub(crate) struct StartFacts {
    pub at: DateTime<Utc>,
    pub container: Option<ContainerFacts>,
    pub ports: Vec<NamedPort>,
}

/// Executes an attempt. Comes back when nothing of it is left but its output.
pub(crate) async fn run(attempt: Attempt, writer: OutputWriter, controls: Controls) -> Ended {
    let Controls { stops, signals, inputs, secrets } = controls;
    run_with(Hooks::all(inputs, secrets), attempt, writer, stops, signals).await
}

async fn run_with(
    mut hooks: Hooks,
    mut attempt: Attempt,
    writer: OutputWriter,
    stops: watch::Receiver<StopRequests>,
    signals: mpsc::Receiver<StopSignal>,
) -> Ended {
    let cancelled = CancellationToken::new();
    let starting = start(&mut attempt, &mut hooks, &cancelled, &stops);
    let ended = match until_told_to_end(starting, &stops, &cancelled).await {
        Ok(started) => see_through(&attempt, &mut hooks, started, writer, stops, signals).await,
        Err(error) => {
            let error = StartError { message: attempt.redacted(error.message), ..error };
            let cause = stops.borrow().cause();
            unstarted(attempt.reference(), end::of_start(error, cause, &attempt.start))
        }
    };
    hooks.after_end(&attempt, &ended).await;
    ended
}

/// Adopts an attempt of a previous executor. Returns as [`run`] does.
pub(crate) async fn adopt(
    mut attempt: Attempt,
    has_started: bool,
    writer: OutputWriter,
    controls: Controls,
) -> Ended {
    let Controls { stops, signals, inputs, secrets } = controls;
    let mut hooks = Hooks::all(inputs, secrets);
    let cancelled = CancellationToken::new();
    attempt.stored = writer.position().cloned();
    let position = match attempt.start.definition.secrets.is_empty() {
        true => attempt.stored.clone(),
        // What is stored is not what was read. So it is read from the beginning, and what is stored is left out.
        false => attempt.stored.as_ref().map(|_| Position::default()),
    };
    let adopting = attempt.context.drivers.adopt(&attempt.start, has_started, position, &cancelled);
    let ended = match until_told_to_end(adopting, &stops, &cancelled).await {
        Ok(mut started) => {
            hooks.adopted(&attempt, &mut started).await;
            see_through(&attempt, &mut hooks, started, writer, stops, signals).await
        }
        Err(cause) => vanished(&attempt, cause, has_started, writer),
    };
    hooks.after_end(&attempt, &ended).await;
    ended
}

/// Prepares and starts it. After an error nothing of it runs.
async fn start(
    attempt: &mut Attempt,
    hooks: &mut Hooks,
    cancelled: &CancellationToken,
    stops: &watch::Receiver<StopRequests>,
) -> Result<Started, StartError> {
    let mut assignment = Assignment {
        start: attempt.start.clone(),
        environment: BTreeMap::new(),
        directories: None,
        secret_files: Vec::new(),
        on_start: OnStart::default(),
        marker: attempt.context.marker(attempt.reference()),
    };
    hooks.before_start(attempt, &mut assignment, cancelled).await?;
    attempt.start = assignment.start.clone();
    // A lease that lapsed while this was prepared, or before, must not begin anything.
    if stops.borrow().cause().is_some() {
        return Err(StartError::other("it was told to end before it started"));
    }
    let note = |message| attempt.note(message);
    let mut started = attempt.context.drivers.start(assignment, &note, cancelled).await?;
    hooks.after_start(attempt, &mut started).await;
    Ok(started)
}

/// Stays with it to its end and reports on it.
async fn see_through(
    attempt: &Attempt,
    hooks: &mut Hooks,
    started: Started,
    mut writer: OutputWriter,
    mut stops: watch::Receiver<StopRequests>,
    mut signals: mpsc::Receiver<StopSignal>,
) -> Ended {
    let Began { at, boot } = attempt.began;
    let container = started.container.clone();
    let ports = attempt.start.assigned_ports.clone();
    let facts = StartFacts { at, container: container.clone(), ports: ports.clone() };
    attempt.progress.started(attempt.reference(), facts);
    let outcome = supervise(started, attempt, hooks, &mut writer, &mut stops, &mut signals).await;
    let totals = writer.finish();
    Ended {
        attempt: attempt.reference(),
        end: end::of_process(outcome.exit, outcome.cause, &attempt.start),
        started_at: Some(at),
        ended_at: outcome.at,
        ran_micros: outcome.boot.as_micros().saturating_sub(boot.as_micros()),
        output_bytes: totals.bytes,
        output_sha256: totals.sha256,
        killed: outcome.killed,
        container,
        ports,
    }
}

/// Reports an attempt that cannot be adopted.
fn vanished(attempt: &Attempt, cause: LostCause, has_started: bool, writer: OutputWriter) -> Ended {
    let totals = writer.finish();
    Ended {
        started_at: has_started.then_some(attempt.began.at),
        output_bytes: totals.bytes,
        output_sha256: totals.sha256,
        ..unstarted(attempt.reference(), AttemptEnd::Lost { cause })
    }
}

/// Waits for the start; if the attempt is stopped, cancels it, which may take a moment.
async fn until_told_to_end<T>(
    begin: impl Future<Output = T>,
    stops: &watch::Receiver<StopRequests>,
    cancelled: &CancellationToken,
) -> T {
    let mut begin = pin!(begin);
    tokio::select! {
        biased;
        begun = &mut begin => begun,
        () = controls::told_to_end(stops.clone()) => {
            cancelled.cancel();
            begin.await
        }
    }
}
