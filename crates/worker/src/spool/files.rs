//! The segment files of all attempts, in one directory.
//!
//! Small files are not removed but emptied and used again: on ext4, making a file in a place where many were removed
//! lately can take longer than starting a process. Emptied means down to one byte, for a file that was cut to nothing
//! would be written to disk as soon as it is closed.
//!
//! Writing, reading and removing have threads each, so that no hung read keeps anybody from writing.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::AttemptRef;

use super::limits::Limits;
use super::progress::Progress;
use super::segment::{self, Segment, SegmentWriter};
use crate::blocking::{BlockingThreads, PATIENCE, STORING_PATIENCE};

/// Number of emptied files kept for reuse.
const MAX_SPARES: usize = 1024;
/// A larger file is removed.
const MAX_SPARE_BYTES: u64 = 64 << 10;
/// Size of an emptied file.
const SPARE_BYTES: i64 = 1;
/// What the names of emptied files begin with.
const SPARE_PREFIX: &str = "spare.";

/// Files that are written, and read, at the same time. They are all on the same disk.
const MAX_WRITERS: usize = 16;
const MAX_READERS: usize = 4;

/// The directory of the segments.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    spares: Mutex<Spares>,
    pub writers: BlockingThreads,
    pub readers: BlockingThreads,
    remover: BlockingThreads,
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
        Ok(Files {
            dir: dir.to_owned(),
            spares: Mutex::default(),
            writers: BlockingThreads::new("spool-write", MAX_WRITERS, STORING_PATIENCE)?,
            readers: BlockingThreads::new("spool-read", MAX_READERS, PATIENCE)?,
            remover: BlockingThreads::new("spool-remove", 1, PATIENCE)?,
        })
    }

    /// Where the segment lies that starts at `offset`.
    pub fn path(&self, attempt: AttemptRef, offset: u64) -> PathBuf {
        segment::path(&self.dir, attempt, offset)
    }

    /// Creates an empty segment at that offset, to be written after `before`; replaces an existing file. Blocks.
    pub fn create(&self, path: &Path, before: &Progress) -> io::Result<SegmentWriter> {
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).paths.pop();
        if let Some(spare) = spare
            && fs::rename(&spare, path).is_ok()
        {
            return SegmentWriter::new(OpenOptions::new().write(true).open(path)?, before);
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        SegmentWriter::new(file, before)
    }

    /// Removes a segment's file in the background. `is_private`: only its finished writer has it open.
    pub fn remove_later(
        self: &Arc<Self>,
        attempt: AttemptRef,
        segment: Segment,
        is_private: bool,
        limits: Arc<Limits>,
    ) {
        let files = self.clone();
        self.remover.queue(move || {
            let path = files.path(attempt, segment.start);
            if let Err(error) = files.remove(&path, segment.size, is_private) {
                tracing::warn!(%attempt, path = %path.display(), %error, "cannot remove a spool file");
            }
            limits.disk_freed(segment.size);
        });
    }

    /// Waits until pending removals are done, unless the disk does not respond.
    pub async fn settled(&self) {
        self.remover.settled().await;
    }

    fn remove(&self, path: &Path, size: u64, is_private: bool) -> io::Result<()> {
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
        // Emptied first: no attempt can ever find the output of another, whatever happens in between.
        nix::unistd::truncate(path, SPARE_BYTES)?;
        let spare = self.dir.join(name);
        fs::rename(path, &spare)?;
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).paths.push(spare);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use bytes::Bytes;
    use gaffer_domain::TaskId;
    use gaffer_protocol::output::{Record, Stream};

    use super::*;

    #[test]
    fn a_file_that_is_used_again_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let [first, second] = [1, 2].map(|task| files.path(AttemptRef { task: TaskId(task), attempt: 1 }, 0));
        let secret = Record { at_micros: 1, stream: Stream::Stdout, bytes: Bytes::from("secret") };
        files.create(&first, &Progress::default()).unwrap().append(&secret).unwrap();
        files.remove(&first, 23, true).unwrap();
        let mut writer = files.create(&second, &Progress::default()).unwrap();
        assert_eq!((fs::read(&second).unwrap().len(), first.exists()), (1, false));
        writer.append(&Record { bytes: Bytes::from("x"), ..secret }).unwrap();
        let mut found = Vec::new();
        segment::scan(&second, |record| found.push(record.bytes.clone())).unwrap();
        assert_eq!(found, ["x"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        files.remove(&second, 18, false).unwrap();
        files.remove(&second, 18, true).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "read by somebody: removed");
    }

    #[test]
    fn a_file_that_is_used_again_can_be_read_whatever_it_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        let record = Record { at_micros: 1, stream: Stream::Stdout, bytes: Bytes::from("x") };
        let path = |task: i64, start: u64| files.path(AttemptRef { task: TaskId(task), attempt: 1 }, start);
        let scanned = |path: &Path| segment::scan(path, |_| ()).unwrap();
        // Of a process that was killed before it could write anything.
        fs::write(path(1, 0), "").unwrap();
        files.remove(&path(1, 0), 0, true).unwrap();
        files.create(&path(2, 0), &Progress::default()).unwrap().append(&record).unwrap();
        assert_eq!(scanned(&path(2, 0)).payload, 1);
        // One that is not the first of its attempt, before and after.
        let mut before = Progress::default();
        before.add(&record);
        files.remove(&path(2, 0), 0, true).unwrap();
        files.create(&path(3, 1), &before).unwrap().append(&record).unwrap();
        assert_eq!(scanned(&path(3, 1)).progress.unwrap().bytes(), 2);
        files.remove(&path(3, 1), 0, true).unwrap();
        files.create(&path(4, 0), &Progress::default()).unwrap().append(&record).unwrap();
        assert_eq!(scanned(&path(4, 0)).progress.unwrap().bytes(), 1);
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
