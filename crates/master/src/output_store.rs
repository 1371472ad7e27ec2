//! Output in object storage: the store itself, and reading output wherever it lies.
//!
//! Objects never change. Each has a name that no other one ever gets, and its row in the database has its checksum, so what is
//! read is what was put there, or an error.

mod address;
mod object;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use gaffer_domain::AttemptRef;
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use address::OutputStoreAddress;
pub use object::{NewObject, named_part};

use crate::store::kept::Kept;
use crate::store::output::ChunkRow;
use crate::store::output::objects::ObjectRow;
use crate::store::{ReadStore, StoreError};

/// How long one call may take, with everything that is tried again.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for readers, who are told to try again.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of objects that are read at the same time. Each takes up to about 10 MB of memory meanwhile.
const READERS: usize = 8;
/// A check answers within the sum of both, which is less than its client waits.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);
const CHECK_DELETE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of calls of a store on a disk that are under way. Each may hold a thread, also after everybody has given up on it:
/// for as long as the disk hangs.
const DISK_CALLS: usize = 24;
/// Maximum number of objects that are deleted together: no store needs more than one request for them.
pub const DELETED_TOGETHER: u32 = 250;
/// Maximum size of the cache of objects that were read, in bytes.
const KEPT_BYTES: usize = 32 << 20;
/// A file at the address of the store that shows that it is the store: a bucket or a disk that is not the one that output was
/// moved to has no output either, and must not be taken for one that has lost it.
const MARKER: &str = "gaffer-output.txt";
const MARKER_TEXT: &str = "gaffer keeps output of tasks here. It does not read output without this file.\n";

/// A store for objects with output.
#[derive(Debug)]
pub struct OutputStore {
    address: OutputStoreAddress,
    objects: Arc<dyn ObjectStore>,
    readers: Semaphore,
    /// None for a store that is asked over the network: a call that is given up ends there.
    disk_calls: Option<Arc<Semaphore>>,
    kept: Mutex<KeptObjects>,
}

/// The chunks of objects, by attempt and offset.
type KeptObjects = Kept<(AttemptRef, u64), Arc<Vec<ChunkRow>>>;

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub modified_at: gaffer_domain::Time,
}

/// A listing of objects, in any order. It may rest between two calls.
pub struct Listing {
    /// None after a failure.
    found: Option<BoxStream<'static, Result<ObjectMeta, ObjectError>>>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").finish_non_exhaustive()
    }
}

impl OutputStore {
    /// The store at an address. It is not asked yet.
    ///
    /// # Errors
    /// When a setting of its provider is missing or wrong, or the directory does not exist: in a sentence that names the
    /// setting.
    pub fn connect(address: &OutputStoreAddress) -> anyhow::Result<OutputStore> {
        Ok(OutputStore {
            address: address.clone(),
            objects: address.connect()?,
            readers: Semaphore::new(READERS),
            disk_calls: address.is_on_disk().then(|| Arc::new(Semaphore::new(DISK_CALLS))),
            kept: Mutex::new(Kept::new(KEPT_BYTES)),
        })
    }

    /// Its address, without anything secret.
    pub fn address(&self) -> &OutputStoreAddress {
        &self.address
    }

    /// Puts an object there. When this returns, it is safe.
    ///
    /// # Errors
    /// When the store does not answer or refuses; whether the object is there is unknown then.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let (objects, path) = (self.objects.clone(), path(name)?);
        self.call(CALL_TIMEOUT, async move { objects.put(&path, PutPayload::from_bytes(bytes)).await })
            .await?
            .map(drop)
            .map_err(|error| self.unavailable(&error))
    }

    /// Deletes an object; nothing happens if it is not there.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (objects, path) = (self.objects.clone(), path(name)?);
        match self.call(CALL_TIMEOUT, async move { objects.delete(&path).await }).await? {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Deletes objects, at most [`DELETED_TOGETHER`]. Returns those that are not there any more, and the first error when the
    /// store did not answer or refused.
    pub async fn delete_all(&self, names: &[String]) -> (Vec<String>, Result<(), StoreError>) {
        let mut paths = Vec::new();
        for name in names {
            match path(name) {
                Ok(path) => paths.push(Ok(path)),
                Err(error) => return (Vec::new(), Err(error)),
            }
        }
        let (mut answers, mut result) = (Vec::new(), Ok(()));
        let mut deleted = self.objects.delete_stream(futures::stream::iter(paths).boxed());
        loop {
            match self.call(CALL_TIMEOUT, next_of(deleted)).await {
                Ok((Some(answer), rest)) => {
                    answers.push(answer);
                    deleted = rest;
                }
                Ok((None, _)) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        // The answers have the order of the names. A request for several that fails has only one answer, an error of them all.
        let (mut gone, is_of_each) = (Vec::new(), answers.len() == names.len());
        for (name, answer) in names.iter().zip(answers) {
            match answer {
                Ok(_) => gone.push(name.clone()),
                Err(ObjectError::NotFound { .. }) if is_of_each => gone.push(name.clone()),
                Err(error) if result.is_ok() => result = Err(self.unavailable(&format!("{name}: {error}"))),
                Err(_) => {}
            }
        }
        (gone, result)
    }

    /// Lists all objects in a directory.
    pub fn list(&self, directory: Uuid) -> Listing {
        Listing { found: Some(self.objects.list(Some(&Path::from(directory.to_string())))) }
    }

    /// The next objects of a listing, at most `most`; fewer at the end.
    ///
    /// # Errors
    /// When the store does not answer or refuses. The listing cannot be continued then.
    pub async fn next_listed(&self, listing: &mut Listing, most: usize) -> Result<Vec<Listed>, StoreError> {
        let mut page = Vec::new();
        while page.len() < most {
            let Some(rest) = listing.found.take() else {
                return Err(self.unavailable(&"the listing broke off"));
            };
            let (next, rest) = self.call(CALL_TIMEOUT, next_of(rest)).await?;
            let found = next.transpose().map_err(|error| self.unavailable(&error))?;
            listing.found = Some(rest);
            let Some(found) = found else { break };
            page.push(Listed { name: found.location.to_string(), modified_at: found.last_modified });
        }
        Ok(page)
    }

    /// Makes sure that this is the store that output was moved to: it has the marker. Without moved output it gets one.
    ///
    /// # Errors
    /// When it does not answer, or is another one.
    pub async fn recognise(&self, has_moved_output: bool) -> Result<(), StoreError> {
        match self.has_marker().await? {
            true => Ok(()),
            false if has_moved_output => Err(self.is_another()),
            false => self.put(MARKER, Bytes::from_static(MARKER_TEXT.as_bytes())).await,
        }
    }

    /// Writes a small object, reads it and deletes it, within [`CHECK_TIMEOUT`] and [`CHECK_DELETE_TIMEOUT`]. With moved output,
    /// it also makes sure that this is the store that it was moved to.
    ///
    /// # Errors
    /// With what failed.
    pub async fn check(&self, has_moved_output: bool) -> Result<(), StoreError> {
        let name = format!("check-{}", Uuid::new_v4());
        let checked = async {
            if has_moved_output {
                self.recognise(true).await?;
            }
            self.check_object(&name).await
        };
        let checked = self.in_time(CHECK_TIMEOUT, checked).await.flatten();
        // Also when the check failed: it may have been written.
        let deleted = self.in_time(CHECK_DELETE_TIMEOUT, self.delete(&name)).await.flatten();
        checked.and(deleted)
    }

    async fn check_object(&self, name: &str) -> Result<(), StoreError> {
        let written = Bytes::from(name.to_owned());
        self.put(name, written.clone()).await?;
        let what = match self.read(&path(name)?).await? {
            Ok(read) if read == written => return Ok(()),
            Ok(_) => "it is not what was written".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(self.unavailable(&format!("a small object was written and cannot be read: {what}")))
    }

    /// The chunks of an object.
    async fn open(&self, row: &ObjectRow) -> Result<Arc<Vec<ChunkRow>>, StoreError> {
        let key = (row.attempt, row.offset);
        if let Some(chunks) = self.kept(|kept| kept.get(key).cloned()) {
            return Ok(chunks);
        }
        let wait = tokio::time::timeout(READ_TIMEOUT, self.readers.acquire()).await;
        let Ok(Ok(_place)) = wait else {
            return Err(self.unavailable(&"too many readers wait for it"));
        };
        // Who waited for the same one reads it from memory.
        if let Some(chunks) = self.kept(|kept| kept.get(key).cloned()) {
            return Ok(chunks);
        }
        let lost = |what: &str| {
            let problem = format!(
                "output of {} from byte {} on cannot be read: the object {} in the object storage at {} {what}. Restore it from \
                 a copy of the store",
                row.attempt, row.offset, row.name, self.address
            );
            StoreError::ObjectLost(problem)
        };
        let found = match self.read(&path(&row.name)?).await? {
            Ok(found) => found,
            Err(ObjectError::NotFound { .. }) if self.has_marker().await? => return Err(lost("is missing")),
            Err(ObjectError::NotFound { .. }) => return Err(self.is_another()),
            Err(error) => return Err(self.unavailable(&error)),
        };
        let (expected, row) = (lost("is damaged"), row.clone());
        // To compute a checksum takes longer than others should wait for the thread.
        let unpacked = tokio::task::spawn_blocking(move || object::chunks(&row, &found)).await;
        let unpacked = unpacked.map_err(|error| self.unavailable(&format!("reading an object: {error}")))?;
        let chunks = Arc::new(unpacked.ok_or(expected)?);
        let bytes = chunks.iter().map(|chunk| chunk.chunk.body.len() + size_of::<ChunkRow>()).sum();
        self.kept(|kept| kept.put(key, chunks.clone(), bytes));
        Ok(chunks)
    }

    /// Reads an object.
    async fn read(&self, path: &Path) -> Result<Result<Bytes, ObjectError>, StoreError> {
        let (objects, path) = (self.objects.clone(), path.clone());
        let reading = async move {
            let found = objects.get(&path).await?;
            if found.meta.size > object::MOST_BYTES {
                // Of another size than any that was put there: it is not read into memory.
                return Ok(Bytes::new());
            }
            found.bytes().await
        };
        self.call(READ_TIMEOUT, reading).await
    }

    async fn has_marker(&self) -> Result<bool, StoreError> {
        let (objects, path) = (self.objects.clone(), path(MARKER)?);
        match self.call(READ_TIMEOUT, async move { objects.head(&path).await }).await? {
            Ok(_) => Ok(true),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Asks the store, for no longer than `within`.
    async fn call<T: Send + 'static>(
        &self,
        within: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(places) = self.disk_calls.clone() else { return self.in_time(within, call).await };
        let in_its_place = async move {
            let place = places.acquire_owned().await;
            // The call keeps its place until it comes back, even if nobody waits for it any more.
            tokio::spawn(async move {
                let _place = place;
                call.await
            })
            .await
        };
        self.in_time(within, in_its_place)
            .await?
            .map_err(|error| self.unavailable(&format!("a call did not come back: {error}")))
    }

    async fn in_time<T>(&self, within: Duration, call: impl Future<Output = T>) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(within, call).await;
        answer.map_err(|_| self.unavailable(&format!("no answer within {} s", within.as_secs())))
    }

    fn unavailable(&self, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::ObjectsUnavailable {
            told: "the object storage with the output is not available; try again later".to_owned(),
            cause: format!("{}: {why}", self.address),
        }
    }

    fn is_another(&self) -> StoreError {
        self.unavailable(&format!(
            "it has no {MARKER}, so it is not the store that output was moved to. Check GAFFER_OUTPUT_STORE, and that the bucket \
             exists or the disk is mounted"
        ))
    }

    fn kept<T>(&self, with: impl FnOnce(&mut KeptObjects) -> T) -> T {
        with(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The next item of a stream, and the rest of it.
async fn next_of<T>(mut stream: BoxStream<'static, T>) -> (Option<T>, BoxStream<'static, T>) {
    (stream.next().await, stream)
}

fn path(name: &str) -> Result<Path, StoreError> {
    Path::parse(name).map_err(|error| StoreError::Unreadable(format!("the name of an object: {error}")))
}

/// Reads output wherever it is stored.
#[derive(Debug, Clone)]
pub struct StoredOutput {
    reads: ReadStore,
    objects: Option<Arc<OutputStore>>,
}

impl StoredOutput {
    /// Reads from the database, and from this object storage if there is one.
    pub fn new(reads: ReadStore, objects: Option<Arc<OutputStore>>) -> StoredOutput {
        StoredOutput { reads, objects }
    }

    /// The object storage; none if the master has none.
    pub fn objects(&self) -> Option<&OutputStore> {
        self.objects.as_deref()
    }

    /// Consecutive stored chunks from the one that contains `offset` on, packed, at most `limit`. If `offset` is not stored, they
    /// begin with the next chunk that is. Empty at the end.
    ///
    /// # Errors
    /// When the database or the object storage does not answer, or a chunk or an object is damaged or missing.
    pub async fn read(
        &self,
        attempt: AttemptRef,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ChunkRow>, StoreError> {
        let mut rows = self.reads.output_read(attempt, offset, limit).await?;
        // What is missing between two chunks may be in an object.
        let gap = rows.windows(2).position(|pair| pair[0].end() != pair[1].chunk.offset);
        rows.truncate(gap.map_or(rows.len(), |last| last + 1));
        // The database is asked for chunks first, so what is moved between the two questions is found by the second one.
        let first = rows.first().map(|first| first.chunk.offset);
        if first.is_some_and(|first| first <= offset) {
            return Ok(rows);
        }
        match self.reads.output_object_at(attempt, offset).await? {
            Some(object) if first.is_none_or(|first| object.offset < first) => {
                let chunks = self.open(&object).await?;
                let from = chunks.partition_point(|chunk| chunk.end() <= offset);
                Ok(chunks.iter().skip(from).take(limit as usize).cloned().collect())
            }
            _ => Ok(rows),
        }
    }

    /// The stored chunk with the line end before a line (1 is the second line), as its offset and the line ends before it.
    /// The last one if the stored output does not reach that far; none if nothing is stored.
    ///
    /// # Errors
    /// When the database or the object storage does not answer, or an object is damaged or missing.
    pub async fn find_line(&self, attempt: AttemptRef, line: u64) -> Result<Option<(u64, u64)>, StoreError> {
        let found = self.reads.output_find_line(attempt, line).await?;
        let object = self.reads.output_object_of_line(attempt, line).await?;
        let object = match (found, object) {
            // From the chunk on, everything up to the line would be read.
            (Some((offset, _)), Some(object)) if object.offset > offset => object,
            (None, Some(object)) => object,
            _ => return Ok(found),
        };
        let chunks = self.open(&object).await?;
        let at = chunks.partition_point(|chunk| chunk.lines_before < line).saturating_sub(1);
        Ok(chunks.get(at).map(|chunk| (chunk.chunk.offset, chunk.lines_before)))
    }

    /// Whether the output from `offset` on can be read now: an answer that has begun can only break off.
    ///
    /// # Errors
    /// The error that reading would end with.
    pub async fn probe(&self, attempt: AttemptRef, offset: u64) -> Result<(), StoreError> {
        match self.reads.output_object_at(attempt, offset).await? {
            Some(object) => self.open(&object).await.map(drop),
            None => Ok(()),
        }
    }

    async fn open(&self, object: &ObjectRow) -> Result<Arc<Vec<ChunkRow>>, StoreError> {
        match &self.objects {
            Some(objects) => objects.open(object).await,
            None => Err(StoreError::ObjectsUnavailable {
                told: "the output is in object storage, and GAFFER_OUTPUT_STORE is not set on the master. Set it to the address that \
                       the output was moved to"
                    .to_owned(),
                cause: format!("output of {} is there, and GAFFER_OUTPUT_STORE is not set", object.attempt),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn a_call_of_a_disk_that_hangs_keeps_its_place_until_it_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let address = OutputStoreAddress::parse(&format!("file://{}", dir.path().display()), []).unwrap();
        let store = OutputStore::connect(&address).unwrap();
        let (hangs, _) = watch::channel(true);
        let soon = Duration::from_millis(1);
        for _ in 0..DISK_CALLS {
            let mut hangs = hangs.subscribe();
            let hanging = async move { drop(hangs.wait_for(|hangs| !hangs).await) };
            assert!(store.call(soon, hanging).await.is_err());
        }
        assert!(store.call(soon, async {}).await.is_err(), "no further thread for it");
        hangs.send_replace(false);
        store.put("after", Bytes::from_static(b"it came back")).await.unwrap();
    }
}
