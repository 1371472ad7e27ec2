//! Files with secrets of attempts: in memory if there is a file system for that, private to this worker's user, gone after the
//! attempt.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
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
use crate::directory::OwnDirectory;
use crate::job_user::{JobUser, let_pass};
use crate::private_place;

/// File systems in memory, the best first.
const BASES: [&str; 2] = ["/dev/shm", "/run"];
/// What the kernel calls such a file system: `TMPFS_MAGIC`.
const TMPFS: i128 = 0x0102_1994;
/// In an attempt's directory: the files that the task sees.
const FILES: &str = "files";
/// In an attempt's directory: what its output must not show, for an executor that adopts it.
const VALUES: &str = "values";

/// How often the directory of an attempt is gone through to empty it: as deep as a job may nest directories beside its files, or as
/// long as another job of its user may go on writing there.
const ROUNDS: usize = 100;

/// The mode of a file with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// The user as whom tasks on the host run.
    Owner,
    /// Every user of a container. Only that container has the file: its directory is private on this machine.
    Container,
}

/// Where the files of all attempts are.
#[derive(Debug, Clone)]
pub(crate) struct SecretFiles(Arc<Space>);

#[derive(Debug)]
struct Space {
    places: Places,
    /// As whom tasks on the host run; none for this process's own user.
    user: Option<JobUser>,
    /// The directory of all attempts, once there was one that had files. It stays for those that come.
    directory: Mutex<Option<PathBuf>>,
}

/// Where the directory of all attempts of a worker can be.
#[derive(Debug)]
struct Places {
    /// Its name in memory: always the same for a worker, so that what a killed process left is found again.
    name: String,
    on_disk: PathBuf,
}

/// The files of one attempt. Dropped, they are removed.
#[derive(Debug)]
pub(crate) struct AttemptSecrets {
    directory: PathBuf,
}

impl SecretFiles {
    /// Opens the space of the worker with this data directory. What is of no attempt that goes on is removed.
    pub fn open(data_dir: &Path, adopting: &[AttemptRef], user: Option<JobUser>) -> SecretFiles {
        let places = Places::of(data_dir);
        places.clear(adopting);
        SecretFiles(Arc::new(Space { places, user, directory: Mutex::default() }))
    }

    /// Removes everything: no attempt is left.
    pub fn close(data_dir: &Path) {
        Places::of(data_dir).clear(&[]);
    }

    /// Removes the directories in which no attempt has anything. For a process that leaves.
    pub fn leave(data_dir: &Path) {
        for directory in Places::of(data_dir).all() {
            let _ = fs::remove_dir(directory);
        }
    }

    /// The directories of the attempts of the worker with this data directory.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub fn attempts_of(data_dir: &Path) -> Vec<PathBuf> {
        let places = Places::of(data_dir).all();
        places
            .iter()
            .flat_map(|place| fs::read_dir(place).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect()
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
        let secrets = AttemptSecrets { directory: self.directory()?.join(attempt.to_string()) };
        // Of a start that was given up.
        remove(&secrets.directory)?;
        create_private_dir(&secrets.directory)?;
        let user = self.0.user.as_ref().filter(|_| readers == Readers::Owner);
        if user.is_some() {
            // Others pass through to what is theirs, and see nothing on the way.
            secrets.directory.parent().map_or(Ok(()), let_pass)?;
            let_pass(&secrets.directory)?;
        }
        let root = secrets.directory.join(FILES);
        create_private_dir(&root)?;
        let mode = match readers {
            Readers::Owner => 0o400,
            Readers::Container => 0o444,
        };
        let (mut paths, mut parents) = (Vec::with_capacity(files.len()), BTreeSet::new());
        for (file, value) in files {
            let path = root.join(file.trim_start_matches('/'));
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
                parents.extend(parent.ancestors().take_while(|made| *made != root).map(Path::to_owned));
            }
            write(&path, value.bytes(), mode)?;
            paths.push(path);
        }
        if let Some(user) = user {
            // What is outside comes last: until then nobody else gets in.
            for made in paths.iter().chain(parents.iter().rev()).chain([&root]) {
                user.own(made)?;
            }
        }
        Ok((secrets, root, paths))
    }

    /// The directory of all attempts, made if it is not there.
    fn directory(&self) -> io::Result<PathBuf> {
        let mut known = self.0.directory.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(directory) if private_place::is_private(directory) => Ok(directory.clone()),
            _ => Ok(known.insert(self.0.places.make()?).clone()),
        }
    }

    /// Keeps what an attempt's output must not show, for an executor that adopts it. Nothing is kept on a disk. Blocks.
    pub fn keep(&self, secrets: &AttemptSecrets, values: &[&SecretValue]) -> io::Result<()> {
        if secrets.directory.starts_with(&self.0.places.on_disk) {
            return Ok(());
        }
        let texts: Vec<Zeroizing<String>> =
            values.iter().map(|value| Zeroizing::new(BASE64.encode(value.bytes()))).collect();
        let lines = Zeroizing::new(texts.iter().map(|text| text.as_str()).collect::<Vec<_>>().join("\n"));
        write(&secrets.directory.join(VALUES), lines.as_bytes(), 0o400)
    }

    /// What was kept; none if that is gone. Blocks.
    pub fn kept(&self, attempt: AttemptRef) -> Option<(AttemptSecrets, Vec<SecretValue>)> {
        let mut all = self.0.places.in_memory().into_iter().map(|place| place.join(attempt.to_string()));
        let directory = all.find(|directory| private_place::is_private(directory))?;
        let secrets = AttemptSecrets { directory };
        let text = Zeroizing::new(fs::read_to_string(secrets.directory.join(VALUES)).ok()?);
        let values: Option<Vec<SecretValue>> =
            text.lines().map(|line| BASE64.decode(line).ok().map(SecretValue::new)).collect();
        Some((secrets, values?))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let known = self.directory.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = known {
            // Fails if an attempt goes on without this process.
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Drop for AttemptSecrets {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %error, "cannot remove secrets of an ended attempt");
        }
    }
}

impl Places {
    fn of(data_dir: &Path) -> Places {
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Places { name: format!("gaffer-secrets-{digest}"), on_disk: data_dir.join("secrets") }
    }

    /// Finds or makes one, in memory if possible.
    fn make(&self) -> io::Result<PathBuf> {
        if let Some(base) = base_in_memory() {
            return private_place::open(base, &self.name);
        }
        create_private_dir(&self.on_disk)?;
        Ok(self.on_disk.clone())
    }

    fn in_memory(&self) -> Vec<PathBuf> {
        BASES.into_iter().flat_map(|base| private_place::existing(Path::new(base), &self.name)).collect()
    }

    /// All that are there, also those that another process of this worker chose in other circumstances.
    fn all(&self) -> Vec<PathBuf> {
        let on_disk = [&self.on_disk].into_iter().filter(|place| private_place::is_private(place)).cloned();
        self.in_memory().into_iter().chain(on_disk).collect()
    }

    /// Removes what is of no attempt that is kept.
    fn clear(&self, keep: &[AttemptRef]) {
        for place in self.all() {
            for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
                let is_kept =
                    keep.iter().any(|attempt| entry.file_name().to_str() == Some(&attempt.to_string()));
                if let Some(Err(error)) = (!is_kept).then(|| remove(&entry.path())) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove secrets of an earlier attempt");
                }
            }
            // Fails as long as something is in it.
            let _ = fs::remove_dir(place);
        }
    }
}

/// Removes the directory of an attempt, whatever its job has put in there, if it exists.
fn remove(directory: &Path) -> io::Result<()> {
    match OwnDirectory::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?.empty(ROUNDS)?,
    }
    fs::remove_dir(directory)
}

/// Where files are in memory, if there is such a place for this user.
fn base_in_memory() -> Option<&'static Path> {
    let is_good = |path: &&Path| {
        rustix::fs::statfs(*path).is_ok_and(|found| i128::from(found.f_type) == TMPFS)
            && access(*path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    };
    BASES.into_iter().map(Path::new).find(is_good)
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

    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use gaffer_domain::TaskId;

    use super::*;
    use crate::job_user::with_rights_of;

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
            assert_eq!(SecretFiles::attempts_of(data.path()), [] as [PathBuf; 0]);
        }
        SecretFiles::leave(data.path());
        assert_eq!(space.0.places.all(), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_is_on_the_disk_from_before_there_was_memory_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let before = data.path().join("secrets/7.2/files");
        create_private_dir(&before).unwrap();
        fs::write(before.join("token"), "x").unwrap();
        SecretFiles::open(data.path(), &[], None);
        assert!(!data.path().join("secrets").exists());
    }

    #[test]
    fn directories_that_a_job_has_made_beside_its_files_do_not_keep_them() {
        let data = tempfile::tempdir().unwrap();
        let space = SecretFiles::open(data.path(), &[], None);
        let files = [("d/a".to_owned(), value("one"))];
        let (secrets, root, _) = space.create(ATTEMPT, &files, Readers::Owner).unwrap();
        fs::create_dir_all(root.join("d/1/2/3")).unwrap();
        fs::set_permissions(root.join("d/1"), fs::Permissions::from_mode(0o000)).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("d/link")).unwrap();
        drop(secrets);
        assert_eq!(SecretFiles::attempts_of(data.path()), [] as [PathBuf; 0]);
        SecretFiles::leave(data.path());
    }

    #[test]
    fn a_directory_that_is_removed_meanwhile_is_made_again_also_if_its_name_is_taken() {
        let data = tempfile::tempdir().unwrap();
        let space = SecretFiles::open(data.path(), &[], None);
        let files = [("a".to_owned(), value("one"))];
        drop(space.create(ATTEMPT, &files, Readers::Owner).unwrap());
        if base_in_memory().is_none() {
            return;
        }
        let place = space.directory().unwrap();
        fs::remove_dir(&place).unwrap();
        fs::write(&place, "taken").unwrap();
        let created =
            space.create(ATTEMPT, &files, Readers::Owner).map(|(_, _, paths)| fs::read(&paths[0]).is_ok());
        fs::remove_file(&place).unwrap();
        assert!(created.unwrap_or(false));
        SecretFiles::close(data.path());
    }

    /// A job that exchanges what it can reach of the files of other attempts, while they are made and removed.
    #[test]
    fn a_job_cannot_lead_root_elsewhere_while_files_are_made() {
        if !nix::unistd::geteuid().is_root() || base_in_memory().is_none() {
            return;
        }
        let nobody = JobUser::choose(Some("65534")).unwrap().unwrap();
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let target = elsewhere.path().join("target");
        fs::create_dir_all(target.join("inner")).unwrap();
        fs::write(target.join("inner/file"), "of root").unwrap();
        let space = SecretFiles::open(data.path(), &[], Some(nobody.clone()));
        let files = [("1", "a"), ("2", "b"), ("d/inner/x", "c"), ("3", "d")];
        let files = files.map(|(file, text)| (file.to_owned(), value(text)));
        let root = space.directory().unwrap().join(ATTEMPT.to_string()).join(FILES);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = || {
                    while !is_over.load(Ordering::Relaxed) {
                        let _ = std::os::unix::fs::symlink(&target, root.join("d"));
                        let _ = fs::rename(root.join("d"), root.join("moved"));
                    }
                };
                with_rights_of(Some(&nobody), exchange).unwrap();
            });
            for _ in 0..300 {
                let created = space.create(ATTEMPT, &files, Readers::Owner);
                let found = ["", "inner", "inner/file"]
                    .map(|path| fs::metadata(target.join(path)).map(|found| found.uid()));
                let is_as_before = found.iter().all(|owner| owner.as_ref().is_ok_and(|owner| *owner == 0))
                    && fs::read_dir(target.join("inner")).unwrap().count() == 1;
                if !is_as_before || created.is_err() {
                    is_over.store(true, Ordering::Relaxed);
                }
                assert!(is_as_before, "{found:?}");
                created.unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            fs::read_to_string(target.join("inner/file")).unwrap(),
            "of root",
            "nor while they are removed"
        );
        SecretFiles::close(data.path());
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
        if base_in_memory().is_some() {
            let (secrets, values) = space.kept(ATTEMPT).unwrap();
            assert_eq!(values, [value("one"), value("t\nwo")]);
            drop(secrets);
        }
        assert!(space.kept(other).is_none());
        SecretFiles::close(data.path());
        assert_eq!(space.0.places.all(), [] as [PathBuf; 0]);
    }
}
