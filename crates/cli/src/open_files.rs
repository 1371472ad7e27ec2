//! Raises the limit on open files of the servers: a process is started with far fewer than the system allows it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, but not beyond `most`, and logs what it became. A limit that was higher stays.
pub fn raise(most: u64) {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return tracing::warn!(%error, "the limit on open files is not known"),
    };
    let wanted = hard.min(most).max(soft);
    if wanted == soft {
        return tracing::info!(limit = soft, "open files: the limit is as high as it may be");
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => tracing::info!(limit = wanted, was = soft, hard, "open files: limit raised"),
        Err(error) => tracing::warn!(%error, limit = soft, "open files: the limit could not be raised"),
    }
}
