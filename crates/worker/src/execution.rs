//! All attempts of this worker: accepts starts, holds attempts until their ends are acknowledged, and stops
//! attempts whose lease has expired.
//!
//! The other side, [`crate::connection`], knows of attempts only what crosses the border between the two processes, see
//! [`crate::executor`]: [`Command`] in, [`Event`] out, [`EncodedChunk`] on request, and the times of contact with the
//! master.

mod admission;
mod attempts;
mod definitions;
mod housekeeping;
mod lease;
mod open_files;
mod pieces;
mod recovery;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use gaffer_domain::AttemptRef;
use gaffer_domain::quantity::Span;
use gaffer_domain::reason::AttemptEnd;
use gaffer_domain::spec::{Resources, StopSignal};
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::definitions::StartAttempt;
use gaffer_protocol::output::EncodedChunk;
use gaffer_protocol::secrets::Secrets;
use gaffer_protocol::wire::{DriverStatus, Ended, HeldAttempt, Input, StoredOutput, ToMaster, Welcome};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::attempt::scratch::ScratchSpace;
use crate::attempt::secret_files::SecretFiles;
use crate::attempt::{self, AttemptContext, Cause, Finders, StopRequests};
use crate::blocking::{BlockingThreads, STORING_PATIENCE};
use crate::driver::{self, DriverSettings, Drivers};
use crate::ports::{PortSettings, Ports};
use crate::spool::Resumed;
use crate::stats;
use admission::Admission;
use lease::ContactFile;
use pieces::Pieces;
pub(crate) use state::Pending;
use state::{Accepted, Ordered, State};

/// The longest grace that a worker which is going down gives its attempts.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long a request for output may block the agent's other requests; and the limit while the disk is known to be
/// slow.
const READ_PATIENCE: Duration = Duration::from_millis(500);
const SHORT_READ_PATIENCE: Duration = Duration::from_millis(5);
/// Attempts whose hooks may wait for files at the same time; more wait for their turn.
const MAX_FILE_THREADS: usize = 64;
/// Health checks that are under way at the same time.
const MAX_CHECKS: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExecutionSettings {
    /// The worker's data directory, absolute; it belongs to this process.
    pub data_dir: PathBuf,
    /// Names this boot of the machine.
    pub boot_id: String,
    /// The secret part of what marks processes; the same for all processes of a worker.
    pub token: String,
    pub worker_name: String,
    pub capacity: Resources,
    /// What there is of countable resources.
    #[serde(default)]
    pub countables: BTreeMap<String, u32>,
    /// Bytes; none: as much as is decent.
    pub spool_limit: Option<u64>,
    pub drivers: DriverSettings,
    /// Marks what belongs to this worker outside of its processes.
    pub owner: String,
    #[serde(default)]
    pub ports: PortSettings,
}

/// Requests of the master about attempts, complete with everything they need. The names are those of the first
/// protocol version, because an upgraded worker is served by the existing executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Command {
    /// See [`gaffer_protocol::wire::ToWorker::Start`]; likewise below.
    Start(Box<StartAttempt>),
    Stop {
        attempt: AttemptRef,
    },
    StopUnhealthy {
        attempt: AttemptRef,
        message: String,
    },
    Kill {
        attempt: AttemptRef,
    },
    Signal {
        attempt: AttemptRef,
        signal: StopSignal,
    },
    Input(Box<Input>),
    Secrets(Box<Secrets>),
    TakeBack {
        attempt: AttemptRef,
    },
    OutputStored {
        attempt: AttemptRef,
        offset: u64,
    },
    EndStored {
        attempt: AttemptRef,
    },
}

/// Events of the execution. None are sent without a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// To be passed on to the master. An end only after the output before it.
    Report(ToMaster),
    /// The attempt has output up to `end`.
    Output { attempt: AttemptRef, end: u64 },
}

/// A handle on all that executes here.
#[derive(Clone)]
pub(crate) struct Execution {
    core: Arc<Core>,
    /// Ends the loops in the background when the last handle goes.
    _background: Arc<DropGuard>,
}

struct Core {
    context: Arc<AttemptContext>,
    state: Mutex<State>,
    contact_file: ContactFile,
    /// There are events.
    eventful: Notify,
    /// A lease may run out earlier than was known.
    lease_changed: Notify,
    /// When the first one runs out.
    lease_end: watch::Sender<Option<BootTime>>,
    /// An attempt ended, or was forgotten.
    settled: Notify,
    /// Reads of the spool that have not come back in time.
    slow_reads: AtomicUsize,
}

impl Execution {
    /// Cleans up after an earlier process and starts. `data_dir` must be locked by the caller.
    pub async fn open(settings: ExecutionSettings) -> anyhow::Result<Execution> {
        driver::adopt_orphans().context("cannot adopt orphaned processes")?;
        let spool_limit =
            settings.spool_limit.unwrap_or_else(|| housekeeping::default_spool_limit(&settings.data_dir));
        let ExecutionSettings { data_dir, boot_id, token, ports, .. } = settings.clone();
        let ports = Ports::new(ports, &token);
        let recover = move || recovery::recover(&data_dir.join("spool"), &boot_id, &token, spool_limit);
        let (spool, from_before) = tokio::task::spawn_blocking(recover).await??;
        let scratch = ScratchSpace::open(&settings.data_dir, settings.drivers.user.clone())?;
        let adopting = from_before.resumed.iter().map(|resumed| resumed.start.attempt);
        for Resumed { start, .. } in &from_before.resumed {
            let assigned = start.assigned_ports.iter().map(|port| (port.port, port.protocol));
            ports.keep(start.attempt, assigned.chain(start.definition.published_ports()));
        }
        let attempts: Vec<AttemptRef> = adopting.clone().collect();
        let secret_files = SecretFiles::open(&settings.data_dir, &attempts, settings.drivers.user.clone());
        let context = Arc::new(AttemptContext {
            drivers: Drivers::open(settings.drivers, settings.owner, adopting)
                .await
                .context("cannot start a thread")?,
            spool,
            scratch,
            secret_files,
            finders: Finders::default(),
            threads: BlockingThreads::new("attempt-files", MAX_FILE_THREADS, STORING_PATIENCE)
                .context("cannot start a thread")?,
            ports,
            checks: Semaphore::new(MAX_CHECKS),
            token: settings.token,
        });
        let admission = Admission::new(settings.capacity, open_files::max_running());
        let pieces = Pieces::new(settings.countables);
        let mut state = State::new(settings.worker_name, admission, pieces, from_before.over);
        let take_over = |resumed: Resumed| {
            let (began, has_started) = (resumed.began, resumed.has_started);
            (state.take_over(resumed), began, has_started)
        };
        let taken_over: Vec<_> = from_before.resumed.into_iter().map(take_over).collect();
        let contact_file = ContactFile::open(&settings.data_dir, &settings.boot_id)
            .context("cannot open the file `contact` in the data directory")?;
        state.renew_lease(contact_file.read());
        let core = Arc::new(Core {
            context: context.clone(),
            state: Mutex::new(state),
            contact_file,
            eventful: Notify::new(),
            lease_changed: Notify::new(),
            lease_end: watch::Sender::new(None),
            settled: Notify::new(),
            slow_reads: AtomicUsize::new(0),
        });
        for (launch, began, has_started) in taken_over {
            tokio::spawn(core.clone().adopt(launch, began, has_started));
        }
        if let Some(disk) = stats::disk(&settings.data_dir) {
            core.note_disk(&settings.data_dir, disk);
        }
        let ending = CancellationToken::new();
        let watch = lease::watch(core.clone()).context("cannot make a timer")?;
        tokio::spawn(ending.clone().run_until_cancelled_owned(watch));
        let loops: [BoxFuture<'static, ()>; 4] = [
            Box::pin(housekeeping::watch_disk(core.clone(), settings.data_dir)),
            Box::pin(housekeeping::look_after_drivers(core.clone())),
            Box::pin(housekeeping::report_drivers(core.clone())),
            Box::pin(async move { context.scratch.keep_clean().await }),
        ];
        for background in loops {
            tokio::spawn(ending.clone().run_until_cancelled_owned(background));
        }
        Ok(Execution { core, _background: Arc::new(ending.drop_guard()) })
    }

    /// What this worker can execute with.
    pub fn drivers(&self) -> Vec<DriverStatus> {
        self.core.context.drivers.status()
    }

    /// Executes a request of the master, or begins to.
    pub fn deliver(&self, command: Command) {
        self.core.deliver(command);
    }

    /// The master knows that this worker was alive at that moment. What had lost its lease before is ended first: a
    /// machine that wakes up from sleep finds an old answer in its socket.
    pub fn renew_lease(&self, sent_at: BootTime) {
        self.core.expire(BootTime::now());
        self.core.state().renew_lease(Some(sent_at));
        self.core.contact_file.write(sent_at);
    }

    /// Begins a session: returns all held attempts. Later changes are sent as events.
    pub fn open_session(&self) -> Vec<HeldAttempt> {
        self.core.state().open_session()
    }

    /// The session was accepted: repeats what the master may not know.
    pub fn welcomed(&self, welcome: &Welcome) {
        self.core.state().resume(&welcome.name, &welcome.stored);
        for StoredOutput { attempt, offset } in &welcome.stored {
            self.core.output_stored(*attempt, *offset);
        }
        self.core.eventful.notify_one();
    }

    /// Ends the session: no more events.
    pub fn close_session(&self) {
        self.core.state().close_session();
    }

    /// Waits until there may be events. Only one can wait.
    pub async fn eventful(&self) {
        self.core.eventful.notified().await;
    }

    /// Whether there are events, and how urgent they are.
    pub fn pending(&self) -> Pending {
        self.core.state().pending()
    }

    /// What happened since the last call, in order.
    pub fn take_events(&self) -> Vec<Event> {
        self.core.state().take_events()
    }

    /// Events since the last call, and the attempts held right after them.
    pub fn take_events_and_held(&self) -> (Vec<Event>, Vec<HeldAttempt>) {
        let mut state = self.core.state();
        let events = state.take_events();
        (events, state.held())
    }

    /// Output of an attempt from `offset` on, at most `max` bytes, and how many bytes it is; none if there is none, or if
    /// the disk does not answer in time: then there is an event as soon as it does.
    pub async fn next_chunk(
        &self,
        attempt: AttemptRef,
        offset: u64,
        max: usize,
    ) -> Option<(EncodedChunk, u64)> {
        let output = self.core.state().output(attempt)?;
        let mut reading = Box::pin(async move { output.chunk(offset, max).await });
        let is_slow = self.core.slow_reads.load(Ordering::Relaxed) > 0;
        let patience = if is_slow { SHORT_READ_PATIENCE } else { READ_PATIENCE };
        if let Ok(chunk) = timeout(patience, &mut reading).await {
            return chunk;
        }
        let core = self.core.clone();
        core.slow_reads.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            reading.await;
            core.slow_reads.fetch_sub(1, Ordering::Relaxed);
            core.state().wrote(attempt);
            core.eventful.notify_one();
        });
        None
    }

    /// Sets the capacity of this worker; running attempts continue.
    pub fn set_offer(&self, capacity: Resources, countables: BTreeMap<String, u32>) {
        self.core.state().set_offer(capacity, countables);
        self.core.launch_ready();
    }

    /// The shortest `lost_after` among the attempts that are not over.
    pub fn shortest_lost_after(&self) -> Option<Span> {
        self.core.state().shortest_lost_after()
    }

    /// When the first lease runs out, as far as is known: none runs out before that.
    pub fn lease_end(&self) -> watch::Receiver<Option<BootTime>> {
        self.core.lease_end.subscribe()
    }

    /// Whether there are attempts that are not over.
    pub fn has_unfinished(&self) -> bool {
        self.shortest_lost_after().is_some()
    }

    /// Gives back what has not started, asks what runs to end, and waits until nothing runs. Nothing starts any more.
    pub async fn shut_down(&self) {
        self.core.state().begin_shutdown(SHUTDOWN_GRACE);
        self.core.eventful.notify_one();
        self.core.wait_until(|state| !state.is_running()).await;
    }

    /// Waits until the master has acknowledged every end, and nothing is left of them here.
    pub async fn all_acknowledged(&self) {
        self.core.wait_until(|state| state.is_empty()).await;
        self.settled().await;
    }

    /// Waits until what has been noted so far is on disk, unless the disk does not answer.
    pub async fn settled(&self) {
        self.core.context.spool.settled().await;
    }
}

/// Kills what a dead executor left behind and cannot be adopted, and records it for the next executor. Returns
/// whether anything can be adopted. `data_dir` must be locked by the caller. Blocks, for seconds if a process does
/// not exit.
pub(crate) fn end_leftovers(
    data_dir: &Path,
    boot_id: &str,
    token: &str,
    owner: &str,
) -> anyhow::Result<bool> {
    let goes_on = recovery::end_leftovers(&data_dir.join("spool"), boot_id, token);
    // Also when nothing can be noted down: on a full disk, say.
    driver::end_cgroups(owner);
    ScratchSpace::close(data_dir);
    if !matches!(goes_on, Ok(true)) {
        SecretFiles::close(data_dir);
    }
    goes_on
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if is_so(&self.state()) {
                return;
            }
            settled.await;
        }
    }

    fn deliver(self: &Arc<Self>, command: Command) {
        match command {
            Command::Start(start) => {
                let accepted = self.state().accept(start, BootTime::now());
                match accepted {
                    Accepted::Queued { lease_is_first } => {
                        if lease_is_first {
                            self.lease_changed.notify_one();
                        }
                        self.launch_ready();
                    }
                    Accepted::Misfit(ended) => self.finish_unstarted(*ended),
                    Accepted::Settled => {}
                }
            }
            Command::Stop { attempt } => self.end(attempt, |start| StopRequests {
                stop: Some((Cause::Stopped, start.definition.stop.grace.to_std())),
                kill: None,
            }),
            Command::StopUnhealthy { attempt, message } => self.state().stop_unhealthy(attempt, &message),
            Command::Kill { attempt } => {
                self.end(attempt, |_| StopRequests { stop: None, kill: Some(Cause::Stopped) });
            }
            Command::Signal { attempt, signal } => self.state().signal(attempt, signal),
            Command::Input(input) => self.state().input(*input),
            Command::Secrets(secrets) => self.state().secrets(*secrets),
            Command::TakeBack { attempt } => {
                self.state().take_back(attempt);
                self.launch_ready();
            }
            Command::OutputStored { attempt, offset } => self.output_stored(attempt, offset),
            Command::EndStored { attempt } => self.forget(attempt),
        }
        self.eventful.notify_one();
    }

    /// Ends an attempt in any phase. For an unknown one the end is reported anyway, because the master waits for it.
    fn end(self: &Arc<Self>, attempt: AttemptRef, orders: impl Fn(&StartAttempt) -> StopRequests) {
        let unstarted = || attempt::unstarted(attempt, AttemptEnd::Stopped { process: None });
        let mut state = self.state();
        match state.order(attempt, orders) {
            Ordered::Told | Ordered::Over => {}
            Ordered::NotHeld => state.report(ToMaster::Ended(Box::new(unstarted()))),
            Ordered::WasQueued => {
                drop(state);
                self.finish_unstarted(unstarted());
                self.launch_ready();
            }
        }
    }

    fn output_stored(&self, attempt: AttemptRef, offset: u64) {
        let output = self.state().output(attempt);
        if let Some(output) = output {
            output.stored(offset);
        }
    }

    fn forget(&self, attempt: AttemptRef) {
        let forgotten = self.state().forget(attempt);
        if let Some(output) = forgotten {
            self.context.spool.forget(attempt);
            if let Some(output) = output {
                output.remove();
            }
            self.settled.notify_waiters();
        }
    }

    /// The attempt ended without a start.
    fn finish_unstarted(&self, ended: Ended) {
        self.context.spool.ended_unstarted(ended.clone());
        self.finish(ended);
    }

    /// The attempt has ended and is in the journal; the report is kept until the master has it.
    fn finish(&self, ended: Ended) {
        log_end(&ended);
        self.state().finish(ended);
        self.eventful.notify_one();
        self.settled.notify_waiters();
    }
}

fn log_end(ended: &Ended) {
    let reason = ended.end.reason().map_or_else(|| "completed".to_owned(), |reason| reason.message);
    tracing::debug!(attempt = %ended.attempt, reason, output_bytes = ended.output_bytes, "attempt over");
}

/// The kernel's name for this boot of the machine.
pub(crate) fn boot_id() -> anyhow::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}
