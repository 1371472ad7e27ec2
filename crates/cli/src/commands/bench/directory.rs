//! Directories of scratch data: each is locked by its run, so that `--clean` removes only what a dead run has left.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gaffer_master::embedded_postgres;
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::local;
use crate::failure::Failure;

/// Where the worker of a scratch installation keeps its data.
pub const WORKER_DIR: &str = "worker";
/// The beginning of the names of directories.
const PREFIX: &str = "gaffer-bench-";
/// Held by the run; the kernel releases it however the run ends.
const LOCK: &str = "bench.lock";

/// A directory of this run. Dropping it removes it, as far as that is possible.
#[derive(Debug)]
pub struct ScratchDirectory {
    dir: TempDir,
    _lock: File,
}

impl ScratchDirectory {
    /// Makes and locks a new one.
    ///
    /// # Errors
    /// [`Failure::Local`].
    pub fn make(parent: &Path) -> Result<ScratchDirectory, Failure> {
        let failed = || local("cannot make a scratch directory");
        loop {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(failed())?;
            match lock(dir.path()) {
                Ok(Some(lock)) if dir.path().exists() => return Ok(ScratchDirectory { dir, _lock: lock }),
                // `--clean` found it before it was locked.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed()(error)),
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Failure::Local`] if something is left.
    pub fn remove(self) -> Result<(), Failure> {
        let path = self.dir.path().to_owned();
        // Processes that end at this moment may still write to it.
        if self.dir.close().is_err() && path.exists() {
            let failed = |error| Failure::Local(format!("cannot remove {}: {error}", path.display()));
            fs::remove_dir_all(&path).map_err(failed)?;
        }
        Ok(())
    }
}

/// What became of a directory that an earlier run may have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaned {
    Removed,
    /// The run or one of its processes is alive.
    InUse,
    /// Of another user.
    Foreign,
}

/// Removes a directory of a run, if it is ours and nothing uses it.
///
/// # Errors
/// When it cannot be examined or removed.
pub fn clean(dir: &Path) -> io::Result<Cleaned> {
    if fs::symlink_metadata(dir)?.uid() != geteuid().as_raw() {
        return Ok(Cleaned::Foreign);
    }
    let Some(_lock) = lock(dir)? else { return Ok(Cleaned::InUse) };
    if is_used_by_processes(dir)? {
        return Ok(Cleaned::InUse);
    }
    fs::remove_dir_all(dir).map(|()| Cleaned::Removed)
}

/// Whether a run, or a process of it, uses a directory; none of them uses one that does not exist.
///
/// # Errors
/// When it cannot be examined, such as one of another user.
pub fn is_used(dir: &Path) -> io::Result<bool> {
    match try_lock(OpenOptions::new().write(true).open(dir.join(LOCK))) {
        Ok(None) => Ok(true),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => is_used_by_processes(dir),
    }
}

/// All directories of runs in a directory, in order.
///
/// # Errors
/// When it cannot be read.
pub fn all_in(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// None if another process holds the lock.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    try_lock(OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK)))
}

fn try_lock(file: io::Result<File>) -> io::Result<Option<File>> {
    let file = file?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a database or a worker runs in it: a scratch installation ends a moment after its run.
fn is_used_by_processes(dir: &Path) -> io::Result<bool> {
    let worker = dir.join(WORKER_DIR);
    let has_worker = worker.exists() && gaffer_worker::is_running(&worker)?;
    Ok(has_worker || embedded_postgres::is_running(dir))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_no_run_uses_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let own = ScratchDirectory::make(parent.path()).unwrap();
        let left = parent.path().join("gaffer-bench-left");
        fs::create_dir_all(left.join("postgres/cluster")).unwrap();
        let started = parent.path().join("gaffer-bench-started");
        let cluster = started.join("postgres/cluster");
        fs::create_dir_all(&cluster).unwrap();
        // As a server is recognised: by its name and the directory that it runs in.
        let program = parent.path().join("postgres");
        symlink("/bin/sleep", &program).unwrap();
        let mut server =
            Command::new(&program).arg0("sleep").arg("600").current_dir(&cluster).spawn().unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        fs::write(parent.path().join("gaffer-bench-file"), "").unwrap();
        let found = all_in(parent.path()).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(clean(own.path()).unwrap(), Cleaned::InUse, "even before anything runs in it");
        assert!(is_used(own.path()).unwrap() && is_used(&started).unwrap() && !is_used(&left).unwrap());
        assert_eq!((clean(&left).unwrap(), clean(&started).unwrap()), (Cleaned::Removed, Cleaned::InUse));
        assert!(own.path().exists() && !left.exists() && started.exists());
        assert!(!is_used(&left).unwrap(), "nothing uses what is gone");
        let path = own.path().to_owned();
        own.remove().unwrap();
        assert!(!path.exists());
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(clean(&started).unwrap(), Cleaned::Removed);
    }

    #[test]
    fn what_belongs_to_another_user_stays() {
        if !geteuid().is_root() {
            return; // Only root can give a directory away.
        }
        let parent = tempfile::tempdir().unwrap();
        let theirs = parent.path().join("gaffer-bench-theirs");
        fs::create_dir(&theirs).unwrap();
        std::os::unix::fs::chown(&theirs, Some(65_534), None).unwrap();
        assert_eq!(clean(&theirs).unwrap(), Cleaned::Foreign);
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0, "nothing was written there");
    }
}
