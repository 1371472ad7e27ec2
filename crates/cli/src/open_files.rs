//! The limit on open files; servers raise it to the hard limit.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many files this process may open; 1,024 if the system does not say.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft)
}

/// Raises the soft limit to the hard limit, at most to `most`, and logs the result. A higher limit stays.
pub fn raise(most: u64) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "cannot read the limit on open files"),
    };
    let wanted = hard.min(most).max(soft);
    if wanted == soft {
        return tracing::info!(limit = soft, "open files: limit is at its maximum");
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => tracing::info!(limit = wanted, was = soft, hard, "open files: limit raised"),
        Err(error) => tracing::warn!(%error, limit = soft, "open files: cannot raise the limit"),
    }
}
