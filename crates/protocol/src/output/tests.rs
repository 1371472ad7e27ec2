#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(7), attempt: 2 };

fn random_chunk(rng: &mut StdRng, offset: u64) -> (EncodedChunk, Vec<u8>) {
    let mut builder = ChunkBuilder::new();
    let mut all = Vec::new();
    for at in 0..rng.random_range(1..40_u64) {
        let bytes: Vec<u8> = (0..rng.random_range(1..2_000)).map(|_| rng.random_range(b'a'..b'f')).collect();
        let stream = if rng.random() { Stream::Stdout } else { Stream::Stderr };
        assert_eq!(builder.push(1_000_000 + at, stream, &bytes), bytes.len());
        all.extend(bytes);
    }
    (builder.finish(ATTEMPT, offset), all)
}

fn payload(chunk: &Chunk) -> Vec<u8> {
    chunk.records.iter().flat_map(|record| record.bytes.to_vec()).collect()
}

#[test]
fn a_chunk_comes_out_of_a_frame_as_it_went_in() {
    let mut rng = StdRng::seed_from_u64(1);
    for offset in 0..200 {
        let (chunk, bytes) = random_chunk(&mut rng, offset);
        let read = EncodedChunk::from_frame(chunk.to_frame()).unwrap();
        assert_eq!(read, chunk);
        let decoded = read.decode().unwrap();
        assert_eq!(payload(&decoded), bytes);
        assert_eq!(decoded.end(), offset + bytes.len() as u64);
        assert_eq!(decoded.encode().decode().unwrap(), decoded);
    }
}

#[test]
fn one_unpacker_reads_all_chunks_as_they_are_decoded() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut unpacker = Unpacker::default();
    for offset in 0..50 {
        let (chunk, _) = random_chunk(&mut rng, offset);
        let records = read_all(&mut unpacker, &chunk).unwrap();
        assert_eq!(records, chunk.decode().unwrap().records);
    }
    let bomb = zstd::bulk::compress(&vec![0; MAX_BODY_BYTES + 1], 1).unwrap();
    let bomb = EncodedChunk { attempt: ATTEMPT, offset: 0, encoding: Encoding::Zstd, body: bomb.into() };
    assert!(unpacker.open(&bomb).is_err());
    let cut = EncodedChunk {
        attempt: ATTEMPT,
        offset: 0,
        encoding: Encoding::Plain,
        body: Bytes::from_static(b"\x01\x06ab"),
    };
    unpacker.open(&cut).unwrap();
    assert!(unpacker.next_record().is_err());
    assert_eq!(unpacker.next_record(), Ok(None), "nothing behind it");
}

/// All records of a chunk.
fn read_all(unpacker: &mut Unpacker, chunk: &EncodedChunk) -> Result<Vec<Record>, Malformed> {
    unpacker.open(chunk)?;
    let mut records = Vec::new();
    while let Some(RecordSlice { at_micros, stream, bytes }) = unpacker.next_record()? {
        records.push(Record { at_micros, stream, bytes: Bytes::copy_from_slice(bytes) });
    }
    Ok(records)
}

#[test]
fn a_chunk_takes_no_more_than_its_limit_even_byte_by_byte() {
    let mut builder = ChunkBuilder::new();
    let mut taken = 0;
    while builder.room() > 0 {
        taken += builder.push(u64::from(taken as u32) * 1_000_000, Stream::Stderr, b"x");
    }
    assert!(taken > 100_000, "only {taken}");
    let chunk = builder.finish(ATTEMPT, 0).decode().unwrap();
    assert_eq!(chunk.payload_bytes, taken);
    assert!(builder.is_empty());

    let large = vec![b'y'; 2 * MAX_CHUNK_PAYLOAD];
    assert_eq!(builder.push(1, Stream::Stdout, &large), MAX_CHUNK_PAYLOAD);
    assert_eq!(builder.push(1, Stream::Stdout, &large), 0);
}

#[test]
fn what_is_stored_already_can_be_cut_off_at_any_byte() {
    let mut rng = StdRng::seed_from_u64(2);
    let (chunk, bytes) = random_chunk(&mut rng, 100);
    let chunk = chunk.decode().unwrap();
    for cut in 0..bytes.len() {
        let rest = chunk.clone().from_offset(100 + cut as u64).unwrap();
        assert_eq!(rest.offset, 100 + cut as u64);
        assert_eq!(rest.payload_bytes, bytes.len() - cut);
        assert_eq!(payload(&rest), bytes[cut..]);
    }
    assert_eq!(chunk.clone().from_offset(100 + bytes.len() as u64), None);
    assert_eq!(chunk.clone().from_offset(3).unwrap(), chunk);
}

#[test]
fn damaged_frames_are_refused_or_read_but_never_more() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..3_000 {
        let (chunk, _) = random_chunk(&mut rng, 0);
        let mut frame = chunk.to_frame().to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..frame.len());
            frame[at] = rng.random();
        }
        frame.truncate(rng.random_range(0..=frame.len()));
        if let Ok(chunk) = EncodedChunk::from_frame(frame.into())
            && let Ok(chunk) = chunk.decode()
        {
            assert_eq!(payload(&chunk).len(), chunk.payload_bytes);
            assert!(chunk.payload_bytes <= MAX_CHUNK_PAYLOAD);
        }
    }
}

#[test]
fn a_decompression_bomb_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let chunk = EncodedChunk { attempt: ATTEMPT, offset: 0, encoding: Encoding::Zstd, body: bomb.into() };
    assert_eq!(chunk.decode(), Err(Malformed("the body can't be decompressed")));
}
