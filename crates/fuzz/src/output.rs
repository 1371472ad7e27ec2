//! Binary frames with output: both readers agree, and nothing is lost when a chunk is cut or packed again.

use bytes::Bytes;
use gaffer_domain::{AttemptRef, TaskId};
use gaffer_protocol::output::{ChunkBuilder, EncodedChunk, Record, Stream, Unpacker};

/// Reads a frame, packs what is in it again, and drops a part of it.
pub fn check(input: &[u8]) {
    let Ok(encoded) = EncodedChunk::from_frame(Bytes::copy_from_slice(input)) else { return };
    assert_eq!(encoded.to_frame(), input);
    let (read, slices) = (encoded.decode(), unpacked(&encoded));
    let Ok(chunk) = read else { return };
    assert_eq!(slices.as_ref(), Some(&chunk.records), "the two readers differ");
    let again = chunk.encode().decode().expect("what was packed can be unpacked");
    assert_eq!(again.offset, chunk.offset);
    assert_eq!(text(&again.records), text(&chunk.records));
    let middle = chunk.offset + chunk.payload_bytes as u64 / 2;
    let whole = text(&chunk.records);
    let rest = chunk.clone().from_offset(middle).expect("a chunk is never empty");
    let end = chunk.end();
    assert_eq!(rest.end(), end);
    assert_eq!(text(&rest.records), whole[whole.len() - rest.payload_bytes..]);
    assert_eq!(chunk.from_offset(end), None);
}

fn unpacked(chunk: &EncodedChunk) -> Option<Vec<Record>> {
    let mut unpacker = Unpacker::default();
    unpacker.open(chunk).ok()?;
    let mut records = Vec::new();
    while let Some(slice) = unpacker.next_record().ok()? {
        let bytes = Bytes::copy_from_slice(slice.bytes);
        records.push(Record { at_micros: slice.at_micros, stream: slice.stream, bytes });
    }
    Some(records)
}

/// Every byte with its stream.
fn text(records: &[Record]) -> Vec<(Stream, u8)> {
    records.iter().flat_map(|record| record.bytes.iter().map(|byte| (record.stream, *byte))).collect()
}

/// A small chunk, which is kept plain, and one that is compressed.
pub fn seeds() -> Vec<Vec<u8>> {
    let attempt = AttemptRef { task: TaskId(7), attempt: 2 };
    let of = |lines: usize| {
        let mut builder = ChunkBuilder::new();
        for line in 0..lines {
            builder.push(line as u64, Stream::Stdout, b"a line of output\n");
            builder.push(line as u64 + 1, Stream::Stderr, b"and a warning\n");
        }
        builder.finish(attempt, 1_000).to_frame().to_vec()
    };
    vec![of(1), of(3), of(200)]
}
