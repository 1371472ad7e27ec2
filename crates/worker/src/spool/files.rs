//! The segments of all attempts as files of one directory.
//!
//! Small files are not removed but emptied and used again: on ext4, making a file in a place where many were removed
//! lately takes longer than starting a process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gaffer_domain::AttemptRef;

use super::segment;

/// So many emptied files are kept.
const MAX_SPARES: usize = 1024;
/// A larger file is removed.
const MAX_SPARE_BYTES: u64 = 64 << 10;
/// What the names of emptied files begin with.
const SPARE_PREFIX: &str = "spare.";

/// The directory of the segments.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    spares: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    paths: Vec<PathBuf>,
    /// For the next name.
    count: u64,
}

impl Files {
    /// Emptied files from before are removed.
    pub fn open(dir: &Path) -> io::Result<Files> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(SPARE_PREFIX)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Files { dir: dir.to_owned(), spares: Mutex::default() })
    }

    /// Where the segment lies that starts at `offset`.
    pub fn path(&self, attempt: AttemptRef, offset: u64) -> PathBuf {
        segment::path(&self.dir, attempt, offset)
    }

    /// An empty file at that place, for writing; what lay there from before is gone.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).paths.pop();
        if let Some(spare) = spare
            && fs::rename(&spare, path).is_ok()
        {
            return OpenOptions::new().write(true).open(path);
        }
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
    }

    /// Removes a segment's file of that size. `is_private`: nobody but its one writer, which is done with it, has it
    /// open.
    pub fn remove(&self, path: &Path, size: u64, is_private: bool) -> io::Result<()> {
        if is_private && size <= MAX_SPARE_BYTES && self.keep(path).is_ok() {
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a spare of a file, unless there are enough.
    fn keep(&self, path: &Path) -> io::Result<()> {
        let name = {
            let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
            if spares.paths.len() >= MAX_SPARES {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            spares.count += 1;
            format!("{SPARE_PREFIX}{}", spares.count)
        };
        // Emptied first: whatever happens in between, no attempt ever finds the output of another.
        nix::unistd::truncate(path, 0)?;
        let spare = self.dir.join(name);
        fs::rename(path, &spare)?;
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).paths.push(spare);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Write as _;

    use gaffer_domain::TaskId;

    use super::*;

    #[test]
    fn a_file_that_is_used_again_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let [first, second] = [1, 2].map(|task| files.path(AttemptRef { task: TaskId(task), attempt: 1 }, 0));
        files.create(&first).unwrap().write_all(b"secret").unwrap();
        files.remove(&first, 6, true).unwrap();
        let mut file = files.create(&second).unwrap();
        assert_eq!(fs::read(&second).unwrap(), b"");
        file.write_all(b"x").unwrap();
        assert_eq!((fs::read(&second).unwrap(), first.exists()), (b"x".to_vec(), false));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        files.remove(&second, 1, false).unwrap();
        files.remove(&second, 1, true).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "read by somebody: removed");
    }

    #[test]
    fn spares_from_before_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("spare.7"), "").unwrap();
        fs::write(dir.path().join("1.1.0"), "").unwrap();
        Files::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
