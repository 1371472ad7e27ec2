//! The watchdog process of an executor: kills what a dead executor left behind, and kills an executor that hangs
//! beyond a lease. Whatever else of a worker dies, no attempt outlives its replacement.
//!
//! Containers do not end with their executor. If no agent starts another executor for them, the watchdog does; it adopts
//! them for as long as their leases last.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use gaffer_protocol::boot_time::BootTime;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::WATCHDOG_COMMAND;
use super::frame::{self, Opening, ToExecutor, Wire};
use super::host::ExecutorProcess;
use super::spawn::{self, socket_at_stdin};
use super::succession::{self, Succession};
use crate::clock::BootAlarm;
use crate::data_dir::{Holder, LockFile};
use crate::execution::{self, ExecutionSettings};

/// After a lease has expired, the executor has this long to stop its attempts and to report. The master waits
/// longer before it replaces one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before a watchdog that died is replaced.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Messages of an executor to its watchdog, after its start parameters: the first expiry of its leases, in
/// microseconds since boot; none without leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseEnd(Option<u64>);

/// The executor's side: starts a watchdog, and another one when it dies. Never returns. `charge`: start parameters,
/// for a watchdog that must start another executor. `leases`: the first expiry.
///
/// `charge`: how the executor was begun, for a watchdog that has to begin another one. `leases`: when the first one runs out.
pub(super) async fn always_have_one(charge: Opening, leases: watch::Receiver<Option<BootTime>>) {
    loop {
        if let Err(error) = have_watchdog(&charge, leases.clone()).await {
            tracing::warn!(%error, "the watchdog of this worker died; starting another one");
        }
        sleep(RESTART_PAUSE).await;
    }
}

async fn have_watchdog(charge: &Opening, mut leases: watch::Receiver<Option<BootTime>>) -> io::Result<()> {
    let (mut watchdog, mut wire) =
        spawn::start(WATCHDOG_COMMAND, &charge.settings.data_dir, Stdio::null(), true)?;
    frame::say(&mut wire, charge).await?;
    leases.mark_changed();
    loop {
        tokio::select! {
            ended = watchdog.wait() => return Err(io::Error::other(format!("it ended: {}", ended?))),
            Ok(()) = leases.changed() => {
                let end = leases.borrow_and_update().map(BootTime::as_micros);
                frame::say(&mut wire, &LeaseEnd(end)).await?;
            }
        }
    }
}

/// Watches the executor at standard input until it exits, and kills what it leaves. Call it in a process that was
/// started for this alone, inside a Tokio runtime.
///
/// # Errors
/// When nobody is at standard input, or when the data directory cannot be used any more.
pub async fn watchdog() -> anyhow::Result<()> {
    let stream = socket_at_stdin().context("this command is internal: an executor starts its watchdog")?;
    let pid = stream.peer_cred()?.pid().context("the executor has no process id")?;
    // None if it has exited already.
    let executor = ExecutorProcess::open(pid).ok();
    let mut wire = frame::wire(stream);
    // Signals to the executor's group or terminal must not reach this process.
    let _ = nix::unistd::setsid();
    let Some(charge) = frame::hear::<Opening>(&mut wire).await else { return Ok(()) };
    // While it can be opened: the directory may be gone by the time that it is needed, or its file system may be read-only.
    let lock = LockFile::of(&charge.settings.data_dir);
    if let Some(executor) = executor {
        attend(&mut wire, &executor).await?;
        executor.ended().await;
    }
    let settings = charge.settings.clone();
    let ending = tokio::task::spawn_blocking(move || end_what_is_left(&settings, pid, lock));
    if ending.await.context("broke down")?? { begin_another(charge).await } else { Ok(()) }
}

/// Until the executor has exited. Its end of the socket does not tell: what it was just starting may hold that open.
async fn attend(wire: &mut Wire, executor: &ExecutorProcess) -> io::Result<()> {
    let alarm = BootAlarm::new()?;
    loop {
        tokio::select! {
            () = executor.ended() => return Ok(()),
            heard = frame::hear::<LeaseEnd>(wire) => match heard {
                Some(LeaseEnd(end)) => alarm.set(end.map(BootTime::from_micros))?,
                None => return Ok(()),
            },
            rung = alarm.ring() => {
                rung?;
                // After a sleep of the machine the executor needs a moment to wake up.
                match timeout(PATIENCE, frame::hear::<LeaseEnd>(wire)).await {
                    Ok(Some(LeaseEnd(end))) => alarm.set(end.map(BootTime::from_micros))?,
                    Ok(None) => return Ok(()),
                    Err(_silent) => executor.kill(),
                }
            }
        }
    }
}

/// Unless another executor has taken over and cleans up itself. Returns whether an executor can adopt anything.
fn end_what_is_left(
    settings: &ExecutionSettings,
    executor: i32,
    lock: anyhow::Result<LockFile>,
) -> anyhow::Result<bool> {
    let ExecutionSettings { data_dir, boot_id, token, owner, .. } = settings;
    // Where nobody can open it, nobody can take over.
    let succession = lock.map(|file| succession::take(executor, &file, Holder::Watchdog));
    match succession {
        Ok(Succession::Another) => Ok(false),
        // The lock is held until all is done.
        Ok(Succession::Taken(_) | Succession::Stuck) | Err(_) => {
            execution::end_leftovers(data_dir, boot_id, token, owner)
        }
    }
}

/// An executor without an agent. It has its own watchdog and exits when it has no attempts left.
async fn begin_another(charge: Opening) -> anyhow::Result<()> {
    let data_dir = charge.settings.data_dir.clone();
    let (_host, mut wire) = spawn::executor(&data_dir, charge.settings.drivers.allow_setuid)?;
    frame::say(&mut wire, &ToExecutor::Open(Box::new(charge))).await?;
    let _ = frame::hear_executor(&mut wire).await;
    Ok(())
}
