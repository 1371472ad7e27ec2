//! What is in an object: a line that says so, then chunks as they were in the database, each with its place.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use gaffer_domain::AttemptRef;
use gaffer_protocol::output::{EncodedChunk, Encoding};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::store::output::ChunkRow;
use crate::store::output::objects::{NamedPart, ObjectRow};

/// The beginning of each object. A later format begins differently.
const MAGIC: &[u8] = b"gaffer output 1\n";
/// Offset, payload, lines before, lines, encoding, length of the body.
const HEADER_BYTES: usize = 8 + 4 + 8 + 4 + 1 + 4;
/// No object is larger.
pub const MOST_BYTES: u64 = 64 << 20;
/// Tasks whose objects have the same directory.
const TASKS_OF_DIRECTORY: i64 = 1_000;

/// An object that is to be put into the store.
#[derive(Debug, Clone)]
pub struct NewObject {
    pub row: ObjectRow,
    /// How many chunks it has.
    pub chunks: usize,
    pub bytes: Bytes,
}

impl NewObject {
    /// Of consecutive chunks of an attempt; none if there are no chunks. Its name is unique.
    pub fn of(directory: Uuid, chunks: &[ChunkRow]) -> Option<NewObject> {
        let (first, last) = (chunks.first()?, chunks.last()?);
        let mut bytes = BytesMut::from(MAGIC);
        for chunk in chunks {
            bytes.put_u64(chunk.chunk.offset);
            bytes.put_u32(chunk.payload_bytes);
            bytes.put_u64(chunk.lines_before);
            bytes.put_u32(chunk.lines);
            bytes.put_u8(chunk.chunk.encoding as u8);
            bytes.put_u32(chunk.chunk.body.len() as u32);
            bytes.put_slice(&chunk.chunk.body);
        }
        let bytes = bytes.freeze();
        let (attempt, offset) = (first.chunk.attempt, first.chunk.offset);
        let AttemptRef { task, attempt: number } = attempt;
        let name = format!(
            "{directory}/{}/{}-{number}-{offset}-{}",
            task.0.div_euclid(TASKS_OF_DIRECTORY),
            task.0,
            Uuid::new_v4().simple()
        );
        let row = ObjectRow {
            attempt,
            offset,
            payload_bytes: last.end() - offset,
            lines_before: first.lines_before,
            lines: last.lines_before + u64::from(last.lines) - first.lines_before,
            name,
            object_bytes: bytes.len() as u64,
            sha256: Sha256::digest(&bytes).into(),
        };
        Some(NewObject { row, chunks: chunks.len(), bytes })
    }
}

/// Of which part of which output an object is, by its name; none if the name is not one of ours.
pub fn named_part(name: &str) -> Option<NamedPart> {
    let mut parts = name.rsplit('/').next()?.split('-');
    let (task, attempt) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let offset = parts.next()?.parse().ok()?;
    Uuid::try_parse(parts.next()?).ok()?;
    parts.next().is_none().then(|| NamedPart::new(task, attempt, offset, name.to_owned()))
}

/// The chunks of an object, each in separate memory; none if it is not the one that was put there.
pub fn chunks(row: &ObjectRow, object: &Bytes) -> Option<Vec<ChunkRow>> {
    if object.len() as u64 != row.object_bytes || <[u8; 32]>::from(Sha256::digest(object)) != row.sha256 {
        return None;
    }
    if !object.starts_with(MAGIC) {
        return None;
    }
    let mut rest = object.slice(MAGIC.len()..);
    let mut chunks = Vec::new();
    while rest.len() >= HEADER_BYTES {
        let (offset, payload_bytes) = (rest.get_u64(), rest.get_u32());
        let (lines_before, lines) = (rest.get_u64(), rest.get_u32());
        let encoding = Encoding::try_from(rest.get_u8()).ok()?;
        let length = rest.get_u32() as usize;
        if length > rest.len() {
            return None;
        }
        // A reader that has one of them must not keep the memory of all.
        let body = Bytes::copy_from_slice(&rest[..length]);
        rest.advance(length);
        let chunk = EncodedChunk { attempt: row.attempt, offset, encoding, body };
        chunks.push(ChunkRow { chunk, payload_bytes, lines_before, lines });
    }
    rest.is_empty().then_some(chunks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use gaffer_domain::TaskId;
    use gaffer_protocol::output::{ChunkBuilder, Stream};

    use super::*;

    fn attempt() -> AttemptRef {
        AttemptRef { task: TaskId(4_294_967_297), attempt: 3 }
    }

    fn chunk(offset: u64, lines_before: u64, text: &str) -> ChunkRow {
        let mut builder = ChunkBuilder::new();
        builder.push(7, Stream::Stderr, text.as_bytes());
        ChunkRow {
            payload_bytes: text.len() as u32,
            lines_before,
            lines: text.matches('\n').count() as u32,
            chunk: builder.finish(attempt(), offset),
        }
    }

    #[test]
    fn what_was_put_into_an_object_comes_out_of_it() {
        let written = [chunk(10, 2, "one\ntwo\n"), chunk(18, 4, &"long line ".repeat(1_000))];
        let object = NewObject::of(Uuid::new_v4(), &written).unwrap();
        let row = &object.row;
        assert_eq!((row.offset, row.end(), row.lines_before, row.lines), (10, 10_018, 2, 2));
        let read = chunks(row, &object.bytes).unwrap();
        assert_eq!(read.len(), 2);
        for (read, written) in read.iter().zip(&written) {
            assert_eq!(read.chunk, written.chunk);
            assert_eq!((read.payload_bytes, read.lines), (written.payload_bytes, written.lines));
            assert_eq!(read.lines_before, written.lines_before);
        }
        assert!(NewObject::of(Uuid::new_v4(), &[]).is_none());
    }

    #[test]
    fn an_object_that_differs_in_any_byte_is_damaged() {
        let object = NewObject::of(Uuid::new_v4(), &[chunk(0, 0, "one\n")]).unwrap();
        for at in 0..object.bytes.len() {
            let mut bytes = object.bytes.to_vec();
            bytes[at] ^= 1;
            assert!(chunks(&object.row, &bytes.into()).is_none(), "byte {at}");
        }
        assert!(chunks(&object.row, &object.bytes.slice(1..)).is_none());
        assert!(chunks(&object.row, &Bytes::new()).is_none());
    }

    #[test]
    fn a_name_says_what_an_object_is_of_and_is_never_repeated() {
        let directory = Uuid::new_v4();
        let chunks = [chunk(10, 0, "one\n")];
        let objects = [(); 2].map(|()| NewObject::of(directory, &chunks).unwrap());
        assert_ne!(objects[0].row.name, objects[1].row.name);
        for object in objects {
            let part = named_part(&object.row.name).unwrap();
            assert_eq!((part.attempt, part.offset, part.name), (attempt(), 10, object.row.name));
        }
        for name in ["", "gaffer-output.txt", "a/1-2-3", "a/1-2-3-x", "a/notes", "a/1-2-3-x-y"] {
            assert_eq!(named_part(name), None, "{name}");
        }
    }
}
