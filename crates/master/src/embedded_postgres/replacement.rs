//! Puts a cluster that was made beside it in the place of the present one, in one step.
//!
//! The data directory is locked meanwhile, so no master starts on it. Until the last step nothing of the installation has
//! changed; what is left of an interrupted replacement, the next start removes like an unfinished cluster.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::DataDir;
use super::server::sync_file_system;
use super::{Settings, StartError, leftovers};

/// What the server of the new cluster need not do: before it is in its place, its file system is synced as a whole.
const UNSYNCED: [&str; 2] = ["fsync=off", "full_page_writes=off"];

/// A new cluster in the making.
#[derive(Debug)]
pub struct Replacement {
    data_dir: DataDir,
    scratch: PathBuf,
    settings: Settings,
}

impl Replacement {
    /// Locks the data directory, which is made if it is missing.
    ///
    /// # Errors
    /// When another gaffer uses it, or it cannot be written to.
    pub async fn begin(settings: &Settings) -> Result<Replacement, StartError> {
        let data_dir = DataDir::open(&settings.data_dir).await?;
        leftovers::remove_unfinished(&data_dir.unfinished_clusters()?).await?;
        // A server that a killed master left would not be found once its cluster has another name.
        leftovers::end(&data_dir.cluster()).await?;
        let scratch = data_dir.new_cluster();
        data_dir.make_private(&scratch)?;
        let mut settings = Settings { data_dir: scratch.clone(), ..settings.clone() };
        if cfg!(target_os = "linux") {
            settings.overrides.extend(UNSYNCED.map(str::to_owned));
        }
        let replacement = Replacement { data_dir, scratch, settings };
        // For root: the owner of an empty directory is who runs the server, and that is the owner of the present cluster.
        for dir in ["postgres", "postgres/cluster"] {
            replacement.data_dir.make_private(&replacement.scratch.join(dir))?;
        }
        Ok(replacement)
    }

    /// Whether there is a cluster to be replaced.
    pub fn has_present(&self) -> bool {
        fs::read_dir(self.data_dir.cluster()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// For the server of the new cluster, which has stopped before [`Self::finish`].
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Why the server of the new cluster crashed, by its log; none if it did not. The log is removed with the rest.
    pub fn crash(&self) -> Option<String> {
        let log = fs::read(self.scratch.join("postgres.log")).ok()?;
        let log = String::from_utf8_lossy(&log);
        log.lines().rev().find_map(|line| Some(line.split_once("PANIC:")?.1.trim().to_owned()))
    }

    /// Puts the new cluster in its place. The one before is kept beside it; returns where, if there was one.
    ///
    /// # Errors
    /// When a file cannot be moved. Then everything is as before.
    pub fn finish(self, suffix: &str) -> Result<Option<PathBuf>, StartError> {
        let (home, present) = (self.data_dir.home(), self.data_dir.cluster());
        let new = self.scratch.join("postgres/cluster");
        sync_file_system(&new).map_err(StartError::file("sync", &new))?;
        let kept = if self.has_present() {
            let kept = home.join(format!("replaced-{suffix}"));
            exchange(&new, &present, &kept).map_err(StartError::file("replace", &present))?;
            Some(kept)
        } else {
            // An empty directory may be there.
            fs::rename(&new, &present).map_err(StartError::file("rename", &new))?;
            None
        };
        fs::File::open(&home).and_then(|dir| dir.sync_all()).map_err(StartError::file("sync", &home))?;
        Ok(kept)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.scratch) {
            tracing::warn!(directory = %self.scratch.display(), %error, "cannot remove it; the next start will");
        }
    }
}

/// At no moment is there no cluster: a master that starts then would make an empty one. And at no moment is the present cluster
/// where [`leftovers`] are removed, so the new one gets the other's later name first.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, present: &Path, kept: &Path) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    fs::rename(new, kept)?;
    match renameat2(AT_FDCWD, kept, AT_FDCWD, present, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        Err(errno) => {
            fs::rename(kept, new)?;
            match errno {
                // A file system that cannot exchange, such as NFS.
                Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP => in_two_steps(new, present, kept),
                errno => Err(errno.into()),
            }
        }
    }
}

/// Nothing else can exchange two directories; the lock keeps others away.
#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, present: &Path, kept: &Path) -> io::Result<()> {
    in_two_steps(new, present, kept)
}

/// Whoever is killed between the two leaves the present cluster under its later name.
fn in_two_steps(new: &Path, present: &Path, kept: &Path) -> io::Result<()> {
    fs::rename(present, kept)?;
    fs::rename(new, present).inspect_err(|_| {
        // What cannot be undone either is told by the first error.
        let _ = fs::rename(kept, present);
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// A data directory whose cluster says `before`, and a replacement whose cluster says `after`.
    async fn ready() -> (tempfile::TempDir, Replacement) {
        let dir = tempfile::tempdir().unwrap();
        let cluster = dir.path().join("postgres/cluster");
        fs::create_dir_all(&cluster).unwrap();
        fs::write(cluster.join("PG_VERSION"), "before").unwrap();
        let settings = Settings { data_dir: dir.path().to_owned(), ..Settings::default() };
        let replacement = Replacement::begin(&settings).await.unwrap();
        fs::write(replacement.scratch.join("postgres/cluster/PG_VERSION"), "after").unwrap();
        (dir, replacement)
    }

    fn says(cluster: &Path) -> String {
        fs::read_to_string(cluster.join("PG_VERSION")).unwrap()
    }

    #[tokio::test]
    async fn the_present_cluster_is_kept_beside_the_new_one() {
        let (dir, replacement) = ready().await;
        let kept = replacement.finish("x").unwrap().unwrap();
        assert_eq!(says(&dir.path().join("postgres/cluster")), "after");
        assert_eq!((says(&kept), kept.file_name().unwrap()), ("before".to_owned(), "replaced-x".as_ref()));
        let left = fs::read_dir(dir.path().join("postgres")).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["cluster", "lock", "replaced-x"]);
    }

    #[tokio::test]
    async fn a_cluster_that_cannot_be_kept_is_not_replaced() {
        let (dir, replacement) = ready().await;
        let in_the_way = dir.path().join("postgres/replaced-x");
        fs::create_dir(&in_the_way).unwrap();
        fs::write(in_the_way.join("PG_VERSION"), "earlier").unwrap();
        replacement.finish("x").unwrap_err();
        assert_eq!(says(&dir.path().join("postgres/cluster")), "before");
        assert_eq!(says(&in_the_way), "earlier");
    }

    #[tokio::test]
    async fn where_directories_cannot_be_exchanged_they_are_moved_one_after_the_other() {
        let (dir, replacement) = ready().await;
        let home = dir.path().join("postgres");
        let new = replacement.scratch.join("postgres/cluster");
        in_two_steps(&new, &home.join("cluster"), &home.join("replaced-x")).unwrap();
        assert_eq!(
            (says(&home.join("cluster")), says(&home.join("replaced-x"))),
            ("after".to_owned(), "before".to_owned())
        );
        // What is not there any more replaces nothing.
        in_two_steps(&new, &home.join("cluster"), &home.join("replaced-y")).unwrap_err();
        assert_eq!(says(&home.join("cluster")), "after");
    }
}
