//! Private directories in places where everybody may write, such as `/dev/shm`: somebody else may have taken any name there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Names that are tried.
const MAX_TRIES: usize = 8;
/// Others cannot rename or remove what is in such a place, although they may write to it.
const STICKY: u32 = 0o1000;

/// The private directories of this user with this name, or with it and a random end: what earlier processes have left, and nothing of
/// anybody else.
pub(crate) fn existing(base: &Path, name: &str) -> Vec<PathBuf> {
    if must_be_safe(base).is_err() {
        return Vec::new();
    }
    let is_it =
        |found: &str| found.strip_prefix(name).is_some_and(|end| end.is_empty() || end.starts_with('-'));
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_it));
    let mut found: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    found.retain(|path| is_private(path));
    found.sort();
    found
}

/// Finds or makes a private directory of this name. If somebody else has taken the name, a random end is added to it, so that nobody
/// can take all names.
///
/// # Errors
/// When none can be made there.
pub(crate) fn open(base: &Path, name: &str) -> io::Result<PathBuf> {
    must_be_safe(base)?;
    if let Some(found) = existing(base, name).into_iter().next() {
        return Ok(found);
    }
    let mut path = base.join(name);
    for _ in 0..MAX_TRIES {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => path = base.join(format!("{name}-{:08x}", rand::random::<u32>())),
        }
    }
    Err(io::Error::other("others have taken all names"))
}

/// Whether a directory is this user's, and others see nothing of what is in it. They may write beside it.
pub(crate) fn is_private(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o066 == 0
    })
}

/// Whether a directory stays what it is once it was made there.
fn must_be_safe(base: &Path) -> io::Result<()> {
    let found = fs::metadata(base)?;
    let is_trusted = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    if is_trusted && (found.mode() & 0o022 == 0 || found.mode() & STICKY != 0) {
        return Ok(());
    }
    Err(io::Error::other("others can rename what is in it"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const NAME: &str = "gaffer-test";

    #[test]
    fn a_name_that_somebody_else_has_taken_keeps_nobody_from_having_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join(NAME);
        fs::create_dir(&taken).unwrap();
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o777)).unwrap();
        let own = open(dir.path(), NAME).unwrap();
        assert!(own != taken && is_private(&own), "{own:?}");
        assert_eq!(open(dir.path(), NAME).unwrap(), own, "it is found again");
        // A link does not pass for a directory.
        fs::remove_dir(&own).unwrap();
        fs::remove_dir(&taken).unwrap();
        symlink("/etc", &taken).unwrap();
        let own = open(dir.path(), NAME).unwrap();
        assert!(own != taken && is_private(&own), "{own:?}");
    }

    #[test]
    fn what_others_have_put_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let own = open(dir.path(), NAME).unwrap();
        assert_eq!(own, dir.path().join(NAME));
        for (name, mode) in [("gaffer-test-1", 0o755), ("gaffer-tester", 0o700)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(existing(dir.path(), NAME), [own]);
    }

    #[test]
    fn a_place_in_which_others_can_rename_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(open(dir.path(), NAME).is_err());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        open(dir.path(), NAME).unwrap();
    }
}
