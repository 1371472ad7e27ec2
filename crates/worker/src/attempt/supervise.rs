//! The supervision loop of a running attempt: output, signals, timeout, stop and end.
//!
//! Its arms share the process, the stage of its end and the clock of that stage, so it is one loop and not hooks.

use std::future::poll_fn;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gaffer_domain::reason::ProcessEnd;
use gaffer_domain::spec::{OnLimit, OutputLimit, StopSignal};
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::KillReceipt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Attempt;
use super::controls::{self, Cause, StopRequests, Told};
use super::hooks::Hooks;
use super::pump::{Quota, pump};
use crate::clock::until;
use crate::driver::{Exit, Process, Started};
use crate::spool::OutputWriter;

/// How long a killed main process may take to go before the attempt ends without it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Outcome {
    pub exit: Exit,
    /// Why gaffer ended it; none if it ended by itself.
    pub cause: Option<Cause>,
    pub at: DateTime<Utc>,
    pub boot: BootTime,
    pub killed: Option<KillReceipt>,
}

/// Stays with it until nothing of it runs and all its output is with `writer`.
pub(super) async fn supervise(
    started: Started,
    attempt: &Attempt,
    hooks: &mut Hooks,
    writer: &mut OutputWriter,
    stops: &mut watch::Receiver<StopRequests>,
    signals: &mut mpsc::Receiver<StopSignal>,
) -> Outcome {
    let (reference, definition) = (attempt.reference(), &attempt.start.definition);
    let Started { process, mut output, .. } = started;
    let exited = CancellationToken::new();
    let mut quota = Quota::new(definition.output, writer.bytes());
    let exceeded = quota.exceeded();
    let wrote = || attempt.progress.wrote(reference);
    let mut pump = Box::pin(pump(&mut *output, writer, &mut quota, &exited, wrote));
    let (mut has_output, mut has_exceeded) = (true, false);
    let mut ending = Ending::new(process, attempt, hooks);
    let exit = loop {
        tokio::select! {
            biased;
            exit = poll_fn(|cx| ending.process.poll_exit(cx)) => break Some(exit),
            told = controls::next(stops, signals) => match told {
                Told::Signal(signal) => { ending.process.signal(signal).await; }
                Told::Stop(requests) => ending.obey(requests).await,
            },
            () = until(ending.due) => match ending.stage {
                Stage::Running => ending.stop(Cause::TimedOut, definition.stop.grace.to_std()).await,
                Stage::Asked => ending.kill(None).await,
                Stage::Killed => break None,
            },
            () = exceeded.cancelled(), if !has_exceeded => {
                has_exceeded = true;
                ending.exceeded(definition.output).await;
            }
            () = &mut pump, if has_output => has_output = false,
        }
    };
    let (at, boot) = (Utc::now(), BootTime::now());
    let killed = ending.process.finish().await;
    attempt.progress.released(reference);
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
        tracing::error!(attempt = %reference, left, "processes of the attempt cannot be killed");
    }
    // What cannot be killed has been killed, as far as anybody will ever know.
    let exit = exit.unwrap_or(Exit::Process(ProcessEnd::Signal(StopSignal::Sigkill.number())));
    Outcome { exit, cause, at, boot, killed }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// It was asked to end.
    Asked,
    Killed,
}

/// A process on its way to its end.
struct Ending<'a> {
    attempt: &'a Attempt,
    hooks: &'a mut Hooks,
    process: Box<dyn Process>,
    stage: Stage,
    /// When the next step is due: the end of the timeout, of the grace, of the patience after a kill.
    due: Option<Instant>,
    /// Why it is being ended; none while it may end by itself. The first cause stays.
    cause: Option<Cause>,
}

impl Ending<'_> {
    fn new<'a>(process: Box<dyn Process>, attempt: &'a Attempt, hooks: &'a mut Hooks) -> Ending<'a> {
        let began = attempt.began.boot.as_micros();
        let ran = Duration::from_micros(BootTime::now().as_micros().saturating_sub(began));
        let timeout = attempt.start.definition.timeout;
        let due = timeout.and_then(|limit| Instant::now().checked_add(limit.to_std().saturating_sub(ran)));
        Ending { attempt, hooks, process, stage: Stage::Running, due, cause: None }
    }

    async fn obey(&mut self, requests: StopRequests) {
        if let Some((cause, grace)) = requests.stop {
            self.stop(cause, grace).await;
        }
        if let Some(cause) = requests.kill {
            self.kill(Some(cause)).await;
        }
    }

    /// Asks it to end within `grace`. Asked again it gets less time, never more.
    async fn stop(&mut self, cause: Cause, grace: Duration) {
        let due = Instant::now().checked_add(grace);
        let signal = self.attempt.start.definition.stop.signal;
        match self.stage {
            Stage::Running if signal == StopSignal::Sigkill => self.kill(Some(cause)).await,
            Stage::Running => {
                self.hooks.before_stop(self.attempt).await;
                if self.process.signal(signal).await {
                    (self.stage, self.due, self.cause) = (Stage::Asked, due, Some(cause));
                }
            }
            Stage::Asked => self.due = [self.due, due].into_iter().flatten().min(),
            Stage::Killed => {}
        }
    }

    /// It wrote more than it may.
    async fn exceeded(&mut self, limit: Option<OutputLimit>) {
        let Some(limit) = limit else { return };
        let what = match limit.on_limit {
            OnLimit::Truncate => "further output is dropped",
            OnLimit::Kill => "the task is killed",
        };
        self.attempt.note(format!("the output reached its limit of {}: {what}", limit.limit));
        if limit.on_limit == OnLimit::Kill {
            self.kill(Some(Cause::OutputLimit(limit))).await;
        }
    }

    async fn kill(&mut self, cause: Option<Cause>) {
        if self.stage == Stage::Killed {
            return;
        }
        if self.process.kill().await {
            self.cause = self.cause.take().or(cause);
        }
        (self.stage, self.due) = (Stage::Killed, Some(Instant::now() + KILL_PATIENCE));
    }
}
