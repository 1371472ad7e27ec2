//! How many attempts the limit on open files allows.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a worker may have open, if the system allows it. Jobs inherit the limit.
const MAX_OPEN_FILES: u64 = 65_536;
/// Files that the worker itself needs, and those of one attempt: two pipes, its process, its spool.
const OWN_FILES: u64 = 128;
const FILES_PER_ATTEMPT: u64 = 4;

/// The most attempts that execute at once, however little they reserve; the limit is raised first as far as is decent.
pub(super) fn max_running() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    let wanted = hard.min(MAX_OPEN_FILES).max(soft);
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(limit.saturating_sub(OWN_FILES) / FILES_PER_ATTEMPT).unwrap_or(usize::MAX).max(1)
}
