//! The supervisor of `gaffer worker`: starts the agent, and restarts it when it dies.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gaffer_worker::config::ApiKey;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::config;
use crate::failure::Failure;
use crate::out::Out;
use crate::signals::{Order, Signals};

/// An agent that ran at least this long is restarted at once.
const GOOD_LIFE: Duration = Duration::from_secs(1);
/// Before another one is started again: the first pause, which doubles, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What Rust programs exit with that broke down.
const PANICKED: i32 = 101;

/// Runs the agent of a worker, and restarts it when it dies, until it exits by itself or by a signal. Exits with
/// its code. `key` is passed to each agent.
///
/// # Errors
/// [`Failure::Local`] if it cannot be started.
pub fn run(key: Option<&ApiKey>, out: &Out) -> Result<u8, Failure> {
    let local = |error: io::Error| Failure::Local(format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(local)?;
    runtime.block_on(supervise(key, out)).map_err(local)
}

async fn supervise(key: Option<&ApiKey>, out: &Out) -> io::Result<u8> {
    // By its path: after an upgrade the next agent is the new program.
    let program = std::env::current_exe()?;
    let mut signals = Signals::listen()?;
    let (mut last_order, mut pause) = (None, FIRST_PAUSE);
    loop {
        let began = Instant::now();
        let status = see_to_end(start(&program, key).await?, &mut signals, &mut last_order).await?;
        let died = status.code().is_none_or(|code| code == PANICKED);
        if let Some(order) = last_order.filter(|_| died) {
            return Ok(order.exit_code());
        }
        if !died {
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
        out.note(&format!(
            "gaffer: the worker's agent died ({status}); restarting it, running tasks continue"
        ));
        if began.elapsed() >= GOOD_LIFE {
            pause = FIRST_PAUSE;
            continue;
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            order = signals.next() => return Ok(order.exit_code()),
        }
    }
}

/// The agent has its own process group, so that Ctrl-C reaches it once. It exits when its standard input closes.
async fn start(program: &Path, key: Option<&ApiKey>) -> io::Result<Child> {
    let kind = if key.is_some() { config::AGENT_WITH_KEY } else { config::AGENT_WITHOUT_KEY };
    let mut agent = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(config::AGENT_VARIABLE, kind)
        .env_remove(config::HANDED_KEY_VARIABLE)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()?;
    if let (Some(key), Some(stdin)) = (key, &mut agent.stdin) {
        // One that has died by now is seen to below.
        let _ = stdin.write_all(format!("{}\n", key.reveal()).as_bytes()).await;
    }
    Ok(agent)
}

/// Waits for the agent's end, and passes signals on until then.
async fn see_to_end(
    mut agent: Child,
    signals: &mut Signals,
    last_order: &mut Option<Order>,
) -> io::Result<ExitStatus> {
    let pid = agent.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    // Held open, as the agent's sign that this process lives.
    let _lifeline = agent.stdin.take();
    let mut child_ended = signal(SignalKind::child())?;
    loop {
        tokio::select! {
            status = agent.wait() => return status,
            order = signals.next() => {
                *last_order = Some(order);
                if let Some(pid) = pid {
                    // It may have ended just now.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            }
            _ = child_ended.recv() => reap_orphans(pid),
        }
    }
}

/// As process 1 of a container, this process inherits orphans and must reap them.
fn reap_orphans(agent: Option<Pid>) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = waitid(Id::All, look) {
        if Some(pid) == agent || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}
