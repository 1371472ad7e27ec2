//! How a process of a worker starts another one of the same program, and how that one finds the socket between them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::EXECUTOR_COMMAND;
use super::frame::{self, Wire};
use super::host::{ExecutorProcess, Host};
use crate::config;

/// What executors write by themselves goes to a file, which begins anew at this size.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Starts an executor's process.
pub(super) fn executor(data_dir: &Path) -> anyhow::Result<(Host, Wire)> {
    let (mut child, wire) = start(EXECUTOR_COMMAND, data_dir, log_file(data_dir)?.into())?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it has no process number")?;
    let process = ExecutorProcess::open(pid)?;
    tokio::spawn(async move { child.wait().await });
    Ok((Host::process(process), wire))
}

/// Starts another process of this very program, whatever has its name by now, with a socket to this one at its standard
/// input. Its environment is only what programs need: jobs of the same user can read it.
pub(super) fn start(command: &str, data_dir: &Path, log: Stdio) -> io::Result<(Child, Wire)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new("/proc/self/exe")
        .arg0("gaffer")
        .arg(command)
        .env_clear()
        .envs(config::executor_environment())
        .current_dir(data_dir)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok((child, frame::wire(UnixStream::from_std(ours)?)))
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
