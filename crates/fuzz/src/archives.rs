//! Backups: a damaged file is refused, whatever is wrong with it, and never makes the reader take memory that it has no use for.

use std::io::Cursor;
use std::path::Path;

use chrono::{DateTime, Utc};
use futures::executor::block_on;
use gaffer_master::backup::Manifest;
use gaffer_master::backup::archive::{Archive, Writer};

use crate::spool::with_file;

/// Reads a file as a backup that is to be restored.
pub fn check(input: &[u8]) {
    with_file(input, |path| drop(read(path)));
}

/// The dump, of a backup whose checksums are right.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut archive = Archive::open(path).ok()?;
    let size = archive.dump_bytes();
    assert!(size <= path.metadata().ok()?.len(), "a dump that is larger than its file");
    let mut seen = 0;
    block_on(archive.verify(|bytes| seen = bytes)).ok()?;
    assert_eq!(seen, size, "verified, and not read to its end");
    archive.rewind().ok()?;
    let (mut dump, mut piece) = (Vec::new(), [0; 1_000]);
    loop {
        match archive.read_dump(&mut piece, dump.len() as u64).ok()? {
            0 => return Some(dump),
            read => dump.extend_from_slice(&piece[..read]),
        }
    }
}

/// An empty backup and one with a dump.
///
/// # Panics
/// When such a backup cannot be read.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |dump: &[u8]| {
        let taken_at: DateTime<Utc> = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let manifest = Manifest::new(64, "17.2".to_owned(), taken_at, 4_096);
        let mut writer = Writer::begin(Cursor::new(Vec::new()), &manifest).unwrap();
        writer.dump(dump).unwrap();
        let file = writer.finish().unwrap().0.into_inner();
        with_file(&file, |path| assert_eq!(read(path).as_deref(), Some(dump)));
        file
    };
    vec![of(b""), of(&b"the dump of a database\n".repeat(50))]
}
