//! How a process of a worker starts another one of the same program, and how that one finds the socket between them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::Context as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::EXECUTOR_COMMAND;
use super::frame::{self, Wire};
use super::host::{ExecutorProcess, Host};
use crate::config;

/// What executors write by themselves goes to a file, which begins anew at this size.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Starts an executor's process. `allow_setuid`: whether what it starts may gain rights by setuid programs.
pub(super) fn executor(data_dir: &Path, allow_setuid: bool) -> anyhow::Result<(Host, Wire)> {
    let log = log_file(data_dir)?.into();
    let (mut child, wire) = start(EXECUTOR_COMMAND, data_dir, log, allow_setuid)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it has no process number")?;
    let process = ExecutorProcess::open(pid)?;
    tokio::spawn(async move { child.wait().await });
    Ok((Host::process(process), wire))
}

/// Starts another process of this very program, whatever has its name by now, with a socket to this one at its standard
/// input. Its environment is only what programs need: jobs of the same user can read it.
pub(super) fn start(
    command: &str,
    data_dir: &Path,
    log: Stdio,
    allow_setuid: bool,
) -> io::Result<(Child, Wire)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut process = Command::new("/proc/self/exe");
    process
        .arg0("gaffer")
        .arg(command)
        .env_clear()
        .envs(config::executor_environment())
        .current_dir(data_dir)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log);
    let child = if allow_setuid { process.spawn()? } else { spawn_unprivileged(&mut process)? };
    Ok((child, frame::wire(UnixStream::from_std(ours)?)))
}

/// Starts a process that gains no rights by what it executes, nor does anything that it starts. That belongs to a thread, which
/// cannot take it back, so this is one that ends then.
fn spawn_unprivileged(process: &mut Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let spawn = || {
        nix::sys::prctl::set_no_new_privs()?;
        let _runtime = runtime.enter();
        process.spawn()
    };
    thread::scope(|scope| {
        let starter = thread::Builder::new().name("executor-start".to_owned()).spawn_scoped(scope, spawn)?;
        starter.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))
    })
}

fn log_file(data_dir: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().create(true).append(true).mode(0o600).open(data_dir.join("executor.log"))?;
    if file.metadata()?.len() > MAX_LOG_BYTES {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The process that started this one, in place of a standard input.
pub(super) fn socket_at_stdin() -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails if it is no socket.
    stream.local_addr()?;
    stream.set_nonblocking(true)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    UnixStream::from_std(stream)
}
