//! One attempt from its acceptance to its end: prepare, note it down, start, stream, wait, clean up, report.

mod input;
mod pump;
pub(crate) mod scratch;
mod short_path;

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gaffer_domain::AttemptRef;
use gaffer_domain::reason::{AttemptEnd, LostCause, ProcessEnd};
use gaffer_domain::spec::{Action, OnLimit, OutputLimit, StopSignal};
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::wire::{ContainerFacts, Ended, Input, InputTaken, KillReceipt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::BootTime;
use crate::driver::{Assignment, Drivers, Exit, Process, StartError, Started};
use crate::spool::{OutputWriter, Spool};
use input::feed;
use pump::{Quota, pump};
use scratch::ScratchSpace;

/// How long a killed main process may take to go before the attempt ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a full disk is left alone before an attempt that waits for it tries again.
const JOURNAL_RETRY: Duration = Duration::from_millis(500);

/// What every attempt of this worker uses.
pub(crate) struct AttemptContext {
    pub drivers: Drivers,
    pub spool: Spool,
    pub scratch: ScratchSpace,
    /// Unguessable and the same for all processes of this worker, over all its restarts.
    pub token: String,
}

impl AttemptContext {
    /// What tells the processes of an attempt from all others.
    pub fn marker(&self, attempt: AttemptRef) -> String {
        format!("{}/{attempt}", self.token)
    }
}

/// Who wants to know how an attempt gets on.
pub(crate) trait Progress: Send + Sync {
    /// How far its start is, where that takes long: a sentence.
    fn noted(&self, attempt: AttemptRef, message: String);
    /// It started.
    fn started(&self, attempt: AttemptRef, at: DateTime<Utc>, container: Option<ContainerFacts>);
    /// There is more output.
    fn wrote(&self, attempt: AttemptRef);
    /// So far its process has taken its input.
    fn took_input(&self, taken: InputTaken);
    /// Nothing of it runs any more: what it had reserved is free.
    fn released(&self, attempt: AttemptRef);
}

/// What an attempt is told. Each field goes from none to some, once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StopRequests {
    /// End it politely, killing it after so long.
    pub stop: Option<(Cause, Duration)>,
    /// End it now.
    pub kill: Option<Cause>,
}

impl StopRequests {
    /// Why it is to end; none if it is not.
    fn cause(self) -> Option<Cause> {
        self.kill.or(self.stop.map(|(cause, _)| cause))
    }
}

/// Why gaffer ends an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The master said so.
    Stopped,
    /// Its time was up.
    TimedOut,
    /// It wrote too much.
    OutputLimit(OutputLimit),
    /// The worker was out of contact for too long.
    LeaseExpired,
    /// The worker is going down.
    ShutDown,
}

/// How an attempt hears what it is told.
pub(crate) struct Controls {
    pub orders: watch::Receiver<StopRequests>,
    pub signals: mpsc::Receiver<StopSignal>,
    pub inputs: mpsc::Receiver<Input>,
}

/// Executes an attempt. Comes back when nothing of it is left but its output.
pub(crate) async fn run(
    workshop: &AttemptContext,
    start: &StartAttempt,
    worker_name: &str,
    writer: OutputWriter,
    mut controls: Controls,
    progress: &dyn Progress,
) -> Ended {
    let attempt = start.attempt;
    let script = match &start.definition.action {
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
    let at = Utc::now();
    let boot = BootTime::now();
    let started = match note_starting(workshop, start, at, &mut controls).await {
        Some(cause) => Err(ended_by(cause, None, start)),
        None => {
            let assignment = Assignment {
                start,
                worker_name,
                scratch: scratch.work(),
                temporary: scratch.temporary(),
                script: scratch.script(),
                marker: &workshop.marker(attempt),
            };
            let note = |message| progress.noted(attempt, message);
            let cancelled = CancellationToken::new();
            let begin = workshop.drivers.start(assignment, &note, &cancelled);
            until_ordered_to_end(begin, &controls, &cancelled).await.map_err(|error| {
                ordered_to_end(&controls).map_or_else(|| failed(error), |cause| ended_by(cause, None, start))
            })
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
    let running = Running { at, boot, started };
    let ended = run_to_end(running, start, writer, controls, progress).await;
    workshop.scratch.remove(scratch);
    ended
}

/// Goes on with an attempt that an earlier process of this worker began, at `at` and `boot`. Comes back as [`run`] does.
pub(crate) async fn adopt(
    workshop: &AttemptContext,
    resumption: Resumption,
    writer: OutputWriter,
    controls: Controls,
    progress: &dyn Progress,
) -> Ended {
    let Resumption { start, at, boot, has_started } = resumption;
    let cancelled = CancellationToken::new();
    let position = writer.position().cloned();
    let adopt = workshop.drivers.adopt(&start, has_started, position, &cancelled);
    match until_ordered_to_end(adopt, &controls, &cancelled).await {
        Ok(started) => run_to_end(Running { at, boot, started }, &start, writer, controls, progress).await,
        Err(cause) => {
            let totals = writer.finish();
            Ended {
                started_at: has_started.then_some(at),
                output_bytes: totals.bytes,
                output_sha256: totals.sha256,
                ..unstarted(start.attempt, AttemptEnd::Lost { cause })
            }
        }
    }
}

/// What is known of an attempt that an earlier process began.
#[derive(Debug, Clone)]
pub(crate) struct Resumption {
    pub start: Arc<StartAttempt>,
    /// When it began to start, on the wall and since the machine was started.
    pub at: DateTime<Utc>,
    pub boot: BootTime,
    /// It is known to have started.
    pub has_started: bool,
}

/// An attempt that executes.
struct Running {
    at: DateTime<Utc>,
    boot: BootTime,
    started: Started,
}

/// Stays with an attempt to its end and reports on it.
async fn run_to_end(
    running: Running,
    start: &StartAttempt,
    mut writer: OutputWriter,
    mut controls: Controls,
    progress: &dyn Progress,
) -> Ended {
    let Running { at, boot, started } = running;
    let container = started.container.clone();
    progress.started(start.attempt, at, container.clone());
    let outcome = supervise(started, start, boot, &mut writer, &mut controls, progress).await;
    let totals = writer.finish();
    Ended {
        attempt: start.attempt,
        end: outcome.end,
        started_at: Some(at),
        ended_at: outcome.at,
        ran_micros: outcome.boot.as_micros().saturating_sub(boot.as_micros()),
        output_bytes: totals.bytes,
        output_sha256: totals.sha256,
        killed: outcome.killed,
        container,
    }
}

/// Waits for a beginning; told to end the attempt, it is cancelled, which may take a moment.
async fn until_ordered_to_end<T>(
    begin: impl Future<Output = T>,
    controls: &Controls,
    cancelled: &CancellationToken,
) -> T {
    let mut orders = controls.orders.clone();
    let ordered = async {
        if orders.wait_for(|orders| orders.cause().is_some()).await.is_err() {
            pending::<()>().await;
        }
    };
    let mut begin = pin!(begin);
    tokio::select! {
        biased;
        begun = &mut begin => begun,
        () = ordered => {
            cancelled.cancel();
            begin.await
        }
    }
}

fn ordered_to_end(controls: &Controls) -> Option<Cause> {
    controls.orders.borrow().cause()
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
        container: None,
    }
}

/// Notes in the journal that the attempt is about to start; waits if the disk is full. Gives the cause of an order to
/// end it that came first.
async fn note_starting(
    workshop: &AttemptContext,
    start: &StartAttempt,
    at: DateTime<Utc>,
    controls: &mut Controls,
) -> Option<Cause> {
    let resume = Drivers::outlives_worker(start.definition.driver).then_some(start);
    let mut warned = false;
    loop {
        if let Some(cause) = ordered_to_end(controls) {
            return Some(cause);
        }
        let Err(error) = workshop.spool.starting(start.attempt, at, resume) else { return None };
        if !warned {
            tracing::warn!(attempt = %start.attempt, %error, "cannot write to the journal: the attempt has to wait");
            warned = true;
        }
        let _ = timeout(JOURNAL_RETRY, controls.orders.changed()).await;
    }
}

struct Outcome {
    end: AttemptEnd,
    at: DateTime<Utc>,
    boot: BootTime,
    killed: Option<KillReceipt>,
}

/// Streams the output, passes on what the attempt is told, and sees it off.
async fn supervise(
    started: Started,
    start: &StartAttempt,
    began: BootTime,
    writer: &mut OutputWriter,
    controls: &mut Controls,
    progress: &dyn Progress,
) -> Outcome {
    let attempt = start.attempt;
    let Started { process, mut output, input, .. } = started;
    let (_, no_inputs) = mpsc::channel(1);
    let inputs = std::mem::replace(&mut controls.inputs, no_inputs);
    let mut feed = Box::pin(feed(input, inputs, start, progress));
    let exited = CancellationToken::new();
    let mut quota = Quota::new(start.definition.output, writer.bytes());
    let exceeded = quota.exceeded();
    let mut pump = Box::pin(pump(&mut *output, writer, &mut quota, &exited, || progress.wrote(attempt)));
    let (mut has_output, mut has_exceeded) = (true, false);
    let mut ending = Ending::new(process, start, began);
    let exit = loop {
        tokio::select! {
            biased;
            exit = poll_fn(|cx| ending.process.poll_exit(cx)) => break Some(exit),
            told = controls.next() => match told {
                Told::Signal(signal) => { ending.process.signal(signal).await; }
                Told::StopRequests(orders) => ending.obey(orders).await,
            },
            () = until(ending.due) => match ending.stage {
                Stage::Running => ending.stop(Cause::TimedOut, start.definition.stop.grace.to_std()).await,
                Stage::Asked => ending.kill(None).await,
                Stage::Killed => break None,
            },
            () = exceeded.cancelled(), if !has_exceeded => {
                has_exceeded = true;
                ending.exceeded(start.definition.output, |message| progress.noted(attempt, message)).await;
            }
            () = &mut pump, if has_output => has_output = false,
            // Never over by itself.
            () = &mut feed => {}
        }
    };
    drop(feed);
    let (at, boot) = (Utc::now(), BootTime::now());
    let killed = ending.process.finish().await;
    progress.released(attempt);
    exited.cancel();
    if has_output {
        pump.as_mut().await;
    }
    drop(pump);
    ending.process.clean_up().await;
    // Also when that shows only in what was read after its exit: it does not depend on who was faster.
    let cause = ending.cause.or(quota.broken().map(Cause::OutputLimit));
    if let Some(KillReceipt { left, .. }) = killed
        && left > 0
    {
        tracing::error!(%attempt, left, "processes of the attempt cannot be killed");
    }
    // What cannot be killed has been killed, as far as anybody will ever know.
    let exit = exit.unwrap_or(Exit::Process(ProcessEnd::Signal(StopSignal::Sigkill.number())));
    Outcome { end: judge(exit, cause, start), at, boot, killed }
}

enum Told {
    StopRequests(StopRequests),
    Signal(StopSignal),
}

impl Controls {
    async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            Ok(()) = self.orders.changed() => Told::StopRequests(*self.orders.borrow_and_update()),
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
    fn new(process: Box<dyn Process>, start: &StartAttempt, began: BootTime) -> Ending {
        let ran = Duration::from_micros(BootTime::now().as_micros().saturating_sub(began.as_micros()));
        let due = start
            .definition
            .timeout
            .and_then(|limit| Instant::now().checked_add(limit.to_std().saturating_sub(ran)));
        Ending { process, stage: Stage::Running, due, cause: None, signal: start.definition.stop.signal }
    }

    async fn obey(&mut self, orders: StopRequests) {
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

    /// It wrote more than it may.
    async fn exceeded(&mut self, limit: Option<OutputLimit>, note: impl Fn(String)) {
        let Some(limit) = limit else { return };
        let what = match limit.on_limit {
            OnLimit::Truncate => "what it writes from now on is left out",
            OnLimit::Kill => "it is killed",
        };
        note(format!("its output has reached the limit of {}: {what}", limit.limit));
        if limit.on_limit == OnLimit::Kill {
            self.kill(Some(Cause::OutputLimit(limit))).await;
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
        (None, Exit::Lost(cause)) => AttemptEnd::Lost { cause },
        (Some(cause), Exit::Process(process)) => ended_by(cause, Some(process), start),
        (Some(cause), Exit::OutOfMemory | Exit::Lost(_)) => {
            ended_by(cause, Some(ProcessEnd::Signal(StopSignal::Sigkill.number())), start)
        }
    }
}

fn ended_by(cause: Cause, process: Option<ProcessEnd>, start: &StartAttempt) -> AttemptEnd {
    match (cause, process, start.definition.timeout) {
        (Cause::TimedOut, Some(process), Some(limit)) => AttemptEnd::TimedOut { limit, process },
        (Cause::OutputLimit(OutputLimit { limit, .. }), Some(process), _) => {
            AttemptEnd::OutputLimit { limit, process }
        }
        (Cause::Stopped | Cause::TimedOut | Cause::OutputLimit(_), process, _) => {
            AttemptEnd::Stopped { process }
        }
        (Cause::LeaseExpired, _, _) => AttemptEnd::Lost { cause: LostCause::LeaseExpired },
        (Cause::ShutDown, _, _) => AttemptEnd::Lost { cause: LostCause::WorkerShutDown },
    }
}

fn failed(error: StartError) -> AttemptEnd {
    const MOST_CHARS: usize = 1000;
    let message = error.message.chars().take(MOST_CHARS).collect();
    AttemptEnd::StartFailed { exit_code: error.exit_code, message }
}
