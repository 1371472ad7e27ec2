//! How many attempts the limit on open files allows.

use nix::sys::resource::{Resource, getrlimit};

/// Files that the worker itself needs, and those of one attempt: two pipes, its process, its spool.
const OWN_FILES: u64 = 128;
const FILES_PER_ATTEMPT: u64 = 4;

/// The most attempts that execute at once, however little they reserve. The program has raised the limit at its start.
pub(super) fn max_running() -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    usize::try_from(limit.saturating_sub(OWN_FILES) / FILES_PER_ATTEMPT).unwrap_or(usize::MAX).max(1)
}
