//! The file of a backup: a tar archive with what `pg_dump` wrote, what wrote it, and the checksums of both.
//!
//! ```text
//! manifest.json    versions and time
//! database.dump    for pg_restore
//! SHA256SUMS       for sha256sum -c; last, so a file that ends early has none
//! ```
//!
//! So it can be looked into, and even restored, with tools that are everywhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use gaffer_domain::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// Changes when an earlier program could not restore the file.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const DUMP: &str = "database.dump";
const SUMS: &str = "SHA256SUMS";
/// Files begin at multiples of it.
const BLOCK: u64 = 512;
const HEADER_BYTES: usize = 512;
/// Larger ones are no manifest and no list of checksums.
const MOST_TEXT: u64 = 64 << 10;
const PIECE: usize = 1 << 20;

/// What is known of a backup without restoring it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Version of the program that wrote it.
    pub gaffer: String,
    /// The database's schema, by the number of its newest migration.
    pub schema: i64,
    /// Version of `pg_dump`.
    pub postgres: String,
    /// What was committed before this time is in the backup; later changes may be missing.
    pub taken_at: Time,
    /// Size of the database.
    pub database_bytes: u64,
}

impl Manifest {
    pub fn new(schema: i64, postgres: String, taken_at: Time, database_bytes: u64) -> Manifest {
        let gaffer = env!("CARGO_PKG_VERSION").to_owned();
        Manifest { format: FORMAT, gaffer, schema, postgres, taken_at, database_bytes }
    }
}

/// Why a file cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("it is not a backup of gaffer")]
    Foreign,
    #[error("it is truncated: it ends after {0} bytes")]
    Truncated(u64),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error(
        "it was written by gaffer {0}, and this program ({version}) is older. Restore it with that version or a newer one.",
        version = env!("CARGO_PKG_VERSION")
    )]
    Newer(String),
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// Writes a backup, of whose dump the size is not known before.
pub struct Writer<F> {
    file: F,
    taken_at: Time,
    sums: String,
    dump_header_at: u64,
    dump_bytes: u64,
    dump_sha256: Sha256,
}

impl<F: Write + Seek> Writer<F> {
    /// Begins with the manifest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(mut file: F, manifest: &Manifest) -> io::Result<Writer<F>> {
        let mut text = serde_json::to_vec_pretty(manifest)?;
        text.push(b'\n');
        let taken_at = manifest.taken_at;
        file.write_all(&header(MANIFEST, text.len() as u64, taken_at)?)?;
        write_padded(&mut file, &text)?;
        let sums = sum_line(&Sha256::digest(&text), MANIFEST);
        let dump_header_at = file.stream_position()?;
        file.write_all(&header(DUMP, 0, taken_at)?)?;
        Ok(Writer { file, taken_at, sums, dump_header_at, dump_bytes: 0, dump_sha256: Sha256::new() })
    }

    /// Adds to the dump.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn dump(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.dump_sha256.update(bytes);
        self.dump_bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Ends with the checksums. Returns the file and its size.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<(F, u64)> {
        self.file.write_all(padding(self.dump_bytes))?;
        self.sums += &sum_line(&self.dump_sha256.finalize(), DUMP);
        self.file.write_all(&header(SUMS, self.sums.len() as u64, self.taken_at)?)?;
        write_padded(&mut self.file, self.sums.as_bytes())?;
        // Two empty blocks end an archive.
        self.file.write_all(&[0; 2 * HEADER_BYTES])?;
        let end = self.file.stream_position()?;
        self.file.seek(SeekFrom::Start(self.dump_header_at))?;
        self.file.write_all(&header(DUMP, self.dump_bytes, self.taken_at)?)?;
        Ok((self.file, end))
    }
}

fn header(name: &str, size: u64, at: Time) -> io::Result<[u8; HEADER_BYTES]> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(at.timestamp()).unwrap_or_default());
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(*header.as_bytes())
}

fn write_padded(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.write_all(padding(bytes.len() as u64))
}

fn padding(size: u64) -> &'static [u8] {
    &[0; HEADER_BYTES][..(size.next_multiple_of(BLOCK) - size) as usize]
}

fn sum_line(sha256: &[u8], name: &str) -> String {
    let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}  {name}\n")
}

/// A backup to be restored.
#[derive(Debug)]
pub struct Archive {
    file: File,
    pub manifest: Manifest,
    manifest_text: Vec<u8>,
    dump: Entry,
    sums: String,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    size: u64,
}

impl Entry {
    fn next(self) -> u64 {
        self.start + self.size.next_multiple_of(BLOCK)
    }
}

impl Archive {
    /// Reads all but the dump.
    ///
    /// # Errors
    /// [`Unusable`], also for a file of a newer program.
    pub fn open(path: &Path) -> Result<Archive, Unusable> {
        let mut file = File::open(path)?;
        let manifest = entry(&mut file, 0, MANIFEST)?.ok_or(Unusable::Foreign)?;
        let manifest_text = text(&mut file, manifest)?;
        let damaged = |what: &str| Unusable::Damaged(format!("{what} is not as it was written"));
        let known = known_manifest(&manifest_text).ok_or_else(|| damaged(MANIFEST))?;
        let known = known.map_err(Unusable::Newer)?;
        let dump = entry(&mut file, manifest.next(), DUMP)?.ok_or_else(|| damaged(DUMP))?;
        let sums = entry(&mut file, dump.next(), SUMS)?.ok_or_else(|| damaged(SUMS))?;
        let sums = String::from_utf8(text(&mut file, sums)?).map_err(|_| damaged(SUMS))?;
        Ok(Archive { file, manifest: known, manifest_text, dump, sums })
    }

    /// Size of the dump, in bytes.
    pub fn dump_bytes(&self) -> u64 {
        self.dump.size
    }

    /// Compares the checksums. `progress` hears how much has been read.
    ///
    /// # Errors
    /// [`Unusable`].
    pub async fn verify(&mut self, mut progress: impl FnMut(u64)) -> Result<(), Unusable> {
        let mut sha256 = Sha256::new();
        let mut done = 0;
        self.rewind()?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = self.read_dump(&mut piece, done)?;
            if read == 0 {
                break;
            }
            sha256.update(&piece[..read]);
            done += read as u64;
            progress(done);
            // For the signals that end a command.
            tokio::task::yield_now().await;
        }
        let found = [(MANIFEST, Sha256::digest(&self.manifest_text)), (DUMP, sha256.finalize())];
        for (name, sha256) in found {
            if !self.sums.lines().any(|line| format!("{line}\n") == sum_line(&sha256, name)) {
                return Err(Unusable::Damaged(format!("the checksum of {name} does not match")));
            }
        }
        Ok(())
    }

    /// Goes to the beginning of the dump.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.dump.start)).map(drop)
    }

    /// The next piece of the dump, of which so much has been read since [`Self::rewind`]; 0 bytes at its end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_dump(&mut self, piece: &mut [u8], done: u64) -> io::Result<usize> {
        let left = usize::try_from(self.dump.size - done).unwrap_or(usize::MAX).min(piece.len());
        if left == 0 {
            return Ok(0);
        }
        match self.file.read(&mut piece[..left])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// The file of this name at that place; none if there is another one, or something else.
fn entry(file: &mut File, at: u64, name: &str) -> Result<Option<Entry>, Unusable> {
    let end = file.metadata()?.len();
    let mut bytes = [0; HEADER_BYTES];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && at > 0 => {
            return Err(Unusable::Truncated(end));
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let header = Header::from_byte_slice(&bytes);
    let Ok(size) = header.entry_size() else { return Ok(None) };
    if header.path_bytes() != name.as_bytes() || !is_intact(header) {
        return Ok(None);
    }
    let start = at + BLOCK;
    match start.checked_add(size) {
        Some(needed) if needed <= end => Ok(Some(Entry { start, size })),
        _ => Err(Unusable::Truncated(end)),
    }
}

/// Whether the checksum of the header itself is right.
fn is_intact(header: &Header) -> bool {
    let mut again = header.clone();
    again.set_cksum();
    matches!((header.cksum(), again.cksum()), (Ok(stored), Ok(computed)) if stored == computed)
}

fn text(file: &mut File, entry: Entry) -> Result<Vec<u8>, Unusable> {
    if entry.size > MOST_TEXT {
        return Err(Unusable::Foreign);
    }
    let mut text = vec![0; usize::try_from(entry.size).unwrap_or_default()];
    file.seek(SeekFrom::Start(entry.start))?;
    file.read_exact(&mut text)?;
    Ok(text)
}

/// The manifest, or the version of the newer program that wrote it; none if it is none.
fn known_manifest(text: &[u8]) -> Option<Result<Manifest, String>> {
    #[derive(Deserialize)]
    struct Any {
        format: u32,
        #[serde(default)]
        gaffer: String,
    }
    let any: Any = serde_json::from_slice(text).ok()?;
    match any.format {
        FORMAT => serde_json::from_slice(text).ok().map(Ok),
        _ => Some(Err(any.gaffer)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs;

    use super::*;

    fn manifest() -> Manifest {
        Manifest::new(22, "15.18".to_owned(), Time::from_timestamp(1_800_000_000, 0).unwrap(), 4_096)
    }

    fn written(manifest: &Manifest, dump: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::begin(file.reopen().unwrap(), manifest).unwrap();
        dump.chunks(700).for_each(|piece| writer.dump(piece).unwrap());
        let (_, size) = writer.finish().unwrap();
        assert_eq!(size, file.path().metadata().unwrap().len());
        file
    }

    async fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
        let mut archive = Archive::open(path)?;
        archive.verify(|_| {}).await?;
        archive.rewind()?;
        let (mut dump, mut piece) = (Vec::new(), vec![0; 300]);
        while let read @ 1.. = archive.read_dump(&mut piece, dump.len() as u64)? {
            dump.extend_from_slice(&piece[..read]);
        }
        Ok(dump)
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_is_an_archive_for_everybody() {
        for size in [0, 1, 511, 512, 5_000] {
            let dump: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            let file = written(&manifest(), &dump);
            assert_eq!(read(file.path()).await.unwrap(), dump);
            assert_eq!(Archive::open(file.path()).unwrap().manifest, manifest());
            let mut archive = tar::Archive::new(File::open(file.path()).unwrap());
            let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
            assert_eq!(names.collect::<Vec<_>>(), [MANIFEST, DUMP, SUMS].map(std::path::PathBuf::from));
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_refused_wherever_it_ends() {
        let whole = fs::read(written(&manifest(), &[7; 3_000]).path()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        // The two empty blocks at the end and what fills up the last file say nothing.
        let needed = whole.len() - 1_024 - 512;
        for length in (0..needed).step_by(61) {
            fs::write(file.path(), &whole[..length]).unwrap();
            let error = read(file.path()).await.unwrap_err();
            let is_told = match length {
                0..512 => matches!(error, Unusable::Foreign),
                _ => matches!(error, Unusable::Truncated(found) if found == length as u64),
            };
            assert!(is_told, "{length}: {error}");
        }
    }

    #[tokio::test]
    async fn a_file_in_which_a_bit_has_changed_is_refused_wherever_that_is() {
        let dump = [7; 3_000];
        let whole = fs::read(written(&manifest(), &dump).path()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(file.path(), &changed).unwrap();
            // What only fills up blocks means nothing.
            match read(file.path()).await {
                Ok(read) => assert!(read == dump && whole[at] == 0, "byte {at}"),
                Err(error) => assert!(!matches!(error, Unusable::Unreadable(_)), "byte {at}: {error}"),
            }
        }
    }

    #[tokio::test]
    async fn what_a_newer_program_has_written_names_it() {
        let newer = Manifest { format: FORMAT + 1, gaffer: "9.8.7".to_owned(), ..manifest() };
        let error = read(written(&newer, b"dump").path()).await.unwrap_err();
        assert!(error.to_string().contains("gaffer 9.8.7"), "{error}");
        // Also where it says more than this one knows.
        let text = br#"{"format": 2, "gaffer": "9.8.7", "more": [1]}"#;
        assert_eq!(known_manifest(text).unwrap().unwrap_err(), "9.8.7");
    }
}
