//! The data directory: locked by one executor, home of the worker's identity.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use gaffer_protocol::keys::{WORKER_KEY, new_key};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::machine;

/// The file with the key that the worker has made for itself.
const KEY: &str = "key";
/// Content of the lock file while a watchdog holds it.
const WATCHDOG: &str = "watchdog";
/// The length of that content: what is written again at the same place finds room on a full disk, too.
const HOLDER_BYTES: usize = 20;

/// The lock on a data directory, for as long as this lives. The kernel gives it back when its holder is dead, and with it every
/// process that the holder was just starting: until these are other programs they have copies of its descriptors.
pub(crate) struct DataDirLock {
    _file: Flock<File>,
}

/// The file that the lock of a data directory is on.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
}

/// Who holds the lock of a data directory, or held it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A watchdog that ends what an executor left.
    Watchdog,
    /// An executor, by its process id.
    Executor(i32),
    /// It is not written down.
    Unknown,
}

impl LockFile {
    /// Opens it; makes it if need be.
    pub fn of(dir: &Path) -> anyhow::Result<LockFile> {
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(LockFile { file, path })
    }

    /// Takes the lock; none if another process has it.
    pub fn take(&self, holder: Holder) -> anyhow::Result<Option<DataDirLock>> {
        let locked = self.file.try_clone().map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        let cannot = || format!("cannot lock {}", self.path.display());
        match locked.with_context(cannot)? {
            Ok(file) => {
                // A disk that refuses it is no reason to fail.
                let text = format!("{:<width$}\n", holder.text(), width = HOLDER_BYTES - 1);
                let _ = file.write_all_at(text.as_bytes(), 0);
                Ok(Some(DataDirLock { _file: file }))
            }
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).with_context(cannot),
        }
    }

    /// Who has the lock, or had it last.
    pub fn holder(&self) -> Holder {
        let mut text = [0; HOLDER_BYTES];
        let read = self.file.read_at(&mut text, 0).unwrap_or(0);
        match std::str::from_utf8(&text[..read]).unwrap_or_default().trim() {
            WATCHDOG => Holder::Watchdog,
            pid => pid.parse().map_or(Holder::Unknown, Holder::Executor),
        }
    }
}

impl Holder {
    /// This process, as an executor.
    pub fn this_executor() -> Holder {
        i32::try_from(std::process::id()).map_or(Holder::Unknown, Holder::Executor)
    }

    fn text(self) -> String {
        match self {
            Holder::Watchdog => WATCHDOG.to_owned(),
            Holder::Executor(pid) => pid.to_string(),
            Holder::Unknown => String::new(),
        }
    }
}

/// Creates the data directory if need be. Gives its absolute path, for that becomes part of paths that jobs see.
pub(crate) fn prepare(path: &Path) -> anyhow::Result<PathBuf> {
    create_private_dir(path)
        .with_context(|| format!("cannot create the data directory {}", path.display()))?;
    path.canonicalize().with_context(|| format!("cannot find the data directory {}", path.display()))
}

/// The identity of the worker with this data directory; made when it is asked for the first time.
pub(crate) fn identity(dir: &Path) -> anyhow::Result<Uuid> {
    let path = dir.join("identity");
    if let Some(identity) = read_identity(&path)? {
        return Ok(identity);
    }
    let identity = Uuid::new_v4();
    let draft = dir.join(format!("identity.{identity}"));
    let made = write_private(&draft, format!("{identity}\n").as_bytes()).and_then(|()| {
        // Fails if there is one by now: two processes of one worker may begin at once.
        match fs::hard_link(&draft, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    });
    let _ = fs::remove_file(&draft);
    made.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(read_identity(&path)?.unwrap_or(identity))
}

fn read_identity(path: &Path) -> anyhow::Result<Option<Uuid>> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).with_context(|| {
            format!(
                "{} is not an identity file: restore it, or remove it to start as a new worker",
                path.display()
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the identity in this data directory, which is another worker's, by a new one.
pub(crate) fn replace_identity(dir: &Path, copied: Uuid) -> anyhow::Result<()> {
    let path = dir.join("identity");
    // Another process of this worker may have done it by now.
    if read_identity(&path)? == Some(copied) {
        // The key is that of the other worker, too.
        match fs::remove_file(dir.join(KEY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.join(KEY).display()));
            }
            _ => {}
        }
        fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    identity(dir).map(drop)
}

/// The key that a worker has made for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptKey {
    pub key: String,
    /// SHA-256 of the enrolment key that it was made for.
    pub enrolment: String,
    /// Whether the master has said welcome to it.
    pub is_enrolled: bool,
}

/// The key that this worker has for that enrolment key; made, and on the disk, when it is asked for the first time. Another enrolment key
/// means that its operator wants another one.
pub(crate) fn own_key(dir: &Path, enrolment: &str) -> anyhow::Result<KeptKey> {
    if let Some(kept) = kept_key(dir)?.filter(|kept| kept.enrolment == enrolment) {
        return Ok(kept);
    }
    let key = new_key(WORKER_KEY, &rand::rng().random());
    let kept = KeptKey { key, enrolment: enrolment.to_owned(), is_enrolled: false };
    keep(dir, &kept)?;
    Ok(kept)
}

/// The key that a worker with this data directory has made for itself, if it has made one.
pub(crate) fn kept_key(dir: &Path) -> anyhow::Result<Option<KeptKey>> {
    let path = dir.join(KEY);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
            format!("{} is damaged: remove it, and start the worker with a new enrolment key", path.display())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Keeps that the master knows this key.
pub(crate) fn keep_enrolled(dir: &Path, kept: &KeptKey) -> anyhow::Result<()> {
    keep(dir, &KeptKey { is_enrolled: true, ..kept.clone() })
}

fn keep(dir: &Path, kept: &KeptKey) -> anyhow::Result<()> {
    let (path, draft) = (dir.join(KEY), dir.join(format!("key.{}", Uuid::new_v4())));
    let text = serde_json::to_vec(kept).context("cannot encode the key of this worker")?;
    let written = write_private(&draft, &text).and_then(|()| fs::rename(&draft, &path));
    written
        .inspect_err(|_| drop(fs::remove_file(&draft)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where a data directory was when a worker began in it, for copies of it.
#[derive(Debug, Serialize, Deserialize)]
struct Home {
    path: PathBuf,
    directory: String,
}

/// Refuses a data directory that is a copy of one on this machine: what the original runs would be taken for this one's.
/// One that was moved, or came from another machine, is not refused; the master tells that one from its original.
pub(crate) fn refuse_copy(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("home.json");
    let Some(directory) = machine::directory(dir) else { return Ok(()) };
    let here = Home { path: dir.to_owned(), directory };
    let recorded = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Home>(&text).ok());
    if let Some(home) = &recorded {
        if home.path == here.path && home.directory == here.directory {
            return Ok(());
        }
        let original_is_there = home.directory != here.directory
            && machine::directory(&home.path).is_some_and(|directory| directory == home.directory);
        let has_identity = dir.join("identity").exists();
        ensure!(
            !(original_is_there && has_identity),
            "the data directory {} is a copy of {}, which still exists; two workers cannot share one \
             identity. To run both, remove the file `identity` in the copy; to move the worker, remove the \
             original",
            dir.display(),
            home.path.display()
        );
    }
    let text = serde_json::to_vec(&here).context("cannot resolve the data directory")?;
    let draft = dir.join(format!("home.{}", Uuid::new_v4()));
    let written = write_private(&draft, &text).and_then(|()| fs::rename(&draft, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Sets a spool aside that is of another identity than the one with this token: its attempts are not this worker's.
/// To be called with the lock.
pub(crate) fn own_spool(dir: &Path, token: &str) -> anyhow::Result<()> {
    let path = dir.join("spool.owner");
    let owner = match fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if owner.as_deref() == Some(token) {
        return Ok(());
    }
    if let Some(owner) = owner {
        let (spool, aside) = (dir.join("spool"), dir.join(format!("spool.of-{owner}")));
        match fs::rename(&spool, &aside) {
            Ok(()) => tracing::warn!(
                "the spool belongs to another worker; moved it to {}, remove it if it is not needed",
                aside.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot set {} aside", spool.display())),
        }
    }
    let draft = dir.join(format!("spool.{}", Uuid::new_v4()));
    let written =
        write_private(&draft, format!("{token}\n").as_bytes()).and_then(|()| fs::rename(&draft, &path));
    written.with_context(|| format!("cannot write {}", path.display()))
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

/// Writes a new file that only its owner may read.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = prepare(&root.path().join("a/b")).unwrap();
        let made: Vec<_> = (0..8)
            .map(|_| dir.clone())
            .map(|dir| std::thread::spawn(move || identity(&dir).unwrap()))
            .collect();
        let made: Vec<Uuid> = made.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
        assert_eq!(identity(&dir).unwrap(), made[0]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.join("identity")), 0o600);
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_key_is_made_once_for_each_enrolment_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let made = own_key(root.path(), "one").unwrap();
        assert_eq!(gaffer_protocol::keys::fault(&made.key, &[WORKER_KEY]), None);
        assert_eq!(own_key(root.path(), "one").unwrap(), made);
        keep_enrolled(root.path(), &made).unwrap();
        assert!(own_key(root.path(), "one").unwrap().is_enrolled);
        let mode = fs::metadata(root.path().join(KEY)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode, fs::read_dir(root.path()).unwrap().count()), (0o600, 1));
        let other = own_key(root.path(), "two").unwrap();
        assert!(other.key != made.key && !other.is_enrolled);
        fs::write(root.path().join(KEY), "x").unwrap();
        assert!(own_key(root.path(), "two").unwrap_err().to_string().contains("remove it"));
    }

    #[test]
    fn a_second_holder_is_refused_while_the_first_lives() {
        let root = tempfile::tempdir().unwrap();
        let take = |holder| LockFile::of(root.path()).unwrap().take(holder).unwrap();
        let holder = || LockFile::of(root.path()).unwrap().holder();
        assert_eq!(holder(), Holder::Unknown);
        let first = take(Holder::this_executor()).unwrap();
        assert!(take(Holder::Watchdog).is_none());
        assert!(is_held(root.path()).unwrap());
        assert_eq!(holder(), Holder::Executor(std::process::id() as i32));
        drop(first);
        assert!(!is_held(root.path()).unwrap() && !is_held(&root.path().join("none")).unwrap());
        let second = take(Holder::Watchdog).unwrap();
        assert_eq!(holder(), Holder::Watchdog);
        drop(second);
        // As earlier versions wrote it.
        fs::write(root.path().join("lock"), "17\n").unwrap();
        assert_eq!(holder(), Holder::Executor(17));
        assert!(take(Holder::Executor(1_234_567)).is_some());
        assert_eq!(holder(), Holder::Executor(1_234_567));
    }

    #[test]
    fn a_lock_file_that_was_opened_in_time_can_be_locked_when_its_directory_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let file = LockFile::of(root.path()).unwrap();
        let held = LockFile::of(root.path()).unwrap().take(Holder::Executor(5)).unwrap();
        drop(root);
        assert!(file.take(Holder::Watchdog).unwrap().is_none());
        assert_eq!(file.holder(), Holder::Executor(5));
        drop(held);
        assert!(file.take(Holder::Watchdog).unwrap().is_some());
    }

    #[test]
    fn a_copy_beside_its_original_is_refused_and_a_moved_directory_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (original, copy) =
            (prepare(&root.path().join("a")).unwrap(), prepare(&root.path().join("b")).unwrap());
        refuse_copy(&original).unwrap();
        identity(&original).unwrap();
        for name in ["home.json", "identity"] {
            fs::copy(original.join(name), copy.join(name)).unwrap();
        }
        refuse_copy(&original).unwrap();
        let error = refuse_copy(&copy).unwrap_err().to_string();
        assert!(error.contains("is a copy of") && error.contains(original.to_str().unwrap()), "{error}");
        // With a new identity it is no copy any more.
        fs::remove_file(copy.join("identity")).unwrap();
        refuse_copy(&copy).unwrap();
        // Moved: under its old path there is nothing, or something else.
        let moved = root.path().canonicalize().unwrap().join("c");
        fs::rename(&original, &moved).unwrap();
        refuse_copy(&moved).unwrap();
        prepare(&original).unwrap();
        refuse_copy(&moved).unwrap();
    }

    #[test]
    fn a_copied_identity_is_replaced_once() {
        let root = tempfile::tempdir().unwrap();
        let copied = identity(root.path()).unwrap();
        own_key(root.path(), "one").unwrap();
        replace_identity(root.path(), copied).unwrap();
        assert!(!root.path().join(KEY).exists(), "its key is that of the other worker");
        let own = identity(root.path()).unwrap();
        assert_ne!(own, copied);
        replace_identity(root.path(), copied).unwrap();
        assert_eq!(identity(root.path()).unwrap(), own);
    }

    #[test]
    fn the_spool_of_another_identity_is_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let spool = root.path().join("spool");
        fs::create_dir(&spool).unwrap();
        fs::write(spool.join("journal"), "x").unwrap();
        // Of before it was written down whose it is.
        own_spool(root.path(), "one").unwrap();
        own_spool(root.path(), "one").unwrap();
        assert!(spool.join("journal").exists());
        own_spool(root.path(), "two").unwrap();
        assert!(!spool.exists() && root.path().join("spool.of-one/journal").exists());
        own_spool(root.path(), "two").unwrap();
    }

    #[test]
    fn a_damaged_identity_is_not_replaced_silently() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("identity"), "garbage").unwrap();
        let error = identity(root.path()).unwrap_err().to_string();
        assert!(error.contains("identity") && error.contains("remove it"), "{error}");
    }
}
