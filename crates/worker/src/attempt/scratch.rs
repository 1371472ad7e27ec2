//! Creates and removes the private directories of attempts.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gaffer_domain::AttemptRef;
use tokio::sync::Notify;

use super::short_path::ShortPath;
use crate::clock::wall_micros;
use crate::data_dir::create_private_dir;
use crate::directory::OwnDirectory;
use crate::driver::Directories;
use crate::job_user::{JobUser, let_pass};

/// Number of unused directories kept for other attempts, because creating and removing them costs more than a
/// process start.
const MAX_SPARES: usize = 1024;
/// How far the kernel's clock for files may be behind.
const FILE_CLOCK_LAG: Duration = Duration::from_millis(50);

/// Where the directories of all attempts are.
#[derive(Debug, Clone)]
pub(crate) struct ScratchSpace(Arc<Space>);

#[derive(Debug)]
struct Space {
    attempts: PathBuf,
    short: ShortPath,
    trash: PathBuf,
    spare: PathBuf,
    /// Whose the directories are; none for this process's own user.
    user: Option<JobUser>,
    spares: Mutex<Vec<Spare>>,
    has_trash: Notify,
}

/// The directories of one attempt. Dropped without [`ScratchSpace::remove`] they are removed, too.
#[derive(Debug)]
pub(crate) struct Scratch {
    space: ScratchSpace,
    directory: PathBuf,
    real_temporary: PathBuf,
    given: Directories,
    pristine: Pristine,
    is_removed: bool,
}

/// A directory as [`Scratch`] has it, without a script, and with nothing in it ever.
#[derive(Debug)]
struct Spare {
    directory: PathBuf,
    pristine: Pristine,
}

/// Detects whether anything touched the two directories: the kernel's time of their last change, which cannot be
/// forged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pristine {
    work: Changed,
    temporary: Changed,
}

/// Seconds and nanoseconds.
type Changed = (i64, i64);

impl ScratchSpace {
    /// Opens the space in the worker's data directory. What an earlier process left there goes: nothing of it runs.
    pub fn open(data_dir: &Path, user: Option<JobUser>) -> anyhow::Result<ScratchSpace> {
        let [attempts, spare, trash] = ["attempts", "spare", "trash"].map(|name| data_dir.join(name));
        create_private_dir(&trash).with_context(|| format!("cannot create {}", trash.display()))?;
        for path in [&attempts, &spare] {
            if path.exists() {
                discard(path, &trash).with_context(|| format!("cannot move {} away", path.display()))?;
            }
            create_private_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let has_trash = Notify::new();
        has_trash.notify_one();
        let short = ShortPath::to(&attempts);
        if let Some(user) = &user {
            for path in [data_dir, &attempts] {
                let_pass(path).with_context(|| format!("cannot open {} to jobs", path.display()))?;
            }
            short.let_pass();
            user.must_reach(&attempts)?;
        }
        Ok(ScratchSpace(Arc::new(Space {
            attempts,
            short,
            trash,
            spare,
            user,
            spares: Mutex::default(),
            has_trash,
        })))
    }

    /// Removes directories outside the data directory: no attempt is left, and the processes that used this space are
    /// dead or dying.
    pub fn close(data_dir: &Path) {
        ShortPath::remove(&data_dir.join("attempts"));
    }

    /// Makes the directories of an attempt, and its script, if it has one. Blocks.
    pub fn create(&self, attempt: AttemptRef, script: Option<&str>) -> io::Result<Scratch> {
        let directory = self.0.attempts.join(attempt.to_string());
        let [work, temporary] = ["work", "tmp"].map(|name| directory.join(name));
        let spare = self.0.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pristine = match spare {
            Some(spare) => {
                fs::rename(&spare.directory, &directory)?;
                spare.pristine
            }
            None => {
                // What lies beside the two is this process's own: its job can put nothing in their place.
                DirBuilder::new().mode(self.directory_mode()).create(&directory)?;
                for path in [&work, &temporary] {
                    DirBuilder::new().mode(0o700).create(path)?;
                    self.hand_over(path)?;
                }
                Pristine { work: changed(&work)?, temporary: changed(&temporary)? }
            }
        };
        let script = match script {
            None => None,
            Some(text) => {
                let path = directory.join("script");
                let mut file = OpenOptions::new().create_new(true).write(true).mode(0o700).open(&path)?;
                file.write_all(text.as_bytes())?;
                self.hand_over(&path)?;
                Some(path)
            }
        };
        let real_temporary = temporary;
        let temporary = self.0.short.get().join(attempt.to_string()).join("tmp");
        let given = Directories { work, temporary, script };
        Ok(Scratch { space: self.clone(), directory, real_temporary, given, pristine, is_removed: false })
    }

    /// Gives a file or directory to the user that jobs run as.
    fn hand_over(&self, path: &Path) -> io::Result<()> {
        self.0.user.as_ref().map_or(Ok(()), |user| user.own(path))
    }

    /// Of the directory of an attempt: another user passes through.
    fn directory_mode(&self) -> u32 {
        if self.0.user.is_some() { 0o711 } else { 0o700 }
    }

    /// Removes an attempt's directories. Untouched ones are kept as spares; others are moved to the trash and removed
    /// in the background. Blocks.
    pub fn remove(&self, mut scratch: Scratch) {
        let unscripted = scratch.given.script.as_deref().map_or(Ok(()), fs::remove_file);
        scratch.is_removed = unscripted.is_ok() && is_untouched(&scratch) && self.keep(&scratch);
    }

    /// Moves the directory of an attempt to where it is removed in the background. Blocks.
    fn move_away(&self, path: &Path) {
        if let Err(error) = discard(path, &self.0.trash) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the directory of an attempt");
        }
        self.0.has_trash.notify_one();
    }

    /// Makes a spare of the directories, unless there are enough.
    fn keep(&self, scratch: &Scratch) -> bool {
        let mut spares = self.0.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = scratch.directory.file_name() else { return false };
        let directory = self.0.spare.join(name);
        if spares.len() >= MAX_SPARES || fs::rename(&scratch.directory, &directory).is_err() {
            return false;
        }
        spares.push(Spare { directory, pristine: scratch.pristine });
        true
    }

    /// Removes what was moved away, as it comes. Never ends.
    pub async fn keep_clean(&self) {
        loop {
            self.0.has_trash.notified().await;
            let space = self.0.clone();
            let emptied = tokio::task::spawn_blocking(move || empty(&space.trash)).await;
            if let Ok(Err(error)) = emptied {
                let path = self.0.trash.display();
                tracing::warn!(%path, %error, "cannot remove files of ended attempts; retrying later");
            }
        }
    }
}

impl Scratch {
    /// What the attempt may use.
    pub fn directories(&self) -> &Directories {
        &self.given
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.is_removed {
            self.space.move_away(&self.directory);
        }
    }
}

/// When the kernel last saw a change of a directory's entries or attributes.
fn changed(path: &Path) -> io::Result<Changed> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.ctime(), metadata.ctime_nsec()))
}

/// Whether both directories are as they were made.
fn is_untouched(scratch: &Scratch) -> bool {
    let (Ok(work), Ok(temporary)) = (changed(&scratch.given.work), changed(&scratch.real_temporary)) else {
        return false;
    };
    if (Pristine { work, temporary }) != scratch.pristine
        || !holds_only_two(&scratch.directory, scratch.space.directory_mode()).unwrap_or(false)
    {
        return false;
    }
    // A change right after the making may bear the same time: then only looking tells.
    let settled = |(secs, nanos): Changed| {
        let micros = u64::try_from(secs * 1_000_000 + nanos / 1000).unwrap_or(u64::MAX);
        micros.saturating_add(FILE_CLOCK_LAG.as_micros() as u64) < wall_micros()
    };
    (settled(work) && settled(temporary))
        || (is_as_made(&scratch.given.work).unwrap_or(false)
            && is_as_made(&scratch.real_temporary).unwrap_or(false))
}

/// Whether a directory has the mode that it was made with and holds exactly the two entries that were created in it. (Moving it changes it,
/// too, so its own time proves nothing.)
fn holds_only_two(path: &Path, mode: u32) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777 == mode && fs::read_dir(path)?.count() == 2)
}

/// Whether a directory is empty, private, and without attributes that could outlast its user.
fn is_as_made(path: &Path) -> io::Result<bool> {
    let is_private = fs::symlink_metadata(path)?.mode() & 0o7777 == 0o700;
    let attributes = rustix::fs::llistxattr(path, &mut [0_u8; 1024])?;
    Ok(is_private && attributes == 0 && fs::read_dir(path)?.next().is_none())
}

/// Moves a directory into the trash under a unique name.
fn discard(directory: &Path, trash: &Path) -> io::Result<()> {
    OwnDirectory::open(trash)?.take_in(directory)
}

/// Removes everything in the trash.
fn empty(trash: &Path) -> io::Result<()> {
    OwnDirectory::open(trash)?.empty(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use gaffer_domain::TaskId;

    use super::*;

    const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(7), attempt: 2 };
    const OTHER: AttemptRef = AttemptRef { task: TaskId(8), attempt: 1 };

    fn count(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn untouched_directories_serve_another_attempt() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path(), None).unwrap();
        let scratch = space.create(ATTEMPT, Some("echo")).unwrap();
        assert_eq!(scratch.given.work, data.path().join("attempts/7.2/work"));
        assert_eq!(fs::metadata(&scratch.given.work).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(scratch.given.script.as_ref().unwrap()).unwrap(), "echo");
        space.remove(scratch);
        assert_eq!((count(&space.0.attempts), count(&space.0.trash), count(&space.0.spare)), (0, 0, 1));
        let scratch = space.create(OTHER, None).unwrap();
        assert_eq!(scratch.given.work, data.path().join("attempts/8.1/work"));
        assert_eq!((count(&scratch.given.work), count(&scratch.directory), count(&space.0.spare)), (0, 2, 0));
    }

    #[test]
    fn touched_directories_do_not_serve_another_attempt() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path(), None).unwrap();
        let touches: [fn(&Scratch); 6] = [
            |scratch| fs::write(scratch.given.work.join("../file"), "x").unwrap(),
            |scratch| fs::write(scratch.given.work.join("file"), "x").unwrap(),
            |scratch| fs::write(scratch.given.temporary.join("file"), "x").unwrap(),
            |scratch| fs::set_permissions(&scratch.given.work, Permissions::from_mode(0o755)).unwrap(),
            |scratch| fs::remove_dir(&scratch.given.temporary).unwrap(),
            |scratch| {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(&scratch.given.work, "user.mark", b"x", flags).unwrap();
            },
        ];
        for touch in touches {
            let scratch = space.create(ATTEMPT, None).unwrap();
            touch(&scratch);
            space.remove(scratch);
            assert_eq!((count(&space.0.attempts), count(&space.0.spare)), (0, 0));
        }
    }

    #[test]
    fn what_a_job_left_is_moved_away_and_removed() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path(), None).unwrap();
        let scratch = space.create(ATTEMPT, None).unwrap();
        let locked = scratch.given.work.join("a/b");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", locked.join("link")).unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&scratch.given.work, Permissions::from_mode(0o500)).unwrap();
        space.remove(scratch);
        assert_eq!((count(&space.0.attempts), count(&space.0.trash)), (0, 1));
        empty(&space.0.trash).unwrap();
        assert_eq!(count(&space.0.trash), 0);
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path(), None).unwrap();
        let scratch = space.create(ATTEMPT, None).unwrap();
        // Built from the bottom up, for a path of this length cannot be named.
        let (next, top) =
            (scratch.given.work.join("next"), scratch.given.work.join("a-directory-with-a-rather-long-name"));
        for _ in 0..500 {
            fs::create_dir(&next).unwrap();
            if top.exists() {
                fs::rename(&top, next.join("a-directory-with-a-rather-long-name")).unwrap();
            }
            fs::rename(&next, &top).unwrap();
        }
        space.remove(scratch);
        empty(&space.0.trash).unwrap();
        assert_eq!(count(&space.0.trash), 0);
    }

    #[test]
    fn what_an_earlier_process_left_goes() {
        let data = tempfile::tempdir().unwrap();
        let scratch = ScratchSpace::open(data.path(), None).unwrap().create(ATTEMPT, None).unwrap();
        let space = ScratchSpace::open(data.path(), None).unwrap();
        assert!(!scratch.given.work.exists());
        empty(&space.0.trash).unwrap();
        assert_eq!(count(&space.0.trash), 0);
        space.create(ATTEMPT, None).unwrap();
    }
}
