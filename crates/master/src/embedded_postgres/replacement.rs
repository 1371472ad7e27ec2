//! Puts a cluster that was made beside it in the place of the present one, in one step.
//!
//! The data directory is locked meanwhile, so no master starts on it. Until the last step nothing of the installation has
//! changed; what is left of an interrupted replacement, the next start removes like an unfinished cluster.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::data_dir::{DataDir, is_empty};
use super::server::sync_file_system;
use super::{Settings, StartError, leftovers};

/// What the server of the new cluster need not do: before it is in its place, its file system is synced as a whole.
const UNSYNCED: [&str; 2] = ["fsync=off", "full_page_writes=off"];

/// Where `pg_control` says in which state the server has left the cluster, and what it says after an orderly shutdown
/// (`ControlFileData.state` and `DB_SHUTDOWNED` in PostgreSQL's `pg_control.h`, the same in all versions).
const CONTROL_STATE: std::ops::Range<usize> = 16..20;
const SHUT_DOWN: u32 = 1;

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
        !is_empty(&self.data_dir.cluster())
    }

    /// For the server of the new cluster, which must have stopped before [`Self::finish`].
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
    /// When the server of the new cluster did not shut down in order, or a file cannot be moved. Then everything is as before.
    pub fn finish(self, suffix: &str) -> Result<Option<PathBuf>, StartError> {
        let (home, present) = (self.data_dir.home(), self.data_dir.cluster());
        let new = self.scratch.join("postgres/cluster");
        let control = new.join("global/pg_control");
        let state = fs::read(&control).map_err(StartError::file("read", &control))?;
        if state.get(CONTROL_STATE) != Some(&SHUT_DOWN.to_ne_bytes()) {
            let why = self.crash().unwrap_or_else(|| "its server did not shut down in order".to_owned());
            return Err(StartError::file("use", &new)(io::Error::other(why)));
        }
        sync_file_system(&new).map_err(StartError::file("sync", &new))?;
        let kept = if self.has_present() {
            let kept = self.data_dir.replaced(suffix);
            exchange(&new, &present, &kept).map_err(StartError::file("replace", &present))?;
            Some(kept)
        } else {
            // An empty directory may be there.
            fs::rename(&new, &present).map_err(StartError::file("rename", &new))?;
            None
        };
        if let Err(error) = fs::File::open(&home).and_then(|dir| dir.sync_all()) {
            tracing::warn!(directory = %home.display(), %error, "the new database is in its place, but maybe not on disk yet");
        }
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

/// A process that is killed between the two leaves the present cluster under its later name.
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
        left_in_state(&replacement, SHUT_DOWN);
        (dir, replacement)
    }

    fn left_in_state(replacement: &Replacement, state: u32) {
        let global = replacement.scratch.join("postgres/cluster/global");
        fs::create_dir_all(&global).unwrap();
        fs::write(global.join("pg_control"), [&[0; 16][..], &state.to_ne_bytes(), &[0; 300]].concat())
            .unwrap();
    }

    #[tokio::test]
    async fn a_cluster_whose_server_did_not_shut_down_in_order_takes_no_place() {
        let (dir, replacement) = ready().await;
        const IN_PRODUCTION: u32 = 6;
        left_in_state(&replacement, IN_PRODUCTION);
        let error = replacement.finish("x").unwrap_err().to_string();
        assert!(error.contains("did not shut down in order"), "{error}");
        assert_eq!(says(&dir.path().join("postgres/cluster")), "before");
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
