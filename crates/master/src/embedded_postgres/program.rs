//! How a program of Postgres is started and stopped: as a child of this process, as the user who is to run it.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Command;

use super::StartError;
use super::data_dir::{DataDir, WayInto};

/// Byte order in every index, on every system; macOS has no C.UTF-8.
pub(super) const LOCALE: &str = if cfg!(target_os = "macos") { "C" } else { "C.UTF-8" };

/// How a server is stopped: disconnect the clients and write everything out; if that hangs, end as in a crash (it gives its
/// children 5 s); if even that hangs, be killed.
pub(super) const STOP_STEPS: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(20)),
    (Signal::SIGQUIT, Duration::from_secs(8)),
    (Signal::SIGKILL, Duration::from_secs(2)),
];

/// A program of Postgres, told the cluster, with nothing of this process's surroundings: not its user if that is root, not
/// its environment, its current directory or its terminal's Ctrl-C (which would stop the database before its clients). It
/// ends with the thread that starts it.
pub(super) fn command(program: &Path, data_dir: &DataDir, cluster: Option<WayInto>) -> Command {
    let mut command = Command::new(program);
    let mut path = program.parent().map_or_else(OsString::new, |dir| dir.as_os_str().to_owned());
    path.push(OsStr::new(":/usr/bin:/bin"));
    // With a time zone given, initdb need not guess one by trying them all.
    command.env_clear().env("PATH", path).env("LANG", LOCALE).env("TZ", "UTC");
    command.current_dir("/").process_group(0).stdin(Stdio::null());
    if let Some(user) = &data_dir.server_user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let handle = cluster.and_then(|cluster| {
        command.arg("-D").arg(cluster.name);
        cluster.handle
    });
    before_exec(&mut command, handle);
    command
}

/// Has the kernel send SIGINT (to the server this means: stop in an orderly way, now) when the calling thread ends, in
/// whatever way; and lets the program inherit the handle. The standard library runs the hook after it has changed the user,
/// which would have undone the first.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "nothing but a hook between fork and exec can ask the kernel for this")]
fn before_exec(command: &mut Command, handle: Option<fs::File>) {
    let parent = Pid::this();
    let hook = move || {
        if let Some(handle) = &handle {
            nix::fcntl::fcntl(handle, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
        // The parent may have ended before that.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec the hook makes plain system calls, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(hook) };
}

/// Elsewhere the next start ends what a killed gaffer left, and there are no handles to inherit.
#[cfg(not(target_os = "linux"))]
fn before_exec(_command: &mut Command, _handle: Option<fs::File>) {}

pub(super) fn spawn_error(program: &Path, data_dir: &DataDir) -> impl FnOnce(io::Error) -> StartError {
    let program = program.to_owned();
    let as_user =
        data_dir.server_user.as_ref().map(|user| format!(" as the user {}", user.name)).unwrap_or_default();
    move |source| StartError::Spawn { program, as_user, source }
}
