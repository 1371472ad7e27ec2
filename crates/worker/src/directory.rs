//! Directories by their descriptors.
//!
//! Where somebody else can write to a directory, a name in it can become a symbolic link at any moment. A path that leads through
//! such a directory means what that user wants it to mean, so a worker that is root must not use one. It works below a directory that
//! only it can write to, and takes every further directory in hand by a descriptor, without following links.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::fchown;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

const PRIVATE: Mode = Mode::RWXU;

/// A directory that nothing but this process, and others of its user, can write to.
#[derive(Debug)]
pub(crate) struct OwnDirectory(OwnedFd);

impl OwnDirectory {
    /// Opens it. Everything above it must be this user's, or root's.
    ///
    /// # Errors
    /// When it cannot be read, or is a symbolic link.
    pub fn open(path: &Path) -> io::Result<OwnDirectory> {
        Ok(OwnDirectory(rustix::fs::openat(CWD, path, listing(), Mode::empty())?))
    }

    /// Sets its mode to what `change` makes of the one that it has.
    pub fn change_mode(&self, change: impl FnOnce(u32) -> u32) -> io::Result<()> {
        let mode = rustix::fs::fstat(&self.0)?.st_mode & 0o7777;
        let wanted = change(mode);
        if mode != wanted {
            rustix::fs::fchmod(&self.0, Mode::from_raw_mode(wanted))?;
        }
        Ok(())
    }

    /// Moves a directory of another one into this one, under a unique name.
    pub fn take_in(&self, from: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (from.parent(), from.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let name = CString::new(name.as_bytes())?;
        take_over_and_move(OwnDirectory::open(parent)?.0, &name, &self.0)
    }

    /// Removes everything in it, also what is of other users. However deep its trees are, it is never more than two levels down: a
    /// directory that is not empty is moved up first. Goes through this directory at most `rounds` times, so that nobody who goes on
    /// writing to what is removed keeps the caller for ever. Blocks.
    pub fn empty(&self, rounds: usize) -> io::Result<()> {
        let mut failure = None;
        for _ in 0..rounds {
            let mut has_progress = false;
            failure = None;
            for name in names(&self.0)? {
                match self.remove(&name?) {
                    Ok(()) => has_progress = true,
                    Err(error) => failure = Some(error),
                }
            }
            if !has_progress {
                return failure.map_or(Ok(()), Err);
            }
        }
        Err(failure.unwrap_or_else(|| io::Error::other("somebody still writes to it")))
    }

    /// Removes an entry; the subdirectories of a directory that are not empty are moved up.
    fn remove(&self, name: &CStr) -> io::Result<()> {
        if removed_file(&self.0, name)? {
            return Ok(());
        }
        let inner = take_over(&self.0, name)?;
        for name in names(&inner)? {
            let name = name?;
            if !removed_file(&inner, &name)?
                && rustix::fs::unlinkat(&inner, &name, AtFlags::REMOVEDIR).is_err()
            {
                take_over_and_move(&inner, &name, &self.0)?;
            }
        }
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }
}

fn listing() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// The names of the entries.
fn names(directory: impl AsFd) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    let entries = Dir::read_from(directory)?;
    Ok(entries.filter_map(|entry| match entry {
        Ok(entry) if [c".", c".."].contains(&entry.file_name()) => None,
        Ok(entry) => Some(Ok(entry.file_name().to_owned())),
        Err(error) => Some(Err(error.into())),
    }))
}

/// Removes what is no directory; says whether it was none. The kernel decides, at the moment of removing it.
fn removed_file(directory: impl AsFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory, also one of another user, and makes it private to this user.
fn take_over(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(parent, name, place, Mode::empty())?;
    let opened = match rustix::fs::openat(&place, c".", listing(), Mode::empty()) {
        Err(Errno::ACCESS) => {
            // This user's own, closed to itself. The link in /proc leads to this very directory.
            rustix::fs::chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), PRIVATE)?;
            rustix::fs::openat(&place, c".", listing(), Mode::empty())?
        }
        opened => opened?,
    };
    let own = nix::unistd::geteuid().as_raw();
    if rustix::fs::fstat(&opened)?.st_uid != own {
        fchown(&opened, Some(own), None)?;
    }
    rustix::fs::fchmod(&opened, PRIVATE)?;
    Ok(opened)
}

/// To move a directory is to write to it, for its parent changes.
fn take_over_and_move(from: impl AsFd, name: &CStr, to: impl AsFd) -> io::Result<()> {
    drop(take_over(&from, name)?);
    Ok(rustix::fs::renameat(from, name, to, Uuid::new_v4().to_string())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_link_is_removed_and_nothing_that_it_leads_to_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, own) = (dir.path().join("target"), dir.path().join("own"));
        fs::create_dir_all(target.join("inner")).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(own.join("a/b")).unwrap();
        fs::write(own.join("a/b/file"), "x").unwrap();
        symlink(&target, own.join("link")).unwrap();
        symlink(&target, own.join("a/b/link")).unwrap();
        OwnDirectory::open(&own).unwrap().empty(9).unwrap();
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        assert!(target.join("inner").exists());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(OwnDirectory::open(&own.join("../link")).is_err());
    }

    #[test]
    fn a_directory_that_has_become_a_link_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o755)).unwrap();
        symlink(&target, dir.path().join("link")).unwrap();
        let own = OwnDirectory::open(dir.path()).unwrap();
        assert!(take_over(&own.0, c"link").is_err());
        assert!(own.take_in(&dir.path().join("link")).is_err());
        assert!(OwnDirectory::open(&dir.path().join("link")).is_err());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_is_taken_over_is_nobody_elses_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&inner, Some(65534), Some(65534)).unwrap();
        }
        fs::set_permissions(&inner, Permissions::from_mode(0o777)).unwrap();
        take_over(&OwnDirectory::open(dir.path()).unwrap().0, c"inner").unwrap();
        let found = fs::metadata(&inner).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (nix::unistd::geteuid().as_raw(), 0o700));
    }

    #[test]
    fn who_goes_on_writing_keeps_nobody_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("1/2/3/4/5");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        let own = OwnDirectory::open(dir.path()).unwrap();
        assert!(own.empty(2).is_err());
        own.empty(9).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
