//! First step of each long-lived process: drops inherited state.
//!
//! Descriptors, ignored signals and the signal mask pass through every `exec`, so a job would inherit them too, and
//! a process that waits for a lock on an inherited descriptor would wait for the last of them. Resetting them once in each
//! process, and not between the fork and the exec of each job, keeps the start of a job cheap.

use std::fs;
use std::io;

use nix::libc;
use nix::sys::signal::SigSet;

use crate::config;

/// The first descriptor that a process does not need from its parent.
const FIRST_UNNEEDED: u32 = 3;
/// Signals are numbered from 1 to this.
const LAST_SIGNAL: i32 = 64;

/// What a process does about a SIGHUP that its starter ignores (`nohup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Ignores it too: the operator wants this process to outlive the terminal.
    Inherited,
    /// Sets the default: what this process starts must be the same however the worker was started.
    Default,
}

/// Closes inherited descriptors beyond standard error, resets signals to their defaults, and hides environment,
/// memory and descriptors of this process from other processes of its user.
///
/// To be called before anything is opened and before there are other threads.
pub fn begin(hangup: Hangup) {
    close_inherited_files();
    reset_signals(hangup);
    // A worker that is a job itself has an outer worker, which must recognise what it has to kill.
    if !config::is_a_job() {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
}

fn close_inherited_files() {
    // SAFETY: nothing has been opened yet, so no descriptor from here on has an owner in this process.
    #[allow(unsafe_code)]
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_UNNEEDED, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // Linux before 5.9, or a container that does not allow the call.
        let _ = close_one_by_one();
    }
}

fn close_one_by_one() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<io::Result<Vec<_>>>()?;
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number >= FIRST_UNNEEDED as i32) {
        // SAFETY: as above. The descriptor of the directory itself is in the list and is closed already: an error.
        #[allow(unsafe_code)]
        unsafe {
            libc::close(number);
        }
    }
    Ok(())
}

/// Gives ignored signals their default action again, and lets the thread take all of them.
pub fn reset_signals(hangup: Hangup) {
    for signal in 1..=LAST_SIGNAL {
        // The runtime of Rust ignores SIGPIPE in this process, and resets it in every process that is started.
        let is_kept = signal == libc::SIGPIPE || (signal == libc::SIGHUP && hangup == Hangup::Inherited);
        if !is_kept && is_ignored(signal) {
            // SAFETY: the default action runs no code of this process.
            #[allow(unsafe_code)]
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
    let _ = SigSet::empty().thread_set_mask();
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: the structure is plain data, for which zeros are valid; the call only writes to it.
    #[allow(unsafe_code)]
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}
