//! Files with secrets of attempts: in memory if there is a file system for that, private to this worker's user, gone after the
//! attempt.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use gaffer_domain::AttemptRef;
use gaffer_domain::secrets::SecretValue;
use nix::unistd::{AccessFlags, access};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::data_dir::create_private_dir;
use crate::job_user::{JobUser, let_pass};

/// File systems in memory, the best first.
const BASES: [&str; 2] = ["/dev/shm", "/run"];
/// What the kernel calls such a file system: `TMPFS_MAGIC`.
const TMPFS: i128 = 0x0102_1994;
/// In an attempt's directory: the files that the task sees.
const FILES: &str = "files";
/// In an attempt's directory: what its output must not show, for an executor that adopts it.
const VALUES: &str = "values";

/// The mode of a file with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// The user of the worker, as whom tasks on the host run.
    Owner,
    /// Every user of a container. Only that container has the file: its directory is private on this machine.
    Container,
}

/// Where the files of all attempts are.
#[derive(Debug, Clone)]
pub(crate) struct SecretFiles(Arc<Space>);

#[derive(Debug)]
struct Space {
    directory: PathBuf,
    is_in_memory: bool,
    /// As whom tasks on the host run; none for this process's own user.
    user: Option<JobUser>,
    /// Held while the directory comes or goes. It is there only while an attempt has files in it.
    changing: Mutex<()>,
}

/// The files of one attempt. Dropped, they are removed.
#[derive(Debug)]
pub(crate) struct AttemptSecrets {
    space: SecretFiles,
    directory: PathBuf,
}

impl SecretFiles {
    /// Opens the space of the worker with this data directory. What is of no attempt that goes on is removed.
    pub fn open(data_dir: &Path, adopting: &[AttemptRef], user: Option<JobUser>) -> SecretFiles {
        let (directory, is_in_memory) = match base_in_memory() {
            Some(base) => (directory(base, data_dir), true),
            None => (data_dir.join("secrets"), false),
        };
        clear(&directory, adopting);
        SecretFiles(Arc::new(Space { directory, is_in_memory, user, changing: Mutex::default() }))
    }

    /// Removes everything: no attempt is left.
    pub fn close(data_dir: &Path) {
        let places = BASES.map(|base| directory(Path::new(base), data_dir));
        for directory in places.iter().chain([&data_dir.join("secrets")]) {
            if is_private(directory).is_ok() {
                let _ = fs::remove_dir_all(directory);
            }
        }
    }

    /// Where the files of the worker with this data directory are.
    #[cfg(test)]
    pub fn place_of(data_dir: &Path) -> PathBuf {
        base_in_memory().map_or_else(|| data_dir.join("secrets"), |base| directory(base, data_dir))
    }

    /// What the worker's operator should know; none if the files are in memory.
    pub fn shortcoming() -> Option<String> {
        base_in_memory().is_none().then(|| {
            "no file system in memory (/dev/shm): files with secrets of tasks are written to the disk of the data \
             directory"
                .to_owned()
        })
    }

    /// Writes the files of an attempt. Returns their directory, and each with its place in the order given. Blocks.
    pub fn create(
        &self,
        attempt: AttemptRef,
        files: &[(String, SecretValue)],
        readers: Readers,
    ) -> io::Result<(AttemptSecrets, PathBuf, Vec<PathBuf>)> {
        let directory = self.0.directory.join(attempt.to_string());
        let secrets = {
            let _changing = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
            create_private_dir(&self.0.directory)?;
            is_private(&self.0.directory)?;
            // Of a start that was given up.
            let _ = fs::remove_dir_all(&directory);
            create_private_dir(&directory)?;
            AttemptSecrets { space: self.clone(), directory }
        };
        let user = self.0.user.as_ref().filter(|_| readers == Readers::Owner);
        let hand_over = |path: &Path| user.map_or(Ok(()), |user| user.own(path));
        if user.is_some() {
            // Others pass through to what is theirs, and see nothing on the way.
            let_pass(&self.0.directory)?;
            let_pass(&secrets.directory)?;
        }
        let root = secrets.directory.join(FILES);
        create_private_dir(&root)?;
        hand_over(&root)?;
        let mode = match readers {
            Readers::Owner => 0o400,
            Readers::Container => 0o444,
        };
        let mut paths = Vec::with_capacity(files.len());
        for (file, value) in files {
            let path = root.join(file.trim_start_matches('/'));
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
                for made in parent.ancestors().take_while(|made| *made != root) {
                    hand_over(made)?;
                }
            }
            write(&path, value.bytes(), mode)?;
            hand_over(&path)?;
            paths.push(path);
        }
        Ok((secrets, root, paths))
    }

    /// Keeps what an attempt's output must not show, for an executor that adopts it. Nothing is kept on a disk. Blocks.
    pub fn keep(&self, secrets: &AttemptSecrets, values: &[&SecretValue]) -> io::Result<()> {
        if !self.0.is_in_memory {
            return Ok(());
        }
        let texts: Vec<Zeroizing<String>> =
            values.iter().map(|value| Zeroizing::new(BASE64.encode(value.bytes()))).collect();
        let lines = Zeroizing::new(texts.iter().map(|text| text.as_str()).collect::<Vec<_>>().join("\n"));
        write(&secrets.directory.join(VALUES), lines.as_bytes(), 0o400)
    }

    /// What was kept; none if that is gone. Blocks.
    pub fn kept(&self, attempt: AttemptRef) -> Option<(AttemptSecrets, Vec<SecretValue>)> {
        let directory = self.0.directory.join(attempt.to_string());
        is_private(&directory).ok()?;
        let secrets = AttemptSecrets { space: self.clone(), directory };
        let text = Zeroizing::new(fs::read_to_string(secrets.directory.join(VALUES)).ok()?);
        let values: Option<Vec<SecretValue>> =
            text.lines().map(|line| BASE64.decode(line).ok().map(SecretValue::new)).collect();
        Some((secrets, values?))
    }
}

impl Drop for AttemptSecrets {
    fn drop(&mut self) {
        let _changing = self.space.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = fs::remove_dir_all(&self.directory);
        // Fails as long as others have files in it.
        let _ = fs::remove_dir(&self.space.0.directory);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.directory.display(), %error, "cannot remove secrets of an ended attempt");
            }
            _ => {}
        }
    }
}

/// Where files are in memory, if there is such a place for this user.
fn base_in_memory() -> Option<&'static Path> {
    let is_good = |path: &&Path| {
        rustix::fs::statfs(*path).is_ok_and(|found| i128::from(found.f_type) == TMPFS)
            && access(*path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    };
    BASES.into_iter().map(Path::new).find(is_good)
}

/// Always the same for a worker, so that what a killed process left is found again.
fn directory(base: &Path, data_dir: &Path) -> PathBuf {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    base.join(format!("gaffer-secrets-{name}"))
}

/// An error unless a directory is this user's alone: others may write beside it.
fn is_private(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o066 != 0 {
        return Err(io::Error::other("it exists and is not private to this user"));
    }
    Ok(())
}

fn clear(directory: &Path, keep: &[AttemptRef]) {
    if is_private(directory).is_err() {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_kept = keep.iter().any(|attempt| entry.file_name().to_str() == Some(&attempt.to_string()));
        if !is_kept {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?;
    // Whatever the mask of this process takes away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;

    use super::*;

    const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(7), attempt: 2 };

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec())
    }

    #[test]
    fn files_are_for_their_reader_alone_and_go_with_the_attempt() {
        let data = tempfile::tempdir().unwrap();
        let space = SecretFiles::open(data.path(), &[], None);
        let files = [("a".to_owned(), value("one")), ("/etc/b/c".to_owned(), value("two"))];
        for (readers, mode) in [(Readers::Owner, 0o400), (Readers::Container, 0o444)] {
            let (secrets, root, paths) = space.create(ATTEMPT, &files, readers).unwrap();
            assert_eq!(fs::read(&paths[0]).unwrap(), b"one");
            assert_eq!(fs::read(&paths[1]).unwrap(), b"two");
            assert_eq!(paths[1], root.join("etc/b/c"));
            for path in &paths {
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
            }
            assert_eq!(fs::metadata(&secrets.directory).unwrap().permissions().mode() & 0o777, 0o700);
            drop(secrets);
            assert!(!space.0.directory.exists());
        }
    }

    #[test]
    fn an_executor_that_adopts_an_attempt_finds_what_to_hide_and_removes_the_rest() {
        let data = tempfile::tempdir().unwrap();
        let space = SecretFiles::open(data.path(), &[], None);
        let other = AttemptRef { task: TaskId(8), attempt: 1 };
        for attempt in [ATTEMPT, other] {
            let (secrets, ..) = space.create(attempt, &[], Readers::Container).unwrap();
            space.keep(&secrets, &[&value("one"), &value("t\nwo")]).unwrap();
            std::mem::forget(secrets);
        }
        let space = SecretFiles::open(data.path(), &[ATTEMPT], None);
        if space.0.is_in_memory {
            let (secrets, values) = space.kept(ATTEMPT).unwrap();
            assert_eq!(values, [value("one"), value("t\nwo")]);
            drop(secrets);
        }
        assert!(space.kept(other).is_none());
        SecretFiles::close(data.path());
        assert!(!space.0.directory.exists());
    }
}
