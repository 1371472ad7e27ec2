//! Limits the number of attempts by the limit on open files.

use nix::sys::resource::{Resource, getrlimit};

/// Files needed by the worker itself, and by one attempt: two pipes, its process, its spool.
const OWN_FILES: u64 = 128;
const FILES_PER_ATTEMPT: u64 = 4;

/// The most attempts that execute at once, however little they reserve. The program has raised the limit at its start.
pub(super) fn max_running() -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    usize::try_from(limit.saturating_sub(OWN_FILES) / FILES_PER_ATTEMPT).unwrap_or(usize::MAX).max(1)
}
