//! The private directories of attempts: made before the start, gone when the attempt is over.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use gaffer_domain::AttemptRef;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::data_dir::create_private_dir;

/// Where the directories of all attempts are.
#[derive(Debug, Clone)]
pub(crate) struct ScratchSpace {
    attempts: Arc<Path>,
    trash: Arc<Path>,
    has_trash: Arc<Notify>,
}

/// The directories of one attempt.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: PathBuf,
    work: PathBuf,
    temporary: PathBuf,
    script: Option<PathBuf>,
}

impl ScratchSpace {
    /// Opens the space in the worker's data directory. What an earlier process left there goes: nothing of it runs.
    pub fn open(data_dir: &Path) -> anyhow::Result<ScratchSpace> {
        let (attempts, trash) = (data_dir.join("attempts"), data_dir.join("trash"));
        create_private_dir(&trash).with_context(|| format!("cannot create {}", trash.display()))?;
        if attempts.exists() {
            discard(&attempts, &trash).with_context(|| format!("cannot move {} away", attempts.display()))?;
        }
        create_private_dir(&attempts).with_context(|| format!("cannot create {}", attempts.display()))?;
        let has_trash = Arc::new(Notify::new());
        has_trash.notify_one();
        Ok(ScratchSpace { attempts: attempts.into(), trash: trash.into(), has_trash })
    }

    /// Makes the directories of an attempt, and its script, if it has one.
    pub fn create(&self, attempt: AttemptRef, script: Option<&str>) -> io::Result<Scratch> {
        let directory = self.attempts.join(attempt.to_string());
        let scratch = Scratch {
            work: directory.join("work"),
            temporary: directory.join("tmp"),
            script: script.map(|_| directory.join("script")),
            directory,
        };
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        private(&scratch.directory)?;
        private(&scratch.work)?;
        private(&scratch.temporary)?;
        if let (Some(path), Some(text)) = (&scratch.script, script) {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o700).open(path)?;
            file.write_all(text.as_bytes())?;
        }
        Ok(scratch)
    }

    /// Takes an attempt's directories away: at once if they are empty, else by moving them to where they are removed
    /// in the background.
    pub fn remove(&self, scratch: Scratch) {
        let emptied = fs::remove_dir(&scratch.work)
            .and_then(|()| fs::remove_dir(&scratch.temporary))
            .and_then(|()| scratch.script.as_deref().map_or(Ok(()), |script| fs::remove_file(script)))
            .and_then(|()| fs::remove_dir(&scratch.directory));
        if emptied.is_err() {
            let path = &scratch.directory;
            if let Err(error) = discard(path, &self.trash) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the directory of an attempt");
            }
            self.has_trash.notify_one();
        }
    }

    /// Removes what was moved away, as it comes. Never ends.
    pub async fn keep_clean(&self) {
        loop {
            self.has_trash.notified().await;
            let trash = self.trash.clone();
            let emptied = tokio::task::spawn_blocking(move || empty(&trash)).await;
            if let Ok(Err(error)) = emptied {
                let path = self.trash.display();
                tracing::warn!(%path, %error, "cannot remove what attempts left behind; it is tried again later");
            }
        }
    }
}

impl Scratch {
    /// The current directory of the job.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// For its temporary files.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    pub fn script(&self) -> Option<&Path> {
        self.script.as_deref()
    }
}

/// Moves a directory into the trash, under a name of its own.
fn discard(directory: &Path, trash: &Path) -> io::Result<()> {
    // To move a directory is to write to it, for its parent changes.
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
    fs::rename(directory, trash.join(Uuid::new_v4().to_string()))
}

/// Removes everything in the trash. However deep its trees are, it is never more than two levels down: a directory
/// that is not empty is moved up first.
fn empty(trash: &Path) -> io::Result<()> {
    loop {
        let mut failure = None;
        let mut has_progress = false;
        for entry in fs::read_dir(trash)? {
            let entry = entry?;
            let removed = match entry.file_type()?.is_dir() {
                true => empty_directory(&entry.path(), trash),
                false => fs::remove_file(entry.path()),
            };
            match removed {
                Ok(()) => has_progress = true,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None if !has_progress => return Ok(()),
            Some(error) if !has_progress => return Err(error),
            _ => {}
        }
    }
}

/// Removes a directory; its subdirectories that are not empty are moved into the trash.
fn empty_directory(directory: &Path, trash: &Path) -> io::Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            fs::remove_file(&path)?;
        } else if fs::remove_dir(&path).is_err() {
            discard(&path, trash)?;
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;

    use super::*;

    const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(7), attempt: 2 };

    fn count(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn empty_directories_go_at_once() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path()).unwrap();
        let scratch = space.create(ATTEMPT, Some("echo")).unwrap();
        assert_eq!(scratch.work(), data.path().join("attempts/7.2/work"));
        assert_eq!(fs::metadata(scratch.work()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(scratch.script().unwrap()).unwrap(), "echo");
        space.remove(scratch);
        assert_eq!((count(&space.attempts), count(&space.trash)), (0, 0));
    }

    #[test]
    fn what_a_job_left_is_moved_away_and_removed() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path()).unwrap();
        let scratch = space.create(ATTEMPT, None).unwrap();
        let locked = scratch.work().join("a/b");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", locked.join("link")).unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(scratch.work(), Permissions::from_mode(0o500)).unwrap();
        space.remove(scratch);
        assert_eq!((count(&space.attempts), count(&space.trash)), (0, 1));
        empty(&space.trash).unwrap();
        assert_eq!(count(&space.trash), 0);
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let data = tempfile::tempdir().unwrap();
        let space = ScratchSpace::open(data.path()).unwrap();
        let scratch = space.create(ATTEMPT, None).unwrap();
        // Built from the bottom up, for a path of this length cannot be named.
        let (next, top) = (scratch.work().join("next"), scratch.work().join("a-directory-with-a-rather-long-name"));
        for _ in 0..500 {
            fs::create_dir(&next).unwrap();
            if top.exists() {
                fs::rename(&top, next.join("a-directory-with-a-rather-long-name")).unwrap();
            }
            fs::rename(&next, &top).unwrap();
        }
        space.remove(scratch);
        empty(&space.trash).unwrap();
        assert_eq!(count(&space.trash), 0);
    }

    #[test]
    fn what_an_earlier_process_left_goes() {
        let data = tempfile::tempdir().unwrap();
        let scratch = ScratchSpace::open(data.path()).unwrap().create(ATTEMPT, None).unwrap();
        let space = ScratchSpace::open(data.path()).unwrap();
        assert!(!scratch.work().exists());
        empty(&space.trash).unwrap();
        assert_eq!(count(&space.trash), 0);
        space.create(ATTEMPT, None).unwrap();
    }
}
