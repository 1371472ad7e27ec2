//! The worker's own directory: held by one worker at a time, and the home of its identity.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use uuid::Uuid;

/// The data directory, locked for as long as this lives. The kernel gives the lock back however the worker dies.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl DataDir {
    /// Creates the directory if need be and locks it.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        create_private_dir(path)
            .with_context(|| format!("cannot create the data directory {}", path.display()))?;
        // Absolute, for it becomes part of paths that jobs see.
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot find the data directory {}", path.display()))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("cannot open {}", lock_path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(DataDir { path, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another worker is using the data directory {}: stop it, or give this one a directory of its own \
                 with GAFFER_DATA_DIR",
                path.display()
            ),
            Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", lock_path.display())),
        }
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The worker's identity; made when it is asked for the first time.
    pub fn identity(&self) -> anyhow::Result<Uuid> {
        let path = self.path.join("identity");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| {
                format!(
                    "{} does not hold an identity: restore it, or remove it to begin as a new worker",
                    path.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Uuid::new_v4();
                write_private(&path, format!("{identity}\n").as_bytes())
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(identity)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// Whether some process holds the data directory at `path`.
///
/// Asked of the kernel's list of locks: to try the lock would be to hold it for a moment, in which no worker could start.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    let inode = match fs::metadata(path.join("lock")) {
        Ok(metadata) => metadata.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let is_it = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.contains(&"FLOCK")
            && words
                .iter()
                .any(|word| word.rsplit_once(':').is_some_and(|(_, last)| last == inode.to_string()))
    };
    Ok(fs::read_to_string("/proc/locks")?.lines().any(is_it))
}

/// Creates a directory and its parents; only its owner may enter.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let identity = DataDir::open(&path).unwrap().identity().unwrap();
        assert_eq!(DataDir::open(&path).unwrap().identity().unwrap(), identity);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path.join("identity")), 0o600);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_second_worker_is_refused_while_the_first_lives() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path()).unwrap();
        let error = DataDir::open(root.path()).err().unwrap().to_string();
        assert!(error.contains("another worker") && error.contains("GAFFER_DATA_DIR"), "{error}");
        assert!(is_held(root.path()).unwrap());
        drop(first);
        assert!(!is_held(root.path()).unwrap() && !is_held(&root.path().join("none")).unwrap());
        DataDir::open(root.path()).unwrap();
    }

    #[test]
    fn a_damaged_identity_is_not_replaced_silently() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("identity"), "garbage").unwrap();
        let error = DataDir::open(root.path()).unwrap().identity().unwrap_err().to_string();
        assert!(error.contains("identity") && error.contains("remove it"), "{error}");
    }
}
