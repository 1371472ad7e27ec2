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
        let scratch = data_dir.new_cluster();
        data_dir.make_private(&scratch)?;
        let mut settings = Settings { data_dir: scratch.clone(), ..settings.clone() };
        if cfg!(target_os = "linux") {
            settings.overrides.extend(UNSYNCED.map(str::to_owned));
        }
        Ok(Replacement { data_dir, scratch, settings })
    }

    /// Whether there is a cluster to be replaced.
    pub fn has_present(&self) -> bool {
        fs::read_dir(self.data_dir.cluster()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// For the server of the new cluster, which has stopped before [`Self::finish`].
    pub fn settings(&self) -> &Settings {
        &self.settings
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

/// At no moment is there no cluster: a master that starts then would make an empty one.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, present: &Path, kept: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, new, AT_FDCWD, present, RenameFlags::RENAME_EXCHANGE)?;
    fs::rename(new, kept)
}

/// Nothing else can exchange two directories; the lock keeps others away.
#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, present: &Path, kept: &Path) -> io::Result<()> {
    fs::rename(present, kept)?;
    fs::rename(new, present)
}
