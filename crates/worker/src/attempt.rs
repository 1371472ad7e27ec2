//! One attempt from its acceptance to its end: prepare, note it down, start, stream, wait, clean up, report.

pub(crate) mod scratch;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_domain::spec::{Action, StopSignal};
use gaffer_protocol::wire::{Ended, KillReceipt, StartAttempt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::driver::{Assignment, Drivers, Exit, OutputSource, Process, StartError, Started};
use crate::spool::{OutputWriter, Spool};
use scratch::ScratchSpace;

/// How long a killed main process may take to go before the attempt ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long after the end of the main process its streams may stay silent and open.
const DRAIN_SILENCE: Duration = Duration::from_secs(1);
/// How long they may be read after it at all: something that was not found may go on writing.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long a full disk is left alone before an attempt that waits for it tries again.
const JOURNAL_RETRY: Duration = Duration::from_millis(500);

/// What every attempt of this worker uses.
pub(crate) struct Workshop {
    pub drivers: Drivers,
    pub spool: Spool,
    pub scratch: ScratchSpace,
    /// Unguessable and the same for all processes of this worker, over all its restarts.
    pub token: String,
}

impl Workshop {
    /// What tells the processes of an attempt from all others.
    pub fn marker(&self, attempt: AttemptRef) -> String {
        format!("{}/{attempt}", self.token)
    }
}

/// Who wants to know how an attempt gets on.
pub(crate) trait Progress: Send + Sync {
    /// It started.
    fn started(&self, attempt: AttemptRef, at: DateTime<Utc>);
    /// There is more output.
    fn wrote(&self, attempt: AttemptRef);
    /// Nothing of it runs any more: what it had reserved is free.
    fn released(&self, attempt: AttemptRef);
}

/// What an attempt is told. Each field goes from none to some, once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// End it politely, killing it after so long.
    pub stop: Option<(Cause, Duration)>,
    /// End it now.
    pub kill: Option<Cause>,
}

/// Why gaffer ends an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The master said so.
    Stopped,
    /// Its time was up.
    TimedOut,
    /// The worker was out of contact for too long.
    LeaseExpired,
    /// The worker is going down.
    ShutDown,
}

/// How an attempt hears what it is told.
pub(crate) struct Controls {
    pub orders: watch::Receiver<Orders>,
    pub signals: mpsc::Receiver<StopSignal>,
}

/// Executes an attempt. Comes back when nothing of it is left but its output.
pub(crate) async fn run(
    workshop: &Workshop,
    start: &StartAttempt,
    worker_name: &str,
    mut writer: OutputWriter,
    mut controls: Controls,
    progress: &dyn Progress,
) -> Ended {
    let attempt = start.attempt;
    let script = match &start.action {
        Action::Script(text) => Some(text.as_str()),
        Action::Command(_) => None,
    };
    let scratch = match workshop.scratch.create(attempt, script) {
        Ok(scratch) => scratch,
        Err(error) => {
            let error = StartError::other(format!("cannot prepare the task's directory: {error}"));
            return unstarted(attempt, failed(error));
        }
    };
    let began = (Utc::now(), Instant::now());
    let started = match note_starting(workshop, attempt, began.0, &mut controls).await {
        Some(cause) => Err(ended_by(cause, None, start)),
        None => {
            let assignment = Assignment {
                start,
                worker_name,
                directory: scratch.work(),
                temporary: scratch.temporary(),
                script: scratch.script(),
                marker: &workshop.marker(attempt),
            };
            workshop.drivers.start(assignment).await.map_err(failed)
        }
    };
    let started = match started {
        Ok(started) => started,
        Err(end) => {
            workshop.scratch.remove(scratch);
            return unstarted(attempt, end);
        }
    };
    workshop.spool.started(attempt, started.pid);
    progress.started(attempt, began.0);

    let outcome = supervise(started, start, &mut writer, &mut controls, progress).await;

    workshop.scratch.remove(scratch);
    let totals = writer.finish();
    Ended {
        attempt,
        end: outcome.end,
        started_at: Some(began.0),
        ended_at: outcome.at,
        ran_micros: micros(outcome.instant.duration_since(began.1)),
        output_bytes: totals.bytes,
        output_sha256: Some(totals.sha256),
        killed: outcome.killed,
    }
}

/// The report on an attempt that never had a process.
pub(crate) fn unstarted(attempt: AttemptRef, end: AttemptEnd) -> Ended {
    Ended {
        attempt,
        end,
        started_at: None,
        ended_at: Utc::now(),
        ran_micros: 0,
        output_bytes: 0,
        output_sha256: None,
        killed: None,
    }
}

/// Notes in the journal that the attempt is about to start; waits if the disk is full. Gives the cause of an order to
/// end it that came first.
async fn note_starting(
    workshop: &Workshop,
    attempt: AttemptRef,
    at: DateTime<Utc>,
    controls: &mut Controls,
) -> Option<Cause> {
    let mut warned = false;
    loop {
        let orders = *controls.orders.borrow();
        if let Some(cause) = orders.kill.or(orders.stop.map(|(cause, _)| cause)) {
            return Some(cause);
        }
        let Err(error) = workshop.spool.starting(attempt, at) else { return None };
        if !warned {
            tracing::warn!(%attempt, %error, "cannot write to the journal: the attempt has to wait");
            warned = true;
        }
        let _ = timeout(JOURNAL_RETRY, controls.orders.changed()).await;
    }
}

struct Outcome {
    end: AttemptEnd,
    at: DateTime<Utc>,
    instant: Instant,
    killed: Option<KillReceipt>,
}

/// Streams the output, passes on what the attempt is told, and sees it off.
async fn supervise(
    started: Started,
    start: &StartAttempt,
    writer: &mut OutputWriter,
    controls: &mut Controls,
    progress: &dyn Progress,
) -> Outcome {
    let attempt = start.attempt;
    let Started { process, mut output, .. } = started;
    let exited = CancellationToken::new();
    let mut pump = pin!(pump(&mut *output, writer, &exited, || progress.wrote(attempt)));
    let mut has_output = true;
    let mut ending = Ending::new(process, start);
    let exit = loop {
        tokio::select! {
            biased;
            exit = poll_fn(|cx| ending.process.poll_exit(cx)) => break Some(exit),
            told = controls.next() => match told {
                Told::Signal(signal) => { ending.process.signal(signal).await; }
                Told::Orders(orders) => ending.obey(orders).await,
            },
            () = until(ending.due) => match ending.stage {
                Stage::Running => ending.stop(Cause::TimedOut, start.stop.grace.to_std()).await,
                Stage::Asked => ending.kill(None).await,
                Stage::Killed => break None,
            },
            () = &mut pump, if has_output => has_output = false,
        }
    };
    let (at, instant) = (Utc::now(), Instant::now());
    let killed = ending.process.finish().await;
    progress.released(attempt);
    exited.cancel();
    if has_output {
        pump.await;
    }
    if let Some(KillReceipt { left, .. }) = killed
        && left > 0
    {
        tracing::error!(%attempt, left, "processes of the attempt cannot be killed");
    }
    // What cannot be killed has been killed, as far as anybody will ever know.
    let exit = exit.unwrap_or(Exit::Process(ProcessEnd::Signal(StopSignal::Sigkill.number())));
    Outcome { end: judge(exit, ending.cause, start), at, instant, killed }
}

/// Moves output from the process to the spool until there is no more; after the exit, only while some comes.
async fn pump(
    source: &mut dyn OutputSource,
    writer: &mut OutputWriter,
    exited: &CancellationToken,
    wrote: impl Fn(),
) {
    while !exited.is_cancelled() {
        let next = tokio::select! {
            biased;
            next = poll_fn(|cx| source.poll_next(cx)) => next,
            () = exited.cancelled() => break,
        };
        let Some(record) = next else { return };
        writer.append(record, exited).await;
        wrote();
    }
    let limit = Instant::now() + DRAIN_LIMIT;
    while Instant::now() < limit {
        let next = timeout(DRAIN_SILENCE, poll_fn(|cx| source.poll_next(cx))).await;
        let Ok(Some(record)) = next else { return };
        writer.append(record, exited).await;
        wrote();
    }
}

enum Told {
    Orders(Orders),
    Signal(StopSignal),
}

impl Controls {
    async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            Ok(()) = self.orders.changed() => Told::Orders(*self.orders.borrow_and_update()),
            Some(signal) = self.signals.recv() => Told::Signal(signal),
            else => pending().await,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// It was asked to end.
    Asked,
    Killed,
}

/// A process on its way to its end.
struct Ending {
    process: Box<dyn Process>,
    stage: Stage,
    /// When the next step is due: the end of the timeout, of the grace, of the patience after a kill.
    due: Option<Instant>,
    /// Why it was ended; none while it may end by itself. The first cause stays.
    cause: Option<Cause>,
    signal: StopSignal,
}

impl Ending {
    fn new(process: Box<dyn Process>, start: &StartAttempt) -> Ending {
        let due = start.timeout.and_then(|limit| Instant::now().checked_add(limit.to_std()));
        Ending { process, stage: Stage::Running, due, cause: None, signal: start.stop.signal }
    }

    async fn obey(&mut self, orders: Orders) {
        if let Some((cause, grace)) = orders.stop {
            self.stop(cause, grace).await;
        }
        if let Some(cause) = orders.kill {
            self.kill(Some(cause)).await;
        }
    }

    /// Asks it to end within `grace`. Asked again it gets less time, never more.
    async fn stop(&mut self, cause: Cause, grace: Duration) {
        let due = Instant::now().checked_add(grace);
        match self.stage {
            Stage::Running if self.signal == StopSignal::Sigkill => self.kill(Some(cause)).await,
            Stage::Running => {
                if self.process.signal(self.signal).await {
                    (self.stage, self.due, self.cause) = (Stage::Asked, due, Some(cause));
                }
            }
            Stage::Asked => self.due = [self.due, due].into_iter().flatten().min(),
            Stage::Killed => {}
        }
    }

    async fn kill(&mut self, cause: Option<Cause>) {
        if self.stage == Stage::Killed {
            return;
        }
        if self.process.kill().await {
            self.cause = self.cause.or(cause);
        }
        (self.stage, self.due) = (Stage::Killed, Some(Instant::now() + KILL_PATIENCE));
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// What the end of a process makes of its attempt.
fn judge(exit: Exit, cause: Option<Cause>, start: &StartAttempt) -> AttemptEnd {
    match (cause, exit) {
        (None, Exit::Process(ProcessEnd::Code(code))) => AttemptEnd::Exited { code },
        (None, Exit::Process(ProcessEnd::Signal(signal))) => AttemptEnd::Signalled { signal },
        (None, Exit::OutOfMemory) => AttemptEnd::OutOfMemory,
        (Some(cause), Exit::Process(process)) => ended_by(cause, Some(process), start),
        (Some(cause), Exit::OutOfMemory) => {
            ended_by(cause, Some(ProcessEnd::Signal(StopSignal::Sigkill.number())), start)
        }
    }
}

fn ended_by(cause: Cause, process: Option<ProcessEnd>, start: &StartAttempt) -> AttemptEnd {
    match (cause, process, start.timeout) {
        (Cause::TimedOut, Some(process), Some(limit)) => AttemptEnd::TimedOut { limit, process },
        (Cause::Stopped | Cause::TimedOut, process, _) => AttemptEnd::Stopped { process },
        (Cause::LeaseExpired, _, _) => AttemptEnd::Lost { cause: LostCause::LeaseExpired },
        (Cause::ShutDown, _, _) => AttemptEnd::Lost { cause: LostCause::WorkerShutDown },
    }
}

fn failed(error: StartError) -> AttemptEnd {
    const MOST_CHARS: usize = 1000;
    let message = error.message.chars().take(MOST_CHARS).collect();
    AttemptEnd::StartFailed { exit_code: error.exit_code, message }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
