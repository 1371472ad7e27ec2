//! The executor's watchdog: a process of its own that ends what an executor leaves behind that was killed, and that kills a
//! executor which stands still beyond a lease. Whatever else of a worker dies or is stopped, nothing runs on that its
//! master may have replaced.
//!
//! Containers do not end with their executor. For them the watchdog starts another executor, if no agent does: that one goes on
//! with them as long as their leases last.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::WATCHDOG_COMMAND;
use super::frame::{self, Opening, ToExecutor, Wire};
use super::obtain::{self, start};
use super::process::socket_at_stdin;
use super::watch::ExecutorProcess;
use crate::clock::{BootAlarm, BootTime};
use crate::data_dir::DataDirLock;
use crate::execution::{self, ExecutionSettings};

/// An executor whose lease has run out has so long to end what the lease was for, and to say so. The master waits longer
/// before it replaces anything.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before a watchdog that died is replaced.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// What an executor says to its watchdog, after how it was begun: when the first of its leases runs out, in microseconds since the machine was
/// started; none if nothing has a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseEnd(Option<u64>);

/// The executor's side: starts a watchdog, and another one whenever it dies. Never ends.
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
    let (mut watchdog, mut wire) = start(WATCHDOG_COMMAND, &charge.settings.data_dir, Stdio::null())?;
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

/// Guards the executor at standard input until that is gone, and ends what it leaves. To be called in a process that was
/// started for this alone, inside of a Tokio runtime.
///
/// # Errors
/// When nobody is at standard input, or when the data directory cannot be used any more.
pub async fn watchdog() -> anyhow::Result<()> {
    let stream = socket_at_stdin().context("this command is internal: an executor starts its watchdog")?;
    let executor = stream.peer_cred()?.pid().context("the executor has no process id")?;
    // None if it has exited already.
    let executor = ExecutorProcess::open(executor).ok();
    let mut wire = frame::wire(stream);
    // Whoever ends the executor by its group or its terminal does not mean this one.
    let _ = nix::unistd::setsid();
    let Some(charge) = frame::hear::<Opening>(&mut wire).await else { return Ok(()) };
    if let Some(executor) = executor {
        attend(&mut wire, &executor).await?;
        executor.ended().await;
    }
    let settings = charge.settings.clone();
    let ending = tokio::task::spawn_blocking(move || end_what_is_left(&settings));
    if ending.await.context("broke down")?? { begin_another(charge).await } else { Ok(()) }
}

/// Until the executor has hung up, which is to say: until it is gone.
async fn attend(wire: &mut Wire, executor: &ExecutorProcess) -> io::Result<()> {
    let alarm = BootAlarm::new()?;
    loop {
        tokio::select! {
            heard = frame::hear::<LeaseEnd>(wire) => match heard {
                Some(LeaseEnd(end)) => alarm.set(end.map(BootTime::from_micros))?,
                None => return Ok(()),
            },
            rung = alarm.ring() => {
                rung?;
                // After a sleep of the whole machine the executor has to wake up first.
                match timeout(PATIENCE, frame::hear::<LeaseEnd>(wire)).await {
                    Ok(Some(LeaseEnd(end))) => alarm.set(end.map(BootTime::from_micros))?,
                    Ok(None) => return Ok(()),
                    Err(_silent) => executor.kill(),
                }
            }
        }
    }
}

/// Unless another executor has taken over: that one does it. Says whether there is something left that an executor can go on
/// with.
fn end_what_is_left(settings: &ExecutionSettings) -> anyhow::Result<bool> {
    let ExecutionSettings { data_dir, boot_id, token, owner, .. } = settings;
    let Some(_lock) = DataDirLock::take_as_watchdog(data_dir)? else { return Ok(false) };
    execution::end_leftovers(data_dir, boot_id, token, owner)
}

/// An executor without an agent. It has a watchdog of its own, and leaves when nothing is left to keep.
async fn begin_another(charge: Opening) -> anyhow::Result<()> {
    let data_dir = charge.settings.data_dir.clone();
    let (_host, mut wire) = obtain::spawn(&data_dir)?;
    frame::say(&mut wire, &ToExecutor::Open(Box::new(charge))).await?;
    let _ = frame::hear_executor(&mut wire).await;
    Ok(())
}
